"""From distances to scores and back: where the batch scan's proof begins and ends.

A score grows with nearness: `q.x` of the unit query for ip and cosine, `q.x - |x|²/2` for l2, both
less `Space.origin`. Scans compare scores; final distances are those of `paired_distances`.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, as_float32
from gpuvec.types import Metric

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
SMALLEST, LARGEST = 2.0**-30, 2.0**40  # peak magnitudes within which float32 squares are safe
L2_SLACK = 2.0**-20  # of |q|² + |x|²: rounding of half squares and of final distances
_ROUNDING = 2.0**-22  # more than a final float32 distance may be off
_TINY = 2.0**-40  # more than a float64 sum may be off, of |q| |x|


def score_limits(distances: Any, norms: Any, largest: float, metric: Metric) -> Any:
    """Return scores that every row with a final distance of at most `distances` reaches, (m,).

    Args:
        distances: (m,) float64, on either side; +inf gives -inf.
        norms: (m,) of the queries, less the origin.
        largest: norm of a row, less the origin.
        metric: dense.
    """
    xp = array_namespace(distances, norms)
    if metric is Metric.IP:
        with np.errstate(invalid="ignore"):  # -inf proves nothing: NaN is at most nothing
            farther = distances + xp.abs(distances) * _ROUNDING
        scores = -farther / xp.where(norms > 0, norms, 1) - largest * _TINY
    elif metric is Metric.COSINE:
        scores = 1 - distances * (1 + _ROUNDING) - _TINY
    else:
        squares = distances if metric is Metric.SQEUCLIDEAN else distances**2
        room = _TINY * (norms**2 + largest**2)
        scores = (norms**2 - squares * (1 + 4 * _ROUNDING)) / 2 - room
    return xp.where(distances == np.inf, -np.inf, scores)


def prepare_queries(queries: F32, metric: Metric, origin: F32) -> tuple[F32, F64, Any]:
    """Return queries as scores take them, their norms, and which float32 cannot hold.

    For ip and cosine vectors have length 1 (or 0) and norms are those of the queries as asked; for
    l2 both are less the origin.
    """
    if metric in (Metric.IP, Metric.COSINE):
        norms = np.sqrt(np.einsum("ij,ij->i", queries, queries, dtype=np.float64))
        inverse = 1 / np.where(norms > 0, norms, 1)
        return (queries * inverse[:, None]).astype(np.float32), norms, np.zeros(len(queries), bool)
    refused = np.abs(queries).max(axis=1, initial=0) > LARGEST
    vectors = np.where(refused[:, None], np.float32(0), queries) - origin
    norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
    return vectors, norms, refused


def prepare_rows(block: Any, metric: Metric, origin: F32) -> F32:
    """Return rows as scores take them: float32, of length 1 (or 0) for cosine, less the origin."""
    vectors: F32 = as_float32(block)
    if metric is Metric.COSINE:
        norms = np.sqrt(np.einsum("ij,ij->i", vectors, vectors, dtype=np.float64))
        return (vectors / np.where(norms > 0, norms, 1)[:, None]).astype(np.float32)
    return vectors if metric is Metric.IP else vectors - origin
