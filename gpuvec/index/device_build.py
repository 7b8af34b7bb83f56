"""Indexes for a device: built there, or opened from the files that either device wrote.

Files are those of the CPU, whoever builds: lists in FAISS's format, graphs as `cagra_file` has
them. Lists get their centers on the device; FAISS opens them from the file, cuVS makes its own of
the rows each time, which takes it about as long as reading them would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import to_device, to_host
from gpuvec.device.rows import device_rows
from gpuvec.errors import index_cannot_measure, no_engine_for_index
from gpuvec.index import cagra_host, faiss_ivf
from gpuvec.index.admission import check_build_memory
from gpuvec.index.base import IndexFile
from gpuvec.index.cagra_file import CagraGraph, read_graph
from gpuvec.index.cuvs_cagra import CuvsCagra, CuvsScan
from gpuvec.index.cuvs_ivf import CuvsLists
from gpuvec.index.cuvs_library import cuvs_version
from gpuvec.index.device_centers import DeviceCenters
from gpuvec.index.device_engine import Engine, Nodes
from gpuvec.index.device_index import DeviceIndex
from gpuvec.index.device_space import device_space
from gpuvec.index.devices import installed_engines, why_not_on_device
from gpuvec.index.faiss_base import insertion_order
from gpuvec.index.faiss_codes import Codec
from gpuvec.index.faiss_ivf import LISTS_FILE, codec_of
from gpuvec.index.faiss_ivfpq import DEVICE_BITS, pq_shape
from gpuvec.index.faiss_lists import ListsBuild
from gpuvec.index.faiss_space import search_space, space_of
from gpuvec.index.spec import CAGRA, IVFPQ, Flat, IndexSpec
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Metric

_BESIDE = 8  # candidates of a scan beyond k: it measures at half precision


class _ListFiles:
    """Lists in FAISS's format: while rows are held out, and their file afterwards.

    Args:
        codec: how they hold rows.
        work: lists while rows are added; None: they are complete.
        data: their file; None while rows are held out.
    """

    def __init__(
        self, codec: Codec, work: ListsBuild | None, data: NDArray[np.uint8] | None
    ) -> None:
        self.codec = codec
        self._work = work
        self._data = data

    @property
    def nbytes(self) -> int:
        """Bytes of the file, also before there is one."""
        if self._data is not None:
            return self._data.nbytes
        assert self._work is not None
        return self._work.bytes_of(len(self._work.early))

    def opened(self) -> Any:
        """Return FAISS's index of them."""
        if self._data is None:
            assert self._work is not None
            return self._work.lists
        return faiss_ivf.opened_lists(self._data, self.codec)

    def finish(self) -> None:
        """Add the rows held out, and write the file."""
        if self._work is not None:
            work, self._work = self._work, None
            self._data = work.finish()

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        assert self._data is not None
        return {LISTS_FILE: [self._data], **self.codec.files()}


def build(
    spec: Any,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
    engine: str | None = None,
) -> DeviceIndex:
    """See `registry.build`; `vectors.values` are `DeviceRows` or an array on the device.

    Args:
        spec: what to build.
        vectors: of the segment.
        metric: a dense one.
        held_out: see `registry.build`.
        threads: of the host, for what is encoded there.
        memory_limit: of the host.
        engine: by its name; None: the first that is installed.
    """
    name = _engine(spec, vectors, metric, engine)
    check_build_memory(spec, build_bytes(spec, len(vectors), vectors), memory_limit)
    if isinstance(spec, Flat):
        return _scan(spec, vectors, metric, held_out)
    if isinstance(spec, CAGRA):
        return _build_graph(spec, vectors, metric, held_out)
    if isinstance(spec, IVFPQ):
        dims, bits = pq_shape(spec, vectors.shape[1], bits=DEVICE_BITS)
        spec = replace(spec, pq_dim=dims, pq_bits=bits)
    host = on_host(vectors)
    space = space_of(host, metric, share=False)
    if space.codes == "bfloat16":  # which FAISS has on the CPU only
        space = replace(space, codes="float32")
    codec = codec_of(spec, space, vectors.shape[1])
    work = ListsBuild(spec, host, codec, held_out, threads, centers=DeviceCenters())
    lists = _ListFiles(codec, work, None)
    if not len(work.late):
        lists.finish()
    return _over_lists(work.spec, vectors, metric, lists, name, work.late)


def load(
    spec: Any,
    vectors: DenseVectors,
    metric: Metric,
    files: Mapping[str, IndexFile],
    *,
    engine: str | None = None,
) -> DeviceIndex:
    """See `registry.load`; arguments as in `build`."""
    name = _engine(spec, vectors, metric, engine)
    if isinstance(spec, Flat):
        return _scan(spec, vectors, metric, None)
    if isinstance(spec, CAGRA):
        return _over_graph(spec, vectors, metric, read_graph(files))
    product = metric in (Metric.COSINE, Metric.IP)
    codec = codec_of(spec, search_space(_form(vectors), product=product), vectors.shape[1])
    lists = _ListFiles(codec, None, files[LISTS_FILE].data)
    return _over_lists(spec, vectors, metric, lists, name, None)


