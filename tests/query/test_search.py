"""Exact search over segments, against sorting everything."""

from dataclasses import replace

import numpy as np
import pytest

from gpuvec.api.frame import Frame
from gpuvec.query import build
from gpuvec.query.cache import DerivedCache
from gpuvec.query.memory_source import MemorySource
from gpuvec.query.session import Session
from tests.query.tables import answers, expected_search, make_queries, make_table

CASES = [
    ("sqeuclidean", "float32"), ("sqeuclidean", "int8"), ("ip", "float16"), ("ip", "uint8"),
    ("l2", "bfloat16"), ("hamming", "bits"), ("jaccard", "bits"), ("ip", "sparse"),
]  # fmt: skip


def close(found, wanted):
    assert [row[:3] for row in found] == [row[:3] for row in wanted]
    np.testing.assert_allclose([r[3] for r in found], [r[3] for r in wanted], rtol=1e-6)


@pytest.mark.parametrize(("metric", "dtype"), CASES)
@pytest.mark.parametrize("seed", range(3))
def test_the_nearest_come_in_order_with_ties_by_primary_key(metric, dtype, seed):
    table = make_table(seed, metric=metric, dtype=dtype, text_keys=seed % 2 == 1)
    queries = make_queries(seed + 50, 5, metric, dtype)
    for k in (1, 7, 1000):
        close(answers(table.frame.search(queries, k=k)), expected_search(table, queries, k=k))


@pytest.mark.parametrize("seed", range(3))
def test_a_filter_before_the_search_chooses_the_candidates(seed):
    table = make_table(seed, segments=4)
    queries = make_queries(seed, 4)
    keep = [price is not None and price < 0.3 for price in table.price]
    found = answers(table.frame.filter("price < 0.3").search(queries, k=6))
    close(found, expected_search(table, queries, k=6, keep=keep))


def test_a_filter_after_the_search_thins_the_answers():
    table = make_table(5)
    queries = make_queries(6, 4)
    cheap = {k for k, p in zip(table.keys, table.price, strict=True) if p is not None and p < 0.3}
    found = answers(table.frame.search(queries, k=20).filter("price < 0.3"))
    wanted = [row for row in expected_search(table, queries, k=20) if row[2] in cheap]
    close(found, wanted)


@pytest.mark.parametrize("metric", ["sqeuclidean", "hamming"])
@pytest.mark.parametrize("span", [(None, 9.0), (3.0, 8.0), (0.0, 6.0)])
@pytest.mark.parametrize("k", [None, 4])
def test_a_radius_is_open_below_and_closed_above(metric, span, k):
    table = make_table(9, metric=metric)
    queries = make_queries(10, 5, metric)
    low, high = span
    radius = high if low is None else (low, high)
    options = {} if k is None else {"k": k}
    found = answers(table.frame.search(queries, radius=radius, **options))
    close(found, expected_search(table, queries, k=k, low=low, high=high))


def test_a_radius_without_k_has_no_limit_but_a_given_k_holds():
    table = make_table(11)
    queries = make_queries(12, 2)
    everything = answers(table.frame.search(queries, radius=1e6))
    assert len(everything) == 2 * int(table.valid.sum())
    assert len(answers(table.frame.search(queries, k=10, radius=1e6))) == 20


@pytest.mark.parametrize("k", [1, 2, 9, None])
@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("brands", [None, 120])
@pytest.mark.parametrize("high", [None, 12.0])
def test_groups_are_counted_exactly(k, size, brands, high):
    table = make_table(13, rows=300, brands=brands)
    queries = make_queries(14, 4)
    found = answers(
        table.frame.search(queries, k=k, radius=high, group_by="brand", group_size=size)
    )
    wanted = expected_search(table, queries, k=k, high=high, group=table.brand, group_size=size)
    close(found, wanted)


