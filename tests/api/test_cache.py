"""Databases in buckets through the caches: what is fetched again, and how much memory it takes."""

import os
from collections import Counter

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.testing.interceptor import Trouble, intercepted

WIDTH = 64
SCHEMA = gv.Schema(
    {
        "id": gv.Int64(),
        "n": gv.Int64(),
        "text": gv.String(),
        "v": gv.Vector(WIDTH, metric="l2"),
    },
    primary_key="id",
)


def vectors(start, count):
    return np.random.default_rng(start).random((count, WIDTH), dtype=np.float32)


def rows(start, count):
    ids = np.arange(start, start + count)
    texts = [f"{number} " * 40 for number in ids]
    return {"id": ids, "n": ids % 7, "text": texts, "v": vectors(start, count)}


class Counted:
    """The requests that a server was asked for segment and index files."""

    def __init__(self):
        self.files = Counter()

    def plan(self, request):
        path = request.path.partition("?")[0]
        if request.method == "GET" and ("/seg/" in path or "/idx/" in path or "/dv/" in path):
            self.files[path.rpartition("/")[2]] += 1
        return Trouble()


@pytest.fixture
def counted():
    return Counted()


@pytest.fixture
def connect(s3, counted, tmp_path):
    """Return `connect(**settings)` to one database; each opens it anew."""
    url = s3.new_url()
    with intercepted(s3, counted.plan) as server:

        def connect(memory_limit=None, **settings):
            with gv.config.set(**{"cache__dir": str(tmp_path / "cache"), **settings}):
                counted.files.clear()
                options = server.options
                return gv.connect(url, storage_options=options, memory_limit=memory_limit)

        yield connect


def nearest(query, starts, count, k=5):
    found = []
    for start in starts:
        distances = ((vectors(start, count) - query) ** 2).sum(axis=1)
        found += zip(distances.tolist(), range(start, start + count), strict=True)
    return [number for _, number in sorted(found)[:k]]


def fill(connect, segments, count):
    starts = [number * count for number in range(segments)]
    with connect(compact__size_bytes=1 << 20) as db:  # segments stay as they are
        items = db.create_collection("items", SCHEMA)
        for start in starts:
            items.insert(rows(start, count))
            items.flush()
    return starts


def is_deletes(name):
    """Return whether a file lists deleted rows: its name is a ULID, not that of a field."""
    return not name.startswith(("vec-", "scalar"))


QUERY = np.full(WIDTH, 0.5, np.float32)


@pytest.mark.one_process
def test_opening_reads_no_rows_and_a_warm_disk_is_asked_nothing(connect, counted):
    starts = fill(connect, 3, 500)
    with connect() as db:
        db["items"].delete(ids=[1, 2])
        db["items"].flush()
    for is_warm in (False, True):
        with connect() as db:
            items = db["items"]
            assert items.count() == 1498
            assert items.segments().to_pandas()["rows"].tolist() == [500] * 3
            assert all(is_deletes(name) for name in counted.files)
            found = items.search(QUERY, k=5).select("id", "text").to_pandas()
            wanted = [n for n in nearest(QUERY, starts, 500, 7) if n not in (1, 2)][:5]
            assert found["id"].tolist() == wanted
            assert bool(counted.files) != is_warm
            disk = db.stats()["files"]["disk"]
            assert disk["held_bytes"] > 3 * 500 * WIDTH * 4
            assert disk["quarantined"] == disk["refused"] == 0


@pytest.mark.one_process
def test_a_collection_larger_than_memory_is_searched_segment_by_segment(connect, counted):
    starts = fill(connect, 12, 4000)
    size = 12 * 4000 * WIDTH * 4
    limit = size // 2
    with connect(memory_limit=limit, cache__size_bytes=0) as db:
        items = db["items"]
        queries = np.stack([QUERY, vectors(4000, 1)[0], vectors(99, 1)[0]])
        for _ in range(2):
            found = items.search(queries, k=5).select("query_id", "id").to_pandas()
            for number, query in enumerate(queries):
                got = found[found["query_id"] == number]["id"].tolist()
                assert got == nearest(query, starts, 4000)
        files = db.stats()["files"]
        assert files["disk"] is None
        assert files["memory_peak_bytes"] < limit
    with connect(memory_limit=limit) as db:
        found = db["items"].search(QUERY, k=5).select("id").to_pandas()
        assert found["id"].tolist() == nearest(QUERY, starts, 4000)
        files = db.stats()["files"]
        assert files["memory_peak_bytes"] < size // 20  # vectors are mapped from the disk
        assert files["disk"]["held_bytes"] > size


@pytest.mark.one_process
def test_what_changed_on_the_disk_is_fetched_again(connect, counted, tmp_path):
    starts = fill(connect, 1, 3000)
    with connect() as db:
        assert db["items"].search(QUERY, k=5).select("id").to_pandas()["id"].tolist() == nearest(
            QUERY, starts, 3000
        )
    files = [path for path in (tmp_path / "cache").rglob("*") if path.is_file()]
    assert files
    for path in files:
        broken = bytearray(path.read_bytes())
        broken[len(broken) // 2] ^= 1
        path.write_bytes(broken)
    os.symlink(tmp_path / "cache", tmp_path / "link")  # as another process: nothing is known of it
    with connect(cache__dir=str(tmp_path / "link")) as db:
        assert db["items"].search(QUERY, k=5).select("id").to_pandas()["id"].tolist() == nearest(
            QUERY, starts, 3000
        )
        assert db.stats()["files"]["disk"]["quarantined"] >= 1
    assert counted.files["vec-v.arrow"] == 1


@pytest.mark.one_process
def test_where_the_cache_cannot_be_written_reads_go_on(connect, counted, tmp_path):
    starts = fill(connect, 2, 100)
    (tmp_path / "file").write_text("")
    with connect(cache__dir=str(tmp_path / "file")) as db:
        with pytest.warns(gv.CacheWarning, match="GV-560"):
            found = db["items"].search(QUERY, k=5).select("id").to_pandas()
        assert found["id"].tolist() == nearest(QUERY, starts, 100)
        assert db.stats()["files"]["disk"]["refused"] >= 2


def test_results_outlive_the_files(connect, counted):
    fill(connect, 1, 300)
    with connect(cache__size_bytes=0) as db:
        frame = db["items"].select("id", "v")
        batches = list(frame.to_batches(100))
        found = frame.to_arrow()
        db.drop_collection("items")
        assert np.array_equal(np.stack(found["v"].to_pylist()).astype(np.float32), vectors(0, 300))
        assert sum(len(batch) for batch in batches) == 300


def test_a_local_database_has_no_such_cache(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        db.create_collection("items", SCHEMA)
        assert db.stats() == {"path": str(tmp_path / "db"), "collections": 1, "files": None}


@pytest.mark.parametrize(
    ("value", "said"), [("-1", "cache.size_bytes"), ("many", "cache.size_bytes")]
)
def test_a_size_that_is_none_is_refused(value, said):
    with pytest.raises(gv.QueryError, match=said):
        gv.config.set(cache__size_bytes=value)
