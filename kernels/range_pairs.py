"""Pairs whose distance may lie in a range, when distances are known only so well."""

from dataclasses import dataclass

import numpy as np

from gpuvec.device.arrays import array_namespace, is_device_array
from gpuvec.kernels.launch import THREADS, kernel_of, whole
from gpuvec.types import Array

_LANES = 32
_WARPS = 8192  # enough to fill a large card
_LEAST_COLUMNS = 1024  # of a part


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Doubt:
    """How far a distance may be from the final one: base + share * distance + query * row.

    Attributes:
        base: of every pair.
        share: of the distance.
        queries: (m,) float32, with `rows`; None: 0.
        rows: (n,) float32.
    """

    base: float = 0.0
    share: float = 0.0
    queries: Array | None = None
    rows: Array | None = None


def range_pairs(
    distances: Array, low: Array | None, high: Array, doubt: Doubt
) -> tuple[Array, Array]:
    """Name every pair that `low < distance <= high` cannot rule out.

    Args:
        distances: (m, n) float32, C-contiguous, on host or device.
        low: (m,) float32, not wanted themselves; None: no such limit.
        high: (m,) float32.
        doubt: of the distances.

    Returns:
        query and column of each pair, (p,) int64 both, query by query, columns rising.

    Cost: on a device two reads of `distances` and 16 bytes a pair, one wait for their number.
    """
    if is_device_array(distances) and distances.size:
        return _on_device(distances, low, high, doubt)
    xp = array_namespace(distances, low, high)
    with np.errstate(invalid="ignore"):
        slack = xp.float32(doubt.base) + xp.float32(doubt.share) * distances
        if doubt.queries is not None and doubt.rows is not None:
            slack = slack + doubt.queries[:, None] * doubt.rows[None, :]
        maybe = ~(distances - slack > high[:, None])
        if low is not None:
            maybe &= ~(distances + slack <= low[:, None])
    query, column = xp.nonzero(maybe)
    return query, column


def _on_device(
    distances: Array, low: Array | None, high: Array, doubt: Doubt
) -> tuple[Array, Array]:
    xp = array_namespace(distances, low, high, doubt.queries, doubt.rows)
    m, n = distances.shape
    parts = max(1, min(_WARPS // m, n // _LEAST_COLUMNS))
    size = -(-n // parts)
    parts = -(-n // size)
    counts = xp.empty(m * parts, xp.int64)
    null = np.uintp(0)
    question = (
        xp.ascontiguousarray(distances, xp.float32),
        null if low is None else xp.ascontiguousarray(low, xp.float32),
        xp.ascontiguousarray(high, xp.float32),
        null if doubt.queries is None else xp.ascontiguousarray(doubt.queries, xp.float32),
        null if doubt.rows is None else xp.ascontiguousarray(doubt.rows, xp.float32),
        np.float32(doubt.base), np.float32(doubt.share),
        whole(m), whole(n), whole(size), whole(parts),
    )  # fmt: skip
    grid, block = (-(-m * parts * _LANES // THREADS),), (THREADS,)
    kernel_of("range_pairs.cu", "range_count").launch(grid, block, *question, counts)
    ends = xp.cumsum(counts)
    total = int(ends[-1])
    owners, columns = xp.empty(total, xp.int64), xp.empty(total, xp.int64)
    if total:
        kernel_of("range_pairs.cu", "range_fill").launch(
            grid, block, *question, ends - counts, owners, columns
        )
    return owners, columns
