"""The nearest rows of every group on the GPU: one pass over the rows, whatever the groups."""

from gpuvec.device.arrays import array_namespace
from gpuvec.index.base import Neighbors
from gpuvec.index.flat_device_cuts import pieces
from gpuvec.index.flat_device_tiles import (
    BEST_BYTES,
    JOIN_BYTES,
    PAIR_BYTES,
    Best,
    FloatTiles,
    Passing,
    Tile,
)
from gpuvec.kernels.groups_topk import groups_topk
from gpuvec.kernels.pairwise import paired_distances, pairwise_distances
from gpuvec.types import Array

_SPARE = 4  # rows of a group that are measured exactly beside those wanted


class GroupTiles(FloatTiles):
    """One call's pass over rows in tiles, for the nearest of every group; see `FloatTiles`."""

    def nearest(self, queries: Array, codes: Array, groups: int, size: int) -> Neighbors:
        """Return the nearest rows of every group, see `FlatIndex.search_groups`.

        Args:
            queries: (m, width) on the device.
            codes: (n,) int32 on the device, the group of each row; negative: of none.
            groups: how many there are, at least 1.
            size: rows of each.
        """
        m, places = len(queries), groups * size
        if not m:
            return Neighbors.empty(0, places, like=queries)
        seen = places + groups * (size + _SPARE)
        needs = (BEST_BYTES * places, JOIN_BYTES * seen, PAIR_BYTES)
        with self.held(m, *needs) as passing:
            answers = [
                self._wave_of_groups(queries[wave], codes, groups, size, passing)
                for wave in pieces(m, passing.cuts.wave)
            ]
        return Neighbors.concat(answers)

    def _wave_of_groups(
        self, queries: Array, codes: Array, groups: int, size: int, passing: Passing
    ) -> Neighbors:
        """Answer some queries in one pass over the rows."""
        m = len(queries)
        best = Best.empty(m * groups, size, like=queries)
        for tile in self.tiles(passing):
            for step in pieces(m, passing.cuts.step):
                near = self._near_of_groups(queries[step], codes, groups, size, tile)
                at = slice(step.start * groups, step.stop * groups)
                best.put(at, best.part(at).joined(near, size))
        shape = (m, groups * size)
        return Neighbors(best.rows.reshape(shape), best.distances.reshape(shape))

    def _near_of_groups(
        self, queries: Array, codes: Array, groups: int, size: int, tile: Tile
    ) -> Best:
        """Return at least the nearest rows of each group of a tile, measured exactly."""
        xp, wide = array_namespace(queries), size + _SPARE
        found = groups_topk(
            pairwise_distances(queries, tile.vectors, self.metric), codes[tile.at], groups, wide,
            bits=tile.bits, tie_rank=tile.rank,
        )  # fmt: skip
        own = xp.maximum(found.rows, 0)
        owner = xp.repeat(xp.arange(len(queries)), groups * wide)
        exact = paired_distances(queries, tile.vectors, owner, own.ravel(), self.metric)
        missing, shape = found.rows < 0, (len(queries) * groups, wide)
        rows = xp.where(missing, -1, tile.at[own])
        ranks = rows if tile.rank is None else tile.rank[own]
        distances = xp.where(missing, xp.float32(xp.inf), exact.reshape(found.rows.shape))
        return Best(rows.reshape(shape), distances.reshape(shape), ranks.reshape(shape))
