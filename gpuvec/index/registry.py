"""From spec to index: each adapter is imported when it is first asked for."""

import importlib
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.library import is_device_array
from gpuvec.device.rows import DeviceRows
from gpuvec.errors import unknown_index
from gpuvec.index.base import ApproximateIndex, IndexFile, VectorIndex
from gpuvec.index.spec import IndexSpec
from gpuvec.rows import DenseVectors, SparseVectors, VectorColumn
from gpuvec.types import Metric

# Each module has `build` and `load`, called as those below, and `build_bytes`.
ADAPTERS: dict[str, str] = {
    "ivf_int8": "gpuvec.index.ivf_int8",
    "hnsw": "gpuvec.index.faiss_hnsw",
    "cagra": "gpuvec.index.cagra_host",
    "ivf_flat": "gpuvec.index.faiss_ivf",
    "ivf_sq8": "gpuvec.index.faiss_ivf",
    "ivf_pq": "gpuvec.index.faiss_ivf",
    "ivf_rabitq": "gpuvec.index.faiss_ivf",
}


def exact(vectors: VectorColumn, metric: Metric | str) -> VectorIndex:
    """Return the index that measures every row, over vectors on their device; nothing is built.

    Raises:
        QueryError: `GV-312`, the metric does not fit the vectors.
    """
    from gpuvec.index.flat import FlatIndex

    values = vectors if isinstance(vectors, SparseVectors) else vectors.values
    return FlatIndex(values, metric, valid=vectors.valid)


def build(
    spec: IndexSpec,
    vectors: DenseVectors,
    metric: Metric | str,
    *,
    held_out: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
    engine: str | None = None,
) -> ApproximateIndex:
    """Build an index over one segment's vectors.

    Args:
        spec: what to build; parameters left at None are decided by the number of rows.
        vectors: (rows, width), host memory, possibly mapped; held, not copied. Null ones are never
            found. Where `values` are `DeviceRows` or an array on a GPU, the index is built and
            searched there.
        metric: one that measures such vectors.
        held_out: rising rows that the index must not see until `complete` is called, so that
            recall measured with them as queries is honest. None: there are none.
        threads: 0: all cores.
        memory_limit: bytes of the host for the index and all temporary data; None: the process's
            budget.
        engine: on a GPU, which library searches it; None, and where it is not installed: any.

    Raises:
        QueryError: `GV-315` no such index type; `GV-312` the metric does not fit the vectors.
        UnsupportedError: `GV-320` the index's library is missing, or it cannot serve the metric.
        DeviceMemoryError: `GV-401` the build does not fit `memory_limit`; names the parts.
    """
    adapter, more = _adapter(spec, vectors, engine)
    found: ApproximateIndex = adapter.build(
        spec,
        vectors,
        Metric(metric),
        held_out=held_out,
        threads=threads,
        memory_limit=memory_limit,
        **more,
    )
    return found


def load(
    spec: IndexSpec,
    vectors: DenseVectors,
    metric: Metric | str,
    files: Mapping[str, IndexFile],
    *,
    engine: str | None = None,
) -> ApproximateIndex:
    """Make an index from the files of one that was built; memory is mapped, not read, where it can.

    Args:
        spec: as `ApproximateIndex.spec` of the index that was built.
        vectors: the same that it was built over; they say too where it shall be searched.
        metric: the same.
        files: by the names of `ApproximateIndex.files`.
        engine: see `build`.
    """
    adapter, more = _adapter(spec, vectors, engine)
    found: ApproximateIndex = adapter.load(spec, vectors, Metric(metric), files, **more)
    return found


def build_bytes(spec: IndexSpec, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """Return an estimate of a build's peak memory, part by part: what an admission adds up.

    Args:
        spec: what would be built.
        rows: how many.
        vectors: of the segment; only their width and dtype are looked at.

    Returns:
        part to bytes; the part "index" stays in memory for searches, the others are temporary.
    """
    found: dict[str, int] = _adapter(spec, vectors)[0].build_bytes(spec, rows, vectors)
    return found


def why_not_on(device: str, spec: IndexSpec, metric: Metric) -> str:
    """Return why an index cannot be searched on a device, "cpu" or "gpu"; nothing if it can."""
    if device != "gpu":
        return ""
    from gpuvec.index.devices import why_not_on_device

    return why_not_on_device(spec, metric)


def is_served(engine: str, spec: IndexSpec) -> bool:
    """Return whether a curve's engine can still search an index; "" stands for the CPU's own."""
    if not engine:
        return True
    from gpuvec.index.devices import installed_engines

    return engine in installed_engines(spec)


def _adapter(
    spec: IndexSpec, vectors: DenseVectors, engine: str | None = None
) -> tuple[Any, dict[str, Any]]:
    """Return the module that serves an index where the vectors are, and what it wants besides."""
    if isinstance(vectors.values, DeviceRows) or is_device_array(vectors.values):
        return importlib.import_module("gpuvec.index.device_build"), {"engine": engine}
    if spec.KIND not in ADAPTERS:
        raise unknown_index(spec.KIND, ADAPTERS)
    return importlib.import_module(ADAPTERS[spec.KIND]), {}
