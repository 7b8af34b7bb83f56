"""Builds on a disk that is full or slow, beside reads and writes, and at the end of a process."""

import errno
import os
import threading

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.api.database import Database
from gpuvec.api.engine import Engine
from gpuvec.clock import ManualClock
from gpuvec.errors import as_build_error
from gpuvec.meta.catalog import IndexDefinition
from gpuvec.meta.changes import SetIndex
from gpuvec.node.build import build_index
from gpuvec.query.session import new_session
from gpuvec.storage.local import LocalStore

SORTED = gv.index.Sorted()
ROWS = 500


class IndexDisk:
    """`os`, but folders of indexes may be full, or keep whoever writes there waiting."""

    def __init__(self):
        self.full = False
        self.go = threading.Event()
        self.waiting = threading.Event()
        self.go.set()
        self._inside = set()

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, flags, mode=0o777):
        fd = os.open(path, flags, mode)
        if "/idx/" in path and flags & os.O_CREAT:
            self._inside.add(fd)
        return fd

    def write(self, fd, data):
        if fd in self._inside:
            self.waiting.set()
            self.go.wait(60)
            if self.full:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return os.write(fd, data)

    def close(self, fd):
        self._inside.discard(fd)
        os.close(fd)


@pytest.fixture
def disk():
    return IndexDisk()


@pytest.fixture
def clock():
    return ManualClock(1_700_000_000_000)


@pytest.fixture
def engine(tmp_path, disk, clock):
    engine = Engine(
        LocalStore(tmp_path, system=disk), str(tmp_path), durability="fsync", clock=clock,
        flush_bytes=1 << 30, age_s=1e9,
    )  # fmt: skip
    yield engine
    disk.go.set()
    engine.close()


@pytest.fixture
def items(engine):
    db = Database("of a test", engine, new_session())
    items = db.create_collection("items", data=rows(), primary_key="id")
    items.flush()
    return items


def rows(start=0, count=ROWS):
    ids = np.arange(start, start + count)
    return {"id": ids, "n": ids % 10, "v": np.ones((count, 4), np.float32)}


def index_files(tmp_path):
    return [path for path in tmp_path.rglob("idx/**/*") if path.is_file()]


def wait_for_failure(items):
    while not items.indexes().to_arrow()["failure"][0].as_py():
        items._engine.builds.wait(1)


def test_a_full_disk_is_an_error_and_leaves_nothing(tmp_path, disk, items):
    disk.full = True
    with pytest.raises(gv.StorageError, match=r"No space|full"):
        items.create_index("n", SORTED)
    assert index_files(tmp_path) == []
    assert items.indexes().count() == 0
    disk.full = False
    assert items.create_index("n", SORTED).rows_covered == ROWS
    assert len(index_files(tmp_path)) > 0


def test_a_build_that_fails_behind_the_scenes_is_told_and_tried_again(disk, clock, items):
    items.create_index("n", SORTED)
    disk.full = True
    items.insert(rows(1000))
    items.flush()
    items._engine.builds.tend()
    wait_for_failure(items)
    assert "GV-50" in items.indexes().to_arrow()["failure"][0].as_py()
    with pytest.raises(gv.StorageError, match="GV-50"):
        items.create_index("n", SORTED)
    assert items.stats()["indexes"] == {"n": "1 × Sorted(), 1 × exact scan"}  # noqa: RUF001
    assert items.filter("n == 3").count() == ROWS // 5, "the other segment is scanned"
    items.insert(rows(2000))
    disk.full = False
    clock.advance(3600)
    items._engine.builds.tend()
    job = items.create_index("n", SORTED, wait=False)
    assert job.wait(60).waiting == 0


def test_reads_writes_and_flushes_go_on_during_a_build(disk, items):
    disk.go.clear()
    job = items.create_index("n", SORTED, wait=False)
    assert disk.waiting.wait(30)
    items.insert(rows(1000))
    items.delete(filter="id < 10")
    items.flush()
    assert items.filter("n == 3").count() == 2 * ROWS // 10 - 1
    assert items.search(np.ones(4, np.float32), k=3).count() == 3
    assert job.status == "running"
    disk.go.set()
    assert job.wait(60).rows_covered >= ROWS
    assert items.create_index("n", SORTED).rows_covered == 2 * ROWS
    assert items.filter("n == 3").count() == 2 * ROWS // 10 - 1


class Crowded:
    """An engine that collects orphans between the files of a build and their commit."""

    def __init__(self, engine, clock):
        self._engine, self._clock = engine, clock

    def __getattr__(self, name):
        return getattr(self._engine, name)

    def change(self, collection_id, decide):
        self._clock.advance(3600)
        channel = self._engine.channel(collection_id)
        assert self._engine.maintenance.collect(channel, 0.001).waiting, "the new files"
        self._engine.change(collection_id, decide)


def test_files_of_a_build_under_way_are_nobodys_orphans(engine, clock, items):
    wish = IndexDefinition(index_id=engine.mint(), field="n", spec={"kind": "sorted"})
    engine.change(items._id, lambda *_: [SetIndex(definition=wish)])
    channel = engine.channel(items._id)
    (segment,) = channel.state.segments
    host = Crowded(engine, clock)
    assert build_index(channel, segment, "n", wish.index_id, host=host, threads=1)


