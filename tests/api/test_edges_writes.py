"""What a sceptical reader would write: odd keys, rows, texts, numbers, times."""

import datetime

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gpuvec as gv
from tests.api.edges import make, reopened, rows, sorted_ids

LOW, HIGH = -(2**63), 2**63 - 1


# Keys


def test_the_extremes_of_int64_are_keys(tmp_path):
    keys = [LOW, LOW + 1, -1, 0, 1, HIGH - 1, HIGH]
    with gv.connect(tmp_path / "shop") as db:
        c = make(db)
        c.insert(rows(keys))
        with pytest.raises(gv.SchemaError):
            c.insert(rows([HIGH]))

    def check(c):
        assert sorted_ids(c) == keys
        assert c.get([HIGH, LOW]).to_arrow()["id"].to_pylist() == [HIGH, LOW]
        assert c.filter(f"id == {HIGH}").count() == c.filter(gv.col("id") == LOW).count() == 1
        assert c.filter(f"id > {HIGH - 1}").count() == 1
        assert c.filter("id < 9223372036854775808").count() == 7
        assert c.filter(f"id in [{LOW}, {HIGH - 1}]").count() == 2
        assert c.search([1, 1], k=7).to_arrow()["id"].to_pylist() == keys
        found = c.search(c.get([LOW]), k=1, exclude_self=True).to_arrow()
        assert found["query_id"].to_pylist() == [LOW]
        assert found["id"].to_pylist() == [LOW + 1]

    reopened(tmp_path, check)
    with gv.connect(tmp_path / "shop") as db:
        assert db["c"].delete(ids=[LOW, HIGH]).deleted == 2
        assert sorted_ids(db["c"]) == keys[1:-1]


@pytest.mark.parametrize("key", [2**63, -(2**63) - 1, 1.5, "one", None, float("nan")], ids=repr)
def test_what_is_no_int64_is_no_key(db, key):
    c = make(db)
    with pytest.raises(gv.SchemaError):
        c.insert([{"id": key, "v": [1, 1]}])
    assert c.count() == 0


def test_whole_floats_and_bools_as_keys_are_taken_whole_or_refused(db):
    c = make(db)
    try:
        c.insert({"id": np.array([1.0, 2.0]), "v": np.ones((2, 2))})
    except gv.SchemaError:
        assert c.count() == 0
    else:
        assert sorted_ids(c) == [1, 2]
    with pytest.raises(gv.SchemaError):
        c.insert({"id": [True, False], "v": np.ones((2, 2))})


ODD = [
    "", " ", "a", "A", "ä", "a\u0308", "𝄞", "日本", "\n\t", 'quote"', "it's", "back\\slash", "{p}",
    "%_", "null", "\u202e", "x" * 100_000, "a\0b",
]  # fmt: skip


def test_any_text_is_a_key(tmp_path):
    with gv.connect(tmp_path / "shop") as db:
        make(db, gv.String()).insert(rows(ODD))

    def check(c):
        assert sorted_ids(c) == sorted(ODD)
        for text in ODD:
            assert c.filter(gv.col("id") == text).count() == 1
            assert c.filter(str(gv.col("id") == text)).count() == 1
            assert c.filter("id == {t}", params={"t": text}).count() == 1
            assert c.get([text]).to_arrow()["id"].to_pylist() == [text]
        wanted = sorted(ODD, key=lambda text: text.encode())
        assert c.search([1, 1], k=len(ODD)).to_arrow()["id"].to_pylist() == wanted

    reopened(tmp_path, check)
    with gv.connect(tmp_path / "shop") as db:
        assert db["c"].delete(ids=ODD).deleted == len(ODD)


def test_only_integers_and_texts_are_primary_keys(db):
    for kind in (gv.Float32(), gv.Bool(), gv.Timestamp(), gv.Vector(2), gv.Int64(nullable=True)):
        with pytest.raises(gv.SchemaError, match="primary key"):
            gv.Schema({"id": kind, "v": gv.Vector(2)}, primary_key="id")
    with pytest.raises(gv.NotFoundError):
        gv.Schema({"id": gv.Int64()}, primary_key="key")
    with pytest.raises(gv.SchemaError):
        db.create_collection("b", data=rows([True, False]), primary_key="id")


def test_ids_of_another_type_are_refused(db):
    c = make(db)
    c.insert(rows([1, 2]))
    for ids in (["1"], [1.5], [None, "x"], [2**70], {"id": 1}, object()):
        with pytest.raises(gv.GpuvecError):
            c.delete(ids=ids)
        with pytest.raises(gv.GpuvecError):
            c.get(ids).count()
    assert c.count() == 2


