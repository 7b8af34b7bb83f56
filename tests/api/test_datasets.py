import json
import pathlib
import runpy

import duckdb
import numpy as np
import polars as pl
import pyarrow.parquet as pq
import pytest

from gpuvec.api import datasets, interop
from gpuvec.errors import NotFoundError
from gpuvec.ingest import validate_rows
from gpuvec.schema import Float32, Int64, List, String, Timestamp, Vector

FILTERS = ("none", "50pct", "10pct", "1pct")


def matrix(table) -> np.ndarray:
    values = table["vector"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return values.reshape(len(table), -1).astype(np.float64)


@pytest.fixture(autouse=True)
def sample_only(monkeypatch):
    monkeypatch.delenv("GPUVEC_DATA", raising=False)


def test_products_have_the_columns_of_the_tour():
    frame = datasets.products(1000)
    schema = interop.infer_schema(frame, "id")
    assert schema.fields == {
        "id": Int64(),
        "title": String(nullable=True),
        "brand": String(nullable=True),
        "country": String(nullable=True),
        "ts": Timestamp(nullable=True),
        "price": Float32(nullable=True),
        "tags": List(String(), nullable=True),
        "embedding": Vector(128),
    }
    assert len(validate_rows(schema, interop.to_rows(frame, schema))) == 1000
    assert 0 < frame["price"].isna().sum() < 50
    assert set(frame["brand"]) >= {"acme", "zeta"}


def test_the_same_seed_gives_the_same_products():
    one, two = (interop.to_arrow(interop.to_rows(datasets.products(50, seed=7))) for _ in range(2))
    assert one.equals(two)
    assert not one.equals(interop.to_arrow(interop.to_rows(datasets.products(50, seed=8))))


@pytest.mark.parametrize("n", [0, 1, 2, 19, 20])
def test_any_number_of_products_can_be_made(n):
    assert len(datasets.products(n)) == n


def test_one_product_in_twenty_nearly_repeats_another():
    frame = datasets.products(2000)
    vectors = np.stack(frame["embedding"])
    assert np.allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-5)
    distances = 1 - vectors @ vectors.T
    np.fill_diagonal(distances, 2)
    near = np.argwhere(distances < 0.02)
    assert 80 <= len(np.unique(near)) <= 220
    assert distances[distances > 0.02].min() > 0.1
    for column in ("title", "brand", "country"):
        values = frame[column].to_numpy()
        assert (values[near[:, 0]] == values[near[:, 1]]).all()


def test_the_sample_is_real_and_small():
    packages, queries = datasets.debian_packages(), datasets.debian_queries()
    assert packages.num_columns == 22
    assert packages["id"].to_pylist() == list(range(len(packages)))
    assert 12_000 <= len(packages) <= 15_000
    assert len(queries) == 1000
    known = set(queries["about_package"].drop_null().to_pylist())
    assert known <= set(packages["name"].to_pylist())
    assert np.abs(np.linalg.norm(matrix(packages), axis=1) - 1).max() < 1e-3
    size = sum(file.stat().st_size for file in datasets.debian_folder().iterdir() if file.is_file())
    assert size <= 12_000_000


@pytest.mark.parametrize("name", FILTERS)
def test_the_truth_is_exact(name):
    packages, truth = datasets.debian_packages(), datasets.debian_truth(name)
    rule = json.loads((datasets.debian_folder() / "filters.json").read_text())[name]
    keep = np.ones(len(packages), bool)
    for column, operator, value in rule["where"]:
        values = packages[column].to_pandas()
        keep &= ((values == value) if operator == "==" else (values >= value)).to_numpy()
    assert keep.sum() == rule["rows"]
    asked = np.random.default_rng(0).choice(1000, 50, replace=False)
    rows = np.flatnonzero(keep)
    scores = matrix(datasets.debian_queries())[asked] @ matrix(packages)[rows].T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :20]
    assert truth["query_id"].to_pylist() == list(range(1000))
    neighbors = np.array(truth["neighbors"].to_pylist())[asked]
    assert np.array_equal(neighbors, rows[order])
    best = np.array(truth["scores"].to_pylist(), np.float32)[asked]
    assert np.array_equal(best, np.take_along_axis(scores, order, axis=1).astype(np.float32))


@pytest.mark.parametrize("file", ["packages", "queries", "ground_truth"])
def test_polars_and_duckdb_read_what_pyarrow_reads(file):
    path = datasets.debian_folder() / f"{file}.parquet"
    table = pq.read_table(path)
    assert pl.read_parquet(path).to_arrow().num_rows == len(table)
    names = [n for n in table.column_names if n not in ("vector", "scores", "neighbors")]
    read = duckdb.read_parquet(str(path)).select(*names).to_arrow_table()
    assert read.to_pydict() == table.select(names).to_pydict()
    assert pl.read_parquet(path, columns=names).to_dict(as_series=False) == read.to_pydict()
    vectors = next(n for n in ("vector", "scores") if n in table.column_names)
    wanted = np.stack(table[vectors][:100].to_numpy()).astype(np.float32)
    by_polars = np.array(pl.read_parquet(path, columns=[vectors])[vectors][:100].to_list())
    by_duckdb = duckdb.read_parquet(str(path)).select(vectors).limit(100).fetchall()
    assert np.array_equal(by_polars.astype(np.float32), wanted)
    assert np.array_equal(np.array([row[0] for row in by_duckdb], np.float32), wanted)


def test_a_folder_can_be_named_and_must_then_have_the_files(monkeypatch, tmp_path: pathlib.Path):
    monkeypatch.setenv("GPUVEC_DATA", str(tmp_path))
    with pytest.raises(NotFoundError, match="GPUVEC_DATA") as caught:
        datasets.debian_packages()
    assert caught.value.code == "GV-126"
    sample = pathlib.Path(__file__).parents[2] / "benchmarks" / "data"
    for file in sample.glob("*.parquet"):
        (tmp_path / file.name).symlink_to(file)
    assert datasets.debian_folder() == tmp_path
    assert len(datasets.debian_queries()) == 1000


def test_an_unknown_truth_names_the_nearest():
    with pytest.raises(NotFoundError, match='Did you mean "10pct"') as caught:
        datasets.debian_truth("10 pct")
    assert caught.value.code == "GV-127"


def test_the_sample_maker_asks_for_nothing_but_two_folders():
    maker = runpy.run_path(str(datasets.debian_folder() / "make_sample.py"))
    assert maker["ROWS"] == len(datasets.debian_packages())
