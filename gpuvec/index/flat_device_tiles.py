"""Rows on the GPU in tiles of float32 distances: any metric, dtype and k, resident or streamed.

A tile's `k` best and some more are measured again in float64 while its rows are on the card, and
joined with the best of the tiles before.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np

from gpuvec.device.arrays import array_namespace, to_host
from gpuvec.device.rows import DeviceRows, HeldRows, device_rows
from gpuvec.index.base import Neighbors, RangeNeighbors
from gpuvec.index.flat_device_cuts import Cuts, Need, cuts, pieces
from gpuvec.kernels.bits_topk import bits_topk
from gpuvec.kernels.bitset import WORD, BitSet, unpack
from gpuvec.kernels.float_scan import float_slack
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.pairwise import is_binary, paired_distances, pairwise_distances
from gpuvec.kernels.range_pairs import Doubt, range_pairs
from gpuvec.kernels.select_k import select_k
from gpuvec.types import Array, Metric

BEST_BYTES = 32  # of temporary data for each place of an answer, while rows pass
JOIN_BYTES = 120  # for each place that a step looks at
PAIR_BYTES = 24  # for each pair of a step
_RANGE_BYTES = 120  # for each pair of a step, if all are inside


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
class Best:
    """The best so far, nearest first, with what orders equal distances."""

    rows: Array
    distances: Array
    ranks: Array

    @classmethod
    def empty(cls, num_queries: int, k: int, *, like: Array) -> "Best":
        """Return only padding."""
        none = Neighbors.empty(num_queries, k, like=like)
        return cls(none.rows, none.distances, array_namespace(like).zeros_like(none.rows))

    def part(self, at: slice) -> "Best":
        """Return what is known of some queries."""
        return Best(self.rows[at], self.distances[at], self.ranks[at])

    def put(self, at: slice, other: "Best") -> None:
        """Replace what is known of some queries."""
        self.rows[at], self.distances[at], self.ranks[at] = other.rows, other.distances, other.ranks

    def joined(self, other: "Best", k: int) -> "Best":
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
        return Best(
            xp.where(found.rows < 0, -1, picked),
            found.distances,
            xp.take_along_axis(ranks, at, axis=1),
        )


@dataclass(frozen=True, slots=True, eq=False)
class Passing:
    """Rows that are held, what orders equal distances, and how work on them is cut."""

    held: HeldRows
    ranks: HeldRows | None
    cuts: Cuts


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
        self.metric = metric
        self._bits = bits
        self._ranks = None if tie_rank is None else device_rows(tie_rank)
        self._xp = array_namespace(rows.like)

    def topk(self, queries: Array, k: int, bound: Array | None) -> tuple[Neighbors, int]:
        """Return the k nearest rows of each query within its bound, and the pairs measured."""
        m = len(queries)
        answer, measured = Neighbors.empty(m, k, like=queries), 0
        if not m:
            return answer, 0
        near = min(k, len(self._rows)) + max(16, k // 8)
        with self.held(m, BEST_BYTES * k, JOIN_BYTES * (k + near), PAIR_BYTES) as passing:
            for wave in pieces(m, passing.cuts.wave):
                limit = None if bound is None else bound[wave]
                found, pairs = self._wave(queries[wave], k, limit, passing)
                answer.rows[wave], answer.distances[wave] = found.rows, found.distances
                measured += pairs
        return answer, measured

    def _wave(
        self, queries: Array, k: int, bound: Array | None, passing: Passing
    ) -> tuple[Neighbors, int]:
        """Answer some queries in one pass over the rows."""
        m = len(queries)
        best = Best.empty(m, k, like=queries)
        nearest = self._nearest_bits if is_binary(self.metric) else self._near
        measured = 0
        for tile in self.tiles(passing):
            for step in pieces(m, passing.cuts.step):
                near = nearest(queries[step], tile, k, None if bound is None else bound[step])
                best.put(step, best.part(step).joined(near, k))
                measured += int(near.rows.size)
        return Neighbors(best.rows, best.distances), measured

    def range(self, queries: Array, low: Array | None, high: Array) -> RangeNeighbors:
        """Return every row with `low < distance <= high`, nearest first, in host memory.

        There may be as many as rows times queries: each tile's pairs leave the card with it.
        """
        found = [(np.zeros(0, np.int64),) * 3 + (np.zeros(0, np.float32),)]
        m = len(queries)
        with self.held(max(1, m), 0, 64, _RANGE_BYTES) as passing:
            for whole in self.tiles(passing):
                tile = whole if whole.bits is None else self._narrowed(whole, whole.bits)
                for step in pieces(m, passing.cuts.step):
                    lows = None if low is None else low[step]
                    pairs = self._inside(queries[step], tile, lows, high[step])
                    owner, row, rank, exact = (to_host(column, "results") for column in pairs)
                    found.append((owner + step.start, row, rank, exact))
        owner, row, rank, exact = (np.concatenate(column) for column in zip(*found, strict=True))
        order = np.lexsort((rank, exact, owner))
        offsets = np.zeros(m + 1, np.int64)
        offsets[1:] = np.cumsum(np.bincount(owner, minlength=m))
        return RangeNeighbors(offsets, row[order], exact[order])

    @contextmanager
    def held(
        self, queries: int, query_bytes: int, step_bytes: int, pair_bytes: int
    ) -> Iterator[Passing]:
        """Hold the rows and book memory for passes over them; see `Need`."""
        rows = self._rows
        with ExitStack() as stack:
            held = stack.enter_context(rows.held())
            ranks = None if self._ranks is None else stack.enter_context(self._ranks.held())
            row_bytes = held.row_scratch + rows.dtype.itemsize * rows.shape[1] + 40
            row_bytes += 0 if ranks is None else ranks.row_scratch + 16
            need = Need(
                query_bytes=query_bytes, step_bytes=step_bytes, pair_bytes=pair_bytes,
                row_bytes=row_bytes,
            )  # fmt: skip
            what = f"distances of {queries:,} queries"
            scratch = rows.scratch(need.least, need.most(queries, len(rows)), what=what)
            granted = stack.enter_context(scratch)
            yield Passing(held, ranks, cuts(need, queries, granted))

    def tiles(self, passing: Passing) -> Iterator[Tile]:
        """Yield all rows that may be found, tile by tile."""
        for start, vectors, rank in _side_by_side(passing.held, passing.ranks, passing.cuts.rows):
            stop, bits = start + len(vectors), None
            if self._bits is not None:
                words = self._bits.words[start // WORD : -(-stop // WORD)]
                bits = BitSet(words, stop - start)
            tile = Tile(self._xp.arange(start, stop), vectors, rank, bits)
            if bits is not None and not is_binary(self.metric):
                tile = self._narrowed(tile, bits)
            if len(tile.at):
                yield tile

    def _narrowed(self, tile: Tile, bits: BitSet) -> Tile:
        """Return only the rows that may be found."""
        own = self._xp.flatnonzero(unpack(bits))
        return Tile(tile.at[own], tile.vectors[own], None if tile.rank is None else tile.rank[own])

    def _nearest_bits(self, queries: Array, tile: Tile, k: int, bound: Array | None) -> Best:
        """Return the k nearest rows of a tile of packed bits, whose distances are final at once."""
        xp = self._xp
        found = bits_topk(
            queries, tile.vectors, min(k, len(tile.at)), self.metric,
            bits=tile.bits, tie_rank=tile.rank, bound=bound,
        )  # fmt: skip
        own = xp.maximum(found.rows, 0)
        rows = xp.where(found.rows < 0, -1, tile.at[own])
        return Best(rows, found.distances, rows if tile.rank is None else tile.rank[own])

    def _near(self, queries: Array, tile: Tile, k: int, bound: Array | None) -> Best:
        """Return at least the k nearest rows of a tile by float32 distances, measured exactly."""
        xp, count = self._xp, len(tile.at)
        wide = min(k + max(16, k // 8), count)
        distances = pairwise_distances(queries, tile.vectors, self.metric)
        own = select_k(distances, wide, tie_rank=tile.rank).rows
        owner = xp.repeat(xp.arange(len(queries)), wide)
        exact = paired_distances(queries, tile.vectors, owner, own.ravel(), self.metric)
        exact = exact.reshape(own.shape)
        rows = tile.at[own]
        ranks = rows if tile.rank is None else tile.rank[own]
        if bound is not None:
            rows = xp.where(exact <= bound[:, None], rows, -1)
        return Best(rows, xp.where(rows < 0, xp.inf, exact), ranks)

    def _inside(
        self, queries: Array, tile: Tile, low: Array | None, high: Array
    ) -> tuple[Array, Array, Array, Array]:
        """Return owners, rows, ranks and distances of a tile's pairs within a range."""
        distances = pairwise_distances(queries, tile.vectors, self.metric)
        owner, own = range_pairs(distances, low, high, self._doubt(queries, tile.vectors))
        exact = paired_distances(queries, tile.vectors, owner, own, self.metric)
        inside = exact <= high[owner]
        if low is not None:
            inside &= exact > low[owner]
        owner, own = owner[inside], own[inside]
        rows = tile.at[own]
        return owner, rows, rows if tile.rank is None else tile.rank[own], exact[inside]

    def _doubt(self, queries: Array, rows: Array) -> Doubt:
        """Return how far a float32 distance may be from the final one."""
        xp = self._xp
        if is_binary(self.metric):
            return Doubt()
        slack = 4 * float_slack(2 * rows.shape[1])
        if self.metric is Metric.COSINE:
            return Doubt(base=slack)
        if self.metric is Metric.IP:
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
