"""The contract of every vector index, and what exact ones promise besides.

A test class inherits one and gives the fixtures `xp` (`numpy` or `cupy`) and `build`, a function
from (vectors, metric, valid) to an index. The oracle is `paired_distances` over all pairs.
"""
# ruff: noqa: D102 - a test's name is its rule

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from gpuvec.device.arrays import to_host
from gpuvec.errors import QueryError
from gpuvec.index.base import Neighbors, VectorIndex
from gpuvec.kernels import bitset
from gpuvec.kernels.groups_topk import groups_topk_reference
from gpuvec.kernels.pairwise import is_binary, pairwise_distances
from gpuvec.testing.kernels import CASES, made_up, put
from gpuvec.types import Metric

K = 10


def exact_answer(
    distances: NDArray[np.float32],
    k: int,
    *,
    keep: NDArray[np.bool_] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    bound: NDArray[np.float32] | None = None,
) -> Neighbors:
    """Say what an exact index must answer, from all distances, slowly."""
    m, n = distances.shape
    rank = np.arange(n) if tie_rank is None else tie_rank
    found = Neighbors.empty(m, min(k, max(1, n)))
    for i in range(m):
        wanted = np.ones(n, bool) if keep is None else keep.copy()
        if bound is not None:
            wanted &= distances[i] <= bound[i]
        rows = np.flatnonzero(wanted)
        rows = rows[np.lexsort((rank[rows], distances[i, rows]))][:k]
        found.rows[i, : len(rows)] = rows
        found.distances[i, : len(rows)] = distances[i, rows]
    return found


