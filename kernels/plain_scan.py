"""Float32 scan of float32 rows by a query or a few, with NumPy alone: nothing has to be compiled.

NumPy's dot products read rows as fast as memory gives them, so a first answer needs no machine code
of ours. The proof is that of `kernels.float_scan`: each float32 sum gives an interval that contains
the final distance, whatever the order of its additions; a row stays a candidate while its interval
may reach the k nearest, and candidates are measured as every distance is.
"""

import math

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import paired_distances, paired_in_numpy
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.types import Array, Metric

MOST_QUERIES = 2  # more are faster in compiled code
LARGEST = 1e37  # float32 sums beyond it, and squares below SMALLEST, prove nothing
SMALLEST = 1e-30

_BLOCK_VALUES = 1 << 18  # values that stay in the second cache while they are read twice
_VALUES_PER_THREAD = 1 << 20
_FEW_PAIRS = 512  # measured in NumPy

_Floats = NDArray[np.float64]
_Ints = NDArray[np.int64]


def serves(rows: Array, queries: Array) -> bool:
    """Return whether rows and queries are what this module scans best."""
    if rows.dtype != np.float32 or not 0 < len(queries) <= MOST_QUERIES or not len(rows):
        return False
    wide = queries.astype(np.float64)
    squares = np.vecdot(wide, wide)
    return bool(((squares > SMALLEST) & (squares < LARGEST)).all())


def plain_scan_topk(
    rows: Array,
    queries: Array,
    k: int,
    metric: Metric,
    *,
    listed: _Ints | None,
    tie_rank: _Ints | None,
    bound: NDArray[np.float32] | None,
    threads: int,
) -> tuple[Neighbors, int]:
    """Do what `float_scan_topk` does, for rows and queries that `serves` accepts."""
    out = Neighbors(
        np.full((len(queries), k), -1, np.int64), np.full((len(queries), k), np.inf, np.float32)
    )
    measured = 0
    for number, query in enumerate(queries):
        limit = math.inf if bound is None else float(bound[number])
        found = _candidates(rows, query, k, metric, listed, limit, threads)
        whose = np.full(len(found), number)
        measure = paired_in_numpy if len(found) <= _FEW_PAIRS else paired_distances
        distances = measure(queries, rows, whose, found, metric)
        measured += len(found)
        rank = found if tie_rank is None else tie_rank[found]
        order = np.lexsort((rank, distances))[:k]
        order = order[distances[order] <= limit]
        out.rows[number, : len(order)] = found[order]
        out.distances[number, : len(order)] = distances[order]
    return out, measured


