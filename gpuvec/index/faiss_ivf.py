"""IVFFlat, IVFSQ8, IVFPQ and IVFRaBitQ by FAISS: rows in lists around centers, on the host.

Lists hold positions in the segment, so masks serve as they are. What is found is measured again,
so codes need only be good enough to have the nearest rows among `refine` times as many. Packed
vectors have a module of their own: FAISS's binary lists know no masks.
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
from gpuvec.index.faiss_base import FaissIndex, rising
from gpuvec.index.faiss_centers import assigning_bytes, list_count, training_bytes
from gpuvec.index.faiss_codes import Codec
from gpuvec.index.faiss_ivfpq import PqCodec, pq_shape
from gpuvec.index.faiss_library import faiss_library, give_back, opened
from gpuvec.index.faiss_lists import TILE, ListsBuild
from gpuvec.index.faiss_rabitq import TURN_FILE, RabitqCodec
from gpuvec.index.faiss_space import Space, search_space, space_of
from gpuvec.index.spec import IVFPQ, IVFSQ8, IVFFlat, IVFRaBitQ
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Metric, RowMask

LISTS_FILE = "lists.faiss"
_STEP = 1.5  # between settings
_BESIDE = 8  # candidates beyond k: stored values may be rounded
_REFINE = 2  # candidates for each neighbour where values are rounded to a byte
_COARSE = (4, 8, 16, 40)  # the same where a few bits are left, for a quarter of the settings each

Spec = IVFFlat | IVFSQ8 | IVFPQ | IVFRaBitQ


class IvfIndex(FaissIndex):
    """Lists of rows.

    Args:
        spec: every parameter decided.
        vectors: see `FaissIndex`.
        metric: see `FaissIndex`.
        lists: index of FAISS.
        codec: how the lists hold rows.
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
        codec: Codec,
        data: NDArray[np.uint8] | None = None,
        pending: ListsBuild | None = None,
    ) -> None:
        super().__init__(spec, vectors, metric)
        self._lists = lists
        self._codec = codec
        self._data = data
        self._pending = pending
        self._n_lists = int(lists.nlist)

    @property
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`."""
        beside = self._codec.table_bytes(self._size, self._n_lists)
        if self._data is None:
            assert self._pending is not None
            return self._pending.bytes_of(self._size) + beside
        return self._data.nbytes + beside

    @property
    def _size(self) -> int:
        return int(self._lists.ntotal)

    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""
        del k
        return list_settings(self.spec)

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        if self._pending is not None:
            build, self._pending = self._pending, None
            self._data = build.finish()
            self._lists = opened_lists(self._data, self._codec)
            give_back()

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if self._data is None:
            raise AssertionError("an index has no files before it is complete")
        return {LISTS_FILE: [self._data], **self._codec.files()}

    def _plan(self, k: int, params: Params) -> tuple[dict[str, float], int]:
        return list_plan(self.spec, k, params)

    def _query_bytes(self, knobs: Mapping[str, float]) -> int:
        return self._codec.query_bytes(min(int(knobs["n_probes"]), self._n_lists))

    def _selection(self, knobs: Mapping[str, float], keep: RowMask | None) -> Any:
        probes = min(int(knobs["n_probes"]), self._n_lists)
        if keep is None:
            return _look(probes)
        faiss = faiss_library()
        bits = np.packbits(keep, bitorder="little")
        return faiss.SearchParametersIVF(nprobe=probes, sel=faiss.IDSelectorBitmap(bits))

    def _candidates(self, queries: Queries, count: int, selection: Any) -> NDArray[np.int64]:
        pointer = faiss_library().swig_ptr
        seen = self._codec.queries(queries)
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


def list_settings(spec: Any) -> Sequence[Params]:
    """Return settings of lists to measure: see `ApproximateIndex.settings`."""
    probes = rising(1, int(spec.n_lists), _STEP)
    if isinstance(spec, IVFFlat):
        return [{"n_probes": n} for n in probes]
    if isinstance(spec, IVFSQ8):
        return [{"n_probes": n, "refine": _REFINE} for n in probes]
    return [
        {"n_probes": n, "refine": _COARSE[len(_COARSE) * at // len(probes)]}
        for at, n in enumerate(probes)
    ] + [{"n_probes": probes[-1], "refine": 4 * _COARSE[-1]}]


def list_plan(spec: Any, k: int, params: Params) -> tuple[dict[str, float], int]:
    """Return all knobs of a search of lists, and how many candidates it wants."""
    refine = _COARSE[2] if isinstance(spec, IVFPQ | IVFRaBitQ) else _REFINE
    knobs = {"n_probes": max(1, round(int(spec.n_lists) ** 0.5)), "refine": refine, **params}
    if "refine" in spec.SEARCH:
        return knobs, max(k, int(np.ceil(knobs["refine"] * k)))
    return knobs, k + _BESIDE


def opened_lists(data: NDArray[np.uint8], codec: Codec) -> Any:
    """Return FAISS's index of a file of lists, read in place, ready to be searched."""
    lists = opened(data, flags=faiss_library().IO_FLAG_SKIP_PRECOMPUTE_TABLE)
    codec.prepare(lists)
    return lists


def codec_of(
    spec: Spec, space: Space, width: int, turn: NDArray[np.float32] | None = None
) -> Codec:
    """Return how lists of a spec hold rows.

    Args:
        spec: what is built.
        space: how FAISS sees rows.
        width: dimensions of a row.
        turn: see `RabitqCodec`.
    """
    if isinstance(spec, IVFPQ):
        return PqCodec(space, width, pq_shape(spec, width))
    if isinstance(spec, IVFRaBitQ):
        return RabitqCodec(space, width, spec.bits, turn)
    return Codec(replace(space, codes="int8") if isinstance(spec, IVFSQ8) else space, width)


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
    codec = codec_of(spec, space_of(vectors, metric, share=False), int(vectors.values.shape[1]))
    work = ListsBuild(spec, vectors, codec, held_out, threads)
    index = IvfIndex(work.spec, vectors, metric, lists=work.lists, codec=codec, pending=work)
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
    data, width = files[LISTS_FILE].data, int(vectors.values.shape[1])
    space = search_space(vectors, product=metric in (Metric.COSINE, Metric.IP))
    turn = None
    if TURN_FILE in files:
        turn = files[TURN_FILE].data.view(np.float32).reshape(width, width)
    codec = codec_of(spec, space, width, turn)
    return IvfIndex(spec, vectors, metric, lists=opened_lists(data, codec), codec=codec, data=data)


def build_bytes(spec: Spec, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`; bytes may be packed bits, so the greater of both counts."""
    parts = _build_bytes(spec, rows, vectors)
    if isinstance(spec, IVFFlat) and vectors.values.dtype == np.uint8:
        bits = faiss_bit_lists.build_bytes(spec, rows, vectors)
        most = max(parts, bits, key=lambda found: sum(found.values()))
        return most | {"index": max(parts["index"], bits["index"])}
    return parts


def _build_bytes(spec: Spec, rows: int, vectors: DenseVectors) -> dict[str, int]:
    n_lists, width = list_count(spec.n_lists, rows), int(vectors.values.shape[1])
    codes = "float32" if vectors.values.dtype.name == "float32" else "float16"
    space = Space(product=False, codes=codes, factor=1.0, shared=False)
    codec = codec_of(spec, space, width)
    file = codec.index_bytes(rows, n_lists)
    learned = training_bytes(rows, width, n_lists)
    return {
        "index": file + codec.table_bytes(rows, n_lists),
        "lists before they are written": file + 32 * rows + codec.packing_bytes(rows, n_lists),
        "rows to learn from": max(0, learned - 2 * file),  # gone before the lists are full
        "tiles of rows": 3 * 4 * width * min(rows, TILE) + assigning_bytes(),
    }


def _check(spec: Spec, vectors: DenseVectors, metric: Metric) -> None:
    """Refuse what this index cannot serve."""
    sample = vectors.values[:0]
    packed = is_binary(metric)
    check_pair(sample if packed else sample.astype(np.float32), sample, metric)
    if packed and not isinstance(spec, IVFFlat):
        served = [other for other in Metric if not is_binary(other)]
        raise index_cannot_measure(type(spec).__name__, metric, served)
    faiss_library()


def _flat(spec: Spec) -> IVFFlat:
    assert isinstance(spec, IVFFlat)
    return spec
