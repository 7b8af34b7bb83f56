"""Rows as the approximate batch search reads them: rotated, in many small lists of 8-bit tiles.

k-means of a sample groups the rows; groups are cut across their longest axes into lists of a few
tiles, each with its mean as center. Codes are those of offsets from the center. Of every list its
spread is known, so a search can tell how far above the center's score a row's is likely to be.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.blas import one_blas_thread
from gpuvec.kernels.int8_means import BLOCK, half_squares, k_means, nearest_center, spread_of
from gpuvec.kernels.int8_pack import MAX_SHIFT, choose_head, rotate
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.ivf_cut import count_lists, cut_group, encode_lists
from gpuvec.kernels.parallel import run_parallel
from gpuvec.kernels.quantize import LEVELS, OFFSET, SEGMENT, encode_vector, unit_of
from gpuvec.kernels.scan_bounds import LARGEST, SMALLEST, prepare_rows
from gpuvec.types import Metric, RowMask

SAMPLE_PER_CENTER = 64
MIN_SAMPLE = 8192
ROUNDS = 8
LIST_TILES = 1  # tiles of a list, at most
_BLOCK = 8192  # rows converted at a time
_ROWS_PER_GROUP = 62
_MOST_GROUPS = 4096
_MAX_SUM = 2**29  # of an integer product
_ROUNDING = 12.0**-0.5  # spread of what rounding to a step loses, in steps

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class IvfArrays(NamedTuple):
    """Lists of tiles. t tiles, l lists, p = l padded to whole tiles.

    Attributes:
        codes: (t, steps, TILE_ROWS, WORD) uint8, of offsets from the lists' centers.
        rows: (t, TILE_ROWS) int64 positions; -1 for padding, at the end of lists.
        terms: (2, t, TILE_ROWS) float32, see `encode_lists`; (2, 0, TILE_ROWS) but for l2.
        tails: (t,) float32, how much farther than the mean row the tile's rows reach beyond `edge`.
        list_tiles: (l + 1,) int64, first tile of each list.
        units: (l,) float64, the codes' step beyond the head.
        losses: (l,) float64, spread of what a query's rounding takes off scores, in its steps.
        spreads: (p,) float32, how much farther than the mean row the list's rows reach.
        center_codes: (p / TILE_ROWS, steps, TILE_ROWS, WORD) uint8.
        center_units: (p,) float32; 0 for padding.
        center_half: (p,) float32, half squares of the centers (0 but for l2); +inf for padding.
    """

    codes: NDArray[np.uint8]
    rows: I64
    terms: F32
    tails: F32
    list_tiles: I64
    units: F64
    losses: F64
    spreads: F32
    center_codes: NDArray[np.uint8]
    center_units: F32
    center_half: F32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class IvfPack:
    """Packed rows, and how queries become codes.

    Attributes:
        metric: dense.
        origin: (dim,) float32, taken off every row, and for l2 off every query.
        rotation: (dim, dims) float32; dims is dim padded to SEGMENT.
        variance: (dims,) float32, of offsets from centers.
        edge: dimensions after which a scan looks for the first time.
        head: dimensions whose steps are wider, by 2**row_shift and 2**query_shift.
        row_shift: places.
        query_shift: places.
        unit: step of queries for l2, times a power of two.
        reach: (2,) float64, for l2: spread of a row's score at distance 1 of the center, with all
            dimensions and beyond `edge`.
        arrays: the lists.
    """

    metric: Metric
    origin: F32
    rotation: F32
    variance: F32
    edge: int
    head: int
    row_shift: int
    query_shift: int
    unit: float
    reach: F64
    arrays: IvfArrays

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return self.rotation.nbytes + sum(int(part.nbytes) for part in self.arrays)


class _Fit(NamedTuple):
    """What is learnt from a sample."""

    origin: F32
    centers: F32  # (c, dim), not rotated
    rotation: F32
    variance: F32
    head: int
    row_shift: int
    query_shift: int
    unit: float
    reach: F64
    edge: int


def pack_ivf(
    rows: Any,
    metric: Metric,
    *,
    groups: int,
    found: RowMask | None = None,
    known: RowMask | None = None,
    threads: int,
) -> IvfPack | None:
    """Pack rows.

    Args:
        rows: (n, dim), of any dense dtype; read twice, in blocks, after a sample.
        metric: dense.
        groups: of k-means; at most as many as there are rows.
        found: (n,) bool, rows that are packed; None: all. At least one.
        known: (n,) bool, rows that may be learnt from; None: all.
        threads: 0: all cores.

    Returns:
        The pack, or None where float32 or int32 cannot hold the sums: rows of extreme magnitude or
        dimension.
    """
    listed = np.arange(len(rows)) if found is None else np.flatnonzero(found)
    learnt = listed if known is None else listed[known[listed]]
    fit = _learn(rows, metric, learnt if len(learnt) else listed, groups, threads)
    if fit is None:
        return None
    nearest = _assign_rows(rows, metric, listed, fit, threads)
    if nearest is None:
        return None
    knows = np.ones(len(rows), np.bool_) if known is None else known
    return _fill(rows, metric, listed, nearest, knows, fit, threads)


def _prepare(block: Any, metric: Metric, origin: F32) -> F32 | None:
    """Return rows less the origin, or None if float32 cannot hold their squares."""
    peak = max(abs(float(block.max(initial=0))), abs(float(block.min(initial=0))))
    if not (peak == 0 or SMALLEST <= peak <= LARGEST):
        return None
    vectors = prepare_rows(block, metric, origin)
    return vectors if metric in (Metric.L2, Metric.SQEUCLIDEAN) else vectors - origin


def _learn(rows: Any, metric: Metric, learnt: I64, groups: int, threads: int) -> _Fit | None:
    """Choose origin, centers, rotation and steps from a sample."""
    dim, rng = rows.shape[1], np.random.default_rng(0)
    groups = min(groups, len(learnt))
    size = min(len(learnt), max(MIN_SAMPLE, SAMPLE_PER_CENTER * groups, 2 * dim))
    picked = learnt if size == len(learnt) else np.sort(rng.choice(learnt, size, replace=False))
    sample = _prepare(rows[picked], metric, np.zeros(dim, np.float32))
    if sample is None:
        return None
    origin = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample -= origin
    centers, nearest = k_means(sample, groups, ROUNDS, rng, threads)
    offsets = sample - centers[nearest]
    energy, axes = spread_of(offsets)
    dims = -(-dim // SEGMENT) * SEGMENT
    rotation = np.zeros((dim, dims), np.float32)
    rotation[:, :dim] = axes
    variance = np.zeros(dims, np.float32)
    variance[:dim] = energy
    head, row_shift = choose_head(variance)
    if (LEVELS + OFFSET) * LEVELS * ((head << 2 * MAX_SHIFT) + dims) > _MAX_SUM:
        return None
    asked = sample[:: max(1, len(sample) // MIN_SAMPLE)]
    flat = metric in (Metric.IP, Metric.COSINE)
    turned = rotate(asked + origin if flat else asked, rotation)
    tops = np.abs(turned[:, :head]).max(axis=1), np.abs(turned[:, head:]).max(axis=1, initial=0)
    ratio = float(tops[0].mean()) / max(float(tops[1].mean()), 1e-30)
    query_shift = int(np.clip(np.rint(np.log2(max(1.0, ratio))), 0, MAX_SHIFT))
    unit = float(np.maximum(tops[0] / 2**query_shift, tops[1]).mean()) / LEVELS
    edge = max(head, _edge(dims))
    return _Fit(
        origin=origin,
        centers=centers,
        rotation=rotation,
        variance=variance,
        head=head,
        row_shift=row_shift,
        query_shift=query_shift,
        unit=float(np.float32(unit)) if unit > 0 else 1.0,
        reach=_reach(rotate(sample, rotation), variance, edge),
        edge=edge,
    )


def _edge(dims: int) -> int:
    """Return the dimension after which a scan looks first: a third of them, in whole segments."""
    return min(dims, -(-dims // (3 * SEGMENT)) * SEGMENT)


def _reach(sample: F32, variance: F32, edge: int) -> F64:
    """Return `IvfPack.reach`: energies of an offset along differences of rows."""
    weights = sample.var(axis=0, dtype=np.float64) + variance
    total = max(float(weights.sum()), 1e-300)
    shares = weights * variance / total
    reach: F64 = np.sqrt(np.array([shares.sum(), shares[edge:].sum()]))
    return reach


def _assign_rows(rows: Any, metric: Metric, listed: I64, fit: _Fit, threads: int) -> I64 | None:
    """Return the nearest center of each listed row, or None if a row is out of range."""
    half = half_squares(fit.centers)

    def work(start: int) -> I64 | None:
        block = _prepare(rows[listed[start : start + _BLOCK]], metric, fit.origin)
        return None if block is None else nearest_center(block, fit.centers, half)

    with one_blas_thread():
        parts = run_parallel(work, range(0, len(listed), _BLOCK), threads)
    found = [part for part in parts if part is not None]
    return np.concatenate(found) if len(found) == len(parts) else None


class _Places(NamedTuple):
    """Where groups go. g groups."""

    rows: I64  # (n,) rows, group by group
    starts: I64  # (g + 1,) of groups in `rows`
    tiles: I64  # (g + 1,)
    lists: I64  # (g + 1,)


def _place(listed: I64, nearest: I64) -> _Places:
    order = np.argsort(nearest, kind="stable")
    sizes = np.bincount(nearest)
    sizes = sizes[sizes > 0]
    tiles = -(-sizes // TILE_ROWS)
    lists = np.array([count_lists(count, LIST_TILES) for count in tiles])
    begin = np.zeros(1, np.int64)
    return _Places(
        rows=listed[order],
        starts=np.concatenate([begin, np.cumsum(sizes)]),
        tiles=np.concatenate([begin, np.cumsum(tiles)]),
        lists=np.concatenate([begin, np.cumsum(lists)]),
    )


def _fill(
    rows: Any,
    metric: Metric,
    listed: I64,
    nearest: I64,
    knows: RowMask,
    fit: _Fit,
    threads: int,
) -> IvfPack:
    """Cut groups into lists and encode them, some thousand rows at a time."""
    at = _place(listed, nearest)
    tiles, lists, dims = int(at.tiles[-1]), int(at.lists[-1]), len(fit.variance)
    flat = metric in (Metric.IP, Metric.COSINE)
    words = aligned_zeros((tiles, dims // WORD, TILE_ROWS), np.uint32)
    placed = np.full((tiles, TILE_ROWS), -1, np.int64)
    terms = np.zeros((2, 0 if flat else tiles, TILE_ROWS), np.float32)
    centers = np.zeros((lists, dims), np.float32)
    units, spreads, heads = np.zeros(lists), np.zeros(lists), np.zeros(lists)
    tails, firsts = np.zeros(tiles), np.zeros(lists + 1, np.int64)

    def work(part: tuple[int, int]) -> None:
        members = at.rows[at.starts[part[0]] : at.starts[part[1]]]
        block = _prepare(rows[members], metric, fit.origin)
        if block is None:
            raise AssertionError("rows changed while they were packed")
        vectors, known = rotate(block, fit.rotation), knows[members]
        order, ends = np.arange(len(members)), np.zeros(0, np.int64)
        for g in range(*part):
            low, high = at.starts[g] - at.starts[part[0]], at.starts[g + 1] - at.starts[part[0]]
            own = np.zeros(at.lists[g + 1] - at.lists[g], np.int64)
            cut_group(vectors, known, order[low:high], LIST_TILES, own)
            ends = np.concatenate([ends, own + low])
        own_lists, t = (
            slice(at.lists[part[0]], at.lists[part[1]]),
            slice(at.tiles[part[0]], at.tiles[part[1]]),
        )
        encode_lists(
            vectors, known, order, ends, fit.head, fit.row_shift, fit.edge, words[t],
            centers[own_lists], units[own_lists], spreads[own_lists], heads[own_lists], tails[t],
            terms[:, t],
        )  # fmt: skip
        begins = np.concatenate([[0], ends[:-1]])
        own_tiles = -(-(ends - begins) // TILE_ROWS)
        tile_starts = np.cumsum(own_tiles) - own_tiles
        firsts[at.lists[part[0]] : at.lists[part[1]]] = at.tiles[part[0]] + tile_starts
        place = np.arange(len(order)) - np.repeat(begins, ends - begins)
        place += np.repeat(tile_starts * TILE_ROWS, ends - begins)
        placed[t].reshape(-1)[place] = members[order]

    with one_blas_thread():
        run_parallel(work, _parts(at.starts), threads)
    firsts[-1] = tiles
    far = float(fit.variance[fit.edge :].sum())
    center_codes, center_units, center_losses = _encode_centers(centers, fit)
    padded = len(center_units)
    half = np.full(padded, np.inf, np.float32)
    half[:lists] = 0 if flat else half_squares(centers)
    reach = np.zeros(padded, np.float32)
    reach[:lists] = np.sqrt(spreads / max(float(fit.variance.sum()), 1e-300))
    wide = 4.0**fit.query_shift
    losses = np.sqrt(np.maximum(wide * heads + spreads - heads, 0)) * _ROUNDING + center_losses
    arrays = IvfArrays(
        codes=words.view(np.uint8).reshape(tiles, dims // WORD, TILE_ROWS, WORD),
        rows=placed,
        terms=terms,
        tails=np.sqrt(tails / max(far, 1e-300)).astype(np.float32),
        list_tiles=firsts,
        units=units,
        losses=losses,
        spreads=reach,
        center_codes=center_codes,
        center_units=center_units,
        center_half=half,
    )
    return IvfPack(
        metric=metric,
        origin=fit.origin,
        rotation=fit.rotation,
        variance=fit.variance,
        edge=fit.edge,
        head=fit.head,
        row_shift=fit.row_shift,
        query_shift=fit.query_shift,
        unit=fit.unit,
        reach=fit.reach,
        arrays=arrays,
    )


def _parts(starts: I64) -> list[tuple[int, int]]:
    """Cut groups into runs of about `_BLOCK` rows; the same for any number of threads."""
    edges, first = [0], 0
    for g in range(1, len(starts)):
        if starts[g] - starts[first] >= _BLOCK or g == len(starts) - 1:
            edges.append(g)
            first = g
    return list(pairwise(edges))


def _encode_centers(centers: F32, fit: _Fit) -> tuple[NDArray[np.uint8], F32, F64]:
    """Return the centers as tiles, their steps, and spreads of what queries' rounding loses."""
    lists, dims = centers.shape
    tiles = -(-lists // TILE_ROWS)
    codes = np.zeros((tiles * TILE_ROWS, dims), np.int8)
    units = np.zeros(tiles * TILE_ROWS, np.float32)
    parts = np.empty((3, dims // SEGMENT), np.float32)
    sizes = np.abs(centers)
    for i in range(lists):
        peak = float(sizes[i, : fit.head].max()), float(sizes[i, fit.head :].max(initial=0))
        units[i] = unit_of(*peak, fit.row_shift)
        encode_vector(centers[i], float(units[i]), fit.head, fit.row_shift, codes[i], parts)
    stored = (codes.astype(np.int16) + OFFSET).astype(np.uint8)
    stored = stored.reshape(tiles, TILE_ROWS, dims // WORD, WORD).transpose(0, 2, 1, 3)
    out = aligned_zeros(stored.shape, np.uint8)
    out[:] = stored
    squares = centers.astype(np.float64) ** 2
    head = squares[:, : fit.head].sum(axis=1)
    losses = np.sqrt(4.0**fit.query_shift * head + squares[:, fit.head :].sum(axis=1)) * _ROUNDING
    return out, units, losses


def groups_for(rows: int) -> int:
    """Return how many groups rows should be parted into: one a tile and a bit, but not too many."""
    return int(max(1, min(_MOST_GROUPS, round(rows / _ROWS_PER_GROUP))))


def pack_bytes(rows: int, dim: int, groups: int) -> dict[str, int]:
    """Return an estimate of a build's peak memory; "index" is what stays."""
    dims = -(-dim // SEGMENT) * SEGMENT
    tiles = rows // TILE_ROWS + min(groups, rows) // 2 + 1
    sample = min(rows, max(MIN_SAMPLE, SAMPLE_PER_CENTER * groups, 2 * dim))
    return {
        "index": tiles * TILE_ROWS * (dims + 8) + tiles * (dims + 64) + 4 * dim * dims,
        "sample of rows": 2 * 4 * sample * dim,
        "tiles of rows and products": 2 * 4 * (_BLOCK * dims + BLOCK * groups),
        "numbers of rows": 40 * rows,
    }
