"""Reads spread over nodes give the rows that one process gives, in the same order."""

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.expr.tree import col, count
from tests.query.spread_nodes import spread_over
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
    shape = rng.integers(14)
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
    }[int(shape)]()  # fmt: skip


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
