"""Scans whose compiled sums are final at once: packed bits; and how parts of a scan are joined."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.memory import tiles
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors
from gpuvec.kernels.pairwise import METRIC_CODES
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.types import Array, Metric

Range = tuple[int, int]
Fill = Callable[[Range, Range, Neighbors], None]  # queries, places: fill an answer
Measure = Callable[[Range, NDArray[np.float32]], None]  # queries: distances to all places

_PAIRS_PER_THREAD = 1 << 14


def scan_parts(
    fill: Fill, num_queries: int, size: int, k: int, tie_rank: Array | None, threads: int
) -> Neighbors:
    """Run a compiled selection over parts, by queries if there are many, else by rows, and merge.

    Args:
        fill: writes the k nearest of a range of places for a range of queries.
        num_queries: m.
        size: places to scan.
        k: at least 1.
        tie_rank: (rows,) int64 or None.
        threads: 0: all cores.
    """
    wanted = thread_count(threads)
    if num_queries >= 4 * wanted:
        out = Neighbors.empty(num_queries, k)

        def by_queries(part: Range) -> None:
            at = slice(*part)
            fill(part, (0, size), Neighbors(out.rows[at], out.distances[at]))

        least = max(1, _PAIRS_PER_THREAD // max(1, size))
        run_parallel(by_queries, split(num_queries, 4 * wanted, least=least), threads)
        return out

    def by_rows(part: Range) -> Neighbors:
        found = Neighbors.empty(num_queries, k)
        fill((0, num_queries), part, found)
        return found

    least = max(1, _PAIRS_PER_THREAD // max(1, num_queries))
    found = run_parallel(by_rows, split(size, wanted, least=least), threads)
    if len(found) == 1:
        return found[0]
    ranks = None if tie_rank is None else [tie_rank[part.rows] for part in found]
    return merge_k(found, k, ranks=ranks)


def range_parts(
    measure: Measure,
    num_queries: int,
    places: NDArray[np.int64],
    low: NDArray[np.float32] | None,
    high: NDArray[np.float32],
    tie_rank: Array | None,
    *,
    threads: int,
    memory_limit: int,
) -> RangeNeighbors:
    """Find every place with `low < distance <= high` by measuring all, tile by tile of queries.

    Args:
        measure: writes the distances of a range of queries, (queries, places).
        num_queries: m.
        places: rows that may be found, rising.
        low: (m,) or None.
        high: (m,).
        tie_rank: (rows,) int64 or None.
        threads: 0: all cores.
        memory_limit: bytes for distances; one query's must fit.

    Raises:
        DeviceMemoryError: `GV-400`, they do not.
    """
    from gpuvec.kernels import host_heap
    from gpuvec.kernels.lanes import numbers_view

    wanted = thread_count(threads)
    item = 5 * max(1, len(places))
    most = max(1, -(-num_queries // (4 * wanted)))
    parts = tiles(num_queries, item, memory_limit // wanted, what="distances of a query", most=most)

    def work(part: Range) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float32]]:
        distances = np.empty((part[1] - part[0], len(places)), np.float32)
        measure(part, distances)
        inside = distances <= high[slice(*part), None]
        if low is not None:
            inside &= distances > low[slice(*part), None]
        owner, place = np.nonzero(inside)
        counts = np.bincount(owner, minlength=len(distances))
        return counts, places[place], distances[owner, place]

    found = run_parallel(work, parts, threads)
    counts = np.concatenate([np.zeros(1, np.int64), *(part[0] for part in found)])
    rows = np.concatenate([np.zeros(0, np.int64), *(part[1] for part in found)])
    distances = np.concatenate([np.zeros(0, np.float32), *(part[2] for part in found)])
    offsets = np.cumsum(counts).astype(np.int64)
    ranks = numbers_view(tie_rank)
    host_heap.sort_segments(offsets, distances, rows, ranks, tie_rank is not None)
    return RangeNeighbors(offsets, rows, distances)


def bit_scan_topk(
    rows: Array,
    queries: Array,
    k: int,
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    bound: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> Neighbors:
    """Find the `k` nearest rows of packed vectors; arguments as in `float_scan_topk`.

    Cost: one read of the rows per group of queries; per pair dim / 64 word operations.
    """
    from gpuvec.kernels import host_scan
    from gpuvec.kernels.lanes import kernel_view, numbers_view

    data, asked, code = kernel_view(rows), kernel_view(queries), METRIC_CODES[metric]
    places = numbers_view(listed)
    ranks = numbers_view(tie_rank)
    limit = np.full(len(queries), np.inf, np.float32) if bound is None else np.array(bound)
    size = len(rows) if listed is None else len(listed)

    def fill(who: Range, part: Range, out: Neighbors) -> None:
        at = slice(*who)
        host_scan.scan_bits(
            asked[at], data, places, *part, code, ranks, limit[at], out.rows, out.distances,
        )  # fmt: skip

    return scan_parts(fill, len(queries), size, k, tie_rank, threads)


def bit_scan_range(
    rows: Array,
    queries: Array,
    low: NDArray[np.float32] | None,
    high: NDArray[np.float32],
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int,
) -> RangeNeighbors:
    """Find every packed row with `low < distance <= high`; arguments as in `range_parts`."""
    from gpuvec.kernels import host_pairwise
    from gpuvec.kernels.lanes import kernel_view

    chosen = rows if listed is None else rows[listed]
    data, asked, code = kernel_view(chosen), kernel_view(queries), METRIC_CODES[metric]

    def measure(who: Range, out: NDArray[np.float32]) -> None:
        host_pairwise.pairwise_bits(asked[slice(*who)], data, 0, len(data), code, out)

    places = np.arange(len(rows)) if listed is None else listed
    return range_parts(
        measure, len(queries), places, low, high, tie_rank,
        threads=threads, memory_limit=memory_limit,
    )  # fmt: skip
