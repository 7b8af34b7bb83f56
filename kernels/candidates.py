"""Rows that may be among the nearest, kept by bounds of their score.

A score grows with nearness. Scans know it within bounds, put what may matter into `Candidates`, and
read there the score under which a row cannot matter any more.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.compiled import njit


class Candidates(NamedTuple):
    """What a scan has found for m queries.

    Attributes:
        floor: (m,) float64; rows whose score is surely less cannot be among the k nearest. +inf
            once a query is given up.
        lows: (m, k) float64, the k greatest lower bounds, as a min-heap; the first `filled` count.
        filled: (m,) int64.
        rows: (m, room) int64; the first `counts` count.
        highs: (m, room) float64, upper bounds.
        counts: (m,) int64.
        lost: (m,) bool, more rows might matter than there is room for: the query is given up.
    """

    floor: NDArray[np.float64]
    lows: NDArray[np.float64]
    filled: NDArray[np.int64]
    rows: NDArray[np.int64]
    highs: NDArray[np.float64]
    counts: NDArray[np.int64]
    lost: NDArray[np.bool_]


def make_candidates(floor: NDArray[np.float64], k: int, room: int) -> Candidates:
    """Return an empty set for queries that need only rows with a score of at least `floor`."""
    size = len(floor)
    return Candidates(
        floor=floor.copy(),
        lows=np.empty((size, k), np.float64),
        filled=np.zeros(size, np.int64),
        rows=np.empty((size, room), np.int64),
        highs=np.empty((size, room), np.float64),
        counts=np.zeros(size, np.int64),
        lost=np.zeros(size, np.bool_),
    )


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def keep_low(found: Any, j: int, low: float) -> None:
    """Note that a row of query j scores at least `low`; raise the floor once k rows do."""
    heap, size = found.lows[j], found.filled[j]
    if size < heap.shape[0]:
        place = size
        while place > 0:
            parent = (place - 1) // 2
            if heap[parent] <= low:
                break
            heap[place] = heap[parent]
            place = parent
        heap[place] = low
        found.filled[j] = size + 1
    elif low > heap[0]:
        place = 0
        while True:
            child = 2 * place + 1
            if child >= size:
                break
            if child + 1 < size and heap[child + 1] < heap[child]:
                child += 1
            if heap[child] >= low:
                break
            heap[place] = heap[child]
            place = child
        heap[place] = low
    if found.filled[j] == heap.shape[0]:
        found.floor[j] = max(found.floor[j], heap[0])


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def add_candidate(found: Any, j: int, row: int, low: float, high: float) -> None:
    """Add a row whose score lies between `low` and `high`, if it can matter."""
    if not high >= found.floor[j]:
        return
    if found.counts[j] == found.rows.shape[1]:
        _drop_hopeless(found, j)
        if found.counts[j] > found.rows.shape[1] * 3 // 4:
            found.lost[j] = True
            found.floor[j] = np.inf
            return
    found.rows[j, found.counts[j]] = row
    found.highs[j, found.counts[j]] = high
    found.counts[j] += 1
    keep_low(found, j, low)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _drop_hopeless(found: Any, j: int) -> None:
    """Forget the rows that have fallen under the floor."""
    kept = 0
    for i in range(found.counts[j]):
        if found.highs[j, i] >= found.floor[j]:
            found.rows[j, kept] = found.rows[j, i]
            found.highs[j, kept] = found.highs[j, i]
            kept += 1
    found.counts[j] = kept


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def list_pairs(found: Any) -> Any:
    """Return what is left: query of each pair, its row, and (m + 1,) where each query begins."""
    size = len(found.counts)
    begins = np.zeros(size + 1, np.int64)
    for j in range(size):
        if found.lost[j]:
            found.counts[j] = 0
        _drop_hopeless(found, j)
        begins[j + 1] = begins[j] + found.counts[j]
    queries = np.empty(begins[size], np.int64)
    rows = np.empty(begins[size], np.int64)
    for j in range(size):
        for place in range(found.counts[j]):
            queries[begins[j] + place] = j
            rows[begins[j] + place] = found.rows[j, place]
    return queries, rows, begins
