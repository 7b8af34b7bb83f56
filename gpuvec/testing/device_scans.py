"""The contract of exact scans on tensor cores: what is proven is right, whatever the rows.

A test class inherits it and gives the fixture `xp`, which is CuPy or stands for it.
"""
# ruff: noqa: D102 - a test's name is its rule

from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from numpy.typing import NDArray

from gpuvec.device.arrays import to_device, to_host
from gpuvec.kernels import bitset
from gpuvec.kernels.device_scan import DeviceFound, device_scan_topk, segments_of
from gpuvec.kernels.device_scan_codes import (
    DeviceCodes,
    encode_queries,
    encode_rows,
    kinds_of,
    origin_of,
)
from gpuvec.kernels.device_scan_launch import LOWEST, Pairs, ScanPart, Table, scan_tiles, tighten
from gpuvec.kernels.launch import OPTIONS, source_of
from gpuvec.kernels.pairwise import paired_distances, pairwise_distances
from gpuvec.testing import rehearsal
from gpuvec.testing.indexes import exact_answer
from gpuvec.testing.shim import ShimError
from gpuvec.types import Metric

DENSE = (Metric.COSINE, Metric.L2, Metric.IP)
DTYPES = (np.float32, np.float16, ml_dtypes.bfloat16, np.int8, np.uint8)
KINDS = [
    (dtype, kind)
    for dtype, kinds in (
        (np.float32, ("int8", "float16")), (np.float16, ("float16",)),
        (ml_dtypes.bfloat16, ("bfloat16",)), (np.int8, ("int8", "float16")),
        (np.uint8, ("int8", "float16")),
    )
    for kind in kinds
]  # fmt: skip


