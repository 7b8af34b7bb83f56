"""Contracts of the small kernels: the same rules for host and device arrays.

A test class inherits one and gives the fixture `xp`, `numpy` or `cupy`.
"""
# ruff: noqa: D102 - a test's name is its rule

from itertools import pairwise
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from gpuvec.device.arrays import to_device, to_host
from gpuvec.errors import QueryError
from gpuvec.kernels import bitset
from gpuvec.kernels.bits_topk import bits_topk
from gpuvec.kernels.groups_topk import groups_topk, groups_topk_reference
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import (
    is_binary,
    paired_distances,
    paired_in_numpy,
    pairwise_distances,
)
from gpuvec.kernels.range_pairs import Doubt, range_pairs
from gpuvec.kernels.select_k import select_k, select_k_reference
from gpuvec.types import Metric

DENSE_DTYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8]
CASES = [
    (metric, dtype)
    for metric in Metric
    for dtype in ([np.uint8] if is_binary(metric) else DENSE_DTYPES)
]
WIDTHS = [1, 7, 16, 33, 100]


def put(xp: Any, x: NDArray[Any]) -> Any:
    """Move an array to the side of `xp`."""
    return x if xp is np else to_device(x)


def made_up(
    metric: Metric, dtype: Any, count: int, width: int, seed: int = 0
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return 5 queries and `count` rows, zero and double vectors among them."""
    rng = np.random.default_rng(seed)
    if is_binary(metric):
        queries = rng.integers(0, 256, (5, width), dtype=np.uint8)
        rows = rng.integers(0, 256, (count, width), dtype=np.uint8)
    else:
        queries = rng.normal(size=(5, width)).astype(np.float32)
        rows = rng.normal(scale=20, size=(count, width)).astype(np.float32)
        rows = (np.abs(rows) if dtype == np.uint8 else rows).astype(dtype)
    if count > 3:
        rows[3] = rows[1]
        rows[2] = 0
    queries[-1] = 0
    return queries, rows


class PairwiseTests:
    """Rules of `pairwise_distances` and `paired_distances`."""

    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_pairs_are_the_reference_to_the_last_bit(
        self, xp: Any, metric: Metric, dtype: Any, width: int
    ) -> None:
        queries, rows = made_up(metric, dtype, 40, width)
        owner, row = np.repeat(np.arange(5), 40), np.tile(np.arange(40), 5)
        wanted = paired_in_numpy(queries, rows, owner, row, metric)
        found = paired_distances(
            put(xp, queries), put(xp, rows), put(xp, owner), put(xp, row), metric
        )
        np.testing.assert_array_equal(to_host(found), wanted)

    @pytest.mark.parametrize(("metric", "dtype"), CASES)
    @pytest.mark.parametrize("width", WIDTHS)
    def test_all_pairs_agree_with_single_pairs(
        self, xp: Any, metric: Metric, dtype: Any, width: int
    ) -> None:
        queries, rows = made_up(metric, dtype, 130, width)
        owner, row = np.repeat(np.arange(5), 130), np.tile(np.arange(130), 5)
        wanted = paired_in_numpy(queries, rows, owner, row, metric).reshape(5, 130)
        found = to_host(pairwise_distances(put(xp, queries), put(xp, rows), metric))
        assert found.dtype == np.float32
        if xp is np or is_binary(metric):
            np.testing.assert_array_equal(found, wanted)
        else:
            size = 1.0 if metric is Metric.COSINE else float(np.abs(wanted).max())
            np.testing.assert_allclose(found, wanted, rtol=2e-6, atol=2e-6 * size)

    @pytest.mark.parametrize("metric", [Metric.COSINE, Metric.IP, Metric.SQEUCLIDEAN])
    @pytest.mark.parametrize(
        ("dtype", "size"),
        [(np.float16, 3e-6), (ml_dtypes.bfloat16, 1e-39), (np.float32, 1e-39), (np.float32, 1e-20)],
    )
    def test_the_smallest_numbers_count(
        self, xp: Any, metric: Metric, dtype: Any, size: float
    ) -> None:
        queries, rows = made_up(metric, np.float32, 40, 33)
        queries, rows = (queries * size).astype(np.float32), (rows / 20 * size).astype(dtype)
        owner, row = np.repeat(np.arange(5), 40), np.tile(np.arange(40), 5)
        wanted = paired_in_numpy(queries, rows, owner, row, metric)
        found = paired_distances(
            put(xp, queries), put(xp, rows), put(xp, owner), put(xp, row), metric
        )
        np.testing.assert_array_equal(to_host(found), wanted)

    def test_a_vector_is_at_distance_zero_of_itself(self, xp: Any) -> None:
        queries, _ = made_up(Metric.COSINE, np.float32, 4, 33)
        own = np.arange(4)
        for metric in (Metric.COSINE, Metric.L2, Metric.SQEUCLIDEAN):
            x = put(xp, queries)
            found = paired_distances(x, x, put(xp, own), put(xp, own), metric)
            np.testing.assert_array_equal(to_host(found), np.zeros(4, np.float32))

    def test_a_zero_vector_is_at_cosine_distance_one(self, xp: Any) -> None:
        queries, rows = made_up(Metric.COSINE, np.float32, 10, 8)
        found = to_host(pairwise_distances(put(xp, queries), put(xp, rows), Metric.COSINE))
        np.testing.assert_array_equal(found[-1], np.ones(10))
        np.testing.assert_array_equal(found[:, 2], np.ones(5))

    def test_two_empty_sets_are_at_jaccard_distance_zero(self, xp: Any) -> None:
        empty = put(xp, np.zeros((1, 3), np.uint8))
        assert float(pairwise_distances(empty, empty, Metric.JACCARD)[0, 0]) == 0

    def test_nothing_against_nothing_is_an_empty_answer(self, xp: Any) -> None:
        queries, rows = made_up(Metric.L2, np.float32, 4, 8)
        none = put(xp, rows[:0])
        assert pairwise_distances(put(xp, queries), none, Metric.L2).shape == (5, 0)
        assert pairwise_distances(none, put(xp, rows), Metric.L2).shape == (0, 4)

    def test_a_wrong_width_is_refused(self, xp: Any) -> None:
        queries, rows = made_up(Metric.L2, np.float32, 4, 8)
        with pytest.raises(QueryError, match="queries have 7 columns, rows have 8"):
            pairwise_distances(put(xp, queries[:, :7]), put(xp, rows), Metric.L2)

    def test_a_metric_for_other_vectors_is_refused(self, xp: Any) -> None:
        queries, rows = made_up(Metric.L2, np.float32, 4, 8)
        with pytest.raises(QueryError, match="hamming"):
            pairwise_distances(put(xp, queries), put(xp, rows), Metric.HAMMING)


class SelectKTests:
    """Rules of `select_k`."""

    @pytest.mark.parametrize("n", [1, 9, 300, 5000])
    @pytest.mark.parametrize("k", [1, 10, 128, 129, 600])
    @pytest.mark.parametrize("ranked", [False, True])
    @pytest.mark.parametrize("values", [3, 1 << 30])
    def test_is_the_reference(self, xp: Any, n: int, k: int, ranked: bool, values: int) -> None:
        rng = np.random.default_rng(n + k)
        distances = (rng.integers(-values, values, (4, n)) / 7).astype(np.float32)
        rank = rng.permutation(n) if ranked else None
        wanted = select_k_reference(distances, k, tie_rank=rank)
        moved = None if rank is None else put(xp, rank)
        found = select_k(put(xp, distances), k, tie_rank=moved).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.distances, wanted.distances)

    @pytest.mark.parametrize("k", [20, 300])
    def test_the_smallest_numbers_are_told_apart(self, xp: Any, k: int) -> None:
        rng = np.random.default_rng(k)
        distances = (rng.permutation(900) * 1e-44).astype(np.float32)[None]
        found = select_k(put(xp, distances), k).to_host()
        np.testing.assert_array_equal(found.rows, select_k_reference(distances, k).rows)

    @pytest.mark.parametrize("k", [20, 300])
    def test_ranks_may_be_negative(self, xp: Any, k: int) -> None:
        rng = np.random.default_rng(6)
        distances = rng.integers(0, 4, (3, 2000)).astype(np.float32)
        rank = rng.permutation(2000) - 1000
        rank[:2] = np.iinfo(np.int64).min, np.iinfo(np.int64).max
        wanted = select_k_reference(distances, k, tie_rank=rank)
        found = select_k(put(xp, distances), k, tie_rank=put(xp, rank)).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)

    @pytest.mark.parametrize("rising", [False, True])
    def test_columns_in_order_of_distance_are_no_harder(self, xp: Any, rising: bool) -> None:
        distances = np.arange(6000, dtype=np.float32)[None, :: 1 if rising else -1]
        wanted = select_k_reference(distances, 40)
        found = select_k(put(xp, np.ascontiguousarray(distances)), 40).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)

    def test_infinite_distances_and_signed_zeros_come_in_order(self, xp: Any) -> None:
        distances = np.array([[np.inf, 0.0, -0.0, -np.inf, np.inf]], np.float32)
        found = select_k(put(xp, distances), 5).to_host()
        np.testing.assert_array_equal(found.rows, [[3, 1, 2, 0, 4]])

    def test_one_long_row_gives_the_same_as_many_short_ones(self, xp: Any) -> None:
        rng = np.random.default_rng(5)
        distances = rng.integers(0, 1000, (1, 100_000)).astype(np.float32)
        wanted = select_k_reference(distances, 50)
        found = select_k(put(xp, distances), 50).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)

    @pytest.mark.parametrize("k", [0, -1, 1.5, True, None])
    def test_a_k_that_is_no_positive_integer_is_refused(self, xp: Any, k: Any) -> None:
        with pytest.raises(QueryError, match="k must be an integer of at least 1"):
            select_k(put(xp, np.zeros((1, 3), np.float32)), k)


class MergeKTests:
    """Rules of `merge_k`."""

    @pytest.mark.parametrize("k", [1, 5, 40])
    @pytest.mark.parametrize("parts", [1, 2, 7])
    def test_parts_give_the_answer_of_the_whole(self, xp: Any, k: int, parts: int) -> None:
        rng = np.random.default_rng(parts)
        distances = rng.integers(0, 9, (3, 60)).astype(np.float32)
        edges = np.linspace(0, 60, parts + 1).astype(int)
        found = []
        for start, stop in pairwise(edges.tolist()):
            part = select_k_reference(distances[:, start:stop], k)
            rows = np.where(part.rows < 0, -1, part.rows + start)
            found.append(Neighbors(put(xp, rows), put(xp, part.distances)))
        merged = merge_k(found, k).to_host()
        wanted = select_k_reference(distances, k)
        np.testing.assert_array_equal(merged.rows, wanted.rows)
        np.testing.assert_array_equal(merged.distances, wanted.distances)

    @pytest.mark.parametrize("k", [3, 40, 200])
    @pytest.mark.parametrize("ranked", [False, True])
    def test_many_parts_with_padding_give_the_answer_of_the_whole(
        self, xp: Any, k: int, ranked: bool
    ) -> None:
        rng = np.random.default_rng(k)
        shape = (4, 30 * 60)
        rows = np.tile(rng.permutation(shape[1]), (4, 1))
        rows[rng.random(shape) < 0.3] = -1
        distances = np.where(rows < 0, np.inf, rng.integers(0, 20, shape)).astype(np.float32)
        distances[:, 5] = np.inf  # of a row, which comes before padding
        rows[:, 5] = 5000
        rank = rng.integers(-9, 9, shape) * (1 << 40) + np.arange(shape[1])
        edges = range(0, shape[1], 60)
        parts = [
            Neighbors(put(xp, rows[:, at : at + 60]), put(xp, distances[:, at : at + 60]))
            for at in edges
        ]
        ranks = [put(xp, rank[:, at : at + 60]) for at in edges] if ranked else None
        found = merge_k(parts, k, ranks=ranks).to_host()
        for i in range(4):
            real = np.flatnonzero(rows[i] >= 0)
            keys = rank[i, real] if ranked else real
            order = real[np.lexsort((keys, distances[i, real]))][:k]
            np.testing.assert_array_equal(found.rows[i], rows[i, order])
            np.testing.assert_array_equal(found.distances[i], distances[i, order])

    def test_ranks_decide_ties_between_parts(self, xp: Any) -> None:
        same = np.zeros((1, 2), np.float32)
        parts = [Neighbors(put(xp, np.array([rows])), put(xp, same)) for rows in ([0, 1], [2, 3])]
        ranks = [put(xp, np.array([[4, 1]])), put(xp, np.array([[3, 2]]))]
        found = merge_k(parts, 3, ranks=ranks).to_host()
        np.testing.assert_array_equal(found.rows, [[1, 3, 2]])

    def test_padding_comes_after_rows_at_infinity(self, xp: Any) -> None:
        far = np.full((1, 1), np.inf, np.float32)
        parts = [Neighbors(put(xp, np.array([[row]])), put(xp, far)) for row in (-1, 8)]
        np.testing.assert_array_equal(merge_k(parts, 3).to_host().rows, [[8, -1, -1]])


class BitsTopKTests:
    """Rules of `bits_topk`."""

    @pytest.mark.parametrize("metric", [Metric.HAMMING, Metric.JACCARD])
    @pytest.mark.parametrize("width", [1, 4, 16, 33, 96])
    @pytest.mark.parametrize("k", [1, 30, 100, 200])
    def test_is_the_reference(self, xp: Any, metric: Metric, width: int, k: int) -> None:
        queries, rows = made_up(metric, np.uint8, 500, width)
        distances = pairwise_distances(queries, rows, metric)
        wanted = select_k_reference(distances, k)
        found = bits_topk(put(xp, queries), put(xp, rows), k, metric).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.distances, wanted.distances)

    @pytest.mark.parametrize("share", [0.0, 0.01, 0.6])
    @pytest.mark.parametrize("count", [1, 31, 9000])
    def test_masks_ranks_and_bounds_hold(self, xp: Any, share: float, count: int) -> None:
        rng = np.random.default_rng(count)
        queries, rows = made_up(Metric.HAMMING, np.uint8, count, 8)
        mask, rank = rng.random(count) < share, rng.permutation(count) - 50
        distances = pairwise_distances(queries, rows, Metric.HAMMING)
        bound = np.sort(distances, axis=1)[:, min(count - 1, 20)]
        found = bits_topk(
            put(xp, queries), put(xp, rows), 25, Metric.HAMMING,
            bits=bitset.pack(put(xp, mask)), tie_rank=put(xp, rank), bound=put(xp, bound),
        ).to_host()  # fmt: skip
        for i in range(len(queries)):
            own = np.flatnonzero(mask & (distances[i] <= bound[i]))
            own = own[np.lexsort((rank[own], distances[i, own]))][:25]
            np.testing.assert_array_equal(found.rows[i, : len(own)], own)
            np.testing.assert_array_equal(found.distances[i, : len(own)], distances[i, own])
            assert (found.rows[i, len(own) :] == -1).all()
            assert np.isposinf(found.distances[i, len(own) :]).all()

    def test_nothing_against_nothing_is_an_empty_answer(self, xp: Any) -> None:
        queries, rows = made_up(Metric.HAMMING, np.uint8, 4, 8)
        none = bits_topk(put(xp, queries), put(xp, rows[:0]), 3, Metric.HAMMING).to_host()
        assert (none.rows == -1).all()
        few = bits_topk(put(xp, queries[:0]), put(xp, rows), 3, Metric.HAMMING)
        assert few.rows.shape == (0, 3)


class GroupsTopKTests:
    """Rules of `groups_topk`."""

    @pytest.mark.parametrize("size", [1, 3, 50])
    @pytest.mark.parametrize("groups", [1, 7, 90])
    @pytest.mark.parametrize("plain", [False, True])
    def test_is_the_reference(self, xp: Any, size: int, groups: int, plain: bool) -> None:
        rng = np.random.default_rng(size + groups)
        distances = rng.integers(-5, 5, (3, 400)).astype(np.float32)
        distances[0, :9] = np.inf, -np.inf, -0.0, 0.0, np.inf, 0.0, -0.0, -np.inf, 1
        codes = rng.integers(-1, groups, 400).astype(np.int32)
        keep = np.ones(400, bool) if plain else rng.random(400) < 0.7
        rank = np.arange(400) if plain else rng.permutation(400) * (1 << 40) - (1 << 45)
        wanted = groups_topk_reference(distances, codes, groups, size, keep, rank)
        more = {} if plain else {"bits": bitset.pack(put(xp, keep)), "tie_rank": put(xp, rank)}
        found = groups_topk(put(xp, distances), put(xp, codes), groups, size, **more).to_host()
        np.testing.assert_array_equal(found.rows, wanted.rows)
        np.testing.assert_array_equal(found.distances, wanted.distances)

    def test_no_columns_and_no_groups_are_answered(self, xp: Any) -> None:
        none = put(xp, np.zeros((2, 0), np.float32))
        found = groups_topk(none, put(xp, np.zeros(0, np.int32)), 3, 2)
        assert (to_host(found.rows) == -1).all()
        some = put(xp, np.zeros((2, 4), np.float32))
        assert groups_topk(some, put(xp, np.full(4, -1, np.int32)), 0, 2).rows.shape == (2, 0)


class RangePairsTests:
    """Rules of `range_pairs`."""

    @pytest.mark.parametrize("ring", [False, True])
    @pytest.mark.parametrize("shape", [(1, 5), (3, 70), (5, 4000)])
    def test_every_pair_in_doubt_is_named_in_order(
        self, xp: Any, ring: bool, shape: tuple[int, int]
    ) -> None:
        rng = np.random.default_rng(shape[1])
        distances = rng.normal(size=shape).astype(np.float32) ** 2
        distances[0, 0] = np.inf
        low = np.quantile(distances, 0.2, axis=1).astype(np.float32) if ring else None
        high = np.quantile(distances, 0.4, axis=1).astype(np.float32)
        sizes = [rng.random(count).astype(np.float32) for count in shape]
        both = {"queries": sizes[0], "rows": sizes[1]}
        doubts: list[dict[str, Any]] = [
            {}, {"base": 0.01}, {"share": 0.1}, {"base": 0.01, "share": 0.1, **both},
        ]  # fmt: skip
        for doubt in doubts:
            with np.errstate(invalid="ignore"):
                share = np.float32(doubt.get("share", 0)) * distances
                slack = np.float32(doubt.get("base", 0)) + share
                if "rows" in doubt:
                    slack = slack + sizes[0][:, None] * sizes[1][None, :]
                inside = ~(distances - slack > high[:, None])
                if low is not None:
                    inside &= ~(distances + slack <= low[:, None])
            moved = {
                name: value if isinstance(value, float) else put(xp, value)
                for name, value in doubt.items()
            }
            lows = None if low is None else put(xp, low)
            found = range_pairs(put(xp, distances), lows, put(xp, high), Doubt(**moved))
            for axis, wanted in zip(found, np.nonzero(inside), strict=True):
                np.testing.assert_array_equal(to_host(axis), wanted)

    def test_a_limit_is_open_below_and_closed_above(self, xp: Any) -> None:
        distances = np.array([[1, 2, 3, 4, 5]], np.float32)
        low, high = (put(xp, np.array([edge], np.float32)) for edge in (2, 4))
        _, column = range_pairs(put(xp, distances), low, high, Doubt())
        np.testing.assert_array_equal(to_host(column), [2, 3])

    def test_nothing_in_range_is_an_empty_answer(self, xp: Any) -> None:
        for count in (0, 40):
            distances = put(xp, np.ones((2, count), np.float32))
            found = range_pairs(distances, None, put(xp, np.zeros(2, np.float32)), Doubt())
            assert [len(axis) for axis in found] == [0, 0]


class BitSetTests:
    """Rules of row masks as bit sets."""

    @pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 1000])
    def test_packing_keeps_every_row(self, xp: Any, n: int) -> None:
        mask = np.random.default_rng(n).random(n) < 0.3
        bits = bitset.pack(put(xp, mask))
        assert bits.words.dtype == np.uint32
        np.testing.assert_array_equal(to_host(bitset.unpack(bits)), mask)
        assert bitset.count(bits) == mask.sum()

    def test_bit_i_of_a_word_is_row_i(self, xp: Any) -> None:
        mask = np.arange(40) == 33
        np.testing.assert_array_equal(to_host(bitset.pack(put(xp, mask)).words), [0, 2])

    def test_sets_combine_as_masks_do(self, xp: Any) -> None:
        rng = np.random.default_rng(1)
        a, b = rng.random(77) < 0.5, rng.random(77) < 0.5
        left, right = bitset.pack(put(xp, a)), bitset.pack(put(xp, b))
        for combined, wanted in (
            (bitset.both(left, right), a & b),
            (bitset.either(left, right), a | b),
            (bitset.without(left, right), a & ~b),
        ):
            np.testing.assert_array_equal(to_host(bitset.unpack(combined)), wanted)
            assert bitset.count(combined) == wanted.sum()

    def test_sets_over_other_rows_are_refused(self, xp: Any) -> None:
        a, b = (bitset.pack(put(xp, np.ones(n, bool))) for n in (40, 41))
        with pytest.raises(QueryError, match="bit set must have 40 entries, got 41"):
            bitset.both(a, b)
