"""Bulk import: what goes in, what is refused by name, and what a death leaves."""

import contextlib
import datetime
import os
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.feather as feather
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.api.bulk import BulkImport, ImportWish
from gpuvec.api.database import Database
from gpuvec.api.engine import Engine
from gpuvec.clock import SystemClock
from gpuvec.messages import OnConflict
from gpuvec.query.session import new_session
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.faults import Crash, Fault, FaultStore

SCHEMA = gv.Schema(
    {"id": gv.Int64(), "name": gv.String(nullable=True), "v": gv.Vector(4, metric="l2")}, "id"
)


def table(ids, version=0):
    """Rows whose vectors repeat the key, and whose name tells key and version."""
    ids = np.asarray(ids, np.int64)
    vectors = np.repeat(ids[:, None], 4, axis=1).astype(np.float32) + np.float32(version)
    names = [f"{key} of {version}" for key in ids]
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), 4)
    return pa.table({"id": ids, "name": names, "v": flat})


def write(folder, *tables, name="p", **more):
    for number, found in enumerate(tables):
        pq.write_table(found, folder / f"{name}{number}.parquet", **more)
    return str(folder / f"{name}*.parquet")


def content(items):
    """Key to version, after a check that name and vector are those of the key."""
    rows = items.to_arrow()
    found = {}
    for key, name, vector in zip(*(rows[n].to_pylist() for n in ("id", "name", "v")), strict=True):
        version = int(name.split()[-1])
        assert name == f"{key} of {version}"
        assert vector == [key + version] * 4
        assert key not in found, "a key is visible twice"
        found[key] = version
    return found


@pytest.fixture
def items(db):
    return db.create_collection("items", SCHEMA)


def test_files_become_one_write_in_segments(items, tmp_path):
    glob = write(tmp_path, table(range(100)), table(range(100, 250)), row_group_size=30)
    before = items.version
    result = items.bulk_import(glob)
    assert (result.inserted, result.updated, result.deleted) == (250, 0, 0)
    assert result.version == items.version > before
    assert content(items) == dict.fromkeys(range(250), 0)
    assert set(items.segments().to_pandas()["state"]) == {"flushed"}


def test_what_is_in_the_log_comes_before_an_import(items, tmp_path):
    items.insert(table([1, 2, 3]))
    items.delete(ids=[2])
    assert items.bulk_import(write(tmp_path, table([2, 4], 1))).inserted == 2
    assert content(items) == {1: 0, 2: 1, 3: 0, 4: 1}
    items.upsert(table([4], 2))
    items.delete(ids=[1])
    assert content(items) == {2: 1, 3: 0, 4: 2}


def test_an_import_outlives_the_process(tmp_path):
    glob = write(tmp_path, table([2, 4], 1))
    with gv.connect(tmp_path / "shop") as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(table([1, 2]))
        items.delete(ids=[2])
        version = items.bulk_import(glob).version
    with gv.connect(tmp_path / "shop") as db:
        assert content(db["items"]) == {1: 0, 2: 1, 4: 1}
        assert db["items"].version == version
        db["items"].insert(table([5]))
        assert db["items"].version > version


def test_rows_are_sorted_within_a_segment_whatever_their_order(items, tmp_path):
    ids = np.random.default_rng(0).permutation(5000)
    items.bulk_import(write(tmp_path, table(ids[:3000]), table(ids[3000:]), row_group_size=700))
    assert content(items) == dict.fromkeys(range(5000), 0)
    found = items.search(np.full(4, 4321, np.float32), k=1, exact=True).to_pandas()
    assert list(found["id"]) == [4321]


# Keys


def test_a_key_that_comes_twice_is_named_with_its_places(items, tmp_path):
    glob = write(tmp_path, table(range(50)), table([60, 7, 61]))
    with pytest.raises(gv.SchemaError, match="7 comes twice") as caught:
        items.bulk_import(glob)
    assert caught.value.code == "GV-663"
    assert "p0.parquet, row 7" in caught.value.message
    assert "p1.parquet, row 1" in caught.value.message
    assert items.count() == 0


