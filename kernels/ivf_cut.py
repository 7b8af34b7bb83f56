"""Groups of rows cut into lists of a few tiles, and lists turned into codes: compiled."""

from typing import Any

import numpy as np

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_tile import TILE_ROWS
from gpuvec.kernels.quantize import OFFSET, SEGMENT, encode_vector, unit_of

_SUMS = {"reassoc", "contract"}
_TURNS = 6  # of the power iteration
_DEEPEST = 64  # cuts above each other: more than a group has tiles in powers of two


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def count_lists(tiles: int, most: int) -> int:
    """Return into how many lists of at most `most` tiles a group of `tiles` is cut."""
    waiting = np.empty(_DEEPEST, np.int64)
    waiting[0], left, lists = tiles, 1, 0
    while left > 0:
        left -= 1
        size = waiting[left]
        if size <= most:
            lists += 1
        else:
            waiting[left], waiting[left + 1] = size // 2, size - size // 2
            left += 2
    return lists


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _mean(vectors: Any, known: Any, members: Any, out: Any) -> None:
    """Write the mean of the members that are known, or of all where none is."""
    for turn in range(2):
        out[:] = 0
        count = 0
        for i in members:
            if known[i] or turn == 1:
                count += 1
                for c in range(len(out)):
                    out[c] += vectors[i, c]
        if count > 0:
            out *= np.float32(1.0 / count)
            return


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _along(vectors: Any, members: Any, mean: Any, axis: Any, out: Any) -> None:
    """Write each member's offset from the mean along an axis."""
    for p in range(len(members)):
        row, total = vectors[members[p]], np.float32(0)
        for c in range(len(axis)):
            total += (row[c] - mean[c]) * axis[c]
        out[p] = total


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _longest_axis(vectors: Any, known: Any, members: Any, mean: Any) -> Any:
    """Return about the direction in which the known members differ most, from a fixed start."""
    farthest, best = members[0], np.float32(-1)
    for i in members:
        square = np.float32(0)
        for c in range(len(mean)):
            square += (vectors[i, c] - mean[c]) ** 2
        if known[i] and square > best:
            farthest, best = i, square
    axis = vectors[farthest] - mean
    shares = np.empty(len(members), np.float32)
    for _ in range(_TURNS):
        norm = np.sqrt((axis * axis).sum())
        if not norm > 0:
            break
        axis /= norm
        _along(vectors, members, mean, axis, shares)
        axis[:] = 0
        for p in range(len(members)):
            if known[members[p]]:
                row = vectors[members[p]]
                for c in range(len(axis)):
                    axis[c] += shares[p] * (row[c] - mean[c])
    return axis


