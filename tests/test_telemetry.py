"""Meters, their Prometheus form, events and spans."""

import subprocess
import sys
import threading

import pytest
from prometheus_client import REGISTRY, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gpuvec import telemetry
from gpuvec.clock import ManualClock
from gpuvec.events import Events, event_of
from gpuvec.exposition import families, reading_of, register_meters
from gpuvec.meters import Counter, Gauge, Histogram, Meters


@pytest.fixture
def meters() -> Meters:
    return Meters()


def scraped(name: str) -> dict[tuple[tuple[str, str], ...], float]:
    """Return the samples of a name as a Prometheus server would read them."""
    found = {}
    for family in text_string_to_metric_families(generate_latest(REGISTRY).decode()):
        for sample in family.samples:
            if sample.name == name:
                found[tuple(sorted(sample.labels.items()))] = sample.value
    return found


# Meters


def test_counts_of_many_threads_add_up(meters):
    counter = Counter(meters, "test_total", "A count", ("kind",))
    threads = [
        threading.Thread(target=lambda: [counter.add(1, "a") for _ in range(2000)])
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counter.value("a") == 16_000


def test_a_count_without_labels_is_shown_before_anything_happened(meters):
    Counter(meters, "test_total", "A count", ())
    assert [(r.name, r.value) for r in meters.read()] == [("test_total", 0)]


def test_a_value_on_a_bound_belongs_to_the_bucket_below(meters):
    histogram = Histogram(meters, "test_seconds", "A time", (), bounds=(1.0, 2.0))
    for value in (0.5, 1.0, 1.5, 2.0, 9.0):
        histogram.observe(value)
    [reading] = meters.read()
    assert reading.counts == (2, 2, 1)
    assert reading.value == 14.0


def test_gauges_of_what_is_gone_are_gone(meters):
    class Owner:
        held = 5

    gauge = Gauge(meters, "test_bytes", "Bytes", ("tier",))
    first, second = Owner(), Owner()
    for owner in (first, second):
        meters.watch(owner, lambda owner: [gauge.at(owner.held, "host")])
    assert [r.value for r in meters.read()] == [10]
    del first, owner
    assert [r.value for r in meters.read()] == [5]


def test_two_meters_of_one_name_are_a_bug(meters):
    Counter(meters, "test_total", "A count", ())
    with pytest.raises(AssertionError, match="test_total"):
        Counter(meters, "test_total", "Another", ())


def test_all_names_follow_the_rules_of_prometheus():
    for meter in telemetry.METERS:
        assert meter.name.startswith("gpuvec_")
        assert meter.name.endswith("_total") == (meter.kind == "counter")
        assert meter.meaning
        assert not meter.meaning.endswith(".")


# Prometheus


def test_what_was_counted_is_what_a_scrape_reads(meters):
    counter = Counter(meters, "test_scraped_total", "A count", ("kind",))
    histogram = Histogram(meters, "test_scraped_seconds", "A time", (), bounds=(0.1, 1.0))
    counter.add(3, 'a "quoted"\nname')
    for value in (0.05, 0.5, 5.0):
        histogram.observe(value)
    stop = register_meters(meters)
    try:
        assert scraped("test_scraped_total") == {(("kind", 'a "quoted"\nname'),): 3.0}
        buckets = scraped("test_scraped_seconds_bucket")
        assert {dict(labels)["le"]: value for labels, value in buckets.items()} == {
            "0.1": 1.0, "1.0": 2.0, "+Inf": 3.0,
        }  # fmt: skip
        assert scraped("test_scraped_seconds_count") == {(): 3.0}
        assert scraped("test_scraped_seconds_sum") == {(): 5.55}
    finally:
        stop()
    assert scraped("test_scraped_total") == {}


def test_registering_twice_shows_everything_once_until_both_have_left(meters):
    Counter(meters, "test_twice_total", "A count", ()).add(2)
    stops = [register_meters(meters), register_meters(meters)]
    assert scraped("test_twice_total") == {(): 2.0}
    stops[0]()
    stops[0]()  # again: nothing happens
    assert scraped("test_twice_total") == {(): 2.0}
    stops[1]()
    assert scraped("test_twice_total") == {}


def test_readings_travel_as_plain_lists():
    telemetry.SEARCH_SECONDS.observe(0.02)
    sent = telemetry.snapshot()
    found = {reading.name: reading for reading in map(reading_of, sent)}
    assert sum(found["gpuvec_search_seconds"].counts) == telemetry.SEARCH_SECONDS.count()


def test_readings_of_a_later_gpuvec_are_left_out(meters):
    assert list(families(meters, [({}, reading_of(["gpuvec_new_total", [], 1, []]))])) == []


def test_the_public_registration_shows_gpuvecs_own_metrics():
    before = telemetry.QUERY_VECTORS.value()
    telemetry.QUERY_VECTORS.add(2)
    stop = telemetry.register()
    try:
        assert scraped("gpuvec_query_vectors_total") == {(): before + 2}
    finally:
        stop()


def test_importing_gpuvec_imports_neither_prometheus_nor_opentelemetry():
    code = (
        "import sys, gpuvec, gpuvec.telemetry; gpuvec.frame; "
        "print([n for n in ('prometheus_client', 'opentelemetry') if n in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


# Events


def test_the_newest_events_are_kept():
    events = Events(ManualClock(), kept=3)
    for number in range(5):
        events.note("flush", database="a", number=number)
    assert [event.details["number"] for event in events.newest()] == [2, 3, 4]
    assert [event.details["number"] for event in events.newest(1)] == [4]
    assert events.newest(0) == []


def test_events_of_one_database_come_with_those_of_none():
    events = Events(ManualClock())
    events.note("flush", database="a")
    events.note("flush", database="b")
    events.note("node_joined", node="w1")
    assert [event.kind for event in events.newest(database="a")] == ["flush", "node_joined"]


def test_an_event_is_the_same_after_it_travelled():
    events = Events(ManualClock(1_700_000_000_123))
    events.note("flush", database="a", node="w1", rows=7, seconds=0.123456)
    [event] = events.newest()
    assert event_of(event.to_dict()) == event
    assert repr(event) == "<22:13:20.123 flush on w1 rows=7 seconds=0.123>"


def test_listeners_hear_of_events_until_they_stop():
    events, heard = Events(ManualClock()), []
    stop = events.listen(heard.append)
    events.note("flush")
    stop()
    events.note("build")
    assert [event.kind for event in heard] == ["flush"]
