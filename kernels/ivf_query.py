"""Queries turned onto a pack's axes: from codes, or by BLAS where those are too coarse."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.int8_pack import rotate
from gpuvec.kernels.ivf_batch import turn_batch
from gpuvec.kernels.ivf_form import is_flat
from gpuvec.kernels.ivf_work import Work
from gpuvec.kernels.scan_bounds import prepare_queries

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]


def turn_queries(queries: F32, work: Work) -> tuple[F32, F64, F64]:
    """Turn queries onto the axes.

    Args:
        queries: (m, dim) float32, as asked.
        work: whose pack is searched and whose memory is used.

    Returns:
        (m, dims or more) turned, of length 1 for flat metrics; (m,) norms as asked or, for l2, less
        the origin, +inf where float32 cannot hold them; (m,) spread of what is lost, by norm of a
        row.
    """
    pack, m = work.pack, len(queries)
    flat = is_flat(pack.metric)
    if len(pack.turn) == 0:
        origin = np.zeros_like(pack.origin) if flat else pack.origin
        vectors, norms, refused = prepare_queries(queries, pack.metric, origin)
        lengths = (norms > 0).astype(np.float64) if flat else norms
        turned: Any = rotate(vectors, pack.rotation)
        return turned, np.where(refused, np.inf, norms), pack.rest * lengths
    norms, noise, out = work.norms[:m], work.noise[:m], work.turned[:m]
    turn_batch(
        queries, pack.origin, flat, pack.rest, work.turn_step, work.groups, pack.turn,
        pack.turn_units, work.less, work.places, work.never, work.sums, work.masks,
        work.raw_codes[:m], work.raw_units, norms, noise, out,
    )  # fmt: skip
    return out, norms, noise
