"""Lists of FAISS while rows are put in: centers, owners, and codes of whole lists at once.

Rows belong to the center that is nearest by distance, also where lists are looked up by inner
product: rows of great length would otherwise all lie in a few lists.
"""

from dataclasses import replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.faiss_base import insertion_order
from gpuvec.index.faiss_centers import list_count, nearest_centers, train_centers
from gpuvec.index.faiss_codes import Codec
from gpuvec.index.faiss_library import faiss_library, openmp_threads, written
from gpuvec.rows import DenseVectors

TILE = 1 << 14  # rows that are converted, assigned and added together


class Centers(Protocol):
    """Finds centers of rows as lists see them; rows and centers are in host memory."""

    def train(
        self, sample: NDArray[np.float32], n_lists: int, *, unit: bool
    ) -> NDArray[np.float32]:
        """See `faiss_centers.train_centers`."""

    def assign(self, rows: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
        """See `faiss_centers.nearest_centers`."""


class HostCenters:
    """Finds centers by FAISS, on threads of our own.

    Args:
        threads: 0: all cores.
    """

    def __init__(self, threads: int) -> None:
        self._threads = threads

    def train(
        self, sample: NDArray[np.float32], n_lists: int, *, unit: bool
    ) -> NDArray[np.float32]:
        """See `Centers.train`."""
        return train_centers(sample, n_lists, unit=unit, threads=self._threads)

    def assign(self, rows: NDArray[np.float32], centers: NDArray[np.float32]) -> NDArray[np.int64]:
        """See `Centers.assign`."""
        return nearest_centers(rows, centers, threads=self._threads)


class ListsBuild:
    """Lists while rows are added.

    Args:
        spec: one with `n_lists`.
        vectors: of the segment.
        codec: how lists hold rows.
        held_out: rows that `finish` adds.
        threads: 0: all cores.
        centers: finds them; None: on the host.
    """

    def __init__(
        self,
        spec: Any,
        vectors: DenseVectors,
        codec: Codec,
        held_out: NDArray[np.int64] | None,
        threads: int,
        *,
        centers: Centers | None = None,
    ) -> None:
        self.vectors = vectors
        self.threads = threads
        self.codec = codec
        self._finds = centers or HostCenters(threads)
        self.early, self.late = insertion_order(vectors, held_out)
        n_lists = list_count(spec.n_lists, len(self.early))
        self.spec: Any = codec.decided(replace(spec, n_lists=n_lists))
        self._empty = self._trained(self.early, n_lists)
        self.owner = self._owners(self.early)
        self.lists = self._filled(self.early, self.owner)

    @property
    def n_lists(self) -> int:
        """Lists, empty ones too."""
        return int(self._empty.nlist)

    def _trained(self, rows: NDArray[np.int64], n_lists: int) -> Any:
        """Return empty lists around centers."""
        some = np.random.default_rng(0).choice(
            rows, self.codec.sample_size(n_lists, len(rows)), replace=False
        )
        sample = np.empty((len(some), self.codec.seen_width), np.float32)
        for start in range(0, len(some), TILE):
            sample[start : start + TILE] = self._tile(some[start : start + TILE])
        unit = self.codec.space.factor is None
        self.centers = self._finds.train(sample, n_lists, unit=unit)
        quantizer = faiss_library().IndexFlat(self.codec.seen_width, self.codec.space.faiss_metric)
        quantizer.add(self.centers)
        lists = self.codec.lists(quantizer, n_lists, sample, self.centers, self.threads)
        lists.is_trained = True
        return lists

    def _tile(self, rows: NDArray[np.int64]) -> NDArray[np.float32]:
        return self.codec.rows(self.vectors.values[rows])

    def _owners(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the list of each row."""
        found = np.empty(len(rows), np.int64)
        for start in range(0, len(rows), TILE):
            at = slice(start, start + TILE)
            found[at] = self._finds.assign(self._tile(rows[at]), self.centers)
        return found

    def _filled(self, rows: NDArray[np.int64], owner: NDArray[np.int64]) -> Any:
        """Return lists with rows; whole lists are added at once, so none grows and is copied."""
        faiss = faiss_library()
        pointer, lists = faiss.swig_ptr, self._empty
        inside = faiss.ArrayInvertedLists(lists.nlist, lists.code_size)
        lists.replace_invlists(inside, True)
        inside.this.disown()
        order = np.lexsort((rows, owner))
        rows, owner = rows[order], owner[order]
        ends = np.cumsum(np.bincount(owner, minlength=lists.nlist))
        first = 0
        while first < lists.nlist:
            start = int(ends[first - 1]) if first else 0
            last = max(first + 1, int(np.searchsorted(ends, start + TILE, side="right")))
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
        with openmp_threads(1):
            return self.codec.packed(lists)

    def bytes_of(self, rows: int) -> int:
        """Return bytes of the finished file with so many rows."""
        return self.codec.index_bytes(rows, self.n_lists)

    def finish(self) -> NDArray[np.uint8]:
        """Add the rows held out, if there are any; return the file."""
        lists, self.lists = self.lists, None
        if len(self.late):
            lists = None
            owner = np.concatenate([self.owner, self._owners(self.late)])
            lists = self._filled(np.concatenate([self.early, self.late]), owner)
        data: NDArray[np.uint8] = written(lists, self.bytes_of(int(lists.ntotal)))
        self._empty = None
        return data
