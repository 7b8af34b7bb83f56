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

from typing import Any

import numpy as np

from gpuvec.kernels.candidates import add_candidate
from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_batch import RUN
from gpuvec.kernels.int8_parts import PART, PARTS, finish_part, list_parts, lowest_bit
from gpuvec.kernels.int8_tile import FAR, GROUP, MARGIN, TILE_ROWS, WORD, tile_product

PASS_SPREADS = 3.0  # rows that many spreads above the expected product may pass the first edge
TURNS = (2.5, 1.5, -np.inf)  # lists that many spreads nearer than the mean are scanned first
SECOND = 2  # edges between the first and the second test


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _rounding(shard: Any, batch: Any, at: int, j: int) -> Any:
    """Bound what rotation, centers and final distances round, for query j and list `at`."""
    norm, largest = batch.norms[j], shard.norms[at]
    return batch.drift * norm * largest + batch.slack * (norm * norm + largest * largest)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _lost(shard: Any, batch: Any, at: int, j: int, e: int) -> Any:
    """Bound what codes lose of query j's products in list `at` before edge e."""
    return batch.heads[e, j] * np.float64(shard.lost[at, e]) + batch.lost[e, j] * np.float64(
        shard.said[at, e]
    )


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
        w.spread[j] = np.sqrt(max(np.float32(0), w.gaps[j] - w.near[j] * w.near[j]))
        if w.seeds[j] >= 0:
            w.done[w.seeds[j], j] = True


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _choose_edges(shard: Any, batch: Any, found: Any, at: int, turn: float, w: Any) -> None:
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
        later = batch.bases[center, j] - half < w.near[j] + np.float32(turn) * w.spread[j]
        if later or w.done[at, j] or found.floor[j] > best:
            w.edge[j] = -1
        w.done[at, j] |= not later


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
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
    w.order[total : total + GROUP] = len(w.edge)
    return total


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _draw_lines(shard: Any, batch: Any, found: Any, at: int, count: int, w: Any) -> None:
    """Write the lines of the first `count` places; what fills the last group never passes.

    A row's integer sum before an edge must reach `start - slope * tail` to matter. `tail` is the
    norm of its offset from the edge on; what half squares take off is not in it.
    """
    last, unit, center = len(batch.edges) - 1, shard.units[at], shard.centers[at]
    for group in range((count + GROUP - 1) // GROUP):
        e = w.edge[w.order[group * GROUP]]
        second = min(e + SECOND, last)
        w.firsts[group] = e
        w.stops[0, group] = batch.edges[e] // WORD
        w.stops[1, group] = batch.edges[second] // WORD
        for i in range(group * GROUP, min(count, group * GROUP + GROUP)):
            j = w.order[i]
            inverse = 1.0 / (unit * batch.units[j])
            bound = found.floor[j] - batch.bases[center, j] - _rounding(shard, batch, at, j)
            w.slopes[0, i] = batch.tails[e, j] * inverse
            w.slopes[1, i] = batch.tails[second, j] * inverse
            w.starts[0, i] = (bound - _lost(shard, batch, at, j, e)) * inverse + batch.added[e, j]
            w.starts[1, i] = (bound - _lost(shard, batch, at, j, second)) * inverse
            w.starts[1, i] += batch.added[second, j]
            w.starts[2, i] = (bound - _lost(shard, batch, at, j, last)) * inverse
            w.starts[2, i] += batch.added[last, j]
    w.starts[:, count : count + GROUP] = np.inf
    w.slopes[:, count : count + GROUP] = 0


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _whole(needed: float) -> Any:
    """Return an integer that every integer of at least `needed` is greater than."""
    return np.int32(min(max(needed, -FAR), FAR)) - np.int32(MARGIN)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _set_bias(shard: Any, tile: int, inverse: float, bias: Any) -> None:
    """Write what a row's half square takes off its integer sums, rounded towards passing."""
    for lane in range(TILE_ROWS):
        share = shard.terms[tile, lane] * (1.0 - 2.0**-22) * inverse
        bias[lane] = -np.int32(min(share, FAR / 2))


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_rows(
    shard: Any, batch: Any, found: Any, at: int, tile: int, first: int, part: int, w: Any
) -> None:
    """Add the rows of a part whose sums are complete."""
    last, j, v = len(batch.edges) - 1, w.order[first + part // PARTS], part % PARTS
    error = _lost(shard, batch, at, j, last) + _rounding(shard, batch, at, j)
    unit = shard.units[at] * batch.units[j]
    base = np.float64(batch.bases[shard.centers[at], j])
    bits = np.int64(w.rows[part])
    while bits != 0:
        i = lowest_bit(bits)
        bits &= bits - 1
        lane = v * PART + i
        product = w.sums[part, i] - w.bias[lane] - batch.added[last, j]
        score = base + unit * product
        if shard.terms.shape[0] > 0:
            score -= shard.low[tile] + shard.terms[tile, lane]
        add_candidate(found, j, shard.rows[tile, lane], score - error, score + error)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _finish_hits(
    shard: Any, batch: Any, found: Any, at: int, tile: int, first: int, groups: int, raised: float,
    w: Any,
) -> int:  # fmt: skip
    """Test hits at the second edge and with all dimensions. Return the steps taken.

    Hits go through each test together: single ones would be mispredicted branches.
    """
    last, steps, taken = len(batch.edges) - 1, shard.codes.shape[1], 0
    first_row = shard.codes.ctypes.data + tile * steps * TILE_ROWS * WORD
    count = list_parts(w.rows.ctypes.data, groups * GROUP * PARTS, w.parts.ctypes.data)
    for test in range(1, 3):
        passed = 0
        for p in range(count):
            part = np.int64(w.parts[p])
            i, rows = first + part // PARTS, first_row + part % PARTS * PART * WORD
            stop, needed = w.stops[test - 1, i // GROUP], w.starts[test, i] + raised
            end = steps
            if test == 1:
                end = w.stops[1, i // GROUP]
                second = min(w.firsts[i // GROUP] + SECOND, last)
                needed -= w.slopes[1, i] * shard.tails[tile, second]
            codes = batch.codes.ctypes.data + w.order[i] * batch.codes.shape[1]
            sums = w.sums.ctypes.data + 4 * part * PART
            bits = finish_part(rows, codes, stop, end, sums, _whole(needed))
            taken += end - stop
            w.rows[part] &= np.uint16(bits)
            w.parts[passed] = part
            passed += w.rows[part] != 0
        count = passed
    for p in range(count):
        _add_rows(shard, batch, found, at, tile, first, np.int64(w.parts[p]), w)
    return taken


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _sweep_tile(
    shard: Any, batch: Any, found: Any, keep: int, at: int, tile: int, count: int, w: Any
) -> int:
    """Scan a tile for the first `count` places. Return 8-bit products made, by steps."""
    steps, products = shard.codes.shape[1], 0
    inverse = 1.0 / (shard.units[at] * batch.units[0])
    if shard.terms.shape[0] > 0:
        _set_bias(shard, tile, inverse, w.bias)
    raised = batch.weight * shard.low[tile] * inverse
    for first in range(0, count, RUN * GROUP):
        groups = (min(count - first, RUN * GROUP) + GROUP - 1) // GROUP
        for group in range(groups):
            start = first + group * GROUP
            e, stop = w.firsts[start // GROUP], w.stops[0, start // GROUP]
            tail = shard.tails[tile, e]
            tile_product(
                batch.multiply,
                shard.codes.ctypes.data + tile * steps * TILE_ROWS * WORD,
                w.bias.ctypes.data,
                batch.codes.ctypes.data,
                batch.codes.shape[1],
                w.order.ctypes.data + 8 * start,
                batch.head // WORD,
                stop,
                batch.shift,
                w.starts.ctypes.data + 8 * start,
                w.slopes.ctypes.data + 8 * start,
                raised,
                np.float64(tail),
                keep,
                w.rows.ctypes.data + 2 * group * GROUP * PARTS,
                w.sums.ctypes.data + 4 * group * GROUP * TILE_ROWS,
            )
            products += stop * GROUP * TILE_ROWS
        products += _finish_hits(shard, batch, found, at, tile, first, groups, raised, w) * PART
    return products


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _sweep_list(
    shard: Any, batch: Any, found: Any, keep: Any, at: int, count: int, fresh: bool, w: Any
) -> int:
    """Scan list `at` for the first `count` places. Return 8-bit products made.

    `fresh`: floors are still low, so their rise is followed from tile to tile.
    """
    products = 0
    if not fresh:
        _draw_lines(shard, batch, found, at, count, w)
    for tile in range(shard.list_tiles[at], shard.list_tiles[at + 1]):
        if keep[tile] != 0:
            if fresh:
                _draw_lines(shard, batch, found, at, count, w)
            products += _sweep_tile(shard, batch, found, keep[tile], at, tile, count, w)
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
    size, last, products = len(batch.norms), len(batch.edges) - 1, 0
    _rank_lists(shard, batch, list_rows, least, w)
    for at in range(len(shard.centers)):
        count = 0
        for j in range(size):
            if w.seeds[j] == at:
                w.order[count] = j
                w.edge[j] = last
                count += 1
        if count > 0:
            w.order[count : count + GROUP] = size
            products += _sweep_list(shard, batch, found, keep, at, count, True, w)
    for turn in TURNS:
        for at in range(len(shard.centers)):
            if list_rows[at] > 0:
                _choose_edges(shard, batch, found, at, turn, w)
                count = _order_by_edge(w)
                products += _sweep_list(shard, batch, found, keep, at, count, False, w)
    return products