def made_up(dtype: Any, rows: int, queries: int, dim: int, seed: int = 0) -> tuple[Any, Any]:
    """Return rows (rows, dim) of a dtype and (queries, dim) float32, some of them near rows."""
    rng = np.random.default_rng(seed)
    points = rng.normal(scale=30, size=(rows, dim)) + rng.normal(scale=10, size=dim)
    stored = (np.abs(points) if dtype == np.uint8 else points).clip(-120, 250).astype(dtype)
    asked = rng.normal(scale=30, size=(queries, dim)).astype(np.float32)
    near = rng.integers(0, rows, queries // 2)
    asked[: len(near)] = stored[near].astype(np.float32) + asked[: len(near)] / 10
    return stored, asked


def encoded(rows: Any, metric: Metric, kind: str, *, origin: Any = None) -> tuple[Any, DeviceCodes]:
    """Return rows on the device, and their codes."""
    put = to_device(rows)
    if origin is None and kind == kinds_of(put)[0]:
        origin = origin_of(put, metric)
    codes = encode_rows(put, metric, kind, origin, 500)
    assert codes is not None
    return put, codes


def scores_of(rows: Any, queries: Any, codes: DeviceCodes) -> NDArray[np.float64]:
    """Return (queries, rows) scores in float64, as the codes' module defines them."""
    metric = codes.metric
    origin = np.zeros(rows.shape[1]) if codes.origin is None else to_host(codes.origin)
    x, q = rows.astype(np.float64), queries.astype(np.float64)
    if metric is Metric.L2:
        x, q = x - origin, q - origin
        return np.asarray(q @ x.T - (x * x).sum(axis=1) / 2)
    q = q / np.maximum(np.linalg.norm(q, axis=1), 1e-300)[:, None]
    if metric is Metric.COSINE:
        x = x / np.maximum(np.linalg.norm(x, axis=1), 1e-300)[:, None]
    return np.asarray(q @ x.T)


def check_exact(
    found: DeviceFound, rows: Any, queries: Any, k: int, metric: Metric, **wanted: Any
) -> NDArray[np.bool_]:
    """Assert that every proven answer is the oracle's; return which are proven."""
    proven = to_host(found.proven)
    oracle = exact_answer(pairwise_distances(queries, rows, metric), k, **wanted)
    near = found.neighbors.to_host()
    np.testing.assert_array_equal(near.rows[proven], oracle.rows[proven])
    np.testing.assert_array_equal(near.distances[proven], oracle.distances[proven])
    return np.asarray(proven)


_ONE_PRODUCT = """
extern "C" __global__ void one_product(const u32* a, const u32* b, float* out) {
    u32 rows[4], queries[2];
    for (int r = 0; r < 4; r++) rows[r] = a[threadIdx.x * 4 + r];
    for (int r = 0; r < 2; r++) queries[r] = b[threadIdx.x * 2 + r];
    KIND::Sum sums[4] = {};
    KIND::mma(sums, rows, queries);
    for (int r = 0; r < 4; r++) out[threadIdx.x * 4 + r] = (float)sums[r];
}
"""


def fragments(matrix: Any, lines: int) -> NDArray[np.uint32]:
    """Return (32, registers) words of (lines, 32) bytes, in the layout of `mma` in the PTX manual.

    Byte v of lane t is that of line t / 4 + 8 * ((v / 4) % (lines / 8)), column
    4 * (t % 4) + v % 4 + 16 * (v / 4 / (lines / 8)).
    """
    lane, byte = np.meshgrid(np.arange(32), np.arange(lines), indexing="ij")
    register, halves = byte // 4, lines // 8
    line = lane // 4 + 8 * (register % halves)
    column = 4 * (lane % 4) + byte % 4 + 16 * (register // halves)
    return np.ascontiguousarray(matrix[line, column]).view(np.uint32)


class DeviceScanTests:
    """Rules of codes, sweeps and answers."""

    @pytest.mark.parametrize(
        ("kind", "dtype"),
        [("Int8", np.int8), ("Float16", np.float16), ("Bfloat16", ml_dtypes.bfloat16)],
    )
    def test_fragments_lie_as_the_manual_says(self, xp: Any, kind: str, dtype: Any) -> None:
        rng = np.random.default_rng(7)
        size = 32 // np.dtype(dtype).itemsize
        rows = rng.integers(-100, 100, (16, size)).astype(dtype)
        queries = rng.integers(-100, 100, (8, size)).astype(dtype)
        a, b = fragments(rows.view(np.uint8), 16), fragments(queries.view(np.uint8), 8)
        source = source_of(f"scan_{kind.lower()}.cu") + _ONE_PRODUCT.replace("KIND", kind)
        kernel = xp.RawModule(code=source, options=OPTIONS).get_function("one_product")
        out = xp.empty((32, 4), xp.float32)
        kernel((1,), (32,), (to_device(a), to_device(b), out))
        lane, register = np.meshgrid(np.arange(32), np.arange(4), indexing="ij")
        wanted = rows.astype(np.float64) @ queries.astype(np.float64).T
        at = (lane // 4 + 8 * (register // 2), 2 * (lane % 4) + register % 2)
        np.testing.assert_array_equal(to_host(out), wanted[at])

    @pytest.mark.parametrize("metric", DENSE)
    @pytest.mark.parametrize(("dtype", "kind"), KINDS)
    @pytest.mark.parametrize("dim", [1, 100])
    def test_every_pair_is_kept_once_and_its_bounds_hold(
        self, xp: Any, metric: Metric, dtype: Any, kind: str, dim: int
    ) -> None:
        rows, queries = made_up(dtype, 300, 20, dim)
        put, codes = encoded(rows, metric, kind)
        asked = encode_queries(to_device(queries), metric, kind, codes.origin)
        pairs = Pairs.make(xp.full(20, LOWEST, xp.float32), 300)
        table = Table([ScanPart(codes=codes, vectors=put, count=300)])
        scan_tiles(table, kind, asked, pairs, 0, table.tiles)
        assert (to_host(pairs.counts) == 300).all()
        places = to_host(pairs.places).astype(np.int64)
        assert (np.sort(places, axis=1) == np.arange(300)).all()
        exact = np.take_along_axis(scores_of(rows, queries, codes), places, axis=1)
        lowers, uppers = to_host(pairs.lowers), to_host(pairs.uppers)
        assert (lowers <= exact).all()
        assert (exact <= uppers).all()
        size = np.abs(exact).max() if metric is not Metric.L2 else np.ptp(exact)
        assert (uppers - lowers).max() < 0.2 * size

    @pytest.mark.parametrize("queries_count", [1, 16, 17, 64, 65, 130])
    @pytest.mark.parametrize("kind", ["int8", "float16"])
    def test_pairs_below_a_floor_are_left_out_and_others_are_not(
        self, xp: Any, queries_count: int, kind: str
    ) -> None:
        rows, queries = made_up(np.float32, 700, queries_count, 40)
        put, codes = encoded(rows, Metric.IP, kind)
        scores = scores_of(rows, queries, codes)
        floors = np.sort(scores, axis=1)[:, -30].astype(np.float32)
        asked = encode_queries(to_device(queries), Metric.IP, kind, codes.origin)
        pairs = Pairs.make(to_device(floors), 256)
        table = Table([ScanPart(codes=codes, vectors=put, count=700)])
        scan_tiles(table, kind, asked, pairs, 0, table.tiles)
        counts, places = to_host(pairs.counts), to_host(pairs.places).astype(np.int64)
        assert (counts < 256).all()
        for i in range(queries_count):
            kept = set(places[i, : counts[i]].tolist())
            assert len(kept) == counts[i]
            assert kept >= set(np.flatnonzero(scores[i] >= floors[i]).tolist())

    def test_what_finds_no_room_is_told_by_its_best(self, xp: Any) -> None:
        rows, queries = made_up(np.float32, 600, 3, 24)
        put, codes = encoded(rows, Metric.IP, "int8")
        asked = encode_queries(to_device(queries), Metric.IP, "int8", codes.origin)
        whole = Pairs.make(xp.full(3, LOWEST, xp.float32), 600)
        short = Pairs.make(xp.full(3, LOWEST, xp.float32), 50)
        table = Table([ScanPart(codes=codes, vectors=put, count=600)])
        for pairs in (whole, short):
            scan_tiles(table, "int8", asked, pairs, 0, table.tiles)
        assert np.isneginf(to_host(whole.dropped_scores())).all()
        tops = to_host(short.dropped_scores())
        uppers = np.empty((3, 600), np.float32)
        np.put_along_axis(
            uppers, to_host(whole.places).astype(np.int64), to_host(whole.uppers), axis=1
        )
        for i in range(3):
            left = np.setdiff1d(np.arange(600), to_host(short.places)[i])
            assert tops[i] == uppers[i, left].max()

    @pytest.mark.parametrize("k", [1, 10, 300])
    @pytest.mark.parametrize("ties", [False, True])
    def test_floors_rise_to_the_kth_lower_bound(self, xp: Any, k: int, ties: bool) -> None:
        rng = np.random.default_rng(k)
        lowers = rng.normal(size=(4, 700)).astype(np.float32)
        lowers = np.round(lowers * 2) if ties else lowers
        uppers = lowers + rng.random((4, 700), np.float32)
        counts = np.array([700, 300, 299, 0], np.uint32)
        floors = np.array([-9, -9, -9, -9], np.float32)
        pairs = Pairs.make(to_device(floors), 700)
        pairs.counts, pairs.lowers = to_device(counts), to_device(lowers)
        pairs.uppers = to_device(uppers)
        pairs.places = to_device(np.tile(np.arange(700, dtype=np.uint32), (4, 1)))
        tighten(pairs, k)
        for i, count in enumerate(counts):
            own = np.sort(lowers[i, :count])
            floor = own[-k] if count >= k else np.float32(-9)
            assert to_host(pairs.floors)[i] == floor
            kept = np.flatnonzero(uppers[i, :count] >= floor)
            assert to_host(pairs.counts)[i] == len(kept)
            np.testing.assert_array_equal(to_host(pairs.places)[i, : len(kept)], kept)
            np.testing.assert_array_equal(to_host(pairs.uppers)[i, : len(kept)], uppers[i, kept])
            np.testing.assert_array_equal(to_host(pairs.lowers)[i, : len(kept)], lowers[i, kept])

    @pytest.mark.parametrize("metric", DENSE)
    @pytest.mark.parametrize(("dtype", "kind"), KINDS)
    def test_proven_answers_are_the_oracle(
        self, xp: Any, metric: Metric, dtype: Any, kind: str
    ) -> None:
        rows, queries = made_up(dtype, 3000, 30, 40)
        put, codes = encoded(rows, metric, kind)
        part = ScanPart(codes=codes, vectors=put, count=3000)
        found = device_scan_topk([part], to_device(queries), 10, scratch_bytes=1 << 20)
        proven = check_exact(found, rows, queries, 10, metric)
        assert proven.mean() > 0.9

    @pytest.mark.parametrize("share", [0.9, 0.05])
    @pytest.mark.parametrize("listed", [False, True])
    def test_hidden_rows_are_not_found(self, xp: Any, share: float, listed: bool) -> None:
        rows, queries = made_up(np.float32, 3001, 9, 40)
        keep = np.random.default_rng(2).random(3001) < share
        put, codes = encoded(rows, Metric.COSINE, "int8")
        part = ScanPart(
            codes=codes, vectors=put, count=int(keep.sum()),
            bits=None if listed else bitset.pack(to_device(keep)),
            listed=to_device(np.flatnonzero(keep).astype(np.uint32)) if listed else None,
        )  # fmt: skip
        found = device_scan_topk([part], to_device(queries), 5, scratch_bytes=1 << 26)
        assert check_exact(found, rows, queries, 5, Metric.COSINE, keep=keep).all()

    @pytest.mark.parametrize("metric", DENSE)
    def test_bounds_cut_and_ranks_order(self, xp: Any, metric: Metric) -> None:
        rows, queries = made_up(np.float32, 2000, 9, 40)
        rows[500:520] = rows[40]
        queries[0] = rows[40]
        rank = np.random.default_rng(4).permutation(2000)
        distances = pairwise_distances(queries, rows, metric)
        bound = np.sort(distances, axis=1)[:, 6]
        put, codes = encoded(rows, metric, "int8")
        part = ScanPart(codes=codes, vectors=put, count=2000)
        ranks = to_device(rank)
        found = device_scan_topk(
            [part], to_device(queries), 12, bound=to_device(bound),
            rank_of=lambda numbers: ranks[numbers], scratch_bytes=1 << 26,
        )  # fmt: skip
        proven = check_exact(found, rows, queries, 12, metric, tie_rank=rank, bound=bound)
        assert proven.all()

    @pytest.mark.parametrize("metric", DENSE)
    def test_segments_of_any_size_are_one(self, xp: Any, metric: Metric) -> None:
        sizes = [1, 127, 900, 128, 129, 3, 500]
        rows, queries = made_up(np.float32, sum(sizes), 40, 33)
        origin = origin_of(to_device(rows), metric)
        keep = np.random.default_rng(3).random(len(rows)) < 0.7
        parts, start = [], 0
        for number, size in enumerate(sizes):
            at = slice(start, start + size)
            put, codes = encoded(rows[at], metric, "int8", origin=origin)
            own = keep[at] if number % 2 else np.ones(size, bool)
            keep[at] = own
            masked = number % 2 == 1
            thin = masked and number == 3
            parts.append(ScanPart(
                codes=codes, vectors=put, count=int(own.sum()),
                bits=bitset.pack(to_device(own)) if masked and not thin else None,
                listed=to_device(np.flatnonzero(own).astype(np.uint32)) if thin else None,
            ))  # fmt: skip
            start += size
        found = device_scan_topk(parts, to_device(queries), 7, scratch_bytes=1 << 26)
        assert check_exact(found, rows, queries, 7, metric, keep=keep).mean() > 0.9
        numbers = to_host(found.neighbors.rows)
        segment, row = (to_host(side) for side in segments_of(parts, found.neighbors.rows))
        np.testing.assert_array_equal(np.cumsum([0, *sizes])[segment] + row, numbers)
        assert (row < np.array(sizes)[segment]).all()

    def test_rows_that_are_all_alike_are_not_called_proven_wrongly(self, xp: Any) -> None:
        rows, queries = made_up(np.float32, 3000, 66, 24)  # too many for a room of thousands
        rows[500:] = rows[1]
        queries[0] = rows[1]
        rank = np.random.default_rng(4).permutation(3000)
        put, codes = encoded(rows, Metric.L2, "int8")
        ranks = to_device(rank)
        part = ScanPart(codes=codes, vectors=put, count=3000)
        found = device_scan_topk(
            [part],
            to_device(queries),
            4,
            rank_of=lambda numbers: ranks[numbers],
            scratch_bytes=1 << 26,
        )
        proven = check_exact(found, rows, queries, 4, Metric.L2, tie_rank=rank)
        assert not proven[0]

    @pytest.mark.parametrize("metric", DENSE)
    def test_queries_beyond_all_bounds_are_refused(self, xp: Any, metric: Metric) -> None:
        rows, queries = made_up(np.float32, 600, 4, 24)
        queries[0], queries[1] = 0, 1e30
        put, codes = encoded(rows, metric, "int8")
        part = ScanPart(codes=codes, vectors=put, count=600)
        found = device_scan_topk([part], to_device(queries), 3, scratch_bytes=1 << 26)
        flat = metric is not Metric.L2
        assert to_host(found.refused).tolist() == [flat, True, False, False]
        proven = check_exact(found, rows, queries, 3, metric)
        assert proven.tolist() == [not flat, False, True, True]

    @pytest.mark.parametrize("size", [1e-12, 1e15])
    def test_rows_beyond_all_bounds_have_no_codes(self, xp: Any, size: float) -> None:
        rows = to_device(np.full((5, 8), size, np.float32))
        assert encode_rows(rows, Metric.L2, "int8", None, 100) is None

    def test_whole_numbers_lose_nothing(self, xp: Any) -> None:
        rng = np.random.default_rng(0)
        for dtype in (np.uint8, np.float32):
            rows = rng.integers(0, 200, (900, 32)).astype(dtype)
            _, codes = encoded(rows, Metric.L2, "int8")
            said = to_host(codes.codes).view(np.int8) + to_host(codes.origin)
            whole = (to_host(codes.values)[:, 0] == 1).mean()
            assert whole > 0.9
            lossless = to_host(codes.values)[:, 0] == 1
            np.testing.assert_array_equal(said[lossless], rows[lossless])

    def test_gathered_rows_are_those_of_their_segments(self, xp: Any) -> None:
        rng = np.random.default_rng(5)
        for dtype, dim in ((np.float32, 5), (np.int8, 7)):
            rows = rng.integers(-9, 9, (400, dim)).astype(dtype)
            parts = []
            for start, stop in ((0, 3), (3, 250), (250, 251), (251, 400)):
                put, codes = encoded(rows[start:stop], Metric.IP, "int8")
                parts.append(ScanPart(codes=codes, vectors=put, count=stop - start))
            edges = [0, 2, 3, 249, 250, 251, 399]
            places = np.concatenate([edges, rng.integers(0, 400, 77)]).astype(np.uint32)
            found = Table(parts).gather(to_device(places))
            np.testing.assert_array_equal(to_host(found), rows[places])

    def test_finals_are_measured_by_the_one_definition(self, xp: Any) -> None:
        rows, queries = made_up(np.float32, 500, 5, 24)
        put, codes = encoded(rows, Metric.COSINE, "int8")
        part = ScanPart(codes=codes, vectors=put, count=500)
        near = device_scan_topk(
            [part], to_device(queries), 6, scratch_bytes=1 << 26
        ).neighbors.to_host()
        owner = np.repeat(np.arange(5), 6)
        wanted = paired_distances(queries, rows, owner, near.rows.ravel(), Metric.COSINE)
        np.testing.assert_array_equal(near.distances.ravel(), wanted)


def contract_holds(change: Callable[[str], str]) -> bool:
    """Return whether the rules hold in three orders of threads, with CUDA sources as changed."""
    rules = DeviceScanTests()
    for order in (1, 2, 3):
        with rehearsal.rehearsal(order=order, change=change):
            import cupy

            try:
                rules.test_floors_rise_to_the_kth_lower_bound(cupy, 300, True)
                rules.test_what_finds_no_room_is_told_by_its_best(cupy)
                rules.test_gathered_rows_are_those_of_their_segments(cupy)
                rules.test_every_pair_is_kept_once_and_its_bounds_hold(
                    cupy, Metric.L2, np.float32, "int8", 100
                )
                rules.test_pairs_below_a_floor_are_left_out_and_others_are_not(cupy, 130, "int8")
                rules.test_hidden_rows_are_not_found(cupy, 0.05, True)
                rules.test_segments_of_any_size_are_one(cupy, Metric.L2)
            except (AssertionError, IndexError, ShimError):
                return False
    return True