@pytest.mark.parametrize("memory", [None, "8MB"], ids=["in memory", "in spans"])
@pytest.mark.parametrize("mode", ["skip", "replace"])
@pytest.mark.parametrize("text", [False, True], ids=["numbers", "texts"])
def test_of_rows_with_one_key_the_first_or_the_last_stays(tmp_path, mode, memory, text):
    rng = np.random.default_rng(3)
    parts = [rng.integers(0, 20_000, 9000) for _ in range(5)]
    key = (lambda k: f"key {k:05}") if text else int
    tables = []
    for version, ids in enumerate(parts):
        made = table(ids, version)
        column = pa.array([key(k) for k in ids.tolist()])
        tables.append(made.set_column(0, "id", column))
    schema = gv.Schema({**SCHEMA.fields, "id": gv.String() if text else gv.Int64()}, "id")
    wanted = {}
    for version, ids in enumerate(parts):
        for k in ids.tolist():
            if mode == "replace" or k not in wanted:
                wanted[k] = version
    path = tmp_path / "db"
    with gv.connect(path) as db, gv.connect(path, memory_limit=memory) as small:
        items = db.create_collection("items", schema)
        old = table(range(0, 40_000, 7), 9)
        items.insert(old.set_column(0, "id", pa.array([key(k) for k in old["id"].to_pylist()])))
        result = small["items"].bulk_import(write(tmp_path, *tables), on_conflict=mode)
        here = set(range(0, 40_000, 7))
        if mode == "skip":
            wanted |= dict.fromkeys(here, 9)
            assert (result.inserted, result.updated) == (len(wanted) - len(here), 0)
        else:
            both = here & wanted.keys()
            assert (result.inserted, result.updated) == (len(wanted) - len(both), len(both))
            wanted = dict.fromkeys(here, 9) | wanted
        rows = items.to_arrow()
        names = [name.split(" of ") for name in rows["name"].to_pylist()]
        assert {int(k): int(v) for k, v in names} == wanted
        assert rows["id"].to_pylist() == [key(int(k)) for k, _ in names]


def test_a_key_that_exists_is_named_with_its_place(items, tmp_path):
    items.insert(table([3, 4]))
    with pytest.raises(gv.SchemaError, match=r"id 3 of .*p0\.parquet, row 3 exists") as caught:
        items.bulk_import(write(tmp_path, table(range(10))))
    assert caught.value.code == "GV-664"
    assert caught.value.details["count"] == 2
    assert content(items) == {3: 0, 4: 0}


def test_keys_of_deleted_and_outlived_rows_are_free(db, tmp_path):
    items = db.create_collection("items", SCHEMA)
    items.insert(table(range(10)))
    items.flush()
    items.delete(ids=[1])
    items.truncate()
    items.insert(table([5]))
    items.set_ttl(datetime.timedelta(milliseconds=1))
    time.sleep(0.01)
    result = items.bulk_import(write(tmp_path, table(range(10), 1)))
    assert result.inserted == 10
    items.set_ttl(None)
    assert content(items) == dict.fromkeys(range(10), 1)


def test_the_same_import_again_answers_the_same(items, tmp_path):
    glob = write(tmp_path, table(range(20)))
    first = items.bulk_import(glob)
    assert items.bulk_import(glob) == first or items.bulk_import(glob).version == first.version
    items.insert(table([100]))
    again = items.bulk_import(glob)
    assert (again.version, again.inserted) == (first.version, 20)
    items.delete(ids=[3])
    with pytest.raises(gv.SchemaError, match="exists"):
        items.bulk_import(glob)
    assert items.bulk_import(glob, on_conflict="skip").inserted == 1
    assert len(content(items)) == 21


