"""The section "At the edges" of the API page, each sentence a test."""

import datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

import gpuvec as gv


def pairs(ids, vectors=None, **columns):
    vectors = np.ones((len(ids), 2)) if vectors is None else vectors
    return {"id": list(ids), **columns, "v": vectors}


# Recall


def test_recall_is_the_share_of_the_true_nearest_among_the_rows_the_prefilter_leaves(items, Q):
    rep = items.filter("price < 5").search(Q, k=10).evaluate()
    assert rep.recall == 1.0
    assert (rep.per_query.to_pandas()["wanted"] == 10).all()


def test_recall_counts_what_there_is_when_there_are_fewer_rows_than_k(items, Q):
    few = items.filter("id < 4")
    rows = few.search(Q, k=10).evaluate().per_query.to_pandas()
    assert (rows["recall"] == 1.0).all()
    assert (rows["wanted"] == 4).all()


def test_recall_of_a_radius_is_the_share_of_true_pairs(items, Q, nearest):
    rows = items.search(Q, radius=0.55).evaluate().per_query.to_pandas().set_index("query_id")
    for number, query in enumerate(Q):
        within = (nearest(query)["distance"] <= np.float32(0.55)).sum()
        assert rows.loc[number, "found"] == rows.loc[number, "wanted"] == within


def test_recall_a_row_tied_with_the_kth_counts(db):
    c = db.create_collection("ties", data=pairs(range(20)), primary_key="id")
    assert c.search([1, 1], k=3).evaluate().recall == 1.0


# Order


@pytest.mark.parametrize("keys", ["int", "text"])
def test_order_is_by_query_then_rank_and_equal_distances_by_primary_key(db, keys):
    rng = np.random.default_rng(3)
    ids = rng.permutation(60) - 30
    names = [f"k{n:+d}" for n in ids]
    data = pairs(ids.tolist() if keys == "int" else names)
    c = db.create_collection("ties", data={n: v[:20] for n, v in data.items()}, primary_key="id")
    c.flush()
    c.insert({n: v[20:40] for n, v in data.items()})
    c.flush()
    c.insert({n: v[40:] for n, v in data.items()})
    wanted = sorted(data["id"])
    for k in (1, 7, 60):
        found = c.search([[1, 1], [2, 2]], k=k).to_pandas()
        assert found["query_id"].tolist() == [0] * k + [1] * k
        assert found["rank"].tolist() == [*range(1, k + 1)] * 2
        assert found["id"].tolist() == wanted[:k] * 2
    assert c.search([1, 1], radius=0.5).to_arrow()["id"].to_pylist() == wanted


def test_order_of_the_queries_is_that_of_the_frame_of_queries(db):
    c = db.create_collection("c", data=pairs([1, 2], np.eye(2)), primary_key="id")
    asked = pd.DataFrame(
        {"name": ["z", "a", "m"], "vec": list(np.float32([[0, 1], [1, 0], [0, 1]]))}
    )
    found = c.search(asked, k=1, query_id="name").to_arrow()
    assert found["query_id"].to_pylist() == ["z", "a", "m"]
    assert found["id"].to_pylist() == [2, 1, 2]


# Defaults


def test_defaults_of_vector_types():
    assert gv.Vector(4) == gv.Vector(4, metric="cosine", dtype="float32")
    assert gv.BinaryVector(8) == gv.BinaryVector(8, metric="hamming")
    assert gv.SparseVector() == gv.SparseVector(metric="ip")


def test_defaults_hold_for_inferred_schemas(db):
    c = db.create_collection("c", data=pairs([1, 2]), primary_key="id")
    assert c.schema["v"] == gv.Vector(2, metric="cosine", dtype=c.schema["v"].dtype)
    data = pd.DataFrame({"id": [1], "v": [np.ones(2, np.float32)]})
    assert db.create_collection("d", data=data, primary_key="id").schema["v"] == gv.Vector(2)


def test_defaults_a_list_column_is_a_vector_only_if_all_lengths_agree(db):
    even = [{"id": 1, "v": [1.0, 2.0]}, {"id": 2, "v": [3.0, 4.0]}]
    mixed = [{"id": 1, "v": [1.0, 2.0]}, {"id": 2, "v": [3.0]}]
    assert isinstance(
        db.create_collection("even", data=even, primary_key="id").schema["v"], gv.Vector
    )
    odd = db.create_collection("mixed", data=mixed, primary_key="id")
    assert isinstance(odd.schema["v"], gv.List)
    assert odd.sort("id").to_arrow()["v"].to_pylist() == [[1.0, 2.0], [3.0]]
    with pytest.raises(gv.QueryError, match="no vector column"):
        odd.search([1.0, 2.0])


