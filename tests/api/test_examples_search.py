"""Examples 16 to 26, 29 and 38 of the API page: searches, each against a brute force."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv

ANSWER = ["query_id", "rank", "id", "distance", "title", "brand", "country", "ts", "price", "tags"]


def assert_neighbours(found: pd.DataFrame, wanted: pd.DataFrame) -> None:
    """Compare the rows of one query: same rows in the same order, ranks from 1."""
    assert found["id"].tolist() == wanted["id"].tolist()
    assert found["rank"].tolist() == list(range(1, len(wanted) + 1))
    np.testing.assert_allclose(found["distance"], wanted["distance"], rtol=1e-6, atol=1e-7)


def test_16_one_vector(items, df, q, nearest):
    found = items.search(q, k=5).to_pandas()
    assert list(found.columns) == ANSWER
    assert found["query_id"].tolist() == [0] * 5
    assert_neighbours(found, nearest(q)[:5])
    rows = df.set_index("id").loc[found["id"]]
    for name in ("title", "brand", "country"):
        assert found[name].tolist() == rows[name].tolist()
    assert (found["ts"].to_numpy() == rows["ts"].to_numpy()).all()
    np.testing.assert_array_equal(found["price"].astype("float32"), rows["price"])
    assert [list(tags) for tags in found["tags"]] == [list(tags) for tags in rows["tags"]]


def test_17_a_matrix_or_a_vector_column_in_query_order(items, queries, Q, nearest):
    found = items.search(Q, k=10, recall=0.95).to_polars()
    assert isinstance(found, pl.DataFrame)
    assert found["query_id"].to_list() == np.repeat(np.arange(len(Q)), 10).tolist()
    frame = found.drop("tags").to_pandas()
    for number, query in enumerate(Q):
        assert_neighbours(frame[frame["query_id"] == number], nearest(query)[:10])
    for column in (queries["vec"], pl.Series(Q), pa.array(list(Q)), list(Q), Q.tolist()):
        assert items.search(column, k=10, recall=0.95).to_polars().equals(found)


def test_18_queries_from_a_frame_keep_their_ids(items, queries, Q, nearest):
    found = items.search(queries, k=10, query_on="vec", query_id="user_id").to_pandas()
    assert list(found.columns) == ANSWER
    assert found["query_id"].tolist() == np.repeat(queries["user_id"], 10).tolist()
    for name, query in zip(queries["user_id"], Q, strict=True):
        assert_neighbours(found[found["query_id"] == name], nearest(query)[:10])


def test_18_queries_from_parquet_files_and_from_a_collection(items, queries, tmp_path):
    wanted = items.search(queries, k=10, query_on="vec", query_id="user_id").to_arrow()
    table = pa.Table.from_pandas(queries, preserve_index=False)
    pq.write_table(table[:5], tmp_path / "a.parquet")
    pq.write_table(table[5:], tmp_path / "b.parquet")
    glob = str(tmp_path / "*.parquet")
    assert items.search(glob, k=10, query_on="vec", query_id="user_id").to_arrow().equals(wanted)
    with gv.connect(tmp_path / "users") as db:
        users = db.create_collection("users", data=queries, primary_key="user_id")
        found = items.search(users, k=10, query_on="vec").to_arrow()
        assert found.sort_by([("query_id", "ascending"), ("rank", "ascending")]).equals(
            wanted.sort_by([("query_id", "ascending"), ("rank", "ascending")])
        )


def test_19_more_like_these_rows(items, stored, nearest):
    found = items.search(items.get([3, 14]), k=10, exclude_self=True).to_pandas()
    assert found["query_id"].tolist() == [3] * 10 + [14] * 10
    for key in (3, 14):
        ranked = nearest(stored[key])
        wanted = ranked[ranked["id"] != key][:10]
        assert_neighbours(found[found["query_id"] == key], wanted)


def test_20_an_expression_before_the_search_chooses_the_candidates(items, df, Q, nearest):
    c = gv.col
    found = (
        items.filter((c("price") < 20) & c("brand").is_in(["acme", "zeta"])).search(Q).to_pandas()
    )
    keep = (df["price"] < 20) & df["brand"].isin(["acme", "zeta"])
    assert len(found) == 10 * len(Q)
    for number, query in enumerate(Q):
        assert_neighbours(found[found["query_id"] == number], nearest(query, keep)[:10])


def test_21_a_milvus_string_with_parameters(items, df, Q, nearest):
    frame = items.filter("price < {p} and brand in {b}", params={"p": 20, "b": ["acme"]}).search(Q)
    found = frame.to_pandas()
    keep = (df["price"] < 20) & (df["brand"] == "acme")
    for number, query in enumerate(Q):
        assert_neighbours(found[found["query_id"] == number], nearest(query, keep)[:10])
    same = (gv.col("price") < 20) & gv.col("brand").is_in(["acme"])
    assert items.filter(same).search(Q).to_arrow().equals(frame.to_arrow())
    assert items.filter(str(same)).search(Q).to_arrow().equals(frame.to_arrow())


def test_22_a_postfilter_thins_the_answers_and_keeps_their_ranks(items, df, Q, nearest):
    c = gv.col
    found = items.search(Q, k=100).filter(c("price") < 20).to_pandas()
    cheap = set(df["id"][df["price"] < 20])
    for number, query in enumerate(Q):
        ranked = nearest(query)[:100]
        left = ranked[ranked["id"].isin(cheap)]
        mine = found[found["query_id"] == number]
        assert 0 < len(mine) < 100
        assert mine["id"].tolist() == left["id"].tolist()
        assert mine["rank"].tolist() == (left.index + 1).tolist()


@pytest.mark.parametrize("radius", [0.35, 0.55])
def test_23_all_rows_within_a_radius_and_in_a_ring(items, q, nearest, radius):
    ranked = nearest(q)
    found = items.search(q, radius=radius).to_pandas()
    within = ranked[ranked["distance"] <= np.float32(radius)]
    assert_neighbours(found, within)
    ring = items.search(q, radius=(0.1, radius)).to_pandas()
    assert_neighbours(ring, within[within["distance"] > np.float32(0.1)])
    assert len(ring) < len(found)
    assert_neighbours(items.search(q, k=3, radius=radius).to_pandas(), within[:3])
    assert radius == 0.35 or len(within) > 10, "more than the default k"


def test_24_the_five_nearest_brands_two_rows_of_each(items, df, Q, nearest):
    found = items.search(Q, k=5, group_by="brand", group_size=2).to_pandas()
    brand = df.set_index("id")["brand"]
    for number, query in enumerate(Q):
        ranked = nearest(query)
        ranked["brand"] = brand.loc[ranked["id"]].to_numpy()
        groups = ranked["brand"].drop_duplicates()[:5]
        wanted = ranked[ranked["brand"].isin(groups)].groupby("brand").head(2)
        mine = found[found["query_id"] == number]
        assert len(mine) == 10
        assert set(mine["id"]) == set(wanted["id"])
        assert mine["rank"].tolist() == list(range(1, 11))
        first = mine.drop_duplicates("brand")
        assert first["brand"].tolist() == groups.tolist(), "nearest brand first"


def test_25_answers_are_grouped_and_aggregated(items, df, Q, nearest):
    c = gv.col
    grouped = (
        items.search(Q, k=100)
        .group_by("query_id", "brand")
        .agg(n=gv.count(), best=c("distance").min())
    )
    found = grouped.to_pandas()
    assert list(found.columns) == ["query_id", "brand", "n", "best"]
    brand = df.set_index("id")["brand"]
    rows = pd.concat([nearest(query)[:100].assign(query_id=n) for n, query in enumerate(Q)])
    rows["brand"] = brand.loc[rows["id"]].to_numpy()
    wanted = rows.groupby(["query_id", "brand"])["distance"].agg(["size", "min"])
    mine = found.set_index(["query_id", "brand"]).loc[wanted.index]
    assert len(found) == len(wanted)
    assert mine["n"].tolist() == wanted["size"].tolist()
    np.testing.assert_allclose(mine["best"], wanted["min"], rtol=1e-6, atol=1e-7)


def test_26_the_nearest_three_of_each_brand(items, df, Q, nearest):
    found = items.search(Q, k=100).group_by("query_id", "brand").head(3).to_pandas()
    assert list(found.columns) == ANSWER
    brand = df.set_index("id")["brand"]
    for number, query in enumerate(Q):
        rows = nearest(query)[:100]
        rows["brand"] = brand.loc[rows["id"]].to_numpy()
        wanted = rows.groupby("brand").head(3)
        mine = found[found["query_id"] == number]
        assert mine["id"].tolist() == wanted["id"].tolist()
        assert mine["rank"].tolist() == (wanted.index + 1).tolist()


def test_29_neighbours_come_in_order_for_as_long_as_one_reads(items, df, q, nearest):
    for batch in items.search(q, k=None).to_batches(4096):  # noqa: B007
        break
    assert batch.num_rows == len(df)
    ranked = nearest(q)
    assert batch["id"].to_pylist() == ranked["id"].tolist()
    assert batch["rank"].to_pylist() == list(range(1, len(df) + 1))

    batches = items.search(q, k=None).to_batches(100)
    first = next(batches)
    assert first.num_rows == 100
    assert first["id"].to_pylist() == ranked["id"][:100].tolist()
    rest = pa.Table.from_batches([first, *batches])
    assert rest["id"].to_pylist() == ranked["id"].tolist()


def test_38_the_exact_distance_as_an_expression(items, df, q, nearest):
    c = gv.col
    found = items.with_columns(d=c("embedding").distance(q)).select("id", "d").to_pandas()
    assert list(found.columns) == ["id", "d"]
    wanted = nearest(q).set_index("id")["distance"].loc[found["id"]]
    assert len(found) == len(df)
    np.testing.assert_allclose(found["d"], wanted, rtol=1e-6, atol=1e-7)
    hits = items.search(q, k=50).to_pandas()
    d = found.set_index("id")["d"]
    np.testing.assert_array_equal(
        hits["distance"], d.loc[hits["id"]], "one distance, however found"
    )


@pytest.mark.parametrize("metric", ["l2", "sqeuclidean", "ip"])
def test_38_a_distance_by_another_metric(items, q, nearest, metric):
    wanted = nearest(q, metric=metric)
    found = items.with_columns(d=gv.col("embedding").distance(q, metric)).sort("d", "id")
    assert found.to_arrow()["id"].to_pylist() == wanted["id"].tolist()
    assert_neighbours(items.search(q, k=30, metric=metric).to_pandas(), wanted[:30])
