"""IVFFlat and IVFSQ8 by FAISS: rows in lists around centers, over dense vectors in host memory.

Rows belong to the center that is nearest by distance, also where lists are looked up by inner
product: rows of great length would otherwise all lie in a few lists. Lists hold positions in the
segment, so masks serve as they are. Packed vectors have a module of their own: FAISS's binary lists
know no masks.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import index_cannot_measure
from gpuvec.index import faiss_bit_lists
from gpuvec.index.base import ApproximateIndex, IndexFile, Params, Queries
from gpuvec.index.faiss_base import FaissIndex, check_build_memory, insertion_order, rising
from gpuvec.index.faiss_centers import list_count, nearest_centers, sample_size, train_centers
from gpuvec.index.faiss_library import HEADER_BYTES, faiss_library, opened, openmp_threads, written
from gpuvec.index.faiss_space import ITEM_BYTES, Space, search_space, space_of
from gpuvec.index.spec import IVFSQ8, IVFFlat
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Metric, RowMask

_TILE = 1 << 14  # rows that are converted, assigned and added together
_LISTS = "lists.faiss"
_STEP = 1.5  # between settings
_BESIDE = 8  # candidates beyond k: stored values may be rounded
_REFINE = 2  # candidates for each neighbour where values are rounded to a byte

Spec = IVFFlat | IVFSQ8


class IvfIndex(FaissIndex):
    """Lists of rows.

    Args:
        spec: an `IVFFlat` or `IVFSQ8`, the number of lists decided.
        vectors: see `FaissIndex`.
        metric: see `FaissIndex`.
        lists: index of FAISS.
        space: how FAISS sees queries.
        data: the file; None while rows are held out.
        pending: what is left to do; None when the index is complete.
    """

    def __init__(
        self,
        spec: Spec,
        vectors: DenseVectors,
        metric: Metric,
        *,
        lists: Any,
        space: Space,
        data: NDArray[np.uint8] | None = None,
        pending: "_Build | None" = None,
    ) -> None:
        super().__init__(spec, vectors, metric)
        self._lists = lists
        self._space = space
        self._data = data
        self._pending = pending
        self._n_lists = int(lists.nlist)

    @property
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`."""
        if self._data is None:
            assert self._pending is not None
            return self._pending.bytes_of(self._size)
        return self._data.nbytes

    @property
    def _size(self) -> int:
        return int(self._lists.ntotal)

    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""
        del k
        refine = {"refine": _REFINE} if "refine" in self.spec.SEARCH else {}
        return [{"n_probes": n, **refine} for n in rising(1, self._n_lists, _STEP)]

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        if self._pending is not None:
            build, self._pending = self._pending, None
            self._data = build.finish()
            self._lists = opened(self._data)

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if self._data is None:
            raise AssertionError("an index has no files before it is complete")
        return {_LISTS: [self._data]}

    def _plan(self, k: int, params: Params) -> tuple[dict[str, float], int]:
        knobs = {"n_probes": max(1, round(self._n_lists**0.5)), "refine": _REFINE, **params}
        if "refine" in self.spec.SEARCH:
            return knobs, max(k, int(np.ceil(knobs["refine"] * k)))
        return knobs, k + _BESIDE

    def _selection(self, knobs: Mapping[str, float], keep: RowMask | None) -> Any:
        probes = min(int(knobs["n_probes"]), self._n_lists)
        if keep is None:
            return _look(probes)
        faiss = faiss_library()
        bits = np.packbits(keep, bitorder="little")
        return faiss.SearchParametersIVF(nprobe=probes, sel=faiss.IDSelectorBitmap(bits))

    def _candidates(self, queries: Queries, count: int, selection: Any) -> NDArray[np.int64]:
        pointer = faiss_library().swig_ptr
        seen = self._space.queries(queries)
        distances = np.empty((len(queries), count), np.float32)
        rows = np.empty((len(queries), count), np.int64)
        self._lists.search_c(
            len(queries), pointer(seen), count, pointer(distances), pointer(rows), selection
        )
        return rows


@lru_cache(256)
def _look(probes: int) -> Any:
    """Return FAISS's parameters of a search without mask; it only reads them."""
    return faiss_library().SearchParametersIVF(nprobe=probes)


