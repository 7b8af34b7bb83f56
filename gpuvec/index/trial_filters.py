"""Filters to measure an index with: some ignore what is asked, some follow it."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.pairwise import is_binary, pairwise_distances
from gpuvec.rows import DenseVectors
from gpuvec.types import Metric, RowMask

SELECTIVITIES = (1.0, 0.5, 0.1, 0.9, 0.01, 0.001)  # what matters most goes first
FILTER_BYTES = 40  # per row, to make and try them
_PIVOTS = 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Case:
    """Rows that may be found.

    Attributes:
        name: as in `CurvePoint`.
        selectivity: as in `CurvePoint`.
        findable: rows that pass without a filter; None: all.
        place: (rows,) int32, rows of a place below `count` pass; others cannot be found at all or
            have a higher one. None: no filter.
        count: rows that pass.
    """

    name: str
    selectivity: float
    findable: RowMask | None
    place: NDArray[np.int32] | None
    count: int

    def keep(self) -> RowMask | None:
        """Return (rows,) which pass; None: all."""
        return self.findable if self.place is None else self.place < self.count


def trial_filters(
    vectors: DenseVectors, metric: Metric, findable: RowMask | None, seed: int
) -> Iterator[Case]:
    """Yield all rows first, then filters: rows drawn by chance, and rows near one another.

    Args:
        vectors: of the segment.
        metric: what "near" means.
        findable: rows that can be found at all; None: all.
        seed: of the chance.
    """
    rows = np.arange(len(vectors)) if findable is None else np.flatnonzero(findable)
    rng = np.random.default_rng(seed)
    blind = _places(rng.permutation(rows), len(vectors))
    near = _around_pivots(vectors, metric, rows, rng)
    for share in SELECTIVITIES:
        filters = (("all", None),) if share == 1.0 else (("random", blind), ("clustered", near))
        for name, place in filters:
            yield Case(
                name=name,
                selectivity=share,
                findable=findable,
                place=place,
                count=round(share * len(rows)),
            )


def _places(order: NDArray[np.int64], count: int) -> NDArray[np.int32]:
    """Return the place of each row in an order of some; those that are not in it come last."""
    place = np.full(count, np.iinfo(np.int32).max, np.int32)
    place[order] = np.arange(len(order), dtype=np.int32)
    return place


def _around_pivots(
    vectors: DenseVectors, metric: Metric, rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int32]:
    """Return the places of rows, those nearest to any of some random ones first."""
    best = np.full(len(rows), len(rows), np.int32)
    for pivot in rng.choice(rows, min(_PIVOTS, len(rows)), replace=False):
        one = vectors.values[pivot : pivot + 1]
        one = np.ascontiguousarray(one, one.dtype if is_binary(metric) else np.float32)
        distances = pairwise_distances(one, vectors.values, metric, threads=0)[0]
        nearest_first = np.argsort(distances[rows], kind="stable")
        np.minimum(best, _places(nearest_first, len(rows)), out=best)
    return _places(rows[np.argsort(best, kind="stable")], len(vectors))
