"""What a sceptical reader would ask a search: odd queries, odd numbers, odd columns."""

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gpuvec as gv

ROWS = 40


@pytest.fixture(scope="module")
def vectors():
    return np.random.default_rng(5).standard_normal((ROWS, 3)).astype(np.float32)


@pytest.fixture(scope="module")
def points(vectors, tmp_path_factory):
    with gv.connect(tmp_path_factory.mktemp("points") / "db") as db:
        schema = gv.Schema(
            {"id": gv.Int64(), "name": gv.String(nullable=True), "v": gv.Vector(3, metric="l2")},
            primary_key="id",
        )
        c = db.create_collection("points", schema)
        names = ["ä", None, "𝄞", "", "a b"] * (ROWS // 5)
        c.insert({"id": np.arange(ROWS), "name": names, "v": vectors})
        yield c


FORMS = {
    "float64": lambda x: x.astype(np.float64),
    "float16": lambda x: x.astype(np.float16).astype(np.float32),
    "big endian": lambda x: x.astype(">f4"),
    "not contiguous": lambda x: np.repeat(x, 2, axis=1)[:, ::2],
    "fortran order": np.asfortranarray,
    "read only": lambda x: read_only(x),
    "list of lists": lambda x: x.tolist(),
    "tuple of arrays": tuple,
    "list of arrays": list,
    "pandas column": lambda x: pd.Series(list(x)),
    "pandas column with an index": lambda x: pd.Series(list(x), index=[9, 9, 7]),
    "polars column": lambda x: pl.Series("v", x),
    "polars list column": lambda x: pl.Series("v", x.tolist()),
    "arrow list": lambda x: pa.array(x.tolist()),
    "arrow fixed size list": lambda x: pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 3),
    "chunked": lambda x: pa.chunked_array([pa.array(x[:1].tolist()), pa.array(x[1:].tolist())]),
    "pandas frame": lambda x: pd.DataFrame({"q": list(x)}),
    "polars frame": lambda x: pl.DataFrame({"q": x}),
    "arrow table": lambda x: pa.table({"q": x.tolist()}),
    "dict of columns": lambda x: {"q": x},
    "list of dicts": lambda x: [{"q": row} for row in x.tolist()],
    "frame": lambda x: gv.frame({"q": x}),
}


def read_only(x):
    x = x.copy()
    x.setflags(write=False)
    return x


@pytest.mark.parametrize("form", FORMS)
def test_queries_of_every_form_find_the_same(points, vectors, form):
    asked = vectors[:3] + np.float32(0.25)
    if form == "float16":
        asked = asked.astype(np.float16).astype(np.float32)
    wanted = points.search(asked, k=4).to_arrow()
    before = asked.copy()
    assert points.search(FORMS[form](asked), k=4).to_arrow().equals(wanted)
    np.testing.assert_array_equal(asked, before)


@pytest.mark.parametrize(
    "one",
    [
        lambda x: x,
        lambda x: x.tolist(),
        lambda x: tuple(x.tolist()),
        pa.array,
        pd.Series,
        pl.Series,
    ],
    ids=["array", "list", "tuple", "arrow", "pandas", "polars"],
)
def test_one_vector_of_every_form_is_a_batch_of_one(points, vectors, one):
    wanted = points.search(vectors[:1], k=4).to_arrow()
    assert points.search(one(vectors[0]), k=4).to_arrow().equals(wanted)


def test_whole_numbers_are_vectors_too(points):
    assert (
        points.search([1, 0, 2], k=1)
        .to_arrow()
        .equals(points.search([1.0, 0.0, 2.0], k=1).to_arrow())
    )


@pytest.mark.parametrize(
    "none",
    [
        [],
        np.empty((0, 3)),
        {"q": np.empty((0, 3), np.float32)},
        pa.array([], pa.list_(pa.float32(), 3)),
    ],
)
def test_no_queries_give_no_rows_of_the_same_columns(points, none):
    found = points.search(none, k=3).to_arrow()
    assert found.num_rows == 0
    assert found.schema.equals(points.search([1, 0, 2], k=3).to_arrow().schema)


