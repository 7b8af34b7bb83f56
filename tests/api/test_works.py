"""`db.jobs()` tells of indexes, compactions and imports that run, or ended of late."""

import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.api.heavy import Stopped
from gpuvec.api.works import KEPT_S, Works
from gpuvec.clock import ManualClock

DIM = 8
SLOW = gv.index.HNSW(m=64, ef_construction=1000)


def rows(start, stop):
    made = np.random.default_rng(start)
    return {"id": np.arange(start, stop), "v": made.random((stop - start, DIM), np.float32)}


@pytest.fixture
def items(db):
    items = db.create_collection("items", data=rows(0, 500), primary_key="id")
    items.flush()
    return items


def of_kind(db, kind):
    return [job for job in db.jobs() if job.kind == kind]


def running(db, kind):
    """Return the work of a kind that runs, once it does."""
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s:
        found = [job for job in of_kind(db, kind) if job.status == "running"]
        if found:
            return found[0]
        time.sleep(0.01)
    raise AssertionError(f"no {kind} runs")


def test_what_ended_is_told_of_with_kind_collection_and_state(db, items, tmp_path):
    wish = items.create_index("v", gv.index.HNSW(m=8, ef_construction=20), wait=False)
    wish.wait()
    items.insert(rows(500, 900))
    items.flush()
    items.compact()
    pq.write_table(
        pa.table({"id": np.arange(900, 950), "v": list(rows(900, 950)["v"])}),
        tmp_path / "a.parquet",
    )
    items.bulk_import(tmp_path / "a.parquet")
    for kind in ("index", "compaction", "import"):
        job = of_kind(db, kind)[0]
        assert job.wait(timeout=60) is None
        assert (job.collection, job.status, job.progress, job.eta) == ("items", "done", 1.0, 0.0)
        assert db.job(job.id).kind == kind
    assert of_kind(db, "index")[0].id == wish.id


def test_an_index_under_way_tells_how_far_it_is_and_can_be_cancelled(db, items):
    items.insert(rows(500, 12_000))
    wish = items.create_index("v", SLOW, wait=False)
    job = running(db, "index")
    assert job.id == wish.id
    assert 0 <= job.progress < 1
    job.cancel()
    with pytest.raises(gv.JobError, match="GV-622"):
        job.wait(timeout=60)
    assert (job.status, wish.status) == ("cancelled", "cancelled")
    assert items.indexes().count() == 0


def test_an_index_that_was_wished_for_before_is_not_cancelled_but_dropped(tmp_path):
    with gv.connect(tmp_path / "shop") as db:
        items = db.create_collection("items", data=rows(0, 500), primary_key="id")
        items.create_index("v", gv.index.HNSW(m=64, ef_construction=800))
    with gv.connect(tmp_path / "shop") as db:
        items = db["items"]
        items.insert(rows(500, 12_000))
        items.flush()
        job = running(db, "index")
        with pytest.raises(gv.UnsupportedError, match=r"(?s)GV-626.*drop_index"):
            job.cancel()
        items.drop_index("v")
        with pytest.raises(gv.JobError, match="GV-622"):
            job.wait(timeout=60)


def cancelled(db, items):
    """Cancel what `compact()` does; return what it raised; "" where nothing was left to do."""
    told = []

    def compact():
        try:
            items.compact()
        except gv.JobError as error:
            told.append(error.code)

    caller = threading.Thread(target=compact)
    caller.start()
    while caller.is_alive() and not told:
        for job in of_kind(db, "compaction"):
            if job.status == "running":
                job.cancel()
        time.sleep(0.01)
    caller.join(60)
    return told[0] if told else ""


@pytest.mark.embedded  # a cluster tells of it a report later, when it may have ended
def test_a_cancelled_compaction_changes_nothing(db, items):
    items.create_index("v", SLOW)
    for start in range(500, 30_500, 6_000):
        items.insert(rows(start, start + 6_000))
        items.flush()
        segments, count = items.stats()["segments"], items.count()
        code = cancelled(db, items)
        if code:  # else the background was faster
            break
    assert code == "GV-622"
    assert items.stats()["segments"] == segments
    assert items.count() == count
    assert of_kind(db, "compaction")[0].status == "cancelled"


# The list itself


def test_ended_work_is_told_of_for_a_while_and_running_work_as_long_as_it_runs():
    clock = ManualClock()
    works = Works(clock)
    with works.doing("compaction", "c", "a", job_id="ended"):
        pass
    works.begin("import", "c", "b", job_id="runs")
    clock.advance(KEPT_S - 1)
    assert [line.job_id for line in works.lines()] == ["ended", "runs"]
    clock.advance(2)
    assert [line.job_id for line in works.lines()] == ["runs"]


def test_only_the_last_hundred_that_ended_are_told_of():
    works = Works(ManualClock())
    works.begin("import", "c", "b", job_id="runs")
    for number in range(150):
        with works.doing("compaction", "c", "a", job_id=str(number)):
            pass
    ids = [line.job_id for line in works.lines()]
    assert ids == ["runs", *map(str, range(50, 150))]


def test_the_time_left_follows_from_the_share():
    clock = ManualClock()
    works = Works(clock)
    entry = works.begin("import", "c", "b", job_id="runs")
    assert works.lines()[0].eta_s is None
    clock.advance(10)
    entry.tell(0.25)
    assert works.lines()[0].eta_s == pytest.approx(30)


@pytest.mark.parametrize(
    ("error", "status", "problem"),
    [
        (Stopped(), "cancelled", ""),
        (errors.job_cancelled("it"), "cancelled", ""),
        (ValueError("disk\nmore"), "failed", "disk"),
    ],
)
def test_how_a_work_ended_follows_from_what_it_raised(error, status, problem):
    works = Works(ManualClock())
    with (
        pytest.raises(type(error)),
        works.doing("compaction", "c", "a", job_id="one"),
    ):
        raise error
    assert [(line.status, line.problem) for line in works.lines()] == [(status, problem)]
