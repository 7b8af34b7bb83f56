"""Codes of vectors for tensor cores, with the norms that bound what the codes lose.

A score grows with nearness, as in `scan_bounds`: `q.x` of the unit query for ip and cosine (of the
unit row too for cosine), `q.x - |x|²/2` for l2, both less an origin. Codes give `unit * scale *
(codes . codes) - bias` in its place, which is wrong by at most

    said(q) * lost(x) + lost(q) * norm(x) + room(q)

because q.x - q'.x' = q'.(x - x') + (q - q').x. Every norm is rounded up. int8 sums are exact;
16-bit products are summed by tensor cores in float32, which cut (Fasi, Higham, Mikaitis, Pranesh,
"Numerical behavior of NVIDIA tensor cores", 2021): `_sum_slack` allows for four times that.
"""

from dataclasses import dataclass

import numpy as np

from gpuvec.device.arrays import array_namespace, as_float32
from gpuvec.kernels.device_pairwise import stored_as
from gpuvec.kernels.launch import THREADS, card_limits, kernel_of, whole
from gpuvec.kernels.scan_bounds import L2_SLACK, LARGEST, SMALLEST
from gpuvec.types import Array, Metric

PIECE = 16  # bytes: codes of a row are padded to it, as in scan_tile.cuh
_UP = 1 + 2.0**-20  # of norms in float32: they are no less than the true ones
_ROUNDING = 2.0**-19  # of |q| |x|: float32 arithmetic of a score and its bound
_SAMPLE = 2048  # rows whose mean is the origin
CODES = ("none", "int8", "float16", "bfloat16")  # `Code` in scan_encode.cu
SCRATCH_BYTES = 256  # of temporary data for each row that is being encoded
_VECTORS = 8  # of a block of scan_encode.cu
_UNIT, _PEAK, _SQUARE, _LOST, _SIZE = range(5)  # `Stats` in scan_encode.cu


@dataclass(frozen=True, slots=True, eq=False)
class DeviceCodes:
    """What a scan on tensor cores reads of some rows.

    Attributes:
        kind: "int8", "float16" or "bfloat16"; the name of its kernels.
        metric: that they serve.
        codes: (n, width) uint8, the bytes of the codes; maybe a view of the rows themselves.
        values: (n, 4) float32: scale, bias, lost, norm.
        origin: (dim,) float32, subtracted from rows and queries; None: nothing is.
        largest: norm of a row, less the origin.
        owned_bytes: of memory that only they take.
    """

    kind: str
    metric: Metric
    codes: Array
    values: Array
    origin: Array | None
    largest: float
    owned_bytes: int


@dataclass(frozen=True, slots=True, eq=False)
class QueryCodes:
    """What a scan on tensor cores reads of some queries.

    Attributes:
        codes: (m, width) uint8.
        values: (m, 4) float32: unit, said, lost, room.
        norms: (m,) float64, as `scan_bounds.score_limits` takes them.
        refused: (m,) bool, queries that cannot be bounded, or to which all rows are alike.
    """

    codes: Array
    values: Array
    norms: Array
    refused: Array


def kinds_of(rows: Array) -> tuple[str, ...]:
    """Return the kinds of codes that serve rows of a dtype, cheapest first, tightest last.

    None on a card that has no tensor cores for them (below sm_80).
    """
    if not card_limits().has_tiles:
        return ()
    name = "bfloat16" if rows.dtype == np.uint16 else str(rows.dtype.name)
    return {"float16": ("float16",), "bfloat16": ("bfloat16",)}.get(name, ("int8", "float16"))


def code_bytes(rows: Array, kind: str) -> int:
    """Return the bytes that `encode_rows` will take; rows that are their own codes take 16 each."""
    held = 0 if _is_direct(rows, kind) else _width(rows.shape[1], kind)
    return int(len(rows) * (held + 16))


