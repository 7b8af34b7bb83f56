"""What a sceptical reader would do over time: names, threads, closing, damage, reopening."""

import threading

import numpy as np
import pandas as pd
import pytest

import gpuvec as gv
from tests.api.edges import make, reopened, rows, sorted_ids

# Names


NAMES = [
    "2026-11", "ä ö", "日本", "a.b", "..", ".", "C:", "*", "?", "a'b", '"', "%2F", "𝄞", "x" * 80,
    " lead", "_default",
]  # fmt: skip


def test_partitions_have_any_name(tmp_path):
    with gv.connect(tmp_path / "shop") as db:
        c = make(db)
        for number, name in enumerate(NAMES):
            c.insert(rows([number]), partition=name)

    def check(c):
        assert set(NAMES) <= set(c.partitions)
        for number, name in enumerate(NAMES):
            assert c.partition(name).to_arrow()["id"].to_pylist() == [number]

    reopened(tmp_path, check)
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}
    with gv.connect(tmp_path / "shop") as db:
        db["c"].drop_partition("..")
        assert db["c"].count() == len(NAMES) - 1


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "a\nb", "x" * 300, 5])
def test_names_that_no_partition_or_collection_can_have_are_refused(db, name):
    c = make(db)
    with pytest.raises(gv.GpuvecError):
        c.insert(rows([1]), partition=name)
    with pytest.raises(gv.GpuvecError):
        db.create_collection(name, c.schema)
    assert (c.count(), db.collections()) == (0, ["c"])


def test_collections_and_fields_have_any_name(tmp_path):
    fields = {
        "a b": gv.Int32(),
        "ä": gv.Int32(),
        "in": gv.Int32(),
        "x`y": gv.Int32(),
        "9": gv.Int32(),
    }
    with gv.connect(tmp_path / "shop") as db:
        c = make(db, name="../ödd name".replace("/", "."), **fields)
        c.insert(rows([1, 2], **{name: [1, 2] for name in fields}))

    def check(c):
        for name in fields:
            assert c.filter(gv.col(name) == 2).count() == 1
            assert c.filter(str(gv.col(name) == 2)).count() == 1
            assert c.sort(name).select(name).to_arrow()[name].to_pylist() == [1, 2]

    reopened(tmp_path, check, "...ödd name")
    assert {path.name for path in tmp_path.iterdir()} == {"shop"}


@pytest.mark.parametrize("name", ["", "_gv_ts", 5, None])
def test_fields_that_cannot_be_are_refused(name):
    with pytest.raises(gv.SchemaError):
        gv.Schema({"id": gv.Int64(), name: gv.Int32()}, primary_key="id")


# Time and threads


def test_two_threads_write_and_read_and_nothing_is_lost_or_half_seen(db):
    c = make(db, n=gv.Int32())
    batch, batches = 5, 10
    problems: list[object] = []

    def write(first):
        for number in range(batches):
            start = first + number * batch
            c.insert(rows(list(range(start, start + batch)), n=[first] * batch))

    def read():
        for _ in range(20):
            ids = c.search([1, 1], k=None).to_arrow()["id"].to_pylist()
            if len(ids) % batch or len(set(ids)) != len(ids):
                problems.append(ids)

    threads = [threading.Thread(target=write, args=(first,)) for first in (0, 1000)]
    threads.append(threading.Thread(target=read))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not problems
    assert sorted_ids(c) == [*range(batch * batches), *range(1000, 1000 + batch * batches)]


