"""What the sweep of lists reads of its queries, and its working memory."""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.compiled import njit
from gpuvec.kernels.int8_parts import PART, PARTS
from gpuvec.kernels.int8_tile import GROUP, TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.quantize import LEVELS, OFFSET

RUN = 16  # groups whose sums are kept between the first test and the second
BUCKETS = 64  # of lists, whose greatest scores tell where a query starts
SPARE = 64  # of flags, beyond the lists: they are looked at eight at a time
_SUMS = {"reassoc", "contract"}


class IvfBatch(NamedTuple):
    """Queries as the sweep reads them: m of them.

    Attributes:
        codes: (m + 1, dims) int8, the last row zero.
        units: (m,) float64, the codes' step beyond the head.
        added: (2, m) float64, what the rows' offset adds to products before the edge, and to all.
        spreads: (2, m) float32, expected spread of a row's product: of all dimensions, and beyond
            the edge. For l2: of all queries alike, at distance 1 of the center.
        squares: (m,) float32, squared norms; what distances from centers follow from.
        losses: (m,) float64, spread of what rows' rounding takes off scores, in the rows' steps.
        flat: whether scores are products: for ip and cosine, not for l2.
        shift: places by which the head's products are worth more.
        head: steps of the head.
        edge: steps before the first test.
        multiply: see `tile_address`.
    """

    codes: NDArray[np.int8]
    units: NDArray[np.float64]
    added: NDArray[np.float64]
    spreads: NDArray[np.float32]
    squares: NDArray[np.float32]
    losses: NDArray[np.float64]
    flat: bool
    shift: int
    head: int
    edge: int
    multiply: int


class IvfScratch(NamedTuple):
    """Working memory of one sweep: m queries, l lists, p = l padded to whole tiles.

    Attributes:
        scores: (m + GROUP, p) float32, of centers; -inf once a list needs no more looking at.
        flags: (p + SPARE,) uint8, lists that a query wants.
        words: the same memory as uint64.
        counts: (l + 1,) int64, wants of each list; then where they begin.
        lists: wants in order of queries.
        queries: likewise.
        wants: queries, list by list.
        slots: (m + GROUP,) int64, places in `codes` of the queries that a list is scanned for.
        starts: (2, m + GROUP) float64 by place: lines of the two tests.
        slopes: (m + GROUP,) float64.
        lines: (GROUP,) float64, +inf: passed by no sum.
        bias: (2, TILE_ROWS) int32.
        sums: (RUN, GROUP, PARTS, PART) int32.
        rows: (RUN, GROUP, PARTS) uint16, rows that pass, by bits.
        parts: (RUN * GROUP * PARTS + 8,) int32, places in `rows`.
        tops: (BUCKETS,) float32.
    """

    scores: NDArray[np.float32]
    flags: NDArray[np.uint8]
    words: NDArray[np.uint64]
    counts: NDArray[np.int64]
    lists: NDArray[np.int32]
    queries: NDArray[np.int32]
    wants: NDArray[np.int32]
    slots: NDArray[np.int64]
    starts: NDArray[np.float64]
    slopes: NDArray[np.float64]
    lines: NDArray[np.float64]
    bias: NDArray[np.int32]
    sums: NDArray[np.int32]
    rows: NDArray[np.uint16]
    parts: NDArray[np.int32]
    tops: NDArray[np.float32]


def make_scratch(size: int, lists: int) -> IvfScratch:
    """Return working memory for sweeps of up to `size` queries over so many lists."""
    padded, places = -(-lists // TILE_ROWS) * TILE_ROWS, size + GROUP
    flags = aligned_zeros((padded + SPARE,), np.uint8)
    return IvfScratch(
        scores=np.empty((places, padded), np.float32),
        flags=flags,
        words=flags[: (padded + SPARE) // 8 * 8].view(np.uint64),
        counts=np.empty(lists + 1, np.int64),
        lists=np.empty(size * lists, np.int32),
        queries=np.empty(size * lists, np.int32),
        wants=np.empty(size * lists, np.int32),
        slots=np.empty(places, np.int64),
        starts=np.empty((2, places), np.float64),
        slopes=np.empty(places, np.float64),
        lines=np.full(GROUP, np.inf),
        bias=aligned_zeros((2, TILE_ROWS), np.int32),
        sums=aligned_zeros((RUN * GROUP * PARTS, PART), np.int32),
        rows=aligned_zeros((RUN * GROUP * PARTS,), np.uint16),
        parts=np.empty(RUN * GROUP * PARTS + 8, np.int32),
        tops=np.empty(BUCKETS, np.float32),
    )


def scratch_bytes(size: int, lists: int) -> int:
    """Return about what `make_scratch` takes."""
    return (16 * size + 128) * (lists + TILE_ROWS)


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def query_peaks(queries: Any, head: int, out: Any) -> None:
    """Write the largest magnitude of each query before and from dimension `head` on, (m, 2)."""
    for j in range(len(queries)):
        first, rest = np.float32(0), np.float32(0)
        for c in range(head):
            first = max(first, abs(queries[j, c]))
        for c in range(head, queries.shape[1]):
            rest = max(rest, abs(queries[j, c]))
        out[j, 0], out[j, 1] = first, rest


@njit(nogil=True, cache=True, fastmath=_SUMS)  # type: ignore[untyped-decorator]
def encode_batch(
    queries: Any, units: Any, variance: Any, head: int, edge: int, row_shift: int, query_shift: int,
    codes: Any, added: Any, spreads: Any, energies: Any,
) -> None:  # fmt: skip
    """Encode queries.

    Args:
        queries: (m, dims) float32, rotated.
        units: (m,) float64, steps beyond the head.
        variance: (dims,) float32, of the rows' offsets.
        head: dimensions with wider steps.
        edge: dimensions before the first test, a multiple of 16, at least `head`.
        row_shift: of the rows' head.
        query_shift: of the queries' head.
        codes: (m + 1, dims) int8, written but for the last row.
        added: (2, m) float64, written: see `IvfBatch`.
        spreads: (2, m) float32, written: see `IvfBatch`, as for ip and cosine.
        energies: (2, m) float32, written: squared norms of the head, and of all.
    """
    dims = queries.shape[1]
    for j in range(len(queries)):
        total, square, spread = np.int64(0), np.float32(0), np.float32(0)
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
            if part == 0:
                energies[0, j] = own
            if part == 1:
                added[0, j] = OFFSET * total
            if part == 2:
                spreads[1, j] = np.sqrt(wide)
        energies[1, j] = square
        added[1, j] = OFFSET * total
        spreads[0, j] = np.sqrt(spread)


def steps_of(dimensions: int) -> int:
    """Return the steps that so many dimensions take."""
    return dimensions // WORD
