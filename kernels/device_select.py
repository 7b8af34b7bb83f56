"""Launches the device bodies of `kernels.select_k` and `kernels.merge_k`."""

import numpy as np

from gpuvec.device.arrays import array_namespace
from gpuvec.kernels.launch import THREADS, kernel_of, whole
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.types import Array

WARP_K = 128  # neighbours that a warp keeps in shared memory; for more, columns are read five times
LANES = 32
ENTRY_BYTES = 16  # Entry in best.cuh
_WARPS = 8192  # enough to fill a large card
_BLOCKS = 512
_LEAST_WARP_COLUMNS = 2048  # of a part
_LEAST_BLOCK_COLUMNS = 8192


def select_on_device(distances: Array, k: int, tie_rank: Array | None) -> Neighbors:
    """See `select_k`."""
    xp = array_namespace(distances, tie_rank)
    m, n = distances.shape
    found = Neighbors.empty(m, k, like=distances)
    if m == 0 or n == 0:
        return found
    data = xp.ascontiguousarray(distances, xp.float32)
    ranks = None if tie_rank is None else xp.ascontiguousarray(tie_rank, xp.int64)
    if k <= WARP_K:
        return best_of(data, k, ranks)
    taken = min(k, n)
    rows = _by_radix(data, ranks, taken)
    near = xp.take_along_axis(data, rows, axis=1)
    order = _order(near, rows if ranks is None else ranks[rows])
    found.rows[:, :taken] = xp.take_along_axis(rows, order, axis=1)
    found.distances[:, :taken] = xp.take_along_axis(near, order, axis=1)
    return found


def best_of(
    distances: Array, k: int, ranks: Array | None = None, rows: Array | None = None
) -> Neighbors:
    """Keep the k smallest of each query, nearest first, in one pass.

    Args:
        distances: (m, n) float32, C-contiguous; no NaN. n below 2^32.
        k: at least 1, at most `WARP_K`.
        ranks: (n,) or (m, n) int64, order at equal distance; None: the order of columns.
        rows: (m, n) int64, what to answer; negative: padding. None: the numbers of columns.

    Returns:
        (m, k); a query of fewer than k columns ends in row -1 at +inf.

    Cost: one read of `distances`, and for long rows a second pass over k columns a part.
    """
    xp = array_namespace(distances, ranks, rows)
    m, n = distances.shape
    parts = max(1, min(_WARPS // m, n // max(_LEAST_WARP_COLUMNS, 8 * k)))
    if ranks is not None and rows is not None:
        parts = 1  # candidates are few, and their ranks go by column
    size = -(-n // max(1, parts))
    parts = -(-n // size)
    found = Neighbors(xp.empty((m, parts * k), xp.int64), xp.empty((m, parts * k), xp.float32))
    keep, room = list_size(k)
    warps = THREADS // LANES
    kernel_of("best_k.cu", "best_k").launch(
        (-(-m * parts // warps),), (THREADS,),
        distances, np.uintp(0) if ranks is None else ranks,
        whole(0 if ranks is None or ranks.ndim == 1 else n),
        np.uintp(0) if rows is None else rows,
        whole(m), whole(n), whole(size), whole(parts), np.int32(k), np.int32(keep), np.int32(room),
        found.rows, found.distances,
        shared_bytes=warps * room * ENTRY_BYTES,
    )  # fmt: skip
    if parts == 1:
        return found
    if ranks is None:  # the parts' answers lie in the order of columns
        return best_of(found.distances, k, rows=found.rows)
    own = xp.ascontiguousarray(ranks[xp.maximum(found.rows, 0)])
    return best_of(found.distances, k, own, found.rows)


def merge_on_device(rows: Array, distances: Array, k: int, ranks: Array | None) -> Neighbors:
    """Keep the k nearest of (m, n) candidates, of which those of negative rows are padding.

    Args:
        rows: (m, n) int64, what to answer.
        distances: (m, n) float32.
        k: at least 1, at most `WARP_K`.
        ranks: (m, n) int64, order at equal distance; None: the order of columns.

    Returns:
        (m, k), nearest first.
    """
    xp = array_namespace(rows, distances, ranks)
    return best_of(
        xp.ascontiguousarray(distances, xp.float32), k,
        None if ranks is None else xp.ascontiguousarray(ranks, xp.int64),
        xp.ascontiguousarray(rows, xp.int64),
    )  # fmt: skip


def list_size(k: int) -> tuple[int, int]:
    """Return how many entries a warp keeps for k neighbours, and how many it has room for."""
    keep = max(LANES, 1 << (k - 1).bit_length())
    return keep, max(256, 4 * keep)


def _by_radix(data: Array, ranks: Array | None, k: int) -> Array:
    """Return (m, k) columns that hold the k smallest, unsorted."""
    xp = array_namespace(data)
    m, n = data.shape
    parts = max(1, min(_BLOCKS // m, n // max(_LEAST_BLOCK_COLUMNS, 4 * k)))
    rows = _choose(data, ranks, 0, k, parts)
    if rows.shape[1] == k:
        return rows
    near = xp.ascontiguousarray(xp.take_along_axis(data, rows, axis=1))
    own_ranks = rows if ranks is None else xp.ascontiguousarray(ranks[rows])
    best = _choose(near, own_ranks, rows.shape[1], k, 1)
    return xp.take_along_axis(rows, best, axis=1)


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
    bits = distances.view(xp.uint32)
    bits = xp.where(bits == xp.uint32(1 << 31), xp.uint32(0), bits)  # -0 becomes 0
    keys = xp.where(bits >> 31, ~bits, bits | xp.uint32(1 << 31)).astype(xp.uint64)
    place = xp.argsort(xp.argsort(ranks, axis=1), axis=1)
    return xp.argsort((keys << xp.uint64(32)) | place.astype(xp.uint64), axis=1)
