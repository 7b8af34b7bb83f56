"""Rows without a vector can be found, changed and deleted by asking for them."""

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv

KINDS = {
    "dense": (gv.Vector(2, nullable=True), [[1.0, 2.0], None, [0.0, 1.0], None]),
    "binary": (gv.BinaryVector(8, nullable=True), [b"\x01", None, b"\x07", None]),
    "sparse": (gv.SparseVector(nullable=True), [{3: 1.0}, None, {5: 2.0}, None]),
}


@pytest.fixture(params=["log", "files"])
def items(request, db):
    """Rows 2 and 4 have no vector; the rows are only in the log, or in segment files."""
    return make(db, "dense", flush=request.param == "files")


def make(db, kind, *, flush):
    field, values = KINDS[kind]
    schema = gv.Schema({"id": gv.Int64(), "n": gv.Int64(), "v": field}, primary_key="id")
    items = db.create_collection("items", schema)
    items.insert([{"id": 1 + at, "n": 0, "v": value} for at, value in enumerate(values)])
    if flush:
        items.flush()
    return items


def ids(frame):
    return sorted(frame.to_arrow()["id"].to_pylist())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flush", [False, True])
def test_rows_without_a_vector_are_found_whatever_its_kind(db, kind, flush):
    items = make(db, kind, flush=flush)
    assert ids(items.filter("v is null")) == ids(items.filter(gv.col("v").is_null())) == [2, 4]
    assert ids(items.filter("v is not null")) == [1, 3]
    assert ids(items.filter("not (v is null or id == 3)")) == [1]
    assert items.filter("v is null").filter("id > 2").count() == 1


def test_rows_without_a_vector_are_deleted(items):
    assert items.delete(filter="v is null and id > 2").deleted == 1
    assert ids(items) == [1, 2, 3]
    assert items.delete(filter=gv.col("v").is_not_null()).deleted == 2
    assert ids(items) == [2]


def test_rows_without_a_vector_are_updated(items):
    assert items.update({"v": [5.0, 5.0], "n": 7}, filter="v is null").updated == 2
    assert items.filter("v is null").count() == 0
    assert ids(items.filter("n == 7")) == [2, 4]
    assert items.update({"v": None}, filter="id == 1").updated == 1
    assert ids(items.filter("v is null")) == [1]


def test_writes_may_ask_for_distances(items):
    near = gv.col("v").distance([1.0, 2.0], metric="l2") < 0.5
    assert items.update({"n": 5}, filter=near).updated == 1
    assert ids(items.filter("n == 5")) == [1]
    assert items.delete(filter=near).deleted == 1
    assert ids(items) == [2, 3, 4]


def test_a_field_added_later_is_null_in_the_rows_before_it(items):
    items.add_field("w", gv.Vector(3, nullable=True))
    items.insert([{"id": 9, "n": 0, "v": None, "w": [1.0, 2.0, 3.0]}])
    assert ids(items.filter("w is null")) == [1, 2, 3, 4]
    assert ids(items.filter("w is not null")) == [9]
    assert items.delete(filter="w is null and v is null").deleted == 2
    assert ids(items) == [1, 3, 9]


def test_whether_there_is_a_vector_is_a_value(items):
    found = items.with_columns(bare=gv.col("v").is_null()).sort("id").to_arrow()
    assert found["bare"].to_pylist() == [False, True, False, True]


def test_a_vector_that_may_not_be_null_never_is(db):
    data = {"id": np.arange(3), "v": np.ones((3, 2), np.float32)}
    items = db.create_collection("items", data=data, primary_key="id")
    assert items.filter("v is null").count() == 0
    assert items.filter("v is not null").count() == 3


def test_frames_in_memory_know_null_vectors():
    lists = pa.array([[1.0, 2.0], None], pa.list_(pa.float32(), 2))
    assert gv.frame(pa.table({"id": [1, 2], "v": lists})).filter("v is null").count() == 1
