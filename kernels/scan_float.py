"""Candidates of a batch of queries by float32 matrix products, where integer tiles do not pay.

One block of rows at a time is widened to float32 and multiplied by a block of queries; sums above
what a query still asks for, less the products' rounding error, become candidates.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import as_float32
from gpuvec.kernels.candidates import Candidates, add_candidate
from gpuvec.kernels.compiled import njit
from gpuvec.kernels.scan_bounds import L2_SLACK, LARGEST, SMALLEST, prepare_queries, prepare_rows
from gpuvec.types import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_FIRST = 256  # rows of the first block, which pass without a floor
_RUN = 64  # sums whose greatest is looked at first


class FloatScan:
    """One call's queries over some rows.

    Args:
        rows: (n, dim) of any dense dtype.
        queries: (m, dim) float32, as asked.
        listed: (c,) int64, the rows that may be found, rising; at least one.
        metric: dense.
        step: rows that are widened at a time.
    """

    def __init__(self, rows: Any, queries: F32, listed: I64, metric: Metric, step: int) -> None:
        self._step = step
        self._rows = rows
        self._listed = listed
        self._metric = metric
        self._origin = np.zeros(rows.shape[1], np.float32)
        self.largest, self._safe = _extent(rows, listed, step)
        if metric is Metric.COSINE:
            self.largest = 1.0
        if metric in (Metric.L2, Metric.SQEUCLIDEAN):
            some = as_float32(rows[listed[:: max(1, len(listed) // _FIRST)]])
            self._origin = some.mean(axis=0, dtype=np.float64).astype(np.float32)
            self.largest += float(np.linalg.norm(self._origin.astype(np.float64)))
        self._vectors, self.norms, self.refused = prepare_queries(queries, metric, self._origin)
        self.refused |= not self._safe

    def find(self, start: int, stop: int, found: Candidates) -> int:
        """Fill `found` for queries `start` to `stop`; return the products made."""
        if not self._safe:
            return 0
        flat = self._metric in (Metric.IP, Metric.COSINE)
        norms = self.norms[start:stop]
        norms = (norms > 0).astype(np.float64) if flat else norms
        dim = self._rows.shape[1]
        drift = 1.1 * (dim + 8) * 2.0**-24 + 2.0**-20
        errors = drift * norms * self.largest
        if not flat:
            errors += L2_SLACK * (norms**2 + self.largest**2)
        queries = self._vectors[start:stop]
        low, high = 0, min(_FIRST, len(self._listed))
        while low < len(self._listed):
            places = self._listed[low:high]
            block = prepare_rows(_gather(self._rows, places), self._metric, self._origin)
            sums = queries @ block.T
            if not flat:
                sums -= (np.einsum("ij,ij->i", block, block, dtype=np.float64) / 2).astype("f4")
            take_sums(sums, errors, places, found)
            low, high = high, min(high + self._step, len(self._listed))
        return len(self._listed) * (stop - start) * int(dim)


def _gather(rows: Any, places: I64) -> Any:
    """Return some rows; a run of neighbours without copying."""
    if places[-1] - places[0] == len(places) - 1:
        return rows[places[0] : places[-1] + 1]
    return rows[places]


def _extent(rows: Any, listed: I64, step: int) -> tuple[float, bool]:
    """Return a bound of the rows' norms, and whether float32 products of them are safe."""
    largest = 0.0
    for start in range(0, len(listed), step):
        block = as_float32(_gather(rows, listed[start : start + step]))
        peak = float(np.abs(block).max(initial=0))
        if not (peak == 0 or SMALLEST <= peak <= LARGEST):
            return 0.0, False
        squares = np.einsum("ij,ij->i", block, block, dtype=np.float64)
        largest = max(largest, float(np.sqrt(squares.max(initial=0))))
    return largest * (1 + 2.0**-20), True


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def take_sums(sums: Any, errors: Any, places: Any, found: Any) -> None:
    """Make candidates of the sums that may matter.

    Args:
        sums: (m, c) float32, scores but for their error.
        errors: (m,) float64, bounds of it.
        places: (c,) int64, the rows.
        found: see `Candidates`.
    """
    for j in range(sums.shape[0]):
        error = errors[j]
        for start in range(0, sums.shape[1], _RUN):
            stop = min(start + _RUN, sums.shape[1])
            greatest = np.float32(-np.inf)
            for i in range(start, stop):
                greatest = max(greatest, sums[j, i])
            if greatest + error < found.floor[j]:
                continue
            for i in range(start, stop):
                if sums[j, i] + error >= found.floor[j]:
                    low, high = sums[j, i] - error, sums[j, i] + error
                    add_candidate(found, j, places[i], low, high)
