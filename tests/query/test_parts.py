"""The small pieces: codes, merges, caches, lazy columns, pruning."""

import threading

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.api.frame import Frame
from gpuvec.errors import QueryError
from gpuvec.expr.tree import col
from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors
from gpuvec.query import build
from gpuvec.query.batch import tile_size
from gpuvec.query.cache import DerivedCache
from gpuvec.query.codes import match_rows, places_within, row_codes
from gpuvec.query.execute import Run
from gpuvec.query.memory_source import MemorySource, MemoryView, new_segment_id
from gpuvec.query.part import computed_part, concat_parts, gather
from gpuvec.query.plan import Columns
from gpuvec.query.reduce import add_neighbors, merge_ranges
from gpuvec.rows import Rows
from gpuvec.schema import Int64, String
from gpuvec.segment.view import FieldStatistics
from tests.query.tables import make_table, session

VALUES = st.lists(st.one_of(st.none(), st.integers(-2, 2)), max_size=30)


@settings(deadline=None)
@given(VALUES, st.data())
def test_codes_are_equal_where_rows_are_equal(numbers, data):
    texts = data.draw(
        st.lists(st.sampled_from(["a", "b", None]), min_size=len(numbers), max_size=len(numbers))
    )
    codes = row_codes([pa.array(numbers, pa.int64()), pa.array(texts, pa.string())], ["n", "t"])
    seen = {}
    assert codes.tolist() == [
        seen.setdefault(pair, len(seen)) for pair in zip(numbers, texts, strict=True)
    ]
    counts = {}
    places = [
        counts.setdefault(code, []).append(0) or len(counts[code]) - 1 for code in codes.tolist()
    ]
    assert places_within(codes).tolist() == places


def test_zeros_of_both_signs_and_nans_are_one_group():
    values = pa.chunked_array([[0.0, float("nan")], [-0.0, float("nan"), None]])
    assert row_codes([values], ["x"]).tolist() == [0, 1, 0, 1, 2]


def test_lists_cannot_be_compared():
    with pytest.raises(QueryError, match="GV-357"):
        row_codes([pa.array([[1]])], ["tags"])


@settings(deadline=None)
@given(st.lists(st.integers(-1, 4), max_size=15), st.lists(st.integers(0, 4), max_size=15))
def test_matches_are_all_pairs_of_equal_codes(left, right):
    pairs = [(i, j) for i, a in enumerate(left) for j, b in enumerate(right) if a == b and a >= 0]
    rows, others, counts = match_rows(np.array(left, np.int64), np.array(right, np.int64))
    assert list(zip(rows.tolist(), others.tolist(), strict=True)) == pairs
    assert counts.sum() == len(pairs)


@settings(deadline=None)
@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4))
def test_merging_parts_equals_sorting_all_of_them(seed, k, parts):
    rng = np.random.default_rng(seed)
    best, every = None, [[] for _ in range(3)]

    def ranks(part, row):
        return -(part * 100 + row)  # later rows first

    for part in range(parts):
        distance = np.sort(rng.integers(0, 4, (3, 5)), axis=1).astype(np.float32)
        rows = np.empty((3, 5), np.int64)
        for q in range(3):
            rows[q] = sorted(range(5), key=lambda r, q=q: (distance[q, r], -r))
            every[q] += [
                (float(d), -(part * 100 + int(r)))
                for d, r in zip(distance[q], rows[q], strict=True)
            ]
        found = Neighbors(rows[:, :k], distance[:, :k])
        best = add_neighbors(best, found, np.full(found.rows.shape, part), k, ranks)
    hits = best.hits()
    for q in range(3):
        mine = slice(hits.offsets[q], hits.offsets[q + 1])
        found = [
            (float(d), -int(p * 100 + r))
            for d, p, r in zip(hits.distance[mine], hits.part[mine], hits.row[mine], strict=True)
        ]
        assert found == sorted(every[q])[:k]


