"""Distances in float64, written to be obvious: what measured recall is held against.

Shares no code with the kernels that answer searches.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.rows import SparseVectors
from gpuvec.types import Metric

Float64s = NDArray[np.float64]


def distances64(queries: Any, rows: Any, metric: Metric) -> Float64s:
    """Return the distance of each query to each row, (queries, rows); inputs as in an index."""
    if isinstance(rows, SparseVectors):
        return _sparse(queries, rows, metric)
    if metric in (Metric.HAMMING, Metric.JACCARD):
        return _bits(queries, rows, metric)
    q, r = np.asarray(queries, np.float64), np.asarray(rows).astype(np.float64)
    return _from_products(q @ r.T, (q * q).sum(1), (r * r).sum(1), metric)


def _from_products(dot: Float64s, q2: Float64s, r2: Float64s, metric: Metric) -> Float64s:
    if metric == Metric.IP:
        return -dot
    if metric == Metric.COSINE:
        norms = np.sqrt(q2)[:, None] * np.sqrt(r2)[None, :]
        cosine: Float64s = np.divide(dot, norms, out=np.zeros_like(dot), where=norms > 0)
        return 1.0 - cosine
    squares: Float64s = np.maximum(q2[:, None] + r2[None, :] - 2.0 * dot, 0.0)
    return squares if metric == Metric.SQEUCLIDEAN else np.sqrt(squares)


def _bits(queries: Any, rows: Any, metric: Metric) -> Float64s:
    q = np.unpackbits(queries, axis=1).astype(np.float64)
    r = np.unpackbits(rows, axis=1).astype(np.float64)
    both, q1, r1 = q @ r.T, q.sum(1)[:, None], r.sum(1)[None, :]
    if metric == Metric.HAMMING:
        return np.asarray(q1 + r1 - 2 * both)
    either = q1 + r1 - both
    return np.where(either > 0, 1.0 - both / np.maximum(either, 1.0), 0.0)


def _sparse(queries: SparseVectors, rows: SparseVectors, metric: Metric) -> Float64s:
    values = rows.values.astype(np.float64)
    ends = np.concatenate([[0.0], np.cumsum(values * values)])
    r2 = ends[rows.offsets[1:]] - ends[rows.offsets[:-1]]
    row_of = np.repeat(np.arange(len(rows)), np.diff(rows.offsets))
    dot = np.zeros((len(queries), len(rows)))
    q2 = np.zeros(len(queries))
    for number in range(len(queries)):
        low, high = queries.offsets[number], queries.offsets[number + 1]
        places, weights = queries.indices[low:high], queries.values[low:high].astype(np.float64)
        if len(places):
            at = np.minimum(np.searchsorted(places, rows.indices), len(places) - 1)
            products = np.where(places[at] == rows.indices, weights[at] * values, 0.0)
            dot[number] = np.bincount(row_of, weights=products, minlength=len(rows))
        q2[number] = (weights * weights).sum()
    return _from_products(dot, q2, r2, metric)
