"""Rows on the GPU in tiles of float32 distances: any metric, dtype and k, resident or streamed.

A tile's `k` best and some more are measured again in float64 while its rows are on the card, and
joined with the best of the tiles before.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

from gpuvec.device.arrays import array_namespace
from gpuvec.device.rows import DeviceRows, HeldRows, device_rows
from gpuvec.index.base import Neighbors, RangeNeighbors
from gpuvec.kernels.bits_topk import bits_topk
from gpuvec.kernels.bitset import WORD, BitSet, unpack
from gpuvec.kernels.float_scan import float_slack
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.pairwise import is_binary, paired_distances, pairwise_distances
from gpuvec.kernels.range_pairs import Doubt, range_pairs
from gpuvec.kernels.select_k import select_k
from gpuvec.types import Array, Metric

_ROW_TILE = 1 << 18
_QUERY_TILE = 1024
_PAIR_BYTES = 24  # of temporary data for each distance of a tile
_BEST_BYTES = 160  # for each place of an answer


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Rows that lie on the card.

    Attributes:
        at: (t,) int64 positions in the segment, rising.
        vectors: (t, width).
        rank: (t,) int64 order at equal distance; None: the order of positions.
        bits: those that may be found; None: all.
    """

    at: Array
    vectors: Array
    rank: Array | None
    bits: BitSet | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Best:
    """The best so far, nearest first, with what orders equal distances."""

    rows: Array
    distances: Array
    ranks: Array

    def joined(self, other: "_Best", k: int) -> "_Best":
        """Return the k best of both."""
        xp = array_namespace(self.rows)
        rows, distances, ranks = (
            xp.concatenate([getattr(part, name) for part in (self, other)], axis=1)
            for name in ("rows", "distances", "ranks")
        )
        slots = xp.where(rows < 0, -1, xp.arange(rows.shape[1])[None, :])
        found = merge_k([Neighbors(slots, distances)], k, ranks=[ranks])
        at = xp.maximum(found.rows, 0)
        picked = xp.take_along_axis(rows, at, axis=1)
        return _Best(
            xp.where(found.rows < 0, -1, picked),
            found.distances,
            xp.take_along_axis(ranks, at, axis=1),
        )