def test_a_job_does_not_wait_for_segments_that_came_after_it(disk, items):
    disk.go.clear()
    job = items.create_index("n", SORTED, wait=False)
    assert disk.waiting.wait(30)
    items.insert(rows(1000, 5))
    items.flush()
    later = items.create_index("n", SORTED, wait=False)
    assert (job._work.rows, later._work.rows) == (ROWS, ROWS + 5)
    disk.go.set()
    assert job.wait(60).rows_covered >= ROWS
    assert job.progress == 1.0
    assert later.wait(60).waiting == 0


def test_builds_run_one_at_a_time(disk, items):
    items.insert(rows(1000))
    items.flush()
    disk.go.clear()
    jobs = [items.create_index(field, SORTED, wait=False) for field in ("n", "id")]
    assert disk.waiting.wait(30)
    builders = [t for t in threading.enumerate() if t.name == "gpuvec-builder"]
    assert len(builders) == 1
    disk.go.set()
    assert [job.wait(60).rows_covered for job in jobs] == [2 * ROWS] * 2


def test_a_build_under_way_when_the_database_closes_adds_nothing(tmp_path, disk, engine, items):
    disk.go.clear()
    job = items.create_index("n", SORTED, wait=False)
    assert disk.waiting.wait(30)
    closer = threading.Thread(target=engine.close)
    closer.start()
    while not engine.builds._stopping:
        pass
    disk.go.set()
    closer.join()
    with pytest.raises(gv.UnavailableError):
        job.wait()
    assert [t for t in threading.enumerate() if t.name == "gpuvec-builder"] == []
    with gv.connect(tmp_path) as db:
        items = db["items"]
        assert items.indexes().to_arrow()["waiting"].to_pylist() == [1]
        assert items.create_index("n", SORTED).rows_covered == ROWS


def test_closing_waits_only_so_long_for_what_cannot_be_interrupted(tmp_path, disk, engine, items):
    engine.builds.stop_s = 0.1
    disk.go.clear()
    items.create_index("n", SORTED, wait=False)
    assert disk.waiting.wait(30)
    engine.close()
    with gv.connect(tmp_path) as db:  # another owner, while the old build still sleeps
        again = db["items"]
        again.insert(rows(1000, 10))
        disk.go.set()
        for thread in threading.enumerate():
            if thread.name == "gpuvec-builder":
                thread.join()
        assert again.count() == ROWS + 10
        assert again.indexes().to_arrow()["waiting"].to_pylist() == [1]
        again.create_index("n", SORTED)
        assert again.filter("n == 3").count() == ROWS // 10 + 1


def test_a_damaged_segment_is_told_to_whoever_waits(tmp_path, items):
    for path in tmp_path.rglob("scalar.parquet"):
        data = bytearray(path.read_bytes())
        data[100] ^= 1
        path.write_bytes(data)
    with pytest.raises(gv.CorruptError, match=r"scalar\.parquet"):
        items.create_index("n", SORTED)
    assert items.indexes().count() == 0


@pytest.mark.parametrize(
    "name", [*(pytest.param(n, marks=pytest.mark.cpu) for n in ("curve.json", "graph.faiss")), ""]
)
@pytest.mark.parametrize("how", ["changed", "gone"])
def test_the_same_wish_builds_a_damaged_index_anew(tmp_path, engine, items, name, how):
    wishes = {"v": gv.index.HNSW(m=4, ef_construction=10), "n": SORTED}
    field = "v" if name else "n"
    items.insert(rows(1000, 100))
    items.flush()
    for wanted, spec in wishes.items():
        items.create_index(wanted, spec)
    before = index_ids(items, field)
    for path in index_files(tmp_path):
        if path.parent.name == min(before.values()) and path.name.startswith(name):
            spoil(path, how)

    def use():
        if field == "v":
            return items.search(np.ones(4, np.float32), k=3, params={"ef_search": 32}).count()
        return items.filter("n == 3").select("id").to_arrow().num_rows

    with pytest.raises(gv.CorruptError, match="create_index") as caught:
        use()
    assert caught.value.code in ("GV-501", "GV-503")
    assert items.create_index(field, wishes[field]).waiting == 0
    after = index_ids(items, field)
    assert sum(after[segment] != before[segment] for segment in before) == 1, "one is new"
    assert use() == (3 if field == "v" else 60)


def index_ids(items, field):
    segments = items._engine.channel(items._id).state.segments.values()
    return {segment.segment_id: segment.indexes[field].index_id for segment in segments}


def spoil(path, how):
    if how == "gone":
        path.unlink()
        return
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def test_a_failure_is_logged_only_where_nobody_is_told(disk, clock, items, caplog):
    disk.full = True
    with pytest.raises(gv.StorageError):
        items.create_index("n", SORTED)
    assert caplog.records == []
    disk.full = False
    items.create_index("n", SORTED)
    disk.full = True
    items.insert(rows(1000))
    items.flush()
    with pytest.raises(gv.StorageError):
        items.create_index("n", SORTED)
    clock.advance(3600)
    items._engine.builds.tend()
    while not caplog.records:
        items._engine.builds.wait(1)
    assert "no index of n" in caplog.text


def test_what_a_library_raises_is_told_with_its_name():
    error = as_build_error("v", ZeroDivisionError("of a library"))
    assert isinstance(error, gv.JobError)
    assert "ZeroDivisionError: of a library" in str(error)
    known = gv.StorageError("GV-504", "no")
    assert as_build_error("v", known) is known
