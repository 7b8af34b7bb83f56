"""The examples of the API page that read, run as they are written there, on a database on disk."""

import duckdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv


@pytest.fixture(scope="module")
def df():
    rng = np.random.default_rng(0)
    rows = 600
    brands = np.array(["acme", "zeta", "ohm"])[rng.integers(0, 3, rows)]
    return {
        "id": np.arange(rows),
        "title": [f"title {n}" for n in range(rows)],
        "brand": brands.tolist(),
        "country": np.array(["de", "fr"])[rng.integers(0, 2, rows)].tolist(),
        "ts": pd.date_range("2026-01-01", periods=rows, freq="h", tz="UTC"),
        "price": (rng.random(rows) * 40).astype(np.float32),
        "embedding": rng.standard_normal((rows, 16)).astype(np.float16),
    }


@pytest.fixture(scope="module")
def Q(df):
    return df["embedding"][:20].astype(np.float32) + np.float32(0.1)


@pytest.fixture(scope="module")
def items(df, tmp_path_factory):
    with gv.connect(str(tmp_path_factory.mktemp("shop") / "shop")) as db:
        yield db.create_collection("items", data=df, primary_key="id")


@pytest.fixture(scope="module")
def queries(Q):
    return pd.DataFrame({"user_id": [f"u{n}" for n in range(20)], "vec": list(Q)})


def nearest(df, query, keep):
    x = df["embedding"].astype(np.float64)
    d = 1 - x @ query / np.linalg.norm(x, axis=1) / np.linalg.norm(query)
    d[~keep] = np.inf
    return np.argsort(d, kind="stable")


def test_16_one_vector(items, df, Q):
    found = items.search(Q[0], k=5).to_pandas()
    assert list(found.columns) == [
        "query_id", "rank", "id", "distance", "title", "brand", "country", "ts", "price",
    ]  # fmt: skip
    assert found.id.tolist() == nearest(df, Q[0], np.ones(600, bool))[:5].tolist()


def test_17_a_matrix_with_a_recall_target(items, Q):
    assert items.search(Q, k=10, recall=0.95).to_polars().height == 200


def test_18_a_frame_or_parquet_files(items, queries, Q, tmp_path):
    found = items.search(queries, k=10, query_on="vec", query_id="user_id").to_pandas()
    assert found.query_id.tolist() == np.repeat(queries.user_id, 10).tolist()
    pq.write_table(pa.Table.from_pandas(queries), tmp_path / "q.parquet")
    files = items.search(str(tmp_path / "*.parquet"), k=10, query_on="vec", query_id="user_id")
    pd.testing.assert_frame_equal(files.to_pandas(), found)


def test_19_more_like_these_rows(items):
    found = items.search(items.get([3, 14]), k=10, exclude_self=True).to_pandas()
    assert found.query_id.tolist() == [3] * 10 + [14] * 10
    assert (found.id != found.query_id).all()


def test_20_and_21_filters_of_both_forms_mean_the_same(items, df, Q):
    c = gv.col
    one = items.filter((c("price") < 20) & c("brand").is_in(["acme", "zeta"])).search(Q)
    two = items.filter(
        "price < {p} and brand in {b}", params={"p": 20, "b": ["acme", "zeta"]}
    ).search(Q)
    assert one.to_arrow().equals(two.to_arrow())
    keep = (df["price"] < 20) & np.isin(df["brand"], ["acme", "zeta"])
    found = one.to_pandas()
    wanted = nearest(df, Q[7], keep)[:10]
    assert found[found.query_id == 7].id.tolist() == wanted.tolist()


def test_22_a_postfilter_may_leave_fewer(items, df, Q):
    found = items.search(Q, k=100).filter(gv.col("price") < 20).to_pandas()
    wanted = [row for row in nearest(df, Q[0], np.ones(600, bool))[:100] if df["price"][row] < 20]
    assert found[found.query_id == 0].id.tolist() == wanted
    assert found[found.query_id == 0]["rank"].max() <= 100


def test_23_a_radius_and_a_ring(items, Q):
    within = items.search(Q[0], radius=0.35).to_pandas()
    assert (within.distance <= np.float32(0.35)).all()
    ring = items.search(Q[0], radius=(0.1, 0.35)).to_pandas()
    assert ring.id.tolist() == within[within.distance > np.float32(0.1)].id.tolist()


def test_24_the_nearest_brands(items, Q):
    found = items.search(Q, k=2, group_by="brand", group_size=2).to_pandas()
    assert (found.groupby("query_id").brand.nunique() == 2).all()
    assert (found.groupby(["query_id", "brand"]).size() == 2).all()


def test_25_and_26_answers_are_frames(items, Q):
    c = gv.col
    hits = items.search(Q, k=100)
    grouped = hits.group_by("query_id", "brand").agg(n=gv.count(), best=c("distance").min())
    assert grouped.to_pandas().n.sum() == 2000
    heads = hits.group_by("query_id", "brand").head(3).to_pandas()
    assert (heads.groupby(["query_id", "brand"]).size() == 3).all()


def test_29_neighbours_in_order_for_as_long_as_one_reads(items, Q):
    for batch in items.search(Q[0], k=None).to_batches(256):
        assert batch.num_rows == 256
        break
    rest = [batch.num_rows for batch in items.search(Q[0], k=None).to_batches(256)]
    assert rest == [256, 256, 88]


def test_30_any_frame_needs_no_collection(queries, Q):
    left = gv.frame(queries)
    assert left.columns == ("user_id", "vec")
    assert left.search(Q[:2], k=1).collect()["row"].tolist() == [0, 1]


def test_38_distance_as_an_expression(items, Q):
    found = items.with_columns(d=gv.col("embedding").distance(Q[0])).select("id", "d")
    ordered = found.sort("d").head(5)
    wanted = items.search(Q[0], k=5).collect()
    assert ordered["id"].tolist() == wanted["id"].tolist()
    np.testing.assert_array_equal(ordered["d"], wanted["distance"])


def test_40_and_41_quality_and_plans(items, Q):
    rep = items.filter("price < 20").search(Q, recall=0.95).evaluate(sample=500)
    assert rep.recall == 1.0
    assert rep.per_query.count() == 20
    text = str(items.filter("price < 20").search(Q).explain())
    assert "prefilter price < 20" in text
    assert "embedding" in text


def test_42_and_43_results(items, Q):
    hits = items.search(Q).collect()
    assert len(hits) == 200
    assert list(hits.schema.fields)[:4] == ["query_id", "rank", "id", "distance"]
    assert hits.metrics.recall == 1.0
    assert hits.to_arrow().num_rows == len(hits.to_pandas()) == hits.to_polars().height
    found = duckdb.sql("from hits select brand, avg(distance) as d group by brand").fetchall()
    assert {row[0] for row in found} == {"acme", "zeta", "ohm"}


def test_44_partitioned_parquet(items, Q, tmp_path):
    items.search(Q).to_parquet(str(tmp_path / "out"), partition_by="brand")
    assert pq.read_table(tmp_path / "out").num_rows == 200


def test_writes_are_seen_by_the_next_run_of_the_same_frame(items, Q):
    frame = items.search(Q[0], k=1)
    twin = {**{k: v[:1] for k, v in items.limit(1).to_arrow().to_pydict().items()}}
    twin.update(id=[9000], embedding=[Q[0].tolist()])
    items.insert(twin)
    assert frame.collect()["id"].tolist() == [9000]
    items.delete(ids=[9000])
    assert frame.collect()["id"].tolist() != [9000]
