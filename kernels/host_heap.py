"""Compiled heaps, selections and sorts: the order of neighbours is distance, then tie rank."""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit

LAST_RANK = np.iinfo(np.int64).max  # of places that hold no row


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def push_low(heap: Any, value: float) -> None:
    """Put a value into a max-heap in place of its largest one."""
    size = heap.shape[0]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and heap[child + 1] > heap[child]:
            child += 1
        if heap[child] <= value:
            break
        heap[place] = heap[child]
        place = child
    heap[place] = value


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def nearer(distance: float, rank: int, other: float, other_rank: int) -> bool:
    """Return whether one row comes before another."""
    return distance < other or (distance == other and rank < other_rank)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def push_nearest(distances: Any, ranks: Any, rows: Any, new: float, rank: int, row: int) -> None:
    """Put a row into a heap, whose first entry is its last in order, in place of that entry."""
    size = distances.shape[0]
    place = 0
    while True:
        child = 2 * place + 1
        if child >= size:
            break
        if child + 1 < size and nearer(
            distances[child], ranks[child], distances[child + 1], ranks[child + 1]
        ):
            child += 1
        if not nearer(new, rank, distances[child], ranks[child]):
            break
        distances[place] = distances[child]
        ranks[place] = ranks[child]
        rows[place] = rows[child]
        place = child
    distances[place] = new
    ranks[place] = rank
    rows[place] = row


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def drain_heap(distances: Any, ranks: Any, rows: Any, out_rows: Any, out_distances: Any) -> None:
    """Empty a heap into sorted order; entries of row -1 stand for nothing."""
    for place in range(distances.shape[0] - 1, -1, -1):
        out_rows[place] = rows[0]
        out_distances[place] = distances[0] if rows[0] >= 0 else np.inf
        size = place
        if size > 0:
            push_nearest(
                distances[:size], ranks[:size], rows[:size],
                distances[size], ranks[size], rows[size],
            )  # fmt: skip


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def select_columns(
    distances: Any, ranks: Any, use_ranks: bool, start: int, stop: int, rows: Any, nearest: Any
) -> None:
    """Fill rows `start` to `stop` of (m, k) outputs with the first k columns in order."""
    k = rows.shape[1]
    heap_distances = np.empty(k, np.float32)
    heap_ranks = np.empty(k, np.int64)
    heap_rows = np.empty(k, np.int64)
    for i in range(start, stop):
        heap_distances[:] = np.inf
        heap_ranks[:] = LAST_RANK
        heap_rows[:] = -1
        for j in range(distances.shape[1]):
            distance = distances[i, j]
            if distance > heap_distances[0]:
                continue
            rank = ranks[j] if use_ranks else j
            if nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                push_nearest(heap_distances, heap_ranks, heap_rows, distance, rank, j)
        drain_heap(heap_distances, heap_ranks, heap_rows, rows[i], nearest[i])


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def select_segments(
    offsets: Any, distances: Any, rows: Any, ranks: Any, use_ranks: bool, bound: Any,
    out_rows: Any, out_distances: Any,
) -> None:  # fmt: skip
    """Fill (m, k) outputs with the first k of each query's candidates, none beyond its bound."""
    k = out_rows.shape[1]
    for i in range(out_rows.shape[0]):
        size = min(k, offsets[i + 1] - offsets[i])
        heap_distances = np.full(size, np.inf, np.float32)
        heap_ranks = np.full(size, LAST_RANK)
        heap_rows = np.full(size, -1)
        for p in range(offsets[i], offsets[i + 1]):
            distance, row = distances[p], rows[p]
            rank = ranks[row] if use_ranks else row
            if distance <= bound[i] and nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                push_nearest(heap_distances, heap_ranks, heap_rows, distance, rank, row)
        drain_heap(heap_distances, heap_ranks, heap_rows, out_rows[i], out_distances[i])
        out_rows[i, size:] = -1
        out_distances[i, size:] = np.inf


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def sort_segments(offsets: Any, distances: Any, rows: Any, ranks: Any, use_ranks: bool) -> None:
    """Sort each query's rows in place, nearest first."""
    for i in range(offsets.shape[0] - 1):
        start, stop = offsets[i], offsets[i + 1]
        own_rows = rows[start:stop].copy()
        own_distances = distances[start:stop].copy()
        if use_ranks:
            order = np.argsort(ranks[own_rows], kind="mergesort")
        else:
            order = np.argsort(own_rows, kind="mergesort")
        order = order[np.argsort(own_distances[order], kind="mergesort")]
        rows[start:stop] = own_rows[order]
        distances[start:stop] = own_distances[order]
