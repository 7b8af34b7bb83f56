"""Databases in buckets: several readers, writers that replace one another, and the dead."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from contextlib import contextmanager

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.storage.open import open_store
from gpuvec.testing.interceptor import Trouble, first, intercepted

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4, metric="l2")}, primary_key="id")


def rows(start, count=10):
    ids = np.arange(start, start + count)
    return {"id": ids, "v": np.repeat(ids[:, None], 4, axis=1).astype(np.float32)}


def ids_of(db, name="items"):
    return sorted(db[name].select("id").to_pandas()["id"])


@pytest.fixture
def url(s3):
    return s3.new_url()


@pytest.fixture
def connect(s3, url):
    """Return `connect(process)`: handles of different processes do not share an engine."""
    hosts = {"a": "127.0.0.1", "b": "localhost", "c": "LOCALHOST"}

    @contextmanager
    def connect(process="a", server=s3, **more):
        endpoint = server.endpoint.replace("127.0.0.1", hosts[process])
        options = {**server.options, "endpoint_url": endpoint, **more}
        with gv.connect(url, storage_options=options) as db:
            yield db

    return connect


def keys_of(s3, url, prefix=""):
    return open_store(url, s3.options).list(prefix)


def test_everything_that_a_directory_does(connect):
    with connect() as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(0, 100))
        items.flush()
        items.upsert(rows(95, 10))
        items.delete(ids=[1, 2])
        items.update({"v": [9.0] * 4}, filter="id == 3")
        items.flush()
        items.insert(rows(200))
        found = items.search(np.full(4, 50, np.float32), k=3).to_pandas()
        assert found["id"].tolist()[0] == 50
        before = items.select("id", "v").to_pandas().sort_values("id", ignore_index=True)
    with connect() as db:
        after = db["items"].select("id", "v").to_pandas().sort_values("id", ignore_index=True)
        assert after.equals(before)
        assert len(after) == 105 - 2 + 10


@pytest.mark.embedded
def test_a_reader_sees_what_another_process_acknowledged(connect):
    with connect("a") as writer, connect("b") as reader:
        items = writer.create_collection("items", SCHEMA)
        for number in range(3):
            items.insert(rows(10 * number))
            assert ids_of(reader) == list(range(10 * number + 10))
            if number == 1:
                items.flush()
                assert ids_of(reader) == list(range(20))
        writer.rename("items", "goods")
        assert reader.collections() == ["goods"]
        writer.drop_collection("goods")
        assert reader.collections() == []


@pytest.mark.embedded
def test_who_writes_last_takes_over_and_nothing_is_lost(connect):
    with connect("a") as old, connect("b") as new:
        old.create_collection("items", SCHEMA).insert(rows(0))
        new["items"].insert(rows(10))
        with pytest.raises(errors.ConflictError, match="another process took over") as caught:
            old["items"].insert(rows(20))
        assert caught.value.code == "GV-538"
        assert caught.value.details["outcome"] == "none"
        assert ids_of(old) == ids_of(new) == list(range(20))
        new["items"].insert(rows(30))
        assert ids_of(old) == [*range(20), *range(30, 40)]
        for write in (
            lambda: old["items"].delete(ids=[0]),
            lambda: old["items"].flush(),
            lambda: old.create_collection("others", SCHEMA),
            lambda: old.drop_collection("items"),
            lambda: old.rename("items", "goods"),
        ):
            with pytest.raises(errors.ConflictError, match="another process took over"):
                write()
        new["items"].flush()
        assert ids_of(old) == [*range(20), *range(30, 40)]
    with connect("a") as again:
        again["items"].insert(rows(40))
        assert ids_of(again) == [*range(20), *range(30, 50)]


@pytest.mark.embedded
def test_one_who_was_replaced_learns_it_from_whatever_it_writes_first(connect):
    writes = [
        lambda db: db.create_collection("others", SCHEMA),
        lambda db: db.drop_collection("items"),
        lambda db: db["items"].flush(),
        lambda db: db["items"].add_field("more", gv.Int64(nullable=True)),
    ]
    with connect("c") as first_of_all:
        first_of_all.create_collection("items", SCHEMA)
    for number, write in enumerate(writes):
        with connect("a") as old, connect("b") as new:
            old["items"].insert(rows(100 * number))
            new["items"].insert(rows(100 * number + 10))
            with pytest.raises(errors.ConflictError, match="another process took over"):
                write(old)
            assert ids_of(old) == ids_of(new)
    with connect("a") as db:
        assert ids_of(db) == [n + k for n in range(0, 400, 100) for k in range(20)]
        assert db.collections() == ["items"]


def test_a_writer_whose_collections_nobody_took_can_close_without_an_error(connect):
    with connect("a") as old:
        old.create_collection("one", SCHEMA).insert(rows(0, 5000))
        with connect("b") as new:
            new.create_collection("other", SCHEMA)
    with connect("c") as db:
        assert ids_of(db, "one") == list(range(5000))
        assert db.collections() == ["one", "other"]


def test_a_killed_writer_loses_nothing_acknowledged(s3, url):
    program = """
        import os, signal, sys
        import gpuvec as gv
        sys.path.insert(0, {folder!r})
        from test_buckets import SCHEMA, rows
        db = gv.connect({url!r}, storage_options={options!r})
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(0)); items.flush(); items.insert(rows(10)); items.delete(ids=[3, 13])
        print(sorted(items.select("id").to_pandas()["id"]), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    folder = os.path.dirname(__file__)
    text = textwrap.dedent(program).format(folder=folder, url=url, options=s3.options)
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr
    with gv.connect(url, storage_options=s3.options) as db:
        assert str(ids_of(db)) == done.stdout.strip()
        db["items"].insert(rows(20))
        assert len(ids_of(db)) == 28


def test_dropped_collections_and_died_creations_leave_no_files(s3, url, connect):
    store = open_store(url, s3.options)
    with connect() as db:
        db.create_collection("items", SCHEMA).insert(rows(0))
        db["items"].flush()
        db.drop_collection("items")
        assert keys_of(s3, url, "collections/") == []
        store.put("collections/c-01died/manifest/00000000000000000001.json", [b"{}"])
    with connect() as db:
        db.create_collection("others", SCHEMA).insert(rows(0))
        deadline = time.monotonic() + 20
        while time.monotonic() < deadline and keys_of(s3, url, "collections/c-01died/"):
            time.sleep(0.1)
        assert keys_of(s3, url, "collections/c-01died/") == []
        assert ids_of(db, "others") == list(range(10))


def test_a_folder_with_other_things_is_refused_and_left_alone(s3, url, connect):
    s3.client().put_object(Bucket="gpuvec-tests", Key=f"{url.split('/')[-1]}/Report.PDF", Body=b"x")
    with pytest.raises(errors.StorageError, match=r"Report\.PDF") as caught, connect():
        pass
    assert caught.value.code == "GV-605"


@pytest.mark.embedded
def test_a_store_that_ignores_conditions_is_read_but_not_written(s3, connect):
    with connect() as db:
        db.create_collection("items", SCHEMA).insert(rows(0))
    with (
        intercepted(s3, lambda request: Trouble(drop_condition=True)) as server,
        connect(server=server) as db,
    ):
        assert ids_of(db) == list(range(10))
        with pytest.raises(errors.StorageError, match="does not keep two writers apart"):
            db["items"].insert(rows(10))
        assert ids_of(db) == list(range(10))
    with connect() as db:
        assert ids_of(db) == list(range(10))


def test_lost_answers_neither_lose_nor_double_a_write(s3, connect):
    with connect() as db:
        db.create_collection("items", SCHEMA)
    slots = lambda request: request.creates and ".wal" in request.path  # noqa: E731
    with (
        intercepted(s3, first(3, slots, Trouble(lose_answer=True))) as server,
        connect(server=server) as db,
    ):
        for start in range(0, 50, 10):
            db["items"].insert(rows(start))
        assert ids_of(db) == list(range(50))
    with connect() as db:
        assert ids_of(db) == list(range(50))
        assert db["items"].count() == 50


def test_a_store_that_fails_for_a_while_is_waited_for(s3, connect):
    with connect() as db:
        db.create_collection("items", SCHEMA)
    with (
        intercepted(s3, first(4, lambda request: True, Trouble(status=503))) as server,
        connect(server=server) as db,
    ):
        db["items"].insert(rows(0))
        assert ids_of(db) == list(range(10))


def test_a_store_that_keeps_failing_is_an_error_and_nothing_is_half_there(s3, connect):
    down = [False]
    with (
        intercepted(s3, lambda _: Trouble(status=503 if down[0] else 0)) as server,
        connect(server=server, config_kwargs={"retries": {"max_attempts": 1}}) as db,
    ):
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(0))
        down[0] = True
        with pytest.raises((errors.UnavailableError, errors.StorageError)):
            items.insert(rows(10))
        down[0] = False
        items.insert(rows(20))
        with connect("b") as reader:
            assert ids_of(reader) == ids_of(db)
        assert set(range(10)) | set(range(20, 30)) <= set(ids_of(db))
        assert len(ids_of(db)) in (20, 30)
