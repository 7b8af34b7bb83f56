"""The nearest rows of every group."""

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, is_device_array
from gpuvec.kernels.bitset import BitSet, unpack
from gpuvec.kernels.launch import THREADS, kernel_of, whole
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.select_k import check_k, check_lengths
from gpuvec.types import Array

_GRID_Y = 65535  # CUDA's largest
_NONE = (1 << 64) - 1


def groups_topk(
    distances: Array,
    codes: Array,
    groups: int,
    size: int,
    *,
    bits: BitSet | None = None,
    tie_rank: Array | None = None,
) -> Neighbors:
    """Keep the `size` nearest columns of every group for each query.

    Args:
        distances: (m, n) float32, C-contiguous, on host or device; no NaN. n below 2^32.
        codes: (n,) int32, the group of each column, below `groups`; negative: of none.
        groups: how many there are.
        size: at least 1.
        bits: columns that may be found; None: all.
        tie_rank: (n,) int64, order of columns at equal distance; None: column order.

    Returns:
        (m, groups * size): places g * size to (g + 1) * size hold group g's columns, nearest
        first; a small group ends in row -1 at +inf.

    Raises:
        QueryError: `GV-310` size below 1; `GV-311` host and device mixed; `GV-314` wrong lengths.

    Cost: on a device `size` reads of `distances`.
    """
    check_k(size)
    array_namespace(distances, codes, tie_rank)
    m, n = distances.shape
    check_lengths(n, m, keep=bits, tie_rank=tie_rank)
    check_lengths(n, m, tie_rank=codes)
    found = Neighbors.empty(m, groups * size, like=distances)
    if not m or not n or not groups:
        return found
    if is_device_array(distances):
        return _on_device(distances, codes, groups, size, bits, tie_rank, found)
    kept = np.ones(n, bool) if bits is None else unpack(bits)
    columns = np.flatnonzero(kept & (codes >= 0))
    ranks = (np.arange(n) if tie_rank is None else tie_rank)[columns]
    own = codes[columns].astype(np.int64)
    for query in range(m):
        order = np.lexsort((ranks, distances[query, columns], own))
        place = np.arange(len(order)) - np.searchsorted(own[order], own[order])
        near = order[place < size]
        at = own[near] * size + place[place < size]
        found.rows[query, at] = columns[near]
        found.distances[query, at] = distances[query, columns[near]]
    return found


def _on_device(
    distances: Array,
    codes: Array,
    groups: int,
    size: int,
    bits: BitSet | None,
    tie_rank: Array | None,
    found: Neighbors,
) -> Neighbors:
    xp = array_namespace(distances, codes, tie_rank)
    m, n = distances.shape
    columns = None if tie_rank is None else xp.argsort(tie_rank, kind="stable")
    orders = None
    if columns is not None:
        orders = xp.empty(n, xp.uint32)
        orders[columns] = xp.arange(n, dtype=xp.uint32)
    data = xp.ascontiguousarray(distances, xp.float32)
    owners = xp.ascontiguousarray(codes, xp.int32)
    rows, near = (x.reshape(m, groups, size) for x in (found.rows, found.distances))
    before = None
    for place in range(size):
        best = _next_best(data, owners, orders, bits, before, groups)
        at = (best & xp.uint64(0xFFFFFFFF)).astype(xp.int64)
        real = best != xp.uint64(_NONE)
        at = xp.where(real, at, 0)
        at = at if columns is None else columns[at]
        rows[:, :, place] = xp.where(real, at, -1)
        own = xp.take_along_axis(data, at, axis=1)
        near[:, :, place] = xp.where(real, own, xp.float32(xp.inf))
        before = best
    return found


def _next_best(
    distances: Array,
    codes: Array,
    orders: Array | None,
    bits: BitSet | None,
    before: Array | None,
    groups: int,
) -> Array:
    """Return (m, groups) uint64: distance and order of each group's next row, all ones: none."""
    xp = array_namespace(distances)
    m, n = distances.shape
    best = xp.full((m, groups), -1, xp.int64).view(xp.uint64)  # all ones
    null = np.uintp(0)
    for first in range(0, m, _GRID_Y):
        at = slice(first, first + _GRID_Y)
        kernel_of("groups_topk.cu", "group_best").launch(
            (-(-n // THREADS), len(best[at])), (THREADS,),
            distances[at], codes, null if orders is None else orders,
            null if bits is None else bits.words, null if before is None else before[at],
            whole(n), whole(groups), best[at],
        )  # fmt: skip
    return best


def groups_topk_reference(
    distances: NDArray[np.float32],
    codes: NDArray[np.int32],
    groups: int,
    size: int,
    keep: NDArray[np.bool_],
    tie_rank: NDArray[np.int64],
) -> Neighbors:
    """Say what `groups_topk` means, slowly, in NumPy."""
    found = Neighbors.empty(len(distances), groups * size)
    for query in range(len(distances)):
        for group in range(groups):
            own = np.flatnonzero(keep & (codes == group))
            own = own[np.lexsort((tie_rank[own], distances[query, own]))][:size]
            at = slice(group * size, group * size + len(own))
            found.rows[query, at] = own
            found.distances[query, at] = distances[query, own]
    return found
