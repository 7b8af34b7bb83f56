"""HNSW by FAISS, over dense or packed vectors in host memory.

Rows are read where the segment holds them, if their form allows it (`Space.shared`): the graph is
then all that the index adds. Where FAISS needs another form (unit lengths, no nulls between), the
file holds a copy of the rows as well.

Rows are inserted in random order, since rows that come sorted make a worse graph; once all are in,
the graph is renumbered to the order of the segment.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import index_cannot_measure
from gpuvec.index.admission import check_build_memory
from gpuvec.index.base import IndexFile, Params, Queries
from gpuvec.index.faiss_base import FaissIndex, insertion_order, rising
from gpuvec.index.faiss_library import (
    faiss_library,
    give_back,
    opened,
    openmp_threads,
    written,
)
from gpuvec.index.faiss_space import ITEM_BYTES, Space, search_space, space_of
from gpuvec.index.spec import HNSW, IndexSpec
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.kernels.parallel import thread_count
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Metric, RowMask

_TILE = 1 << 14  # rows that are converted and inserted together
_GRAPH, _ROWS = "graph.faiss", "rows.i64"
_LEAST_EF, _MOST_EF = 16, 1024
_STEP = 1.5  # between settings
_BESIDE = 8  # candidates beyond k: stored values may be rounded
_NODE_BYTES = 16  # of a node beside its neighbours: level, offset, upper levels


class HnswIndex(FaissIndex):
    """A graph of near rows.

    Args:
        spec: an `HNSW`.
        vectors: see `FaissIndex`.
        metric: see `FaissIndex`.
        graph: of FAISS, with storage.
        space: how FAISS sees the rows; None: packed bits.
        places: (nodes,) int64, the row of each node; None: node i is row i.
        data: the graph's file; None while rows are held out.
        pending: what is left to do; None when the graph is complete.
    """

    def __init__(
        self,
        spec: HNSW,
        vectors: DenseVectors,
        metric: Metric,
        *,
        graph: Any,
        space: Space | None,
        places: NDArray[np.int64] | None,
        data: NDArray[np.uint8] | None = None,
        pending: "GraphBuild | None" = None,
    ) -> None:
        super().__init__(spec, vectors, metric)
        self._graph = graph
        self._space = space
        self._places = places
        self._data = data
        self._pending = pending

    @property
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`."""
        places = 0 if self._places is None else self._places.nbytes
        if self._data is None:
            assert self._pending is not None
            return sum(self._pending.bytes_of(self._size).values()) + places
        return self._data.nbytes + places

    @property
    def _size(self) -> int:
        return int(self._graph.ntotal)

    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""
        start, end = max(k, _LEAST_EF), min(max(16 * k, _MOST_EF), max(self._size, 1))
        highest = int(HNSW.SEARCH["ef_search"][1])
        return [{"ef_search": min(ef, highest)} for ef in rising(min(start, highest), end, _STEP)]

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        if self._pending is not None:
            build, self._pending = self._pending, None
            self._data, self._places = build.finish()
            self._graph = build.opened(self._data)
            give_back()

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if self._data is None:
            raise AssertionError("an index has no files before it is complete")
        rows = {} if self._places is None else {_ROWS: [self._places]}
        return {_GRAPH: [self._data], **rows}

    def _plan(self, k: int, params: Params) -> tuple[dict[str, float], int]:
        knobs = {"ef_search": max(2 * k, 64), **params}
        return knobs, k + _BESIDE

    def _selection(self, knobs: Mapping[str, float], keep: RowMask | None) -> Any:
        ef = int(knobs["ef_search"])
        if keep is None:
            return _look(ef)
        faiss = faiss_library()
        mask = keep if self._places is None else keep[self._places]
        bits = np.packbits(mask, bitorder="little")
        return faiss.SearchParametersHNSW(efSearch=ef, sel=faiss.IDSelectorBitmap(bits))

    def _candidates(self, queries: Queries, count: int, selection: Any) -> NDArray[np.int64]:
        pointer = faiss_library().swig_ptr
        packed = self._space is None
        seen = (
            np.ascontiguousarray(queries) if self._space is None else self._space.queries(queries)
        )
        distances = np.empty((len(queries), count), np.int32 if packed else np.float32)
        nodes = np.empty((len(queries), count), np.int64)
        self._graph.search_c(
            len(queries), pointer(seen), count, pointer(distances), pointer(nodes), selection
        )
        if self._places is None:
            return nodes
        return np.where(nodes < 0, -1, self._places[nodes])


@lru_cache(256)
def _look(ef: int) -> Any:
    """Return FAISS's parameters of a search without mask; it only reads them."""
    return faiss_library().SearchParametersHNSW(efSearch=ef)


