"""Rows as the batch scan reads them: rotated, grouped around centers, in 8-bit tiles.

A rotation (principal axes of a sample) moves energy into the first dimensions, so that a scan may
stop early and bound the rest by Cauchy and Schwarz. Rows are stored as offsets from the nearest of
some centers (k-means of a sample) and lie center by center, so that one number per center and query
says how near its rows can be, and thresholds are good early.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import as_float32
from gpuvec.kernels.int8_tile import TILE_ROWS, WORD, aligned_zeros
from gpuvec.kernels.parallel import run_parallel, split
from gpuvec.kernels.quantize import LEVELS, OFFSET, SEGMENT, encode_list, tail_squares
from gpuvec.kernels.scan_bounds import LARGEST, SMALLEST, prepare_rows
from gpuvec.types import Metric

ROWS_PER_LIST = 512
MAX_CENTERS = 1024
CHUNK_BYTES = 128 << 20  # of rotated float32 rows in memory at a time
SAMPLE_PER_CENTER = 96
MIN_SAMPLE = 4096
LLOYD_ROUNDS = 6
MAX_SHIFT = 3
TYPICAL_EDGE = 0.4  # share of the dimensions at which most scans stop; tiles are alike beyond it
LEAST_CHUNK = 2048  # rows that are packed together, however little memory there is
_BLOCK = 8192  # rows compared with centers at a time
_BLOCK_BYTES = 2 << 20  # of float32 rows rotated at a time
_SUM_COLUMNS = 256  # dimensions that one float32 sum runs over
_MAX_SUM = 2**29  # of an integer product

F32 = NDArray[np.float32]


class Shard(NamedTuple):
    """Tiles of one run of rows. t tiles, l lists of neighbouring tiles, e edges.

    Attributes:
        codes: (t, steps, TILE_ROWS, 4) uint8, 64-byte aligned.
        rows: (t, TILE_ROWS) int64 positions; -1 for padding, which is at the end of lists.
        terms: (t, TILE_ROWS) float32, half a row's square less `low`; (0, TILE_ROWS) but for l2.
        low: (t,) float64, the least half square of the tile's rows; zero but for l2.
        tails: (t, e) float32, greatest norm of an offset from each edge on.
        list_tiles: (l + 1,) int64, first tile of each list.
        centers: (l,) int64.
        units: (l,) float64, the codes' step beyond the head.
        reach: (l,) float64, greatest norm of an offset.
        lost: (l, e) float32, greatest norm of what codes lose before each edge.
        said: (l, e) float32, greatest norm of what codes say before each edge.
        norms: (l,) float64, greatest norm of a row or the center.
        list_low: (l,) float64, the least half square.
        list_mean: (l,) float64, the mean half square.
        means: (l, e) float32, mean norm of an offset from each edge on.
    """

    codes: NDArray[np.uint8]
    rows: NDArray[np.int64]
    terms: F32
    low: NDArray[np.float64]
    tails: F32
    list_tiles: NDArray[np.int64]
    centers: NDArray[np.int64]
    units: NDArray[np.float64]
    reach: NDArray[np.float64]
    lost: F32
    said: F32
    norms: NDArray[np.float64]
    list_low: NDArray[np.float64]
    list_mean: NDArray[np.float64]
    means: F32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Space:
    """How vectors become codes.

    Attributes:
        metric: dense.
        origin: (dim,) float32, taken off every vector (l2 only, otherwise zero).
        rotation: (dim, dims) float32; dims is dim padded to SEGMENT.
        centers: (c, dims) float32, rotated.
        variance: (dims,) float32, of offsets from centers, falling.
        edges: (e,) int64 dimensions after which a scan may stop; the last is dims.
        head: dimensions whose steps are wider.
        shift: by 2**shift.
        drift: bounds |q.x - rotated product| / (|q| |x|), with every float32 rounding on the way.
    """

    metric: Metric
    origin: F32
    rotation: F32
    centers: F32
    variance: F32
    edges: NDArray[np.int64]
    head: int
    shift: int
    drift: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Int8Pack:
    """Packed rows: a space and the shards that lie in it."""

    space: Space
    shards: tuple[Shard, ...]

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        space = self.space
        parts: list[Any] = [space.rotation, space.centers, *(a for s in self.shards for a in s)]
        return sum(int(part.nbytes) for part in parts)


def pack_int8(
    rows: Any, metric: Metric, *, threads: int, memory_limit: int | None = None
) -> Int8Pack | None:
    """Pack rows for the integer scan.

    Args:
        rows: (n, dim), n at least 1, of any dense dtype; read once, in blocks, after a sample.
        metric: dense.
        threads: 0: all cores.
        memory_limit: bytes for temporary data, beside the pack; None: `CHUNK_BYTES` and some.

    Returns:
        The pack, or None where float32 or int32 cannot hold what the proof needs: rows of extreme
        magnitude or dimension.
    """
    count, dim = rows.shape
    held = CHUNK_BYTES if memory_limit is None else min(CHUNK_BYTES, memory_limit // 2)
    chunk = min(count, max(LEAST_CHUNK, held // (4 * dim)))
    space = _fit_space(rows, metric, centers=max(1, min(MAX_CENTERS, chunk // ROWS_PER_LIST)))
    if space is None:
        return None
    shards = []
    for start in range(0, count, chunk):
        shard = _pack_chunk(rows, start, min(count, start + chunk), space, threads)
        if shard is None:
            return None
        shards.append(shard)
    return Int8Pack(space=space, shards=tuple(shards))


def _prepare(block: Any, metric: Metric, origin: F32) -> F32 | None:
    """Return rows as scores take them, or None if float32 cannot hold what the proof needs."""
    vectors = as_float32(block)
    peak = float(np.abs(vectors).max(initial=0))
    if not (peak == 0 or SMALLEST <= peak <= LARGEST):
        return None
    return prepare_rows(vectors, metric, origin)


def rotate(vectors: F32, rotation: F32) -> F32:
    """Return `vectors @ rotation`, in sums short enough for `Space.drift`."""
    out: F32 = vectors[:, :_SUM_COLUMNS] @ rotation[:_SUM_COLUMNS]
    for start in range(_SUM_COLUMNS, vectors.shape[1], _SUM_COLUMNS):
        stop = start + _SUM_COLUMNS
        out += vectors[:, start:stop] @ rotation[start:stop]
    return out


def _fit_space(rows: Any, metric: Metric, *, centers: int) -> Space | None:
    """Choose the rotation, centers and steps from a sample."""
    count, dim = rows.shape
    rng = np.random.default_rng(0)
    size = min(count, max(MIN_SAMPLE, SAMPLE_PER_CENTER * centers, 2 * dim))
    picked = np.sort(rng.choice(count, size, replace=False)) if size < count else slice(None)
    sample = _prepare(rows[picked], metric, np.zeros(dim, np.float32))
    if sample is None:
        return None
    origin = np.zeros(dim, np.float32)
    if metric in (Metric.L2, Metric.SQEUCLIDEAN):
        origin = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
        sample = sample - origin
    middles, nearest = _k_means(sample, centers, rng)
    offsets = (sample - middles[nearest]).astype(np.float64)
    energy, axes = np.linalg.eigh(offsets.T @ offsets / size)
    dims = -(-dim // SEGMENT) * SEGMENT
    rotation = np.zeros((dim, dims), np.float32)
    rotation[:, :dim] = axes[:, ::-1]
    variance = np.zeros(dims, np.float32)
    variance[:dim] = np.maximum(energy[::-1], 0)
    head, shift = choose_head(variance)
    if (LEVELS + OFFSET) * LEVELS * ((head << 2 * MAX_SHIFT) + dims) > _MAX_SUM:
        return None
    return Space(
        metric=metric,
        origin=origin,
        rotation=rotation,
        centers=rotate(middles, rotation),
        variance=variance,
        edges=_edges(head, dims),
        head=head,
        shift=shift,
        drift=_drift(rotation),
    )


def _k_means(sample: F32, centers: int, rng: np.random.Generator) -> tuple[F32, NDArray[np.int64]]:
    """Return centers and the nearest of each row. An empty center stays where it was."""
    middles = sample[np.sort(rng.choice(len(sample), centers, replace=False))]
    nearest = np.zeros(len(sample), np.int64)
    for _ in range(LLOYD_ROUNDS if centers > 1 else 1):
        nearest = _assign(sample, middles)
        order = np.argsort(nearest, kind="stable")
        sizes = np.bincount(nearest, minlength=centers)
        filled = sizes > 0
        starts = (np.cumsum(sizes) - sizes)[filled]
        sums = np.add.reduceat(sample[order], starts, axis=0, dtype=np.float64)
        middles = middles.copy()
        middles[filled] = sums / sizes[filled, None]
    return middles, nearest


def _assign(vectors: F32, middles: F32) -> NDArray[np.int64]:
    """Return the nearest center of each vector."""
    half = np.einsum("ij,ij->i", middles, middles) / 2
    nearest = np.empty(len(vectors), np.int64)
    for start in range(0, len(vectors), _BLOCK):
        scores = vectors[start : start + _BLOCK] @ middles.T
        scores -= half
        nearest[start : start + _BLOCK] = scores.argmax(axis=1)
    return nearest


def choose_head(variance: F32) -> tuple[int, int]:
    """Return the head and shift with the least expected loss, from the spread per dimension.

    Half the weight is on all dimensions, half on the first third, where most scans stop.
    """
    spread = np.sqrt(variance.astype(np.float64))
    dims = len(spread)
    best, choice = np.inf, (SEGMENT, 0)
    for head in range(SEGMENT, max(SEGMENT, min(8 * SEGMENT, dims // 3)) + 1, SEGMENT):
        for shift in range(MAX_SHIFT + 1):
            unit = max(spread[head] if head < dims else 0.0, spread[0] / 2**shift)
            wide = head * 4.0**shift
            loss = unit * (np.sqrt(wide + dims - head) + np.sqrt(wide + max(0, dims // 3 - head)))
            if loss < best:
                best, choice = loss, (head, shift)
    return choice


def _edges(head: int, dims: int) -> NDArray[np.int64]:
    """Return dimensions after which a scan may stop, more where most do; none within the head."""
    stride = max(2 * SEGMENT, dims // (12 * SEGMENT) * SEGMENT)
    fine = stride // (2 * SEGMENT) * SEGMENT
    inner = {*range(stride, dims, stride)}
    inner.update(edge for edge in range(fine, dims, fine) if dims / 4 <= edge <= 0.6 * dims)
    return np.array([*sorted(edge for edge in inner if edge >= head), dims], np.int64)


def _drift(rotation: F32) -> float:
    """Bound the relative error of a rotated product; see `Space.drift`."""
    dim, dims = rotation.shape
    wide = rotation.astype(np.float64)
    skew = float(np.linalg.norm(wide @ wide.T - np.eye(dim)))
    terms = min(dim, _SUM_COLUMNS) + dim // _SUM_COLUMNS + 1
    turn = terms * 2.0**-24 * np.sqrt(dims)
    return float(skew + 5 * turn + 4 * dims * 2.0**-24 + 2.0**-20)


def _pack_chunk(rows: Any, start: int, stop: int, space: Space, threads: int) -> Shard | None:
    """Pack rows `start` to `stop`, or return None if one is out of range."""
    size, dims = stop - start, space.rotation.shape[1]
    rotated = np.empty((size, dims), np.float32)
    half = np.empty(size, np.float64)
    step = max(64, min(_BLOCK, _BLOCK_BYTES // (4 * dims)))
    for low in range(start, stop, step):
        block = _prepare(rows[low : min(stop, low + step)], space.metric, space.origin)
        if block is None:
            return None
        at = slice(low - start, low - start + len(block))
        rotated[at] = rotate(block, space.rotation)
        half[at] = np.einsum("ij,ij->i", block, block, dtype=np.float64) / 2
    nearest = _assign(rotated, space.centers)
    most = int(space.edges[np.searchsorted(space.edges, TYPICAL_EDGE * dims)])
    order = np.lexsort((tail_squares(rotated, nearest, space.centers, most), nearest))
    return _fill(rotated, half, nearest, order, start, space, threads)


def _fill(
    rotated: F32,
    half: NDArray[np.float64],
    nearest: NDArray[np.int64],
    order: NDArray[np.int64],
    start: int,
    space: Space,
    threads: int,
) -> Shard:
    """Encode a chunk, list by list."""
    centers, sizes = np.unique(nearest, return_counts=True)
    firsts = np.cumsum(sizes) - sizes
    list_tiles = np.concatenate([[0], np.cumsum(-(-sizes // TILE_ROWS))])
    tiles, dims, edges = int(list_tiles[-1]), rotated.shape[1], len(space.edges)
    words = aligned_zeros((tiles, dims // WORD, TILE_ROWS), np.uint32)
    tails = np.zeros((tiles, edges), np.float32)
    place = np.arange(len(order)) - np.repeat(firsts, sizes)
    place += np.repeat(list_tiles[:-1] * TILE_ROWS, sizes)
    units = np.zeros(len(sizes))
    greatest = np.zeros((len(sizes), 4, edges))
    means = np.zeros((len(sizes), edges), np.float32)

    def encode(part: tuple[int, int]) -> None:
        for i in range(*part):
            at = slice(list_tiles[i], list_tiles[i + 1])
            units[i], greatest[i], means[i] = encode_list(
                rotated,
                order[firsts[i] : firsts[i] + sizes[i]],
                space.centers[centers[i]],
                space.head,
                space.shift,
                space.edges,
                words[at],
                tails[at],
            )

    run_parallel(encode, split(len(sizes), 64, least=4), threads)
    placed = np.full(tiles * TILE_ROWS, -1, np.int64)
    placed[place] = order + start
    center_norms = np.linalg.norm(space.centers[centers].astype(np.float64), axis=1)
    row_norms = np.sqrt(2 * np.maximum.reduceat(half[order], firsts))
    terms, low = _half_squares(half[order], place, tiles, space.metric)
    return Shard(
        codes=words.view(np.uint8).reshape(tiles, dims // WORD, TILE_ROWS, WORD),
        rows=placed.reshape(tiles, TILE_ROWS),
        terms=terms,
        low=low,
        tails=tails,
        list_tiles=list_tiles,
        centers=centers,
        units=units,
        reach=greatest[:, 1, -1].copy(),
        lost=greatest[:, 2].astype(np.float32),
        said=greatest[:, 3].astype(np.float32),
        norms=np.maximum(center_norms, row_norms),
        list_low=np.minimum.reduceat(low, list_tiles[:-1]),
        list_mean=np.add.reduceat(half[order], firsts) / sizes * (len(terms) > 0),
        means=means,
    )


def _half_squares(
    half: NDArray[np.float64], place: NDArray[np.int64], tiles: int, metric: Metric
) -> tuple[F32, NDArray[np.float64]]:
    """Return `Shard.terms` and `Shard.low`."""
    if metric in (Metric.IP, Metric.COSINE):
        return np.zeros((0, TILE_ROWS), np.float32), np.zeros(tiles)
    flat = np.full(tiles * TILE_ROWS, np.inf)
    flat[place] = half
    placed = flat.reshape(tiles, TILE_ROWS)
    low = placed.min(axis=1)
    return np.where(np.isinf(placed), 0, placed - low[:, None]).astype(np.float32), low