def test_a_file_with_other_rows_is_imported_though_its_size_and_time_are_as_before(items, tmp_path):
    path = tmp_path / "p.arrow"
    feather.write_feather(table(range(20)), path, compression="uncompressed")
    items.bulk_import(str(path), on_conflict="replace")
    before = path.stat()
    feather.write_feather(table(range(20), 1), path, compression="uncompressed")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)
    assert items.bulk_import(str(path), on_conflict="replace").updated == 20
    assert content(items) == dict.fromkeys(range(20), 1)


def test_an_import_that_changes_nothing_makes_no_version(items, tmp_path):
    items.insert(table(range(5)))
    before = items.version
    result = items.bulk_import(write(tmp_path, table(range(5), 1)), on_conflict="skip")
    assert (result.version, result.inserted) == (before, 0)
    assert items.bulk_import(write(tmp_path, table([]), name="empty")).inserted == 0
    assert items.version == before


def test_automatic_keys_go_on_from_the_highest(db, tmp_path):
    schema = gv.Schema({"n": gv.Int64(auto=True), "v": gv.Vector(4)}, "n")
    items = db.create_collection("items", schema)
    items.insert({"v": np.ones((3, 4), np.float32)})
    items.bulk_import(write(tmp_path, table(range(5)).select(["v"]), table([9]).select(["v"])))
    items.insert({"v": np.ones((1, 4), np.float32)})
    assert sorted(items.to_pandas()["n"]) == list(range(10))


def test_partitions_are_made_with_the_rows(items, tmp_path):
    items.bulk_import(write(tmp_path, table(range(5))), partition="new")
    assert items.partitions == ["new"]
    assert items.partition("new").count() == 5
    items.drop_partition("new")
    assert items.count() == 0


def test_an_import_of_a_partition_key_is_split_by_it(db, tmp_path):
    fields = {"id": gv.Int64(), "c": gv.String(), "v": gv.Vector(1024)}
    items = db.create_collection("items", gv.Schema(fields, "id", partition_key="c"))
    ids = np.arange(4000)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(np.ones(4000 * 1024, np.float32)), 1024)
    rows = pa.table({"id": ids, "c": [f"{k % 10}" for k in ids], "v": flat})
    items.bulk_import(write(tmp_path, rows))
    assert items.stats()["segments"] > 2
    assert items.filter("c == '3'").count() == 400
    with pytest.raises(gv.QueryError, match="partition"):
        items.bulk_import(write(tmp_path, rows), partition="p")


# Files


def test_columns_are_renamed_cast_and_left_out(items, tmp_path):
    made = table(range(10)).rename_columns(["key", "name", "emb"])
    made = made.set_column(0, "key", made["key"].cast(pa.int32())).append_column(
        "junk", pa.array(["x"] * 10)
    )
    glob = write(tmp_path, made)
    with pytest.raises(gv.NotFoundError, match="junk") as caught:
        items.bulk_import(glob, columns={"key": "id", "emb": "v"})
    assert "p0.parquet" in caught.value.message
    whole = Path(glob.replace("*", "0"))
    items.bulk_import(whole, columns={"key": "id", "emb": "v", "junk": None})
    assert content(items) == dict.fromkeys(range(10), 0)
    with pytest.raises(gv.NotFoundError, match='no column "emn"'):
        items.bulk_import(glob, columns={"emn": "v"})
    with pytest.raises(gv.SchemaError, match="'v': 2 columns of the files"):
        items.bulk_import(glob, columns={"emb": "v", "junk": "v"})
    with pytest.raises(gv.QueryError, match="columns=5"):
        items.bulk_import(glob, columns=5)


def test_schemas_may_drift_from_file_to_file(db, tmp_path):
    fields = {"id": gv.Int64(), "price": gv.Float64(nullable=True), "v": gv.Vector(4)}
    items = db.create_collection("items", gv.Schema(fields, "id"))
    first = table([1, 2]).drop_columns(["name"])
    wider = (
        table([3, 4]).drop_columns(["name"]).append_column("price", pa.array([1, 2], pa.int16()))
    )
    lists = wider["v"].combine_chunks().cast(pa.list_(pa.float64()))
    last = wider.set_column(0, "id", pa.array([5, 6], pa.uint8())).set_column(1, "v", lists)
    items.bulk_import(write(tmp_path, first, wider, last))
    found = items.to_pandas().sort_values("id")
    assert list(found["id"]) == [1, 2, 3, 4, 5, 6]
    assert list(found["price"].fillna(-1)) == [-1, -1, 1, 2, 1, 2]


