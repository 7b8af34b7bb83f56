"""What the verbs of a frame mean, against pandas."""

import numpy as np
import pandas as pd
import pytest

from gpuvec.api.frame import frame
from gpuvec.errors import FilterError, NotFoundError, QueryError, SchemaError
from gpuvec.expr.tree import col, count, lit
from tests.query.tables import BRANDS, make_queries, make_table


@pytest.fixture
def table():
    return make_table(3, rows=120, segments=3)


@pytest.fixture
def plain(table):
    return pd.DataFrame({"id": table.keys, "price": table.price, "brand": table.brand})


def ids(found):
    return found.to_arrow()["id"].to_pylist()


def test_rows_come_in_the_order_of_the_segments_without_hidden_ones(table):
    assert ids(table.frame) == table.keys
    assert table.frame.count() == len(table)


def test_filters_follow_one_another(table, plain):
    cheap = table.frame.filter(col("price") < 0.5).filter("brand == {b}", params={"b": "acme"})
    assert ids(cheap) == plain[(plain.price < 0.5) & (plain.brand == "acme")].id.tolist()
    assert cheap.count() == len(cheap.collect())


def test_a_filter_passes_projections_but_not_limits(table, plain):
    top = table.frame.limit(30).filter(col("price") < 0.5)
    assert ids(top) == plain[:30][plain[:30].price < 0.5].id.tolist()
    computed = table.frame.with_columns(price=col("price") * 2).filter(col("price") < 0.5)
    assert ids(computed) == plain[plain.price * 2 < 0.5].id.tolist()


def test_select_orders_drops_and_computes(table):
    found = table.frame.select("price", "id", (col("price") + 1).alias("more"))
    assert found.columns == ("price", "id", "more")
    rows = found.to_pandas()
    np.testing.assert_allclose(rows.more, rows.price + 1, rtol=1e-6)
    assert table.frame.drop("embedding", "brand").columns == ("id", "price")


def test_a_search_may_follow_a_select_that_left_the_vectors_out(table):
    search = table.frame.select("price").search(make_queries(1, 2), k=2)
    assert search.columns == ("query_id", "rank", "id", "distance", "price")
    assert len(search.collect()) == 4


def test_vectors_leave_a_search_only_when_selected(table):
    search = table.frame.search(make_queries(1, 2), k=3)
    assert "embedding" not in search.columns
    found = search.select("id", "embedding").collect()
    place = {key: row for row, key in enumerate(table.keys)}
    rows = [place[key] for key in found["id"]]
    np.testing.assert_array_equal(found["embedding"], table.vectors[rows])


def test_with_columns_adds_and_replaces(table, plain):
    found = table.frame.with_columns(double=col("price") * 2, brand=lit("x")).to_pandas()
    assert (found.brand == "x").all()
    np.testing.assert_allclose(found.double, plain.price * 2, rtol=1e-6)


def test_distance_is_an_expression(table):
    query = make_queries(2, 1)
    found = table.frame.with_columns(d=col("embedding").distance(query[0])).to_pandas()
    wanted = ((table.vectors - query) ** 2).sum(1)
    np.testing.assert_allclose(found.d[table.valid], wanted[table.valid])
    assert found.d[~table.valid].isna().all()
    near = table.frame.filter(col("embedding").distance(query[0]) <= 9)
    assert ids(near) == [
        k for k, d, v in zip(table.keys, wanted, table.valid, strict=True) if v and d <= 9
    ]


def test_sort_is_stable_with_nulls_last(table, plain):
    wanted = plain.sort_values("brand", kind="stable", na_position="last").id.tolist()
    assert ids(table.frame.sort("brand")) == wanted
    both = plain.sort_values(["brand", "price"], ascending=[False, True], kind="stable")
    assert ids(table.frame.sort("brand", "price", descending=[True, False])) == both.id.tolist()


def test_limit_and_head_take_the_first_rows(table):
    assert ids(table.frame.limit(7)) == table.keys[:7]
    assert ids(table.frame.limit(0)) == []
    assert ids(table.frame.limit(10_000)) == table.keys
    assert table.frame.head(3)["id"].tolist() == table.keys[:3]


def test_a_sample_is_repeatable_without_replacement_and_in_order(table):
    one, two = ids(table.frame.sample(20, seed=1)), ids(table.frame.sample(20, seed=1))
    assert one == two
    assert len(set(one)) == 20
    assert one == [key for key in table.keys if key in set(one)]
    assert ids(table.frame.sample(10_000, seed=1)) == table.keys
    assert ids(table.frame.sample(20, seed=2)) != one


