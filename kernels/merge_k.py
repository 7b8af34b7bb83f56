"""Several answers to the same queries, made one."""

from collections.abc import Sequence

from gpuvec.device.arrays import array_namespace, is_device_array
from gpuvec.errors import wrong_length
from gpuvec.kernels.device_select import WARP_K, merge_on_device
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.select_k import check_k, select_k
from gpuvec.types import Array


def merge_k(
    parts: Sequence[Neighbors], k: int, *, ranks: Sequence[Array] | None = None, threads: int = 1
) -> Neighbors:
    """Keep the k nearest of several answers, nearest first.

    Args:
        parts: (m, k_i) each, at least one, all of one device; k_i may differ. Rows are taken as
            they are: whoever merges segments adds their offsets first.
        k: at least 1.
        ranks: for each part, (m, k_i) int64: order at equal distance. None: the order of parts,
            then of places, which is row order where parts follow one another in row order.
        threads: of the host; 0: all cores.

    Returns:
        (m, k); padding of the parts sorts last and stays padding.

    Raises:
        QueryError: `GV-310` k below 1; `GV-314` not as many ranks as parts.

    Cost: one read of the parts and a selection over the sum of all k_i; on a device one launch for
        k up to 128.
    """
    check_k(k)
    xp = array_namespace(*(part.rows for part in parts))
    if ranks is not None and len(ranks) != len(parts):
        raise wrong_length("ranks", wanted=len(parts), got=len(ranks))
    rows = xp.concatenate([part.rows for part in parts], axis=1)
    distances = xp.concatenate([part.distances for part in parts], axis=1)
    if is_device_array(rows) and k <= WARP_K and rows.size:
        rank = None if ranks is None else xp.concatenate(list(ranks), axis=1)
        return merge_on_device(rows, distances, k, rank)
    # Padding goes behind rows at +inf, which are real.
    padding = rows < 0
    if ranks is not None or padding.any():
        rank = None if ranks is None else xp.concatenate(list(ranks), axis=1)
        order = _order(padding, rank)
        rows = xp.take_along_axis(rows, order, axis=1)
        distances = xp.take_along_axis(distances, order, axis=1)
    found = select_k(xp.ascontiguousarray(distances), k, threads=threads)
    if rows.shape[1] == 0:
        return found
    picked = xp.take_along_axis(rows, xp.maximum(found.rows, 0), axis=1)
    return Neighbors(xp.where(found.rows < 0, -1, picked), found.distances)


def _order(padding: Array, rank: Array | None) -> Array:
    """Return, per query, the order that puts ranks in order and padding last."""
    xp = array_namespace(padding)
    if rank is None:
        return xp.argsort(padding, axis=1, kind="stable")
    by_rank = xp.argsort(rank, axis=1, kind="stable")
    behind = xp.take_along_axis(padding, by_rank, axis=1)
    return xp.take_along_axis(by_rank, xp.argsort(behind, axis=1, kind="stable"), axis=1)
