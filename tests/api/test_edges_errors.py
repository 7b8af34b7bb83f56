"""The section "Errors" of the API page: the texts it prints, the classes, when each comes."""

import inspect
import pickle

import pytest

import gpuvec as gv
from gpuvec import errors

ALSO = {
    "NotFoundError": LookupError,
    "AlreadyExistsError": ValueError,
    "SchemaError": ValueError,
    "FilterError": ValueError,
    "QueryError": ValueError,
    "DeviceMemoryError": MemoryError,
    "ResultTooLargeError": MemoryError,
    "ConflictError": RuntimeError,
    "StorageError": OSError,
    "CorruptError": OSError,
    "UnavailableError": ConnectionError,
    "DeadlineError": TimeoutError,
    "SnapshotExpiredError": LookupError,
    "QuotaError": RuntimeError,
    "AccessDeniedError": PermissionError,
    "JobError": RuntimeError,
    "UnsupportedError": NotImplementedError,
}


@pytest.fixture
def small(db):
    schema = gv.Schema(
        {
            "id": gv.Int64(),
            "name": gv.String(nullable=True),
            "n": gv.Int8(),
            "t": gv.Timestamp(nullable=True),
            "v": gv.Vector(2),
        },
        primary_key="id",
    )
    c = db.create_collection("small", schema)
    c.insert([row(1), row(2)])
    return c


def row(key, **changes):
    return {"id": key, "name": "a", "n": 1, "t": None, "v": [1.0, 2.0], **changes}


# The texts on the page


def test_the_text_of_an_unknown_field(items):
    c = gv.col
    with pytest.raises(gv.NotFoundError) as caught:
        items.filter(c("prcie") < 10)
    assert str(caught.value) == (
        '[GV-104] no field "prcie" in collection "items". Did you mean "price"?\n'
        "  fields: id, title, brand, country, ts, price, tags, embedding"
    )


def test_the_text_of_a_broken_filter(items):
    with pytest.raises(gv.FilterError) as caught:
        items.filter("price <<< 10")
    assert caught.value.code == "GV-201"
    *_, text, mark = str(caught.value).splitlines()
    assert text.strip() == "price <<< 10"
    assert mark.strip() == '^ expected a value, a field or "("'
    assert mark.index("^") == text.index("<<<") + 1


def test_the_text_of_queries_of_another_dimension(items, Q):
    for queries in (Q[:, :5], Q[0, :5], Q[:, :5].tolist()):
        with pytest.raises(gv.SchemaError) as caught:
            items.search(queries)
        first = str(caught.value).splitlines()[0]
        assert first == ('[GV-113] queries have 5 dimensions; field "embedding" of "items" has 128')


# The classes


@pytest.mark.parametrize("name", ALSO)
def test_every_error_derives_from_gpuvec_error_and_its_builtin(name):
    kind = getattr(gv, name)
    assert issubclass(kind, gv.GpuvecError)
    assert issubclass(kind, ALSO[name])


def test_there_are_no_other_error_classes():
    classes = {
        name
        for name, value in vars(errors).items()
        if inspect.isclass(value) and issubclass(value, gv.GpuvecError)
    }
    assert classes == {*ALSO, "GpuvecError"}


@pytest.mark.parametrize(
    "name", ["RecallWarning", "FallbackWarning", "CastWarning", "CacheWarning"]
)
def test_warnings_can_be_filtered(name):
    assert issubclass(getattr(gv, name), Warning)


BAD = {
    "unknown field": lambda db, c: c.filter("nme == 'a'"),
    "unknown collection": lambda db, c: db["smal"],
    "unknown partition": lambda db, c: c.partition("x"),
    "taken name": lambda db, c: db.create_collection("small", c.schema),
    "wrong type": lambda db, c: c.insert([row(3, n="many")]),
    "null": lambda db, c: c.insert([row(3), row(4, n=None)]),
    "dimension": lambda db, c: c.insert([row(3, v=[1.0])]),
    "duplicate": lambda db, c: c.insert([row(3), row(3)]),
    "syntax": lambda db, c: c.filter("name =="),
    "type": lambda db, c: c.filter("name > 3"),
    "k": lambda db, c: c.search([1, 2], k=-1),
    "closed": lambda db, c: (db.close(), c.count()),
    "external": lambda db, c: db.create_collection("x", external="*.parquet", primary_key="id"),
}