class VectorIndexTests:
    """Rules for every index, exact or not."""

    metric = Metric.L2
    dtype: Any = np.float32

    def case(self, count: int = 400) -> tuple[NDArray[Any], NDArray[Any]]:
        """Return queries and rows on the host."""
        return made_up(self.metric, self.dtype, count, 16)

    def test_answers_have_their_shape_and_order(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        found = build(put(xp, rows), self.metric).search(put(xp, queries), K).to_host()
        assert found.rows.shape == found.distances.shape == (5, K)
        assert (found.rows.dtype, found.distances.dtype) == (np.int64, np.float32)
        assert (np.diff(found.distances, axis=1) >= 0).all()

    def test_masked_rows_never_come_back(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        keep = np.arange(len(rows)) % 3 == 0
        found = build(put(xp, rows), self.metric).search(put(xp, queries), K, keep=keep)
        assert set(to_host(found.rows).ravel()) - {-1} <= set(np.flatnonzero(keep))

    def test_null_vectors_never_come_back(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        valid = np.arange(len(rows)) % 2 == 0
        index = build(put(xp, rows), self.metric, valid)
        found = index.search(put(xp, queries), len(rows)).to_host()
        assert set(found.rows.ravel()) - {-1} <= set(np.flatnonzero(valid))

    def test_a_short_answer_ends_in_gaps_at_infinity(self, xp: Any, build: Any) -> None:
        queries, rows = self.case(6)
        found = build(put(xp, rows), self.metric).search(put(xp, queries), K).to_host()
        assert (found.rows[:, 6:] == -1).all()
        assert np.isposinf(found.distances[:, 6:]).all()

    def test_distances_are_those_of_the_rows(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        distances = pairwise_distances(queries, rows, self.metric)
        found = build(put(xp, rows), self.metric).search(put(xp, queries), K).to_host()
        wanted = np.take_along_axis(distances, found.rows, axis=1)
        np.testing.assert_allclose(found.distances, wanted, rtol=1e-5, atol=1e-5)

    def test_no_rows_and_no_queries_are_answered(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        none = build(put(xp, rows[:0]), self.metric).search(put(xp, queries), 3).to_host()
        assert (none.rows == -1).all()
        index = build(put(xp, rows), self.metric)
        assert index.search(put(xp, queries[:0]), 3).rows.shape == (0, 3)

    def test_the_index_tells_about_itself(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        index: VectorIndex = build(put(xp, rows), self.metric)
        assert (index.num_rows, index.metric) == (len(rows), self.metric)
        assert index.nbytes >= 0
        assert index.last_stats is None
        index.search(put(xp, queries), 3)
        assert getattr(index.last_stats, "queries", None) == len(queries)

    @pytest.mark.parametrize("what", ["keep", "tie_rank", "bound"])
    def test_what_goes_with_rows_must_be_as_long(self, xp: Any, build: Any, what: str) -> None:
        queries, rows = self.case()
        wrong = put(xp, np.ones(4, bool if what == "keep" else np.int64))
        with pytest.raises(QueryError, match=f"{what} must have"):
            build(put(xp, rows), self.metric).search(put(xp, queries), 3, **{what: wrong})

    def test_queries_of_another_width_are_refused(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        with pytest.raises(QueryError, match="columns"):
            build(put(xp, rows), self.metric).search(put(xp, queries[:, :-1]), 3)

    def test_k_below_one_is_refused(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        with pytest.raises(QueryError, match="k must be"):
            build(put(xp, rows), self.metric).search(put(xp, queries), 0)


class ExactIndexTests(VectorIndexTests):
    """What exact indexes promise besides: the oracle's answer, for every metric and dtype."""

    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    @pytest.mark.parametrize("count", [1, 60, 3000])
    @pytest.mark.parametrize("masked", [False, True])
    def test_is_the_oracle(
        self, xp: Any, build: Any, metric: Metric, dtype: Any, count: int, masked: bool
    ) -> None:
        queries, rows = made_up(metric, dtype, count, 9)
        keep = np.random.default_rng(1).random(count) < 0.4 if masked else None
        rank = np.random.default_rng(2).permutation(count)
        distances = pairwise_distances(queries, rows, metric)
        index = build(put(xp, rows), metric)
        for k in (1, 7, count + 2):
            wanted = exact_answer(distances, k, keep=keep, tie_rank=rank)
            found = index.search(put(xp, queries), k, keep=keep, tie_rank=put(xp, rank)).to_host()
            assert found.k == min(k, count)
            np.testing.assert_array_equal(found.rows, wanted.rows)
            np.testing.assert_array_equal(found.distances, wanted.distances)

    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    def test_batches_are_the_oracle(self, xp: Any, build: Any, metric: Metric, dtype: Any) -> None:
        few, rows = made_up(metric, dtype, 5000, 24)
        queries = np.concatenate([few] * 16)
        keep = np.arange(5000) % 50 > 0
        distances = pairwise_distances(queries, rows, metric)
        index = build(put(xp, rows), metric)
        for mask in (None, keep):
            wanted = exact_answer(distances, 12, keep=mask)
            found = index.search(put(xp, queries), 12, keep=mask).to_host()
            np.testing.assert_array_equal(found.rows, wanted.rows)
            np.testing.assert_array_equal(found.distances, wanted.distances)

    @pytest.mark.parametrize("queries_count", [1, 5, 100])
    def test_equal_distances_come_in_tie_order(
        self, xp: Any, build: Any, queries_count: int
    ) -> None:
        rows = np.tile(np.eye(4, dtype=np.float32), (300, 1))
        queries = np.tile(rows[:1], (queries_count, 1))
        rank = np.random.default_rng(0).permutation(len(rows))
        index = build(put(xp, rows), Metric.COSINE)
        found = to_host(index.search(put(xp, queries), 20, tie_rank=put(xp, rank)).rows)
        same = np.flatnonzero(np.arange(len(rows)) % 4 == 0)
        wanted = same[np.argsort(rank[same])][:20]
        np.testing.assert_array_equal(found, np.tile(wanted, (queries_count, 1)))

    @pytest.mark.parametrize("count", [0, 1, 300, 5000])
    @pytest.mark.parametrize("asked", [1, 5, 200])
    def test_a_k_of_any_size_takes_no_more_room_than_the_rows(
        self, xp: Any, build: Any, count: int, asked: int
    ) -> None:
        few, rows = made_up(self.metric, self.dtype, count, 16)
        queries = np.concatenate([few] * 40)[:asked]
        found = build(put(xp, rows), self.metric).search(put(xp, queries), 1 << 60).to_host()
        assert found.rows.shape == (asked, max(1, count))
        wanted = np.arange(count) if count else [-1]
        np.testing.assert_array_equal(np.sort(found.rows, axis=1), [wanted] * asked)

    def test_a_bound_cuts_and_includes(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        distances = pairwise_distances(queries, rows, self.metric)
        bound = np.sort(distances, axis=1)[:, 4]
        wanted = exact_answer(distances, K, bound=bound)
        index = build(put(xp, rows), self.metric)
        found = index.search(put(xp, queries), K, bound=put(xp, bound)).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)

    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    @pytest.mark.parametrize("ring", [False, True])
    def test_a_range_is_open_below_and_closed_above(
        self, xp: Any, build: Any, metric: Metric, dtype: Any, ring: bool
    ) -> None:
        queries, rows = made_up(metric, dtype, 500, 9)
        keep = np.arange(500) % 5 != 0
        distances = pairwise_distances(queries, rows, metric)
        low = np.sort(distances, axis=1)[:, 50] if ring else None
        high = np.sort(distances, axis=1)[:, 200]
        found = build(put(xp, rows), metric).range_search(
            put(xp, queries), None if low is None else put(xp, low), put(xp, high), keep=keep
        )
        offsets = to_host(found.offsets)
        for i in range(5):
            inside = keep & (distances[i] <= high[i])
            if low is not None:
                inside &= distances[i] > low[i]
            wanted = np.flatnonzero(inside)
            wanted = wanted[np.argsort(distances[i, wanted], kind="stable")]
            own = slice(offsets[i], offsets[i + 1])
            np.testing.assert_array_equal(to_host(found.rows)[own], wanted)
            np.testing.assert_array_equal(to_host(found.distances)[own], distances[i, wanted])

    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    @pytest.mark.parametrize("size", [1, 6])
    def test_the_nearest_of_every_group_are_the_oracles(
        self, xp: Any, build: Any, metric: Metric, dtype: Any, size: int
    ) -> None:
        queries, rows = made_up(metric, dtype, 300, 9)
        rng = np.random.default_rng(size)
        keep, rank = rng.random(300) < 0.7, rng.permutation(300)
        codes = rng.integers(-1, 60, 300).astype(np.int32)
        distances = pairwise_distances(queries, rows, metric)
        found = build(put(xp, rows), metric).search_groups(
            put(xp, queries), codes, 60, size, keep=keep, tie_rank=put(xp, rank)
        ).to_host()  # fmt: skip
        wanted = groups_topk_reference(distances, codes, 60, size, keep, rank)
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.distances, wanted.distances)

    def test_an_unlimited_range_holds_every_row(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        found = build(put(xp, rows), self.metric).range_search(put(xp, queries), None, np.inf)
        np.testing.assert_array_equal(to_host(found.counts), [len(rows)] * 5)

    def test_a_bit_set_keeps_what_its_mask_keeps(self, xp: Any, build: Any) -> None:
        queries, rows = self.case()
        valid, keep = (np.arange(len(rows)) % step != 0 for step in (2, 3))
        index = build(put(xp, rows), self.metric, valid)
        bits = bitset.pack(put(xp, keep))
        for one, other in (
            (index.search(put(xp, queries), K, keep=given) for given in (keep, bits)),
            (index.range_search(put(xp, queries), None, 1e9, keep=given) for given in (keep, bits)),
        ):
            np.testing.assert_array_equal(to_host(one.rows), to_host(other.rows))
            np.testing.assert_array_equal(to_host(one.distances), to_host(other.distances))

    def test_one_query_and_a_batch_get_the_same_answer(self, xp: Any, build: Any) -> None:
        rng = np.random.default_rng(7)
        rows = rng.normal(size=(5000, 40)).astype(np.float32)
        queries = rng.normal(size=(200, 40)).astype(np.float32)
        index = build(put(xp, rows), Metric.COSINE)
        batch = index.search(put(xp, queries), K).to_host()
        for i in (0, 7, 199):
            single = index.search(put(xp, queries[i : i + 1]), K).to_host()
            np.testing.assert_array_equal(single.rows[0], batch.rows[i])
            np.testing.assert_array_equal(single.distances[0], batch.distances[i])

    def test_metrics_for_other_vectors_are_refused(self, xp: Any, build: Any) -> None:
        _, rows = self.case()
        other = Metric.L2 if is_binary(self.metric) else Metric.JACCARD
        with pytest.raises(QueryError, match="measures"):
            build(put(xp, rows), other)
