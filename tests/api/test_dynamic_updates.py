"""Updates of columns that no field names."""

import datetime
import json

import pytest

import gpuvec as gv


@pytest.fixture(params=["growing", "flushed"])
def loose(request, tmp_path):
    schema = gv.Schema({"id": gv.Int64(), "n": gv.Int32()}, "id", dynamic=True)
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection("loose", schema)
        items.insert([{"id": 1, "n": 5, "a": 3, "b": "x"}, {"id": 2, "n": 6, "b": 'q"'}])
        items.insert([{"id": 3, "n": 7}])
        if request.param == "flushed":
            items.flush()
        yield items


def objects(items):
    texts = items.sort("id").select("id", "$meta").to_arrow()["$meta"].to_pylist()
    return [None if text is None else json.loads(text) for text in texts]


def test_one_value_is_set_in_all_rows_and_others_stay(loose):
    assert loose.update({"a": 9, "n": 1}, filter="id > 0").updated == 3
    assert objects(loose) == [{"a": 9, "b": "x"}, {"b": 'q"', "a": 9}, {"a": 9}]
    assert loose.filter("a == 9 and n == 1").count() == 3


def test_expressions_see_the_old_row(loose):
    loose.update({"a": gv.col("n") * 2, "c": gv.col("b")}, filter="id >= 1")
    assert objects(loose) == [
        {"a": 10, "b": "x", "c": "x"},
        {"b": 'q"', "a": 12, "c": 'q"'},
        {"a": 14},
    ]


@pytest.mark.parametrize("value", ['é\\"', True, [1, "y"], {"k": {"b": None}}, 1.5])
def test_any_json_value_can_be_set(loose, value):
    loose.update({"a": value}, filter="id == 2")
    assert objects(loose)[1] == {"b": 'q"', "a": value}


def test_null_takes_the_value_away(loose):
    loose.update({"a": None}, filter="id > 0")
    assert loose.filter("a is null").count() == 3
    assert objects(loose)[2] is None


def test_a_time_becomes_text(loose):
    loose.update({"a": datetime.datetime(2026, 1, 2)}, filter="id == 3")
    assert objects(loose)[2] == {"a": "2026-01-02T00:00:00"}


@pytest.mark.parametrize("name", ["_gv_dynamic", "_gv_x", "$meta"])
def test_hidden_names_cannot_be_set(loose, name):
    with pytest.raises(gv.NotFoundError, match="GV-104"):
        loose.update({name: "{}"}, filter="id == 1")


def test_a_value_without_json_form_is_refused(loose):
    with pytest.raises(gv.SchemaError, match="GV-115"):
        loose.update({"a": object()}, filter="id == 1")
    with pytest.raises(gv.QueryError, match="GV-168"):
        loose.update({}, filter="id == 1")
