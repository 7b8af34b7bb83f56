"""The compiled sweep of 8-bit tiles: which rows can be among the nearest of each query.

A row's score is `q.x` (less half its square for l2, see `score_limits` in `kernels.scan_bounds`). With `c` the
center of its list, `e` its offset and `h` the first dimensions of a scan, it is at most

    q.c + unit * (integer product over h) + |q beyond h| * |e beyond h| + err
    err = |q| lost(e) + lost(q) said(e) + drift |q| |x|

by Cauchy and Schwarz: of the rest of the dimensions, of what the codes lose, and of rounding. Rows that
pass take the remaining dimensions and then give both bounds. How many dimensions come first is chosen
per list and query so that few rows are expected to pass; the choice affects the cost only.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from gpuvec.kernels.candidates import add_candidate
from gpuvec.kernels.int8_tile import GROUP, TILE_ROWS, WORD, finish_part, tile_product

PASS_SPREADS = 2.75  # a row that is so many spreads above the expected product may pass early
_FAR = 2.0**30  # no integer product is that large
_PART = 16


class Batch(NamedTuple):
    """Queries as the sweep reads them. m queries, e edges, c centers.

    Attributes:
        codes: (m + 1, dims) int8, the last row zero.
        units: (m,) float64, the codes' step beyond the head.
        norms: (m,) float64.
        lost: (m,) float32, norms of what the codes lose.
        added: (e, m) float64, what the rows' offset adds to the product before each edge.
        tails: (e, m) float32, norms from each edge on.
        spreads: (e, m) float32, expected spread of the product before each edge.
        bases: (c, m) float32, products with the centers.
        weights: (m,) float64, of a row's half square; zero but for l2.
        slack: float64, share of (|q|² + |x|²) by which bounds are widened; zero but for l2.
        drift: see `Space`.
        shift: places by which the head's products are worth more.
        head: dimensions of the head.
        edges: (e,) int64.
    """

    codes: NDArray[np.int8]
    units: NDArray[np.float64]
    norms: NDArray[np.float64]
    lost: NDArray[np.float32]
    added: NDArray[np.float64]
    tails: NDArray[np.float32]
    spreads: NDArray[np.float32]
    bases: NDArray[np.float32]
    weights: NDArray[np.float64]
    slack: float
    drift: float
    shift: int
    head: int
    edges: NDArray[np.int64]


class Scratch(NamedTuple):
    """Working memory of one sweep."""

    order: Any  # (m + GROUP,) int64, the active queries of a list, by falling edge
    edge: Any  # (m,) int64, where each query's first scan of the list ends
    errors: Any  # (m,) float64, bound of the error of a list's scores
    starts: Any  # (m + GROUP,) float64, see `_line`; in the order of `order`
    slopes: Any  # (m + GROUP,) float64, likewise
    thresholds: Any  # (GROUP,) int32
    bias: Any  # (TILE_ROWS,) int32
    hit_query: Any  # (GROUP + 1,) int64
    hit_rows: Any  # (GROUP + 1,) int64
    hit_sums: Any  # (GROUP + 1, TILE_ROWS) int32
    seeds: Any  # (m,) int64, the list that each query starts with, or -1
    best: Any  # (m,) float64
    places: Any  # (e + 1,) int64


def make_scratch(size: int, edges: int) -> Scratch:
    """Return working memory for a sweep of `size` queries."""
    return Scratch(
        order=np.empty(size + GROUP, np.int64),
        edge=np.empty(size, np.int64),
        errors=np.empty(size, np.float64),
        starts=np.empty(size + GROUP, np.float64),
        slopes=np.empty(size + GROUP, np.float64),
        thresholds=np.empty(GROUP, np.int32),
        bias=np.zeros(TILE_ROWS, np.int32),
        hit_query=np.empty(GROUP + 1, np.int64),
        hit_rows=np.empty(GROUP + 1, np.int64),
        hit_sums=np.empty((GROUP + 1, TILE_ROWS), np.int32),
        seeds=np.empty(size, np.int64),
        best=np.empty(size, np.float64),
        places=np.empty(edges + 1, np.int64),
    )


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def _error(shard: Any, batch: Any, at: int, j: int) -> float:
    """Bound the error of query j's scores in list `at`: codes, rotation, final rounding."""
    norm, largest = batch.norms[j], shard.norms[at]
    return (
        norm * shard.lost[at]
        + batch.lost[j] * shard.said[at]
        + batch.drift * norm * largest
        + batch.slack * (norm * norm + largest * largest)
    )


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def _seed_lists(shard: Any, batch: Any, list_rows: Any, least: int, w: Any) -> None:
    """Choose for each query the list whose center is nearest, of those with `least` rows."""
    size = len(batch.norms)
    w.best[:] = -np.inf
    w.seeds[:] = -1
    for at in range(len(shard.centers)):
        if list_rows[at] < least:
            continue
        base = batch.bases[shard.centers[at]]
        for j in range(size):
            score = base[j] - batch.weights[j] * shard.list_mean[at]
            if score > w.best[j]:
                w.best[j] = score
                w.seeds[j] = at


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _choose_edges(shard: Any, batch: Any, found: Any, at: int, w: Any) -> None:
    """Set where the first scan of list `at` ends for each query; -1: no row of it can matter."""
    base = batch.bases[shard.centers[at]]
    last = len(batch.edges) - 1
    for j in range(len(w.edge)):
        w.errors[j] = _error(shard, batch, at, j)
        gap = found.floor[j] - base[j] - w.errors[j]
        nearest = batch.norms[j] * shard.reach[at] - batch.weights[j] * shard.list_low[at]
        needed = gap + batch.weights[j] * shard.list_mean[at]
        place = 0
        for e in range(last):
            first = batch.tails[e, j] * shard.means[at, e]
            place += needed < first + PASS_SPREADS * batch.spreads[e, j]
        w.edge[j] = -1 if (gap > nearest or w.seeds[j] == at) else place


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def _order_by_edge(edge: Any, starts: Any, order: Any) -> int:
    """List the queries by falling edge, without those at -1; return how many."""
    edges = len(starts) - 1
    starts[:] = 0
    for j in range(len(edge)):
        if edge[j] >= 0:
            starts[edges - edge[j]] += 1
    for e in range(edges):
        starts[e + 1] += starts[e]
    count = starts[edges]
    for j in range(len(edge)):
        if edge[j] >= 0:
            place = edges - 1 - edge[j]
            order[starts[place]] = j
            starts[place] += 1
    order[count : count + GROUP] = len(edge)
    return count


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _line(shard: Any, batch: Any, found: Any, at: int, j: int, e: int, error: float) -> Any:
    """Return a, b: in a tile, a row's integer sum at edge e must reach `a - b * tail` to matter.

    `a` is still without the tile's `low`.
    """
    inverse = 1.0 / (shard.units[at] * batch.units[j])
    bound = found.floor[j] - batch.bases[shard.centers[at], j] - error
    return bound * inverse + batch.added[e, j], batch.tails[e, j] * inverse


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _prepare_slots(shard: Any, batch: Any, found: Any, at: int, count: int, w: Any) -> None:
    """Write the lines of the first `count` queries of `w.order`; what fills the group never passes."""
    for i in range(count):
        j = w.order[i]
        e = w.edge[w.order[i // GROUP * GROUP]]
        w.starts[i], w.slopes[i] = _line(shard, batch, found, at, j, e, w.errors[j])
    w.starts[count : count + GROUP] = np.inf
    w.slopes[count : count + GROUP] = 0


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _set_thresholds(w: Any, first: int, raised: float, tail: float) -> None:
    """Write the sums that a row of the tile must exceed to matter, for a group of queries."""
    for g in range(GROUP):
        needed = w.starts[first + g] + raised - w.slopes[first + g] * tail
        w.thresholds[g] = np.int32(min(max(needed, -_FAR), _FAR)) - np.int32(3)


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _set_bias(shard: Any, batch: Any, at: int, tile: int, bias: Any) -> None:
    """Write what a row's half square takes off its integer sums, rounded towards passing."""
    unit = shard.units[at] * batch.units[0]
    for lane in range(TILE_ROWS):
        share = shard.terms[tile, lane] * (1.0 - 2.0**-22) / unit
        bias[lane] = -np.int64(min(share, _FAR / 2))


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def _finish_hit(
    shard: Any, batch: Any, found: Any, at: int, tile: int, j: int, hit: int, start: int, w: Any
) -> int:
    """Take a hit's remaining dimensions; add the rows that may matter. Return the parts taken."""
    last = len(batch.edges) - 1
    error = w.errors[j]
    unit = shard.units[at] * batch.units[j]
    base = np.float64(batch.bases[shard.centers[at], j])
    needed, _ = _line(shard, batch, found, at, j, last, error)
    needed += batch.weights[j] * shard.low[tile] / unit
    threshold = np.int64(min(max(needed, -_FAR), _FAR)) - 3
    steps, parts = shard.codes.shape[1], 0
    for v in range(TILE_ROWS // _PART):
        bits = (w.hit_rows[hit] >> (_PART * v)) & 0xFFFF
        if bits == 0:
            continue
        parts += 1
        bits &= finish_part(
            shard.codes[tile].ctypes.data + v * _PART * WORD,
            batch.codes[j].ctypes.data,
            start,
            steps,
            w.hit_sums[hit].ctypes.data + 4 * v * _PART,
            threshold,
        )
        for i in range(_PART):
            if (bits >> i) & 1:
                lane = v * _PART + i
                product = w.hit_sums[hit, lane] - w.bias[lane] - batch.added[last, j]
                score = base + unit * product
                if batch.weights[j] > 0:
                    score -= batch.weights[j] * (shard.low[tile] + shard.terms[tile, lane])
                row = shard.rows[tile, lane]
                add_candidate(found, j, row, score - error, score + error)
    return parts


@njit(nogil=True, cache=True, _nrt=False)  # type: ignore[untyped-decorator]
def _sweep_list(
    shard: Any, batch: Any, found: Any, keep: Any, at: int, count: int, fresh: bool, w: Any
) -> int:
    """Scan list `at` for the first `count` queries of `w.order`. Return 8-bit products made.

    `fresh`: the floors are still low, follow their rise from tile to tile.
    """
    steps, products = shard.codes.shape[1], 0
    head, stride = batch.head // WORD, batch.codes.shape[1]
    inverse = 1.0 / (shard.units[at] * batch.units[0])
    if not fresh:
        _prepare_slots(shard, batch, found, at, count, w)
    for tile in range(shard.list_tiles[at], shard.list_tiles[at + 1]):
        if keep[tile] == 0:
            continue
        if shard.terms.shape[0] > 0:
            _set_bias(shard, batch, at, tile, w.bias)
        if fresh:
            _prepare_slots(shard, batch, found, at, count, w)
        raised = batch.weights[0] * shard.low[tile] * inverse
        for first in range(0, count, GROUP):
            e = w.edge[w.order[first]]
            stop = batch.edges[e] // WORD
            _set_thresholds(w, first, raised, shard.tails[tile, e])
            hits = tile_product(
                shard.codes[tile].ctypes.data,
                w.bias.ctypes.data,
                batch.codes.ctypes.data,
                stride,
                w.order.ctypes.data + 8 * first,
                head,
                stop,
                batch.shift,
                w.thresholds.ctypes.data,
                keep[tile],
                w.hit_query.ctypes.data,
                w.hit_rows.ctypes.data,
                w.hit_sums.ctypes.data,
            )
            products += stop * GROUP * TILE_ROWS
            for hit in range(hits):
                j = w.order[first + w.hit_query[hit]]
                parts = _finish_hit(shard, batch, found, at, tile, j, hit, stop, w)
                products += parts * (steps - stop) * _PART
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
    size = len(batch.norms)
    _seed_lists(shard, batch, list_rows, least, w)
    last, products = len(batch.edges) - 1, 0
    for at in range(len(shard.centers)):
        count = 0
        for j in range(size):
            if w.seeds[j] == at:
                w.order[count] = j
                w.edge[j] = last
                w.errors[j] = _error(shard, batch, at, j)
                count += 1
        w.order[count : count + GROUP] = size
        products += _sweep_list(shard, batch, found, keep, at, count, True, w)
    for at in range(len(shard.centers)):
        if list_rows[at] > 0:
            _choose_edges(shard, batch, found, at, w)
            count = _order_by_edge(w.edge, w.places, w.order)
            products += _sweep_list(shard, batch, found, keep, at, count, False, w)
    return products