def test_two_threads_insert_one_key_and_one_wins(db):
    c = make(db)
    won, lost = [], []
    start = threading.Barrier(4)

    def insert():
        start.wait()
        for key in range(20):
            try:
                c.insert(rows([key]))
                won.append(key)
            except gv.SchemaError:
                lost.append(key)

    threads = [threading.Thread(target=insert) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(won) == list(range(20))
    assert len(lost) == 60
    assert c.count() == 20


def test_a_frame_is_used_again_after_writes_and_new_fields(db):
    c = make(db, n=gv.Int32())
    frame, hits = c.filter("n > 0"), c.search([1, 1], k=10)
    c.insert(rows([1, 2], n=[0, 1]))
    assert (frame.count(), hits.count()) == (1, 2)
    c.update({"n": gv.col("n") + 1}, filter="n >= 0")
    c.flush()
    assert (frame.count(), hits.count()) == (2, 2)
    c.add_field("extra", gv.String(), default="new")
    assert (frame.count(), hits.count()) == (2, 2)
    assert set(c.to_arrow()["extra"].to_pylist()) == {"new"}
    c.truncate()
    assert (frame.count(), hits.count()) == (0, 0)


def test_reopening_again_and_again_keeps_every_kind_of_write(tmp_path):
    wanted = {}
    for turn in range(5):
        with gv.connect(tmp_path / "shop") as db:
            c = make(db, n=gv.Int32()) if turn == 0 else db["c"]
            assert (
                dict(zip(*c.select("id", "n").to_arrow().to_pydict().values(), strict=True))
                == wanted
            )
            c.insert(rows([turn * 10 + i for i in range(4)], n=[0] * 4))
            wanted |= {turn * 10 + i: 0 for i in range(4)}
            c.upsert(rows([turn * 10], n=[5]))
            c.update({"n": gv.col("n") + 1}, filter="n == 5")
            wanted = {k: 6 if v == 5 or k == turn * 10 else v for k, v in wanted.items()}
            c.delete(ids=[turn * 10 + 3])
            del wanted[turn * 10 + 3]
            if turn % 2:
                c.flush()


def test_rows_and_queries_that_were_given_are_not_changed_and_may_change(db):
    data = rows([3, 1, 2])
    frame = pd.DataFrame({"id": [7, 6], "v": list(np.ones((2, 2), np.float32))})
    before = frame.copy(deep=True)
    c = make(db)
    c.insert(data)
    c.insert(frame)
    pd.testing.assert_frame_equal(frame, before)
    data["v"][:] = -5
    frame["v"][0][:] = -5
    assert (np.stack(c.to_pandas()["v"].to_numpy()) == 1).all()


# Closing and damage


def test_storage_errors_tell_the_path(tmp_path):
    file = tmp_path / "file"
    file.write_text("x")
    with pytest.raises(gv.StorageError, match="file"):
        gv.connect(file).collections()
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "photo.jpg").write_text("x")
    with pytest.raises(gv.StorageError) as caught:
        gv.connect(folder).collections()
    assert str(folder) in str(caught.value)
    assert sorted(path.name for path in folder.iterdir()) == ["photo.jpg"]


def test_a_damaged_file_is_named_and_not_read(tmp_path):
    with gv.connect(tmp_path / "shop") as db:
        c = db.create_collection(
            "c", data={"id": np.arange(500), "v": np.ones((500, 4), np.float32)}, primary_key="id"
        )
        c.flush()
    largest = max(
        (p for p in (tmp_path / "shop").rglob("*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 1
    largest.write_bytes(data)
    with gv.connect(tmp_path / "shop") as db, pytest.raises(gv.CorruptError) as caught:
        db["c"].collect()
    assert largest.name in str(caught.value)


def test_use_after_closing_is_refused_by_every_call(db):
    small = make(db)
    small.insert(rows([1, 2]))
    frame = small.filter("id > 0")
    result = frame.collect()
    batches = frame.to_batches(1)
    next(batches)
    db.close()
    for call in (
        lambda: small.count(), lambda: frame.collect(), lambda: small.search([1, 2]).collect(),
        lambda: small.insert(rows([9])), lambda: small.delete(ids=[1]), lambda: db["small"],
        lambda: db.collections(), lambda: small.version, lambda: db.drop_collection("small"),
        lambda: db.create_collection("y", small.schema),
    ):  # fmt: skip
        with pytest.raises(gv.UnavailableError, match="closed"):
            call()
    assert len(result.to_arrow()) == 2, "rows in host memory stay"
    db.close()