def test_a_write_is_visible_to_the_next_read_of_every_handle(db, tmp_path, where):
    c = db.create_collection("c", data=pairs([1]), primary_key="id")
    with gv.connect(**where(tmp_path / "shop")) as second:
        other = second["c"]
        c.insert(pairs([2]))
        assert other.count() == 2
        other.insert(pairs([3]))
        assert c.count() == 3


# Types


@pytest.mark.parametrize(
    ("ids", "wanted"),
    [
        (["a", "b"], pa.string()),
        (np.array([1, 2], np.int16), pa.int16()),
        (np.array([2.5, 3.5], np.float32), pa.float32()),
        ([True, False], pa.bool_()),
        ([datetime.datetime(2026, 1, d, tzinfo=datetime.UTC) for d in (1, 2)], "timestamp"),
    ],
)
def test_types_query_id_has_the_type_of_the_querys_id(items, Q, ids, wanted):
    asked = pa.table({"who": pa.array(ids), "vec": list(Q[:2])})
    found = items.search(asked, k=1, query_id="who").to_arrow()
    kind = found.schema.field("query_id").type
    assert kind == wanted or (wanted == "timestamp" and pa.types.is_timestamp(kind))
    assert found["query_id"].to_pylist() == list(ids)


def test_types_of_row_numbers_rank_and_distance(items, q):
    kinds = items.search(q).to_arrow().schema
    assert kinds.field("query_id").type == pa.int64()
    assert kinds.field("rank").type == pa.int32()
    assert kinds.field("distance").type == pa.float32()


@pytest.mark.parametrize("k", [1200, 1201, 100_000, 10**12])
def test_types_there_is_no_upper_limit_on_k_and_fewer_rows_give_fewer_answers(items, Q, k):
    found = items.search(Q[:2], k=k).select("query_id", "rank").to_arrow()
    assert found["query_id"].to_pylist() == [0] * 1200 + [1] * 1200
    assert found["rank"].to_pylist()[-1] == 1200
    assert items.filter("id in [3, 5]").search(Q[:2], k=k).count() == 4


# Nulls


@pytest.fixture
def gaps(db):
    """Nulls in a number, a text and a vector."""
    schema = gv.Schema(
        {
            "id": gv.Int64(),
            "n": gv.Int32(nullable=True),
            "s": gv.String(nullable=True),
            "v": gv.Vector(2, nullable=True),
        },
        primary_key="id",
    )
    c = db.create_collection("gaps", schema)
    c.insert(
        [
            {"id": 1, "n": 1, "s": "a", "v": [1, 0]},
            {"id": 2, "n": None, "s": "b", "v": None},
            {"id": 3, "n": 3, "s": None, "v": [0, 1]},
            {"id": 4, "n": None, "s": None, "v": [1, 1]},
        ]
    )
    return c


@pytest.mark.parametrize("flushed", [False, True])
@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("n == 1", [1]),
        ("n != 1", [3]),
        ("not (n == 1)", [3]),
        ("n < 100", [1, 3]),
        ("n in [1, 2]", [1]),
        ("n not in [1, 2]", [3]),
        ("n is null", [2, 4]),
        ("n is not null", [1, 3]),
        ("n + 1 > 0", [1, 3]),
        ("n == 1 or s == 'b'", [1, 2]),
        ("n == 1 and s is null", []),
        ("s like 'a%'", [1]),
        ("not (s like 'a%')", [2]),
        ("n < 2 or n >= 2", [1, 3]),
    ],
)
def test_nulls_a_comparison_with_null_selects_nothing(gaps, text, ids, flushed):
    if flushed:
        gaps.flush()
    assert sorted(gaps.filter(text).to_arrow()["id"].to_pylist()) == ids


@pytest.mark.parametrize("flushed", [False, True])
def test_nulls_a_row_with_a_null_vector_is_never_a_neighbour(gaps, flushed):
    if flushed:
        gaps.flush()
    for options in ({"k": 10}, {"k": None}, {"radius": 2.0}, {"k": 10, "metric": "ip"}):
        assert sorted(gaps.search([1, 0], **options).to_arrow()["id"].to_pylist()) == [1, 3, 4]
    assert gaps.filter("id == 2").search([1, 0]).count() == 0


