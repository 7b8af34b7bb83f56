"""Compiled host bodies of `kernels.float_scan` and `kernels.exact_scan`."""

import math
from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.host_heap import drain_heap, nearer, push_low, push_nearest
from gpuvec.kernels.host_pairwise import AHEAD, COSINE, IP, L2, bit_distance
from gpuvec.kernels.lanes import fast_dot, fast_dot_norm, fast_square, prefetch

LARGEST = 1e37  # float32 sums beyond it, and squares below SMALLEST, prove nothing
SMALLEST = 1e-30


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def is_zero(rows: Any, j: int) -> bool:
    """Return whether a stored row is all zeros; bits of -0.0 do not count as zero."""
    for c in range(rows.shape[1]):  # noqa: SIM110 -- Numba compiles no generators
        if rows[j, c] != 0:
            return False
    return True


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def interval(metric: int, sum_: float, row_square: float, query_square: float, slack: float) -> Any:
    """Return bounds of a pair's final distance from its float32 sum, as `cutoff` signs it.

    `slack` bounds the relative error of a float32 sum of terms of one sign, against the exact one.
    """
    unsure = (-math.inf, math.inf)
    if metric in (IP, COSINE):
        square = row_square * query_square
        if query_square == 0.0:
            return (0.0, 0.0) if metric == IP else (1.0, 1.0)
        if metric == IP and row_square < SMALLEST:  # may have lost digits, but is no larger
            error = math.sqrt(1.1 * SMALLEST * query_square)
            return (-error, error)
        if not (abs(sum_) < LARGEST and SMALLEST < row_square < LARGEST and square < LARGEST**2):
            return unsure
        if metric == IP:
            error = slack * math.sqrt(square) + SMALLEST
            return (-sum_ - error, -sum_ + error)
        if query_square < SMALLEST:
            return unsure
        distance = 1.0 - sum_ / math.sqrt(square)
        return (distance - 4 * slack, max(0.0, distance) + 4 * slack)
    if not -sum_ < LARGEST:
        return unsure
    low = -sum_ * (1.0 - 2 * slack) - SMALLEST
    high = -sum_ * (1.0 + 2 * slack) + SMALLEST
    if metric == L2:
        return (math.sqrt(max(0.0, low)) * (1.0 - slack), math.sqrt(high) * (1.0 + slack))
    return (low, high)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def cutoff(metric: int, query_square: float, slack: float, limit: float) -> Any:
    """Return (a, b): a pair with `a + b * |r| > s` is surely farther than `limit`.

    `s` is the pair's float32 sum, negated where a larger one is farther; `|r|` is the row's length
    for cosine and ip, 0 for the others, NaN where float32 may have lost it.
    """
    never = (-math.inf, 0.0)
    if metric in (COSINE, IP):
        if not (SMALLEST < query_square < LARGEST and limit < LARGEST):
            return never
        length = math.sqrt(query_square)
        if metric == COSINE:
            return (0.0, (1.0 - limit - 5 * slack) * length)
        return (-limit - 2 * SMALLEST, -1.01 * slack * length)
    square = limit * limit * (1.0 + 3 * slack) if metric == L2 else limit
    if not square < LARGEST:
        return never
    return (-(square + 2 * SMALLEST) * (1.0 + 3 * slack), 0.0)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def scan(
    queries: Any, query_squares: Any, rows: Any, listed: Any, start: int, stop: int, metric: int,
    k: int, floor: Any, bound: Any, slack: float,
) -> Any:  # fmt: skip
    """Collect every row of a part that may be among a query's `k` nearest; at least one query.

    A row is kept while its lower bound does not exceed the k-th smallest upper bound so far, nor
    `bound`, and its upper bound exceeds `floor`. `k` 0 keeps all such rows. The part is of
    `listed`, positions of rows, unless that is empty; then it is of the rows.

    Returns counts (m,), rows (m, capacity), lower bounds (m, capacity), the last thresholds (m,).
    """
    m = queries.shape[0]
    heaps = np.full((m, max(1, min(k, stop - start))), np.inf)
    limit = bound.copy()
    cuts = np.empty((m, 2))
    for i in range(m):
        cuts[i, 0], cuts[i, 1] = cutoff(metric, query_squares[i], slack, limit[i])
    capacity = min(stop - start, 4 * k + 1024)
    counts = np.zeros(m, np.int64)
    found = np.empty((m, capacity), np.int64)
    lows = np.empty((m, capacity), np.float64)
    by_angle = metric in (COSINE, IP)
    use_list = listed.shape[0] > 0
    row_square = length = first = 0.0
    for place in range(start, stop):
        j = listed[place] if use_list else place
        if use_list and place + AHEAD < stop:
            prefetch(rows, listed[place + AHEAD])
        if by_angle:
            dot, square = fast_dot_norm(queries, 0, rows, j)
            first, row_square = float(dot), float(square)
            safe = SMALLEST < row_square < LARGEST
            length = math.sqrt(row_square) if safe else math.nan
        for i in range(m):
            if not by_angle:
                sum_ = -float(fast_square(queries, i, rows, j))
            else:
                sum_ = first if i == 0 else float(fast_dot(queries, i, rows, j))
            if cuts[i, 0] + cuts[i, 1] * length > sum_:
                continue
            if metric == COSINE and row_square == 0.0 and is_zero(rows, j):
                low, high = 1.0, 1.0
            else:
                low, high = interval(metric, sum_, row_square, query_squares[i], slack)
            if low > limit[i] or high <= floor[i]:
                continue
            if k > 0 and high < heaps[i, 0]:
                push_low(heaps[i], high)
                limit[i] = min(limit[i], heaps[i, 0])
                cuts[i, 0], cuts[i, 1] = cutoff(metric, query_squares[i], slack, limit[i])
            if counts[i] == found.shape[1]:
                found, lows = make_room(found, lows, counts, i, limit[i], stop - start)
            found[i, counts[i]] = j
            lows[i, counts[i]] = low
            counts[i] += 1
    return counts, found, lows, limit


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def compact(found: Any, lows: Any, count: int, limit: float) -> int:
    """Drop, in place and in order, the candidates beyond the limit; return how many are left."""
    left = 0
    for place in range(count):
        if lows[place] <= limit:
            found[left] = found[place]
            lows[left] = lows[place]
            left += 1
    return left


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def make_room(found: Any, lows: Any, counts: Any, i: int, limit: float, most: int) -> Any:
    """Drop what query i no longer needs; where that is little, return longer buffers."""
    counts[i] = compact(found[i], lows[i], counts[i], limit)
    old = found.shape[1]
    if counts[i] <= old // 2:
        return found, lows
    wide_found = np.empty((found.shape[0], min(most, 4 * old)), np.int64)
    wide_lows = np.empty(wide_found.shape, np.float64)
    for row in range(found.shape[0]):
        for place in range(old):  # Numba takes seconds to compile a slice that is assigned to
            wide_found[row, place] = found[row, place]
            wide_lows[row, place] = lows[row, place]
    return wide_found, wide_lows


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def gather(counts: Any, found: Any, lows: Any, limit: Any) -> Any:
    """Return the candidates within each query's limit: how many each, then all rows in one list."""
    m = counts.shape[0]
    left = np.zeros(m, np.int64)
    for i in range(m):
        left[i] = compact(found[i], lows[i], counts[i], limit[i])
    rows = np.empty(left.sum(), np.int64)
    at = 0
    for i in range(m):
        for place in range(left[i]):
            rows[at + place] = found[i, place]
        at += left[i]
    return left, rows


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def scan_bits(
    queries: Any, rows: Any, listed: Any, start: int, stop: int, metric: int, ranks: Any,
    bound: Any, out_rows: Any, out_distances: Any,
) -> None:  # fmt: skip
    """Fill the k nearest rows of a part for each query of packed vectors, in order."""
    m, k = out_rows.shape
    use_list = listed.shape[0] > 0
    use_ranks = ranks.shape[0] > 0
    heap_distances = np.full((m, k), np.inf, np.float32)
    heap_ranks = np.full((m, k), np.iinfo(np.int64).max)
    heap_rows = np.full((m, k), -1)
    block = max(1, 16384 // max(1, rows.shape[1]))
    for first in range(start, stop, block):
        for i in range(m):
            for place in range(first, min(stop, first + block)):
                j = listed[place] if use_list else place
                distance = np.float32(bit_distance(queries, i, rows, j, metric))
                if distance > heap_distances[i, 0] or distance > bound[i]:
                    continue
                rank = ranks[j] if use_ranks else j
                if nearer(distance, rank, heap_distances[i, 0], heap_ranks[i, 0]):
                    push_nearest(heap_distances[i], heap_ranks[i], heap_rows[i], distance, rank, j)
    for i in range(m):
        drain_heap(heap_distances[i], heap_ranks[i], heap_rows[i], out_rows[i], out_distances[i])
