"""Random queries over random tables, against a slow executor that knows no segments."""

import json
import resource

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.api.frame import Frame, frame
from gpuvec.expr.tree import col
from gpuvec.query import build
from gpuvec.query.memory_source import MemorySource
from gpuvec.rows import DenseVectors, Rows
from gpuvec.schema import Int64, Schema, Vector
from tests.query.tables import answers, expected_search, make_queries, make_table, session

FILTERS = {
    "": lambda price, brand: True,
    "price < 0.4": lambda price, brand: price is not None and price < 0.4,
    "not (price < 0.4)": lambda price, brand: price is not None and not price < 0.4,
    "brand == 'acme' or price > 0.9": lambda price, brand: (
        brand == "acme" or (price is not None and price > 0.9)
    ),
    "brand is null": lambda price, brand: brand is None,
    "price < 0": lambda price, brand: False,
}
METRICS = st.sampled_from(
    [("sqeuclidean", "float32"), ("ip", "int8"), ("l2", "float16"), ("hamming", "bits")]
)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_search_equals_sorting_everything(data):
    seed = data.draw(st.integers(0, 10**6))
    metric, dtype = data.draw(METRICS)
    rows = data.draw(st.sampled_from([1, 2, 30, 120]))
    table = make_table(
        seed, rows=rows, segments=data.draw(st.integers(1, 5)), metric=metric, dtype=dtype,
        text_keys=data.draw(st.booleans()), brands=data.draw(st.sampled_from([None, 80])),
    )  # fmt: skip
    queries = make_queries(seed + 1, data.draw(st.integers(1, 4)), metric, dtype)
    before, after = (data.draw(st.sampled_from(sorted(FILTERS))) for _ in range(2))
    k = data.draw(st.sampled_from([None, 1, 3, 10, 500]))
    high = data.draw(st.sampled_from([None, 0.0, 4.0, 9.0]))
    low = data.draw(st.sampled_from([None, -1.0, 2.0])) if high is not None else None
    low = None if low is not None and low >= high else low
    grouped = data.draw(st.booleans())
    size = data.draw(st.integers(1, 3)) if grouped else 1
    radius = None if high is None else (high if low is None else (low, high))

    base = table.frame.filter(before) if before else table.frame
    search = base.search(
        queries, k=k, radius=radius, group_by="brand" if grouped else None, group_size=size
    )
    found = answers(search.filter(after) if after else search)

    pairs = list(zip(table.price, table.brand, strict=True))
    wanted = expected_search(
        table, queries, k=k, low=low, high=high, keep=[FILTERS[before](*pair) for pair in pairs],
        group=table.brand if grouped else None, group_size=size,
    )  # fmt: skip
    passing = {k for k, pair in zip(table.keys, pairs, strict=True) if FILTERS[after](*pair)}
    wanted = [row for row in wanted if row[2] in passing]
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    np.testing.assert_allclose([r[3] for r in found], [r[3] for r in wanted], rtol=1e-6)


VERBS = {
    "filter": (lambda f: f.filter("price < 0.6"), lambda p: p[p.price < 0.6]),
    "limit": (lambda f: f.limit(40), lambda p: p[:40]),
    "sort": (
        lambda f: f.sort("price", descending=True),
        lambda p: p.sort_values("price", ascending=False, kind="stable", na_position="last"),
    ),
    "head": (
        lambda f: f.group_by("brand").head(5),
        lambda p: p.groupby("brand", dropna=False, sort=False).head(5),
    ),
    "compute": (
        lambda f: f.with_columns(price=col("price") / 2),
        lambda p: p.assign(price=p.price / 2),
    ),
    "distinct": (
        lambda f: f.distinct("brand", "price"),
        lambda p: p.drop_duplicates(["brand", "price"]),
    ),
    "twice": (lambda f: f.concat(f.limit(7)), lambda p: pd.concat([p, p[:7]])),
    "not null": (lambda f: f.filter("brand is not null"), lambda p: p[p.brand.notna()]),
}  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(st.integers(0, 10**6), st.lists(st.sampled_from(sorted(VERBS)), max_size=6))
def test_the_order_of_a_chain_is_its_meaning(seed, verbs):
    table = make_table(seed, rows=90, segments=3)
    found = table.frame.select("id", "price", "brand")
    wanted = pd.DataFrame({"id": table.keys, "price": table.price, "brand": table.brand})
    for verb in verbs:
        found, wanted = VERBS[verb][0](found), VERBS[verb][1](wanted)
    rows = found.to_pandas()
    assert rows.id.tolist() == wanted.id.tolist()
    np.testing.assert_allclose(rows.price.astype(float), wanted.price.astype(float), rtol=1e-6)
    assert found.count() == len(wanted)
    batches = [batch for batch in found.to_batches(13)]
    assert sum(batch.num_rows for batch in batches) == len(wanted)