def ragged(ids):
    lists = pa.array([[float(k)] * (4 if k != 3 else 5) for k in ids], pa.list_(pa.float32()))
    return table(ids).set_column(2, "v", lists)


@pytest.mark.parametrize(
    ("bad", "text", "row"),
    [
        (ragged(range(10)), "5", 13),
        (table(range(10)).set_column(2, "v", pa.array([[1.0] * 3] * 10)), "3", 10),
        (table(range(10)).set_column(0, "id", pa.array([0, None, *range(8)])), "null", 11),
        (table(range(10)).set_column(2, "v", pa.array([[1.0, 2.0, 3.0, float("nan")]] * 10)),
         "nan", 10),
        (table(range(10)).set_column(0, "id", pa.array([f"{k}x" for k in range(10)])), "id", None),
    ],
    ids=["ragged", "width", "null key", "nan", "type"],
)  # fmt: skip
def test_a_row_that_does_not_fit_is_named_with_file_and_row(items, tmp_path, bad, text, row):
    good = table(range(100, 110)).cast(bad.schema) if row == 11 else table(range(100, 110))
    folder = tmp_path / "in"
    folder.mkdir()
    write(folder, table(range(50, 90)), name="a")
    with pq.ParquetWriter(folder / "b.parquet", bad.schema) as writer:
        if row is not None:
            writer.write_table(good.cast(bad.schema) if row != 10 else bad_rows(bad, 100))
        writer.write_table(bad)
    if row == 10:
        row = 0
    with pytest.raises(gv.GpuvecError, match="(?i)" + text) as caught:
        items.bulk_import(f"{folder}/*.parquet")
    assert "b.parquet" in caught.value.message
    if row is not None:
        assert f"row {row}" in caught.value.message
    assert items.count() == 0


def bad_rows(bad, start):
    return bad.set_column(0, "id", pa.array(np.arange(start, start + len(bad))))


def test_files_that_are_none_are_refused(items, tmp_path):
    with pytest.raises(gv.NotFoundError, match="no file at"):
        items.bulk_import(str(tmp_path / "none*.parquet"))
    (tmp_path / "x.xls").write_text("1")
    with pytest.raises(gv.QueryError, match="endings"):
        items.bulk_import(str(tmp_path / "x.xls"))
    (tmp_path / "torn0.parquet").write_bytes(b"")
    with pytest.raises(gv.CorruptError, match=r"cannot read .*torn0\.parquet"):
        items.bulk_import(str(tmp_path / "torn*.parquet"))
    path = write(tmp_path, table(range(5000)), name="cut", row_group_size=1000)
    whole = (tmp_path / "cut0.parquet").read_bytes()
    (tmp_path / "cut0.parquet").write_bytes(whole[:100] + bytes(2000) + whole[2100:])
    with pytest.raises(gv.CorruptError, match=r"cut0\.parquet"):
        items.bulk_import(path)
    with pytest.raises(gv.QueryError, match="cannot open"):
        items.bulk_import("nowhere://x/*.parquet")
    assert items.count() == 0


@pytest.mark.embedded
def test_a_file_written_again_meanwhile_is_named(db, items, tmp_path):
    glob = write(tmp_path, table(range(1000)), table(range(1000, 2000)))
    wish = ImportWish(
        collection_id=items._source.collection_id, name="items", pattern=glob, columns={},
        partition="", on_conflict=OnConflict.ERROR,
    )  # fmt: skip
    bulk = BulkImport(items._source.engine, session(), wish)
    write(tmp_path, table(range(5)), table(range(6)))
    with pytest.raises(gv.ConflictError, match="was written again") as caught:
        bulk.run(lambda _: None)
    assert caught.value.code == "GV-662"
    assert items.count() == 0
    assert items.bulk_import(glob, on_conflict="skip").inserted == 6


