"""Rows as the approximate batch search reads them: turned, in many small lists of 8-bit tiles.

k-means of a sample groups the rows; groups are cut across their longest axes into lists of a few
tiles, each with its mean as center. Codes are those of offsets from the center. Of every list its
spread is known, so a search can tell how far above the center's score a row's is likely to be.
"""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.blas import one_blas_thread
from gpuvec.kernels.int8_pack import rotate
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.ivf_cut import count_lists, cut_group, encode_lists
from gpuvec.kernels.ivf_fit import MIN_SAMPLE, SAMPLE_PER_CENTER, Fit, learn, prepare
from gpuvec.kernels.ivf_form import IvfArrays, IvfPack, is_flat
from gpuvec.kernels.ivf_means import Centers, frozen, half_squares, tiles_of
from gpuvec.kernels.parallel import run_parallel
from gpuvec.kernels.quantize import LEVELS, SEGMENT, encode_vector, unit_of
from gpuvec.types import Metric, RowMask

_BLOCK = 8192  # rows converted at a time
_ROWS_PER_GROUP = 62  # of few rows; of many, groups grow faster than their number
_FEW_ROWS = 1 << 16
_LISTS_PER_GROUP = 1.8
_ROWS_PER_LIST = 8  # at least, on average: single rows have no spread to learn
_FARTHEST = 1e18  # spreads, where those that were learnt are nothing
_ROUNDING = 12.0**-0.5  # spread of what rounding to a step loses, in steps

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


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
    with one_blas_thread():
        fit = learn(rows, metric, learnt if len(learnt) else listed, groups, threads)
    if fit is None:
        return None
    nearest = _assign_rows(rows, metric, listed, fit, threads)
    if nearest is None:
        return None
    knows = np.ones(len(rows), np.bool_) if known is None else known
    return _fill(rows, metric, listed, nearest, knows, fit, threads)


def _assign_rows(rows: Any, metric: Metric, listed: I64, fit: Fit, threads: int) -> I64 | None:
    """Return the nearest center of each listed row, or None if a row is out of range."""
    centers = Centers(fit.centers)

    def work(start: int) -> I64 | None:
        block = prepare(rows[listed[start : start + _BLOCK]], metric, fit.origin)
        return None if block is None else centers.nearest(block)

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
    most: int  # tiles of a list


