"""What happens in the middle: moved directories, Ctrl-C, drops during work, dropped fields."""

import os
import shutil
import threading

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.api.committer import Committer
from gpuvec.node.delegator import ShardDelegator

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, "id")


def rows(start, count=10):
    return {"id": np.arange(start, start + count), "v": np.ones((count, 4), np.float32)}


def ids_of(items):
    return sorted(items.select("id").to_arrow()["id"].to_pylist())


@pytest.fixture
def db(tmp_path):
    with gv.connect(tmp_path / "db") as found:
        yield found


@pytest.fixture
def items(db):
    found = db.create_collection("items", SCHEMA)
    found.insert(rows(0))
    return found


def engine_of(items):
    return items._source.engine


def interrupted(call, owner, count=1):
    """Let Ctrl-C come after the `count`-th procedure that `owner` runs, when it has happened."""
    name = "run" if hasattr(owner, "run") else "_run"
    real, left = getattr(owner, name), [count]

    def run(procedure):
        found = real(procedure)
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(owner, name, run)
        with pytest.raises(KeyboardInterrupt):
            call()


# Moved and removed directories


@pytest.mark.embedded
@pytest.mark.parametrize("how", ["moved", "removed", "replaced"])
def test_nothing_is_acknowledged_where_the_directory_is_gone(tmp_path, db, items, how):
    shutil.move(tmp_path / "db", tmp_path / "other")
    if how == "removed":
        shutil.rmtree(tmp_path / "other")
    if how == "replaced":
        with gv.connect(tmp_path / "fresh") as fresh:
            fresh.create_collection("items", SCHEMA)
        shutil.move(tmp_path / "fresh", tmp_path / "db")
    before = sorted(map(str, tmp_path.rglob("*")))
    for use in (
        lambda: items.insert(rows(10)),
        lambda: items.insert(rows(20)),
        lambda: db.create_collection("more", SCHEMA),
        items.flush,
        items.count,
    ):
        with pytest.raises(gv.StorageError, match="GV-613"):
            use()
    db.close()
    assert sorted(map(str, tmp_path.rglob("*"))) == before
    if how == "moved":
        with gv.connect(tmp_path / "other") as again:
            assert ids_of(again["items"]) == list(range(10))


@pytest.mark.embedded
def test_a_write_on_its_way_when_the_directory_moves_is_not_acknowledged(
    tmp_path, items, monkeypatch
):
    engine = engine_of(items)
    monkeypatch.setattr(engine._place, "check", lambda: None)  # moved after this look
    shutil.move(tmp_path / "db", tmp_path / "other")
    with pytest.raises(gv.UnavailableError) as caught:
        items.insert(rows(10))
    assert caught.value.details["outcome"] == "unknown"
    with pytest.raises(gv.StorageError):
        items.insert(rows(20))
    assert not (tmp_path / "db").exists()


@pytest.mark.embedded
@pytest.mark.parametrize("how_often", [1, 2])
def test_a_write_without_room_in_memory_is_there_or_unknown(items, monkeypatch, how_often):
    left = [how_often]

    def settle(self):
        left[0] -= 1
        if left[0] >= 0:
            raise MemoryError

    monkeypatch.setattr(ShardDelegator, "settle", settle)
    monkeypatch.setattr("gpuvec.node.data_node._LARGE_BYTES", 0)
    if how_often == 2:
        monkeypatch.setattr(ShardDelegator, "install", lambda *_: settle(None))
        with pytest.raises(gv.UnavailableError) as caught:
            items.insert(rows(10))
        assert caught.value.details["outcome"] == "unknown"
        monkeypatch.undo()
    else:
        assert items.insert(rows(10)).inserted == 10
    assert ids_of(items) == list(range(20))


@pytest.mark.embedded
def test_a_path_whose_database_was_removed_is_a_new_one(tmp_path, db, items):
    shutil.rmtree(tmp_path / "db")
    with gv.connect(tmp_path / "db") as again:
        assert again.collections() == []
        again.create_collection("items", SCHEMA).insert(rows(5))
        with pytest.raises(gv.GpuvecError):
            items.insert(rows(10))
    with gv.connect(tmp_path / "db") as again:
        assert ids_of(again["items"]) == list(range(5, 15))


# Ctrl-C


@pytest.mark.embedded
@pytest.mark.parametrize("change", ["add", "drop", "truncate"])
def test_an_interrupted_change_is_seen_as_it_is_on_disk(items, change):
    items.add_field("x", gv.Int64(nullable=True))
    engine = engine_of(items)
    channel = engine.channel(items._source.collection_id)
    calls = {
        "add": lambda: items.add_field("y", gv.Int64(nullable=True)),
        "drop": lambda: items.drop_field("x"),
        "truncate": items.truncate,
    }
    interrupted(calls[change], channel, 2)  # after the manifest was read
    here = items.columns, items.count()
    assert (
        here
        == {
            "add": (("id", "v", "x", "y"), 10),
            "drop": (("id", "v"), 10),
            "truncate": (("id", "v", "x"), 0),
        }[change]
    )
    items.insert(rows(100))
    assert items.count() == here[1] + 10