@pytest.mark.parametrize("text_keys", [False, True])
def test_a_row_is_not_its_own_neighbour_when_told_so(text_keys):
    table = make_table(15, text_keys=text_keys)
    wanted = [key for key, valid in zip(table.keys, table.valid, strict=True) if valid][:6]
    rows = [table.keys.index(key) for key in wanted]
    frame = table.frame
    for options in ({"k": 5}, {"radius": 10.0}, {"k": 2, "group_by": "brand", "group_size": 2}):
        found = answers(frame.search(frame.get(wanted), exclude_self=True, **options))
        expected = expected_search(
            table, table.vectors[rows], k=options.get("k"), high=options.get("radius"), own=wanted,
            group=table.brand if "group_by" in options else None,
            group_size=options.get("group_size", 1),
        )  # fmt: skip
        close(found, [(wanted[q], rank, key, d) for q, rank, key, d in expected])


def test_groups_and_own_rows_agree_for_many_groups():
    table = make_table(16, rows=400, brands=150)
    wanted = [key for key, valid in zip(table.keys, table.valid, strict=True) if valid][:5]
    rows = [table.keys.index(key) for key in wanted]
    search = table.frame.search(
        table.frame.get(wanted), k=3, group_by="brand", group_size=2, exclude_self=True
    )
    expected = expected_search(
        table, table.vectors[rows], k=3, own=wanted, group=table.brand, group_size=2
    )
    close(answers(search), [(wanted[q], rank, key, d) for q, rank, key, d in expected])


def test_another_metric_than_the_fields_is_exact():
    table = make_table(17)
    queries = make_queries(18, 3)
    table.metric = "ip"
    close(
        answers(table.frame.search(queries, k=5, metric="ip")), expected_search(table, queries, k=5)
    )


def test_neighbours_of_an_endless_search_come_in_order_for_as_long_as_one_reads():
    table = make_table(19, rows=300)
    queries = make_queries(20, 2)
    rows = []
    for batch in table.frame.search(queries, k=None).to_batches(64):
        rows += batch.select(["query_id", "rank", "id", "distance"]).to_pylist()
    found = [tuple(row.values()) for row in rows]
    close(found, expected_search(table, queries))


def test_queries_are_tiled_to_the_memory_and_nothing_changes(monkeypatch):
    wide, narrow = make_table(21), make_table(21, memory_limit=40_000)
    queries = make_queries(22, 300)
    whole = answers(wide.frame.search(queries, k=9))
    pieces = list(narrow.frame.search(queries, k=9).to_batches())
    assert len(pieces) > 3
    found = [
        tuple(r.values()) for b in pieces for r in b.drop_columns(["price", "brand"]).to_pylist()
    ]
    assert found == whole


def test_queries_of_a_frame_keep_their_ids_and_null_vectors_get_no_answers():
    table = make_table(23)
    found = table.frame.search(table.frame.limit(40), k=1).to_arrow()["query_id"].to_pylist()
    assert found == [k for k, v in zip(table.keys[:40], table.valid[:40], strict=True) if v]


def test_an_empty_frame_has_no_neighbours():
    table = make_table(24)
    result = table.frame.filter("price > 2").search(make_queries(1, 3), k=2).collect()
    assert len(result) == 0
    assert result.columns == ("query_id", "rank", "id", "distance", "price", "brand")


def test_a_search_of_a_computed_frame_equals_that_of_its_rows():
    table = make_table(25)
    queries = make_queries(26, 3)
    keep = [row < 50 for row in range(len(table))]
    close(
        answers(table.frame.limit(50).search(queries, k=4)),
        expected_search(table, queries, k=4, keep=keep),
    )
    close(
        answers(table.frame.sort("price").with_columns(x=1).search(queries, k=4)),
        expected_search(table, queries, k=4),
    )


def test_cosine_puts_a_zero_vector_at_one():
    table = make_table(27, metric="cosine")
    found = answers(table.frame.search(np.zeros((1, 8), np.float32), k=3))
    assert [row[3] for row in found] == [1.0, 1.0, 1.0]
    assert [row[2] for row in found] == sorted(
        k for k, v in zip(table.keys, table.valid, strict=True) if v
    )[:3]


