"""The k smallest distances of each query, in order."""

from collections.abc import Sized
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, is_device_array
from gpuvec.errors import bad_k, wrong_length
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.types import Array

_HEAP_SHARE = 8  # a heap is used while k is at most this part of the columns; beyond it, a sort


def check_k(k: int) -> None:
    """Refuse a `k` that is no positive integer.

    Raises:
        QueryError: `GV-310`.
    """
    given: object = k
    if isinstance(given, bool) or not isinstance(given, int | np.integer) or given < 1:
        raise bad_k(k)


def check_lengths(
    rows: int,
    queries: int,
    *,
    keep: Sized | None = None,
    tie_rank: Array | None = None,
    bound: Array | None = None,
) -> None:
    """Refuse masks and ranks that are not one a row, bounds that are not one a query.

    Raises:
        QueryError: `GV-314`.
    """
    for what, given, wanted in (
        ("keep", keep, rows), ("tie_rank", tie_rank, rows), ("bound", bound, queries)
    ):  # fmt: skip
        if given is not None and getattr(given, "ndim", False) and len(given) != wanted:
            raise wrong_length(what, wanted=wanted, got=len(given))


def select_k(
    distances: Array, k: int, *, tie_rank: Array | None = None, threads: int = 1
) -> Neighbors:
    """Keep the k smallest distances of each query, nearest first.

    Args:
        distances: (m, n) float32, C-contiguous, on host or device; no NaN.
        k: at least 1; any size.
        tie_rank: (n,) int64, order of columns at equal distance; None: column order.
        threads: of the host; 0: all cores.

    Returns:
        rows (m, k): positions of columns; a query of fewer than k columns ends in row -1 at +inf.

    Raises:
        QueryError: `GV-310` k below 1; `GV-311` host and device mixed; `GV-314` wrong length of
            `tie_rank`.

    Cost: one read of `distances` and n log k comparisons at worst; a sort where k > n / 8. On a
        device one read for k up to 128, beyond that five at most and a sort of k.
    """
    check_k(k)
    xp = array_namespace(distances, tie_rank)
    m, n = distances.shape
    if tie_rank is not None and len(tie_rank) != n:
        raise wrong_length("tie_rank", wanted=n, got=len(tie_rank))
    if is_device_array(distances):
        from gpuvec.kernels.device_select import select_on_device

        return select_on_device(distances, int(k), tie_rank)
    if k * _HEAP_SHARE > n:
        return _padded(xp, *_sort(xp, distances, min(k, n), tie_rank), k)
    from gpuvec.kernels import host_heap
    from gpuvec.kernels.lanes import kernel_view

    out = Neighbors(np.empty((m, k), np.int64), np.empty((m, k), np.float32))
    data = kernel_view(distances)
    ranks = kernel_view(np.zeros(1, np.int64) if tie_rank is None else tie_rank.astype(np.int64))

    def work(part: tuple[int, int]) -> None:
        host_heap.select_columns(data, ranks, tie_rank is not None, *part, out.rows, out.distances)

    run_parallel(work, split(m, thread_count(threads)), threads)
    return out


def _sort(xp: Any, distances: Array, k: int, tie_rank: Array | None) -> tuple[Array, Array]:
    """Sort whole rows; stable, so columns put into tie order first stay in it."""
    if tie_rank is None:
        rows = xp.argsort(distances, axis=1, kind="stable")[:, :k]
    else:
        first = xp.argsort(tie_rank, kind="stable")
        rows = first[xp.argsort(distances[:, first], axis=1, kind="stable")[:, :k]]
    return rows.astype(xp.int64), xp.take_along_axis(distances, rows, axis=1)


def _padded(xp: Any, rows: Array, distances: Array, k: int) -> Neighbors:
    """Lengthen an answer to k places."""
    if rows.shape[1] == k:
        return Neighbors(rows, distances)
    found = Neighbors.empty(rows.shape[0], k, like=rows)
    found.rows[:, : rows.shape[1]] = rows
    found.distances[:, : rows.shape[1]] = distances
    return found


def select_k_reference(
    distances: NDArray[np.float32], k: int, *, tie_rank: NDArray[np.int64] | None = None
) -> Neighbors:
    """Say what `select_k` means, slowly, in NumPy."""
    m, n = distances.shape
    rank = np.arange(n) if tie_rank is None else tie_rank
    found = Neighbors.empty(m, k)
    for i in range(m):
        order = np.lexsort((rank, distances[i]))[:k]
        found.rows[i, : len(order)] = order
        found.distances[i, : len(order)] = distances[i, order]
    return found