def test_get_takes_any_sequence_keeps_its_order_and_leaves_out_what_is_not_there(db):
    c = make(db)
    c.insert(rows([1, 2, 3]))
    for form in (list, tuple, np.array, pa.array, pd.Series, pl.Series, iter):
        ids = form([3, 9, 1])
        assert c.get(ids).to_arrow()["id"].to_pylist() == [3, 1]
    assert c.get([]).count() == 0


# Rows


@pytest.mark.parametrize(
    "none",
    [
        pd.DataFrame({"id": np.array([], np.int64), "v": []}),
        pl.DataFrame(schema={"id": pl.Int64, "v": pl.Array(pl.Float32, 2)}),
        pa.table({"id": pa.array([], pa.int64()), "v": pa.array([], pa.list_(pa.float32(), 2))}),
        {"id": [], "v": np.empty((0, 2))},
        {"id": [], "v": []},
        [],
    ],
    ids=["pandas", "polars", "arrow", "arrays", "lists", "dicts"],
)
def test_a_write_of_no_rows_does_nothing(db, none):
    c = make(db)
    version = c.insert(rows([1])).version
    for write in (c.insert, c.upsert):
        result = write(none)
        assert (result.inserted, result.updated, result.deleted) == (0, 0, 0)
        assert len(result.ids) == 0
        assert result.version == version
    assert c.delete(ids=[]).deleted == 0
    assert sorted_ids(c) == [1]


@pytest.mark.parametrize(
    "bad",
    [
        lambda: pd.DataFrame([[1, 2, 2]], columns=["id", "n", "n"]),
        lambda: pa.table([pa.array([1]), pa.array([2]), pa.array([2])], ["id", "n", "n"]),
        lambda: {"id": [1, 2], "n": [1], "v": np.ones((2, 2))},
        lambda: [{"id": 1, "n": 1, "v": [1.0]}, {"id": 2, "n": 1, "v": [1.0, 2.0]}],
        lambda: [{"id": 1, "n": 1, "v": [[1.0, 2.0]]}],
        lambda: [{"id": 1, "n": 1, "v": "1,2"}],
        lambda: {"id": [1], "n": [1], "v": np.ones((1, 2, 2))},
        lambda: "rows.parquet",
        lambda: 7,
        lambda: None,
        lambda: [1, 2],
        lambda: [{"id": 1, "n": 1, "v": [1.0, 2.0]}, 5],
        lambda: object(),
    ],
)  # fmt: skip
def test_data_that_makes_no_rows_is_refused_with_an_error_of_ours(db, bad):
    c = make(db, n=gv.Int32())
    version = c.version
    with pytest.raises(gv.GpuvecError):
        c.insert(bad())
    assert c.count() == 0
    assert c.version == version


def test_huge_texts_lists_and_json_come_back(tmp_path):
    text = "𝄞ä" * 500_000
    deep = {"a": [{"b": list(range(1000))}], "c": text[:1000]}
    with gv.connect(tmp_path / "shop") as db:
        c = make(db, s=gv.String(), l=gv.List(gv.Int64()), j=gv.JSON())
        c.insert([{"id": 1, "s": text, "l": list(range(50_000)), "j": deep, "v": [1, 1]}])

    def check(c):
        found = c.to_arrow().to_pylist()[0]
        assert found["s"] == text
        assert found["l"] == list(range(50_000))
        assert c.filter('j["a"][0]["b"][999] == 999').count() == 1
        assert c.filter("array_length(l) == 50000 and array_contains(l, 49999)").count() == 1
        assert len(repr(c.collect())) < 10_000

    reopened(tmp_path, check)


def test_negative_zero_equals_zero(tmp_path):
    with gv.connect(tmp_path / "shop") as db:
        c = make(db, x=gv.Float64())
        c.insert(rows([1, 2], x=[-0.0, 0.0]))
        c.flush()

    def check(c):
        assert sorted_ids(c.filter("x == 0")) == [1, 2]
        assert sorted_ids(c.filter("x >= 0.0")) == [1, 2]
        assert sorted_ids(c.filter("x <= -0.0")) == [1, 2]
        assert c.filter("x in [0.0]").count() == 2
        assert c.filter("x < 0").count() == 0
        assert c.group_by("x").agg(n=gv.count()).to_arrow()["n"].to_pylist() == [2]
        assert c.distinct("x").count() == 1

    reopened(tmp_path, check)