def build_bytes(spec: Any, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`: of the host; a device's bytes are booked when they are taken."""
    if isinstance(spec, Flat):
        return {"index": 0}
    if isinstance(spec, CAGRA):
        graph = rows * (4 * spec.graph_degree + 8)
        return {"index": graph, "graph before it is written": graph}
    if isinstance(spec, IVFPQ) and spec.pq_bits is None:
        spec = replace(spec, pq_bits=DEVICE_BITS)
    return faiss_ivf.build_bytes(spec, rows, _form(vectors))


def on_host(vectors: DenseVectors) -> DenseVectors:
    """Return the vectors in host memory, possibly mapped."""
    found = device_rows(vectors.values).on_host()
    found = found.view(ml_dtypes.bfloat16) if found.dtype == np.uint16 else found
    return DenseVectors(found, vectors.valid)


def _form(vectors: DenseVectors) -> DenseVectors:
    """Return no vectors, of the same width and dtype, on the host."""
    dtype = np.dtype(ml_dtypes.bfloat16) if vectors.dtype == np.uint16 else vectors.dtype
    return DenseVectors(np.empty((0, vectors.shape[1]), dtype))


def _engine(spec: IndexSpec, vectors: DenseVectors, metric: Metric, wanted: str | None) -> str:
    """Return the engine to use; refuse what none can serve."""
    form = _form(vectors).values
    check_pair(form if is_binary(metric) else form.astype(np.float32), form, metric)
    if is_binary(metric):
        served = [other for other in Metric if not is_binary(other)]
        raise index_cannot_measure(type(spec).__name__, metric, served)
    known = installed_engines(spec)
    if not known:
        raise no_engine_for_index(type(spec).__name__, why_not_on_device(spec))
    return wanted if wanted in known else known[0]


def _over_lists(
    spec: Any,
    vectors: DenseVectors,
    metric: Metric,
    lists: _ListFiles,
    name: str,
    late: NDArray[np.int64] | None,
) -> DeviceIndex:
    """Return an index over lists in FAISS's format."""
    engine = _lists_engine(spec, lists, name)

    def complete() -> Engine:
        lists.finish()
        return _lists_engine(spec, lists, name)

    held_out = late is not None and len(late) > 0
    return DeviceIndex(
        spec,
        vectors,
        metric,
        engine,
        late=late,
        plan=lambda k, params: faiss_ivf.list_plan(spec, k, params),
        settings=lambda _: faiss_ivf.list_settings(spec),
        complete=complete if held_out else None,
        files=lists.files,
        nbytes=lists.nbytes,
    )


def _lists_engine(spec: Any, lists: _ListFiles, name: str) -> Engine:
    if name == "cuvs":
        return CuvsLists(spec)
    from gpuvec.index.faiss_gpu import FaissOnGpu, why_not

    opened = lists.opened()
    reason = why_not(opened)
    if reason:
        raise no_engine_for_index(type(spec).__name__, reason)
    return FaissOnGpu(type(spec).__name__, lists.opened, lists.codec, int(opened.code_size))


def _build_graph(
    spec: CAGRA, vectors: DenseVectors, metric: Metric, held_out: NDArray[np.int64] | None
) -> DeviceIndex:
    """Build a graph; where rows are held out, that is done again once they are there."""
    early, late = insertion_order(vectors, held_out)
    graph = _graph(spec, vectors, metric, early)
    every = np.sort(np.concatenate([early, late])) if len(late) else None
    return _over_graph(spec, vectors, metric, graph, late=late, every=every)


def _graph(
    spec: CAGRA, vectors: DenseVectors, metric: Metric, rows: NDArray[np.int64]
) -> CagraGraph:
    """Build a graph of some rows on the device; of few of them on the host."""
    engine, held_rows = CuvsCagra(spec), device_rows(vectors.values)
    if len(rows) < engine.least_nodes:
        host = on_host(vectors)
        some = np.zeros(len(host), np.bool_)
        some[rows] = True
        return cagra_host.graph_of(spec, DenseVectors(host.values, some), metric)
    places = None if len(rows) == len(vectors) else rows
    size = engine.build_bytes(len(rows), vectors.shape[1])
    with held_rows.held() as held, held_rows.scratch(size, size, what=f"building {spec}"):
        space = device_space(held, held_rows.like, metric)
        at = None if places is None else to_device(places, "index")
        finder = engine.make(Nodes(held=held, places=at, count=len(rows), space=space))
        edges = to_host(finder.edges(), "index").astype(np.int32)
    return CagraGraph(edges=edges, rows=places, maker=f"cuvs {cuvs_version()}")


def _over_graph(
    spec: CAGRA,
    vectors: DenseVectors,
    metric: Metric,
    graph: CagraGraph,
    *,
    late: NDArray[np.int64] | None = None,
    every: NDArray[np.int64] | None = None,
) -> DeviceIndex:
    """Return an index over a graph, which lacks `late` and is built anew of `every` row at last."""
    held = [graph]

    def complete() -> Engine:
        assert every is not None
        held[0] = _graph(spec, vectors, metric, every)
        return CuvsCagra(spec, held[0])

    return DeviceIndex(
        spec,
        vectors,
        metric,
        CuvsCagra(spec, graph),
        late=late,
        plan=cagra_host.graph_plan,
        settings=lambda k: cagra_host.graph_settings(len(held[0].edges), k),
        complete=None if every is None else complete,
        files=lambda: held[0].files(),
        nbytes=graph.nbytes,
    )


def _scan(
    spec: Flat, vectors: DenseVectors, metric: Metric, held_out: NDArray[np.int64] | None
) -> DeviceIndex:
    """Return cuVS's scan of all rows: a peer of our own, and like it without files."""
    late = None if held_out is None or not len(held_out) else held_out
    return DeviceIndex(
        spec,
        vectors,
        metric,
        CuvsScan(),
        late=late,
        plan=lambda k, _: ({}, k + _BESIDE),
        settings=lambda _: [{}],
        complete=None if late is None else CuvsScan,
        files=dict,
        nbytes=0,
    )
