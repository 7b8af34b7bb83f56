"""Queries on their way into codes: turned onto the pack's axes, and encoded."""

from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.int8_pack import rotate
from gpuvec.kernels.int8_tile import GROUP, WORD, tile_address
from gpuvec.kernels.ivf_batch import (
    NORM_LOSS,
    STEP_LOSS,
    UNIT,
    IvfBatch,
    encode_batch,
    encode_raw,
    query_units,
    turn_raw,
)
from gpuvec.kernels.ivf_form import IvfArrays, IvfPack, is_flat
from gpuvec.kernels.ivf_work import Work
from gpuvec.kernels.scan_bounds import prepare_queries

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
_FINEST = -8  # powers of two by which steps of short l2 queries may be narrower


def turn_queries(pack: IvfPack, queries: F32, work: Work) -> tuple[F32, F64, F64]:
    """Turn queries onto the axes.

    Args:
        pack: whose axes.
        queries: (m, dim) float32, as asked.
        work: whose memory is used.

    Returns:
        (m, dims or more) turned, of length 1 for flat metrics; (m,) norms as asked or, for l2, less
        the origin, +inf where float32 cannot hold them; (m,) spread of what is lost, by norm of a
        row.
    """
    m, flat = len(queries), is_flat(pack.metric)
    dims = len(pack.variance)
    if len(pack.turn) == 0:
        origin = np.zeros_like(pack.origin) if flat else pack.origin
        vectors, norms, refused = prepare_queries(queries, pack.metric, origin)
        lengths = (norms > 0).astype(np.float64) if flat else norms
        return rotate(vectors, pack.rotation), np.where(refused, np.inf, norms), pack.rest * lengths
    norms, units, out = work.norms[:m], work.raw_units[:m], work.turned[:m]
    codes = work.raw_codes[: m + 1]
    encode_raw(queries, pack.origin, flat, codes, units, norms)
    codes[m] = 0
    s = work.scratch
    work.slots[:m] = np.arange(m)
    work.slots[m : m + GROUP] = m
    turn_raw(
        pack.turn, pack.turn_units, codes, units, tile_address(), work.slots,
        np.zeros(len(pack.turn_units), np.float32), s.lines, s.sums, s.rows, out,
    )  # fmt: skip
    lengths = (norms > 0).astype(np.float64) if flat else norms
    step = float(np.square(pack.turn_units[:dims], dtype=np.float64).mean())
    noise = np.sqrt((units**2 + lengths**2 * step) / 12 + (pack.rest * lengths) ** 2)
    return out, norms, noise


def step_classes(pack: IvfPack, turned: F32) -> Iterator[tuple[Any, F64]]:
    """Part queries so that those of l2 share their step; yield members and steps."""
    needed = np.empty(len(turned))
    query_units(turned, len(pack.variance), pack.head, pack.query_shift, needed)
    if is_flat(pack.metric):
        yield slice(None), np.where(needed > 0, needed, 1).astype(np.float32).astype(np.float64)
        return
    least = pack.unit * 2.0**_FINEST
    powers = np.ceil(np.log2(np.maximum(needed, least) / pack.unit)).astype(np.int64)
    for power in np.unique(powers):
        members = np.flatnonzero(powers == power)
        yield members, np.full(len(members), pack.unit * 2.0**power)


def encode(pack: IvfPack, turned: F32, units: F64, noise: F64, work: Work) -> IvfBatch:
    """Encode turned queries.

    Args:
        pack: see `turn_queries`.
        turned: (m, dims or more).
        units: (m,), see `step_classes`.
        noise: (m,), see `turn_queries`.
        work: whose memory is used.
    """
    m = len(turned)
    codes, facts = work.codes[: m + 1], work.facts[:m]
    codes[m] = 0
    center = pack.arrays.center_codes.shape[1] * WORD
    encode_batch(
        turned, units, pack.variance, pack.head, pack.edge, center, pack.row_shift,
        pack.query_shift, pack.reach, noise, codes, facts,
    )  # fmt: skip
    return IvfBatch(
        codes=codes,
        facts=facts,
        flat=is_flat(pack.metric),
        shift=pack.row_shift + pack.query_shift,
        head=pack.head // WORD,
        edge=pack.edge // WORD,
        multiply=tile_address(),
    )


def usual_loss(arrays: IvfArrays, batch: IvfBatch) -> F64:
    """Return the spread of what codes lose of each query's scores in a usual list."""
    facts = batch.facts
    loss: F64 = facts[:, STEP_LOSS] * arrays.steps.mean() + facts[:, UNIT] * arrays.losses.mean()
    loss += facts[:, NORM_LOSS] * arrays.norms.mean()
    return loss
