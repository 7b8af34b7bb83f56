"""Centers of lists, found on a device: `faiss_centers` there, with CuPy alone."""

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, to_device, to_host
from gpuvec.kernels.pairwise import pairwise_distances
from gpuvec.types import Array, Metric

_ROUNDS = 10
_TILE_VALUES = 1 << 26  # distances held at a time


class DeviceCenters:
    """Trains centers and assigns rows to them; see `ListsBuild`."""

    def train(
        self, sample: NDArray[np.float32], n_lists: int, *, unit: bool
    ) -> NDArray[np.float32]:
        """Return (n_lists, dim) float32 centers of a sample; see `faiss_centers.train_centers`.

        Cost: s x n_lists distances a round, on the device.
        """
        if len(sample) == 0:
            return np.zeros((n_lists, sample.shape[1]), np.float32)
        rows = to_device(np.ascontiguousarray(sample), "index")
        xp = array_namespace(rows)
        centers = rows[xp.arange(n_lists) % len(rows)]
        for turn in range(_ROUNDS):
            owner = _nearest(rows, centers)
            centers = _means(rows, owner, centers, turn)
            if unit:
                lengths = xp.sqrt(xp.sum(centers * centers, axis=1, keepdims=True))
                centers = centers / xp.where(lengths > 0, lengths, 1)
        found: NDArray[np.float32] = to_host(centers.astype(xp.float32), "index")
        return found

    def assign(self, rows: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
        """Return (n,) int64, the center nearest to each of (n, dim) float32 rows."""
        if len(rows) == 0:
            return np.zeros(0, np.int64)
        every = to_device(np.ascontiguousarray(rows), "index")
        found: NDArray[np.int64] = to_host(
            _nearest(every, to_device(np.ascontiguousarray(centers), "index")), "index"
        )
        return found


def _nearest(rows: Array, centers: Array) -> Array:
    """Return (n,) int64 owners on the device."""
    xp = array_namespace(rows)
    step = max(1, _TILE_VALUES // len(centers))
    parts = [
        xp.argmin(
            pairwise_distances(rows[start : start + step], centers, Metric.SQEUCLIDEAN), axis=1
        )
        for start in range(0, len(rows), step)
    ]
    return xp.concatenate(parts).astype(xp.int64)


def _means(rows: Array, owner: Array, centers: Array, turn: int) -> Array:
    """Return the mean of each center's rows; a center without any gets some row."""
    xp = array_namespace(rows)
    counts = xp.bincount(owner, minlength=len(centers))
    order = xp.argsort(owner, kind="stable")
    ends = xp.cumsum(counts)
    sums = xp.cumsum(rows[order].astype(xp.float64), axis=0)
    zero = xp.zeros((1, rows.shape[1]), xp.float64)
    until = xp.concatenate([zero, sums])
    totals = until[ends] - until[ends - counts]
    found = totals / xp.maximum(counts, 1)[:, None]
    spare = (xp.arange(len(centers)) * (2 * turn + 1) + turn) % len(rows)
    return xp.where(counts[:, None] > 0, found, rows[spare]).astype(xp.float32)
