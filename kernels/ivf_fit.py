"""What the lists of the approximate batch search learn from a sample of the rows.

Vectors are turned onto their principal axes, most energy first: a scan may look after a third of
the dimensions, centers need fewer dimensions than rows, and the last ones say so little that they
are left out.
"""

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import as_float32
from gpuvec.kernels.int8_pack import MAX_SHIFT, choose_head, rotate
from gpuvec.kernels.ivf_form import is_flat
from gpuvec.kernels.ivf_means import k_means
from gpuvec.kernels.quantize import LEVELS, OFFSET, SEGMENT
from gpuvec.kernels.scan_bounds import LARGEST, SMALLEST, prepare_rows
from gpuvec.types import Metric

SAMPLE_PER_CENTER = 64
MIN_SAMPLE = 8192
ROUNDS = 8
NO_SHARE = 0.03  # of a score's spread, that dimensions must bring to be kept
CENTER_SHARE = 0.015  # of the offsets' energy, that centers may leave to them
EDGE_SHARE = 0.28  # of the offsets' energy, that may lie beyond the first edge
COARSE = 0.05  # of a score's spread, that rounding before the rotation may take off
_SUMMED = 1024  # rows added in float32
_MAX_SUM = 2**29  # of an integer product

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


class Fit(NamedTuple):
    """What is learnt. dims is a multiple of SEGMENT, as `edge`, `head` and `center` are.

    Attributes:
        origin: (dim,) float32, taken off every row, and for l2 off every query.
        centers: (c, dim) float32, not turned.
        rotation: (dim, dims) float32.
        variance: (dims,) float32, of offsets from centers.
        edge: dimensions after which a scan looks for the first time.
        head: dimensions whose steps are wider, by 2**row_shift and 2**query_shift.
        center: dimensions that centers have.
        row_shift: places.
        query_shift: places.
        unit: step of queries for l2, times a power of two.
        rest: spread of what the dimensions left out add to scores, of |q| |x|.
        fine: whether queries may be encoded before they are turned.
    """

    origin: F32
    centers: F32
    rotation: F32
    variance: F32
    edge: int
    head: int
    center: int
    row_shift: int
    query_shift: int
    unit: float
    rest: float
    fine: bool


def prepare(block: Any, metric: Metric, origin: F32) -> F32 | None:
    """Return rows less the origin, or None if float32 cannot hold their squares."""
    wide = as_float32(block)
    peak = max(float(wide.max(initial=0)), -float(wide.min(initial=0)))
    if not (peak == 0 or SMALLEST <= peak <= LARGEST):
        return None
    vectors = prepare_rows(wide, metric, origin)
    return vectors - origin if is_flat(metric) else vectors