def test_get_keeps_the_order_asked_for_and_leaves_out_what_is_not_there(table):
    wanted = [table.keys[5], table.keys[100], -7, table.keys[0], table.keys[5]]
    assert ids(table.frame.get(wanted)) == [k for k in wanted if k != -7]
    assert ids(table.frame.get(np.array(table.keys[3:6]))) == table.keys[3:6]
    assert ids(table.frame.get([])) == []


def test_groups_come_in_order_of_first_appearance(table, plain):
    grouped = table.frame.group_by("brand").agg(
        n=count(), best=col("price").min(), known=col("price").count(), mean=col("price").mean(),
        spread=col("price").max() - col("price").min(),
    )  # fmt: skip
    found = grouped.to_pandas().set_index("brand")
    wanted = plain.groupby("brand", sort=False, dropna=False).price.agg(
        ["size", "min", "count", "mean", "max"]
    )
    assert found.index.tolist() == wanted.index.where(wanted.index.notna(), None).tolist()
    assert found.n.tolist() == wanted["size"].tolist()
    assert found.known.tolist() == wanted["count"].tolist()
    np.testing.assert_allclose(found.best, wanted["min"])
    np.testing.assert_allclose(found["mean"], wanted["mean"], rtol=1e-6)
    np.testing.assert_allclose(found.spread, wanted["max"] - wanted["min"], rtol=1e-6)


def test_the_head_of_groups_keeps_the_order_of_the_frame(table, plain):
    found = table.frame.group_by("brand").head(2)
    assert ids(found) == plain.groupby("brand", dropna=False).head(2).id.tolist()


def test_searches_are_grouped_and_counted(table):
    search = table.frame.search(make_queries(4, 6), k=30)
    grouped = search.group_by("query_id", "brand").agg(n=count(), best=col("distance").min())
    flat = search.to_pandas()
    wanted = flat.groupby(["query_id", "brand"], sort=False, dropna=False).distance.agg(
        ["size", "min"]
    )
    assert grouped.to_pandas().n.tolist() == wanted["size"].tolist()
    np.testing.assert_array_equal(grouped.to_pandas().best, wanted["min"])


def test_distinct_keeps_first_rows(table, plain):
    assert ids(table.frame.distinct("brand")) == plain.drop_duplicates("brand").id.tolist()
    twice = table.frame.select("brand").concat(table.frame.select("brand"))
    assert twice.distinct().count() == plain.brand.nunique(dropna=False)
    again = table.frame.concat(table.frame)
    assert again.count() == 2 * len(table)
    assert again.distinct().count() == len(table)


@pytest.mark.parametrize("how", ["inner", "left"])
def test_joins_follow_the_left_order_and_nulls_match_nothing(table, plain, how):
    right = pd.DataFrame(
        {"brand": ["zeta", "acme", "acme", None, "new"], "rank": [1, 2, 3, 4, 5], "price": 0.0}
    )
    found = table.frame.drop("embedding").join(right, "brand", how=how)
    assert found.columns == ("id", "price", "brand", "rank", "price_right")
    wanted = plain.merge(right.dropna(), on="brand", how=how, suffixes=("", "_right"))
    pd.testing.assert_frame_equal(
        found.to_pandas()[["id", "rank"]].astype(float), wanted[["id", "rank"]].astype(float)
    )


def test_semi_and_anti_joins_split_the_rows(table, plain):
    right = {"name": ["acme", "ohm"]}
    inside = table.frame.join(right, left_on="brand", right_on="name", how="semi")
    outside = table.frame.join(right, left_on="brand", right_on="name", how="anti")
    assert ids(inside) == plain[plain.brand.isin(["acme", "ohm"])].id.tolist()
    assert ids(outside) == plain[~plain.brand.isin(["acme", "ohm"])].id.tolist()


def test_joins_bring_vectors_and_null_vectors_for_unmatched_rows(table):
    right = table.frame.limit(5).select("id", "embedding")
    found = table.frame.select("id", "price").join(right, "id", how="left").collect()
    column = found.rows.vectors["embedding"]
    assert column.valid[:5].tolist() == table.valid[:5].tolist()
    assert not column.valid[5:].any()