def test_k_has_no_limit_and_no_cost_beyond_the_rows():
    table = make_table(28)
    found = table.frame.search(make_queries(29, 2), k=10**12).count()
    assert found == 2 * int(table.valid.sum())
    grouped = table.frame.search(make_queries(29, 2), k=10**12, group_by="brand", group_size=10**6)
    assert grouped.count() == found


def test_no_queries_give_no_answers():
    table = make_table(30)
    for queries in (np.empty((0, 8), np.float32), table.frame.filter("price > 5")):
        for options in ({"k": 3}, {"radius": 5.0}, {"k": 2, "group_by": "brand"}, {"k": None}):
            assert table.frame.search(queries, **options).collect().columns[0] == "query_id"
            assert table.frame.search(queries, **options).count() == 0


def test_inner_products_have_negative_distances_and_radii():
    table = make_table(31, metric="ip")
    queries = make_queries(32, 3, "ip")
    found = answers(table.frame.search(queries, radius=-4))
    close(found, expected_search(table, queries, high=-4))
    assert found


@pytest.mark.parametrize("dtype", ["float32", "sparse"])
def test_answers_carry_vectors_of_every_kind_when_selected(dtype):
    table = make_table(33, metric="ip", dtype=dtype)
    found = table.frame.search(make_queries(34, 3, "ip", dtype), k=4).select("id", "embedding")
    rows = [table.keys.index(key) for key in found.collect()["id"]]
    column = found.collect().rows.vectors["embedding"]
    if dtype == "sparse":
        wanted = table.vectors.take(np.array(rows))
        assert column.offsets.tolist() == wanted.offsets.tolist()
        assert column.values.tolist() == wanted.values.tolist()
    else:
        np.testing.assert_array_equal(column.values, table.vectors[rows])


def test_searches_may_follow_one_another():
    table = make_table(35)
    queries = make_queries(36, 2)
    twice = table.frame.search(queries, k=20).search(queries, k=1)
    found = twice.collect()
    assert found.columns[:4] == ("query_id", "rank", "row", "distance")
    assert {"query_id_right", "rank_right", "distance_right", "id"} <= set(found.columns)
    assert len(found) == 2


@pytest.mark.parametrize("metric", ["sqeuclidean", "cosine", "hamming"])
@pytest.mark.parametrize("text_keys", [False, True])
def test_many_small_segments_are_searched_as_one_and_answer_alike(metric, text_keys):
    table = make_table(21, rows=300, segments=12, metric=metric, text_keys=text_keys)
    queries = make_queries(22, 30, metric)
    search = table.frame.filter("price < 0.7").search(queries, k=9)
    first, second = search.collect(), search.collect()
    assert sum(second.metrics.strategies.values()) == 1 < sum(first.metrics.strategies.values())
    keep = [price is not None and price < 0.7 for price in table.price]
    expected = expected_search(table, queries, k=9, keep=keep)
    for _ in range(3):
        assert answers(search) == expected


def test_small_segments_are_not_joined_beyond_a_share_of_the_cache():
    table = make_table(23, rows=300, segments=12)
    tight = Session(memory_limit=1 << 30, threads=1, cache=DerivedCache(4 * 300 * 32 - 1))
    search = Frame(table.frame.plan, tight).search(make_queries(24, 3), k=3)
    assert all(sum(search.collect().metrics.strategies.values()) > 8 for _ in range(3))


def test_segments_that_still_grow_are_not_joined():
    table = make_table(25, rows=300, segments=12)
    (source,) = {table.frame.plan.source}
    views = [replace(view, generation=3) for view in source._views]
    grown = Frame(build.scan(MemorySource(source.schema, *views)), table.frame._session)
    search = grown.search(make_queries(24, 3), k=3)
    assert all(sum(search.collect().metrics.strategies.values()) > 8 for _ in range(3))
