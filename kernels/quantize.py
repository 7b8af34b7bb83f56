"""Signed 8-bit codes of vectors, with the norms that bound what the codes lose.

Vectors come rotated, so that their first dimensions hold most of their energy. The first `head`
dimensions have steps `2**shift` times as wide as the rest: one step for all would be too coarse for
the many small coordinates. Every norm returned is rounded up, so a bound built on it holds.
"""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_tile import TILE_ROWS

SEGMENT = 16  # dimensions between two places where norms are kept; codes are padded to it
LEVELS = 127  # codes go from -LEVELS to LEVELS; rows are stored with OFFSET added
OFFSET = 128
UNDERFLOW = 1e-17  # more than the norm of what float32 squares lose below their range
_SUMS = {"reassoc", "contract"}  # sums may be vectorised; `_up` covers the difference


@njit(nogil=True, cache=True, inline="always")  # type: ignore[untyped-decorator]
def _up(square: Any, terms: int) -> Any:
    """Return the root of a float32 sum of squares, raised above what rounding may have lost."""
    return np.sqrt(square) * (1.0 + (terms + 8) * 2.0**-23) + UNDERFLOW


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def peaks(vectors: Any, head: int) -> Any:
    """Return the largest magnitude of each vector before and from dimension `head` on, (n, 2)."""
    out = np.zeros((vectors.shape[0], 2), np.float32)
    for i in range(vectors.shape[0]):
        first, rest = np.float32(0), np.float32(0)
        for c in range(head):
            first = max(first, abs(vectors[i, c]))
        for c in range(head, vectors.shape[1]):
            rest = max(rest, abs(vectors[i, c]))
        out[i, 0], out[i, 1] = first, rest
    return out


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def unit_of(head_peak: float, rest_peak: float, shift: int) -> float:
    """Return the narrower step with which no code exceeds LEVELS; 1 where all is next to zero."""
    unit = max(rest_peak, head_peak / 2.0**shift) / LEVELS
    return float(np.float32(unit)) if unit > UNDERFLOW else 1.0


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_vector(vector: Any, unit: float, head: int, shift: int, codes: Any, parts: Any) -> None:
    """Write a vector's codes and what they keep and lose.

    Args:
        vector: (dims,) float32, dims a multiple of SEGMENT.
        unit: step from `head` on; before it the step is `unit * 2**shift`.
        head: a multiple of SEGMENT.
        shift: at least 0.
        codes: (dims,) int8, written.
        parts: (3, dims / SEGMENT) float32, written: squared norm of each segment, of what its codes
            lose and of what they say.
    """
    for s in range(parts.shape[1]):
        step = np.float32(unit * 2.0**shift) if s * SEGMENT < head else np.float32(unit)
        inverse = np.float32(1) / step
        square, lost, said = np.float32(0), np.float32(0), np.float32(0)
        for c in range(s * SEGMENT, s * SEGMENT + SEGMENT):
            value = vector[c]
            code = min(max(np.rint(value * inverse), np.float32(-LEVELS)), np.float32(LEVELS))
            codes[c] = np.int8(code)
            near = code * step
            miss = value - near
            square += value * value
            lost += miss * miss
            said += near * near
        parts[0, s], parts[1, s], parts[2, s] = square, lost, said


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def norms_at(parts: Any, edges: Any, norms: Any) -> None:
    """Turn `parts` of `encode_vector` into norms, all rounded up.

    Args:
        parts: (3, s) float32.
        edges: (e,) int64 dimensions, rising multiples of SEGMENT; the last is all of them.
        norms: (4, e) float32, written: of the vector from each edge on; and before it: of the
            vector, of what is lost, of what is said.
    """
    dims = parts.shape[1] * SEGMENT
    square, lost, said, s = np.float32(0), np.float32(0), np.float32(0), 0
    for e in range(len(edges)):
        while s * SEGMENT < edges[e]:
            square += parts[0, s]
            lost += parts[1, s]
            said += parts[2, s]
            s += 1
        norms[1, e], norms[2, e], norms[3, e] = _up(square, dims), _up(lost, dims), _up(said, dims)
    rest, s = np.float32(0), parts.shape[1] - 1
    for e in range(len(edges) - 1, -1, -1):
        while s * SEGMENT >= edges[e]:
            rest += parts[0, s]
            s -= 1
        norms[0, e] = _up(rest, dims) if edges[e] < dims else 0.0


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def encode_queries(
    queries: Any, units: Any, head: int, shift: int, row_shift: int, edges: Any, variance: Any
) -> Any:
    """Encode queries, and sum up what the scan asks of them at each edge.

    Args:
        queries: (m, dims) float32, rotated.
        units: (m,) float64, see `unit_of`.
        head: see `encode_vector`.
        shift: of the queries' head.
        row_shift: of the rows' head.
        edges: see `norms_at`.
        variance: (dims,) float32, of the rows' coordinates.

    Returns:
        codes (m + 1, dims) int8, the last row zero; (4, e, m) norms as of `norms_at`; (e, m)
        expected spread of the product before each edge, both float32; (e, m) float64 what the rows'
        OFFSET adds to the integer product before each edge.
    """
    count, dims = queries.shape
    codes = np.zeros((count + 1, dims), np.int8)
    norms = np.zeros((4, len(edges), count), np.float32)
    spreads = np.zeros((len(edges), count), np.float32)
    added = np.zeros((len(edges), count), np.float64)
    parts = np.zeros((3, dims // SEGMENT), np.float32)
    own = np.zeros((4, len(edges)), np.float32)
    for j in range(count):
        encode_vector(queries[j], units[j], head, shift, codes[j], parts)
        norms_at(parts, edges, own)
        for kind in range(4):
            for e in range(len(edges)):
                norms[kind, e, j] = own[kind, e]
        total, spread, start = np.int64(0), np.float32(0), 0
        for e in range(len(edges)):
            for c in range(start, edges[e]):
                code = np.int64(codes[j, c])
                total += (code << (shift + row_shift)) if c < head else code
                spread += queries[j, c] * queries[j, c] * variance[c]
            start = edges[e]
            added[e, j] = OFFSET * total
            spreads[e, j] = np.sqrt(spread)
    return codes, norms, spreads, added


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def encode_list(
    rows: Any, members: Any, center: Any, head: int, shift: int, edges: Any, tiles: Any, tails: Any
) -> Any:
    """Encode the offsets of some rows from their center into tiles.

    Args:
        rows: (n, dims) float32, rotated.
        members: (r,) int64, which rows, in the order of the tiles.
        center: (dims,) float32.
        head: see `encode_vector`.
        shift: of the rows' head.
        edges: see `norms_at`.
        tiles: (t, dims / 4, TILE_ROWS) uint32, written but for padding; t * TILE_ROWS >= r.
        tails: (t, e) float32, written: greatest norm from each edge on, of the tile's rows.

    Returns:
        unit; (4, e) greatest norms as of `norms_at`; (e,) mean norm from each edge on. float64.
    """
    dims = rows.shape[1]
    offset = np.empty(dims, np.float32)
    codes = np.empty(dims, np.int8)
    stored = np.empty(dims, np.uint8)
    words = stored.view(np.uint32)
    parts = np.empty((3, dims // SEGMENT), np.float32)
    own = np.empty((4, len(edges)), np.float32)
    unit = _list_unit(rows, members, center, head, shift)
    greatest = np.zeros((4, len(edges)), np.float64)
    means = np.zeros(len(edges), np.float64)
    tails[:] = 0
    for r in range(len(members)):
        row = rows[members[r]]
        for c in range(dims):
            offset[c] = row[c] - center[c]
        encode_vector(offset, unit, head, shift, codes, parts)
        for c in range(dims):
            stored[c] = np.uint8(np.int64(codes[c]) + OFFSET)
        tile, lane = r // TILE_ROWS, r % TILE_ROWS
        for w in range(len(words)):
            tiles[tile, w, lane] = words[w]
        norms_at(parts, edges, own)
        for e in range(len(edges)):
            means[e] += own[0, e]
            tails[tile, e] = max(tails[tile, e], own[0, e])
            for kind in range(4):
                greatest[kind, e] = max(greatest[kind, e], own[kind, e])
    return unit, greatest, means / max(1, len(members))


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def _list_unit(rows: Any, members: Any, center: Any, head: int, shift: int) -> float:
    """Return the step that fits the offsets of all members."""
    first, rest = np.float32(0), np.float32(0)
    for r in range(len(members)):
        row = rows[members[r]]
        for c in range(head):
            first = max(first, abs(row[c] - center[c]))
        for c in range(head, rows.shape[1]):
            rest = max(rest, abs(row[c] - center[c]))
    return float(unit_of(first, rest, shift))


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def tail_squares(rows: Any, nearest: Any, centers: Any, start: int) -> Any:
    """Return the squared norm of each row's offset from its center, from dimension `start` on."""
    out = np.zeros(len(rows), np.float32)
    for i in range(len(rows)):
        row, center, total = rows[i], centers[nearest[i]], np.float32(0)
        for c in range(start, len(row)):
            offset = row[c] - center[c]
            total += offset * offset
        out[i] = total
    return out