def test_numbers_at_the_ends_of_their_types_come_back(tmp_path):
    info = np.finfo(np.float32)
    values = {
        "i": [LOW, HIGH], "j": [-128, 127], "x": [float("inf"), -1e308],
        "y": np.array([info.max, info.smallest_subnormal], np.float32),
    }  # fmt: skip
    with gv.connect(tmp_path / "shop") as db:
        c = make(db, i=gv.Int64(), j=gv.Int8(), x=gv.Float64(), y=gv.Float32())
        c.insert(rows([1, 2], **values))

    def check(c):
        found = c.sort("id").to_arrow().to_pydict()
        assert found["i"] == [LOW, HIGH]
        assert found["j"] == [-128, 127]
        assert found["x"] == [float("inf"), -1e308]
        assert found["y"] == values["y"].tolist()
        assert sorted_ids(c.filter(f"i == {HIGH}")) == [2]
        assert sorted_ids(c.filter("x > 1e308")) == [1]
        assert sorted_ids(c.filter("j < -127")) == [1]

    reopened(tmp_path, check)


@pytest.mark.parametrize("zone", ["UTC", "Asia/Tokyo", None])
def test_times_are_instants(tmp_path, zone):
    times = pd.to_datetime(
        format="ISO8601", arg=["1969-12-31T23:59:59.999999", "2262-04-11T00:00", "2026-11-01T12:00"]
    )
    times = times.tz_localize("UTC").tz_convert(zone) if zone else times
    with gv.connect(tmp_path / "shop") as db:
        make(db, t=gv.Timestamp(nullable=True)).insert(
            pd.DataFrame({"id": [1, 2, 3], "t": times, "v": [np.ones(2)] * 3})
        )

    def check(c):
        found = c.sort("id").to_arrow()["t"].to_pylist()
        assert found[0] == datetime.datetime(1969, 12, 31, 23, 59, 59, 999999, datetime.UTC)
        assert found[2] == datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)
        assert sorted_ids(c.filter('t < "1970-01-01T00:00Z"')) == [1]
        assert sorted_ids(c.filter(gv.col("t") >= found[2])) == [2, 3]

    reopened(tmp_path, check)


# Definitions and dynamic columns


@pytest.mark.parametrize(
    "kind",
    [
        lambda: gv.Int32(default="x"),
        lambda: gv.Int8(default=300),
        lambda: gv.String(default=5),
        lambda: gv.List(gv.Int32(), default=["a"]),
        lambda: gv.Timestamp(default="soon"),
    ],
)
def test_a_default_that_does_not_fit_is_refused_and_harms_nothing(db, kind):
    c = make(db)
    c.insert(rows([1]))
    with pytest.raises(gv.SchemaError):
        c.add_field("x", kind())
    with pytest.raises(gv.SchemaError):
        c.add_field("x", gv.Int32(), default="y")
    assert c.columns == ("id", "v")
    assert c.to_arrow().num_rows == 1
    with pytest.raises(gv.SchemaError):
        make(db, name="d", x=kind())
    assert db.collections() == ["c"]


def test_a_time_is_a_default(tmp_path):
    noon = datetime.datetime(2026, 11, 1, 12, tzinfo=datetime.UTC)
    with gv.connect(tmp_path / "shop") as db:
        make(db, t=gv.Timestamp(default=noon)).insert(rows([1]))

    def check(c):
        assert c.to_arrow()["t"].to_pylist() == [noon]

    reopened(tmp_path, check)


@pytest.mark.parametrize("item", [lambda: gv.Vector(3), lambda: gv.List(gv.Int32()), lambda: str])
def test_lists_are_of_scalars(item):
    with pytest.raises(gv.SchemaError):
        gv.Schema({"id": gv.Int64(), "x": gv.List(item())}, primary_key="id")


@pytest.fixture
def loose(db):
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, primary_key="id", dynamic=True)
    return db.create_collection("loose", schema)


def test_dynamic_columns_are_columns_everywhere(loose):
    loose.insert(rows([1, 2, 3], a=[3, 1, 1]))
    assert sorted_ids(loose.filter("a == 1")) == [2, 3]
    assert loose.select("id", "a").count() == 3
    assert loose.sort("a", "id").to_arrow()["id"].to_pylist() == [2, 3, 1]
    assert sorted(loose.group_by("a").agg(n=gv.count()).to_arrow()["n"].to_pylist()) == [1, 2]
    assert loose.search([1, 1], k=2, group_by="a").to_arrow()["id"].to_pylist() == [1, 2]
    assert loose.update({"a": 9}, filter="id == 1").updated == 1
    assert sorted_ids(loose.filter("a == 9")) == [1]


def test_dynamic_values_need_no_one_type(loose):
    values = [1, "x", None, [1, "y"], {"b": 2}, True, 1.5]
    loose.insert([{"id": n, "v": [1, 1], "a": value} for n, value in enumerate(values)])
    assert sorted_ids(loose.filter("a == 'x'")) == [1]
    assert sorted_ids(loose.filter("a['b'] == 2")) == [4]
    assert sorted_ids(loose.filter("a is null")) == [2]
