"""The nearest rows of packed bits: final at once, on either device."""

from dataclasses import dataclass

import numpy as np

from gpuvec.device.arrays import array_namespace, is_device_array
from gpuvec.kernels.bitset import WORD, BitSet, unpack
from gpuvec.kernels.device_select import ENTRY_BYTES, LANES, WARP_K, best_of, list_size
from gpuvec.kernels.launch import card_limits, kernel_of, whole
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import METRIC_CODES, check_pair, pairwise_distances
from gpuvec.kernels.select_k import check_k, check_lengths, select_k
from gpuvec.types import Array, Metric

_TOGETHER = 4  # queries that a warp asks of a row at once, while their lists are short
_WARPS = 8  # of a block, at most
_PARTS = 4096  # enough to fill a large card
_LEAST_ROWS = 2048  # of a part


def bits_topk(
    queries: Array,
    rows: Array,
    k: int,
    metric: Metric,
    *,
    bits: BitSet | None = None,
    tie_rank: Array | None = None,
    bound: Array | None = None,
) -> Neighbors:
    """Keep the k nearest rows of each query, nearest first.

    Args:
        queries: (m, width) uint8, packed bits.
        rows: (n, width) uint8, on the side of the queries; n below 2^32.
        k: at least 1.
        metric: hamming or jaccard.
        bits: rows that may be found; None: all.
        tie_rank: (n,) int64, order of rows at equal distance; None: row order.
        bound: (m,) float32, the farthest that is wanted; None: any.

    Returns:
        rows (m, k) and their final distances; a short answer ends in row -1 at +inf.

    Raises:
        QueryError: see `check_pair`; `GV-310` k below 1; `GV-314` something of a wrong length.

    Cost: on a device, k up to 128: the rows are read once for every four queries (k up to 32), from
        its cache where batches ask together; else (m, n) distances lie in memory.
    """
    check_k(k)
    check_pair(queries, rows, metric)
    check_lengths(len(rows), len(queries), keep=bits, tie_rank=tie_rank, bound=bound)
    if is_device_array(queries) and k <= WARP_K and len(queries) and len(rows):
        block = _block(int(k), *queries.shape, most_bytes=card_limits().shared_bytes)
        if block.warps:
            return _on_device(queries, rows, int(k), block, metric, bits, tie_rank, bound)
    xp = array_namespace(queries, rows)
    listed = xp.arange(len(rows)) if bits is None else xp.flatnonzero(unpack(bits))
    distances = pairwise_distances(queries, rows[listed], metric)
    rank = None if tie_rank is None else tie_rank[listed]
    found = select_k(distances, k, tie_rank=rank)
    real = found.rows >= 0
    if bound is not None:
        real &= found.distances <= bound[:, None]
    if not len(listed):
        return found
    return Neighbors(
        xp.where(real, listed[xp.maximum(found.rows, 0)], -1),
        xp.where(real, found.distances, xp.float32(xp.inf)),
    )


@dataclass(frozen=True, slots=True)
class _Block:
    """How a block works: queries that a warp asks of a row at once, warps, shared memory."""

    together: int
    warps: int
    shared_bytes: int


def _block(k: int, num_queries: int, width: int, *, most_bytes: int) -> _Block:
    """Return the block that a card's shared memory has room for; of no warps: there is none."""
    keep, room = list_size(k)
    sizes = (_TOGETHER, 1) if keep == LANES and num_queries > 1 else (1,)
    found = _Block(1, 0, 0)
    for together in sizes:
        list_bytes, query_bytes = room * ENTRY_BYTES, _stride(width)
        warps = min(_WARPS, (most_bytes // together - query_bytes) // list_bytes)
        found = _Block(together, max(0, warps), together * (query_bytes + warps * list_bytes))
        if warps >= _WARPS // 2:
            break
    return found


def _stride(width: int) -> int:
    return -(-width // 16) * 16


def _on_device(
    queries: Array,
    rows: Array,
    k: int,
    block: _Block,
    metric: Metric,
    bits: BitSet | None,
    tie_rank: Array | None,
    bound: Array | None,
) -> Neighbors:
    xp = array_namespace(queries, rows)
    (m, width), n = queries.shape, len(rows)
    keep, room = list_size(k)
    groups = -(-m // block.together)
    parts = max(1, min(_PARTS // groups, n // _LEAST_ROWS))
    words = -(-n // WORD)
    size = -(-words // parts) * WORD
    parts = -(-n // size)
    found = Neighbors(xp.empty((m, parts * k), xp.int64), xp.empty((m, parts * k), xp.float32))
    ranks = None if tie_rank is None else xp.ascontiguousarray(tie_rank, xp.int64)
    null = np.uintp(0)
    kernel_of("bits_topk.cu", f"bits_topk_{block.together}").launch(
        (groups, -(-parts // block.warps)), (block.warps * LANES,),
        xp.ascontiguousarray(queries), xp.ascontiguousarray(rows),
        null if bits is None else bits.words, null if ranks is None else ranks,
        null if bound is None else xp.ascontiguousarray(bound, xp.float32),
        whole(m), whole(n), whole(width), whole(_stride(width)), whole(size), whole(parts),
        np.int32(METRIC_CODES[metric]), np.int32(k), np.int32(keep), np.int32(room),
        found.rows, found.distances,
        shared_bytes=block.shared_bytes,
    )  # fmt: skip
    if parts == 1:
        return found
    if ranks is None:  # the parts' answers lie in row order
        return best_of(found.distances, k, rows=found.rows)
    return merge_k([found], k, ranks=[ranks[xp.maximum(found.rows, 0)]])
