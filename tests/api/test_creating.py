"""create_collection(data=…) is one step: the collection is there with its rows, or not at all."""

import pytest

import gpuvec as gv

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, "id")
ROWS = [{"id": n, "v": [n, 1.0]} for n in range(50)]


def test_nobody_sees_a_collection_before_its_rows(db):
    with db._engine.collections.creating("items", SCHEMA) as collection_id:
        db._collection(collection_id).insert(ROWS)
        assert "items" not in db
        assert db.collections() == []
        with pytest.raises(gv.NotFoundError):
            db["items"]
        assert db._collection(collection_id).count() == 50
    assert db["items"].count() == 50


def test_rows_that_do_not_fit_leave_nothing(db):
    with pytest.raises(gv.SchemaError):
        db.create_collection("items", SCHEMA, data=[{"id": 1, "v": [1.0]}])
    assert "items" not in db
    assert not [k for k in db._engine.store.list("collections/") if "/manifest/" in k]
    assert db.create_collection("items", SCHEMA, data=ROWS).count() == 50


def test_of_two_who_take_a_name_one_gets_it(db):
    first = db._engine.collections.creating("items", SCHEMA)
    collection_id = first.__enter__()
    db._collection(collection_id).insert(ROWS)
    db.create_collection("items", SCHEMA)
    with pytest.raises(gv.AlreadyExistsError):
        first.__exit__(None, None, None)
    assert db["items"].count() == 0
    assert len(db._engine.store.folders("collections")) == 1
