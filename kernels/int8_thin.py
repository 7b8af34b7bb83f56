"""A pack of those rows only that may be found: a batch reads it sooner than all rows and a mask."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_pack import Int8Pack, Shard
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.parallel import run_parallel, split
from gpuvec.types import RowMask

_COPY = 250  # queries in whose scan of a row its codes could be copied, about


def pays(rows: int, count: int, queries: int) -> bool:
    """Return whether a scan of some queries is faster with the copying of rows.

    Args:
        rows: of the pack.
        count: that may be found.
        queries: asked at once.
    """
    return 0 < count < rows and queries * (rows - count) > _COPY * count


def thin_pack(pack: Int8Pack, keep: RowMask, *, threads: int) -> Int8Pack:
    """Return a pack of the rows that a mask keeps; positions are those of the whole pack.

    What bounds a list still does; tiles are made of the rows that were neighbours before.

    Args:
        pack: of all rows.
        keep: (rows,) bool; at least one is set.
        threads: 0: all cores.

    Cost: one look at the mask a row, one copy of the codes of those that are kept.
    """
    shards = (_thin(shard, keep, threads) for shard in pack.shards)
    return Int8Pack(space=pack.space, shards=tuple(s for s in shards if len(s.centers)))


def _thin(shard: Shard, keep: RowMask, threads: int) -> Shard:
    counts = kept_rows(shard.rows, shard.list_tiles, keep)
    lists = np.flatnonzero(counts)
    list_tiles = np.concatenate([[0], np.cumsum(-(-counts[lists] // TILE_ROWS))])
    total, steps = int(list_tiles[-1]), shard.codes.shape[1]
    words = aligned_zeros((total, steps, TILE_ROWS), np.uint32)
    thin = Shard(
        codes=words.view(np.uint8).reshape(total, steps, TILE_ROWS, WORD),
        rows=np.full((total, TILE_ROWS), -1, np.int64),
        terms=np.zeros((total if len(shard.terms) else 0, TILE_ROWS), np.float32),
        low=np.zeros(total),
        tails=np.zeros((total, shard.tails.shape[1]), np.float32),
        list_tiles=list_tiles,
        centers=shard.centers[lists],
        units=shard.units[lists],
        reach=shard.reach[lists],
        lost=shard.lost[lists],
        said=shard.said[lists],
        norms=shard.norms[lists],
        list_low=shard.list_low[lists],
        list_mean=shard.list_mean[lists],
        means=shard.means[lists],
    )
    source = shard.codes.view(np.uint32)[..., 0]

    def copy(part: tuple[int, int]) -> None:
        copy_lists(shard, source, keep, lists, part[0], part[1], thin, words)

    run_parallel(copy, split(len(lists), 64, least=4), threads)
    return thin


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def kept_rows(rows: Any, list_tiles: Any, keep: Any) -> NDArray[np.int64]:
    """Return how many rows of each list a mask keeps."""
    counts = np.zeros(len(list_tiles) - 1, np.int64)
    for at in range(len(counts)):
        for tile in range(list_tiles[at], list_tiles[at + 1]):
            for lane in range(rows.shape[1]):
                row = rows[tile, lane]
                counts[at] += row >= 0 and keep[row]
    return counts


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def copy_lists(
    shard: Any, source: Any, keep: Any, lists: Any, start: int, stop: int, thin: Any, words: Any
) -> None:
    """Copy those rows of some lists that a mask keeps.

    Args:
        shard: of all rows.
        source: (t, steps, TILE_ROWS) uint32, its codes.
        keep: (n,) bool.
        lists: (l,) int64, the lists of `shard` that `thin` has.
        start: the first of them to copy.
        stop: the one after the last.
        thin: written: rows, terms, low, tails.
        words: written: its codes, as `source`.
    """
    width, steps = shard.rows.shape[1], source.shape[1]
    places = np.empty(width, np.int64)
    scaled = len(shard.terms) > 0
    for number in range(start, stop):
        at, target, lane = lists[number], thin.list_tiles[number], 0
        if scaled:
            _lowest(shard, keep, at, target, thin.low)
        for tile in range(shard.list_tiles[at], shard.list_tiles[at + 1]):
            count, done = _kept_places(shard.rows[tile], keep, places), 0
            while done < count:
                if lane == width:
                    target, lane = target + 1, 0
                some = min(count - done, width - lane)
                for step in range(steps):
                    for i in range(some):
                        words[target, step, lane + i] = source[tile, step, places[done + i]]
                for edge in range(shard.tails.shape[1]):
                    tail = max(thin.tails[target, edge], shard.tails[tile, edge])
                    thin.tails[target, edge] = tail
                for i in range(some):
                    place = places[done + i]
                    thin.rows[target, lane + i] = shard.rows[tile, place]
                    if scaled:
                        half = np.float64(shard.terms[tile, place]) + shard.low[tile]
                        thin.terms[target, lane + i] = np.float32(half - thin.low[target])
                done += some
                lane += some


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _kept_places(rows: Any, keep: Any, places: Any) -> Any:
    """Write the places of a tile's rows that a mask keeps; return how many there are."""
    count = 0
    for place in range(len(rows)):
        row = rows[place]
        if row >= 0 and keep[row]:
            places[count] = place
            count += 1
    return count


@njit(nogil=True)  # type: ignore[untyped-decorator]
def _lowest(shard: Any, keep: Any, at: int, target: int, low: Any) -> None:
    """Write the least half square of the tiles from which each new tile of a list is made."""
    width, lane = shard.rows.shape[1], 0
    low[target] = np.inf
    for tile in range(shard.list_tiles[at], shard.list_tiles[at + 1]):
        for place in range(width):
            row = shard.rows[tile, place]
            if row >= 0 and keep[row]:
                if lane == width:
                    target, lane = target + 1, 0
                    low[target] = np.inf
                low[target] = min(low[target], shard.low[tile])
                lane += 1