def test_ranges_merge_by_distance_then_rank():
    one = RangeNeighbors(np.array([0, 2, 2]), np.array([5, 1]), np.array([1, 2], np.float32))
    two = RangeNeighbors(np.array([0, 1, 2]), np.array([3, 4]), np.array([1, 0], np.float32))
    hits = merge_ranges([(0, one), (1, two)], 2, lambda part, row: row)
    assert hits.row.tolist() == [3, 5, 1, 4]
    assert hits.offsets.tolist() == [0, 3, 4]
    assert merge_ranges([], 2, None).num_queries == 2


def test_gathered_rows_come_from_the_parts_in_any_order():
    parts = [computed_part(3, {"x": pa.array([p * 10 + i for i in range(3)])}) for p in range(3)]
    whose, rows = np.array([2, 0, 2, 0]), np.array([1, 2, 0, 0])
    assert gather(parts, whose, rows).column("x").to_pylist() == [21, 2, 20, 0]
    assert concat_parts(parts).column("x").to_pylist() == [0, 1, 2, 10, 11, 12, 20, 21, 22]


def test_columns_taken_together_are_those_taken_one_by_one():
    schema = Columns({"id": Int64(), "x": Int64(nullable=True), "t": String()}, "id")
    tables = [
        pa.table({"id": range(p, p + 4), "x": [p, None, 7, p], "t": [f"{p}{i}" for i in range(4)]})
        for p in (0, 10, 20)
    ]
    source = MemorySource(schema, *(MemoryView(new_segment_id(), Rows(t)) for t in tables))
    run = Run(session())
    parts = list(run.parts(build.scan(source)))
    whose, rows = np.array([2, 0, 2, 0]), np.array([1, 2, 0, 0])
    for found in (
        gather(parts, whose, rows),
        gather(parts[:1], np.zeros(3, np.int64), np.array([3, 0, 3])),
        gather(parts, np.ones(2, np.int64), np.array([3, 1])),
        parts[1].keep(np.array([True, False, True, True])).slice(1, 3),
        parts[2].derive(["x"], lambda part, name: part.column("id")).take(np.array([2, 0])),
    ):
        names = list(schema.fields)
        alone = {name: found.read(name).to_pylist() for name in names}
        found.prepare(names)
        assert {name: found.column(name).to_pylist() for name in names} == alone


def test_columns_are_read_once_and_only_when_asked_for():
    reads = []

    class Watched(MemoryView):
        def scalars(self, names):
            reads.extend(names)
            return self.rows.table.select(list(names))

        def vectors(self, name):
            reads.append(name)
            return self.rows.vectors[name]

    table = make_table(1)
    views = [
        Watched(new_segment_id(), view.rows, view.visible)
        for view in table.frame.plan.source._views
    ]
    columns = table.frame.plan.columns
    watched = Frame(build.scan(MemorySource(columns, *views)), session())
    assert watched.filter("price < 0.5").count() == table.frame.filter("price < 0.5").count()
    assert set(reads) == {"price"}
    reads.clear()
    watched.select("id", "price").filter("price < 0.5").collect()
    assert reads.count("id") == 3
    assert set(reads) == {"id"}  # prices are remembered
    reads.clear()
    watched.filter("id < 0").search([0.0] * 8, k=2).collect()
    assert "embedding" not in reads
    watched.search([0.0] * 8, k=2).collect()
    watched.search([0.0] * 8, k=2).collect()
    assert reads.count("embedding") == 3


def test_a_run_sees_each_source_at_one_version():
    opened = []

    class Counted(MemorySource):
        def snapshot(self):
            opened.append(self)
            return super().snapshot()

    table = make_table(1)
    source = Counted(table.frame.plan.columns, *table.frame.plan.source._views)
    items = Frame(build.scan(source), session())
    items.search(items.limit(3), k=2, exclude_self=True).join(items.drop("price"), "id").collect()
    assert opened == [source]