def _place(listed: I64, nearest: I64, most: int) -> _Places:
    """Say where groups go; a list has at most `most` tiles."""
    order = np.argsort(nearest, kind="stable")
    sizes = np.bincount(nearest)
    sizes = sizes[sizes > 0]
    tiles = -(-sizes // TILE_ROWS)
    lists = np.array([count_lists(count, most) for count in tiles])
    begin = np.zeros(1, np.int64)
    return _Places(
        rows=listed[order],
        starts=np.concatenate([begin, np.cumsum(sizes)]),
        tiles=np.concatenate([begin, np.cumsum(tiles)]),
        lists=np.concatenate([begin, np.cumsum(lists)]),
        most=most,
    )


class _Encoded(NamedTuple):
    """Lists as `encode_lists` writes them."""

    words: NDArray[np.uint32]
    rows: I64
    terms: F32
    tails: F64
    list_tiles: I64
    centers: F32
    units: F64
    spreads: F64
    heads: F64


def _fill(
    rows: Any, metric: Metric, listed: I64, nearest: I64, knows: RowMask, fit: Fit, threads: int
) -> IvfPack:
    """Cut groups into lists and encode them, some thousand rows at a time."""
    at = _place(listed, nearest, _list_tiles(len(listed), len(fit.centers)))
    tiles, lists, dims = int(at.tiles[-1]), int(at.lists[-1]), len(fit.variance)
    out = _Encoded(
        words=aligned_zeros((tiles, dims // WORD, TILE_ROWS), np.uint32),
        rows=np.full((tiles, TILE_ROWS), -1, np.int64),
        terms=np.zeros((2, 0 if is_flat(metric) else tiles, TILE_ROWS), np.float32),
        tails=np.zeros(tiles),
        list_tiles=np.full(lists + 1, tiles),
        centers=np.zeros((lists, dims), np.float32),
        units=np.zeros(lists),
        spreads=np.zeros(lists),
        heads=np.zeros(lists),
    )

    def work(part: tuple[int, int]) -> None:
        members = at.rows[at.starts[part[0]] : at.starts[part[1]]]
        block = prepare(rows[members], metric, fit.origin)
        if block is None:
            raise AssertionError("rows changed while they were packed")
        _encode_groups(block, members, knows[members], at, part, fit, out)

    with one_blas_thread():
        run_parallel(work, _parts(at.starts), threads)
    return _finish(metric, fit, out)


def _encode_groups(
    block: F32,
    members: I64,
    known: RowMask,
    at: _Places,
    part: tuple[int, int],
    fit: Fit,
    out: _Encoded,
) -> None:
    """Cut and encode groups `part[0]` to `part[1]`, whose rows are given."""
    vectors = rotate(block, fit.rotation)
    order, ends = np.arange(len(members)), np.zeros(0, np.int64)
    for g in range(*part):
        low, high = at.starts[g] - at.starts[part[0]], at.starts[g + 1] - at.starts[part[0]]
        own = np.zeros(at.lists[g + 1] - at.lists[g], np.int64)
        cut_group(vectors, known, order[low:high], at.most, own)
        ends = np.concatenate([ends, own + low])
    own_lists = slice(at.lists[part[0]], at.lists[part[1]])
    own_tiles = slice(at.tiles[part[0]], at.tiles[part[1]])
    encode_lists(
        vectors, half_squares(block), known, order, ends, fit.head, fit.row_shift, fit.edge,
        fit.center, out.words[own_tiles], out.centers[own_lists], out.units[own_lists],
        out.spreads[own_lists], out.heads[own_lists], out.tails[own_tiles],
        out.terms[:, own_tiles],
    )  # fmt: skip
    begins = np.concatenate([[0], ends[:-1]])
    sizes = -(-(ends - begins) // TILE_ROWS)
    firsts = np.cumsum(sizes) - sizes
    out.list_tiles[own_lists] = own_tiles.start + firsts
    place = np.arange(len(order)) - np.repeat(begins, ends - begins)
    place += np.repeat(firsts * TILE_ROWS, ends - begins)
    out.rows[own_tiles].reshape(-1)[place] = members[order]


def _finish(metric: Metric, fit: Fit, out: _Encoded) -> IvfPack:
    """Put together what was encoded and what searches ask of it."""
    lists, flat = len(out.units), is_flat(metric)
    codes, units, center_losses = _encode_centers(out.centers[:, : fit.center], fit)
    half, spreads = np.full(len(units), np.inf, np.float32), np.zeros(len(units), np.float32)
    half[:lists] = 0 if flat else half_squares(out.centers)
    energy = max(float(fit.variance.sum()), 1e-300)
    spreads[:lists] = np.minimum(np.sqrt(out.spreads / energy), _FARTHEST)
    wide = 4.0**fit.query_shift
    losses = np.sqrt(np.maximum(wide * out.heads + out.spreads - out.heads, 0)) * _ROUNDING
    far = max(float(fit.variance[fit.edge :].sum()), 1e-300)
    tiles, words, _ = out.words.shape
    arrays = IvfArrays(
        codes=out.words.view(np.uint8).reshape(tiles, words, TILE_ROWS, WORD),
        rows=out.rows,
        terms=out.terms,
        tails=np.minimum(np.sqrt(out.tails / far), _FARTHEST).astype(np.float32),
        list_tiles=out.list_tiles,
        units=out.units,
        steps=out.units + units[:lists],
        losses=losses + center_losses,
        norms=np.sqrt(2 * half_squares(out.centers).astype(np.float64) + out.spreads),
        spreads=spreads,
        center_codes=codes,
        center_units=units,
        center_half=half,
    )
    turn, turn_units = _encode_rotation(fit)
    return IvfPack(
        metric=metric,
        origin=frozen(fit.origin),
        rotation=frozen(fit.rotation),
        turn=turn,
        turn_units=frozen(turn_units),
        variance=frozen(fit.variance),
        reach=frozen(np.zeros(0) if flat else _reach(out.centers, fit)),
        edge=fit.edge,
        head=fit.head,
        row_shift=fit.row_shift,
        query_shift=fit.query_shift,
        unit=fit.unit,
        rest=fit.rest,
        arrays=IvfArrays(*(frozen(array) for array in arrays)),
    )


def _reach(centers: F32, fit: Fit) -> F64:
    """Return `IvfPack.reach`: energies of an offset along differences of rows and centers."""
    weights = centers.var(axis=0, dtype=np.float64) + fit.variance
    shares = weights * fit.variance / max(float(weights.sum()), 1e-300)
    reach: F64 = np.sqrt(np.array([shares.sum(), shares[fit.edge :].sum()]))
    return reach


def _encode_rotation(fit: Fit) -> tuple[NDArray[np.uint8], F32]:
    """Return `IvfPack.turn` and its steps."""
    dim, dims = fit.rotation.shape
    wide, padded = -(-dim // SEGMENT) * SEGMENT, -(-dims // TILE_ROWS) * TILE_ROWS
    units = np.zeros(padded, np.float32)
    units[:dims] = np.abs(fit.rotation).max(axis=0) / LEVELS
    codes = np.zeros((padded if fit.fine else 0, wide), np.int8)
    if not fit.fine:
        return tiles_of(codes), units
    codes[:dims, :dim] = np.rint(fit.rotation / np.where(units[:dims] > 0, units[:dims], 1)).T
    return tiles_of(codes), units


def _parts(starts: I64) -> list[tuple[int, int]]:
    """Cut groups into runs of about `_BLOCK` rows; the same for any number of threads."""
    edges, first = [0], 0
    for g in range(1, len(starts)):
        if starts[g] - starts[first] >= _BLOCK or g == len(starts) - 1:
            edges.append(g)
            first = g
    return list(pairwise(edges))


def _encode_centers(centers: F32, fit: Fit) -> tuple[NDArray[np.uint8], F32, F64]:
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
    squares = centers.astype(np.float64) ** 2
    head = squares[:, : fit.head].sum(axis=1)
    losses = np.sqrt(4.0**fit.query_shift * head + squares[:, fit.head :].sum(axis=1)) * _ROUNDING
    return tiles_of(codes), units, losses


def groups_for(rows: int, wanted: int | None = None) -> int:
    """Return how many groups to make of rows: of a tile and a bit, larger where rows are many.

    Or as many as are wanted, if that leaves them rows enough.
    """
    if wanted is not None:
        return max(1, min(wanted, rows // _ROWS_PER_LIST))
    few = min(rows, _FEW_ROWS) / _ROWS_PER_GROUP
    return max(1, int(few * max(1.0, rows / _FEW_ROWS) ** 0.25 + 0.5))


def _list_tiles(rows: int, groups: int) -> int:
    """Return how many tiles a list may have."""
    return max(1, round(rows / TILE_ROWS / (_LISTS_PER_GROUP * groups)))


def pack_bytes(rows: int, dim: int, groups: int) -> dict[str, int]:
    """Return an estimate of a build's peak memory; "index" is what stays."""
    dims = -(-dim // SEGMENT) * SEGMENT
    tiles = rows // TILE_ROWS + min(groups, rows) // 2 + 1
    sample = min(rows, max(MIN_SAMPLE, SAMPLE_PER_CENTER * groups, 2 * dim))
    return {
        "index": tiles * TILE_ROWS * (dims + 8) + tiles * (dims + 64) + 4 * dim * dims,
        "sample of rows": 3 * 4 * sample * dim,  # as read, as prepared, and less the origin
        "tiles of rows and products": 2 * 4 * _BLOCK * (dims + dim),
        "numbers of rows": 40 * rows,
    }
