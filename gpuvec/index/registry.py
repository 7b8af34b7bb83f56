"""From spec to index: each adapter is imported when it is first asked for."""

from collections.abc import Callable

from gpuvec.errors import unknown_index
from gpuvec.index.base import VectorIndex
from gpuvec.index.spec import IndexSpec
from gpuvec.rows import SparseVectors, VectorColumn
from gpuvec.types import Metric

Builder = Callable[[IndexSpec, VectorColumn, Metric], VectorIndex]


def _build_flat(spec: IndexSpec, vectors: VectorColumn, metric: Metric) -> VectorIndex:
    from gpuvec.index.flat import FlatIndex

    values = vectors if isinstance(vectors, SparseVectors) else vectors.values
    return FlatIndex(values, metric, valid=vectors.valid)


BUILDERS: dict[str, Builder] = {"flat": _build_flat}


def build(spec: IndexSpec, vectors: VectorColumn, metric: Metric | str) -> VectorIndex:
    """Build an index over one segment's vectors, on their device.

    Raises:
        QueryError: `GV-315`, no such index type; `GV-312`, the metric does not fit the vectors.
    """
    if spec.KIND not in BUILDERS:
        raise unknown_index(spec.KIND, BUILDERS)
    return BUILDERS[spec.KIND](spec, vectors, Metric(metric))
