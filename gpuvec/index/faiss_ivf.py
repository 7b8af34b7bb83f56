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
from gpuvec.index.admission import check_build_memory
from gpuvec.index.base import ApproximateIndex, IndexFile, Params, Queries
from gpuvec.index.faiss_base import FaissIndex, insertion_order, rising
from gpuvec.index.faiss_centers import (
    assigning_bytes,
    list_count,
    nearest_centers,
    sample_size,
    train_centers,
    training_bytes,
)
from gpuvec.index.faiss_library import (
    HEADER_BYTES,
    faiss_library,
    give_back,
    opened,
    openmp_threads,
    written,
)
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
            give_back()

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
        self.early, self.late = insertion_order(vectors, held_out)
        self.spec = replace(spec, n_lists=list_count(spec.n_lists, len(self.early)))
        self.lists = self._trained(self.early)
        self.owner = self._owners(self.early)
        self._fill(self.early, self.owner)

    def _trained(self, rows: NDArray[np.int64]) -> Any:
        """Return empty lists around centers."""
        faiss = faiss_library()
        n_lists = int(self.spec.n_lists or 1)
        some = np.random.default_rng(0).choice(rows, sample_size(n_lists, len(rows)), replace=False)
        sample = np.empty((len(some), int(self.vectors.values.shape[1])), np.float32)
        for start in range(0, len(some), _TILE):
            sample[start : start + _TILE] = self._tile(some[start : start + _TILE])
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

    def _owners(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the list of each row."""
        found = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), _TILE):
            at = slice(start, start + _TILE)
            found[at] = nearest_centers(self._tile(rows[at]), self.centers, threads=self.threads)
        return found

    def _fill(self, rows: NDArray[np.int64], owner: NDArray[np.int64]) -> None:
        """Put rows into their lists, whole lists at once: so none grows, which would copy it."""
        faiss = faiss_library()
        pointer, lists = faiss.swig_ptr, self.lists
        inside = faiss.ArrayInvertedLists(lists.nlist, lists.code_size)
        lists.replace_invlists(inside, True)
        inside.this.disown()
        order = np.lexsort((rows, owner))
        rows, owner = rows[order], owner[order]
        ends = np.cumsum(np.bincount(owner, minlength=lists.nlist))
        first = 0
        while first < lists.nlist:
            start = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + _TILE, side="right")))
            at, of = (whole[start : ends[last - 1]] for whole in (rows, owner))
            values = self._tile(at)
            codes = np.empty((len(at), lists.code_size), np.uint8)
            with openmp_threads(1):
                lists.encode_vectors(len(at), pointer(values), pointer(of), pointer(codes))
            place = 0
            for number in range(first, last):
                size = int(ends[number]) - start - place
                if size:
                    some = slice(place, place + size)
                    inside.add_entries(number, size, pointer(at[some]), pointer(codes[some]))
                place += size
            first = last
        lists.ntotal = len(rows)

    def bytes_of(self, rows: int) -> int:
        """Return bytes of the finished index with so many rows."""
        return _index_bytes(int(self.spec.n_lists or 1), rows, self.vectors, self.space.codes)

    def finish(self) -> NDArray[np.uint8]:
        """Add the rows held out, if there are any; return the file."""
        if len(self.late):
            owner = np.concatenate([self.owner, self._owners(self.late)])
            self._fill(np.concatenate([self.early, self.late]), owner)
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
    """See `registry.build_bytes`; bytes may be packed bits, so the greater of both counts."""
    parts = _build_bytes(spec, rows, vectors)
    if isinstance(spec, IVFFlat) and vectors.values.dtype == np.uint8:
        bits = faiss_bit_lists.build_bytes(spec, rows, vectors)
        most = max(parts, bits, key=lambda found: sum(found.values()))
        return most | {"index": max(parts["index"], bits["index"])}
    return parts


def _build_bytes(spec: Spec, rows: int, vectors: DenseVectors) -> dict[str, int]:
    n_lists = list_count(spec.n_lists, rows)
    name = vectors.values.dtype.name
    codes = "int8" if isinstance(spec, IVFSQ8) else "float32" if name == "float32" else "float16"
    index = _index_bytes(n_lists, rows, vectors, codes)
    width = int(vectors.values.shape[1])
    learned = training_bytes(rows, width, n_lists)
    return {
        "index": index,
        "lists before they are written": index + 32 * rows,
        "rows to learn from": max(0, learned - 2 * index),  # gone before the lists are full
        "tiles of rows": 3 * 4 * width * min(rows, _TILE) + assigning_bytes(),
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