def test_describe_says_what_values_are_like(table, plain):
    found = table.frame.describe().to_pandas().set_index("column")
    assert found.loc["price", "nulls"] == plain.price.isna().sum()
    assert found.loc["price", "mean"] == pytest.approx(plain.price.mean(), rel=1e-6)
    assert found.loc["embedding", "nulls"] == (~table.valid).sum()


def test_frames_are_queries_and_not_yet_rows(table):
    for use in (len, bool, list):
        with pytest.raises(QueryError, match="GV-365"):
            use(table.frame)


ERRORS = [
    (lambda f: f.filter(col("prcie") < 10), NotFoundError, '"items". Did you mean "price"'),
    (lambda f: f.filter("price <<< 10"), FilterError, "GV-201"),
    (lambda f: f.select("ids"), NotFoundError, "Did you mean"),
    (lambda f: f.select(col("price") + 1), QueryError, "alias"),
    (lambda f: f.select(), QueryError, "at least one column"),
    (lambda f: f.sort("embedding"), QueryError, "cannot be ordered"),
    (lambda f: f.limit(-1), QueryError, "whole number"),
    (lambda f: f.limit(2.5), QueryError, "whole number"),
    (lambda f: f.group_by("embedding"), QueryError, "grouped"),
    (lambda f: f.group_by("brand").agg(n=col("price")), QueryError, "one value per group"),
    (lambda f: f.group_by("brand").agg(brand=count()), QueryError, "key of the group"),
    (lambda f: f.join({"x": [1]}, "brand"), NotFoundError, "brand"),
    (lambda f: f.join({"brand": [1]}, "brand"), QueryError, "GV-360"),
    (lambda f: f.join({"brand": ["a"]}, "brand", how="outer"), QueryError, "inner, left"),
    (lambda f: f.concat({"id": [1]}), QueryError, "GV-361"),
    (lambda f: f.get(["a"]), SchemaError, "id"),
    (lambda f: f.drop("id").search([0.0] * 8).search([0.0] * 8).get([1]), QueryError, "GV-363"),
    (lambda f: f.with_columns(_gv_x=1), QueryError, "_gv_"),
    (lambda f: f.collect(engine="dusk"), QueryError, "auto, local"),
    (lambda f: f.evaluate(), QueryError, "GV-362"),
]  # fmt: skip


@pytest.mark.parametrize(("use", "kind", "text"), ERRORS, ids=range(len(ERRORS)))
def test_names_and_options_are_checked_when_the_query_is_built(table, use, kind, text):
    with pytest.raises(kind, match=None) as caught:
        use(table.frame)
    assert text in str(caught.value)


def test_a_frame_of_anything_needs_no_collection():
    vectors = np.eye(4, dtype=np.float32)
    found = frame(vectors).search(vectors[1], k=1, on="vector").collect()
    assert found.columns == ("query_id", "rank", "row", "distance")
    assert found["row"].tolist() == [1]
    named = frame({"name": list("abcd"), "v": vectors}, primary_key="name")
    assert named.search(vectors[2], k=1).collect()["name"].tolist() == ["c"]
    assert named.search(named, k=1).collect()["query_id"].tolist() == list("abcd")
    assert frame(named) is named


def test_null_vectors_can_be_asked_for(table):
    wanted = [key for key, valid in zip(table.keys, table.valid, strict=True) if not valid]
    assert ids(table.frame.filter("embedding is null")) == wanted
    assert table.frame.filter(col("embedding").is_not_null()).count() == int(table.valid.sum())


def test_what_a_select_left_out_cannot_be_named(table):
    left = table.frame.select("price")
    for use in (
        lambda: left.select("id"),
        lambda: left.filter("id > 3"),
        lambda: left.with_columns(x=col("id") + 1),
        lambda: left.search(make_queries(1, 1)).select("embedding"),
        lambda: left.group_by("price").agg(n=col("id").max()),
    ):
        with pytest.raises(NotFoundError):
            use()
    assert len(left.search(make_queries(1, 1), k=2, on="embedding").collect()) == 2


def test_aggregates_take_values_that_they_are_for(table):
    grouped = table.frame.group_by("brand")
    with pytest.raises(QueryError, match=r"mean is of numbers; brand is String"):
        grouped.agg(x=col("brand").mean())
    with pytest.raises(QueryError, match="no type"):
        table.frame.with_columns(x=None)
    assert grouped.agg(first=col("brand").min()).to_pandas()["first"].dropna().isin(BRANDS).all()