@pytest.mark.parametrize("case", BAD)
def test_errors_carry_a_stable_code_a_hint_and_details(db, small, case):
    with pytest.raises(gv.GpuvecError) as caught:
        BAD[case](db, small)
    error = caught.value
    assert error.code.startswith("GV-")
    assert error.code[3:].isdigit()
    assert isinstance(error.details, dict)
    assert str(error).startswith(f"[{error.code}] ")
    assert error.hint or "hint" not in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), str(again), again.details) == (type(error), str(error), error.details)


# When each comes, what it tells


def test_not_found_tells_what_exists_and_the_nearest_name(db, small):
    with pytest.raises(gv.NotFoundError, match=r'Did you mean "small"\?') as caught:
        db["smal"]
    assert caught.value.details["known"] == ["small"]
    small.insert([row(5)], partition="2026-11")
    with pytest.raises(gv.NotFoundError, match=r'Did you mean "2026-11"\?'):
        small.partition("2026-12")


def test_already_exists_tells_of_exist_ok_and_of_opening_it(db, small):
    with pytest.raises(gv.AlreadyExistsError) as caught:
        db.create_collection("small", small.schema)
    assert "exist_ok=True" in str(caught.value)
    assert 'db["small"]' in str(caught.value)
    assert db.create_collection("small", small.schema, exist_ok=True).count() == 2


@pytest.mark.parametrize(
    ("changes", "field", "words"),
    [
        ({"n": 300}, "n", ["int8", "300"]),
        ({"n": 1.5}, "n", ["int8", "1.5"]),
        ({"n": None}, "n", ["null"]),
        ({"name": 7}, "name", ["string"]),
        ({"v": [1.0, 2.0, 3.0]}, "v", ["2", "3"]),
        ({"v": None}, "v", ["null"]),
        ({"v": [1.0, float("nan")]}, "v", ["nan"]),
        ({"t": "yesterday"}, "t", ["iso 8601", "yesterday"]),
    ],
)
def test_a_schema_error_tells_field_row_wanted_and_got(small, changes, field, words):
    version = small.version
    if field == "name" or changes.get("t"):  # a column has one type
        rows = [row(10, **changes), row(11, **changes)]
    else:
        rows = [row(10), row(11, **changes)]
    with pytest.raises(gv.SchemaError) as caught:
        small.insert(rows)
    text = str(caught.value).lower()
    assert f'"{field}"' in text
    for word in words:
        assert word in text
    if len(words) == 2 and field in ("n", "v"):
        assert caught.value.details["row"] == 1
        assert "row 1" in text
    assert small.count() == 2
    assert small.version == version


def test_a_duplicate_key_names_both_rows(small):
    with pytest.raises(gv.SchemaError, match="rows 1 and 3") as caught:
        small.insert([row(10), row(11), row(12), row(11)])
    assert caught.value.details["key"] == 11
    assert small.count() == 2


def test_columns_that_are_missing_or_unknown_are_named(small):
    lacking = {k: v for k, v in row(10).items() if k != "n"}
    with pytest.raises(gv.SchemaError, match='"n"'):
        small.insert([lacking])
    with pytest.raises(gv.NotFoundError, match=r'"nmae".*Did you mean "name"\?'):
        small.insert([row(10, nmae="x")])
    assert small.insert([{k: v for k, v in row(10).items() if k != "t"}]).inserted == 1


@pytest.mark.parametrize(
    ("text", "mark"),
    [
        ("n ==", 4),
        ("n = 1", 2),
        ("n == 1 and", 10),
        ("(n == 1", 7),
        ("n in 3", 5),
        ("name like 3", 10),
        ("n == 'x'", None),
        ("name > 3", None),
        ("n + name > 1", None),
        ("n", None),
        ("v == 1", None),
    ],
)
def test_a_filter_error_shows_the_text_with_a_caret(small, text, mark):
    with pytest.raises(gv.FilterError) as caught:
        small.filter(text)
    lines = str(caught.value).splitlines()
    place = next(number for number, line in enumerate(lines) if line.strip() == text)
    caret = lines[place + 1]
    assert "^" in caret
    if mark is not None:
        assert caret.index("^") - lines[place].index(text) == mark


