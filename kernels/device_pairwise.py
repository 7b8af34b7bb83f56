"""Launches the device bodies of `kernels.pairwise`."""

import numpy as np

from gpuvec.device.arrays import array_namespace
from gpuvec.kernels.launch import THREADS, kernel_of, whole
from gpuvec.types import Array, Metric

_TILE = 64  # TILE in pairwise.cu
_PAIRS_PER_BLOCK = 16
_BINARY = (Metric.HAMMING, Metric.JACCARD)
_GRID_Y = 65535  # CUDA's largest


def pairwise_on_device(queries: Array, rows: Array, metric: Metric) -> Array:
    """See `pairwise_distances`."""
    from gpuvec.kernels.pairwise import METRIC_CODES

    xp = array_namespace(queries, rows)
    (m, width), n = queries.shape, rows.shape[0]
    out = xp.empty((m, n), xp.float32)
    left, right = xp.ascontiguousarray(queries), xp.ascontiguousarray(rows)
    step = _GRID_Y if metric in _BINARY else _GRID_Y * _TILE
    for first in range(0, m, step):
        part, found = left[first : first + step], out[first : first + step]
        sizes = (whole(len(part)), whole(n), whole(width))
        if metric in _BINARY:
            kernel_of("pairwise.cu", "pairwise_bits").launch(
                (-(-n // THREADS), len(part)), (THREADS,),
                part, right, *sizes, np.int32(METRIC_CODES[metric]), found,
            )  # fmt: skip
        else:
            kernel_of("pairwise.cu", f"pairwise_{metric}_{stored_as(rows)}").launch(
                (-(-n // _TILE), -(-len(part) // _TILE)), (16, 16), part, right, *sizes, found
            )
    return out


def paired_on_device(
    queries: Array, rows: Array, query_index: Array, row_index: Array, metric: Metric
) -> Array:
    """See `paired_distances`."""
    from gpuvec.kernels.pairwise import METRIC_CODES

    xp = array_namespace(queries, rows, query_index, row_index)
    pairs, width = len(query_index), queries.shape[1]
    out = xp.empty(pairs, xp.float32)
    arguments = (
        xp.ascontiguousarray(queries), xp.ascontiguousarray(rows),
        xp.ascontiguousarray(query_index, xp.int64), xp.ascontiguousarray(row_index, xp.int64),
        whole(pairs), whole(width), np.int32(METRIC_CODES[metric]), out,
    )  # fmt: skip
    if metric in _BINARY:
        kernel_of("pairwise.cu", "paired_bits").over(pairs, *arguments)
    else:
        kernel_of("pairwise.cu", f"paired_{stored_as(rows)}").launch(
            (-(-pairs // _PAIRS_PER_BLOCK),), (16 * _PAIRS_PER_BLOCK,), *arguments
        )
    return out


def stored_as(rows: Array) -> str:
    """Return the name of a device array's dtype in kernel names; uint16 holds bfloat16 bits."""
    return "bfloat16" if rows.dtype == np.uint16 else str(rows.dtype.name)