def learn(rows: Any, metric: Metric, learnt: I64, groups: int, threads: int) -> Fit | None:
    """Choose origin, centers, axes and steps from a sample of the rows `learnt`."""
    dim, rng = rows.shape[1], np.random.default_rng(0)
    groups = min(groups, len(learnt))
    size = min(len(learnt), max(MIN_SAMPLE, SAMPLE_PER_CENTER * groups, 2 * dim))
    picked = learnt if size == len(learnt) else np.sort(rng.choice(learnt, size, replace=False))
    sample = prepare(rows[picked], metric, np.zeros(dim, np.float32))
    if sample is None:
        return None
    origin = sample.mean(axis=0, dtype=np.float64).astype(np.float32)
    sample -= origin
    axes = _axes_of(sample)
    centers, nearest = k_means(sample, groups, ROUNDS, rng, threads)
    some = slice(None, None, max(1, size // MIN_SAMPLE))
    few, near = sample[some], centers[nearest[some]]
    asked = rotate(few + origin if is_flat(metric) else few, axes)
    offsets, middles = _energies(rotate(few - near, axes)), _energies(rotate(near, axes))
    asked_energies = _energies(asked)
    dims, rest = _choose_dims(asked_energies, offsets + middles)
    fine = _is_fine(rotate(asked, np.ascontiguousarray(axes.T)), asked_energies, offsets)
    center = _first_at_most(middles, CENTER_SHARE * float(offsets.sum()), dims)
    rotation = np.zeros((dim, dims), np.float32)
    rotation[:, : min(dim, dims)] = axes[:, :dims]
    variance = np.zeros(dims, np.float32)
    variance[: min(dim, dims)] = offsets[:dims]
    variance[center : min(dim, dims)] += middles[center:dims].astype(np.float32)
    head, row_shift = choose_head(variance)
    if (LEVELS + OFFSET) * LEVELS * ((head << 2 * MAX_SHIFT) + dims) > _MAX_SUM:
        return None
    edge = _first_at_most(variance, EDGE_SHARE * float(variance.sum()), dims)
    edge = max(head, min(edge, max(SEGMENT, dims // 2 // SEGMENT * SEGMENT)))
    query_shift, unit = _query_steps(asked[:, :dims], head)
    return Fit(
        origin=origin,
        centers=centers,
        rotation=rotation,
        variance=variance,
        edge=edge,
        head=head,
        center=max(center, head),
        row_shift=row_shift,
        query_shift=query_shift,
        unit=unit,
        rest=rest,
        fine=fine,
    )


def _axes_of(sample: F32) -> F32:
    """Return the principal axes about zero, most energy first, (dim, dim)."""
    dim = sample.shape[1]
    some = sample[:: max(1, len(sample) // max(2 * MIN_SAMPLE, 8 * dim))]
    total = np.zeros((dim, dim))
    for start in range(0, len(some), _SUMMED):  # float32 sums are good for as many
        block = some[start : start + _SUMMED]
        total += block.T @ block
    _, axes = np.linalg.eigh(total)
    return np.ascontiguousarray(axes[:, ::-1], np.float32)


def _energies(vectors: F32) -> F64:
    """Return the mean square of each dimension."""
    found: F64 = np.einsum("ij,ij->j", vectors, vectors, dtype=np.float64) / max(1, len(vectors))
    return found


def _first_at_most(energies: Any, most: float, dims: int) -> int:
    """Return the first multiple of SEGMENT beyond which energies add up to at most `most`."""
    beyond = np.cumsum(energies[::-1], dtype=np.float64)[::-1]
    for place in range(SEGMENT, dims, SEGMENT):
        if beyond[place] <= most:
            return place
    return dims


def _choose_dims(queries: F64, rows: F64) -> tuple[int, float]:
    """Return how many dimensions to keep, and the spread of what the others add, of |q| |x|."""
    dims = -(-len(queries) // SEGMENT) * SEGMENT
    total = float(queries.sum() * rows.sum())
    if not total > 0:
        return dims, 0.0
    beyond = np.cumsum((queries * rows)[::-1])[::-1]
    for place in range(SEGMENT, len(queries), SEGMENT):
        if beyond[place] <= NO_SHARE**2 * beyond[0]:
            return place, float(np.sqrt(beyond[place] / total))
    return dims, 0.0


def _is_fine(asked: F32, queries: F64, offsets: F64) -> bool:
    """Return whether what rounding takes off raw queries is little beside a score's spread.

    Args:
        asked: (n, dim), not turned.
        queries: their energies by axis.
        offsets: the rows' energies by axis, less their centers.
    """
    peaks = float(np.square(np.abs(asked).max(axis=1), dtype=np.float64).mean())
    lost = peaks / LEVELS**2 / 12 * float(offsets.sum())
    return lost <= COARSE**2 * float((queries * offsets).sum())


def _query_steps(asked: F32, head: int) -> tuple[int, float]:
    """Return how much wider the steps of a query's head should be, and a usual step beyond it."""
    first = np.abs(asked[:, :head]).max(axis=1)
    rest = np.abs(asked[:, head:]).max(axis=1, initial=0)
    ratio = float(first.mean()) / max(float(rest.mean()), 1e-30)
    shift = int(np.clip(np.rint(np.log2(max(1.0, ratio))), 0, MAX_SHIFT))
    unit = float(np.maximum(first / 2**shift, rest).mean()) / LEVELS
    return shift, float(np.float32(unit)) if unit > 0 else 1.0
