"""CAGRA on the CPU: the graph is searched by FAISS as the base level of an HNSW graph.

There are no upper levels: a search begins at the nearest of some rows that were drawn at random.
FAISS's own search of such graphs draws them anew for every query, by chance.

Built on a CPU, the graph is the base level that FAISS's HNSW makes; a GPU searches it as any other.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import index_cannot_measure
from gpuvec.index import faiss_hnsw
from gpuvec.index.admission import check_build_memory
from gpuvec.index.base import IndexFile, Params, Queries
from gpuvec.index.cagra_file import CagraGraph, read_graph
from gpuvec.index.faiss_base import FaissIndex, rising
from gpuvec.index.faiss_library import faiss_library, give_back, view_of_numbers
from gpuvec.index.faiss_space import ITEM_BYTES, Space, space_of
from gpuvec.index.spec import CAGRA, HNSW
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Metric, RowMask

_TILE = 1 << 14
_LEAST_WIDE, _MOST_WIDE = 16, 1024
_STEP = 1.5  # between settings
_BESIDE = 8  # candidates beyond k: stored values may be rounded
_STARTS = 4  # rows that a search begins at
_LEAST_STARTS = 256  # drawn rows, or twice the root of all
_FROM_ALL_STARTS = 2  # FAISS's `search_type`
_NODE_BYTES = 12  # that FAISS keeps of a node: level and offset


class CagraOnHost(FaissIndex):
    """A graph of near rows in host memory.

    Args:
        spec: every parameter decided.
        vectors: see `FaissIndex`.
        metric: see `FaissIndex`.
        graph: read in place.
        space: how FAISS sees the rows.
        pending: what is left to do; None when the index is complete.
    """

    def __init__(
        self,
        spec: CAGRA,
        vectors: DenseVectors,
        metric: Metric,
        *,
        graph: CagraGraph,
        space: Space,
        pending: "_Build | None" = None,
    ) -> None:
        super().__init__(spec, vectors, metric)
        self._vectors = vectors
        self._space = space
        self._pending = pending
        self._take(graph)

    def _take(self, graph: CagraGraph) -> None:
        self._graph = graph
        self._walk = _walkable(self._vectors, graph, self._space)
        nodes = len(graph.edges)
        count = min(nodes, max(_LEAST_STARTS, int(2 * nodes**0.5)))
        chosen = np.sort(np.random.default_rng(0).choice(nodes, count, replace=False))
        self._starts = chosen.astype(np.int32)
        rows = chosen if graph.rows is None else graph.rows[chosen]
        width = int(self._values.shape[1])
        self._near_starts = faiss_library().IndexFlat(width, self._space.faiss_metric)
        self._near_starts.add(self._space.rows(self._values[rows]))

    @property
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`; rows that FAISS needs in another form count too."""
        shared = self._space.shared and self._graph.rows is None
        stored = 0 if shared else int(self._values.shape[1]) * ITEM_BYTES[self._space.codes]
        return self._graph.nbytes + self._size * (_NODE_BYTES + stored)

    @property
    def _size(self) -> int:
        return len(self._graph.edges)

    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""
        return graph_settings(self._size, k)

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        if self._pending is not None:
            build, self._pending = self._pending, None
            self._take(build.finish())
            give_back()

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if self._pending is not None:
            raise AssertionError("an index has no files before it is complete")
        return self._graph.files()

    def _plan(self, k: int, params: Params) -> tuple[dict[str, float], int]:
        return graph_plan(k, params)

    def _selection(self, knobs: Mapping[str, float], keep: RowMask | None) -> Any:
        faiss = faiss_library()
        if keep is None:
            return faiss.SearchParametersHNSW(efSearch=int(knobs["itopk_size"]))
        mask = keep if self._graph.rows is None else keep[self._graph.rows]
        bits = np.packbits(mask, bitorder="little")
        selector = faiss.IDSelectorBitmap(bits)
        return faiss.SearchParametersHNSW(efSearch=int(knobs["itopk_size"]), sel=selector)

    def _candidates(self, queries: Queries, count: int, selection: Any) -> NDArray[np.int64]:
        pointer = faiss_library().swig_ptr
        seen = self._space.queries(queries)
        near, at = self._near_starts.search(seen, min(_STARTS, len(self._starts)))
        starts = np.ascontiguousarray(self._starts[at])
        distances = np.empty((len(seen), count), np.float32)
        nodes = np.empty((len(seen), count), np.int64)
        selection.efSearch = max(selection.efSearch, count)
        self._walk.search_level_0(
            len(seen),
            pointer(seen),
            count,
            pointer(starts),
            pointer(near),
            pointer(distances),
            pointer(nodes),
            starts.shape[1],
            _FROM_ALL_STARTS,
            selection,
        )
        if self._graph.rows is None:
            return nodes
        return np.where(nodes < 0, -1, self._graph.rows[nodes])


def graph_settings(nodes: int, k: int) -> Sequence[Params]:
    """Return settings of a graph to measure: see `ApproximateIndex.settings`."""
    highest = int(CAGRA.SEARCH["itopk_size"][1])
    start, end = max(k, _LEAST_WIDE), min(max(16 * k, _MOST_WIDE), max(nodes, 1))
    return [{"itopk_size": min(wide, highest)} for wide in rising(min(start, highest), end, _STEP)]


def graph_plan(k: int, params: Params) -> tuple[dict[str, float], int]:
    """Return all knobs of a search of a graph, and how many candidates it wants."""
    return {"itopk_size": max(2 * k, 64), **params}, k + _BESIDE


