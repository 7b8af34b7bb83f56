"""The nearest of given candidates: the last step of an index that finds rows by rough distances."""

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.loading import is_loaded, load_beside, note_loaded
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import METRIC_CODES, is_binary, paired_in_numpy
from gpuvec.types import Array, Metric

_PLAIN_VALUES = 1 << 22  # values of candidates that NumPy measures while bodies are not loaded


def nearest_of(
    queries: Array,
    rows: Array,
    candidates: NDArray[np.int64],
    k: int,
    metric: Metric,
    *,
    tie_rank: Array | None = None,
) -> Neighbors:
    """Measure candidates and keep the `k` nearest of each query.

    Args:
        queries: (m, width) float32, or packed uint8.
        rows: (n, width) on the host, any dtype the metric measures; only candidates are read.
        candidates: (m, c) int64, -1 for none; none twice in a query.
        k: at least 1.
        metric: what to measure.
        tie_rank: (n,) int64, order of rows at equal distance; None: row order.

    Returns:
        (m, k); distances are those of `paired_distances`.

    Cost: as `paired_distances`, in the calling thread; 5 us a call.
    """
    name = f"nearest of {rows.dtype.name} {'bits' if is_binary(metric) else 'numbers'}"
    loaded = is_loaded(name)
    if not loaded and candidates.size * rows.shape[1] <= _PLAIN_VALUES:
        found = _in_numpy(queries, rows, candidates, k, metric, tie_rank)
        load_beside(name, lambda: _load(rows.dtype, metric))
        return found
    found = _compiled(queries, rows, candidates, k, metric, tie_rank)
    if not loaded:
        note_loaded(name)
    return found


def _compiled(
    queries: Array,
    rows: Array,
    candidates: NDArray[np.int64],
    k: int,
    metric: Metric,
    tie_rank: Array | None,
) -> Neighbors:
    from gpuvec.kernels import host_nearest
    from gpuvec.kernels.lanes import kernel_view, numbers_view

    found = Neighbors(
        np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
    )
    fill = host_nearest.nearest_bits if is_binary(metric) else host_nearest.nearest
    fill(
        kernel_view(queries),
        kernel_view(rows),
        kernel_view(candidates),
        numbers_view(tie_rank),
        tie_rank is not None,
        METRIC_CODES[metric],
        found.rows,
        found.distances,
    )
    return found


def _load(dtype: np.dtype[Any], metric: Metric) -> Iterator[None]:
    """Load the compiled bodies for rows of a dtype, step by step."""
    for body in ("host_heap", "host_pairwise", "host_nearest"):
        import_module(f"gpuvec.kernels.{body}")
        yield
    one = np.ones((1, 1), np.uint8 if is_binary(metric) else np.float32)
    _compiled(one, one.astype(dtype), np.zeros((1, 1), np.int64), 1, metric, None)
    yield


def _in_numpy(
    queries: Array,
    rows: Array,
    candidates: NDArray[np.int64],
    k: int,
    metric: Metric,
    tie_rank: Array | None,
) -> Neighbors:
    """Do the same without anything to be compiled."""
    owner, place = np.nonzero(candidates >= 0)
    row = candidates[owner, place]
    distances = paired_in_numpy(queries, rows, owner, row, metric)
    order = np.lexsort((row if tie_rank is None else tie_rank[row], distances, owner))
    owner, row, distances = owner[order], row[order], distances[order]
    starts = np.searchsorted(owner, np.arange(len(queries)))
    place = np.arange(len(owner)) - starts[owner]
    near = place < k
    found = Neighbors.empty(len(queries), k)
    found.rows[owner[near], place[near]] = row[near]
    found.distances[owner[near], place[near]] = distances[near]
    return found
