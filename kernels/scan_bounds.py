"""From distances to scores and back: where the batch scan's proof begins and ends.

A score grows with nearness: `q.x` of the unit query for ip and cosine, `q.x - |x|²/2` for l2, both
less `Space.origin`. Scans compare scores; final distances are those of `paired_distances`.
"""

import numpy as np
from numpy.typing import NDArray

from gpuvec.types import Metric

F64 = NDArray[np.float64]
_ROUNDING = 2.0**-22  # more than a final float32 distance may be off
_TINY = 2.0**-40  # more than a float64 sum may be off, of |q| |x|


def score_limits(distances: F64, norms: F64, largest: float, metric: Metric) -> F64:
    """Return scores that every row with a final distance of at most `distances` reaches.

    Args:
        distances: (m,); +inf gives -inf.
        norms: (m,) of the queries, less the origin.
        largest: norm of a row, less the origin.
        metric: dense.
    """
    if metric is Metric.IP:
        farther = distances + np.abs(distances) * _ROUNDING
        scores = -farther / np.where(norms > 0, norms, 1) - largest * _TINY
    elif metric is Metric.COSINE:
        scores = 1 - distances * (1 + _ROUNDING) - _TINY
    else:
        squares = distances if metric is Metric.SQEUCLIDEAN else distances**2
        room = _TINY * (norms**2 + largest**2)
        scores = (norms**2 - squares * (1 + 4 * _ROUNDING)) / 2 - room
    return np.where(np.isposinf(distances), -np.inf, scores)
