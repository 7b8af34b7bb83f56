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
from gpuvec.kernels.ivf_batch import BUCKETS, RUN

LEAST = np.float32(-3.0e38)  # a floor that everything reaches which has a score


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _spread(batch: Any, kind: int, j: int, score: Any) -> Any:
    """Return the spread of a product with a mean row of the list whose center scores `score`."""
    if batch.flat:
        return batch.spreads[kind, j]
    return batch.spreads[kind, j] * np.sqrt(
        max(batch.squares[j] - np.float32(2) * score, np.float32(0))
    )


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _score_centers(pack: Any, batch: Any, half: Any, w: Any) -> None:
    """Write the scores of all centers; `half` is what they are less by, +inf to leave one out."""
    size, steps = len(batch.units), pack.center_codes.shape[1]
    for j in range(size + GROUP):
        w.slots[j] = min(j, size)
    w.bias[:] = 0
    for tile in range(len(pack.center_codes)):
        start = tile * TILE_ROWS
        for first in range(0, size, GROUP):
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
            for i in range(min(GROUP, size - first)):
                j = first + i
                unit, added = np.float32(batch.units[j]), np.int32(batch.added[1, j])
                for v in range(PARTS):
                    for lane in range(PART):
                        at = start + v * PART + lane
                        total = np.float32(w.sums[i * PARTS + v, lane] - added)
                        w.scores[j, at] = total * unit * pack.center_units[at] - half[at]


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _note_wants(batch: Any, j: int, total: int, w: Any) -> Any:
    """Append query j's flagged lists to the wants, of which there are `total`; return how many."""
    for at in range(w.scores.shape[1] // 8):
        if w.words[at] == 0:
            continue
        for c in range(8 * at, 8 * at + 8):
            if w.flags[c] != 0:
                w.lists[total] = c
                w.queries[total] = j
                w.counts[c] += 1
                total += 1
    return total


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _group_wants(total: int, w: Any) -> None:
    """Order the wants by list; afterwards `counts` tell where those of each list end."""
    begin = 0
    for c in range(len(w.counts)):
        own = w.counts[c]
        w.counts[c] = begin
        begin += own
    for p in range(total):
        c = w.lists[p]
        w.wants[w.counts[c]] = w.queries[p]
        w.counts[c] += 1


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _want_first(batch: Any, first: int, w: Any) -> Any:
    """Let each query want about its `first` most promising lists; return how many wants."""
    w.counts[:] = 0
    total, lists = 0, w.scores.shape[1]
    for j in range(len(batch.units)):
        w.tops[:] = LEAST
        for start in range(0, lists - BUCKETS + 1, BUCKETS):
            for b in range(BUCKETS):
                w.tops[b] = max(w.tops[b], w.scores[j, start + b])
        for c in range(lists - lists % BUCKETS, lists):
            w.tops[c % BUCKETS] = max(w.tops[c % BUCKETS], w.scores[j, c])
        level = LEAST
        for _turn in range(first):
            best = 0
            for b in range(1, BUCKETS):
                if w.tops[b] > w.tops[best]:
                    best = b
            level = w.tops[best]
            w.tops[best] = LEAST
        level = max(level, LEAST)
        for c in range(lists):
            w.flags[c] = w.scores[j, c] >= level
        total = _note_wants(batch, j, total, w)
    return total


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _want_near(pack: Any, batch: Any, found: Any, reach: float, w: Any) -> Any:
    """Let each query want the lists within `reach` spreads of its floor; return how many wants."""
    w.counts[:] = 0
    total, lists = 0, w.scores.shape[1]
    for j in range(len(batch.units)):
        level = max(np.float32(found.floor[j]), LEAST)
        wide = np.float32(reach) * batch.spreads[0, j]
        if batch.flat:
            for c in range(lists):
                w.flags[c] = w.scores[j, c] + wide * pack.spreads[c] >= level
        else:
            for c in range(lists):
                far = max(batch.squares[j] - np.float32(2) * w.scores[j, c], np.float32(0))
                w.flags[c] = w.scores[j, c] + wide * pack.spreads[c] * np.sqrt(far) >= level
        total = _note_wants(batch, j, total, w)
    return total


@njit(nogil=True, _nrt=False, forceinline=True, error_model="numpy")  # type: ignore[untyped-decorator]
def _error(pack: Any, batch: Any, at: int, j: int) -> Any:
    """Return the spread of what codes lose of query j's scores in list `at`."""
    steps = pack.units[at] + np.float64(pack.center_units[at])
    return batch.losses[j] * steps + batch.units[j] * pack.losses[at]


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _draw_lines(
    pack: Any, batch: Any, found: Any, at: int, count: int, whole: bool, patience: float,
    doubt: float, w: Any,
) -> None:  # fmt: skip
    """Write the lines of the tests for the queries of `slots`.

    A row's integer sum before the edge must reach `start - slope * tail`.
    """
    for i in range(count):
        j = w.slots[i]
        base = w.scores[j, at]
        inverse = 1.0 / (pack.units[at] * batch.units[j])
        gap = (max(found.floor[j], np.float64(LEAST)) - base) * inverse
        line = gap - doubt * _error(pack, batch, at, j) * inverse + batch.added[1, j]
        w.starts[1, i] = line
        w.starts[0, i] = line if whole else gap + batch.added[0, j]
        w.slopes[i] = 0.0 if whole else patience * _spread(batch, 1, j, base) * inverse
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
    unit = pack.units[at] * batch.units[j]
    base = np.float64(w.scores[j, at]) - unit * batch.added[1, j]
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
        inverse = 1.0 / (pack.units[at] * batch.units[0])
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


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _sweep_wants(
    pack: Any, batch: Any, found: Any, keep: Any, reach: float, patience: float, doubt: float,
    w: Any,
) -> Any:  # fmt: skip
    """Scan lists for the queries that want them and still may gain. Return 8-bit products made.

    `patience` below zero: scan with all dimensions at once, following the rise of the floors.
    """
    steps, products, begin = pack.codes.shape[1], 0, 0
    whole = patience < 0
    stop = steps if whole else batch.edge
    for at in range(len(pack.units)):
        end = w.counts[at]
        if end == begin:
            continue
        count = 0
        for p in range(begin, end):
            j = w.wants[p]
            base = w.scores[j, at]
            wide = np.float32(reach) * _spread(batch, 0, j, base) * pack.spreads[at]
            w.slots[count] = j
            count += base + wide >= found.floor[j]
        begin = end
        if count == 0:
            continue
        w.slots[count : count + GROUP] = len(batch.units)
        fresh = True
        for tile in range(pack.list_tiles[at], pack.list_tiles[at + 1]):
            if keep[tile] == 0:
                continue
            if fresh or whole:
                _draw_lines(pack, batch, found, at, count, whole, patience, doubt, w)
                fresh = False
            products += _sweep_tile(pack, batch, found, keep[tile], at, tile, count, stop, doubt, w)
        for i in range(count):
            w.scores[w.slots[i], at] = -np.inf
    return products * WORD


@njit(nogil=True, cache=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def sweep_lists(
    pack: Any, batch: Any, found: Any, keep: Any, half: Any, first: int, turns: Any,
    patience: float, doubt: float, w: Any,
) -> Any:  # fmt: skip
    """Add to `found` the rows that are likely to be among the nearest.

    Args:
        pack: see `IvfArrays`.
        batch: see `IvfBatch`.
        found: see `Candidates`.
        keep: (tiles,) int64, one bit for each row that may be found; padding has none.
        half: (p,) float32, what centers' scores are less by; +inf where a list is left out.
        first: lists that a query starts with, about.
        turns: (r,) float64, rising: reach of each turn, in spreads.
        patience: spreads, beyond the edge.
        doubt: spreads of what codes lose, by which scores are widened.
        w: see `make_scratch`.

    Returns:
        how many 8-bit products were made, those with centers included.
    """
    products = pack.center_codes.size * len(batch.units)
    _score_centers(pack, batch, half, w)
    total = _want_first(batch, first, w)
    _group_wants(total, w)
    products += _sweep_wants(pack, batch, found, keep, 1e30, -1.0, doubt, w)
    for turn in range(len(turns)):
        total = _want_near(pack, batch, found, turns[turn], w)
        _group_wants(total, w)
        products += _sweep_wants(pack, batch, found, keep, turns[turn], patience, doubt, w)
    return products
