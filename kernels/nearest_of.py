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


class NearestOf:
    """Measures candidates and keeps the nearest of each query.

    Args:
        rows: (n, width) on the host, any dtype the metric measures; only candidates are read.
        metric: what to measure.
    """

    def __init__(self, rows: Array, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric
        self._name = f"nearest of {rows.dtype.name} {'bits' if is_binary(metric) else 'numbers'}"
        self._view: Any = None

    def __call__(
        self,
        queries: Array,
        candidates: NDArray[np.int64],
        k: int,
        *,
        tie_rank: Array | None = None,
    ) -> Neighbors:
        """Return the `k` nearest of each query's candidates.

        Args:
            queries: (m, width) float32, or packed uint8.
            candidates: (m, c) int64, -1 for none; none twice in a query.
            k: at least 1.
            tie_rank: (n,) int64, order of rows at equal distance; None: row order.

        Returns:
            (m, k); distances are those of `paired_distances`.

        Cost: as `paired_distances`, in the calling thread, and some microseconds a call.
        """
        loaded = is_loaded(self._name)
        if not loaded and candidates.size * self._rows.shape[1] <= _PLAIN_VALUES:
            found = _in_numpy(queries, self._rows, candidates, k, self._metric, tie_rank)
            load_beside(self._name, lambda: _load(self._rows.dtype, self._metric))
            return found
        found = self._compiled(queries, candidates, k, tie_rank)
        if not loaded:
            note_loaded(self._name)
        return found

    def _compiled(
        self, queries: Array, candidates: NDArray[np.int64], k: int, tie_rank: Array | None
    ) -> Neighbors:
        from gpuvec.kernels import host_nearest
        from gpuvec.kernels.lanes import kernel_view, numbers_view

        if self._view is None:
            self._view = kernel_view(self._rows)
        fill = host_nearest.nearest_bits if is_binary(self._metric) else host_nearest.nearest
        found = Neighbors(
            np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        )
        asked = np.ascontiguousarray(queries).view()
        asked.flags.writeable = False
        fill(
            asked,
            self._view,
            candidates,
            numbers_view(tie_rank),
            tie_rank is not None,
            METRIC_CODES[self._metric],
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
    NearestOf(one.astype(dtype), metric)._compiled(one, np.zeros((1, 1), np.int64), 1, None)
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
    first = np.searchsorted(owner, np.arange(len(queries)))
    place = np.arange(len(owner)) - first[owner]
    near = place < k
    found = Neighbors.empty(len(queries), k)
    found.rows[owner[near], place[near]] = row[near]
    found.distances[owner[near], place[near]] = distances[near]
    return found