def test_nulls_a_query_row_with_a_null_vector_finds_nothing(gaps):
    found = gaps.search(gaps, k=2).to_arrow()
    assert sorted(set(found["query_id"].to_pylist())) == [1, 3, 4]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nulls_nan_or_infinite_vectors_are_refused_at_the_door(gaps, bad):
    rows = {"id": [7, 8], "n": [1, 2], "s": ["x", "y"], "v": [[1.0, 2.0], [bad, 1.0]]}
    with pytest.raises(gv.SchemaError) as caught:
        gaps.insert(rows)
    assert caught.value.details["field"] == "v"
    assert caught.value.details["row"] == 1
    assert gaps.count() == 4
    with pytest.raises(gv.SchemaError):
        gaps.upsert(rows)
    assert gaps.insert(rows, on_bad_vectors="drop").ids.to_pylist() == [7]
    assert gaps.upsert(rows, on_bad_vectors="null").inserted == 1
    assert gaps.get([8]).to_arrow()["v"].to_pylist() == [None]


def test_nulls_a_null_vector_can_be_asked_for(gaps):
    assert gaps.filter("v is null").to_arrow()["id"].to_pylist() == [2]
    assert gaps.filter(gv.col("v").is_null()).count() == 1
    assert gaps.filter("v is not null").count() == 3


def test_nulls_a_zero_vector_is_at_cosine_distance_1(db):
    c = db.create_collection("c", data=pairs([1, 2], [[0.0, 0.0], [1.0, 0.0]]), primary_key="id")
    found = c.search([3, 0], k=2).to_arrow()
    assert found["id"].to_pylist() == [2, 1]
    assert found["distance"].to_pylist() == [0.0, 1.0]
    assert c.search([0, 0], k=2).to_arrow()["distance"].to_pylist() == [1.0, 1.0]
    d = c.with_columns(d=gv.col("v").distance([0, 0])).to_arrow()["d"].to_pylist()
    assert d == [1.0, 1.0]


# Keys


def test_keys_inserting_one_that_exists_raises_and_writes_nothing(db):
    c = db.create_collection("c", data=pairs([1, 2], n=[1, 2]), primary_key="id")
    with pytest.raises(gv.SchemaError, match="on_conflict") as caught:
        c.insert(pairs([3, 2], n=[3, 4]))
    assert caught.value.details["key"] == 2
    assert c.count() == 2
    assert c.insert(pairs([3, 2], n=[3, 4]), on_conflict="skip").ids.to_pylist() == [3]
    replaced = c.insert(pairs([4, 2], n=[5, 6]), on_conflict="replace")
    assert (replaced.inserted, replaced.updated) == (1, 1)
    found = dict(zip(*c.select("id", "n").to_arrow().to_pydict().values(), strict=True))
    assert found == {1: 1, 2: 6, 3: 3, 4: 5}


def test_keys_in_upsert_the_last_row_wins(db):
    c = db.create_collection("c", data=pairs([1], n=[0]), primary_key="id")
    result = c.upsert(pairs([1, 5, 1, 5], n=[1, 2, 3, 4]))
    assert (result.inserted, result.updated) == (1, 1)
    assert sorted(c.select("id", "n").to_arrow().to_pylist(), key=lambda r: r["id"]) == [
        {"id": 1, "n": 3},
        {"id": 5, "n": 4},
    ]


# Large vectors


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "uint8"])
def test_large_vectors_leave_as_arrow_fixed_size_lists(db, dtype):
    values = np.arange(12).reshape(4, 3)
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(3, dtype=dtype)}, primary_key="id")
    c = db.create_collection("c", schema, data={"id": range(4), "v": values.astype("float32")})
    for frame in (c, c.search([1, 1, 1], k=4).select("id", "v").sort("id")):
        column = frame.to_arrow()["v"]
        assert pa.types.is_fixed_size_list(column.type)
        assert column.type.list_size == 3
        assert column.to_pylist() == values.tolist()


def test_collect_refuses_an_answer_larger_than_memory(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((4000, 4)).astype(np.float32)
    with gv.connect(tmp_path / "small", memory_limit="16MiB") as db:
        c = db.create_collection("c", data={"id": np.arange(4000), "v": vectors}, primary_key="id")
        frame = c.search(vectors, k=4000)
        with pytest.raises(gv.ResultTooLargeError, match="to_parquet") as caught:
            frame.collect()
        assert caught.value.details["rows"] == 16_000_000
        assert next(frame.to_batches(1000)).num_rows == 1000
