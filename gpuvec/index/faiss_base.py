"""What the indexes that FAISS searches have in common: checks, parts, masks, final distances."""

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.memory import tiles
from gpuvec.index.admission import check_search_memory, scratch_limit
from gpuvec.index.base import Neighbors, Params, Queries, SearchStats
from gpuvec.index.faiss_library import openmp_threads
from gpuvec.index.keep import Keep, as_mask
from gpuvec.index.spec import IndexSpec, check_params
from gpuvec.kernels.nearest_of import NearestOf
from gpuvec.kernels.pairwise import check_pair
from gpuvec.kernels.parallel import run_parallel, thread_count
from gpuvec.kernels.scan_room import OWN_BYTES
from gpuvec.kernels.select_k import check_k, check_lengths
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Array, Metric, RowMask

_PARTS_PER_THREAD = 4  # of a batch, so that threads end at about the same time
_BYTES_PER_CANDIDATE = 32  # row, distance, and what a selection makes of them


class FaissIndex(ABC):
    """An index over the non-null rows of one segment, whose candidates FAISS finds.

    A subclass says how candidates are found. Bounds are not used: FAISS knows of none.

    Args:
        spec: every parameter decided.
        vectors: of the segment; held, not copied.
        metric: one that measures them.
    """

    def __init__(self, spec: IndexSpec, vectors: DenseVectors, metric: Metric) -> None:
        self.spec = spec
        self.metric = metric
        self.num_rows = len(vectors)
        self._values = vectors.values
        self._nearest = NearestOf(vectors.values, metric)
        self._local = threading.local()

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """See `ApproximateIndex.nbytes`."""

    @property
    @abstractmethod
    def _size(self) -> int:
        """Rows that can be found now."""

    @abstractmethod
    def settings(self, k: int) -> Sequence[Params]:
        """See `ApproximateIndex.settings`."""

    @abstractmethod
    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""

    @abstractmethod
    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""

    @abstractmethod
    def _plan(self, k: int, params: Params) -> tuple[dict[str, float], int]:
        """Return all knobs, and how many candidates to ask for per query."""

    @abstractmethod
    def _selection(self, knobs: Mapping[str, float], keep: RowMask | None) -> Any:
        """Return what `_candidates` needs to look with these knobs, behind this mask."""

    @abstractmethod
    def _candidates(self, queries: Queries, count: int, selection: Any) -> NDArray[np.int64]:
        """Return (m, count) rows near each query, -1 for none; one OpenMP thread is set."""

    @property
    def last_stats(self) -> SearchStats | None:
        """See `ApproximateIndex.last_stats`."""
        found: SearchStats | None = getattr(self._local, "stats", None)
        return found

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        params: Params | None = None,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """See `ApproximateIndex.search`."""
        start = time.perf_counter()
        check_k(k)
        check_pair(queries, self._values, self.metric)
        knobs, count = self._plan(k, check_params(self.spec, params or {}))
        check_lengths(self.num_rows, len(queries), keep=keep, tie_rank=tie_rank, bound=bound)
        mask = as_mask(keep)
        mask = None if mask is None or mask.all() else mask
        tie_rank = None if tie_rank is None else np.asarray(tie_rank, np.int64)
        hidden = self._size == 0 or (mask is not None and not mask.any())
        count = 0 if hidden else min(count, self._size)
        if count == 0 or len(queries) == 0:
            found = Neighbors.empty(len(queries), k)
        else:
            selection = self._selection(knobs, mask)

            def work(part: tuple[int, int]) -> Neighbors:
                return self._answer(queries[slice(*part)], k, count, selection, tie_rank)

            one = (k + count) * _BYTES_PER_CANDIDATE + self._query_bytes(knobs)
            parts = self._parts(len(queries), one, threads, memory_limit)
            found = Neighbors.concat(run_parallel(work, parts, threads))
        self._local.stats = SearchStats(
            strategy=self.spec.KIND,
            queries=len(queries),
            candidates=len(queries) * count,
            seconds=time.perf_counter() - start,
        )
        return found

    def _answer(
        self, queries: Queries, k: int, count: int, selection: Any, tie_rank: Array | None
    ) -> Neighbors:
        """Return the `k` nearest of `count` candidates of each query."""
        with openmp_threads(1):
            rows = self._candidates(queries, count, selection)
        return self._nearest(queries, rows, k, tie_rank=tie_rank)

    def _query_bytes(self, knobs: Mapping[str, float]) -> int:
        """Return bytes that FAISS takes for one query, beside its candidates."""
        del knobs
        return 0

    def _parts(
        self, queries: int, one: int, threads: int, memory_limit: int | None
    ) -> list[tuple[int, int]]:
        """Cut a batch so that all parts that run at once fit into the memory limit."""
        limit = scratch_limit(memory_limit)
        check_search_memory(
            f"a search of {self.spec}", {"the call": OWN_BYTES, "candidates of a query": one}, limit
        )
        if queries == 1:
            return [(0, 1)]
        workers = min(queries, thread_count(threads))
        limit //= workers
        most = -(-queries // (workers * _PARTS_PER_THREAD)) if workers > 1 else 0
        return tiles(queries, one, limit, what=f"a search of {self.spec}", most=most)


def insertion_order(
    vectors: DenseVectors, held_out: NDArray[np.int64] | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the rows that are not null, rising: those to build with, and those held out."""
    wanted = np.ones(len(vectors), bool) if vectors.valid is None else vectors.valid.copy()
    late = np.zeros(0, np.int64) if held_out is None else np.asarray(held_out, np.int64)
    late = late[wanted[late]]
    wanted[late] = False
    return np.flatnonzero(wanted), late


def rising(start: float, end: float, ratio: float) -> list[int]:
    """Return whole numbers from `start` to `end`, each about `ratio` times the last."""
    found = [int(start)]
    while found[-1] < end:
        found.append(int(min(end, max(found[-1] + 1, round(found[-1] * ratio)))))
    return found
