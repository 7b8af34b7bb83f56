"""Rows that the sweep of lists has found, and the nearest of them. Compiled.

As `kernels.candidates`, with approximate bounds and at addresses: see `kernels.ivf_job`.
"""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.host_heap import LAST_RANK, drain_heap, nearer, push_nearest
from gpuvec.kernels.host_pairwise import AHEAD, COSINE, wide_distance
from gpuvec.kernels.ivf_memory import (
    get_f32,
    get_i64,
    put_f32,
    put_i64,
)
from gpuvec.kernels.ivf_pick import FLOOR
from gpuvec.kernels.lanes import prefetch, wide_dot


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def floor_of(job: Any, p: int) -> Any:
    """Return the score under which a row cannot matter to the query at a place."""
    return get_f32(job.facts + FLOOR * job.fact_bytes, p)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _raise_floor(job: Any, p: int, floor: Any) -> None:
    put_f32(job.facts + FLOOR * job.fact_bytes, p, floor)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _keep_low(job: Any, p: int, low: Any) -> None:
    """Note that a row scores at least `low`; raise the floor once k rows do."""
    k = job.k
    heap, size = job.lows + 4 * k * p, get_i64(job.filled, p)
    if size < k:
        place = size
        while place > 0:
            parent = (place - 1) // 2
            above = get_f32(heap, parent)
            if above <= low:
                break
            put_f32(heap, place, above)
            place = parent
        put_f32(heap, place, low)
        size += 1
        put_i64(job.filled, p, size)
    elif low > get_f32(heap, 0):
        place = 0
        while True:
            child = 2 * place + 1
            if child >= size:
                break
            below = get_f32(heap, child)
            if child + 1 < size and get_f32(heap, child + 1) < below:
                child += 1
                below = get_f32(heap, child)
            if below >= low:
                break
            put_f32(heap, place, below)
            place = child
        put_f32(heap, place, low)
    if size == k:
        _raise_floor(job, p, max(floor_of(job, p), get_f32(heap, 0)))


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def drop_hopeless(job: Any, p: int) -> int:
    """Forget the rows that have fallen under the floor; return how many are left."""
    rows, highs = job.found + 8 * job.room * p, job.highs + 4 * job.room * p
    floor, kept = floor_of(job, p), 0
    for i in range(get_i64(job.counts, p)):
        high = get_f32(highs, i)
        put_i64(rows, kept, get_i64(rows, i))
        put_f32(highs, kept, high)
        kept += high >= floor
    put_i64(job.counts, p, kept)
    return kept


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def add_found(job: Any, p: int, row: int, low: Any, high: Any) -> None:
    """Add a row whose score lies between `low` and `high`, if it can matter."""
    if not high >= floor_of(job, p):
        return
    count = get_i64(job.counts, p)
    if count == job.room:
        count = drop_hopeless(job, p)
        if count > job.room * 3 // 4:
            put_i64(job.lost, p, 1)
            _raise_floor(job, p, np.float32(np.inf))
            return
    put_i64(job.found + 8 * job.room * p, count, row)
    put_f32(job.highs + 4 * job.room * p, count, high)
    put_i64(job.counts, p, count + 1)
    _keep_low(job, p, low)


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _begin(job: Any, p: int, members: Any, rows: Any, lost: Any) -> int:
    """Return how many rows of the query at a place are to be measured; ask for the first ones."""
    if p == len(members):
        return 0
    if get_i64(job.lost, p) != 0:
        lost[members[p]] = True
    count = 0 if lost[members[p]] else drop_hopeless(job, p)
    for i in range(min(AHEAD, count)):
        prefetch(rows, get_i64(job.found + 8 * job.room * p, i))
    return count


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def choose_nearest(
    jobs: Any, members: Any, queries: Any, rows: Any, metric: int, limits: Any, ranks: Any,
    lost: Any, out_rows: Any, out_distances: Any,
) -> int:  # fmt: skip
    """Measure what was found, and write the nearest rows of each query in order.

    Args:
        jobs: (1,) JOB.
        members: (m,) int64, the query at each place.
        queries: (m, dim) float32.
        rows: (n, dim), see `kernel_view`.
        metric: see `kernels.host_pairwise`.
        limits: (m,) float64, distances that are wanted.
        ranks: (n,) int64, order of rows at equal distance; empty: that of the rows.
        lost: (m,) bool, set where a query is given up, and has no answer.
        out_rows: (m, k) int64, written; -1 where there is no row.
        out_distances: (m, k) float32, written.

    Returns:
        how many pairs were measured.
    """
    job, k, measured = jobs[0], out_rows.shape[1], 0
    heap_distances, heap_ranks = np.empty(k, np.float32), np.empty(k, np.int64)
    heap_rows = np.empty(k, np.int64)
    following = _begin(job, 0, members, rows, lost)
    for p in range(len(members)):
        j, count = members[p], following
        found, size = job.found + 8 * job.room * p, min(k, count)
        following = _begin(job, p + 1, members, rows, lost)
        square = wide_dot(queries, j, queries, j) if metric == COSINE else 0.0
        heap_distances[:size] = np.inf
        heap_ranks[:size] = LAST_RANK
        heap_rows[:size] = -1
        for i in range(count):
            if i + AHEAD < count:
                prefetch(rows, get_i64(found, i + AHEAD))
            row = get_i64(found, i)
            distance = np.float32(wide_distance(queries, j, rows, row, metric, square))
            rank = ranks[row] if len(ranks) > 0 else row
            if distance <= limits[j] and nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                push_nearest(
                    heap_distances[:size], heap_ranks[:size], heap_rows[:size], distance, rank, row
                )
        drain_heap(
            heap_distances[:size], heap_ranks[:size], heap_rows[:size], out_rows[j],
            out_distances[j],
        )  # fmt: skip
        out_rows[j, size:] = -1
        out_distances[j, size:] = np.inf
        measured += count
    return measured