class FloatTiles:
    """One call's pass over rows in tiles.

    Args:
        rows: (n, width).
        metric: that measures them.
        bits: rows that may be found; None: all.
        tie_rank: (n,) int64 on the device, or such rows; None: row order.
    """

    def __init__(
        self,
        rows: DeviceRows,
        metric: Metric,
        bits: BitSet | None,
        tie_rank: DeviceRows | Array | None,
    ) -> None:
        self._rows = rows
        self._metric = metric
        self._bits = bits
        self._ranks = None if tie_rank is None else device_rows(tie_rank)
        self._xp = array_namespace(rows.like)

    def topk(self, queries: Array, k: int, bound: Array | None) -> tuple[Neighbors, int]:
        """Return the k nearest rows of each query within its bound, and the pairs measured."""
        xp, m = self._xp, len(queries)
        empty = Neighbors.empty(m, k, like=queries)
        best = _Best(empty.rows, empty.distances, xp.zeros((m, k), xp.int64))
        measured = 0
        if not m:
            return empty, 0
        nearest = self._nearest_bits if is_binary(self._metric) else self._near
        for tile in self._tiles(m, kept_bytes=_BEST_BYTES * (2 * k + 16)):
            parts = []
            for start in range(0, m, _QUERY_TILE):
                at = slice(start, start + _QUERY_TILE)
                near = nearest(queries[at], tile, k, None if bound is None else bound[at])
                before = _Best(best.rows[at], best.distances[at], best.ranks[at])
                parts.append(before.joined(near, k))
                measured += int(near.rows.size)
            best = _Best(*(xp.concatenate([getattr(part, name) for part in parts])
                           for name in ("rows", "distances", "ranks")))  # fmt: skip
        return Neighbors(best.rows, best.distances), measured

    def range(self, queries: Array, low: Array | None, high: Array) -> RangeNeighbors:
        """Return every row with `low < distance <= high`, nearest first."""
        xp: Any = self._xp
        found: list[tuple[Array, ...]] = [
            (xp.zeros(0, xp.int64), xp.zeros(0, xp.int64), xp.zeros(0, xp.int64),
             xp.zeros(0, xp.float32))
        ]  # fmt: skip
        for whole in self._tiles(len(queries), kept_bytes=0):
            tile = whole if whole.bits is None else self._narrowed(whole)
            for start in range(0, len(queries), _QUERY_TILE):
                at = slice(start, start + _QUERY_TILE)
                lows = None if low is None else low[at]
                owner, *rest = self._inside(queries[at], tile, lows, high[at])
                found.append((owner + start, *rest))
        owner, row, rank, exact = (xp.concatenate(column) for column in zip(*found, strict=True))
        order = xp.argsort(rank, kind="stable")
        for key in (exact, owner):
            order = order[xp.argsort(key[order], kind="stable")]
        offsets = xp.zeros(len(queries) + 1, xp.int64)
        if len(owner):
            offsets[1:] = xp.cumsum(xp.bincount(owner, minlength=len(queries)))
        return RangeNeighbors(offsets, row[order], exact[order])

    def _tiles(self, num_queries: int, *, kept_bytes: int) -> Iterator[Tile]:
        """Yield all rows that may be found, tile by tile, within booked memory.

        `kept_bytes`: for each query, whatever the tiles' size.
        """
        rows, asked = self._rows, max(1, min(num_queries, _QUERY_TILE))
        with ExitStack() as stack:
            held = stack.enter_context(rows.held())
            ranks = None if self._ranks is None else stack.enter_context(self._ranks.held())
            item = held.row_scratch + rows.dtype.itemsize * rows.shape[1] + 40 + _PAIR_BYTES * asked
            item += 0 if ranks is None else ranks.row_scratch + 8
            fixed = kept_bytes * num_queries
            most = fixed + item * max(WORD, min(len(rows), _ROW_TILE))
            what = f"distances of {num_queries} queries"
            granted = stack.enter_context(rows.scratch(fixed + WORD * item, most, what=what))
            size = max(1, (granted - fixed) // item // WORD) * WORD
            for start, vectors, rank in _side_by_side(held, ranks, size):
                stop, bits = start + len(vectors), None
                if self._bits is not None:
                    words = self._bits.words[start // WORD : -(-stop // WORD)]
                    bits = BitSet(words, stop - start)
                tile = Tile(self._xp.arange(start, stop), vectors, rank, bits)
                if bits is not None and not is_binary(self._metric):
                    tile = self._narrowed(tile)
                if len(tile.at):
                    yield tile

    def _narrowed(self, tile: Tile) -> Tile:
        """Return only the rows that may be found."""
        own = self._xp.flatnonzero(unpack(tile.bits))
        return Tile(tile.at[own], tile.vectors[own], None if tile.rank is None else tile.rank[own])

    def _nearest_bits(self, queries: Array, tile: Tile, k: int, bound: Array | None) -> _Best:
        """Return the k nearest rows of a tile of packed bits, whose distances are final at once."""
        xp = self._xp
        found = bits_topk(
            queries, tile.vectors, min(k, len(tile.at)), self._metric,
            bits=tile.bits, tie_rank=tile.rank, bound=bound,
        )  # fmt: skip
        own = xp.maximum(found.rows, 0)
        rows = xp.where(found.rows < 0, -1, tile.at[own])
        return _Best(rows, found.distances, rows if tile.rank is None else tile.rank[own])

    def _near(self, queries: Array, tile: Tile, k: int, bound: Array | None) -> _Best:
        """Return at least the k nearest rows of a tile by float32 distances, measured exactly."""
        xp, count = self._xp, len(tile.at)
        wide = min(k + max(16, k // 8), count)
        distances = pairwise_distances(queries, tile.vectors, self._metric)
        own = select_k(distances, wide, tie_rank=tile.rank).rows
        owner = xp.repeat(xp.arange(len(queries)), wide)
        exact = paired_distances(queries, tile.vectors, owner, own.ravel(), self._metric)
        exact = exact.reshape(own.shape)
        rows = tile.at[own]
        ranks = rows if tile.rank is None else tile.rank[own]
        if bound is not None:
            rows = xp.where(exact <= bound[:, None], rows, -1)
        return _Best(rows, xp.where(rows < 0, xp.inf, exact), ranks)

    def _inside(
        self, queries: Array, tile: Tile, low: Array | None, high: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return owners, rows, ranks and distances of a tile's pairs within a range."""
        distances = pairwise_distances(queries, tile.vectors, self._metric)
        owner, own = range_pairs(distances, low, high, self._doubt(queries, tile.vectors))
        exact = paired_distances(queries, tile.vectors, owner, own, self._metric)
        inside = exact <= high[owner]
        if low is not None:
            inside &= exact > low[owner]
        owner, own = owner[inside], own[inside]
        rows = tile.at[own]
        return owner, rows, rows if tile.rank is None else tile.rank[own], exact[inside]

    def _doubt(self, queries: Array, rows: Array) -> Doubt:
        """Return how far a float32 distance may be from the final one."""
        xp = self._xp
        if is_binary(self._metric):
            return Doubt()
        slack = 4 * float_slack(2 * rows.shape[1])
        if self._metric is Metric.COSINE:
            return Doubt(base=slack)
        if self._metric is Metric.IP:
            zero = xp.zeros((1, rows.shape[1]), xp.float32)
            sizes = [
                xp.sqrt(pairwise_distances(zero, side, Metric.SQEUCLIDEAN)[0])
                for side in (queries, rows)
            ]
            return Doubt(queries=xp.float32(slack) * sizes[0], rows=sizes[1])
        return Doubt(share=slack)


def _side_by_side(
    rows: HeldRows, ranks: HeldRows | None, size: int
) -> Iterator[tuple[int, Array, Array | None]]:
    """Yield start, vectors and ranks of tiles of the same rows."""
    if ranks is None:
        for tile in rows.tiles(size):
            yield tile.start, tile.values, None
        return
    for tile, rank in zip(rows.tiles(size), ranks.tiles(size), strict=True):
        yield tile.start, tile.values, rank.values
