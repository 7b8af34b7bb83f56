"""Queries on their way into codes: turned onto the pack's axes, parted, encoded. Compiled."""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD
from gpuvec.kernels.ivf_ir import LOWEST, scale_sums
from gpuvec.kernels.ivf_memory import put_f32, put_i32
from gpuvec.kernels.ivf_pick import (
    ADDED,
    ADDED_CENTER,
    ADDED_EDGE,
    FLOOR,
    INVERSE,
    LEVEL_ALL,
    NORM_LOSS,
    SPREAD,
    SPREAD_EDGE,
    SQUARE,
    STEP_LOSS,
    UNIT,
)
from gpuvec.kernels.ivf_tile import multiply
from gpuvec.kernels.quantize import LEVELS, OFFSET

TURNED = 16  # queries turned at a time
FINEST = -8  # powers of two by which steps of short l2 queries may be narrower
_SUMS = {"reassoc", "contract"}


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_raw(queries: Any, origin: Any, flat: bool, codes: Any, units: Any, norms: Any) -> None:
    """Encode queries as they were asked, for the rotation.

    Args:
        queries: (m, dim) float32.
        origin: (dim,) float32, taken off but for flat scores, where lengths are made 1 instead.
        flat: whether scores are products.
        codes: (m, dim padded to SEGMENT) int8, written up to dim.
        units: (m,) float64, written: steps; 0 where all is zero or too large for float32.
        norms: (m,) float64, written: norms as asked (flat) or less the origin; +inf: too large.
    """
    dim = queries.shape[1]
    vector = np.empty(dim, np.float32)
    for j in range(len(queries)):
        peak, square = np.float32(0), np.float64(0)
        for c in range(dim):
            vector[c] = queries[j, c] if flat else queries[j, c] - origin[c]
            peak = max(peak, abs(vector[c]))
        unit = peak / np.float32(LEVELS)
        if not (peak > 0 and peak < np.inf):
            units[j], norms[j] = 0.0, 0.0 if peak == 0 else np.inf
            codes[j] = 0
            continue
        inverse = np.float32(LEVELS) / peak
        for c in range(dim):
            share = vector[c] * inverse
            square += np.float64(share) * share
            codes[j, c] = np.int8(np.rint(share))
        length = np.sqrt(square)
        norms[j] = length * unit
        units[j] = 1.0 / length if flat else np.float64(unit)


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def turn_raw(
    groups: Any, tiles: Any, tile_units: Any, less: Any, codes: Any, units: Any, places: Any,
    never: Any, sums: Any, masks: Any, out: Any,
) -> None:  # fmt: skip
    """Multiply encoded vectors by a matrix, such as the rotation.

    Args:
        groups: see `group_addresses`.
        tiles: (p / TILE_ROWS, steps, TILE_ROWS, WORD) uint8, its columns.
        tile_units: (p,) float32, their steps.
        less: (p,) float32, taken off what comes out.
        codes: (m, 4 * steps) int8, see `encode_raw`.
        units: (m,) float64.
        places: (m,) int32, rising.
        never: (m,) int32, limits that no sum passes.
        sums: (TURNED, TILE_ROWS) int32, for the work.
        masks: (TURNED, PARTS) uint16, likewise.
        out: (m, p) float32, written.
    """
    size, steps = len(units), tiles.shape[1]
    bias = np.zeros(TILE_ROWS, np.int32)
    added = np.zeros(size, np.int64)
    for j in range(size):
        total = np.int32(0)
        for c in range(codes.shape[1]):
            total += np.int32(codes[j, c])
        added[j] = OFFSET * np.int64(total)
    for tile in range(len(tiles)):
        for first in range(0, size, TURNED):
            count = min(TURNED, size - first)
            multiply(
                groups.ctypes.data, tiles.ctypes.data + tile * steps * TILE_ROWS * WORD,
                bias.ctypes.data, codes.ctypes.data, codes.shape[1], places.ctypes.data + 4 * first,
                count, 0, steps, 0, never.ctypes.data, 0, masks.ctypes.data, sums.ctypes.data,
            )  # fmt: skip
            at = tile * TILE_ROWS
            for i in range(count):
                scale_sums(
                    sums.ctypes.data + 4 * i * TILE_ROWS, added[first + i], units[first + i],
                    tile_units.ctypes.data + 4 * at, less.ctypes.data + 4 * at,
                    out.ctypes.data + 4 * ((first + i) * out.shape[1] + at),
                )  # fmt: skip


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def turn_batch(
    queries: Any, origin: Any, flat: bool, rest: float, step: float, groups: Any, tiles: Any,
    tile_units: Any, less: Any, places: Any, never: Any, sums: Any, masks: Any, codes: Any,
    units: Any, norms: Any, noise: Any, out: Any,
) -> None:  # fmt: skip
    """Encode queries, and turn them onto the axes.

    Args:
        queries: (m, dim) float32.
        origin: see `encode_raw`.
        flat: see `encode_raw`.
        rest: see `Fit`.
        step: mean square of the rotation's steps.
        groups: see `turn_raw`, as the others up to `masks`.
        tiles: columns of the rotation.
        tile_units: their steps.
        less: zeros.
        places: rising.
        never: limits.
        sums: for the work.
        masks: likewise.
        codes: see `encode_raw`; so are `units` and `norms`.
        units: written.
        norms: written.
        noise: (m,) float64, written: spread of what is lost, by norm of a row.
        out: (m, p) float32, written.
    """
    size = len(queries)
    encode_raw(queries, origin, flat, codes, units, norms)
    turn_raw(
        groups, tiles, tile_units, less, codes, units[:size], places, never, sums, masks, out
    )  # fmt: skip
    for j in range(size):
        length = norms[j]
        if flat:
            length = 1.0 if norms[j] > 0 else 0.0
        noise[j] = np.sqrt((units[j] ** 2 + length**2 * step) / 12 + (rest * length) ** 2)


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _needed_step(query: Any, dims: int, head: int, shift: int) -> float:
    """Return the narrowest step of a turned query with which no code exceeds LEVELS."""
    first, rest = np.float32(0), np.float32(0)
    for c in range(head):
        first = max(first, abs(query[c]))
    for c in range(head, dims):
        rest = max(rest, abs(query[c]))
    return max(np.float64(rest), np.float64(first) / 2.0**shift) / LEVELS


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def part_queries(
    turned: Any, dims: int, head: int, shift: int, flat: bool, usual: float, members: Any,
    units: Any, ends: Any,
) -> int:  # fmt: skip
    """Order queries so that those of l2 lie by their step, which is a power of two of the usual.

    Args:
        turned: (m, p) float32.
        dims: that count.
        head: with wider steps.
        shift: of the queries' head.
        flat: whether scores are products: then each has a step of its own.
        usual: step for l2.
        members: (m,) int64, written: queries in their order.
        units: (m,) float64, written: steps, in that order.
        ends: (m,) int64, written: where each part of equal steps ends; flat: one part.

    Returns:
        how many parts there are.
    """
    size = len(turned)
    powers = np.empty(size, np.int64)
    for j in range(size):
        needed = _needed_step(turned[j], dims, head, shift)
        members[j] = j
        if flat:
            units[j] = np.float64(np.float32(needed)) if needed > 0 else 1.0
        else:
            powers[j] = np.int64(np.ceil(np.log2(max(needed / usual, 2.0**FINEST))))
    ends[0] = size
    if flat:
        return 1
    parts, done, last = 0, 0, np.int64(FINEST - 1)
    while done < size:
        following = np.int64(1 << 30)
        for j in range(size):
            if powers[j] > last:
                following = min(following, powers[j])
        for j in range(size):
            if powers[j] == following:
                members[done], units[done] = j, usual * 2.0**following
                done += 1
        ends[parts] = done
        parts, last = parts + 1, following
    return parts


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_batch(
    job: Any, turned: Any, noise: Any, floors: Any, bounded: float, members: Any, units: Any,
    variance: Any, reach: Any, head: int, edge: int, center: int, row_shift: int, query_shift: int,
    codes: Any,
) -> None:  # fmt: skip
    """Encode turned queries, each at its place, and write their facts.

    Args:
        job: see `kernels.ivf_job`.
        turned: (m, p) float32.
        noise: (m,) float64, see `turn_batch`.
        floors: (m,) float64, scores that are worth looking for.
        bounded: spreads of what codes lose in a usual list, by which floors are lowered.
        members: see `part_queries`.
        units: likewise.
        variance: (dims,) float32, of the rows' offsets.
        reach: (2,) float64, what SPREAD and SPREAD_EDGE are for l2; empty: flat.
        head: dimensions with wider steps.
        edge: dimensions before the first test, a multiple of 16, at least `head`.
        center: dimensions of centers, likewise.
        row_shift: of the rows' head.
        query_shift: of the queries' head.
        codes: (m, dims) int8, written.
    """
    dims, shift = len(variance), query_shift + row_shift
    for p in range(len(turned)):
        query = turned[members[p]]
        total, square, spread = np.int64(0), np.float32(0), np.float32(0)
        loss, wide, some = np.float64(0), np.float32(0), np.int64(0)
        for part in range(3):
            start, stop = (0, head) if part == 0 else ((head, edge) if part == 1 else (edge, dims))
            step = np.float32(units[p] * (2.0**query_shift if part == 0 else 1.0))
            inverse = np.float32(1) / step
            sums, own, wide = np.int32(0), np.float32(0), np.float32(0)
            for c in range(start, stop):
                value = query[c]
                code = min(max(np.rint(value * inverse), np.float32(-LEVELS)), np.float32(LEVELS))
                codes[p, c] = np.int8(code)
                sums += np.int32(code)
                own += value * value
                wide += value * value * variance[c]
            total += np.int64(sums) << (shift if part == 0 else 0)
            square += own
            spread += wide
            loss += own * (4.0**row_shift if part == 0 else 1.0)
            if part == 0:
                some = total
            if part == 1:
                _note(job, ADDED_EDGE, p, np.float32(OFFSET * total))
        rest = np.int32(0)
        for c in range(head, center):
            rest += np.int32(codes[p, c])
        put_i32(job.facts + ADDED_CENTER * job.fact_bytes, p, np.int32(OFFSET * (some + rest)))
        step_loss = np.sqrt(loss / 12.0)
        lost = step_loss * job.usual_steps + units[p] * job.usual_losses
        lost += noise[members[p]] * job.usual_norms
        _note(job, FLOOR, p, np.float32(floors[members[p]] - bounded * lost))
        _note(job, LEVEL_ALL, p, np.float32(LOWEST))
        _note(job, UNIT, p, np.float32(units[p]))
        _note(job, INVERSE, p, np.float32(1.0 / units[p]))
        _note(job, ADDED, p, np.float32(OFFSET * total))
        _note(job, SPREAD, p, np.float32(reach[0]) if len(reach) > 0 else np.sqrt(spread))
        _note(job, SPREAD_EDGE, p, np.float32(reach[1]) if len(reach) > 0 else np.sqrt(wide))
        _note(job, STEP_LOSS, p, np.float32(step_loss))
        _note(job, NORM_LOSS, p, np.float32(noise[members[p]]))
        _note(job, SQUARE, p, square)


@njit(nogil=True, _nrt=False, forceinline=True)  # type: ignore[untyped-decorator]
def _note(job: Any, row: int, place: int, value: Any) -> None:
    """Write a fact."""
    put_f32(job.facts + row * job.fact_bytes, place, value)
