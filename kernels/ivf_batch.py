"""What the sweep of lists reads of its queries, and its working memory."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_parts import PART, PARTS
from gpuvec.kernels.int8_tile import GROUP, TILE_ROWS, WORD, aligned_zeros, tile_product
from gpuvec.kernels.ivf_ir import LANES, scale_sums
from gpuvec.kernels.quantize import LEVELS, OFFSET

RUN = 16  # groups whose sums are kept between the first test and the second
_SUMS = {"reassoc", "contract"}

# Columns of `IvfBatch.facts`.
UNIT = 0  # the codes' step beyond the head
INVERSE = 1  # its inverse
ADDED_EDGE = 2  # what the rows' offset adds to products before the edge
ADDED = 3  # and to all
SPREAD = 4  # expected spread of a row's product; for l2: at distance 1 of the center
SPREAD_EDGE = 5  # of what lies beyond the edge
STEP_LOSS = 6  # spread of what rows' rounding takes off scores, in the rows' steps
NORM_LOSS = 7  # spread of what the rotation's rounding takes off, by the rows' norms
SQUARE = 8  # squared norm
ADDED_CENTER = 9  # what the centers' offset adds to products with them
FACTS = 10


class IvfBatch(NamedTuple):
    """Queries as the sweep reads them: m of them.

    Attributes:
        codes: (m + 1, dims) int8, the last row zero.
        facts: (m, FACTS) float64, see the columns above.
        flat: whether scores are products: for ip and cosine, not for l2.
        shift: places by which the head's products are worth more.
        head: steps of the head.
        edge: steps before the first test.
        multiply: see `tile_address`.
    """

    codes: NDArray[np.int8]
    facts: NDArray[np.float64]
    flat: bool
    shift: int
    head: int
    edge: int
    multiply: int


class Wants(NamedTuple):
    """Lists that queries want.

    Attributes:
        ends: (m,) int64, of each query's wants.
        lists: (m * l + LANES,) int32, lists wanted, query by query.
        bases: likewise, float32, their scores.
        base_bits: the same memory as int32.
    """

    ends: NDArray[np.int64]
    lists: NDArray[np.int32]
    bases: NDArray[np.float32]
    base_bits: NDArray[np.int32]


class IvfScratch(NamedTuple):
    """Working memory of one sweep: m queries, l lists, p = l padded to whole tiles.

    Attributes:
        scores: (m, p) float32, of centers; -inf once a list needs no more looking at.
        first: what queries want first.
        later: what they want later.
        counts: (l + 1,) int64, wants of each list; then where they begin; then where they end.
        order: (m * l,) int64, wants list by list: query, and the score's bits above it.
        slots: (m + GROUP,) int64, places in `codes` of the queries that a list is scanned for.
        slot_bases: (m + GROUP,) float32, the list's scores.
        slot_bits: the same memory as int32.
        starts: (2, m + GROUP) float64 by place: lines of the two tests.
        slopes: (m + GROUP,) float64.
        lines: (GROUP,) float64, +inf: passed by no sum.
        bias: (2, TILE_ROWS) int32.
        sums: (RUN, GROUP, PARTS, PART) int32.
        rows: (RUN, GROUP, PARTS) uint16, rows that pass, by bits.
        parts: (RUN * GROUP * PARTS + 8,) int32, places in `rows`.
    """

    scores: NDArray[np.float32]
    first: Wants
    later: Wants
    counts: NDArray[np.int64]
    order: NDArray[np.int64]
    slots: NDArray[np.int64]
    slot_bases: NDArray[np.float32]
    slot_bits: NDArray[np.int32]
    starts: NDArray[np.float64]
    slopes: NDArray[np.float64]
    lines: NDArray[np.float64]
    bias: NDArray[np.int32]
    sums: NDArray[np.int32]
    rows: NDArray[np.uint16]
    parts: NDArray[np.int32]


def _make_wants(size: int, lists: int) -> Wants:
    bases = np.empty(size * lists + LANES, np.float32)
    return Wants(
        ends=np.empty(size, np.int64),
        lists=np.empty(size * lists + LANES, np.int32),
        bases=bases,
        base_bits=bases.view(np.int32),
    )


def make_scratch(size: int, lists: int) -> IvfScratch:
    """Return working memory for sweeps of up to `size` queries over so many lists.

    Most of it is for the worst case and never touched.
    """
    padded, places = -(-lists // TILE_ROWS) * TILE_ROWS, size + GROUP
    slot_bases = np.empty(places, np.float32)
    return IvfScratch(
        scores=np.empty((size, padded), np.float32),
        first=_make_wants(size, lists),
        later=_make_wants(size, lists),
        counts=np.empty(lists + 1, np.int64),
        order=np.empty(size * lists, np.int64),
        slots=np.empty(places, np.int64),
        slot_bases=slot_bases,
        slot_bits=slot_bases.view(np.int32),
        starts=np.empty((2, places), np.float64),
        slopes=np.empty(places, np.float64),
        lines=np.full(GROUP, np.inf),
        bias=aligned_zeros((2, TILE_ROWS), np.int32),
        sums=aligned_zeros((RUN * GROUP * PARTS, PART), np.int32),
        rows=aligned_zeros((RUN * GROUP * PARTS,), np.uint16),
        parts=np.empty(RUN * GROUP * PARTS + 8, np.int32),
    )


def scratch_bytes(size: int, lists: int) -> int:
    """Return about what `make_scratch` takes."""
    return (28 * size + 128) * (lists + TILE_ROWS)


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_raw(queries: Any, origin: Any, flat: bool, codes: Any, units: Any, norms: Any) -> None:
    """Encode queries as they were asked, for the rotation.

    Args:
        queries: (m, dim) float32.
        origin: (dim,) float32, taken off but for flat scores, where lengths are made 1 instead.
        flat: see `IvfBatch`.
        codes: (m + 1, dim padded to SEGMENT) int8, written up to dim.
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
    tiles: Any, tile_units: Any, codes: Any, units: Any, multiply: int, slots: Any, nothing: Any,
    lines: Any, sums: Any, rows: Any, out: Any,
) -> None:  # fmt: skip
    """Rotate encoded queries.

    Args:
        tiles: (p / TILE_ROWS, steps, TILE_ROWS, WORD) uint8, the rotation's columns.
        tile_units: (p,) float32, their steps.
        codes: (m + 1, 4 * steps) int8, see `encode_raw`.
        units: (m,) float64.
        multiply: see `tile_address`.
        slots: (m + GROUP,) int64, rising; m from m on.
        nothing: (p,) float32, zeros.
        lines: (GROUP,) float64, +inf.
        sums: (GROUP * PARTS, PART) int32, for the work.
        rows: (GROUP * PARTS,) uint16, likewise.
        out: (m, p) float32, written.
    """
    size, steps = len(units), tiles.shape[1]
    bias = np.zeros(TILE_ROWS, np.int32)
    added = np.zeros(size, np.int64)
    for j in range(size):
        total = np.int64(0)
        for c in range(codes.shape[1]):
            total += codes[j, c]
        added[j] = OFFSET * total
    for tile in range(len(tiles)):
        for first in range(0, size, GROUP):
            tile_product(
                multiply, tiles.ctypes.data + tile * steps * TILE_ROWS * WORD, bias.ctypes.data,
                codes.ctypes.data, codes.shape[1], slots.ctypes.data + 8 * first, 0, steps, 0,
                lines.ctypes.data, lines.ctypes.data, 0.0, 0.0, 0, rows.ctypes.data,
                sums.ctypes.data,
            )  # fmt: skip
            for i in range(min(GROUP, size - first)):
                at = tile * TILE_ROWS
                scale_sums(
                    sums.ctypes.data + 4 * i * TILE_ROWS, added[first + i], units[first + i],
                    tile_units.ctypes.data + 4 * at, nothing.ctypes.data + 4 * at,
                    out.ctypes.data + 4 * ((first + i) * out.shape[1] + at),
                )  # fmt: skip


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def query_units(queries: Any, dims: int, head: int, shift: int, out: Any) -> None:
    """Write the narrowest step of each rotated query with which no code exceeds LEVELS."""
    for j in range(len(queries)):
        first, rest = np.float32(0), np.float32(0)
        for c in range(head):
            first = max(first, abs(queries[j, c]))
        for c in range(head, dims):
            rest = max(rest, abs(queries[j, c]))
        out[j] = max(np.float64(rest), np.float64(first) / 2.0**shift) / LEVELS


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_batch(
    queries: Any, units: Any, variance: Any, head: int, edge: int, center: int,
    row_shift: int, query_shift: int, reach: Any, noise: Any, codes: Any, facts: Any,
) -> None:  # fmt: skip
    """Encode rotated queries.

    Args:
        queries: (m, p) float32; dims of them count.
        units: (m,) float64, steps beyond the head.
        variance: (dims,) float32, of the rows' offsets.
        head: dimensions with wider steps.
        edge: dimensions before the first test, a multiple of 16, at least `head`.
        center: dimensions of centers, likewise.
        row_shift: of the rows' head.
        query_shift: of the queries' head.
        reach: (2,) float64, what SPREAD and SPREAD_EDGE are for l2; empty: flat.
        noise: (m,) float64, NORM_LOSS.
        codes: (m + 1, dims) int8, written but for the last row.
        facts: (m, FACTS) float64, written.
    """
    dims = len(variance)
    for j in range(len(queries)):
        total, square, spread = np.int64(0), np.float32(0), np.float32(0)
        loss = np.float64(0)
        for part in range(3):
            start, stop = (0, head) if part == 0 else ((head, edge) if part == 1 else (edge, dims))
            step = np.float32(units[j] * (2.0**query_shift if part == 0 else 1.0))
            inverse = np.float32(1) / step
            sums, own, wide = np.int32(0), np.float32(0), np.float32(0)
            for c in range(start, stop):
                value = queries[j, c]
                code = min(max(np.rint(value * inverse), np.float32(-LEVELS)), np.float32(LEVELS))
                codes[j, c] = np.int8(code)
                sums += np.int32(code)
                own += value * value
                wide += value * value * variance[c]
            total += np.int64(sums) << (query_shift + row_shift if part == 0 else 0)
            square += own
            spread += wide
            loss += own * (4.0**row_shift if part == 0 else 1.0)
            if part == 1:
                facts[j, ADDED_EDGE] = OFFSET * total
            if part == 2:
                facts[j, SPREAD_EDGE] = reach[1] if len(reach) > 0 else np.sqrt(wide)
        some = np.int64(0)
        for c in range(head, center):
            some += codes[j, c]
        for c in range(head):
            some += np.int64(codes[j, c]) << (query_shift + row_shift)
        facts[j, ADDED_CENTER] = OFFSET * some
        facts[j, UNIT] = units[j]
        facts[j, INVERSE] = 1.0 / units[j]
        facts[j, ADDED] = OFFSET * total
        facts[j, SPREAD] = reach[0] if len(reach) > 0 else np.sqrt(spread)
        facts[j, STEP_LOSS] = np.sqrt(loss / 12.0)
        facts[j, NORM_LOSS] = noise[j]
        facts[j, SQUARE] = square
