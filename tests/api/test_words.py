"""How things name themselves: types, errors, databases."""

import pathlib
import pickle
import warnings

import pytest

import gpuvec as gv


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (gv.Int64(), "Int64()"),
        (gv.String(nullable=True), "String(nullable=True)"),
        (gv.Vector(128, dtype="float16"), "Vector(128, dtype='float16')"),
        (gv.List(gv.String(), default=[]), "List(String(), default=[])"),
        (gv.BinaryVector(64, metric="jaccard"), "BinaryVector(64, metric='jaccard')"),
        (gv.SparseVector(), "SparseVector()"),
        (gv.Int64(auto=True), "Int64(auto=True)"),
    ],
)
def test_a_type_shows_what_is_not_the_default(kind, text):
    assert repr(kind) == text
    assert eval(text, vars(gv) | {n: getattr(gv, n) for n in gv.__all__}) == kind


def test_errors_are_at_home_where_users_find_them():
    kinds = [k for k in (getattr(gv, n) for n in gv.__all__) if isinstance(k, type)]
    for kind in (k for k in kinds if issubclass(k, Exception)):
        assert kind.__module__ == "gpuvec"
        assert pickle.loads(pickle.dumps(kind)) is kind
    error = gv.NotFoundError("GV-104", "no", hint="yes", details={"a": 1})
    same = pickle.loads(pickle.dumps(error))
    assert (same.code, str(same), same.details) == (error.code, str(error), error.details)
    with pytest.warns(gv.RecallWarning):
        warnings.warn("low", gv.RecallWarning, stacklevel=1)


def test_an_error_class_of_a_program_stays_at_its_home():
    class OwnError(gv.QueryError):
        pass

    assert OwnError.__module__ == __name__


def test_a_database_yields_the_names_of_its_collections():
    with gv.connect("memory://") as db:
        for name in ("b", "a"):
            db.create_collection(name, gv.Schema({"id": gv.Int64()}, "id"))
        assert list(db) == ["a", "b"]


@pytest.mark.parametrize("path", ["", " "])
def test_an_empty_path_is_told_so(path):
    with pytest.raises(gv.QueryError, match="GV-514"):
        gv.connect(path)


def test_a_tilde_is_the_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    with gv.connect("~/shop") as db:
        db.create_collection("a", gv.Schema({"id": gv.Int64()}, "id"))
    assert (tmp_path / "shop" / "gpuvec.json").exists()


@pytest.mark.parametrize("limit", ["lots", -5, 0, True, "0 GB", float("nan")])
def test_a_memory_limit_is_a_size(limit):
    with pytest.raises(gv.QueryError, match="GV-702"):
        gv.connect("memory://", memory_limit=limit)


@pytest.mark.parametrize("call", ["sort", "distinct", "drop", "group_by"])
@pytest.mark.parametrize("what", [gv.col("a") + 1, gv.col("a"), 5, ["a"]])
def test_columns_are_named_and_computed_before(call, what):
    with pytest.raises(gv.QueryError, match=r"(?s)GV-371.*with_columns"):
        getattr(gv.frame({"a": [1, 2]}), call)(what)


def test_a_field_name_can_be_written():
    with pytest.raises(gv.SchemaError, match="GV-101"):
        gv.Schema({"id": gv.Int64(), "\ud800": gv.Int64()}, "id")


def test_a_path_below_an_unreadable_folder_is_refused_in_our_words(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "exists", refuse)
    with pytest.raises(gv.StorageError, match="Permission denied"):
        gv.connect(tmp_path / "closed" / "db")


def test_automatic_ids_end_in_our_words():
    with gv.connect("memory://") as db:
        items = db.create_collection(
            "a", gv.Schema({"id": gv.Int64(auto=True)}, "id", dynamic=True)
        )
        items.insert({"id": [2**63 - 1]})
        with pytest.raises(gv.SchemaError, match="GV-169"):
            items.insert({"x": [1]})
        assert items.count() == 1


def test_an_insert_finds_keys_in_segments_that_are_partly_dead():
    with gv.connect("memory://") as db:
        items = db.create_collection("a", gv.Schema({"id": gv.Int64()}, "id"))
        for start in (0, 5):
            items.insert({"id": list(range(start, start + 5))})
            items.flush()
        items.delete(filter="id < 7")
        with pytest.raises(gv.SchemaError, match="GV-157"):
            items.insert({"id": [0, 8]})
        assert items.insert({"id": [0, 6]}).inserted == 2