@njit(nogil=True, cache=True)  # type: ignore[untyped-decorator]
def cut_group(vectors: Any, known: Any, order: Any, most: int, ends: Any) -> int:
    """Reorder a group's rows so that lists of at most `most` tiles follow each other.

    Each cut halves the tiles across the longest axis, so all tiles but the last are full.

    Args:
        vectors: (n, dims) float32.
        known: (n,) bool, rows that axes may be learnt from.
        order: (r,) int64, the group's rows; reordered.
        most: tiles.
        ends: (count_lists(...),) int64, written: the end of each list in `order`.

    Returns:
        how many lists there are.
    """
    waiting = np.empty((_DEEPEST, 2), np.int64)
    waiting[0, 0], waiting[0, 1], left, lists = 0, len(order), 1, 0
    mean = np.empty(vectors.shape[1], np.float32)
    while left > 0:
        left -= 1
        start, stop = waiting[left]
        tiles = (stop - start + TILE_ROWS - 1) // TILE_ROWS
        if tiles <= most:
            ends[lists] = stop
            lists += 1
            continue
        members = order[start:stop].copy()
        _mean(vectors, known, members, mean)
        axis = _longest_axis(vectors, known, members, mean)
        places = np.empty(len(members), np.float32)
        _along(vectors, members, mean, axis, places)
        order[start:stop] = members[np.argsort(places, kind="mergesort")]
        middle = start + tiles // 2 * TILE_ROWS
        waiting[left, 0], waiting[left, 1] = middle, stop
        waiting[left + 1, 0], waiting[left + 1, 1] = start, middle
        left += 2
    return lists


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def _unit(vectors: Any, members: Any, center: Any, head: int, shift: int) -> Any:
    """Return the step in which all offsets of a list's rows can be told."""
    first, rest = np.float32(0), np.float32(0)
    for i in members:
        for c in range(len(center)):
            size = abs(vectors[i, c] - center[c])
            if c < head:
                first = max(first, size)
            else:
                rest = max(rest, size)
    return unit_of(first, rest, shift)


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_lists(
    vectors: Any, half: Any, known: Any, order: Any, ends: Any, head: int, shift: int, edge: int,
    center_dims: int, words: Any, centers: Any, units: Any, spreads: Any, heads: Any, tails: Any,
    terms: Any,
) -> None:  # fmt: skip
    """Encode lists as offsets from their means, each from a tile of its own on.

    Args:
        vectors: (n, dims) float32, rotated.
        half: (n,) float32, half squares of all their dimensions.
        known: (n,) bool, rows that statistics may be learnt from.
        order: (r,) int64, the rows of all lists.
        ends: (l,) int64, the end of each list in `order`.
        head: see `encode_vector`.
        shift: of the rows' head.
        edge: dimension after which scans look for the first time.
        center_dims: dimensions of centers; beyond them they are zero.
        words: (t, dims / 4, TILE_ROWS) uint32, written but for padding.
        centers: (l, dims) float32, written: means.
        units: (l,) float64, written: steps.
        spreads: (l,) float64, written: mean square of the offsets.
        heads: (l,) float64, written: of that, before `head`.
        tails: (t,) float64, written: mean square beyond `edge` of the tile's rows.
        terms: (2, t, TILE_ROWS) float32 or (2, 0, TILE_ROWS), written: half squares less the
            center's; first without what offset and center multiply to beyond `edge`.
    """
    dims = vectors.shape[1]
    offset = np.empty(dims, np.float32)
    codes = np.empty(dims, np.int8)
    stored = np.empty(dims, np.uint8)
    stored_words = stored.view(np.uint32)
    parts = np.empty((3, dims // SEGMENT), np.float32)
    start, tile = 0, 0
    for at in range(len(ends)):
        members, center = order[start : ends[at]], centers[at]
        _mean(vectors, known, members, center)
        center[center_dims:] = 0
        middle = np.float32(0)
        for c in range(center_dims):
            middle += center[c] * center[c] / 2
        unit = _unit(vectors, members, center, head, shift)
        units[at] = unit
        for p in range(len(members)):
            row, lane = vectors[members[p]], p % TILE_ROWS
            near, far, own = np.float32(0), np.float32(0), np.float32(0)
            beyond = np.float32(0)
            for c in range(dims):
                offset[c] = row[c] - center[c]
                square = offset[c] * offset[c]
                own += square
                if c < head:
                    near += square
                if c >= edge:
                    far += square
                    beyond += center[c] * offset[c]
            encode_vector(offset, unit, head, shift, codes, parts)
            for c in range(dims):
                stored[c] = np.uint8(np.int64(codes[c]) + OFFSET)
            for w in range(len(stored_words)):
                words[tile + p // TILE_ROWS, w, lane] = stored_words[w]
            spreads[at] += own / len(members)
            heads[at] += near / len(members)
            whole = min(TILE_ROWS, len(members) - p // TILE_ROWS * TILE_ROWS)
            tails[tile + p // TILE_ROWS] += far / whole
            if terms.shape[1] > 0:
                term = half[members[p]] - middle
                terms[0, tile + p // TILE_ROWS, lane] = term - beyond
                terms[1, tile + p // TILE_ROWS, lane] = term
        start = ends[at]
        tile += (len(members) + TILE_ROWS - 1) // TILE_ROWS
