"""Candidates of a batch of queries by the integer scan: preparation, and one sweep per block."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.candidates import Candidates
from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_batch import Batch, make_scratch
from gpuvec.kernels.int8_pack import MAX_SHIFT, Int8Pack, rotate
from gpuvec.kernels.int8_sweep import sweep
from gpuvec.kernels.int8_tile import tile_address
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.kernels.quantize import LEVELS, encode_queries, peaks
from gpuvec.kernels.scan_bounds import L2_SLACK, prepare_queries
from gpuvec.types import Metric, RowMask

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]
_LEAST = 64  # queries that are worth preparing on a thread of their own
_UNIT = 1 + 2.0**-20  # more than the norm of a vector scaled to length 1 in float32


class Int8Scan:
    """One call's queries over one pack.

    Args:
        pack: the rows.
        queries: (m, dim) float32, as asked.
        keep: (n,) bool or None.
        k: rows that the search must be able to find, at most those of `keep`.
        threads: that prepare the queries; 0: all cores.
    """

    def __init__(
        self, pack: Int8Pack, queries: F32, keep: RowMask | None, k: int, threads: int = 1
    ) -> None:
        space, count = pack.space, len(queries)
        self._pack = pack
        self._k = k
        self.largest = max(float(shard.norms.max()) for shard in pack.shards)
        self.norms, self.refused = np.empty(count), np.empty(count, np.bool_)
        self._rotated = np.empty((count, space.rotation.shape[1]), np.float32)
        self._bases = np.empty((len(space.centers), count), np.float32)

        def prepare(part: tuple[int, int]) -> None:
            at = slice(*part)
            vectors, norms, refused = prepare_queries(queries[at], space.metric, space.origin)
            self.norms[at], self.refused[at] = norms, refused
            self._rotated[at] = rotated = rotate(vectors, space.rotation)
            self._bases[:, at] = space.centers @ rotated.T

        run_parallel(prepare, split(count, thread_count(threads), least=_LEAST), threads)
        mask = np.zeros(0, np.bool_) if keep is None else keep
        self._masks = [tile_masks(shard.rows, shard.list_tiles, mask) for shard in pack.shards]

    def find(self, start: int, stop: int, found: Candidates) -> int:
        """Fill `found` for queries `start` to `stop`; return the 8-bit products made."""
        batch = self._batch(start, stop)
        products, lists = 0, max(len(shard.centers) for shard in self._pack.shards)
        scratch = make_scratch(stop - start, len(batch.edges), lists)
        for shard, (keep, list_rows) in zip(self._pack.shards, self._masks, strict=True):
            products += sweep(shard, batch, found, keep, list_rows, self._k, scratch)
        return products

    def _batch(self, start: int, stop: int) -> Batch:
        """Encode some queries."""
        space = self._pack.space
        rotated = self._rotated[start:stop]
        flat = space.metric in (Metric.IP, Metric.COSINE)
        tops = peaks(rotated, space.head).astype(np.float64)
        shift = _query_shift(tops)
        units = np.maximum(tops[:, 1], tops[:, 0] / 2**shift) / LEVELS
        if not flat:  # half squares become integers in steps that all queries share
            units[:] = units.max(initial=0)
        units = np.where(units > 0, units, 1).astype(np.float32).astype(np.float64)
        codes, by_edge, spreads, added = encode_queries(
            rotated, units, space.head, shift, space.shift, space.edges, space.variance
        )
        norms = self.norms[start:stop]
        return Batch(
            codes=codes,
            units=units,
            norms=np.where(norms > 0, _UNIT, 0) if flat else norms * _UNIT,
            tails=by_edge[0],
            heads=by_edge[1],
            lost=by_edge[2],
            added=added,
            spreads=spreads,
            bases=np.ascontiguousarray(self._bases[:, start:stop]),
            weight=0.0 if flat else 1.0,
            slack=0.0 if flat else L2_SLACK,
            drift=space.drift,
            shift=shift + space.shift,
            head=space.head,
            edges=space.edges,
            multiply=tile_address(),
        )


def _query_shift(tops: F64) -> int:
    """Return how much wider the steps of the queries' head should be, as a power of two."""
    head, rest = float(tops[:, 0].mean()), float(tops[:, 1].mean())
    if not rest > 0:
        return 0
    return int(np.clip(np.rint(np.log2(max(1.0, head / rest))), 0, MAX_SHIFT))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def tile_masks(rows: Any, list_tiles: Any, keep: Any) -> Any:
    """Return which rows of tiles may be found, one bit each, and how many those are per list.

    Args:
        rows: (t, TILE_ROWS) int64, -1 for padding.
        list_tiles: (l + 1,) int64.
        keep: (n,) bool; empty: every row.
    """
    masks = np.zeros(len(rows), np.int64)
    counts = np.zeros(len(list_tiles) - 1, np.int64)
    for at in range(len(counts)):
        for tile in range(list_tiles[at], list_tiles[at + 1]):
            mask = np.int64(0)
            for lane in range(rows.shape[1]):
                row = rows[tile, lane]
                if row >= 0 and (len(keep) == 0 or keep[row]):
                    mask |= np.int64(1) << lane
                    counts[at] += 1
            masks[tile] = mask
    return masks, counts