def test_arrow_files_and_streams(items, tmp_path):
    feather.write_feather(table(range(10)), tmp_path / "a.feather", chunksize=3)
    later = table(range(10, 20))
    with pa.ipc.new_stream(tmp_path / "b.arrow", later.schema) as writer:
        writer.write_table(later)
    assert items.bulk_import(str(tmp_path / "[ab].*")).inserted == 20
    assert content(items) == dict.fromkeys(range(20), 0)


def test_csv(db, tmp_path):
    db.create_collection("c", gv.Schema({"id": gv.Int64(), "x": gv.Float64()}, "id"))
    (tmp_path / "a.csv").write_text("id,x\n1,0.5\n2,1\n")
    assert db["c"].bulk_import(str(tmp_path / "a.csv")).inserted == 2


def test_numpy_vectors_are_numbered_through_the_files(db, tmp_path):
    items = db.create_collection("n", gv.Schema({"id": gv.Int64(), "emb": gv.Vector(3)}, "id"))
    rng = np.random.default_rng(0)
    parts = [rng.random((n, 3), np.float32) for n in (5, 7)]
    for number, part in enumerate(parts):
        np.save(tmp_path / f"v{number}.npy", part)
    assert items.bulk_import(str(tmp_path / "v*.npy")).inserted == 12
    found = items.to_pandas().sort_values("id")
    assert list(found["id"]) == list(range(12))
    assert (np.stack(found["emb"]) == np.concatenate(parts)).all()
    texts = db.create_collection("t", gv.Schema({"id": gv.String(), "emb": gv.Vector(3)}, "id"))
    with pytest.raises(gv.SchemaError, match="holds vectors and no keys"):
        texts.bulk_import(str(tmp_path / "v*.npy"))
    np.save(tmp_path / "w.npy", np.asfortranarray(parts[0]))
    with pytest.raises(gv.CorruptError, match="Fortran"):
        items.bulk_import(str(tmp_path / "w.npy"))


def test_numpy_archives_are_columns(db, tmp_path):
    items = db.create_collection("n", gv.Schema({"id": gv.Int64(), "emb": gv.Vector(3)}, "id"))
    np.savez(tmp_path / "a.npz", id=np.arange(4) * 10, emb=np.ones((4, 3), np.float32))
    assert items.bulk_import(str(tmp_path / "a.npz")).inserted == 4
    assert sorted(items.to_pandas()["id"]) == [0, 10, 20, 30]
    np.savez(tmp_path / "b.npz", id=np.arange(4), emb=np.ones((5, 3), np.float32))
    with pytest.raises(gv.CorruptError, match="lengths"):
        items.bulk_import(str(tmp_path / "b.npz"))


def test_real_packages_from_shards(db, tmp_path):
    rows = gv.datasets.debian_packages()
    pieces = [rows.slice(start, 1000) for start in range(0, len(rows), 1000)]
    glob = write(tmp_path, *pieces, row_group_size=300)
    packages = db.create_collection("packages", data=rows.slice(0, 1), primary_key="id")
    packages.truncate()
    assert packages.bulk_import(glob).inserted == len(rows)
    found = packages.sort("id").to_arrow()
    wanted = rows.sort_by("id")
    for name in ("id", "name", "version", "section"):
        assert found[name].to_pylist() == wanted[name].to_pylist()
    flat = np.asarray(found["vector"].combine_chunks().flatten())
    assert (flat == np.asarray(wanted["vector"].combine_chunks().flatten())).all()