def test_threads_may_share_a_frame_and_its_cache():
    table = make_table(1, rows=300)
    search = table.frame.filter("price < 0.8").search(table.frame.limit(50), k=5)
    wanted = search.to_arrow()
    found = []
    threads = [threading.Thread(target=lambda: found.append(search.to_arrow())) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 6
    assert all(rows.equals(wanted) for rows in found)


def test_statistics_rule_segments_out():
    class Known(MemoryView):
        def statistics(self, name):
            values = self.rows.table.column(name).to_pylist()
            return FieldStatistics(
                low=min(values), high=max(values), null_count=0, row_count=len(values)
            )

    views = [
        Known(new_segment_id(), Rows(pa.table({"n": list(range(s, s + 10))}))) for s in (0, 10, 20)
    ]
    source = Frame(build.scan(MemorySource(Columns({"n": Int64()}, "n"), *views)), session())
    result = source.filter("n >= 12 and n < 14").collect()
    assert result["n"].tolist() == [12, 13]
    assert result.metrics.segments_pruned == 2
    moved = source.with_columns(n=col("n") + 100).filter("n > 125").collect()
    assert moved["n"].tolist() == [126, 127, 128, 129]
    assert moved.metrics.segments_pruned == 0


def test_the_cache_keeps_to_its_budget_and_forgets_old_generations():
    cache = DerivedCache(100)
    made = []

    def value(name, size):
        return cache.get((name, 0, "x"), lambda: made.append(name) or size, lambda s: s)

    value("a", 60)
    value("b", 30)
    value("a", 60)
    assert made == ["a", "b"]
    value("c", 30)  # b is the least recently used
    assert cache.nbytes == 90
    value("a", 60)
    value("b", 30)
    assert made == ["a", "b", "c", "b"]
    value("weightless", 0)
    value("huge", 1000)
    assert cache.nbytes == 1000
    assert cache.has(("weightless", 0, "x"))
    cache.get(("huge", 1, "x"), lambda: 5, lambda s: s)
    assert cache.nbytes == 5


def test_a_value_that_holds_others_goes_with_them_and_keeps_them_young():
    cache, made = DerivedCache(100), []

    def value(name, size, needs=()):
        keys = [(need, 0) for need in needs]
        return cache.get((name, 0), lambda: made.append(name) or size, lambda s: s, lambda _: keys)

    value("a", 40)
    value("old", 40)
    value("both", 1, ["a"])
    value("old", 40)
    value("both", 1, ["a"])  # a use of a, too
    value("new", 30)
    assert cache.nbytes == 71  # old went
    value("huge", 90)
    assert cache.nbytes == 90
    assert not cache.has(("both", 0))
    value("both", 1, ["a"])  # what it needs is gone: it is not kept
    assert cache.nbytes == 90
    assert made == ["a", "old", "both", "new", "huge", "both"]


def test_a_cached_value_is_made_by_one_thread():
    cache, made, gate = DerivedCache(100), [], threading.Barrier(4)

    def work():
        gate.wait()
        cache.get(("a", 0), lambda: made.append(1) or 1, lambda s: 1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1]


def test_a_failed_value_is_tried_again():
    cache = DerivedCache(100)
    with pytest.raises(ZeroDivisionError):
        cache.get(("a", 0), lambda: 1 // 0, lambda s: 1)
    assert cache.get(("a", 0), lambda: 7, lambda s: 1) == 7
    assert cache.nbytes == 1


def test_tiles_shrink_with_k_and_memory():
    wide, narrow = tile_size(10, 100, 10**6, 1 << 30), tile_size(10_000, 100, 10**6, 1 << 30)
    assert wide > narrow >= 1
    assert tile_size(10**9, 100, 1000, 1 << 30) == tile_size(1000, 100, 1000, 1 << 30)
    assert tile_size(10, 10**9, 1000, 1 << 20) == 1