def graph_of(spec: CAGRA, vectors: DenseVectors, metric: Metric) -> CagraGraph:
    """Return the graph of rows in host memory."""
    return _Build(spec, vectors, metric, None, 0).graph()


def _walkable(vectors: DenseVectors, graph: CagraGraph, space: Space) -> Any:
    """Return FAISS's graph over edges where they lie."""
    faiss = faiss_library()
    nodes, degree = graph.edges.shape
    width = int(vectors.values.shape[1])
    walk = faiss.IndexHNSWCagra(width, degree // 2, space.faiss_metric)
    storage = _storage(vectors, graph, space)
    walk.own_fields = False
    walk.storage = storage
    walk.referenced_objects = [storage]  # as FAISS keeps what a call was given
    walk.base_level_only = True
    faiss.copy_array_to_vector(np.ones(nodes, np.int32), walk.hnsw.levels)
    offsets = np.arange(nodes + 1, dtype=np.uint64) * np.uint64(degree)
    faiss.copy_array_to_vector(offsets, walk.hnsw.offsets)
    walk.hnsw.neighbors = view_of_numbers(graph.edges)
    walk.ntotal = nodes
    walk.is_trained = True
    return walk


def _storage(vectors: DenseVectors, graph: CagraGraph, space: Space) -> Any:
    """Return FAISS's index of the nodes' rows: where they lie, or a copy."""
    if space.shared and graph.rows is None:
        return space.view(vectors.values)
    faiss, nodes = faiss_library(), len(graph.edges)
    width = int(vectors.values.shape[1])
    if space.code_type is None:
        storage = faiss.IndexFlat(width, space.faiss_metric)
    else:
        storage = faiss.IndexScalarQuantizer(width, space.code_type, space.faiss_metric)
        storage.is_trained = True
    rows = np.arange(nodes) if graph.rows is None else graph.rows
    for start in range(0, nodes, _TILE):
        storage.add(space.rows(vectors.values[rows[start : start + _TILE]]))
    return storage


class _Build:
    """A graph while rows are inserted."""

    def __init__(
        self,
        spec: CAGRA,
        vectors: DenseVectors,
        metric: Metric,
        held_out: NDArray[np.int64] | None,
        threads: int,
    ) -> None:
        shape = HNSW(m=spec.graph_degree // 2, ef_construction=spec.intermediate_graph_degree)
        self._hnsw = faiss_hnsw.GraphBuild(shape, vectors, metric, held_out, threads)
        self._degree = spec.graph_degree
        self._rows = len(vectors)
        assert self._hnsw.space is not None
        self.space: Space = self._hnsw.space
        self.is_complete = len(self._hnsw.late) == 0

    def graph(self) -> CagraGraph:
        """Return what there is by now."""
        faiss = faiss_library()
        order, hnsw = self._hnsw.inserted, self._hnsw.graph.hnsw
        offsets = faiss.vector_to_array(hnsw.offsets)[:-1].astype(np.int64)
        every = faiss.vector_to_array(hnsw.neighbors)
        by_row = np.argsort(order)
        place = np.empty(len(order), np.int32)
        place[by_row] = np.arange(len(order), dtype=np.int32)
        edges = np.empty((len(order), self._degree), np.int32)
        for start in range(0, len(order), _TILE):
            own = offsets[by_row[start : start + _TILE], None] + np.arange(self._degree)
            near = every[own]
            edges[start : start + _TILE] = np.where(near < 0, -1, place[near])
        rows = None if len(order) == self._rows else np.sort(order)
        return CagraGraph(edges=edges, rows=rows, maker=f"faiss {faiss.__version__}")

    def finish(self) -> CagraGraph:
        """Insert the rows held out; return the graph."""
        self._hnsw.insert_late()
        return self.graph()


def build(
    spec: CAGRA,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
) -> CagraOnHost:
    """See `registry.build`. On one thread the same rows make the same graph."""
    _check(spec, vectors, metric)
    check_build_memory(spec, build_bytes(spec, len(vectors), vectors), memory_limit)
    work = _Build(spec, vectors, metric, held_out, threads)
    index = CagraOnHost(
        spec,
        vectors,
        metric,
        graph=work.graph(),
        space=work.space,
        pending=None if work.is_complete else work,
    )
    give_back()
    return index


def load(
    spec: CAGRA, vectors: DenseVectors, metric: Metric, files: Mapping[str, IndexFile]
) -> CagraOnHost:
    """See `registry.load`. Edges are read where the file is mapped.

    Cost: by cosine and inner product, and with nulls, all rows are read.
    """
    _check(spec, vectors, metric)
    space = space_of(vectors, metric, share=True)
    return CagraOnHost(spec, vectors, metric, graph=read_graph(files), space=space)


def build_bytes(spec: CAGRA, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`: as if rows had to be copied."""
    shape = HNSW(m=spec.graph_degree // 2, ef_construction=spec.intermediate_graph_degree)
    inserting = faiss_hnsw.build_bytes(shape, rows, vectors)
    width, item = int(vectors.values.shape[1]), max(2, vectors.values.dtype.itemsize)
    index = rows * (4 * spec.graph_degree + _NODE_BYTES + 8 + width * item)
    return {**inserting, "index": index}


def _check(spec: CAGRA, vectors: DenseVectors, metric: Metric) -> None:
    """Refuse what this index cannot serve."""
    sample = vectors.values[:0]
    check_pair(sample if is_binary(metric) else sample.astype(np.float32), sample, metric)
    if is_binary(metric):
        served = [other for other in Metric if not is_binary(other)]
        raise index_cannot_measure(type(spec).__name__, metric, served)
    faiss_library()