def test_files_in_a_bucket_with_their_own_options(items, s3, tmp_path):
    url = s3.new_url()
    bucket, _, prefix = url.removeprefix("s3://").partition("/")
    for number in range(3):
        path = tmp_path / f"{number}.parquet"
        pq.write_table(table(range(10 * number, 10 * number + 10)), path)
        s3.client().upload_file(str(path), bucket, f"{prefix}/in/p{number}.parquet")
    result = items.bulk_import(f"{url}/in/p*.parquet", storage_options=s3.options)
    assert result.inserted == 30
    assert content(items) == dict.fromkeys(range(30), 0)
    with pytest.raises(gv.NotFoundError, match="no file"):
        items.bulk_import(f"{url}/in/q*.parquet", storage_options=s3.options)


@pytest.mark.one_process
def test_any_file_system_of_fsspec(items):
    import fsspec

    system = fsspec.filesystem("memory")
    with system.open("/bulk/a.parquet", "wb") as file:
        pq.write_table(table(range(7)), file)
    assert items.bulk_import("memory://bulk/*.parquet").inserted == 7


# Jobs


def test_a_job_tells_how_far_it_is_and_ends_with_the_result(items, tmp_path):
    job = items.bulk_import(write(tmp_path, table(range(100))), wait=False)
    assert job.wait(timeout=60).inserted == 100
    assert (job.status, job.progress, job.eta) == ("done", 1.0, 0.0)


def test_a_cancelled_job_shows_nothing_and_can_be_resumed(items, tmp_path):
    glob = write(tmp_path, *(table(range(k, k + 10)) for k in range(0, 100, 10)))
    job = items.bulk_import(glob, wait=False)
    job.cancel()
    if job.status == "cancelled":
        assert items.count() == 0
        with pytest.raises(gv.JobError):
            job.wait()
        job.resume()
    assert job.wait(timeout=60).inserted == 100
    assert content(items) == dict.fromkeys(range(100), 0)


def test_a_job_that_fails_says_why(items, tmp_path):
    job = items.bulk_import(write(tmp_path, ragged(range(10))), wait=False)
    with pytest.raises(gv.SchemaError, match=r"p0\.parquet"):
        job.wait(timeout=60)
    assert job.status == "failed"


# Faults

BEFORE = {1: 0, 2: 0, 3: 0, 50: 0}
AFTER = {1: 0, 2: 1, 3: 0, 50: 0} | dict.fromkeys(range(4, 12), 1)


class Faulty(FaultStore):
    """With the lock of the store below, which no fault concerns."""

    def lock(self, key):
        return self._inner.lock(key)

    def folders(self, prefix):
        return self._inner.folders(prefix)

    def peek(self):
        return self._inner.peek()

    def close(self):
        pass


def engine_on(store):
    return Engine(
        store, "memory://t", durability="fsync", clock=SystemClock(), flush_bytes=1 << 30, age_s=1e9
    )


def session():
    return new_session(1 << 30, threads=1, device="cpu")


def prepared():
    """Return a store with keys 1, 2, 3 and 50, some of them only in the log."""
    store = MemoryStore(appendable=True)
    engine = engine_on(store)
    items = Database("t", engine, session()).create_collection("items", SCHEMA)
    items.insert(table([1, 2, 3, 4]))
    items.flush()
    items.delete(ids=[4])
    items.insert(table([50]))
    engine.close()
    return store


def attempt(store, glob):
    """Import as a process that then dies: nothing is closed, but its lock is free."""
    engine = engine_on(store)
    try:
        items = Database("t", engine, session())["items"]
        return items.bulk_import(glob, on_conflict="replace")
    finally:
        engine.abandon()


def parts(tmp_path):
    return write(tmp_path, table([2, 4, 5, 6, 9], 1), table([7, 8, 9, 10, 11], 1))


def check(fault, number, glob):
    inner = prepared()
    store = Faulty(inner, {number: fault})
    done = None
    with contextlib.suppress(errors.GpuvecError, Crash):
        done = attempt(store, glob)
    try:
        engine = engine_on(inner)
        items = Database("t", engine, session())["items"]
        found = content(items)
        assert found in (BEFORE, AFTER)
        assert done is None or found == AFTER
        result = items.bulk_import(glob, on_conflict="replace")
        assert (result.inserted, result.updated) in ((8, 1), (0, 9))
        assert content(items) == AFTER
        items.insert(table([99]))
        engine.close()
        again = Database("t", engine_on(inner), session())["items"]
        assert content(again) == AFTER | {99: 0}
    except BaseException as error:
        error.add_note(f"{fault.name} at {number}: {store.operations[number]}")
        raise


