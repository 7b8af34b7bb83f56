"""What the sweep of 8-bit tiles reads of its queries, and its working memory."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.int8_parts import PART, PARTS
from gpuvec.kernels.int8_tile import GROUP, TILE_ROWS, aligned_zeros

RUN = 16  # groups whose sums are kept between the first and the second test


class Batch(NamedTuple):
    """Queries as the sweep reads them. m queries, e edges, c centers.

    Attributes:
        codes: (m + 1, dims) int8, the last row zero.
        units: (m,) float64, the codes' step beyond the head.
        norms: (m,) float64.
        tails: (e, m) float32, norms from each edge on.
        heads: (e, m) float32, norms before each edge.
        lost: (e, m) float32, norms of what the codes lose before each edge.
        added: (e, m) float64, what the rows' offset adds to the product before each edge.
        spreads: (e, m) float32, expected spread of the product before each edge.
        bases: (c, m) float32, products with the centers.
        weight: of a row's half square: 1 for l2, otherwise 0. Where 1, all units are equal.
        slack: share of (|q|² + |x|²) by which bounds are widened; zero but for l2.
        drift: see `Space`.
        shift: places by which the head's products are worth more.
        head: dimensions of the head.
        edges: (e,) int64.
        multiply: see `tile_address`.
    """

    codes: NDArray[np.int8]
    units: NDArray[np.float64]
    norms: NDArray[np.float64]
    tails: NDArray[np.float32]
    heads: NDArray[np.float32]
    lost: NDArray[np.float32]
    added: NDArray[np.float64]
    spreads: NDArray[np.float32]
    bases: NDArray[np.float32]
    weight: float
    slack: float
    drift: float
    shift: int
    head: int
    edges: NDArray[np.int64]
    multiply: int


class Scratch(NamedTuple):
    """Working memory of one sweep of m queries. Places are positions in `order`."""

    order: NDArray[np.int64]  # (m + GROUP,) the active queries of a list, by falling edge
    edge: NDArray[np.int32]  # (m,) index of each query's first edge in the list
    gaps: NDArray[np.float32]  # (m,) what a row's offset must add to reach the floor
    starts: NDArray[np.float64]  # (3, m + GROUP) by place: lines of the three tests
    slopes: NDArray[np.float64]  # (2, m + GROUP)
    firsts: NDArray[np.int64]  # (m / GROUP + 1,) by group: index of the first edge
    stops: NDArray[np.int64]  # (2, m / GROUP + 1) by group: steps to the first and second test
    bias: NDArray[np.int32]  # (TILE_ROWS,)
    sums: NDArray[np.int32]  # (RUN, GROUP, TILE_ROWS / PART, PART)
    rows: NDArray[np.uint16]  # (RUN, GROUP, TILE_ROWS / PART) rows that pass, by bits
    parts: NDArray[np.int32]  # (RUN * GROUP * TILE_ROWS / PART + 8,) places in `rows`
    seeds: NDArray[np.int64]  # (m,) the list that each query starts with, or -1
    best: NDArray[np.float32]  # (m,) its score
    near: NDArray[np.float32]  # (m,) mean of the lists' scores
    spread: NDArray[np.float32]  # (m,) and their spread
    done: NDArray[np.bool_]  # (l, m) lists that were scanned, or ruled out
    counts: NDArray[np.int64]  # (e + 1,)


def make_scratch(size: int, edges: int, lists: int) -> Scratch:
    """Return working memory for sweeps of `size` queries over at most so many lists."""
    padded = size + GROUP
    return Scratch(
        order=np.empty(padded, np.int64),
        edge=np.empty(size, np.int32),
        gaps=np.empty(size, np.float32),
        starts=np.empty((3, padded), np.float64),
        slopes=np.empty((2, padded), np.float64),
        firsts=np.empty(size // GROUP + 1, np.int64),
        stops=np.empty((2, size // GROUP + 1), np.int64),
        bias=aligned_zeros((TILE_ROWS,), np.int32),
        sums=aligned_zeros((RUN * GROUP * PARTS, PART), np.int32),
        rows=aligned_zeros((RUN * GROUP * PARTS,), np.uint16),
        parts=np.empty(RUN * GROUP * PARTS + 8, np.int32),
        seeds=np.empty(size, np.int64),
        best=np.empty(size, np.float32),
        near=np.empty(size, np.float32),
        spread=np.empty(size, np.float32),
        done=np.empty((lists, size), np.bool_),
        counts=np.empty(edges + 1, np.int64),
    )