@pytest.mark.embedded
def test_an_interrupted_flush_leaves_every_row_once(items):
    channel = engine_of(items).channel(items._source.collection_id)
    for count in (1, 2, 3):
        items.insert(rows(100 * count))
        interrupted(items.flush, channel, count)
    items.flush()
    assert items.stats()["stored_rows"] == len(ids_of(items)) == 40


@pytest.mark.embedded
def test_an_interrupted_create_or_drop_is_seen_as_it_is_on_disk(db, items):
    engine = engine_of(items)
    interrupted(lambda: db.create_collection("more", SCHEMA), engine, 3)
    assert db.collections() == ["items", "more"]
    db["more"].insert(rows(0))
    interrupted(lambda: db.drop_collection("items"), engine)
    with pytest.raises(gv.NotFoundError):
        items.insert(rows(10))
    assert db.collections() == ["more"]


@pytest.mark.embedded
def test_an_interrupted_close_lets_go_of_the_database(tmp_path, monkeypatch):
    real = Committer.stop

    def stop(self):
        real(self)
        raise KeyboardInterrupt

    db = gv.connect(tmp_path / "db")
    db.create_collection("items", SCHEMA).insert(rows(0))
    with monkeypatch.context() as patch:
        patch.setattr(Committer, "stop", stop)
        with pytest.raises(KeyboardInterrupt):
            db.close()
    with gv.connect(tmp_path / "db") as again:
        again["items"].insert(rows(10))
        assert ids_of(again["items"]) == list(range(20))


# Drops


@pytest.mark.embedded
def test_a_read_under_way_outlives_the_drop_of_its_collection(tmp_path, db, items):
    items.flush()
    items.insert(rows(10))
    items.flush()
    batches = items.select("id").to_batches(5)
    first = next(batches)
    db.drop_collection("items")
    rest = list(batches)
    assert len(first) + sum(map(len, rest)) == 20
    with pytest.raises(gv.NotFoundError, match="GV-608"):
        items.count()
    db.create_collection("other", SCHEMA)
    db.drop_collection("other")  # which also deletes what had to wait
    assert not list((tmp_path / "db" / "collections").rglob("*"))


def test_files_of_a_dropped_collection_do_not_come_back(tmp_path, db, items):
    errors: list[BaseException] = []

    def write(start):
        try:
            for n in range(1000):
                items.insert(rows(start + 10 * n))
                items.flush()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=write, args=(k * 10**6,)) for k in (1, 2, 3)]
    for thread in threads:
        thread.start()
    while items.count() < 100:
        pass
    db.drop_collection("items")
    for thread in threads:
        thread.join()
    assert [getattr(error, "code", error) for error in errors] == ["GV-608"] * 3
    assert not [p for p in (tmp_path / "db" / "collections").rglob("*") if p.is_file()]


@pytest.mark.parametrize("name", ["c-left", "c-", "c-0"])  # the last two begin other names
def test_files_that_no_collection_has_are_deleted_by_the_next_writer(tmp_path, name):
    with gv.connect(tmp_path / "db") as db:
        db.create_collection("items", SCHEMA).insert(rows(0))
    left = tmp_path / "db" / "collections" / name / "manifest"
    os.makedirs(left)
    (left / "00000000000000000001.json").write_text("{}")
    with gv.connect(tmp_path / "db") as db:
        db["items"].insert(rows(10))
    assert not (left / "00000000000000000001.json").exists()
    with gv.connect(tmp_path / "db") as db:
        assert ids_of(db["items"]) == list(range(20))


@pytest.mark.parametrize("laid_out", ["before", "after", "flushed"])
def test_a_query_made_before_a_field_was_dropped_says_that_it_is_gone(items, laid_out):
    items.add_field("x", gv.Int64(nullable=True), default=5)
    items.add_field("w", gv.Vector(2, nullable=True))
    if laid_out != "before":
        both = {"x": np.arange(10), "w": np.ones((10, 2), np.float32)}
        items.insert(rows(10) | both)
    if laid_out == "flushed":
        items.flush()
    queries = (
        items.search(np.ones(4, np.float32), k=1, on="v"),
        items.filter("x == 5").select("id"),
        items.select("id", "x"),
        items.search(np.ones(2, np.float32), k=1, on="w"),
    )
    other = items.select("id")
    items.drop_field("x")
    items.drop_field("w")
    for query in queries:
        with pytest.raises(gv.NotFoundError, match="GV-104"):
            query.to_arrow()
    assert other.count() in (10, 20)
    items.add_field("x", gv.String(nullable=True))
    with pytest.raises(gv.NotFoundError, match="GV-104"):
        queries[2].to_arrow()
