"""Reads spread over nodes give the rows that one process gives, in the same order."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.errors import ResultTooLargeError
from gpuvec.expr.tree import col, count
from tests.query.spread_nodes import session, spread_over
from tests.query.tables import make_queries, make_table

FILTERS = ["", "price < 0.5", "brand == 'acme'", "brand is null", "price < 0", "size > 3"]
SHAPES = {
    "dense": {},
    "text keys": {"text_keys": True},
    "three channels": {"channels": 3},
    "partitions": {"partition_key": "size"},
    "int8 products": {"metric": "ip", "dtype": "int8"},
    "bits": {"metric": "hamming"},
    "sparse": {"metric": "ip", "dtype": "sparse"},
    "growing alone": {"flushes": 0},
    "files alone": {"growing": False},
}


def fill(
    db, seed, *, text_keys=False, channels=1, partition_key=None, metric="sqeuclidean",
    dtype="float32", flushes=3, growing=True,
):  # fmt: skip
    """Create a collection of several segments with deletes, updates, ties, nulls and late rows."""
    rng = np.random.default_rng(seed)
    fields = {
        "id": gv.String() if text_keys else gv.Int64(),
        "price": gv.Float32(nullable=True),
        "brand": gv.String(nullable=True),
        "size": gv.Int64(),
        "embedding": vector_kind(metric, dtype),
    }
    schema = gv.Schema(fields, "id", partition_key=partition_key, dynamic=True)
    items = db.create_collection("items", schema, channels=channels)
    for number in range(flushes + growing):
        table = make_table(
            int(rng.integers(1 << 30)), rows=int(rng.integers(30, 120)), segments=1,
            metric=metric, dtype=dtype, text_keys=text_keys,
        )  # fmt: skip
        items.upsert(sized(table, rng))
        if number % 2:
            items.delete(filter=f"size == {int(rng.integers(6))} and price < 0.4")
        if number < flushes:
            items.flush()
    return items


def vector_kind(metric, dtype):
    return make_table(1, rows=1, metric=metric, dtype=dtype).frame.schema.fields["embedding"]


def sized(table, rng):
    """Return rows with two more columns, one of which no schema names."""
    sizes = rng.integers(0, 6, len(table))
    keys = pa.array(table.keys)
    more = gv.frame(pa.table({"id": keys, "size": sizes, "odd": sizes % 2}))
    return table.frame.join(more, on="id")


def search_of(frame, rng, metric, dtype):
    """Return a random search of a frame."""
    queries = make_queries(int(rng.integers(1 << 30)), int(rng.integers(1, 6)), metric, dtype)
    options = {"k": [1, 3, 10, 500, None][rng.integers(5)]}
    if rng.random() < 0.4:
        options["radius"] = [0.0, 4.0, (1.0, 9.0)][rng.integers(3)]
    if rng.random() < 0.4:
        options |= {"group_by": "size", "group_size": int(rng.integers(1, 4))}
    elif rng.random() < 0.3 and frame.schema.primary_key:
        queries, options["exclude_self"] = frame.filter("size < 2"), True
        options["k"] = options["k"] or 5
    return frame.search(queries, **options)


def below(items, rng):
    """Return a random frame that nodes answer for alone."""
    frame = items
    for _ in range(rng.integers(3)):
        frame = [
            lambda f: f.filter(FILTERS[rng.integers(len(FILTERS))] or "size >= 0"),
            lambda f: f.with_columns(double=col("size") * 2),
            lambda f: f.filter("odd == 1"),
            lambda f: f.filter(col("embedding").is_not_null()),
        ][rng.integers(4)](frame)
    return frame


def any_frame(items, rng, metric, dtype):
    """Return a random frame; the same one for equal generators."""
    frame = below(items, rng)
    shape = rng.integers(17)
    if shape < 6:
        found = search_of(frame, rng, metric, dtype)
        return found.filter("distance < 8") if rng.random() < 0.2 else found
    ids = frame.schema.fields["id"]
    keys = [f"k{n:04}" for n in rng.integers(0, 300, 8)] if ids.KIND == "string" else (
        rng.integers(0, 300, 8).tolist()
    )  # fmt: skip
    return {
        6: lambda: frame,
        7: lambda: frame.limit(int(rng.integers(1, 90))),
        8: lambda: frame.sort("price", "id").limit(20),
        9: lambda: frame.get(keys),
        10: lambda: frame.sample(9, seed=3).select("size", "embedding", "id"),
        11: lambda: frame.group_by("brand").agg(n=count(), most=col("size").max()),
        12: lambda: search_of(frame.concat(below(items, rng).select(*frame.columns)), rng, metric,
                              dtype) if "double" not in frame.columns else frame.distinct("size"),
        13: lambda: frame.join(items.filter("size == 1").select("id"), on="id", how="semi"),
        14: lambda: grouped(frame, rng),
        15: lambda: grouped(frame, rng),
        16: lambda: frame.distinct(*KEYS[rng.integers(len(KEYS))]),
    }[int(shape)]()  # fmt: skip


def grouped(frame, rng):
    """Return random groups of a frame; sums of its floats depend on the order of additions."""
    groups = frame.group_by(*KEYS[rng.integers(len(KEYS))])
    if rng.random() < 0.3:
        return groups.head(int(rng.integers(1, 4)))
    price = col("price")
    return groups.agg(
        n=count(), known=price.count(), total=price.sum(), usual=price.mean() * 3 + count(),
        low=price.min(), high=col("brand").max(), sizes=col("size").mean(), odd=(price * 7).sum(),
    )  # fmt: skip


KEYS = (["brand"], ["size"], ["brand", "size"], ["price"], ["id"], ["odd"])
CASES = [(shape, 1 + (number + 2) % 4) for number, shape in enumerate(SHAPES)]


@pytest.mark.parametrize(("shape", "nodes"), CASES)
def test_spread_reads_give_the_rows_of_one_process_in_their_order(shape, nodes, tmp_path):
    check(tmp_path, shape, nodes, frames=8, seed=nodes)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("nodes", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_many_spread_reads_give_the_rows_of_one_process(shape, nodes, seed, tmp_path):
    check(tmp_path, shape, nodes, frames=60, seed=100 + seed)


def check(path, shape, count_of_nodes, *, frames, seed):
    options = SHAPES[shape]
    metric, dtype = options.get("metric", "sqeuclidean"), options.get("dtype", "float32")
    with gv.connect(path) as db:
        fill(db, seed, **options)
    # nobody writes any more, so nothing is compacted, which would move rows
    with spread_over(path, 0) as (reader, _), spread_over(path, count_of_nodes, seed) as found:
        reader.engine.spread = lambda: None
        client, nodes = found
        growing = nodes.plan(client["items"]._source.collection_id).growing_rows
        assert (growing > 0) == options.get("growing", True)
        for number in range(frames):
            one, other = (
                any_frame(items, np.random.default_rng((seed, number)), metric, dtype)
                for items in (reader["items"], client["items"])
            )
            assert_same(one, other)
        assert nodes.calls


def assert_same(one, other):
    wanted, found = one.collect(), other.collect()
    assert found.columns == wanted.columns
    for name in wanted.columns:
        assert_equal_columns(found, wanted, name, str(one))
    assert other.count() == len(wanted), str(one)


def assert_equal_columns(found, wanted, name, plan):
    if name in wanted.rows.vectors:
        mine, own = found.rows.vectors[name], wanted.rows.vectors[name]
        assert len(mine) == len(own), plan
        mine, own = found.to_arrow()[name], wanted.to_arrow()[name]
        assert mine.equals(own), plan
        return
    mine, own = found.rows.table[name], wanted.rows.table[name]
    assert mine.to_pylist() == own.to_pylist(), f"{name} of {plan}"


@pytest.fixture(scope="module")
def where(tmp_path_factory):
    """A directory with a collection that nobody writes to."""
    path = tmp_path_factory.mktemp("items")
    with gv.connect(path) as db:
        fill(db, 3)
    return path


@pytest.fixture
def spread(where):
    with spread_over(where, 2, seed=1) as (client, nodes):
        yield client["items"], nodes


def asked(nodes):
    """Return the kinds of questions since this was called last."""
    kinds = [kind for _, kind in nodes.calls]
    nodes.calls.clear()
    return set(kinds)


def names_read(nodes):
    """Return a set that fills with the columns that nodes are asked for."""
    names = set()
    nodes.before = lambda part: names.update(getattr(part.question, "names", ()))
    return names


def test_counting_moves_no_columns(spread):
    items, nodes = spread
    assert items.filter("price < 0.5").count() > 0
    assert asked(nodes) == {"CountRows"}


def test_a_search_moves_the_columns_of_its_winners_alone(spread):
    items, nodes = spread
    names = names_read(nodes)
    search = items.search(make_queries(4, 3), k=2)
    assert len(search.select("query_id", "id", "distance").collect()) == 6
    assert asked(nodes) == {"SearchRows"}
    search.select("price").collect()
    assert names == {"price"}


def test_groups_are_made_at_nodes_and_no_column_moves(spread):
    items, nodes = spread
    names = names_read(nodes)
    items.group_by("brand").agg(n=count(), total=col("price").sum()).collect()
    assert asked(nodes) == {"GroupRows"}
    assert items.distinct("brand", "size").select("brand", "size").count() > 0
    assert asked(nodes) == {"FirstRows"}
    items.distinct("brand").select("price").collect()
    assert asked(nodes) == {"FirstRows", "TakeRows"}
    assert names == {"price"}


def test_groups_of_no_rows_are_none(spread):
    items, _ = spread
    none = items.filter("price < -1")
    assert none.group_by("brand").agg(n=count(), mean=col("price").mean()).count() == 0
    assert len(none.distinct("brand").collect()) == 0
    assert len(none.group_by("size").head(2).collect()) == 0


def test_describe_reads_no_vectors(spread):
    items, nodes = spread
    names = names_read(nodes)
    lines = {row["column"]: row for row in items.describe().to_arrow().to_pylist()}
    assert lines["embedding"]["nulls"] > 0
    assert lines["embedding"]["count"] + lines["embedding"]["nulls"] == items.count()
    assert "embedding" not in names


def test_keys_are_looked_up_where_the_rows_are(spread):
    items, nodes = spread
    names = names_read(nodes)
    some = items.limit(2).to_arrow()["id"].to_pylist()
    names.clear()
    asked(nodes)
    found = items.get([*reversed(some), -1]).select("id", "price").to_arrow()
    assert found["id"].to_pylist() == some[::-1]
    assert asked(nodes) == {"FindKeys", "TakeRows"}
    assert names == {"id", "price"}


def test_the_first_rows_do_not_count_all_segments(tmp_path):
    with gv.connect(tmp_path) as db:
        items = db.create_collection("items", gv.Schema({"id": gv.Int64()}, "id"))
        for start in range(0, 400_000, 80_000):
            items.insert({"id": np.arange(start, start + 80_000)})
            items.flush()
    with spread_over(tmp_path, 2) as (client, nodes):
        counted = []
        nodes.before = lambda part: counted.extend(part.segments)
        assert client["items"].head(3)["id"].tolist() == [0, 1, 2]
        assert len(set(counted)) == 1
        assert client["items"].filter("id >= 390000").head(1)["id"].tolist() == [390_000]


def test_metrics_tell_what_each_node_did(spread):
    items, _ = spread
    metrics = items.search(make_queries(4, 3), k=2).collect().metrics
    assert set(metrics.nodes) == {"0", "1"}
    assert sum(work.segments for work in metrics.nodes.values()) == metrics.segments == 4
    assert metrics.recall == 1.0
    assert metrics.rows_passed == items.count()
    text = str(items.search(make_queries(4, 3), k=2).explain(analyze=True))
    assert "node 0: " in text
    assert "node 1: " in text


def test_an_answer_that_may_not_fit_is_counted_before_it_is_refused(where):
    with spread_over(where, 2) as (client, nodes):
        items = client["items"]
        width = 8 * 4 + 4 + 32 + 8 + 8
        client.session = replace(session(), memory_limit=(items.count() - 1) * width)
        with pytest.raises(ResultTooLargeError, match="GV-420"):
            client["items"].collect()
        client.session = replace(session(), memory_limit=(items.count() + 1) * 2 * width)
        asked(nodes)
        assert len(client["items"].collect()) == items.count()


def test_frames_of_two_places_are_searched_together(spread, where):
    items, _ = spread
    queries = make_queries(4, 5)
    with spread_over(where, 0) as (reader, _):
        reader.engine.spread = lambda: None
        here = reader["items"]
        both, one = (
            items.concat(here.filter("price < 0.3")),
            here.concat(here.filter("price < 0.3")),
        )
        for options in ({"k": 4}, {"k": 3, "group_by": "size", "group_size": 2}, {"radius": 5.0}):
            assert_same(one.search(queries, **options), both.search(queries, **options))


def test_an_index_is_used_at_nodes_and_its_recall_comes_back(tmp_path):
    rng = np.random.default_rng(2)
    with gv.connect(tmp_path) as db:
        fields = {"id": gv.Int64(), "v": gv.Vector(16, metric="l2")}
        items = db.create_collection("items", gv.Schema(fields, "id"))
        for start in range(0, 8000, 4000):
            rows = rng.normal(size=(4000, 16)).astype(np.float32)
            items.insert({"id": np.arange(start, start + 4000), "v": rows})
            items.flush()
        items.create_index("v", gv.index.HNSW())
    queries = rng.normal(size=(200, 16)).astype(np.float32)
    with spread_over(tmp_path, 2, seed=3) as (client, nodes):
        items = client["items"]
        found = items.search(queries, k=10, params={"ef_search": 200}).collect()
        true = items.search(queries, k=10, exact=True).collect()
        assert any("HNSW" in way for way in found.metrics.strategies)
        assert asked(nodes) >= {"SearchRows"}
        same = {*zip(found["query_id"], found["id"], strict=True)} & {
            *zip(true["query_id"], true["id"], strict=True)
        }
        assert len(same) / len(true) > 0.95
        told = items.search(queries, k=10, recall=0.9).collect().metrics
        assert told.recall is not None
        assert told.recall >= 0.9