def operations(glob):
    store = Faulty(prepared())
    attempt(store, glob)
    return len(store.operations)


@pytest.mark.parametrize("fault", Fault)
def test_a_fault_at_some_operations_of_an_import_loses_and_doubles_nothing(fault, tmp_path):
    glob = parts(tmp_path)
    for number in range(list(Fault).index(fault) % 5, operations(glob), 5):
        check(fault, number, glob)


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
def test_a_fault_at_any_operation_of_an_import_loses_and_doubles_nothing(fault, tmp_path):
    glob = parts(tmp_path)
    for number in range(operations(glob)):
        check(fault, number, glob)


def test_a_killed_import_goes_on_where_it_was(tmp_path):
    """Parts that were written are not read again: their files are gone by then."""
    count = 8
    folder = tmp_path / "in"
    folder.mkdir()
    numbers = np.random.default_rng(0).random(3000 * 1024, np.float32)
    wide = pa.FixedSizeListArray.from_arrays(pa.array(numbers), 1024)
    for number in range(count):
        ids = np.arange(number * 3000, (number + 1) * 3000)
        pq.write_table(pa.table({"id": ids, "v": wide}), folder / f"{number}.parquet")
    with gv.connect(tmp_path / "db") as db:
        db.create_collection("items", gv.Schema({"id": gv.Int64(), "v": gv.Vector(1024)}, "id"))
    code = textwrap.dedent(
        """
        import os, sys
        import gpuvec as gv
        from gpuvec.meta import import_jobs
        from gpuvec.api import bulk
        gv.config.set(compact__size_bytes=12 << 20)
        write_step, steps = bulk.write_step, []
        def dying(*args):
            yield from write_step(*args)
            steps.append(args)
            if len(steps) == 5:
                os._exit(9)
        bulk.write_step = dying
        with gv.connect(sys.argv[1]) as db:
            db["items"].bulk_import(sys.argv[2])
        """
    )
    arguments = [str(tmp_path / "db"), f"{folder}/*.parquet"]
    environment = {**os.environ, "GPUVEC_THREADS": "1"}
    ended = subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=False)
    assert ended.returncode == 9
    with gv.connect(tmp_path / "db") as db:
        items = db["items"]
        assert items.count() == 0
        segments = sorted((tmp_path / "db").glob("collections/*/seg/*"))
        read = []
        with gv.config.set(progress=lambda event: read.append(event["done"])):
            assert items.bulk_import(f"{folder}/*.parquet").inserted == 3000 * count
        assert items.stats()["segments"] == count
        known = set(items.segments().to_pandas()["segment_id"])
        assert {path.name for path in segments} <= known, "what was written was not used"
        assert not list((tmp_path / "db").glob("collections/*/import/*/*"))


def test_an_import_beside_writers_is_one_version(items, tmp_path):
    glob = write(tmp_path, *(table(range(k, k + 500), 1) for k in range(0, 5000, 500)))
    stop = threading.Event()
    seen = []

    def work():
        number = 10_000
        while not stop.is_set():
            items.upsert(table([number, number % 5000], 2))
            seen.append(number)
            number += 1

    def read():
        while not stop.is_set():
            found = content(items)
            assert sum(version == 1 for version in found.values()) in (0, *range(4000, 5001))

    threads = [threading.Thread(target=work), threading.Thread(target=read)]
    for thread in threads:
        thread.start()
    try:
        result = items.bulk_import(glob, on_conflict="replace")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert result.inserted + result.updated == 5000
    found = content(items)
    assert all(found[number] == 2 for number in seen)
    assert len(found) == len(set(range(5000)) | set(seen))
