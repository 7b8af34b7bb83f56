"""The eight rules at the top of the API page, each sentence a test."""

import inspect

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest

import gpuvec as gv


@pytest.fixture
def points(db):
    """Ids 0 to 9 on a line, `v` = (id, 1); `size` = 10 - id."""
    schema = gv.Schema(
        {"id": gv.Int64(), "size": gv.Int32(), "v": gv.Vector(2, metric="l2")}, primary_key="id"
    )
    made = db.create_collection("points", schema)
    made.insert(line(range(10)))
    return made


def line(ids):
    ids = np.array(list(ids))
    return {"id": ids, "size": 10 - ids, "v": np.stack([ids, np.ones_like(ids)], axis=1)}


# 1. Lazy and immutable


def test_1_a_read_returns_a_new_frame_and_leaves_the_old_one(points):
    first = points.filter("id < 5")
    second = first.filter("id > 1")
    assert isinstance(first, gv.Frame)
    assert second is not first
    assert (first.count(), second.count(), points.count()) == (5, 3, 10)


def test_1_work_starts_at_collect_so_a_frame_sees_what_was_written_since(points):
    frame = points.filter("size < 0").search([0, 0], k=3)
    assert frame.count() == 0
    points.insert(line([20, 21]))
    assert frame.to_arrow()["id"].to_pylist() == [20, 21]
    points.delete(ids=[20])
    assert frame.to_arrow()["id"].to_pylist() == [21]


@pytest.mark.parametrize(
    "run",
    [
        lambda f: len(f.collect()),
        lambda f: f.to_arrow().num_rows,
        lambda f: len(f.to_pandas()),
        lambda f: f.to_polars().height,
        lambda f: len(f.head(100)),
        lambda f: f.count(),
        lambda f: sum(batch.num_rows for batch in f.to_batches(3)),
        lambda f: pa.table(f).num_rows,
    ],
)
def test_1_every_way_to_run_a_frame_runs_it_again(points, run):
    frame = points.filter("id >= 5")
    assert run(frame) == 5
    points.insert(line([30]))
    assert run(frame) == 6


@pytest.mark.parametrize("flushed", [False, True])
def test_1_a_call_sees_one_version_from_start_to_end(points, flushed):
    if flushed:
        points.flush()
    batches = points.search([0, 1], k=None).to_batches(3)
    seen = next(batches)["id"].to_pylist()
    points.delete(filter="id > 4")
    points.upsert(line([7, 100]))
    points.flush()
    seen += [key for batch in batches for key in batch["id"].to_pylist()]
    assert seen == list(range(10))
    assert points.search([0, 1], k=None).to_arrow()["id"].to_pylist() == [0, 1, 2, 3, 4, 7, 100]


# 2. The order of the chain is the meaning


def test_2_a_filter_before_the_search_chooses_after_it_thins(points):
    before = points.filter("id >= 5").search([0, 1], k=3)
    after = points.search([0, 1], k=6).filter("id >= 5")
    assert before.to_arrow()["id"].to_pylist() == [5, 6, 7]
    assert after.to_arrow()["id"].to_pylist() == [5]
    assert after.to_arrow()["rank"].to_pylist() == [6]


def test_2_a_limit_before_a_filter_is_not_one_after_it(points):
    assert points.sort("id").limit(3).filter("id > 1").count() == 1
    assert points.sort("id").filter("id > 1").limit(3).count() == 3


@pytest.mark.parametrize(
    "frame",
    [
        lambda items: items.filter("price < 20").select("id", "price"),
        lambda items: items.select("id", "price").filter("price < 20"),
    ],
)
def test_2_columns_that_nothing_uses_are_not_read_wherever_select_stands(items, frame):
    text = str(frame(items).explain())
    reads = next(line for line in text.splitlines() if "reads id" in line)
    assert reads.split("reads ")[1].split("  ")[0] == "id, price"


# 3. One result shape


def test_3_one_row_per_query_and_neighbour_keys_then_fields_without_vectors(points):
    found = points.search([[0, 1], [9, 1]], k=2).to_arrow()
    assert found.column_names == ["query_id", "rank", "id", "distance", "size"]
    assert found["query_id"].to_pylist() == [0, 0, 1, 1]
    assert found["rank"].to_pylist() == [1, 2, 1, 2]
    assert found["id"].to_pylist() == [0, 1, 9, 8]
    assert found["distance"].to_pylist() == [0, 1, 0, 1]
    assert found["size"].to_pylist() == [10, 9, 1, 2]


