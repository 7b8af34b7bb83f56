"""Opening, closing, and places that are no databases."""

import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.api.engine import Engine
from gpuvec.storage.open import open_store

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, "id")


def rows(*ids):
    return {"id": list(ids), "v": np.ones((len(ids), 2), np.float32)}


def ids_of(frame):
    return sorted(frame.to_arrow()["id"].to_pylist())


def files_in(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


@pytest.mark.embedded
def test_a_directory_becomes_a_database_with_its_first_collection(tmp_path):
    path = tmp_path / "new" / "shop"
    with gv.connect(path) as db:
        assert db.collections() == []
        assert not path.exists()
        db.create_collection("items", SCHEMA)
        assert json.loads((path / "gpuvec.json").read_text())["format"] == 1


def test_rows_are_there_after_reopening(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(1, 2))
        items.flush()
        items.insert(rows(3))
        items.delete(ids=[1])
    with gv.connect(tmp_path) as db:
        assert ids_of(db["items"]) == [2, 3]
        db["items"].insert(rows(1, 4))
        assert ids_of(db["items"]) == [1, 2, 3, 4]


def test_versions_rise_across_reopening(tmp_path):
    versions = []
    for n in range(3):
        with gv.connect(tmp_path) as db:
            if n == 0:
                db.create_collection("items", SCHEMA)
            versions.append(db["items"].insert(rows(n)).version)
            assert db["items"].version == versions[-1]
    assert versions == sorted(set(versions))


def test_databases_in_memory_end_with_their_handle():
    with gv.connect("memory://") as db:
        db.create_collection("items", SCHEMA).insert(rows(1))
        db["items"].flush()
        assert ids_of(db["items"]) == [1]
    with gv.connect("memory://") as db:
        assert db.collections() == []


def test_a_directory_with_other_things_is_refused_and_left_alone(tmp_path):
    (tmp_path / "thesis.docx").write_text("x")
    with pytest.raises(gv.StorageError, match=r"GV-605.*thesis\.docx"):
        gv.connect(tmp_path)
    assert files_in(tmp_path) == ["thesis.docx"]


def test_a_file_is_no_database(tmp_path):
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(gv.StorageError, match="GV-607"):
        gv.connect(path)


def test_a_newer_format_is_refused(tmp_path):
    (tmp_path / "gpuvec.json").write_text('{"format": 99}')
    with pytest.raises(gv.UnsupportedError, match=r"GV-606.*99"):
        gv.connect(tmp_path)
    (tmp_path / "gpuvec.json").write_text('{"form')
    with pytest.raises(gv.CorruptError, match="GV-609"):
        gv.connect(tmp_path)


def test_unknown_stores_devices_and_durabilities_are_refused(tmp_path):
    with pytest.raises(gv.UnsupportedError):
        gv.connect("s4://bucket/x")
    with pytest.raises(gv.QueryError):
        gv.connect(tmp_path, device="tpu")
    with pytest.raises(gv.QueryError):
        gv.connect(tmp_path, durability="maybe")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_read_only_directory_can_be_read(tmp_path):
    with gv.connect(tmp_path) as db:
        db.create_collection("items", SCHEMA).insert(rows(1))
    tmp_path.chmod(0o500)
    try:
        with gv.connect(tmp_path) as db:
            assert ids_of(db["items"]) == [1]
            with pytest.raises(gv.StorageError):
                db["items"].insert(rows(2))
    finally:
        tmp_path.chmod(0o700)


def test_closing_twice_does_nothing_and_use_after_it_is_refused(tmp_path):
    db = gv.connect(tmp_path)
    items = db.create_collection("items", SCHEMA)
    db.close()
    db.close()
    assert "closed" in repr(db)
    for use in (db.collections, lambda: db["items"], items.count, lambda: items.insert(rows(1))):
        with pytest.raises(gv.UnavailableError, match="GV-600"):
            use()


def test_handles_of_one_path_share_the_database(tmp_path):
    one, other = gv.connect(tmp_path), gv.connect(tmp_path)
    one.create_collection("items", SCHEMA).insert(rows(1))
    other["items"].insert(rows(2))
    one.close()
    assert ids_of(other["items"]) == [1, 2]
    other.close()


def test_no_thread_remains_after_closing(tmp_path):
    before = set(threading.enumerate())  # the kernels' threads stay, whoever began them
    with gv.connect(tmp_path) as db:
        db.create_collection("items", SCHEMA).insert(rows(1))
    after = set(threading.enumerate()) - before
    assert [t.name for t in after if t.name.startswith("gpuvec")] == []


def test_collections_are_created_renamed_aliased_and_dropped(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(1))
        db.alias("best", items)
        assert ids_of(db["best"]) == [1]
        db.rename("items", "things")
        assert items.name == "things"
        assert ids_of(db["best"]) == [1]
        assert db.collections() == ["things"]
        assert "things" in db
        assert "items" not in db
        with pytest.raises(gv.AlreadyExistsError):
            db.create_collection("best", SCHEMA)
        db.drop_collection("things")
        assert db.collections() == []
        assert db.aliases() == {}
        for use in (items.count, lambda: items.insert(rows(2))):
            with pytest.raises(gv.NotFoundError, match="GV-608"):
                use()
        db.create_collection("things", SCHEMA)
        assert db["things"].count() == 0


def test_an_unknown_collection_names_the_nearest(tmp_path):
    with gv.connect(tmp_path) as db:
        db.create_collection("items", SCHEMA)
        with pytest.raises(gv.NotFoundError, match='Did you mean "items"'):
            db["itms"]


def test_create_from_data_infers_the_schema(tmp_path):
    with gv.connect(tmp_path) as db:
        data = {"id": [1, 2], "word": ["a", "b"], "v": np.ones((2, 3), np.float32)}
        items = db.create_collection("items", data=data, primary_key="id")
        assert items.count() == 2
        assert items.schema["v"] == gv.Vector(3)
        with pytest.raises(gv.QueryError, match="GV-161"):
            db.create_collection("more", data=data)
        with pytest.raises(gv.NotFoundError, match="GV-703"):
            db.create_collection("more", external="x/*.parquet", primary_key="id")


def test_bad_first_rows_leave_no_collection(tmp_path):
    with gv.connect(tmp_path) as db:
        with pytest.raises(gv.SchemaError):
            db.create_collection("items", SCHEMA, data={"id": [1, 1], "v": np.ones((2, 2))})
        assert db.collections() == []


def test_exist_ok_returns_the_collection_if_its_schema_is_the_same(tmp_path):
    with gv.connect(tmp_path) as db:
        db.create_collection("items", SCHEMA).insert(rows(1))
        assert db.create_collection("items", SCHEMA, exist_ok=True).count() == 1
        with pytest.raises(gv.AlreadyExistsError, match="GV-151"):
            db.create_collection("items", SCHEMA)
        with pytest.raises(gv.AlreadyExistsError, match="GV-162"):
            db.create_collection(
                "items", gv.Schema({"id": gv.Int64(), "v": gv.Vector(3)}, "id"), exist_ok=True
            )


# Other processes

READER = """
import sys, gpuvec as gv
db = gv.connect(sys.argv[1])
for line in sys.stdin:
    try:
        if line == "write\\n":
            db["items"].insert({"id": [100], "v": [[1.0, 2.0]]})
        print(sorted(db["items"].to_arrow()["id"].to_pylist()), flush=True)
    except gv.GpuvecError as error:
        print(repr(str(error)), flush=True)
"""


@pytest.fixture
def reader(tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", READER, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip

    def ask(what="read"):
        process.stdin.write(f"{what}\n")
        process.stdin.flush()
        return process.stdout.readline().strip()

    yield ask
    process.stdin.close()
    process.wait(timeout=20)
    process.stdout.close()


def test_another_process_reads_every_acknowledged_write_and_may_not_write(tmp_path, reader):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(1))
        assert reader() == "[1]"
        items.insert(rows(2))
        assert reader() == "[1, 2]"
        items.flush()
        items.delete(ids=[1])
        assert reader() == "[2]"
        items.add_field("n", gv.Int32(nullable=True))
        items.truncate()
        assert reader() == "[]"
        items.insert(rows(5))
        answer = reader("write")
        assert "GV-602" in answer
        assert f"process {os.getpid()}" in answer
        assert reader() == "[5]"
    assert reader("write") == "[5, 100]", "once the writer has closed, another may write"


def test_a_forked_child_must_open_the_database_itself(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(1))
        results = multiprocessing.get_context("fork").SimpleQueue()

        def child():
            try:
                items.count()
            except gv.UnavailableError as error:
                results.put(error.code)
            else:
                results.put("no error")

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        assert results.get() == "GV-601"
        process.join()
        assert process.exitcode == 0
        assert ids_of(items) == [1]


@pytest.mark.embedded
def test_the_right_to_write_ends_with_the_parent_though_a_child_lives(tmp_path):
    db = gv.connect(tmp_path)
    db.create_collection("items", SCHEMA)
    waiting, wake = os.pipe()
    hearing, tell = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(wake)
        os.write(tell, b"!")
        os.read(waiting, 1)
        os._exit(0)
    os.read(hearing, 1)
    db.close()
    try:
        with gv.connect(tmp_path) as db:
            db["items"].insert(rows(1))
    finally:
        for end in (wake, waiting, hearing, tell):
            os.close(end)
        os.waitpid(child, 0)


# Threads


def test_reads_beside_writes_and_flushes_see_whole_batches(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", SCHEMA)
        stop = threading.Event()

        def write():
            for n in range(60):
                items.insert(rows(*range(n * 10, n * 10 + 10)))
                if n % 3 == 0:
                    items.delete(filter=f"id >= {n * 10}")
                elif n % 3 == 1:
                    items.upsert(rows(*range(n * 10 - 5, n * 10 + 5)))
                    items.delete(filter=f"id >= {n * 10 - 5} and id < {n * 10}")
            stop.set()

        def flush():
            while not stop.is_set():
                items.flush()

        threads = [threading.Thread(target=write), threading.Thread(target=flush)]
        for thread in threads:
            thread.start()
        follower = Engine(
            open_store(tmp_path), str(tmp_path), durability="fsync", flush_bytes=1, age_s=1
        )
        while not stop.is_set():
            for snapshot in (items._engine.snapshot(items._id), follower.snapshot(items._id)):
                ids = [
                    view.scalars(["id"])["id"].to_numpy()[
                        slice(None) if view.keep() is None else view.keep()
                    ]
                    for view in snapshot
                ]
                found = np.concatenate([*ids, np.empty(0, np.int64)])
                assert len(np.unique(found)) == len(found)
                assert len(found) % 5 == 0
                assert set(np.unique(found // 5, return_counts=True)[1]) <= {5}
        for thread in threads:
            thread.join()
        follower.close()


def test_closing_while_others_write_answers_every_one(tmp_path):
    db = gv.connect(tmp_path)
    items = db.create_collection("items", SCHEMA)
    done = []

    refused = []

    def write(writer):
        try:
            for n in range(10_000):
                items.insert(rows(writer * 10_000 + n))
                done.append(writer * 10_000 + n)
        except gv.UnavailableError as error:
            refused.append(error.code)

    threads = [threading.Thread(target=write, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    while len(done) < 8:
        time.sleep(0.001)
    db.close()
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()
    assert refused == ["GV-600"] * 4
    with gv.connect(tmp_path) as db:
        assert ids_of(db["items"]) == sorted(done)


def test_many_writers_at_once_lose_nothing(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", SCHEMA)
        refused = []

        def write(writer):
            for n in range(20):
                items.insert(rows(writer * 100 + n))
                try:
                    items.insert(rows(10_000 + n))  # all writers want these keys
                except gv.SchemaError:
                    refused.append(n)

        threads = [threading.Thread(target=write, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for _ in range(3):
            items.flush()
        for thread in threads:
            thread.join()
        wanted = [w * 100 + n for w in range(8) for n in range(20)] + [
            10_000 + n for n in range(20)
        ]
        assert ids_of(items) == sorted(wanted)
        assert len(refused) == 7 * 20
    with gv.connect(tmp_path) as db:
        assert ids_of(db["items"]) == sorted(wanted)
