"""The compiled sweep of 8-bit tiles: which rows can be among the nearest of each query.

A row's score is `q.x` (less half its square for l2; see `kernels.scan_bounds`). With `c` the center
of its list and `e` its offset from there, for every edge `d` (a number of dimensions) the score is

    at most q.c + unit * (integer product over d) + |q beyond d| |e beyond d| + err
    err = |q up to d| lost(e up to d) + lost(q up to d) said(e up to d) + drift |q| |x|

by Cauchy and Schwarz: of the dimensions left out, of what the codes lose, and of rounding. Rows
that pass at a first edge are tested at a second one and with all dimensions, where the same sum
bounds the score from below too. The first edge is chosen per list and query so that few rows are
expected to pass; the choice affects the cost only.

No function here counts references (`_nrt=False`): that would take longer than the products. Only
the outermost is cached: LLVM does not inline functions that were loaded from Numba's cache.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.candidates import add_candidate
from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_tile import (
    GROUP,
    PART,
    TILE_ROWS,
    WORD,
    aligned_zeros,
    finish_part,
    tile_product,
)

PASS_SPREADS = 3.0  # rows that many spreads above the expected product may pass the first edge
NEAR_SPREADS = 1.5  # lists that many spreads nearer than the mean are scanned before the others
SECOND = 2  # edges between the first and the second test
_FAR = 2.0**30  # no integer product is that large
_PART_BITS = 2**PART - 1


class Batch(NamedTuple):
    """Queries as the sweep reads them. m queries, e edges, c centers.

    Attributes:
        codes: (m + 1, dims) int8, the last row zero.
        units: (m,) float64, the codes' step beyond the head.
        norms: (m,) float64.
        tails: (e, m) float32, norms from each edge on.
        heads: (e, m) float32, norms before each edge.
        lost: (e, m) float32, norms of what the codes lose before each edge.
        added: (e, m) float64, what the rows' offset adds to the product before each edge.
        spreads: (e, m) float32, expected spread of the product before each edge.
        bases: (c, m) float32, products with the centers.
        weight: of a row's half square: 1 for l2, otherwise 0. Where 1, all units are equal.
        slack: share of (|q|² + |x|²) by which bounds are widened; zero but for l2.
        drift: see `Space`.
        shift: places by which the head's products are worth more.
        head: dimensions of the head.
        edges: (e,) int64.
    """

    codes: NDArray[np.int8]
    units: NDArray[np.float64]
    norms: NDArray[np.float64]
    tails: NDArray[np.float32]
    heads: NDArray[np.float32]
    lost: NDArray[np.float32]
    added: NDArray[np.float64]
    spreads: NDArray[np.float32]
    bases: NDArray[np.float32]
    weight: float
    slack: float
    drift: float
    shift: int
    head: int
    edges: NDArray[np.int64]


class Scratch(NamedTuple):
    """Working memory of one sweep of m queries. Places are positions in `order`."""

    order: NDArray[np.int64]  # (m + GROUP,) the active queries of a list, by falling edge
    edge: NDArray[np.int32]  # (m,) index of each query's first edge in the list
    gaps: NDArray[np.float32]  # (m,) what a row's offset must add to reach the floor
    starts: NDArray[np.float64]  # (3, m + GROUP) by place: lines of the three tests, see `_line`
    slopes: NDArray[np.float64]  # (3, m + GROUP)
    thresholds: NDArray[np.int32]  # (GROUP,)
    bias: NDArray[np.int32]  # (TILE_ROWS,)
    hit_place: NDArray[np.int64]  # (m + GROUP + 1,)
    hit_rows: NDArray[np.int64]  # (m + GROUP + 1,)
    hit_sums: NDArray[np.int32]  # (m + GROUP + 1, TILE_ROWS)
    parts: NDArray[np.int64]  # (TILE_ROWS / PART * (m + GROUP) + 1,)
    seeds: NDArray[np.int64]  # (m,) the list that each query starts with, or -1
    best: NDArray[np.float32]  # (m,) its score
    near: NDArray[np.float32]  # (m,) score from which lists are scanned first
    done: NDArray[np.bool_]  # (l, m) lists that were scanned, or ruled out
    counts: NDArray[np.int64]  # (e + 1,)


def make_scratch(size: int, edges: int, lists: int) -> Scratch:
    """Return working memory for sweeps of `size` queries over at most so many lists."""
    padded = size + GROUP
    return Scratch(
        order=np.empty(padded, np.int64),
        edge=np.empty(size, np.int32),
        gaps=np.empty(size, np.float32),
        starts=np.empty((3, padded), np.float64),
        slopes=np.empty((3, padded), np.float64),
        thresholds=np.empty(GROUP, np.int32),
        bias=aligned_zeros((TILE_ROWS,), np.int32),
        hit_place=np.empty(padded + 1, np.int64),
        hit_rows=np.empty(padded + 1, np.int64),
        hit_sums=aligned_zeros((padded + 1, TILE_ROWS), np.int32),
        parts=np.empty(TILE_ROWS // PART * padded + 1, np.int64),
        seeds=np.empty(size, np.int64),
        best=np.empty(size, np.float32),
        near=np.empty(size, np.float32),
        done=np.empty((lists, size), np.bool_),
        counts=np.empty(edges + 1, np.int64),
    )


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _rounding(shard: Any, batch: Any, at: int, j: int) -> Any:
    """Bound what rotation, centers and final distances round, for query j and list `at`."""
    norm, largest = batch.norms[j], shard.norms[at]
    return batch.drift * norm * largest + batch.slack * (norm * norm + largest * largest)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _error(shard: Any, batch: Any, at: int, j: int, e: int) -> Any:
    """Bound the error of query j's products in list `at` before edge e."""
    return (
        batch.heads[e, j] * np.float64(shard.lost[at, e])
        + batch.lost[e, j] * np.float64(shard.said[at, e])
        + _rounding(shard, batch, at, j)
    )


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _line(shard: Any, batch: Any, found: Any, at: int, j: int, e: int) -> Any:
    """Return a, b: a row's integer sum before edge e must reach `a - b * tail` to matter.

    `tail` is the norm of its offset from the edge on; what half squares take off is not in `a`.
    """
    inverse = 1.0 / (shard.units[at] * batch.units[j])
    bound = found.floor[j] - batch.bases[shard.centers[at], j] - _error(shard, batch, at, j, e)
    return bound * inverse + batch.added[e, j], batch.tails[e, j] * inverse


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _rank_lists(shard: Any, batch: Any, list_rows: Any, least: int, w: Any) -> None:
    """Choose each query's nearest list, of those with `least` rows, and what else is near."""
    w.best[:] = -np.inf
    w.seeds[:] = -1
    w.near[:] = 0
    w.gaps[:] = 0
    w.done[:] = False
    share = np.float32(1.0 / len(shard.centers))
    for at in range(len(shard.centers)):
        center, half = shard.centers[at], np.float32(batch.weight * shard.list_mean[at])
        allowed = list_rows[at] >= least
        for j in range(len(w.best)):
            score = batch.bases[center, j] - half
            w.near[j] += share * score
            w.gaps[j] += share * score * score
            if allowed and score > w.best[j]:
                w.best[j] = score
                w.seeds[j] = at
    for j in range(len(w.best)):
        spread = np.sqrt(max(np.float32(0), w.gaps[j] - w.near[j] * w.near[j]))
        w.near[j] += np.float32(NEAR_SPREADS) * spread
        if w.seeds[j] >= 0:
            w.done[w.seeds[j], j] = True


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _choose_edges(shard: Any, batch: Any, found: Any, at: int, near_only: bool, w: Any) -> None:
    """Choose each query's first edge in list `at`; -1: not now, or no row of it can matter."""
    size, last = len(w.edge), len(batch.edges) - 1
    center, half = shard.centers[at], np.float32(batch.weight * shard.list_mean[at])
    for j in range(size):
        w.gaps[j] = np.float32(found.floor[j]) - batch.bases[center, j] + half
        w.edge[j] = 0
    for e in range(last):
        mean, lost, said = shard.means[at, e], shard.lost[at, e], shard.said[at, e]
        for j in range(size):
            reached = batch.tails[e, j] * mean + np.float32(PASS_SPREADS) * batch.spreads[e, j]
            reached += batch.heads[e, j] * lost + batch.lost[e, j] * said
            w.edge[j] += np.int32(w.gaps[j] < reached)
    reach, low = shard.reach[at], batch.weight * shard.list_low[at]
    for j in range(size):
        best = batch.bases[center, j] - low + batch.norms[j] * reach
        best += _rounding(shard, batch, at, j)
        later = near_only and batch.bases[center, j] - half < w.near[j]
        if later or w.done[at, j] or found.floor[j] > best:
            w.edge[j] = -1
        w.done[at, j] |= not later


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _order_by_edge(w: Any) -> Any:
    """List the queries by falling edge, without those at -1; return how many."""
    edges = len(w.counts) - 1
    w.counts[:] = 0
    for j in range(len(w.edge)):
        if w.edge[j] >= 0:
            w.counts[edges - w.edge[j]] += 1
    for e in range(edges):
        w.counts[e + 1] += w.counts[e]
    total = w.counts[edges]
    for j in range(len(w.edge)):
        if w.edge[j] >= 0:
            place = edges - 1 - w.edge[j]
            w.order[w.counts[place]] = j
            w.counts[place] += 1
    for place in range(total, total + GROUP):
        w.order[place] = len(w.edge)
    return total


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _draw_lines(shard: Any, batch: Any, found: Any, at: int, count: int, w: Any) -> None:
    """Write the lines of the first `count` places; what fills the last group never passes."""
    last = len(batch.edges) - 1
    for i in range(count):
        j, e = w.order[i], np.int64(w.edge[w.order[i // GROUP * GROUP]])
        w.starts[0, i], w.slopes[0, i] = _line(shard, batch, found, at, j, e)
        second = min(e + SECOND, last)
        w.starts[1, i], w.slopes[1, i] = _line(shard, batch, found, at, j, second)
        w.starts[2, i], w.slopes[2, i] = _line(shard, batch, found, at, j, last)
    for i in range(count, count + GROUP):
        for line in range(3):
            w.starts[line, i] = np.inf
            w.slopes[line, i] = 0


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _whole(needed: float) -> Any:
    """Return an integer that every integer of at least `needed` is greater than."""
    return np.int32(min(max(needed, -_FAR), _FAR)) - np.int32(3)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _set_bias(shard: Any, tile: int, inverse: float, bias: Any) -> None:
    """Write what a row's half square takes off its integer sums, rounded towards passing."""
    for lane in range(TILE_ROWS):
        share = shard.terms[tile, lane] * (1.0 - 2.0**-22) * inverse
        bias[lane] = -np.int32(min(share, _FAR / 2))


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_rows(
    shard: Any, batch: Any, found: Any, at: int, tile: int, hit: int, v: int, bits: int, w: Any
) -> None:
    """Add the rows of a part whose product is complete."""
    last, j = len(batch.edges) - 1, w.order[w.hit_place[hit]]
    error = _error(shard, batch, at, j, last)
    unit = shard.units[at] * batch.units[j]
    base = np.float64(batch.bases[shard.centers[at], j])
    for i in range(PART):
        if (bits >> i) & 1:
            lane = v * PART + i
            product = w.hit_sums[hit, lane] - w.bias[lane] - batch.added[last, j]
            score = base + unit * product
            if shard.terms.shape[0] > 0:
                score -= shard.low[tile] + shard.terms[tile, lane]
            add_candidate(found, j, shard.rows[tile, lane], score - error, score + error)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _finish_hits(
    shard: Any, batch: Any, found: Any, at: int, tile: int, hits: int, raised: float, w: Any
) -> int:
    """Test a tile's hits at the second edge and with all dimensions. Return the steps taken."""
    last, steps, taken, count = len(batch.edges) - 1, shard.codes.shape[1], 0, 0
    for hit in range(hits):
        for v in range(TILE_ROWS // PART):
            w.parts[count] = hit * (TILE_ROWS // PART) + v
            count += ((w.hit_rows[hit] >> (PART * v)) & _PART_BITS) != 0
    first_row = shard.codes.ctypes.data + tile * steps * TILE_ROWS * WORD
    for p in range(count):
        hit = w.parts[p] // (TILE_ROWS // PART)
        v = w.parts[p] % (TILE_ROWS // PART)
        i = w.hit_place[hit]
        e = w.edge[w.order[i // GROUP * GROUP]]
        second = min(e + SECOND, last)
        start, stop = batch.edges[e] // WORD, batch.edges[second] // WORD
        rows = first_row + v * PART * WORD
        codes = batch.codes.ctypes.data + w.order[i] * batch.codes.shape[1]
        sums = w.hit_sums.ctypes.data + 4 * (hit * TILE_ROWS + v * PART)
        limit = _whole(w.starts[1, i] + raised - w.slopes[1, i] * shard.tails[tile, second])
        bits = (w.hit_rows[hit] >> (PART * v)) & _PART_BITS
        bits &= finish_part(rows, codes, start, stop, sums, limit)
        taken += stop - start
        if bits != 0:
            limit = _whole(w.starts[2, i] + raised)
            bits &= finish_part(rows, codes, stop, steps, sums, limit)
            taken += steps - stop
            if bits != 0:
                _add_rows(shard, batch, found, at, tile, hit, v, bits, w)
    return taken


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _sweep_list(
    shard: Any, batch: Any, found: Any, keep: Any, at: int, count: int, fresh: bool, w: Any
) -> int:
    """Scan list `at` for the first `count` places. Return 8-bit products made.

    `fresh`: floors are still low, so their rise is followed from tile to tile.
    """
    steps, products = shard.codes.shape[1], 0
    inverse = 1.0 / (shard.units[at] * batch.units[0])
    if not fresh:
        _draw_lines(shard, batch, found, at, count, w)
    for tile in range(shard.list_tiles[at], shard.list_tiles[at + 1]):
        if keep[tile] == 0:
            continue
        if fresh:
            _draw_lines(shard, batch, found, at, count, w)
        if shard.terms.shape[0] > 0:
            _set_bias(shard, tile, inverse, w.bias)
        raised, hits = batch.weight * shard.low[tile] * inverse, 0
        for first in range(0, count, GROUP):
            e = w.edge[w.order[first]]
            stop, tail = batch.edges[e] // WORD, shard.tails[tile, e]
            for g in range(first, first + GROUP):
                needed = w.starts[0, g] + raised - w.slopes[0, g] * tail
                w.thresholds[g - first] = _whole(needed)
            hits += tile_product(
                shard.codes.ctypes.data + tile * steps * TILE_ROWS * WORD,
                w.bias.ctypes.data,
                batch.codes.ctypes.data,
                batch.codes.shape[1],
                w.order.ctypes.data + 8 * first,
                batch.head // WORD,
                stop,
                batch.shift,
                w.thresholds.ctypes.data,
                keep[tile],
                first,
                w.hit_place.ctypes.data + 8 * hits,
                w.hit_rows.ctypes.data + 8 * hits,
                w.hit_sums.ctypes.data + 4 * TILE_ROWS * hits,
            )
            products += stop * GROUP * TILE_ROWS
        products += _finish_hits(shard, batch, found, at, tile, hits, raised, w) * PART
    return products * WORD


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def sweep(shard: Any, batch: Any, found: Any, keep: Any, list_rows: Any, least: int, w: Any) -> int:
    """Add to `found` every row of a shard that may be among the nearest.

    Args:
        shard: see `Shard`.
        batch: see `Batch`.
        found: see `Candidates`.
        keep: (tiles,) int64, one bit for each row that may be found; padding has none.
        list_rows: (lists,) int64, how many those are.
        least: a query starts with the nearest list of so many rows.
        w: see `make_scratch`.

    Returns:
        how many 8-bit products were made.
    """
    last, products = len(batch.edges) - 1, 0
    _rank_lists(shard, batch, list_rows, least, w)
    for turn in range(3):  # the lists that queries start with; near ones; the others
        for at in range(len(shard.centers)):
            count = 0
            if turn == 0:
                count = _start_with(at, last, w)
            elif list_rows[at] > 0:
                _choose_edges(shard, batch, found, at, turn == 1, w)
                count = _order_by_edge(w)
            if count > 0:
                products += _sweep_list(shard, batch, found, keep, at, count, turn == 0, w)
    return products


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _start_with(at: int, last: int, w: Any) -> int:
    """List the queries that start with a list, at the last edge; return how many."""
    count = 0
    for j in range(len(w.seeds)):
        if w.seeds[j] == at:
            w.order[count] = j
            w.edge[j] = last
            count += 1
    for place in range(count, count + GROUP):
        w.order[place] = len(w.seeds)
    return count
