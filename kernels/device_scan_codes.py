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
from gpuvec.kernels.scan_bounds import L2_SLACK, LARGEST, SMALLEST
from gpuvec.types import Array, Metric

PIECE = 16  # bytes: codes of a row are padded to it, as in scan_tile.cuh
_UP = 1 + 2.0**-20  # more than a norm may be short of
_TINY = 2.0**-100  # peaks that need no step of their own
_ROUNDING = 2.0**-19  # of |q| |x|: float32 arithmetic of a score and its bound
_SAMPLE = 2048  # rows whose mean is the origin
_VALUE_BYTES = 56  # of temporary data for each value that is being encoded


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
    """Return the kinds of codes that serve rows of a dtype, cheapest first, tightest last."""
    name = "bfloat16" if rows.dtype == np.uint16 else str(rows.dtype.name)
    return {"float16": ("float16",), "bfloat16": ("bfloat16",)}.get(name, ("int8", "float16"))


def code_bytes(rows: Array, kind: str) -> int:
    """Return the bytes that `encode_rows` will take; rows that are their own codes take 16 each."""
    held = 0 if _is_direct(rows, kind) else _width(rows.shape[1], kind)
    return int(len(rows) * (held + 16))


def scratch_bytes(rows: Array) -> int:
    """Return the bytes of temporary data that encoding one row takes."""
    return _VALUE_BYTES * int(rows.shape[1]) + 64


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
        tile_rows: to encode at a time, each with `scratch_bytes`.

    Returns:
        None: their magnitudes are beyond those that float32 can bound.

    Cost: some ten reads of the rows; rows that are their own codes are read for their norms.
    """
    xp = array_namespace(rows, origin)
    count, dim = rows.shape
    width = _width(dim, kind)
    direct = _is_direct(rows, kind) and origin is None
    codes = rows.view(xp.uint8) if direct else xp.zeros((count, width), xp.uint8)
    values = xp.empty((count, 4), xp.float32)
    tops = []
    for start in range(0, count, tile_rows):
        at = slice(start, start + tile_rows)
        vectors = as_float32(rows[at])
        if origin is not None:
            vectors = vectors - origin
        peaks = xp.abs(vectors).max(axis=1)
        if direct:
            units, lost = xp.ones(len(vectors), xp.float32), xp.zeros(len(vectors), xp.float64)
        else:
            units, near = _encode(vectors, peaks, kind, codes[at])
            lost = xp.sqrt(_squares(vectors - near)) * _UP
        squares = _squares(vectors)
        values[at] = _row_values(metric, units, lost, squares, _sum_slack(kind, dim))
        tops.append(xp.stack([peaks.max().astype(xp.float64), squares.max()]))
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
    peaks = xp.abs(queries).max(axis=1) if count else xp.zeros(0, xp.float32)
    refused = ~(peaks <= LARGEST)
    asked = xp.where(refused[:, None], xp.float32(0), queries)
    if origin is not None:
        asked = asked - origin
    sizes = xp.sqrt(_squares(asked))
    if flat:
        refused |= ~(sizes > 0)
        asked = (asked / xp.where(refused, 1, sizes)[:, None]).astype(xp.float32)
    codes = xp.zeros((count, _width(dim, kind)), xp.uint8)
    peaks = xp.abs(asked).max(axis=1) if count else peaks
    units, near = _encode(asked, peaks, kind, codes)
    lost, norms = xp.sqrt(_squares(asked - near)) * _UP, xp.sqrt(_squares(asked)) * _UP
    room = xp.zeros(count, xp.float64) if flat else L2_SLACK * norms**2
    # The unit query that was asked and the one in float32 differ by 2^-24 of its length.
    values = xp.stack([units, norms + lost, lost + _ROUNDING * norms, room], axis=1)
    return QueryCodes(codes, values.astype(xp.float32), sizes, refused)


def _width(dim: int, kind: str) -> int:
    """Return the bytes of a row's codes."""
    size = dim * (1 if kind == "int8" else 2)
    return -(-size // PIECE) * PIECE


def _is_direct(rows: Array, kind: str) -> bool:
    """Return whether rows are their own codes."""
    name = "bfloat16" if rows.dtype == np.uint16 else str(rows.dtype.name)
    whole = rows.shape[1] * rows.dtype.itemsize % PIECE == 0
    return bool(name == kind and whole and rows.flags.c_contiguous)


def _sum_slack(kind: str, dim: int) -> float:
    """Return how wrong a sum of products may be, of the product of the norms."""
    return 0.0 if kind == "int8" else (dim + 64) * 2.0**-22


def _squares(vectors: Array) -> Array:
    """Return squared norms of (n, dim) vectors, (n,) float64."""
    wide = vectors.astype(array_namespace(vectors).float64)
    return (wide * wide).sum(axis=1)


def _encode(vectors: Array, peaks: Array, kind: str, codes: Array) -> tuple[Array, Array]:
    """Write the bytes of codes; return units (n,) float32 and what the codes say (n, dim)."""
    xp = array_namespace(vectors)
    size = vectors.shape[1] * (1 if kind == "int8" else 2)
    if kind == "int8":
        # Small whole numbers, as of stored int8 or uint8, lose nothing in steps of 1.
        whole = (xp.rint(vectors) == vectors).all(axis=1)
        whole &= (vectors.max(axis=1) <= 127) & (vectors.min(axis=1) >= -128)
        units = xp.where(whole | ~(peaks > _TINY), xp.float32(1), peaks / xp.float32(127))
        levels = xp.clip(xp.rint(vectors / units[:, None]), -128, 127)
        codes[:, :size] = levels.astype(xp.int8).view(xp.uint8)
        return units, levels * units[:, None]
    _, exponents = xp.frexp(xp.where(peaks > _TINY, peaks, xp.float32(1)))
    units = xp.ldexp(xp.ones(len(vectors), xp.float32), exponents)
    scaled = vectors / units[:, None]  # by a power of 2: exact, below 1
    if kind == "float16":
        halves = scaled.astype(xp.float16)
        near = halves.astype(xp.float32)
    else:
        bits = scaled.view(xp.uint32)
        even = (bits >> xp.uint32(16)) & xp.uint32(1)
        halves = ((bits + xp.uint32(0x7FFF) + even) >> xp.uint32(16)).astype(xp.uint16)
        near = (halves.astype(xp.uint32) << xp.uint32(16)).view(xp.float32)
    codes[:, :size] = halves.view(xp.uint8)
    return units, near * units[:, None]


def _row_values(metric: Metric, units: Array, lost: Array, squares: Array, sums: float) -> Array:
    """Return scale, bias, lost and norm of rows."""
    xp = array_namespace(units)
    bias = xp.zeros(len(units), xp.float64)
    scale, norms = units.astype(xp.float64), xp.sqrt(squares)
    if metric is Metric.COSINE:
        inverse = xp.where(norms > 0, 1 / xp.where(norms > 0, norms, 1), 0)
        scale, lost, norms = scale * inverse, lost * inverse * _UP, norms * inverse
    elif metric is not Metric.IP:
        bias = squares / 2 * (1 - 2 * L2_SLACK)
    norms = norms * _UP
    lost = lost + (_ROUNDING + sums) * (norms + lost)
    return xp.stack([scale, bias, lost, norms], axis=1).astype(xp.float32)
