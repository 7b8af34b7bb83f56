"""The compiled sweep of lists: rows that are likely to be among the nearest of each query.

A row's score is `q.x` (less half its square for l2). With `c` the center of its list and `e` its
offset from there, the score is `q.c + q.e`, and over the list's rows `q.e` spreads about zero by an
amount that is known well enough: what the query's dimensions and the list's offsets make of it. A
list is scanned for a query if its center's score is at most `reach` spreads below the query's
floor, and a row is followed beyond the first edge if what is known of its score is at most
`patience` spreads of the rest below. The floor is the k-th best score found so far; lists that
promise most come first, so it is good early. What is missed is what lies beyond those spreads.

All steps of a query depend on that query alone, so answers do not depend on what is asked with it.

No function here counts references (`_nrt=False`), and only the outermost is cached: LLVM does not
inline functions that were loaded from Numba's cache.
"""

from typing import Any

import numpy as np

from gpuvec.kernels.candidates import add_candidate
from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_parts import PART, PARTS, finish_part, list_parts, lowest_bit
from gpuvec.kernels.int8_tile import FAR, GROUP, MARGIN, TILE_ROWS, WORD, tile_product
from gpuvec.kernels.ivf_batch import (
    ADDED,
    ADDED_CENTER,
    ADDED_EDGE,
    INVERSE,
    NORM_LOSS,
    RUN,
    SPREAD,
    SPREAD_EDGE,
    SQUARE,
    STEP_LOSS,
    UNIT,
)
from gpuvec.kernels.ivf_ir import fetch_ahead, scale_sums, take_flat, take_round, top_level