class _Build:
    """Lists while rows are added."""

    def __init__(
        self,
        spec: Spec,
        vectors: DenseVectors,
        metric: Metric,
        held_out: NDArray[np.int64] | None,
        threads: int,
    ) -> None:
        self.vectors = vectors
        self.threads = threads
        self.space = space_of(vectors, metric, share=False)
        if isinstance(spec, IVFSQ8):
            self.space = replace(self.space, codes="int8")
        early, self.late = insertion_order(vectors, held_out)
        self.spec = replace(spec, n_lists=list_count(spec.n_lists, len(early)))
        self.lists = self._trained(early)
        self._add(early)

    def _trained(self, rows: NDArray[np.int64]) -> Any:
        """Return empty lists around centers."""
        faiss = faiss_library()
        n_lists = int(self.spec.n_lists or 1)
        some = np.random.default_rng(0).choice(rows, sample_size(n_lists, len(rows)), replace=False)
        sample = self._tile(some)
        self.centers = train_centers(
            sample, n_lists, unit=self.space.factor is None, threads=self.threads
        )
        width, metric, codes = int(sample.shape[1]), self.space.faiss_metric, self.space.code_type
        quantizer = faiss.IndexFlat(width, metric)
        quantizer.add(self.centers)
        if codes is None:
            lists = faiss.IndexIVFFlat(quantizer, width, n_lists, metric)
        else:
            lists = faiss.IndexIVFScalarQuantizer(
                quantizer, width, n_lists, codes, metric, False
            )  # as they are, not relative to centers
            lists.sq.train(sample if len(sample) else np.zeros((1, width), np.float32))
        lists.is_trained = True
        return lists

    def _tile(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.space.rows(self.vectors.values[rows])

    def _add(self, rows: NDArray[np.int64]) -> None:
        pointer = faiss_library().swig_ptr
        for start in range(0, len(rows), _TILE):
            at = rows[start : start + _TILE]
            values = self._tile(at)
            owner = nearest_centers(values, self.centers, threads=self.threads)
            with openmp_threads(1):
                self.lists.add_core(len(at), pointer(values), pointer(at), pointer(owner))

    def bytes_of(self, rows: int) -> int:
        """Return bytes of the finished index with so many rows."""
        return _index_bytes(int(self.spec.n_lists or 1), rows, self.vectors, self.space.codes)

    def finish(self) -> NDArray[np.uint8]:
        """Add the rows held out; return the file."""
        self._add(self.late)
        data: NDArray[np.uint8] = written(self.lists, self.bytes_of(int(self.lists.ntotal)))
        self.lists = None
        return data


def build(
    spec: Spec,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
) -> ApproximateIndex:
    """See `registry.build`. The same rows make the same index on any number of threads."""
    _check(spec, vectors, metric)
    if is_binary(metric):
        return faiss_bit_lists.build(
            _flat(spec),
            vectors,
            metric,
            held_out=held_out,
            threads=threads,
            memory_limit=memory_limit,
        )
    check_build_memory(spec, build_bytes(spec, len(vectors), vectors), memory_limit)
    work = _Build(spec, vectors, metric, held_out, threads)
    index = IvfIndex(work.spec, vectors, metric, lists=work.lists, space=work.space, pending=work)
    if len(work.late) == 0:
        index.complete()
    return index


def load(
    spec: Spec, vectors: DenseVectors, metric: Metric, files: Mapping[str, IndexFile]
) -> ApproximateIndex:
    """See `registry.load`. Lists are read where the file is mapped."""
    _check(spec, vectors, metric)
    if is_binary(metric):
        return faiss_bit_lists.load(_flat(spec), vectors, metric, files)
    data = files[_LISTS].data
    space = search_space(vectors, product=metric in (Metric.COSINE, Metric.IP))
    return IvfIndex(spec, vectors, metric, lists=opened(data), space=space, data=data)


def build_bytes(spec: Spec, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`."""
    n_lists = list_count(spec.n_lists, rows)
    name = vectors.values.dtype.name
    codes = "int8" if isinstance(spec, IVFSQ8) else "float32" if name == "float32" else "float16"
    index = _index_bytes(n_lists, rows, vectors, codes)
    width = int(vectors.values.shape[1])
    return {
        "index": index,
        "lists while they grow": 2 * index,
        "rows to learn from": 3 * 4 * width * sample_size(n_lists, rows),
        "tiles of rows": 3 * 4 * width * min(rows, _TILE),
    }


def _index_bytes(n_lists: int, rows: int, vectors: DenseVectors, codes: str) -> int:
    width = int(vectors.values.shape[1])
    return rows * (width * ITEM_BYTES[codes] + 8) + n_lists * (4 * width + 8) + HEADER_BYTES // 16


def _check(spec: Spec, vectors: DenseVectors, metric: Metric) -> None:
    """Refuse what this index cannot serve."""
    sample = vectors.values[:0]
    packed = is_binary(metric)
    check_pair(sample if packed else sample.astype(np.float32), sample, metric)
    if packed and isinstance(spec, IVFSQ8):
        served = [other for other in Metric if not is_binary(other)]
        raise index_cannot_measure(type(spec).__name__, metric, served)
    faiss_library()


def _flat(spec: Spec) -> IVFFlat:
    assert isinstance(spec, IVFFlat)
    return spec