class GraphBuild:
    """A graph while rows are inserted."""

    def __init__(
        self,
        spec: HNSW,
        vectors: DenseVectors,
        metric: Metric,
        held_out: NDArray[np.int64] | None,
        threads: int,
    ) -> None:
        self.spec = spec
        self.vectors = vectors
        self.threads = thread_count(threads)
        self.space = None if is_binary(metric) else space_of(vectors, metric, share=True)
        early, self.late = insertion_order(vectors, held_out)
        self.order = np.random.default_rng(0).permutation(early)
        self.graph = self._empty()
        self.graph.hnsw.efConstruction = spec.ef_construction
        self._insert(self.order)

    @property
    def width(self) -> int:
        """Dimensions of a row, or its bits."""
        return int(self.vectors.values.shape[1]) * (8 if self.space is None else 1)

    def _empty(self) -> Any:
        faiss = faiss_library()
        if self.space is None:
            return faiss.IndexBinaryHNSW(self.width, self.spec.m)
        metric, codes = self.space.faiss_metric, self.space.code_type
        if codes is None:
            return faiss.IndexHNSWFlat(self.width, self.spec.m, metric)
        graph = faiss.IndexHNSWSQ(self.width, codes, self.spec.m, metric)
        graph.is_trained = graph.storage.is_trained = True  # there is nothing to learn
        return graph

    def _tile(self, rows: NDArray[np.int64]) -> NDArray[Any]:
        values = self.vectors.values[rows]
        return values if self.space is None else self.space.rows(values)

    def _insert(self, rows: NDArray[np.int64]) -> None:
        with openmp_threads(self.threads):
            for start in range(0, len(rows), _TILE):
                self.graph.add(self._tile(rows[start : start + _TILE]))

    def bytes_of(self, nodes: int) -> dict[str, int]:
        """Return bytes of the finished index with so many nodes."""
        return _index_bytes(self.spec, nodes, self.vectors, self.space)

    @property
    def inserted(self) -> NDArray[np.int64]:
        """(nodes,) the row of each node, in the order of their insertion."""
        return np.concatenate([self.order, self.late])[: int(self.graph.ntotal)]

    def insert_late(self) -> None:
        """Insert the rows held out."""
        self._insert(self.late)

    def finish(self) -> tuple[NDArray[np.uint8], NDArray[np.int64] | None]:
        """Insert the rows held out and renumber; return the graph's file and each node's row."""
        faiss = faiss_library()
        self.insert_late()
        order = self.inserted
        places = np.sort(order)
        self._store(places)
        old = np.argsort(order)  # of each new node
        self.graph.hnsw.permute_entries(faiss.swig_ptr(old))
        size = sum(self.bytes_of(len(places)).values())
        packed = self.space is None
        shared = self.space is not None and self.space.shared
        flags = faiss.IO_FLAG_SKIP_STORAGE if shared else 0
        data = written(self.graph, size, binary=packed, flags=flags)
        self.graph = None
        return data, None if len(places) == len(self.vectors) else places

    def _store(self, places: NDArray[np.int64]) -> None:
        """Put the rows of the graph's storage into the order of the segment."""
        if self.space is not None and self.space.shared:
            self.graph.storage.reset()
            return
        storage = self.graph.storage
        storage.reset()
        for start in range(0, len(places), _TILE):
            storage.add(self._tile(places[start : start + _TILE]))

    def opened(self, data: NDArray[np.uint8]) -> Any:
        """Return the finished graph, reading its file in place."""
        return _opened(self.vectors, self.space, data)


def _opened(vectors: DenseVectors, space: Space | None, data: NDArray[np.uint8]) -> Any:
    graph = opened(data, binary=space is None)
    if space is not None and graph.storage is None:
        flat = space.view(vectors.values)
        graph.own_fields = False
        graph.storage = flat
        graph.referenced_objects = [flat]  # as FAISS keeps what a call was given
    return graph


def build(
    spec: HNSW,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
) -> HnswIndex:
    """See `registry.build`. On one thread the same rows make the same graph."""
    _check(spec, vectors, metric)
    check_build_memory(spec, build_bytes(spec, len(vectors), vectors), memory_limit)
    work = GraphBuild(spec, vectors, metric, held_out, threads)
    index = HnswIndex(
        spec,
        vectors,
        metric,
        graph=work.graph,
        space=work.space,
        places=work.order,
        pending=work,
    )
    if len(work.late) == 0:
        index.complete()
    return index


def load(
    spec: HNSW, vectors: DenseVectors, metric: Metric, files: Mapping[str, IndexFile]
) -> HnswIndex:
    """See `registry.load`. Neighbour lists and rows are read where the file is mapped."""
    _check(spec, vectors, metric)
    data = files[_GRAPH].data
    product = metric in (Metric.COSINE, Metric.IP)
    space = None if is_binary(metric) else search_space(vectors, product=product)
    places = files[_ROWS].data.view(np.int64) if _ROWS in files else None
    graph = _opened(vectors, space, data)
    return HnswIndex(spec, vectors, metric, graph=graph, space=space, places=places, data=data)


def build_bytes(spec: HNSW, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`: as if rows had to be copied."""
    index = sum(_index_bytes(spec, rows, vectors, None).values())
    width = int(vectors.values.shape[1])
    return {
        "index": index,
        "graph while it is built": index,
        "tiles of rows": 3 * 4 * min(rows, _TILE) * width,
        "marks of visited rows": 12 * rows,
    }


def _index_bytes(
    spec: HNSW, nodes: int, vectors: DenseVectors, space: Space | None
) -> dict[str, int]:
    """Return bytes of a finished index; without a space, as if rows were copied."""
    values = vectors.values
    if space is None:
        stored = 2 if values.dtype.name == "int8" else values.dtype.itemsize
    else:
        stored = 0 if space.shared else ITEM_BYTES[space.codes]
    neighbours = 4 * (2 * spec.m) + 4 * spec.m // max(1, spec.m - 1) * 1
    return {
        "graph": nodes * (neighbours + _NODE_BYTES),
        "rows": nodes * int(values.shape[1]) * stored,
    }


def _check(spec: IndexSpec, vectors: DenseVectors, metric: Metric) -> None:
    """Refuse what this index cannot serve."""
    sample = vectors.values[:0]
    check_pair(sample if is_binary(metric) else sample.astype(np.float32), sample, metric)
    if metric is Metric.JACCARD:
        served = [other for other in Metric if other is not Metric.JACCARD]
        raise index_cannot_measure(type(spec).__name__, metric, served)
    faiss_library()