def test_dynamic_columns_can_be_filtered_and_selected_by_name():
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    extra = pa.array([json.dumps({"color": c, "n": n}) for c, n in [("red", 1), ("blue", 2)]])
    rows = Rows(pa.table({"id": [1, 2], "_gv_dynamic": extra}))
    found = Frame(build.scan(MemorySource(schema, rows)), session())
    assert found.columns == ("id",)
    assert found.filter("color == 'blue'").collect()["id"].tolist() == [2]
    picked = found.select("id", "n").filter(col("n") > 1).to_arrow()
    assert picked.column_names == ["id", "n"]
    assert picked["n"].to_pylist() == ["2"]


@pytest.mark.slow
def test_a_million_queries_stream_to_parquet_in_bounded_memory(tmp_path):
    rng = np.random.default_rng(0)
    rows = Rows(
        pa.table({"id": np.arange(2000)}),
        {"v": DenseVectors(rng.standard_normal((2000, 8)).astype(np.float32))},
    )
    source = MemorySource(Schema({"id": Int64(), "v": Vector(8)}, "id"), rows)
    items = Frame(build.scan(source), session(memory_limit=256 << 20))
    queries = rng.standard_normal((1_000_000, 8)).astype(np.float32)
    items.search(queries[:1000], k=10).collect()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    items.search(queries, k=10).to_parquet(tmp_path / "hits.parquet")
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    written = pq.ParquetFile(tmp_path / "hits.parquet").metadata
    assert written.num_rows == 10_000_000
    assert grown < 600 << 20  # the whole answer has 240 MB of hits and 400 MB in Arrow


def test_queries_of_files_are_read_a_row_group_at_a_time(tmp_path):
    queries = make_queries(1, 5000)
    table = pa.table({"vec": pa.FixedSizeListArray.from_arrays(queries.ravel(), 8)})
    pq.write_table(table, tmp_path / "q.parquet", row_group_size=500)
    items = make_table(2, memory_limit=200_000)
    batches = items.frame.search(frame(str(tmp_path / "q.parquet")), k=3).to_batches()
    first = next(batches)
    assert first.num_rows < 15_000
    assert first.num_rows + sum(batch.num_rows for batch in batches) == 15_000


def test_dynamic_columns_sort_group_and_thin_like_others():
    schema = Schema({"id": Int64(), "v": Vector(2)}, "id", dynamic=True)
    texts = [json.dumps({"n": n}) for n in (10, 9, "b", 9, "a")] + ["{}"]
    table = pa.table({"id": list(range(6)), "_gv_dynamic": texts})
    rows = Rows(table, {"v": DenseVectors(np.ones((6, 2), np.float32))})
    items = Frame(build.scan(MemorySource(schema, rows)), session())
    assert items.sort("n").collect()["id"].tolist() == [1, 3, 0, 4, 2, 5]
    assert items.sort("n", descending=True).columns == ("id", "v")
    assert items.distinct("n").collect()["id"].tolist() == [0, 1, 2, 4, 5]
    assert items.group_by("n").head(1).count() == 5
    assert items.search([1, 1], k=3, group_by="n").collect()["id"].tolist() == [0, 1, 2]
