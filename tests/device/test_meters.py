"""What is told of a card: bytes by part, on /metrics and on the page of device memory."""

from types import SimpleNamespace

import numpy as np
import pytest

from gpuvec import telemetry
from gpuvec.cluster.memory_view import memory_bars, memory_lines
from gpuvec.cluster.metrics import KEY
from gpuvec.device.arrays import to_device
from gpuvec.device.residency import device_store, residency_of
from gpuvec.settings import config
from gpuvec.testing.rehearsal import rehearsal, why_not

MIB = 1 << 20


def told():
    readings = [r for r in telemetry.METERS.read() if r.name == "gpuvec_device_bytes"]
    return {reading.labels[1]: reading.value for reading in readings}


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_bytes_are_told_by_part_and_the_rest_of_the_card_as_others():
    with rehearsal(card_bytes=64 * MIB) as card, config.set():
        config.set(device__memory_limit=16 * MIB)
        store = device_store()
        with store.use(("s", 0, "v"), 4 * MIB, lambda: to_device(np.zeros(4 * MIB, np.uint8))):
            before = told()["other"]
            card.others = 10 * MIB
            with store.budget.scratch(MIB, MIB, what="x"):
                now = told()
        assert now == {
            "vectors": 4 * MIB, "frames": 0, "bits": 0, "indexes": 0, "scratch": MIB,
            "other": pytest.approx(before + 9 * MIB, abs=1024),
        }  # fmt: skip
        store.close()
        assert told()["vectors"] == 0


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_a_card_is_told_once_though_somebody_holds_what_was_known_of_one_before():
    with rehearsal():
        before = residency_of(0)
    with rehearsal() as card:
        device_store()
        card.others = 10 * MIB
        assert told()["other"] == pytest.approx(10 * MIB, abs=1024)
    assert before.budget.parts()["vectors"] == 0


@pytest.mark.skipif(bool(why_not()), reason=why_not())
def test_time_of_work_on_the_device_is_counted_once_by_kind():
    before = telemetry.DEVICE_SECONDS.value("load")
    with rehearsal():
        store = device_store()
        store.run(lambda: store.run(lambda: None, kind="search"), kind="load")
    assert telemetry.DEVICE_SECONDS.value("load") > before


def test_the_page_of_device_memory_shows_parts_of_each_card_first():
    readings = [
        ["gpuvec_device_bytes", ["0", "vectors"], 5 * MIB, []],
        ["gpuvec_device_bytes", ["0", "bits"], MIB, []],
        ["gpuvec_memory_bytes", ["host"], 7 * MIB, []],
    ]
    worker = SimpleNamespace(
        name="w", metrics={KEY: {"readings": readings}, "memory": 9, "gpu": {"memory-used": 8}},
        extra={"gpu": {"name": "H100", "memory-total": 80}}, memory_limit=10,
    )  # fmt: skip
    scheduler = SimpleNamespace(workers={"tcp://w": worker})
    assert [(line["tier"], line["bytes"], line["of"]) for line in memory_lines(scheduler)] == [
        ("device: H100", 8, 80),
        ("device: rows that pass", MIB, 0),
        ("device: vectors", 5 * MIB, 0),
        ("host: derived of segments", 7 * MIB, 0),
        ("process", 9, 10),
    ]
    assert len(memory_bars(scheduler)) == 5
