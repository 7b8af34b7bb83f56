"""IVFFlat over packed bits: FAISS learns the centers, the lists are scanned here.

FAISS's own lists of bits know no masks, and copy the rows. These hold positions only, and rows are
measured where the segment holds them, so what is found is final at once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.admission import check_build_memory
from gpuvec.index.base import IndexFile, Neighbors, Params, Queries
from gpuvec.index.faiss_base import FaissIndex, insertion_order, rising
from gpuvec.index.faiss_centers import (
    assigning_bytes,
    list_count,
    sample_size,
    train_centers,
    training_bytes,
)
from gpuvec.index.spec import IVFFlat
from gpuvec.kernels.exact_scan import bit_scan_topk
from gpuvec.kernels.pairwise import METRIC_CODES
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Array, Metric, RowMask

_TILE = 1 << 14  # rows that are assigned together
_CENTERS, _OFFSETS, _ROWS = "centers.u8", "offsets.i64", "rows.i64"
_STEP = 1.5  # between settings
_SAMPLE_BYTES = 1 << 28  # of rows to learn from, a float32 a bit

Selection = tuple[int, NDArray[np.bool_]]  # lists to scan, rows that may be found (empty: all)


class BitListsIndex(FaissIndex):
    """Lists of rows around centers of bits.

    Args:
        spec: an `IVFFlat`, the number of lists decided.
        vectors: see `FaissIndex`.
        metric: hamming or jaccard.
        centers: (lists, width) uint8, packed.
        offsets: (lists + 1,) int64 into `members`.
        members: (rows,) int64, list by list.
        late: (held out,) int64 rows that wait for `complete`.
    """

    def __init__(
        self,
        spec: IVFFlat,
        vectors: DenseVectors,
        metric: Metric,
        *,
        centers: NDArray[np.uint8],
        offsets: NDArray[np.int64],
        members: NDArray[np.int64],
        late: NDArray[np.int64],
    ) -> None:
        super().__init__(spec, vectors, metric)
        self._centers = centers
        self._offsets = offsets
        self._members = members
        self._late = late
        self._view: Any = None

    @property
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`."""
        return self._centers.nbytes + self._offsets.nbytes + self._members.nbytes

    @property
    def _size(self) -> int:
        return len(self._members)

    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""
        del k
        return [{"n_probes": n} for n in rising(1, len(self._centers), _STEP)]

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        if len(self._late):
            rows = np.concatenate([self._members, self._late])
            lists = np.repeat(np.arange(len(self._centers)), np.diff(self._offsets))
            late = _nearest(self._centers, self._values, self._late, self.metric, threads=0)
            self._offsets, self._members = _grouped(
                rows, np.concatenate([lists, late]), len(self._centers)
            )
            self._late = self._late[:0]

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if len(self._late):
            raise AssertionError("an index has no files before it is complete")
        return {_CENTERS: [self._centers], _OFFSETS: [self._offsets], _ROWS: [self._members]}

    def _plan(self, k: int, params: Params) -> tuple[dict[str, float], int]:
        knobs = {"n_probes": max(1, round(len(self._centers) ** 0.5)), **params}
        return knobs, k

    def _selection(self, knobs: Mapping[str, float], keep: RowMask | None) -> Selection:
        probes = min(int(knobs["n_probes"]), len(self._centers))
        return probes, np.zeros(0, bool) if keep is None else keep

    def _answer(
        self, queries: Queries, k: int, count: int, selection: Selection, tie_rank: Array | None
    ) -> Neighbors:
        from gpuvec.kernels.host_nearest import nearest_bits_of_lists
        from gpuvec.kernels.lanes import kernel_view, numbers_view

        del count  # what is found needs no second look
        probes, keep = selection
        if self._view is None:
            self._view = kernel_view(self._values)
        lists = bit_scan_topk(self._centers, queries, probes, self.metric, threads=1).rows
        found = Neighbors(
            np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32)
        )
        nearest_bits_of_lists(
            kernel_view(queries),
            self._view,
            kernel_view(self._offsets),
            kernel_view(self._members),
            lists,
            kernel_view(keep),
            numbers_view(tie_rank),
            tie_rank is not None,
            METRIC_CODES[self.metric],
            found.rows,
            found.distances,
        )
        return found

    def _candidates(self, queries: Queries, count: int, selection: Any) -> NDArray[np.int64]:
        raise AssertionError("lists of bits answer at once")