def _candidates(
    rows: Array,
    query: NDArray[np.float32],
    k: int,
    metric: Metric,
    listed: _Ints | None,
    limit: float,
    threads: int,
) -> _Ints:
    """Return the rows that may be among the k nearest within the limit, rising."""
    size = len(rows) if listed is None else len(listed)
    least = max(1, _VALUES_PER_THREAD // max(1, rows.shape[1]))
    wide = query.astype(np.float64)
    scan = _Scan(metric, query, float(wide @ wide), 2 * (rows.shape[1] + 9) * 2.0**-24)
    parts = run_parallel(
        lambda part: scan.part(rows, listed, *part, k, limit),
        split(size, thread_count(threads), least=least),
        threads,
    )
    found, lows, highs = (np.concatenate(column) for column in zip(*parts, strict=True))
    if len(highs) > k:
        limit = min(limit, float(np.partition(highs, k - 1)[k - 1]))
    kept: _Ints = found[lows <= limit]
    return kept


class _Scan:
    """One query on its way through the rows.

    Args:
        metric: a dense one.
        query: (dim,).
        square: its length, squared.
        slack: bounds the relative error of a float32 sum of terms of one sign.
    """

    def __init__(
        self, metric: Metric, query: NDArray[np.float32], square: float, slack: float
    ) -> None:
        self._metric = metric
        self._query = query
        self._square = square
        self._slack = slack
        self._by_angle = metric in (Metric.COSINE, Metric.IP)

    def part(
        self, rows: Array, listed: _Ints | None, start: int, stop: int, k: int, limit: float
    ) -> tuple[_Ints, _Floats, _Floats]:
        """Return candidates of a part of the rows, and bounds of their distances."""
        found, lows, highs = [], [], []
        best = np.empty(0)
        step = max(64, _BLOCK_VALUES // max(1, rows.shape[1]))
        with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            for first in range(start, stop, step):
                last = min(stop, first + step)
                block = rows[first:last] if listed is None else rows[listed[first:last]]
                sums, squares = self._sums(block)
                near = self._near(sums, squares, limit)
                if not len(near):
                    continue
                low, high = self._bounds(sums[near], squares[near], block, near)
                best = np.concatenate([best, high])
                if len(best) > k:
                    best = np.partition(best, k - 1)[:k]
                if len(best) == k:
                    limit = min(limit, float(best.max()))
                found.append(near + first if listed is None else listed[near + first])
                lows.append(low)
                highs.append(high)
        if not found:
            return np.empty(0, np.int64), np.empty(0), np.empty(0)
        low = np.concatenate(lows)
        kept = low <= limit
        return np.concatenate(found)[kept], low[kept], np.concatenate(highs)[kept]

    def _sums(self, block: Array) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a float32 sum per row, larger for nearer, and the row's squared length."""
        if self._by_angle:
            return np.vecdot(block, self._query), np.vecdot(block, block)
        apart = block - self._query
        sums = np.vecdot(apart, apart)
        return -sums, sums

    def _near(self, sums: NDArray[np.float32], squares: NDArray[np.float32], limit: float) -> _Ints:
        """Return the rows that are not surely farther than the limit."""
        cut: NDArray[np.float32] | np.float32
        if limit >= LARGEST:
            return np.arange(len(sums))
        if self._by_angle:
            length = math.sqrt(self._square)
            slack = 1.2 * self._slack
            base = -limit - 2 * SMALLEST if self._metric is Metric.IP else 0.0
            factor = -slack if self._metric is Metric.IP else 1.0 - limit - 5 * slack
            cut = np.float32(base) + np.float32(factor * length) * np.sqrt(squares)
            unsure = ~((squares > SMALLEST) & (squares < LARGEST))
            return np.flatnonzero(~(cut > sums) | unsure)
        far = limit * limit if self._metric is Metric.L2 else limit
        cut = np.float32(-(max(far, 0.0) + 2 * SMALLEST) * (1.0 + 8 * self._slack))
        return np.flatnonzero(~(cut > sums))

    def _bounds(
        self, sums: NDArray[np.float32], squares: NDArray[np.float32], block: Array, near: _Ints
    ) -> tuple[_Floats, _Floats]:
        """Return bounds of the final distances; infinite ones where float32 proves nothing."""
        sum_, square, slack = sums.astype(np.float64), squares.astype(np.float64), self._slack
        if self._by_angle:
            scale = np.sqrt(square * self._square)
            sure = (square > SMALLEST) & (square < LARGEST) & (np.abs(sum_) < LARGEST)
            sure &= scale < LARGEST
            if self._metric is Metric.IP:
                error = slack * scale + SMALLEST
                low, high = -sum_ - error, -sum_ + error
            else:
                distance = 1.0 - sum_ / scale
                low, high = distance - 4 * slack, np.maximum(0.0, distance) + 4 * slack
        else:
            sure = square < LARGEST
            low = square * (1.0 - 2 * slack) - SMALLEST
            high = square * (1.0 + 2 * slack) + SMALLEST
            if self._metric is Metric.L2:
                low = np.sqrt(np.maximum(0.0, low)) * (1.0 - slack)
                high = np.sqrt(high) * (1.0 + slack)
        low, high = np.where(sure, low, -np.inf), np.where(sure, high, np.inf)
        if self._by_angle and not sure.all():
            zero = np.flatnonzero(square == 0.0)
            zero = zero[~block[near[zero]].any(axis=1)]
            low[zero] = high[zero] = 0.0 if self._metric is Metric.IP else 1.0
        return low, high