@pytest.mark.parametrize(
    "bad",
    [
        np.zeros((2, 2, 3)), np.float32(3), 3, None, "text", [["a", "b", "c"]], {}, Ellipsis,
        [[1, 2, 3], [1, 2]], np.array([[1, 2, 3j]]), [[1, 2, None]], [None, [1, 2, 3]],
        [[np.nan, 0, 0]], [[np.inf, 0, 0]], [[1e39, 0, 0]],
    ],
    ids=repr,
)  # fmt: skip
def test_what_is_no_query_is_refused_with_an_error_of_ours(points, bad):
    with pytest.raises(gv.GpuvecError) as caught:
        points.search(bad, k=3).collect()
    assert caught.value.message


@pytest.mark.parametrize("place", [(0, 0), (1, 2)])
def test_queries_with_nan_are_refused_by_their_place_and_no_option_that_search_lacks(points, place):
    asked = np.zeros((2, 3), np.float32)
    asked[place] = np.nan
    with pytest.raises(
        gv.SchemaError, match=f"row {place[0]}.* nan at position {place[1]}"
    ) as caught:
        points.search(asked)
    assert "on_bad_vectors" not in str(caught.value)


def test_queries_with_three_dimensions_are_told_what_is_wanted(points):
    with pytest.raises(gv.GpuvecError, match="queries must be") as caught:
        points.search(np.zeros((2, 2, 3)))
    assert "(2, 2, 3)" in str(caught.value)


def test_a_negative_radius_of_a_distance_that_is_never_negative_finds_nothing(points):
    assert points.search([0, 0, 0], radius=-1).count() == 0
    assert points.search([0, 0, 0], radius=(-2, -1)).count() == 0


def test_a_radius_of_zero_finds_equal_vectors(points, vectors):
    found = points.search(vectors[7], radius=0).to_arrow()
    assert found["id"].to_pylist() == [7]
    assert points.search(vectors[7], radius=(0, 100.0)).count() == ROWS - 1


def test_a_negative_radius_has_a_meaning_for_inner_products(points, vectors):
    products = -(vectors.astype(np.float64) @ [1, 2, 3])
    found = points.search([1, 2, 3], radius=-2.5, metric="ip").to_arrow()
    assert found["id"].to_pylist() == [
        row for row in np.argsort(products, kind="stable") if products[row] <= -2.5
    ]


def test_an_infinite_radius_finds_all(points):
    assert points.search([0, 0, 0], radius=float("inf")).count() == ROWS
    assert points.search([0, 0, 0], k=None).count() == ROWS


@pytest.mark.parametrize("k", [np.int64(3), np.int8(3)])
def test_numbers_of_numpy_are_numbers(points, k):
    assert points.search([0, 0, 0], k=k).count() == 3
    assert points.search([0, 0, 0], radius=np.float32(100)).count() == ROWS
    assert points.limit(k).count() == 3


def test_a_search_of_a_search_needs_its_vectors(points):
    hits = points.search([0, 0, 0], k=5)
    again = hits.select("id", "v").search([0, 0, 0], k=2, on="v")
    assert again.to_arrow()["distance"].to_pylist() == hits.head(2)["distance"].tolist()


def test_a_frame_asks_itself(points, vectors):
    found = points.search(points, k=1).to_pandas()
    assert sorted(found["query_id"]) == list(range(ROWS))
    assert (found["id"] == found["query_id"]).all()
    others = points.search(points, k=1, exclude_self=True).to_pandas()
    assert (others["id"] != others["query_id"]).all()
    assert len(others) == ROWS


def test_duplicate_query_ids_stay_apart_in_order(points, vectors):
    asked = pd.DataFrame({"who": ["a", "a"], "v": list(vectors[:2])})
    found = points.search(asked, k=1, query_id="who").to_arrow()
    assert found["query_id"].to_pylist() == ["a", "a"]
    assert found["id"].to_pylist() == [0, 1]