def build(
    spec: IVFFlat,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None,
    threads: int,
    memory_limit: int | None,
) -> BitListsIndex:
    """See `registry.build`. The same rows make the same index on any number of threads."""
    check_build_memory(spec, build_bytes(spec, len(vectors), vectors), memory_limit)
    early, late = insertion_order(vectors, held_out)
    n_lists = list_count(spec.n_lists, len(early))
    values = vectors.values
    size = _sample_size(n_lists, len(early), values)
    some = np.random.default_rng(0).choice(early, size, replace=False)
    sample = np.empty((size, 8 * int(values.shape[1])), np.float32)
    for start in range(0, size, _TILE):
        bits = np.unpackbits(values[some[start : start + _TILE]], axis=1)
        np.subtract(bits, 0.5, out=sample[start : start + _TILE], casting="unsafe")
    means = train_centers(sample, n_lists, unit=False, threads=threads)
    centers = np.packbits(means > 0, axis=1)
    offsets, members = _grouped(
        early, _nearest(centers, values, early, metric, threads=threads), n_lists
    )
    return BitListsIndex(
        replace(spec, n_lists=n_lists),
        vectors,
        metric,
        centers=centers,
        offsets=offsets,
        members=members,
        late=late,
    )


def load(
    spec: IVFFlat, vectors: DenseVectors, metric: Metric, files: Mapping[str, IndexFile]
) -> BitListsIndex:
    """See `registry.load`. Lists are read where the file is mapped."""
    width = int(vectors.values.shape[1])
    return BitListsIndex(
        spec,
        vectors,
        metric,
        centers=files[_CENTERS].data.reshape(-1, width),
        offsets=files[_OFFSETS].data.view(np.int64),
        members=files[_ROWS].data.view(np.int64),
        late=np.zeros(0, np.int64),
    )


def build_bytes(spec: IVFFlat, rows: int, vectors: DenseVectors) -> dict[str, int]:
    """See `registry.build_bytes`."""
    n_lists = list_count(spec.n_lists, rows)
    width = int(vectors.values.shape[1])
    sample = _sample_size(n_lists, rows, vectors.values)
    return {
        "index": 8 * rows + n_lists * (width + 8) + 8,
        "rows to learn from": training_bytes(sample, 8 * width, n_lists) + assigning_bytes(),
        "lists while they are sorted": 24 * rows,
        "tiles of rows": min(rows, _TILE) * (8 * width * 5 + 24),
    }


def _sample_size(n_lists: int, rows: int, values: Array) -> int:
    most = max(1, _SAMPLE_BYTES // (4 * 8 * int(values.shape[1])))
    return min(sample_size(n_lists, rows), most)


def _nearest(
    centers: NDArray[np.uint8],
    values: Array,
    rows: NDArray[np.int64],
    metric: Metric,
    *,
    threads: int,
) -> NDArray[np.int64]:
    """Return (rows,) int64, the center nearest to each row."""
    tiles = [rows[start : start + _TILE] for start in range(0, len(rows), _TILE)]
    found = [bit_scan_topk(centers, values[at], 1, metric, threads=threads).rows for at in tiles]
    return np.concatenate([np.zeros(0, np.int64), *(part[:, 0] for part in found)])


def _grouped(
    rows: NDArray[np.int64], lists: NDArray[np.int64], n_lists: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return offsets of the lists, and the rows, list by list, rising in each."""
    order = np.lexsort((rows, lists))
    counts = np.bincount(lists, minlength=n_lists)
    return np.concatenate([[0], np.cumsum(counts)]).astype(np.int64), rows[order]
