"""What an embedded database counts of its work, and what it tells of itself."""

import subprocess
import sys

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import telemetry

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")


def rows(count, first=0):
    return {
        "id": np.arange(first, first + count),
        "v": np.random.default_rng(1).normal(size=(count, 4)).astype("float32"),
    }


@pytest.fixture
def db(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        yield db


@pytest.fixture
def items(db):
    items = db.create_collection("counted", SCHEMA)
    items.insert(rows(300))
    return items


def gauges(name):
    return {r.labels: r.value for r in telemetry.METERS.read() if r.name == name}


@pytest.mark.one_process
def test_each_write_is_counted_once_durable(items):
    before = telemetry.WRITES.value("ok"), telemetry.WAL_APPENDS.value()
    size = telemetry.WAL_BYTES.value()
    items.insert(rows(10, 1000))
    items.delete(filter="id < 5")
    assert telemetry.WRITES.value("ok") == before[0] + 2
    assert telemetry.WAL_APPENDS.value() == before[1] + 2
    assert telemetry.WAL_BYTES.value() - size > 10 * 4 * 4


@pytest.mark.one_process
def test_a_write_that_is_refused_is_an_error(items):
    before = telemetry.WRITES.value("ok"), telemetry.WRITES.value("error")
    with pytest.raises(gv.SchemaError, match="GV-157"):
        items.insert(rows(1))
    assert (telemetry.WRITES.value("ok"), telemetry.WRITES.value("error")) == (
        before[0],
        before[1] + 1,
    )


def test_searches_reads_and_counts_are_told_apart(items):
    names = ("search", "read", "count")
    before = [telemetry.QUERIES.value(name, "ok") for name in names]
    vectors, timed = telemetry.QUERY_VECTORS.value(), telemetry.SEARCH_SECONDS.count()
    items.search(np.ones((7, 4), "float32"), k=3).collect()
    items.filter("id < 10").collect()
    list(items.filter("id < 10").to_batches())
    items.filter("id < 10").count()
    after = [telemetry.QUERIES.value(name, "ok") for name in names]
    assert [new - old for new, old in zip(after, before, strict=True)] == [1, 2, 1]
    assert telemetry.QUERY_VECTORS.value() == vectors + 7
    assert telemetry.SEARCH_SECONDS.count() == timed + 1
    assert gauges("gpuvec_recall_estimate")[("counted",)] == 1.0


def test_a_frame_that_fails_is_an_error(items, db):
    before = telemetry.QUERIES.value("read", "error")
    frame = items.filter("id < 10")
    db.drop_collection("counted")
    with pytest.raises(gv.NotFoundError, match="GV-608"):
        frame.collect()
    assert telemetry.QUERIES.value("read", "error") == before + 1


@pytest.mark.one_process
def test_gauges_follow_rows_from_the_log_into_files(items):
    assert gauges("gpuvec_growing_bytes")[("counted",)] > 0
    assert gauges("gpuvec_segments")[("counted",)] == 0
    flushed = telemetry.FLUSH_SECONDS.count(), telemetry.FLUSH_BYTES.value()
    items.flush()
    assert gauges("gpuvec_growing_bytes")[("counted",)] == 0
    assert gauges("gpuvec_channel_lag_seconds")[("counted",)] == 0
    assert gauges("gpuvec_segments")[("counted",)] == 1
    size = gauges("gpuvec_segment_bytes")[("counted",)]
    assert telemetry.FLUSH_SECONDS.count() == flushed[0] + 1
    assert telemetry.FLUSH_BYTES.value() == flushed[1] + size


def test_a_closed_database_shows_no_gauges(items, db):
    assert ("counted",) in gauges("gpuvec_segments")
    db.close()
    assert ("counted",) not in gauges("gpuvec_segments")


@pytest.mark.one_process
def test_compactions_count_what_they_read_and_wrote(items):
    for first in (1000, 2000):
        items.flush()
        items.insert(rows(300, first))
    before = telemetry.COMPACTION_BYTES.value("read"), telemetry.COMPACTION_BYTES.value("written")
    report = items.compact()
    assert telemetry.COMPACTION_BYTES.value("read") == before[0] + report.bytes_read
    assert telemetry.COMPACTION_BYTES.value("written") == before[1] + report.bytes_written


@pytest.mark.one_process
def test_builds_are_timed(items):
    items.insert(rows(2000, 1000))
    before = telemetry.BUILD_SECONDS.count()
    items.create_index("v", gv.index.IVFFlat())
    assert telemetry.BUILD_SECONDS.count() == before + 1


def test_events_tell_what_happened_under_present_names(items, db):
    items.flush()
    db.rename("counted", "goods")
    [event] = [event for event in db.events() if event.kind == "flush"]
    assert event.details["collection"] == "goods"
    assert event.details["rows"] == 300
    assert event.details["bytes"] > 300 * 16


def test_events_of_other_databases_are_not_told(items, db, tmp_path):
    items.flush()
    with gv.connect(tmp_path / "other") as other:
        assert other.events() == []


def test_the_newest_events_come_last_and_limit_counts_them(items, db):
    items.flush()
    items.insert(rows(10, 1000))
    items.flush()
    told = db.events()
    assert [event.time_ms for event in told] == sorted(event.time_ms for event in told)
    assert len(db.events(1)) == 1
    assert [event.details["rows"] for event in db.events() if event.kind == "flush"] == [300, 10]
    assert db.events(0) == []


@pytest.mark.parametrize("limit", [-1, 1.5, True, "all"])
def test_a_limit_is_a_number_of_events(db, limit):
    with pytest.raises(gv.QueryError, match="GV-354"):
        db.events(limit)


def test_an_exporter_of_the_default_registry_shows_them(tmp_path):
    code = f"""
import prometheus_client, urllib.request, gpuvec as gv
from gpuvec import telemetry
telemetry.register()
server, thread = prometheus_client.start_http_server(0, "127.0.0.1")
with gv.connect({str(tmp_path / "db")!r}) as db:
    db.create_collection("items", data=[{{"id": 1}}], primary_key="id")
    page = urllib.request.urlopen(f"http://127.0.0.1:{{server.server_port}}/metrics").read()
print(page.decode())
server.shutdown()
"""
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 'gpuvec_writes_total{outcome="ok"} 1.0' in found.stdout
    assert 'gpuvec_segments{collection="items"} 0.0' in found.stdout