def test_an_empty_filter_is_an_error(small):
    for text in ("", "   "):
        with pytest.raises(gv.FilterError):
            small.filter(text)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 0}, ["k"]),
        ({"k": -3}, ["k"]),
        ({"k": 2.5}, ["k", "2.5"]),
        ({"k": True}, ["k"]),
        ({"k": "10"}, ["k"]),
        ({"recall": 0}, ["recall"]),
        ({"recall": 1.5}, ["recall", "1.5"]),
        ({"recall": 0.9, "exact": True}, ["recall", "exact"]),
        ({"params": {"ef": 1}}, ["params"]),
        ({"radius": float("nan")}, ["radius"]),
        ({"radius": (0.5, 0.1)}, ["radius"]),
        ({"radius": (0.1, 0.2, 0.3)}, ["radius"]),
        ({"radius": "near"}, ["radius"]),
        ({"group_size": 2}, ["group_size", "group_by"]),
        ({"group_by": "name", "group_size": 0}, ["group_size"]),
        ({"exclude_self": True}, ["exclude_self"]),
        ({"query_on": "v"}, ["query_on"]),
        ({"query_id": "id"}, ["query_id"]),
        ({"metric": "hamming"}, ["hamming", "cosine"]),
        ({"on": "name"}, ["name", "v"]),
    ],
)
def test_a_query_error_names_the_options(small, options, words):
    with pytest.raises(gv.QueryError) as caught:
        small.search([1.0, 2.0], **options)
    for word in words:
        assert word in str(caught.value)


def test_delete_and_update_do_not_touch_everything_by_mistake(small):
    for call in (
        lambda: small.delete(),
        lambda: small.delete(ids=[1], filter="id == 1"),
        lambda: small.delete("id == 1"),
        lambda: small.delete(gv.col("id") == 1),
    ):
        with pytest.raises(gv.QueryError, match="exactly one of"):
            call()
    with pytest.raises(TypeError):
        small.update({"n": 1})
    with pytest.raises(gv.GpuvecError):
        small.update({"n": 1}, filter=None)
    assert small.count() == 2


def test_a_filter_given_to_delete_in_the_place_of_a_frame_is_told_its_name(small):
    with pytest.raises(gv.QueryError, match="filter="):
        small.delete("id == 1")


def test_a_result_says_how_to_walk_its_rows(small):
    result = small.collect()
    for use in (list, lambda hits: hits[0]):
        with pytest.raises(gv.GpuvecError):
            use(result)


def test_a_hint_is_about_the_call_that_failed(small):
    with pytest.raises(gv.QueryError, match="left_on") as caught:
        small.join(small)
    assert "truncate" not in str(caught.value)


def test_the_primary_key_cannot_be_updated(small):
    with pytest.raises(gv.SchemaError, match='"id"'):
        small.update({"id": 9}, filter="id == 1")


def test_options_of_connect_are_checked_with_errors_of_ours(tmp_path):
    for options in (
        {"memory_limit": "lots"}, {"memory_limit": -5}, {"device": "tpu"}, {"durability": "maybe"},
        {"cluster": 3}, {"storage_options": {"key": 1}},
    ):  # fmt: skip
        with pytest.raises(gv.GpuvecError):
            gv.connect(tmp_path / "x", **options)
    assert not (tmp_path / "x").exists()


def test_what_is_no_name_is_no_collection(db, small):
    for name in (5, None, "", b"small"):
        with pytest.raises(gv.NotFoundError):
            db[name]


def test_rows_to_delete_need_the_primary_key(small):
    without = small.filter("id == 1").select("name")
    for rows in (without, without.collect(), small.drop("id"), {"name": ["a"]}):
        with pytest.raises(gv.NotFoundError, match='"id"'):
            small.delete(rows)
    assert small.count() == 2


def test_an_error_of_aggregates_comes_when_the_query_is_built(small):
    with pytest.raises(gv.GpuvecError):
        small.group_by("n").agg(x=gv.col("name").mean())
    with pytest.raises(gv.GpuvecError):
        small.group_by("n").agg(x=gv.col("name"))


def test_a_computed_column_of_nulls_is_refused_in_its_own_words(small):
    with pytest.raises(gv.GpuvecError) as caught:
        small.with_columns(x=None)
    assert "equal" not in caught.value.message