def test_3_a_field_of_one_of_these_names_gets_a_suffix(db):
    c = db.create_collection(
        "clash",
        data={"rank": [7, 8], "distance": ["x", "y"], "query_id": [1.5, 2.5], "v": np.eye(2)},
        primary_key="rank",
    )
    found = c.search([1, 0], k=2).to_arrow()
    assert found.column_names == [
        "query_id", "rank", "rank_right", "distance", "distance_right", "query_id_right",
    ]  # fmt: skip
    assert found["rank_right"].to_pylist() == [7, 8]
    assert found["distance_right"].to_pylist() == ["x", "y"]
    assert found["query_id_right"].to_pylist() == [1.5, 2.5]
    both = c.filter("rank > 7 and distance == 'y'").search([1, 0]).filter("distance_right == 'y'")
    assert both.to_arrow()["rank_right"].to_pylist() == [8]


def test_3_one_query_is_a_batch_of_one(points):
    one = points.search([3, 1], k=4).to_arrow()
    assert one.equals(points.search([[3, 1]], k=4).to_arrow())
    assert one["query_id"].to_pylist() == [0] * 4


# 4. distance: smaller is nearer, for every metric


@pytest.mark.parametrize("metric", ["cosine", "l2", "sqeuclidean", "ip"])
def test_4_smaller_is_nearer_for_every_metric(db, metric):
    vectors = np.random.default_rng(0).standard_normal((50, 8)).astype(np.float32)
    query = vectors[0] * 2
    c = db.create_collection(
        metric,
        gv.Schema({"id": gv.Int64(), "v": gv.Vector(8, metric=metric)}, primary_key="id"),
        data={"id": np.arange(50), "v": vectors},
    )
    found = c.search(query, k=50).to_pandas()
    x, y = vectors.astype(np.float64), query.astype(np.float64)
    wanted = {
        "cosine": 1 - x @ y / np.linalg.norm(x, axis=1) / np.linalg.norm(y),
        "l2": np.linalg.norm(x - y, axis=1),
        "sqeuclidean": ((x - y) ** 2).sum(axis=1),
        "ip": -(x @ y),
    }[metric]
    assert found["distance"].is_monotonic_increasing
    assert found["id"].tolist() == np.argsort(wanted, kind="stable").tolist()
    np.testing.assert_allclose(found["distance"], np.sort(wanted), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("metric", ["hamming", "jaccard"])
def test_4_smaller_is_nearer_for_bits(db, metric):
    bits = np.random.default_rng(0).random((50, 16)) < 0.4
    packed = np.packbits(bits, axis=1)
    c = db.create_collection(
        metric,
        gv.Schema({"id": gv.Int64(), "v": gv.BinaryVector(16, metric=metric)}, primary_key="id"),
        data={"id": np.arange(50), "v": packed},
    )
    found = c.search(packed[3], k=50).to_pandas()
    one = bits[3]
    union = (bits | one).sum(axis=1)
    wanted = {
        "hamming": (bits ^ one).sum(axis=1),
        "jaccard": 1 - (bits & one).sum(axis=1) / union,
    }[metric].astype(np.float32)
    assert found["id"].tolist() == np.lexsort((np.arange(50), wanted)).tolist()
    np.testing.assert_allclose(found["distance"], np.sort(wanted), rtol=1e-6)


# 5. Say what, not how


def test_5_the_promises_of_quality_give_the_true_answer_without_an_index(points):
    wanted = points.search([3, 1]).to_arrow()
    assert points.search([3, 1], exact=True).to_arrow().equals(wanted)
    assert points.search([3, 1], recall=0.5).to_arrow().equals(wanted)


@pytest.mark.parametrize(
    "options",
    [
        {"recall": 0.9, "exact": True},
        {"recall": 0.9, "params": {"ef": 10}},
        {"exact": True, "params": {"ef": 10}},
    ],
)
def test_5_at_most_one_of_recall_exact_and_params(points, options):
    with pytest.raises(gv.QueryError) as caught:
        points.search([3, 1], **options)
    for name in options:
        assert name in str(caught.value)


# 6. Arrow in, Arrow out


class Stream:
    """Exports the Arrow stream protocol and nothing else."""

    def __init__(self, table):
        self._table = table

    def __arrow_c_stream__(self, requested_schema=None):
        return self._table.__arrow_c_stream__(requested_schema)


def test_6_whatever_exports_the_arrow_stream_protocol_goes_in(points):
    rows = pa.table({"id": [50, 51], "size": [1, 2], "v": [[0.0, 5.0], [5.0, 0.0]]})
    assert points.insert(Stream(rows)).inserted == 2
    assert gv.frame(Stream(rows)).count() == 2
    found = points.search(Stream(rows), k=1, query_id="id").to_arrow()
    assert found["query_id"].to_pylist() == found["id"].to_pylist() == [50, 51]
    assert points.delete(Stream(rows.select(["id"]))).deleted == 2


def test_6_every_frame_and_result_exports_it(points):
    for thing in (points, points.filter("id < 3"), points.search([0, 1]), points.collect()):
        table = pa.table(thing)
        assert table.equals(thing.to_arrow())
        assert pl.DataFrame(thing).height == table.num_rows
        assert duckdb.sql("from thing").fetchall()
        assert len(pa.RecordBatchReader.from_stream(thing).read_pandas()) == table.num_rows


# 7. No ceremony


def test_7_a_write_is_readable_when_its_call_returns(points):
    points.insert(line([40]))
    assert points.search([40, 1], k=1).to_arrow()["id"].to_pylist() == [40]
    points.update({"size": 99}, filter="id == 40")
    assert points.filter("size == 99").count() == 1
    points.delete(ids=[40])
    assert points.get([40]).count() == 0


# 8. Nothing fails silently


@pytest.mark.parametrize(
    ("use", "name", "near"),
    [
        (lambda c: c.filter("sise > 1"), "sise", "size"),
        (lambda c: c.filter(gv.col("sise") > 1), "sise", "size"),
        (lambda c: c.select("sise"), "sise", "size"),
        (lambda c: c.drop("sise"), "sise", "size"),
        (lambda c: c.sort("sise"), "sise", "size"),
        (lambda c: c.distinct("sise"), "sise", "size"),
        (lambda c: c.group_by("sise"), "sise", "size"),
        (lambda c: c.with_columns(x=gv.col("sise")), "sise", "size"),
        (lambda c: c.search([0, 1], group_by="sise"), "sise", "size"),
        (lambda c: c.search(c, query_id="sise"), "sise", "size"),
        (lambda c: c.search([0, 1]).filter("distanse < 1"), "distanse", "distance"),
        (lambda c: c.search([0, 1]).select("v", "ranc"), "ranc", "rank"),
        (lambda c: c.update({"sise": 1}, filter="id == 1"), "sise", "size"),
        (lambda c: c.delete(filter="sise == 1"), "sise", "size"),
        (lambda c: c.drop_field("sise"), "sise", "size"),
    ],
)
def test_8_an_unknown_field_raises_at_once_and_suggests_the_nearest(points, use, name, near):
    with pytest.raises(gv.NotFoundError) as caught:
        use(points)
    text = str(caught.value)
    assert f'"{name}"' in text
    assert f'Did you mean "{near}"?' in text
    assert points.count() == 10


def test_8_an_unknown_option_raises(points):
    for call in (points.search, points.insert, points.delete, points.explain, points.collect):
        kinds = [p.kind for p in inspect.signature(call).parameters.values()]
        assert inspect.Parameter.VAR_KEYWORD not in kinds
    with pytest.raises(TypeError, match="radus"):
        points.search([0, 1], radus=1)


@pytest.mark.parametrize(
    ("use", "known"),
    [
        (lambda c: c.search([0, 1], metric="cosin"), "cosine"),
        (lambda c: c.insert(line([50]), on_conflict="skipp"), "skip"),
        (lambda c: c.insert(line([50]), on_bad_vectors="dropp"), "drop"),
        (lambda c: c.collect(engine="dask2"), "auto"),
        (lambda c: c.join(c, "id", how="lefft"), "left"),
    ],
)
def test_8_an_unknown_choice_names_those_that_exist(points, use, known):
    with pytest.raises(gv.QueryError) as caught:
        use(points)
    assert known in str(caught.value)
    assert points.count() == 10


def test_8_an_unknown_type_names_those_that_exist():
    for wrong in ({"dtype": "float8"}, {"metric": "manhattan"}):
        with pytest.raises(gv.SchemaError) as caught:
            gv.Vector(4, **wrong)
        assert ("float16" if "dtype" in wrong else "cosine") in str(caught.value)


def test_8_what_exceeds_memory_is_tiled_not_refused(tmp_path):
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((3000, 16)).astype(np.float32)
    with gv.connect(tmp_path / "small", memory_limit="8MiB") as db:
        c = db.create_collection("c", data={"id": np.arange(3000), "v": vectors}, primary_key="id")
        found = c.search(vectors, k=2).select("query_id", "id").to_pandas()
    assert (found["id"][::2].to_numpy() == np.arange(3000)).all()
    assert isinstance(found, pd.DataFrame)
