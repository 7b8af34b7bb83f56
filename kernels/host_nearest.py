"""Compiled bodies that measure candidates and keep the nearest, query by query."""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.host_heap import LAST_RANK, drain_heap, nearer, push_nearest
from gpuvec.kernels.host_pairwise import AHEAD, COSINE, bit_distance, wide_distance
from gpuvec.kernels.lanes import prefetch, wide_dot


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def nearest(
    queries: Any, rows: Any, candidates: Any, ranks: Any, use_ranks: bool, metric: int,
    out_rows: Any, out_distances: Any,
) -> None:  # fmt: skip
    """Fill (m, k) outputs with the nearest of each query's (m, c) candidates; -1 is none."""
    k = out_rows.shape[1]
    heap_distances = np.empty(k, np.float32)
    heap_ranks = np.empty(k, np.int64)
    heap_rows = np.empty(k, np.int64)
    size = candidates.shape[1]
    for i in range(candidates.shape[0]):
        heap_distances[:] = np.inf
        heap_ranks[:] = LAST_RANK
        heap_rows[:] = -1
        query_square = wide_dot(queries, i, queries, i) if metric == COSINE else 0.0
        for j in range(size):
            if j + AHEAD < size and candidates[i, j + AHEAD] >= 0:
                prefetch(rows, candidates[i, j + AHEAD])
            row = candidates[i, j]
            if row < 0:
                continue
            wide = wide_distance(queries, i, rows, row, metric, query_square)
            distance = np.float32(wide)
            rank = ranks[row] if use_ranks else row
            if nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                push_nearest(heap_distances, heap_ranks, heap_rows, distance, rank, row)
        drain_heap(heap_distances, heap_ranks, heap_rows, out_rows[i], out_distances[i])


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def nearest_bits(
    queries: Any, rows: Any, candidates: Any, ranks: Any, use_ranks: bool, metric: int,
    out_rows: Any, out_distances: Any,
) -> None:  # fmt: skip
    """Fill (m, k) outputs as `nearest` does, from packed vectors."""
    k = out_rows.shape[1]
    heap_distances = np.empty(k, np.float32)
    heap_ranks = np.empty(k, np.int64)
    heap_rows = np.empty(k, np.int64)
    for i in range(candidates.shape[0]):
        heap_distances[:] = np.inf
        heap_ranks[:] = LAST_RANK
        heap_rows[:] = -1
        for j in range(candidates.shape[1]):
            row = candidates[i, j]
            if row < 0:
                continue
            distance = np.float32(bit_distance(queries, i, rows, row, metric))
            rank = ranks[row] if use_ranks else row
            if nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                push_nearest(heap_distances, heap_ranks, heap_rows, distance, rank, row)
        drain_heap(heap_distances, heap_ranks, heap_rows, out_rows[i], out_distances[i])


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def nearest_bits_of_lists(
    queries: Any, rows: Any, offsets: Any, members: Any, lists: Any, keep: Any, ranks: Any,
    use_ranks: bool, metric: int, out_rows: Any, out_distances: Any,
) -> None:  # fmt: skip
    """Fill (m, k) outputs with the nearest packed rows of each query's (m, p) lists.

    List l holds rows `members[offsets[l]:offsets[l + 1]]`; `keep` is (rows,) bool, or empty for
    every row.
    """
    k = out_rows.shape[1]
    heap_distances = np.empty(k, np.float32)
    heap_ranks = np.empty(k, np.int64)
    heap_rows = np.empty(k, np.int64)
    masked = keep.shape[0] > 0
    for i in range(lists.shape[0]):
        heap_distances[:] = np.inf
        heap_ranks[:] = LAST_RANK
        heap_rows[:] = -1
        for j in range(lists.shape[1]):
            for p in range(offsets[lists[i, j]], offsets[lists[i, j] + 1]):
                row = members[p]
                if masked and not keep[row]:
                    continue
                distance = np.float32(bit_distance(queries, i, rows, row, metric))
                rank = ranks[row] if use_ranks else row
                if nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                    push_nearest(heap_distances, heap_ranks, heap_rows, distance, rank, row)
        drain_heap(heap_distances, heap_ranks, heap_rows, out_rows[i], out_distances[i])