UNKNOWN = -1  # bits of a tile that were not worked out
SOME = 32  # queries whose centers are scored together
LEAST = -3.0e38  # a floor that everything reaches which has a score


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _spread(batch: Any, kind: int, j: int, score: Any) -> Any:
    """Return the spread of a product with a mean row of the list whose center scores `score`."""
    if batch.flat:
        return batch.facts[j, kind]
    far = max(batch.facts[j, SQUARE] - 2.0 * score, 0.0)
    return batch.facts[j, kind] * np.sqrt(far)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _score_centers(pack: Any, batch: Any, half: Any, start: int, stop: int, w: Any) -> None:
    """Write the scores of all centers for some queries; see `sweep_lists` for `half`."""
    steps = pack.center_codes.shape[1]
    for tile in range(len(pack.center_codes)):
        at = tile * TILE_ROWS
        for first in range(start, stop, GROUP):
            tile_product(
                batch.multiply,
                pack.center_codes.ctypes.data + tile * steps * TILE_ROWS * WORD,
                w.bias.ctypes.data,
                batch.codes.ctypes.data,
                batch.codes.shape[1],
                w.slots.ctypes.data + 8 * first,
                batch.head,
                steps,
                batch.shift,
                w.lines.ctypes.data,
                w.lines.ctypes.data,
                0.0,
                0.0,
                0,
                w.rows.ctypes.data,
                w.sums.ctypes.data,
            )
            for i in range(min(GROUP, stop - first)):
                j = first + i
                scale_sums(
                    w.sums.ctypes.data + 4 * i * TILE_ROWS,
                    np.int64(batch.facts[j, ADDED_CENTER]),
                    batch.facts[j, UNIT],
                    pack.center_units.ctypes.data + 4 * at,
                    half.ctypes.data + 4 * at,
                    w.scores.ctypes.data + 4 * (j * w.scores.shape[1] + at),
                )


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _take(
    pack: Any, batch: Any, j: int, level: float, reach: float, total: int, wants: Any, w: Any
) -> int:
    """Append the lists within `reach` spreads of a level to query j's wants; return the total."""
    lists, wide = w.scores.shape[1], reach * batch.facts[j, SPREAD]
    scores = w.scores.ctypes.data + 4 * j * lists
    names, bases = wants.lists.ctypes.data + 4 * total, wants.bases.ctypes.data + 4 * total
    spreads, square = pack.spreads.ctypes.data, batch.facts[j, SQUARE]
    if batch.flat:
        total += take_flat(scores, spreads, lists, wide, square, level, names, bases)
    else:
        total += take_round(scores, spreads, lists, wide, square, level, names, bases)
    wants.ends[j] = total
    return total


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _want_best(pack: Any, batch: Any, half: Any, first: int, near: int, w: Any) -> None:
    """Score all centers; let each query want its best lists first, and others that are near later.

    Some queries at a time: what is written of them is read again while it is in the second cache.
    """
    size, lists = len(batch.facts), w.scores.shape[1]
    for j in range(size + GROUP):
        w.slots[j] = min(j, size)
    w.bias[:] = 0
    firsts, laters = 0, 0
    for start in range(0, size, SOME):
        stop = min(size, start + SOME)
        _score_centers(pack, batch, half, start, stop, w)
        for j in range(start, stop):
            scores = w.scores.ctypes.data + 4 * j * lists
            level = top_level(scores, lists, first)
            firsts = _take(pack, batch, j, level, 0.0, firsts, w.first, w)
            level = top_level(scores, lists, near)
            laters = _take(pack, batch, j, level, 0.0, laters, w.later, w)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _want_near(pack: Any, batch: Any, found: Any, reach: float, w: Any) -> None:
    """Let each query want the lists within `reach` spreads of its floor."""
    total = 0
    for j in range(len(batch.facts)):
        level = max(found.floor[j], LEAST)
        total = _take(pack, batch, j, level, reach, total, w.later, w)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _order_wants(wants: Any, size: int, w: Any) -> None:
    """Order wants by list; `w.counts` tells where those of each list end."""
    w.counts[:] = 0
    for p in range(wants.ends[size - 1]):
        w.counts[wants.lists[p]] += 1
    begin = 0
    for at in range(len(w.counts)):
        own = w.counts[at]
        w.counts[at] = begin
        begin += own
    p = 0
    for j in range(size):
        while p < wants.ends[j]:
            at = wants.lists[p]
            w.order[w.counts[at]] = np.int64(j) | (np.int64(wants.base_bits[p]) << 32)
            w.counts[at] += 1
            p += 1


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _error(pack: Any, batch: Any, at: int, j: int) -> Any:
    """Return the spread of what codes lose of query j's scores in list `at`."""
    error = batch.facts[j, STEP_LOSS] * pack.steps[at] + batch.facts[j, UNIT] * pack.losses[at]
    return error + batch.facts[j, NORM_LOSS] * pack.norms[at]


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _draw_lines(
    pack: Any, batch: Any, found: Any, at: int, count: int, whole: bool, patience: float,
    doubt: float, w: Any,
) -> None:  # fmt: skip
    """Write the lines of the tests for the queries of `slots`.

    A row's integer sum before the edge must reach `start - slope * tail`.
    """
    steps = 1.0 / pack.units[at]
    for i in range(count):
        j, base = w.slots[i], np.float64(w.slot_bases[i])
        inverse = steps * batch.facts[j, INVERSE]
        gap = max(found.floor[j], LEAST) - base
        line = (gap - doubt * _error(pack, batch, at, j)) * inverse + batch.facts[j, ADDED]
        w.starts[1, i] = line
        w.starts[0, i] = line if whole else gap * inverse + batch.facts[j, ADDED_EDGE]
        w.slopes[i] = 0.0 if whole else patience * _spread(batch, SPREAD_EDGE, j, base) * inverse
    w.starts[:, count : count + GROUP] = np.inf
    w.slopes[count : count + GROUP] = 0


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _whole(needed: float) -> Any:
    """Return an integer that every integer of at least `needed` is greater than."""
    return np.int32(min(max(needed, -FAR), FAR)) - np.int32(MARGIN)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _set_bias(pack: Any, tile: int, kind: int, inverse: float, w: Any) -> None:
    """Write what a row's half square takes off its integer sums."""
    for lane in range(TILE_ROWS):
        share = pack.terms[kind, tile, lane] * inverse
        w.bias[kind, lane] = -np.int32(min(max(share, -FAR / 2), FAR / 2))


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_rows(
    pack: Any, batch: Any, found: Any, at: int, tile: int, first: int, part: int, doubt: float,
    w: Any,
) -> None:  # fmt: skip
    """Add the rows of a part whose sums are complete."""
    j, v = w.slots[first + part // PARTS], part % PARTS
    error = doubt * _error(pack, batch, at, j)
    unit = pack.units[at] * batch.facts[j, UNIT]
    base = np.float64(w.slot_bases[first + part // PARTS]) - unit * batch.facts[j, ADDED]
    bits = np.int64(w.rows[part])
    while bits != 0:
        i = lowest_bit(bits)
        bits &= bits - 1
        score = base + unit * w.sums[part, i]
        add_candidate(found, j, pack.rows[tile, v * PART + i], score - error, score + error)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _finish_hits(
    pack: Any, batch: Any, found: Any, at: int, tile: int, first: int, groups: int, stop: int,
    doubt: float, w: Any,
) -> Any:  # fmt: skip
    """Test hits with all dimensions. Return the steps taken.

    Hits go through the test together: single ones would be mispredicted branches.
    """
    steps = pack.codes.shape[1]
    first_row = pack.codes.ctypes.data + tile * steps * TILE_ROWS * WORD
    count = list_parts(w.rows.ctypes.data, groups * GROUP * PARTS, w.parts.ctypes.data)
    passed = 0
    for p in range(count):
        part = np.int64(w.parts[p])
        i, v = first + part // PARTS, part % PARTS
        if pack.terms.shape[1] > 0 and stop < steps:
            for lane in range(PART):
                other = w.bias[1, v * PART + lane] - w.bias[0, v * PART + lane]
                w.sums[part, lane] += other
        codes = batch.codes.ctypes.data + w.slots[i] * batch.codes.shape[1]
        sums = w.sums.ctypes.data + 4 * part * PART
        rows = first_row + v * PART * WORD
        bits = finish_part(rows, codes, stop, steps, sums, _whole(w.starts[1, i]))
        w.rows[part] &= np.uint16(bits)
        w.parts[passed] = part
        passed += w.rows[part] != 0
    for p in range(passed):
        _add_rows(pack, batch, found, at, tile, first, np.int64(w.parts[p]), doubt, w)
    return count * (steps - stop)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _sweep_tile(
    pack: Any, batch: Any, found: Any, keep: int, at: int, tile: int, count: int, stop: int,
    doubt: float, w: Any,
) -> Any:  # fmt: skip
    """Scan a tile for the first `count` places. Return 8-bit products made, by steps."""
    steps, products = pack.codes.shape[1], 0
    if pack.terms.shape[1] > 0:
        inverse = batch.facts[0, INVERSE] / pack.units[at]
        _set_bias(pack, tile, 0, inverse, w)
        _set_bias(pack, tile, 1, inverse, w)
    kind = 1 if stop == steps else 0
    for first in range(0, count, RUN * GROUP):
        groups = (min(count - first, RUN * GROUP) + GROUP - 1) // GROUP
        for group in range(groups):
            start = first + group * GROUP
            tile_product(
                batch.multiply,
                pack.codes.ctypes.data + tile * steps * TILE_ROWS * WORD,
                w.bias.ctypes.data + 4 * kind * TILE_ROWS,
                batch.codes.ctypes.data,
                batch.codes.shape[1],
                w.slots.ctypes.data + 8 * start,
                batch.head,
                stop,
                batch.shift,
                w.starts.ctypes.data + 8 * start,
                w.slopes.ctypes.data + 8 * start,
                0.0,
                np.float64(pack.tails[tile]),
                keep,
                w.rows.ctypes.data + 2 * group * GROUP * PARTS,
                w.sums.ctypes.data + 4 * group * GROUP * TILE_ROWS,
            )
        products += stop * groups * GROUP * TILE_ROWS
        products += PART * _finish_hits(pack, batch, found, at, tile, first, groups, stop, doubt, w)
    return products


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _choose_slots(
    pack: Any, batch: Any, found: Any, at: int, begin: int, end: int, reach: float, w: Any
) -> Any:
    """Write the queries that want list `at` and still may gain from it; return how many."""
    count = 0
    for p in range(begin, end):
        j = w.order[p] & 0xFFFFFFFF
        w.slots[count] = j
        w.slot_bits[count] = np.int32(w.order[p] >> 32)
        base = np.float64(w.slot_bases[count])
        best = base + reach * _spread(batch, SPREAD, j, base) * pack.spreads[at]
        count += best >= found.floor[j]
    w.slots[count : count + GROUP] = len(batch.facts)
    return count


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _mask_tile(rows: Any, tile: int, mask: Any) -> Any:
    """Return which rows of a tile may be found, one bit each."""
    bits = np.int64(0)
    for lane in range(TILE_ROWS):
        row = rows[tile, lane]
        if row >= 0 and mask[row]:
            bits |= np.int64(1) << lane
    return bits


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _sweep_wants(
    pack: Any, batch: Any, found: Any, keep: Any, mask: Any, wants: Any, reach: float,
    patience: float, doubt: float, w: Any,
) -> Any:  # fmt: skip
    """Scan lists for the queries that want them and still may gain. Return 8-bit products made.

    `patience` below zero: scan with all dimensions at once, following the rise of the floors.
    """
    _order_wants(wants, len(batch.facts), w)
    steps, products, begin = pack.codes.shape[1], 0, 0
    whole = patience < 0
    stop = steps if whole else batch.edge
    for at in range(len(pack.units)):
        end = w.counts[at]
        if end == begin:
            continue
        count = _choose_slots(pack, batch, found, at, begin, end, reach, w)
        begin = end
        if count == 0:
            continue
        following = pack.list_tiles[at + 1]
        if following < len(keep):
            ahead = pack.codes.ctypes.data + following * steps * TILE_ROWS * WORD
            fetch_ahead(ahead, stop * TILE_ROWS * WORD)
        fresh = True
        for tile in range(pack.list_tiles[at], following):
            if keep[tile] == UNKNOWN:
                keep[tile] = _mask_tile(pack.rows, tile, mask)
            if keep[tile] == 0:
                continue
            if fresh or whole:
                _draw_lines(pack, batch, found, at, count, whole, patience, doubt, w)
                fresh = False
            products += _sweep_tile(pack, batch, found, keep[tile], at, tile, count, stop, doubt, w)
    return products * WORD


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def sweep_lists(
    pack: Any, batch: Any, found: Any, keep: Any, mask: Any, half: Any, first: int, near: int,
    reach: float, patience: float, doubt: float, w: Any,
) -> Any:  # fmt: skip
    """Add to `found` the rows that are likely to be among the nearest.

    Args:
        pack: see `IvfArrays`.
        batch: see `IvfBatch`; at least one query.
        found: see `Candidates`.
        keep: (tiles,) int64, one bit for each row that may be found; padding has none. UNKNOWN is
            worked out when it is needed, and written.
        mask: (n,) bool, what that is worked out from; may be empty where nothing is unknown.
        half: (p,) float32, what centers' scores are less by; +inf where a list is left out.
        first: about how many lists are scanned whole: they make the floor.
        near: about how many lists are scanned next, before all that are within reach.
        reach: spreads by which a center's score may be below the floor.
        patience: spreads by which a row's may be, beyond the edge.
        doubt: spreads of what codes lose, by which scores are widened.
        w: see `make_scratch`.

    Returns:
        how many 8-bit products were made, those with centers included.
    """
    products = pack.center_codes.size * len(batch.facts)
    _want_best(pack, batch, half, first, near, w)
    for turn in range(3):
        wants = w.first if turn == 0 else w.later
        far, calm = (1e30, -1.0) if turn == 0 else (reach, patience)
        if turn == 2:
            _want_near(pack, batch, found, reach, w)
        products += _sweep_wants(pack, batch, found, keep, mask, wants, far, calm, doubt, w)
    return products