def origin_of(rows: Array, metric: Metric) -> Array | None:
    """Return what is best subtracted from such rows, (dim,) float32; None: nothing."""
    xp = array_namespace(rows)
    if metric in (Metric.IP, Metric.COSINE) or not len(rows):
        return None
    if rows.dtype not in (np.float32, np.uint8):
        return None  # they are their own codes
    some = as_float32(rows[:: max(1, len(rows) // _SAMPLE)])
    mean = some.mean(axis=0, dtype=xp.float64).astype(xp.float32)
    # Whole numbers stay whole, and below 128 where they can: then int8 codes lose nothing.
    least, most = some.max(axis=0) - 127, some.min(axis=0) + 128
    shifted = xp.minimum(xp.maximum(xp.rint(mean), least), most)
    return xp.where((xp.rint(some) == some).all(), shifted, mean)


def encode_rows(
    rows: Array, metric: Metric, kind: str, origin: Array | None, tile_rows: int
) -> DeviceCodes | None:
    """Derive codes.

    Args:
        rows: (n, dim) on the device, of any dense dtype; at least one.
        metric: a dense one.
        kind: one of `kinds_of`.
        origin: of `origin_of`; None for ip and cosine.
        tile_rows: to encode at a time, each with `SCRATCH_BYTES`.

    Returns:
        None: their magnitudes are beyond those that float32 can bound.

    Cost: one read of the rows from memory, two more from the cache; one write of the codes.
    """
    xp = array_namespace(rows, origin)
    count, dim = rows.shape
    direct = _is_direct(rows, kind) and origin is None
    codes = rows.view(xp.uint8) if direct else xp.zeros((count, _width(dim, kind)), xp.uint8)
    values, tops = xp.empty((count, 4), xp.float32), []
    for start in range(0, count, tile_rows):
        at = slice(start, start + tile_rows)
        code = "none" if direct else kind
        told = _encode(rows[at], origin, code, codes[at], to_length_1=False)
        values[at] = _row_values(metric, told, _sum_slack(kind, dim))
        tops.append(xp.stack([told[:, _PEAK].max(), told[:, _SQUARE].max()]))
    peak, square = xp.stack(tops).max(axis=0).tolist()
    if not SMALLEST <= peak <= LARGEST:
        return None
    largest = _UP if metric is Metric.COSINE else square**0.5 * _UP
    owned = values.nbytes + (0 if direct else codes.nbytes)
    return DeviceCodes(kind, metric, codes, values, origin, largest, int(owned))


def encode_queries(queries: Array, metric: Metric, kind: str, origin: Array | None) -> QueryCodes:
    """Derive codes of (m, dim) float32 queries for rows with codes of a kind and an origin."""
    xp = array_namespace(queries, origin)
    count, dim = queries.shape
    flat = metric in (Metric.IP, Metric.COSINE)
    codes = xp.zeros((count, _width(dim, kind)), xp.uint8)
    told = _encode(queries, origin, kind, codes, to_length_1=flat)
    sizes = told[:, _SIZE]
    refused = ~(sizes <= LARGEST) | (~(sizes > 0) if flat else False)
    norms, lost = xp.sqrt(told[:, _SQUARE]) * _UP, xp.sqrt(told[:, _LOST]) * _UP
    room = xp.zeros(count, xp.float64) if flat else L2_SLACK * norms**2
    # The unit query that was asked and the one in float32 differ by 2^-24 of its length.
    values = xp.stack([told[:, _UNIT], norms + lost, lost + _ROUNDING * norms, room], axis=1)
    values = xp.where(refused[:, None], 0.0, values).astype(xp.float32)
    return QueryCodes(codes, values, sizes, refused)


def _encode(
    vectors: Array, origin: Array | None, code: str, codes: Array, *, to_length_1: bool
) -> Array:
    """Write the codes of vectors; return what is told of each, (n, 5) float64."""
    xp, (count, dim) = array_namespace(vectors), vectors.shape
    told = xp.empty((count, 5), xp.float64)
    kernel_of("scan_encode.cu", f"encode_{stored_as(vectors)}").launch(
        (-(-count // _VECTORS),), (THREADS,),
        xp.ascontiguousarray(vectors), np.uintp(0) if origin is None else origin,
        whole(count), whole(dim), np.int32(CODES.index(code)), np.int32(to_length_1),
        codes, whole(codes.shape[1]), told,
    )  # fmt: skip
    return told


def _width(dim: int, kind: str) -> int:
    """Return the bytes of a row's codes."""
    size = dim * (1 if kind == "int8" else 2)
    return -(-size // PIECE) * PIECE


def _is_direct(rows: Array, kind: str) -> bool:
    """Return whether rows are their own codes."""
    name = "bfloat16" if rows.dtype == np.uint16 else str(rows.dtype.name)
    whole = rows.shape[1] * rows.dtype.itemsize % PIECE == 0
    aligned = rows.data.ptr % PIECE == 0  # as copies of pieces must be
    return bool(name == kind and whole and aligned and rows.flags.c_contiguous)


def _sum_slack(kind: str, dim: int) -> float:
    """Return how wrong a sum of products may be, of the product of the norms."""
    return 0.0 if kind == "int8" else (dim + 64) * 2.0**-22


def _row_values(metric: Metric, told: Array, sums: float) -> Array:
    """Return scale, bias, lost and norm of rows."""
    xp = array_namespace(told)
    scale, norms, lost = told[:, _UNIT], xp.sqrt(told[:, _SQUARE]), xp.sqrt(told[:, _LOST]) * _UP
    bias = xp.zeros(len(told), xp.float64)
    if metric is Metric.COSINE:
        inverse = xp.where(norms > 0, 1 / xp.where(norms > 0, norms, 1), 0)
        scale, lost, norms = scale * inverse, lost * inverse * _UP, norms * inverse
    elif metric is not Metric.IP:
        bias = told[:, _SQUARE] / 2 * (1 - 2 * L2_SLACK)
    norms = norms * _UP
    lost = lost + (_ROUNDING + sums) * (norms + lost)
    return xp.stack([scale, bias, lost, norms], axis=1).astype(xp.float32)
