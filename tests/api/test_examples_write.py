"""Examples 1, 3, 4, 6, 7, 8, 9 and 11 of the API page: connect, define, write."""

import datetime

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gpuvec as gv


@pytest.fixture
def items(db, schema):
    return db.create_collection("items", schema)


def assert_same_rows(found: pd.DataFrame, wanted: pd.DataFrame, vectors: np.ndarray) -> None:
    """Compare with the rows that were written, in the order of their ids."""
    found, order = found.sort_values("id", ignore_index=True), np.argsort(wanted["id"].to_numpy())
    wanted = wanted.iloc[order].reset_index(drop=True)
    assert list(found.columns) == list(wanted.columns)
    for name in ("id", "title", "brand", "country"):
        assert found[name].tolist() == wanted[name].tolist()
    assert (found["ts"] == wanted["ts"]).all()
    np.testing.assert_array_equal(found["price"].astype("float32"), wanted["price"])
    assert [list(tags) for tags in found["tags"]] == [list(tags) for tags in wanted["tags"]]
    np.testing.assert_array_equal(np.stack(found["embedding"].to_numpy()), vectors[order])


def test_01_a_directory_is_a_database(tmp_path, monkeypatch, schema, df):
    monkeypatch.chdir(tmp_path)
    db = gv.connect("./shop")
    assert db.collections() == []
    db.create_collection("items", schema).insert(df[:3])
    db.close()
    assert (tmp_path / "shop").is_dir()
    with gv.connect("./shop") as db:
        assert db.collections() == ["items"]
        assert db["items"].count() == 3


def test_03_a_schema_names_fields_and_the_primary_key(db):
    schema = gv.Schema({
        "id": gv.Int64(), "title": gv.String(), "brand": gv.String(), "country": gv.String(),
        "ts": gv.Timestamp(), "price": gv.Float32(nullable=True),
        "tags": gv.List(gv.String(), nullable=True),
        "embedding": gv.Vector(128, dtype="float16", metric="cosine"),
    }, primary_key="id")  # fmt: skip
    items = db.create_collection("items", schema)
    assert items.schema == schema
    assert list(items.columns) == list(schema.fields)
    assert items.count() == 0
    assert items.to_arrow().schema.names == list(schema.fields)
    assert db["items"].schema == schema


def test_04_a_schema_is_inferred_and_the_rows_are_written(db, df):
    other = db.create_collection("other", data=df, primary_key="id")
    assert other.schema.primary_key == "id"
    kinds = {name: type(kind) for name, kind in other.schema.fields.items()}
    assert kinds == {
        "id": gv.Int64, "title": gv.String, "brand": gv.String, "country": gv.String,
        "ts": gv.Timestamp, "price": gv.Float32, "tags": gv.List, "embedding": gv.Vector,
    }  # fmt: skip
    assert other.schema["embedding"] == gv.Vector(128, dtype="float32", metric="cosine")
    assert_same_rows(other.to_pandas(), df, np.stack(df["embedding"].to_numpy()))


def as_dicts(df: pd.DataFrame) -> list[dict[str, object]]:
    return df.astype({"price": object}).to_dict("records")


def as_arrays(df: pd.DataFrame) -> dict[str, object]:
    arrays = {name: df[name].to_numpy() for name in df.columns}
    return {**arrays, "embedding": np.stack(df["embedding"].to_numpy())}


def as_duckdb(df: pd.DataFrame) -> duckdb.DuckDBPyRelation:
    table = pa.Table.from_pandas(df, preserve_index=False)
    connection = duckdb.connect()
    connection.execute("set timezone = 'UTC'")
    return connection.from_arrow(table)


FORMS = {
    "pandas": lambda df: df,
    "polars": lambda df: pl.from_arrow(pa.Table.from_pandas(df, preserve_index=False)),
    "arrow": lambda df: pa.Table.from_pandas(df, preserve_index=False),
    "batches": lambda df: pa.Table.from_pandas(df, preserve_index=False).to_reader(50),
    "duckdb": as_duckdb,
    "dict of arrays": as_arrays,
    "list of dicts": as_dicts,
    "frame": gv.frame,
}


@pytest.mark.parametrize("form", FORMS)
def test_06_rows_come_from_any_library(items, df, stored, form):
    part = df[:120]
    result = items.insert(FORMS[form](part))
    assert (result.inserted, result.updated, result.deleted) == (120, 0, 0)
    assert result.ids.to_pylist() == part["id"].tolist()
    assert result.version == items.version
    found = items.to_pandas()
    missing = part["price"].isna().to_numpy()
    assert missing.any()
    assert items.filter("price is null").count() + items.filter("price is not null").count() == 120
    assert_same_rows(found, part, stored[:120])


@pytest.mark.parametrize("form", FORMS)
def test_06_a_missing_number_is_null_from_every_library_of_frames(items, df, form):
    part = df[df["price"].isna()][:2]
    items.insert(FORMS[form](part))
    nulls = items.filter("price is null").count()
    numpy_keeps_nan = form == "dict of arrays" or form == "list of dicts"
    assert nulls == 2 or numpy_keeps_nan


def test_07_an_upsert_replaces_rows_with_the_same_keys_and_adds_the_others(items, df, stored):
    items.insert(df[5:100])
    changed = df.head(10).assign(title="new")
    result = items.upsert(changed)
    assert (result.inserted, result.updated, result.deleted) == (5, 5, 0)
    assert_same_rows(items.to_pandas(), pd.concat([changed, df[10:100]]), stored[:100])
    again = items.upsert(df.head(10))
    assert (again.inserted, again.updated) == (0, 10)
    assert_same_rows(items.to_pandas(), df[:100], stored[:100])


