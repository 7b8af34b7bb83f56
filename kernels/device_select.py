"""Launches the device body of `kernels.select_k`."""

import numpy as np

from gpuvec.device.arrays import array_namespace
from gpuvec.kernels.launch import THREADS, kernel_of, whole
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.types import Array

_BLOCKS = 512  # enough to fill a large card
_LEAST_COLUMNS = 8192  # of a part


def select_on_device(distances: Array, k: int, tie_rank: Array | None) -> Neighbors:
    """See `select_k`."""
    xp = array_namespace(distances, tie_rank)
    m, n = distances.shape
    found = Neighbors.empty(m, k, like=distances)
    if m == 0 or n == 0:
        return found
    data = xp.ascontiguousarray(distances, xp.float32)
    ranks = None if tie_rank is None else xp.ascontiguousarray(tie_rank, xp.int64)
    taken = min(k, n)
    parts = max(1, min(_BLOCKS // m, n // max(_LEAST_COLUMNS, 4 * taken)))
    rows = _choose(data, ranks, 0, taken, parts)
    if parts > 1:
        near = xp.ascontiguousarray(xp.take_along_axis(data, rows, axis=1))
        own_ranks = rows if ranks is None else xp.ascontiguousarray(ranks[rows])
        best = _choose(near, own_ranks, rows.shape[1], taken, 1)
        rows = xp.take_along_axis(rows, best, axis=1)
    near = xp.take_along_axis(data, rows, axis=1)
    order = _order(near, rows if ranks is None else ranks[rows])
    found.rows[:, :taken] = xp.take_along_axis(rows, order, axis=1)
    found.distances[:, :taken] = xp.take_along_axis(near, order, axis=1)
    return found


def _choose(distances: Array, ranks: Array | None, rank_stride: int, k: int, parts: int) -> Array:
    """Return (m, parts * k) columns that hold the k smallest of each part, unsorted.

    Every part must have at least k columns. `rank_stride` 0: all queries share their ranks.
    """
    xp = array_namespace(distances)
    m, n = distances.shape
    size = -(-n // parts)
    parts = -(-n // size)
    if n - (parts - 1) * size < k:
        raise AssertionError(f"the last of {parts} parts of {n} columns has fewer than {k}")
    rows = xp.empty((m, parts * k), xp.int64)
    kernel_of("select_k.cu", "select_k").launch(
        (m, parts), (THREADS,),
        distances, np.uintp(0) if ranks is None else ranks, whole(rank_stride), whole(n),
        whole(size), whole(k), rows,
    )  # fmt: skip
    return rows


def _order(distances: Array, ranks: Array) -> Array:
    """Return the order of (m, k) places by distance, then rank; needs no stable sort."""
    xp = array_namespace(distances)
    bits = (distances + xp.float32(0)).view(xp.uint32)  # -0 becomes 0
    keys = xp.where(bits >> 31, ~bits, bits | xp.uint32(1 << 31)).astype(xp.uint64)
    place = xp.argsort(xp.argsort(ranks, axis=1), axis=1)
    return xp.argsort((keys << xp.uint64(32)) | place.astype(xp.uint64), axis=1)