def test_a_null_query_id_is_kept(points, vectors):
    asked = pa.table({"who": ["a", None], "v": vectors[:2].tolist()})
    found = points.search(asked, k=1, query_id="who").to_arrow()
    assert found["query_id"].to_pylist() == ["a", None]


def test_several_vector_columns_of_a_query_frame_need_a_name(points, vectors):
    asked = {"a": vectors[:2], "b": vectors[2:4]}
    with pytest.raises(gv.QueryError, match="a, b"):
        points.search(asked)
    assert points.search(asked, k=1, query_on="b").to_arrow()["id"].to_pylist() == [2, 3]


def test_unicode_nulls_and_empty_text_in_filters_and_groups(points):
    assert points.filter("name == '𝄞'").count() == 8
    assert points.filter("name == ''").count() == 8
    assert points.filter("name like '_'").count() == 16
    assert points.filter(gv.col("name") == "ä").count() == 8
    assert points.filter("name in {n}", params={"n": ["𝄞", "", "a b"]}).count() == 24
    found = points.search([0, 0, 0], k=5, group_by="name").to_arrow()
    assert sorted(found["name"].to_pylist(), key=str) == ["", None, "a b", "ä", "𝄞"]


def test_a_list_of_ten_thousand_values_is_a_filter(points):
    many = list(range(-5000, 5000))
    assert points.filter(gv.col("id").is_in(many)).count() == ROWS
    assert points.filter(gv.col("id").is_in(np.array(many))).count() == ROWS
    assert points.filter(f"id in {many}").count() == ROWS
    assert points.filter(f"id not in {many[:5010]}").count() == ROWS - 10
    assert points.filter("id in {many}", params={"many": many}).count() == ROWS
    words = [f"word {n}" for n in range(10_000)]
    assert points.filter(gv.col("name").is_in([*words, "ä"])).count() == 8
    assert points.filter("id in []").count() == 0
    assert points.get(many).count() == ROWS


def test_filters_that_pass_nothing_or_all(points):
    assert points.filter("id < 0").search([0, 0, 0]).count() == 0
    assert points.filter("1 == 1").search([0, 0, 0]).count() == 10
    assert points.filter("false").count() == 0
    assert points.filter("id < 0").search(np.zeros((3, 3)), radius=9.0).to_arrow().num_rows == 0


def test_all_answers_of_an_empty_collection(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        schema = gv.Schema({"id": gv.String(), "n": gv.Int32(), "v": gv.Vector(3)}, "id")
        c = db.create_collection("empty", schema)
        assert c.count() == 0
        found = c.search(np.zeros((4, 3)), k=5)
        assert found.to_arrow().num_rows == 0
        assert found.to_pandas().shape == (0, 5)
        assert found.to_polars().height == 0
        assert found.group_by("query_id").agg(n=gv.count()).count() == 0
        assert c.filter("n > 3").search([0, 0, 0], radius=1).count() == 0
        assert c.search([0, 0, 0], k=2, group_by="n").count() == 0
        assert list(c.search([0, 0, 0], k=None).to_batches(10)) == []
        assert c.delete(filter="n > 3").deleted == 0
        assert c.update({"n": 3}, filter="n > 3").updated == 0
        assert c.describe().count() >= 2
        assert "id" in str(found.explain())
        assert c.search(c).count() == 0
        c.flush()
        assert c.to_arrow().num_rows == 0


def test_one_row_is_its_own_and_only_neighbour(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        c = db.create_collection("one", data=[{"id": "x", "v": [1.0, 2.0, 3.0]}], primary_key="id")
        assert c.search([1, 2, 3], k=10).to_arrow()["id"].to_pylist() == ["x"]
        assert c.search(c, exclude_self=True).count() == 0
        assert c.search([1, 2, 3]).evaluate().recall == 1.0