def test_08_an_update_computes_new_values_for_the_rows_that_pass(items, df, stored):
    items.insert(df[:300])
    result = items.update({"price": gv.col("price") * 0.9}, filter=gv.col("brand") == "acme")
    acme = (df["brand"] == "acme").to_numpy()[:300]
    assert (result.inserted, result.updated, result.deleted) == (0, acme.sum(), 0)
    assert sorted(result.ids.to_pylist()) == df["id"][:300][acme].tolist()
    found = items.sort("id").to_pandas()
    old = df["price"][:300].to_numpy(np.float64)
    wanted = np.where(acme, old * 0.9, old)
    np.testing.assert_allclose(found["price"].astype("float64"), wanted, rtol=2e-7)
    assert_same_rows(found.assign(price=df["price"][:300]), df[:300], stored[:300])


def test_09_rows_are_deleted_by_filter_by_ids_or_by_a_frame(items, df):
    items.insert(pa.Table.from_pandas(df, preserve_index=False))
    left = df[df["price"].notna()]
    result = items.delete(filter="price is null")
    assert (result.inserted, result.updated, result.deleted) == (0, 0, len(df) - len(left))
    assert sorted(items.to_arrow()["id"].to_pylist()) == left["id"].tolist()

    assert items.delete(ids=[left["id"].iloc[0], left["id"].iloc[1], 10**9]).deleted == 2
    left = left[2:]
    assert sorted(items.to_arrow()["id"].to_pylist()) == left["id"].tolist()

    cheap = left[left["price"] < 20]
    assert items.delete(items.filter(gv.col("price") < 20)).deleted == len(cheap)
    left = left.drop(cheap.index)
    assert items.delete(left[["id"]].head(3)).deleted == 3
    assert sorted(items.to_arrow()["id"].to_pylist()) == left["id"][3:].tolist()


def test_11_a_partition_is_made_at_its_first_use_and_is_a_frame(items, df, q, nearest):
    items.insert(df[:400])
    result = items.insert(df[300:700], partition="2026-11", on_conflict="skip")
    assert (result.inserted, result.updated) == (300, 0)
    assert result.ids.to_pylist() == df["id"][400:700].tolist()
    nov = items.partition("2026-11")
    assert isinstance(nov, gv.Frame)
    assert sorted(nov.to_arrow()["id"].to_pylist()) == df["id"][400:700].tolist()
    found = nov.search(q, k=5).to_pandas()
    wanted = nearest(q, df["id"].between(400, 699))[:5]
    assert found["id"].tolist() == wanted["id"].tolist()
    assert items.count() == 700


def test_11_with_a_partition_key_filters_on_it_prune(db, schema, df):
    keyed = gv.Schema(schema.fields, primary_key="id", partition_key="country")
    items = db.create_collection("by country", keyed)
    for _, part in df.groupby("country"):
        items.insert(part)
        items.flush()
    found = items.filter(gv.col("country") == "DE").collect()
    assert sorted(found["id"].tolist()) == df["id"][df["country"] == "DE"].tolist()
    assert found.metrics.segments_pruned > 0  # how many is up to compaction in the background
    german = items.partition("DE").collect()
    assert german["id"].tolist() == found["id"].tolist()
    with pytest.raises(gv.QueryError, match="country"):
        items.insert(df[:1], partition="DE")


def test_a_write_is_one_version_and_versions_rise(items, df):
    versions = [
        items.insert(df[:10]).version,
        items.upsert(df[:3]).version,
        items.update({"title": "x"}, filter="id == 1").version,
        items.delete(ids=[2]).version,
    ]
    assert versions == sorted(set(versions))
    assert items.version == versions[-1]


def test_automatic_keys_dynamic_columns_and_all_scalar_types(db):
    schema = gv.Schema(
        {
            "n": gv.Int64(auto=True), "b": gv.Bool(), "i8": gv.Int8(), "i16": gv.Int16(),
            "i32": gv.Int32(), "f64": gv.Float64(), "j": gv.JSON(), "l": gv.List(gv.Int32()),
            "t": gv.Timestamp(), "v": gv.Vector(2, dtype="int8", metric="ip"),
        },
        primary_key="n",
        dynamic=True,
    )  # fmt: skip
    c = db.create_collection("types", schema)
    row = {
        "b": True, "i8": -128, "i16": 32767, "i32": -(2**31), "f64": 1e300,
        "j": {"a": [1, {"b": None}]}, "l": [1, 2],
        "t": datetime.datetime(2026, 11, 1, tzinfo=datetime.UTC), "v": [-128, 127],
        "colour": "blue", "weights": [1.5, 2],
    }  # fmt: skip
    assert c.insert([row, {**row, "b": False, "colour": None}]).ids.to_pylist() == [0, 1]
    found = c.get([0]).to_arrow().to_pylist()[0]
    for name in ("b", "i8", "i16", "i32", "f64", "l", "t", "v"):
        assert found[name] == row[name], name
    assert c.filter('j["a"][0] == 1 and colour == "blue"').to_arrow()["n"].to_pylist() == [0]
    assert c.filter("colour is null").to_arrow()["n"].to_pylist() == [1]
    assert c.filter("weights[0] == 1.5 and array_contains(l, 2)").count() == 2
