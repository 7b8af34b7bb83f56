"""Compiled host bodies of `kernels.sparse_scan`: float64 sums in order of position."""

import math
from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.host_heap import LAST_RANK, drain_heap, nearer, push_nearest
from gpuvec.kernels.host_pairwise import IP


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def squares(offsets: Any, values: Any) -> Any:
    """Return each row's sum of squares, (rows,) float64."""
    found = np.zeros(offsets.shape[0] - 1)
    for row in range(found.shape[0]):
        for entry in range(offsets[row], offsets[row + 1]):
            found[row] += float(values[entry]) * float(values[entry])
    return found


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def sparse_distance(metric: int, dot: float, query_square: float, row_square: float) -> float:
    """Return the distance that sums stand for."""
    if metric == IP:
        return 0.0 - dot
    scale = math.sqrt(query_square * row_square)
    return max(0.0, 1.0 - dot / scale) if scale > 0.0 else 1.0


@njit(nogil=True, inline="always")  # type: ignore[untyped-decorator]
def row_dot(weights: Any, offsets: Any, columns: Any, values: Any, row: int) -> float:
    """Return the inner product of a spread-out query with a row."""
    dot = 0.0
    for entry in range(offsets[row], offsets[row + 1]):
        dot += weights[columns[entry]] * float(values[entry])
    return dot


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def scan_sparse(
    q_offsets: Any, q_columns: Any, q_values: Any, q_squares: Any, first: int, offsets: Any,
    columns: Any, values: Any, row_squares: Any, num_columns: int, listed: Any, start: int,
    stop: int, metric: int, ranks: Any, bound: Any, out_rows: Any, out_distances: Any,
) -> None:  # fmt: skip
    """Fill the k nearest rows of a part for queries from `first` on, in order."""
    k = out_rows.shape[1]
    use_list = listed.shape[0] > 0
    use_ranks = ranks.shape[0] > 0
    weights = np.zeros(num_columns)
    heap_distances = np.empty(k, np.float32)
    heap_ranks = np.empty(k, np.int64)
    heap_rows = np.empty(k, np.int64)
    for i in range(out_rows.shape[0]):
        q = first + i
        heap_distances[:] = np.inf
        heap_ranks[:] = LAST_RANK
        heap_rows[:] = -1
        for entry in range(q_offsets[q], q_offsets[q + 1]):
            weights[q_columns[entry]] = q_values[entry]
        for place in range(start, stop):
            j = listed[place] if use_list else place
            dot = row_dot(weights, offsets, columns, values, j)
            distance = np.float32(sparse_distance(metric, dot, q_squares[q], row_squares[j]))
            if distance > heap_distances[0] or distance > bound[q]:
                continue
            rank = ranks[j] if use_ranks else j
            if nearer(distance, rank, heap_distances[0], heap_ranks[0]):
                push_nearest(heap_distances, heap_ranks, heap_rows, distance, rank, j)
        for entry in range(q_offsets[q], q_offsets[q + 1]):
            weights[q_columns[entry]] = 0.0
        drain_heap(heap_distances, heap_ranks, heap_rows, out_rows[i], out_distances[i])


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def measure_sparse(
    q_offsets: Any, q_columns: Any, q_values: Any, q_squares: Any, first: int, offsets: Any,
    columns: Any, values: Any, row_squares: Any, num_columns: int, places: Any, metric: int,
    out: Any,
) -> None:  # fmt: skip
    """Fill (queries, places) distances for queries from `first` on."""
    weights = np.zeros(num_columns)
    for i in range(out.shape[0]):
        q = first + i
        for entry in range(q_offsets[q], q_offsets[q + 1]):
            weights[q_columns[entry]] = q_values[entry]
        for place in range(places.shape[0]):
            j = places[place]
            dot = row_dot(weights, offsets, columns, values, j)
            out[i, place] = sparse_distance(metric, dot, q_squares[q], row_squares[j])
        for entry in range(q_offsets[q], q_offsets[q + 1]):
            weights[q_columns[entry]] = 0.0


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def measure_pairs(
    q_offsets: Any, q_columns: Any, q_values: Any, q_squares: Any, offsets: Any, columns: Any,
    values: Any, row_squares: Any, num_columns: int, metric: int, out: Any,
) -> None:  # fmt: skip
    """Fill the distance of query p to row p."""
    weights = np.zeros(num_columns)
    for p in range(out.shape[0]):
        for entry in range(q_offsets[p], q_offsets[p + 1]):
            weights[q_columns[entry]] = q_values[entry]
        dot = row_dot(weights, offsets, columns, values, p)
        out[p] = sparse_distance(metric, dot, q_squares[p], row_squares[p])
        for entry in range(q_offsets[p], q_offsets[p + 1]):
            weights[q_columns[entry]] = 0.0
