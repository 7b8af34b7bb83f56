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
inline functions that were loaded from Numba's cache. They are told where things lie by one record,
see `kernels.ivf_job`.
"""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_parts import PART, PARTS, finish_part, list_parts, lowest_bit
from gpuvec.kernels.int8_tile import FAR, TILE_ROWS, WORD
from gpuvec.kernels.ivf_batch import encode_batch, part_queries
from gpuvec.kernels.ivf_found import add_found
from gpuvec.kernels.ivf_ir import LANES, pick_level, spread_scores
from gpuvec.kernels.ivf_job import RUN, UNKNOWN
from gpuvec.kernels.ivf_memory import (
    get_f32,
    get_f64,
    get_i32,
    get_i64,
    get_u8,
    get_u16,
    put_f32,
    put_i32,
    put_i64,
    put_u16,
)
from gpuvec.kernels.ivf_pick import (
    ADDED,
    ADDED_CENTER,
    BASE,
    DOUBT_NORMS,
    DOUBT_STEPS,
    DOUBT_UNITS,
    FLOOR,
    GAIN,
    LEVEL_ALL,
    LEVEL_FIRST,
    LEVEL_NEAR,
    LIMIT,
    LINE,
    LINE_EDGE,
    NORM_LOSS,
    PATIENCE,
    SLOPE,
    SLOT,
    STEP_LOSS,
    STEPS,
    UNIT,
    choose_flat,
    choose_round,
    fetch_near,
    fetch_part,
    fetch_tile,
    seek_flat,
    seek_round,
    set_limits,
)
from gpuvec.kernels.ivf_tile import multiply

FEW = 64  # queries for which lists that none of them wants are skipped together
_TILE = TILE_ROWS * WORD  # bytes of a step


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _facts(job: Any, row: int) -> Any:
    """Return the address of a row of facts of the queries that are swept together."""
    return job.facts + row * job.fact_bytes + 4 * job.start


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _score_centers(job: Any) -> None:
    """Write the scores of all centers, and the levels that each query's best lists reach."""
    size, steps = job.size, job.center_steps
    codes = job.query_codes + job.start * job.stride
    for i in range((size + LANES - 1) // LANES * TILE_ROWS * LANES):
        put_f32(job.tops, i, np.float32(-np.inf))
    for lane in range(TILE_ROWS):
        put_i32(job.bias, lane, np.int32(0))
    for tile in range((job.lists + TILE_ROWS - 1) // TILE_ROWS):
        at = tile * TILE_ROWS
        for first in range(0, size, LANES):
            count = min(LANES, size - first)
            multiply(
                job.groups, job.center_codes + tile * steps * _TILE, job.bias, codes, job.stride,
                job.places + 4 * first, count, job.head, steps, job.shift, job.never, 0, job.masks,
                job.sums,
            )  # fmt: skip
            spread_scores(
                job.sums, _facts(job, ADDED_CENTER) + 4 * first, _facts(job, UNIT) + 4 * first,
                count, job.center_units + 4 * at, job.half + 4 * at,
                job.tops + 4 * first * TILE_ROWS, job.scores + at * job.row_bytes + 4 * first,
                job.row_bytes,
            )  # fmt: skip
    for first in range(0, size, LANES):
        tops = job.tops + 4 * first * TILE_ROWS
        pick_level(tops, job.first, _facts(job, LEVEL_FIRST) + 4 * first)
        pick_level(tops, job.near, _facts(job, LEVEL_NEAR) + 4 * first)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _choose_next(job: Any, at: int, level: int, floor: int, reach: float, patience: float) -> Any:
    """Choose the queries that a list is scanned for next; return how many there are."""
    if at >= job.lists:
        return 0
    asked, out, width = job.asked_next, job.chosen_next, job.chosen_bytes
    put_f32(asked, GAIN, np.float32(reach) * get_f32(job.spreads, at))
    put_f32(asked, STEPS, np.float32(1.0 / get_f64(job.units, at)))
    put_f32(asked, DOUBT_STEPS, np.float32(job.doubt * get_f64(job.steps, at)))
    put_f32(asked, DOUBT_UNITS, np.float32(job.doubt * get_f64(job.losses, at)))
    put_f32(asked, DOUBT_NORMS, np.float32(job.doubt * get_f64(job.norms, at)))
    put_f32(asked, PATIENCE, np.float32(patience))
    scores, facts, stride = job.scores + at * job.row_bytes, _facts(job, 0), job.fact_bytes
    if job.size > FEW:
        fetch_near(scores + job.row_bytes, scores + 2 * job.row_bytes)
    if job.flat:
        return choose_flat(scores, job.size, facts, stride, level, floor, asked, out, width)
    return choose_round(scores, job.size, facts, stride, level, floor, asked, out, width)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _seek(job: Any, at: int, level: int, floor: int, reach: float) -> Any:
    """Return the next list that some query may want."""
    if job.size > FEW:
        return at
    facts, stride = _facts(job, 0), job.fact_bytes
    if job.flat:
        return seek_flat(
            job.scores, job.row_bytes, at, job.lists, job.size, facts, stride, level, floor,
            job.spreads, reach,
        )  # fmt: skip
    return seek_round(
        job.scores, job.row_bytes, at, job.lists, job.size, facts, stride, level, floor,
        job.spreads, reach,
    )  # fmt: skip


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _set_bias(job: Any, tile: int, at: int) -> None:
    """Write what a row's half square takes off its integer sums: before the edge, and of all."""
    unit = np.float64(get_f32(_facts(job, UNIT), 0))  # that all share
    inverse = 1.0 / (unit * get_f64(job.units, at))
    for kind in range(2):
        terms = job.terms + 4 * TILE_ROWS * (kind * job.tiles + tile)
        for lane in range(TILE_ROWS):
            share = np.float64(get_f32(terms, lane)) * inverse
            less = np.int32(min(max(share, -FAR / 2), FAR / 2))
            put_i32(job.bias, kind * TILE_ROWS + lane, -less)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _mask_tile(job: Any, tile: int) -> Any:
    """Return which rows of a tile may be found, one bit each."""
    bits: Any = np.int64(0)
    for lane in range(TILE_ROWS):
        row = get_i64(job.rows, tile * TILE_ROWS + lane)
        if row >= 0 and get_u8(job.mask, row) != 0:
            bits |= np.int64(1) << lane
    put_i64(job.keep, tile, bits)
    return bits


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _chosen(job: Any, row: int) -> Any:
    """Return the address of a row of what is known of the chosen queries."""
    return job.chosen + row * job.chosen_bytes


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _add_rows(job: Any, at: int, tile: int, first: int, part: int) -> None:
    """Add the rows of a part whose sums are complete."""
    place, v = first + part // PARTS, part % PARTS
    slot = np.int64(get_i32(_chosen(job, SLOT), place))
    error = get_f32(_facts(job, STEP_LOSS), slot) * get_f32(job.asked, DOUBT_STEPS)
    error += get_f32(_facts(job, UNIT), slot) * get_f32(job.asked, DOUBT_UNITS)
    error += get_f32(_facts(job, NORM_LOSS), slot) * get_f32(job.asked, DOUBT_NORMS)
    unit = get_f64(job.units, at) * np.float64(get_f32(_facts(job, UNIT), slot))
    base = np.float64(get_f32(_chosen(job, BASE), place))
    base -= unit * np.float64(get_f32(_facts(job, ADDED), slot))
    bits = np.int64(get_u16(job.masks, part))
    while bits != 0:
        i = lowest_bit(bits)
        bits &= bits - 1
        score = np.float32(base + unit * np.float64(get_i32(job.sums, part * PART + i)))
        row = get_i64(job.rows, tile * TILE_ROWS + v * PART + i)
        add_found(job, job.start + slot, row, score - error, score + error)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _finish_hits(job: Any, at: int, tile: int, first: int, count: int, stop: int) -> None:
    """Test with all dimensions what passed the first test of `count` queries.

    Hits go through the test together: single ones would be mispredicted branches.
    """
    steps = job.row_steps
    tile_codes = job.codes + tile * steps * _TILE
    for i in range(8):
        put_u16(job.masks, count * PARTS + i, np.uint16(0))
    hits = list_parts(job.masks, (count * PARTS + 7) // 8 * 8, job.parts)
    passed = 0
    for p in range(hits):
        v = np.int64(get_i32(job.parts, p)) % PARTS
        names = job.rows + 8 * (tile * TILE_ROWS + v * PART)
        fetch_near(names, names + 8 * PART)
        if stop < steps:
            rows = tile_codes + v * PART * WORD
            fetch_part(rows + stop * _TILE, rows + steps * _TILE)
    for p in range(hits):
        part: Any = np.int64(get_i32(job.parts, p))
        i, v = first + part // PARTS, part % PARTS
        sums = job.sums + 4 * part * PART
        if job.has_terms and stop < steps:
            for lane in range(PART):
                other = get_i32(job.bias, TILE_ROWS + v * PART + lane)
                other -= get_i32(job.bias, v * PART + lane)
                put_i32(sums, lane, get_i32(sums, lane) + other)
        slot = np.int64(get_i32(_chosen(job, SLOT), i))
        codes = job.query_codes + (job.start + slot) * job.stride
        limit = np.int64(get_i32(_chosen(job, LIMIT), i))
        bits = finish_part(tile_codes + v * PART * WORD, codes, stop, steps, sums, limit)
        left = get_u16(job.masks, part) & np.uint16(bits)
        put_u16(job.masks, part, left)
        put_i32(job.parts, passed, np.int32(part))
        passed += left != 0
    for p in range(passed):
        _add_rows(job, at, tile, first, np.int64(get_i32(job.parts, p)))


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _scan_tile(job: Any, at: int, tile: int, keep: int, count: int, whole: bool) -> None:
    """Scan a tile for the chosen queries."""
    steps = job.row_steps
    stop = steps if whole else job.edge
    bias = job.bias
    if job.has_terms:
        _set_bias(job, tile, at)
        bias += 4 * TILE_ROWS if whole else 0
    tail = 0.0 if whole else np.float64(get_f32(job.tails, tile))
    line, slope, limit = _chosen(job, LINE), _chosen(job, SLOPE), _chosen(job, LIMIT)
    start = line if whole else _chosen(job, LINE_EDGE)
    codes = job.query_codes + job.start * job.stride
    for first in range(0, count, RUN):
        some = min(count - first, RUN)
        set_limits(start + 4 * first, slope + 4 * first, tail, some, limit + 4 * first)
        multiply(
            job.groups, job.codes + tile * steps * _TILE, bias, codes, job.stride,
            _chosen(job, SLOT) + 4 * first, some, job.head, stop, job.shift, limit + 4 * first,
            keep, job.masks, job.sums,
        )  # fmt: skip
        set_limits(line + 4 * first, slope + 4 * first, 0.0, some, limit + 4 * first)
        _finish_hits(job, at, tile, first, some, stop)


@njit(nogil=True, _nrt=False)  # type: ignore[untyped-decorator]
def _scan_list(job: Any, at: int, count: int, whole: bool) -> None:
    """Scan a list for the chosen queries."""
    for tile in range(get_i64(job.list_tiles, at), get_i64(job.list_tiles, at + 1)):
        keep = get_i64(job.keep, tile)
        if keep == UNKNOWN:
            keep = _mask_tile(job, tile)
        if keep != 0:
            _scan_tile(job, at, tile, keep, count, whole)


@njit(nogil=True, _nrt=False, error_model="numpy")  # type: ignore[untyped-decorator]
def _sweep(job: Any, level: int, floor: int, reach: float, patience: float, whole: bool) -> None:
    """Scan lists for the queries whose center's score reaches a level, and may reach a floor.

    Args:
        job: see `kernels.ivf_job`.
        level: row of facts.
        floor: row of facts.
        reach: spreads by which the score may be below the floor.
        patience: spreads by which a row's may be, beyond the edge.
        whole: scan with all dimensions at once.
    """
    size = job.row_steps * _TILE
    ahead = size if whole else job.edge * _TILE
    following = _seek(job, 0, level, floor, reach)
    coming = _choose_next(job, following, level, floor, reach, patience)
    while following < job.lists:
        at, count = following, coming
        job.chosen, job.chosen_next = job.chosen_next, job.chosen
        job.asked, job.asked_next = job.asked_next, job.asked
        following = _seek(job, at + 1, level, floor, reach)
        adjoins = following == at + 1
        if adjoins:  # as it would be if all lists were looked at
            coming = _choose_next(job, following, level, floor, reach, patience)
        if following < job.lists and (coming > 0 or not adjoins):
            begin = job.codes + get_i64(job.list_tiles, following) * size
            fetch_tile(begin, begin + ahead)
        if count > 0:
            _scan_list(job, at, count, whole)
        if not adjoins:
            coming = _choose_next(job, following, level, floor, reach, patience)


@njit(nogil=True, cache=True, error_model="numpy")  # type: ignore[untyped-decorator]
def find_rows(
    jobs: Any, turned: Any, noise: Any, floors: Any, bounded: float, keep: Any, mask: Any,
    half: Any, variance: Any, reach: Any, shape: Any, usual: float, codes: Any, members: Any,
    units: Any, ends: Any,
) -> None:  # fmt: skip
    """Find the rows that are likely to be among the nearest.

    Args:
        jobs: (1,) JOB, see `kernels.ivf_job`; what has room for the queries.
        turned: (m, p) float32, queries on the pack's axes.
        noise: see `encode_batch`; so are `floors` and `bounded`.
        floors: (m,) float64.
        bounded: spreads.
        keep: (tiles,) int64, one bit for each row that may be found; padding has none. UNKNOWN is
            worked out when it is needed, and written.
        mask: (n,) bool, what that is worked out from; may be empty where nothing is unknown.
        half: (p,) float32, what centers' scores are less by; +inf where a list is left out.
        variance: see `encode_batch`; so is `reach`.
        reach: see there.
        shape: (5,) int64: head, edge, dimensions of centers, rows' and queries' shift.
        usual: step of queries, for l2.
        codes: (m, dims) int8, written.
        members: (m,) int64, written: the query at each place.
        units: (m,) float64, for the work.
        ends: (m,) int64, likewise.
    """
    job, flat = jobs[0], len(reach) == 0
    job.keep, job.mask, job.half = keep.ctypes.data, mask.ctypes.data, half.ctypes.data
    head, edge, center, row_shift, query_shift = shape
    dims = len(variance)
    parts = part_queries(turned, dims, head, query_shift, flat, usual, members, units, ends)
    encode_batch(
        job, turned, noise, floors, bounded, members, units, variance, reach, head, edge, center,
        row_shift, query_shift, codes,
    )  # fmt: skip
    for p in range(len(turned)):
        put_i64(job.filled, p, 0)
        put_i64(job.counts, p, 0)
        put_i64(job.lost, p, 0)
    start = 0
    for part in range(parts):
        job.start, job.size = start, ends[part] - start
        job.row_bytes = 4 * LANES * ((job.size + LANES - 1) // LANES | 1)
        _score_centers(job)
        _sweep(job, LEVEL_FIRST, LEVEL_FIRST, 0.0, 0.0, True)
        _sweep(job, LEVEL_NEAR, FLOOR, job.reach, job.patience, False)
        _sweep(job, LEVEL_ALL, FLOOR, job.reach, job.patience, False)
        start = ends[part]
