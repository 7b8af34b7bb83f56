"""Exact search of one segment's vectors: any metric, any dtype, host or device."""

import threading
import time
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, is_device_array, to_device
from gpuvec.device.rows import DeviceRows, device_rows
from gpuvec.errors import metric_needs, wrong_length
from gpuvec.index.admission import scratch_limit
from gpuvec.index.base import Neighbors, Queries, RangeNeighbors, SearchStats
from gpuvec.index.flat_scans import BitScan, DenseScan, Request, RowScan, SparseScan
from gpuvec.index.keep import Keep, as_bits, as_mask
from gpuvec.kernels.bitset import BitSet, both, count
from gpuvec.kernels.pairwise import check_pair, is_binary
from gpuvec.kernels.select_k import check_k, check_lengths
from gpuvec.kernels.sparse_scan import check_sparse
from gpuvec.once import cached_property
from gpuvec.rows import SparseVectors
from gpuvec.types import Array, Metric, RowMask


class FlatIndex:
    """Measures every row that may be found; answers are complete and in order.

    On the host, final distances and ties are those of `kernels.pairwise.paired_distances`, whatever
    way is taken. On a GPU rows whose distances differ by less than 1e-6 relative may swap.

    Args:
        vectors: (n, dim) float32, float16, bfloat16, int8 or uint8, or (n, dim / 8) packed uint8,
            on host or device, memory mapped or not; `DeviceRows` of such; or `SparseVectors`. Held,
            never copied.
        metric: one that measures such vectors.
        valid: (n,) bool, False = null vector, never found; None: none is null.

    Raises:
        QueryError: `GV-312`, the metric does not measure such vectors; `GV-314`, `valid` is of
            another length.
    """

    exact = True

    def __init__(
        self,
        vectors: Array | DeviceRows | SparseVectors,
        metric: Metric | str,
        *,
        valid: RowMask | None = None,
    ) -> None:
        self.metric = Metric(metric)
        self.vectors = vectors
        self._on_device = isinstance(vectors, DeviceRows) or is_device_array(vectors)
        self.num_rows = len(vectors) if isinstance(vectors, SparseVectors) else vectors.shape[0]
        if valid is not None and len(valid) != self.num_rows:
            raise wrong_length("valid", wanted=self.num_rows, got=len(valid))
        self._valid = None if valid is None or bool(valid.all()) else valid
        self._scan = _scan_of(vectors, self.metric)
        self._local = threading.local()

    @property
    def nbytes(self) -> int:
        """Bytes derived from the vectors, or, before the first batch, those a batch will derive."""
        return self._scan.nbytes

    @property
    def last_stats(self) -> SearchStats | None:
        """See `VectorIndex.last_stats`."""
        found: SearchStats | None = getattr(self._local, "stats", None)
        return found

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """See `VectorIndex.search`."""
        check_k(k)
        request = self._request(queries, keep, tie_rank, threads, memory_limit)
        if bound is not None:
            bound = self._per_query("bound", bound, len(queries))
        wanted = min(int(k), max(1, self.num_rows))
        start = time.perf_counter()
        found, strategy, candidates, rescanned = self._scan.topk(request, wanted, bound)
        self._note(strategy, len(queries), candidates, rescanned, start)
        return found

    def range_search(
        self,
        queries: Queries,
        low: Array | float | None,
        high: Array | float,
        *,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> RangeNeighbors:
        """See `VectorIndex.range_search`."""
        request = self._request(queries, keep, tie_rank, threads, memory_limit)
        lows = None if low is None else self._per_query("low", low, len(queries))
        highs = self._per_query("high", high, len(queries))
        start = time.perf_counter()
        found, strategy = self._scan.range(request, lows, highs)
        self._note(strategy, len(queries), len(found.rows), 0, start)
        return found

    def search_groups(
        self,
        queries: Queries,
        codes: NDArray[np.int32],
        groups: int,
        size: int,
        *,
        keep: Keep | None = None,
        tie_rank: Array | DeviceRows | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """Return the nearest rows of every group.

        Args:
            queries: see `search`.
            codes: (n,) on the host, the group of each row; negative: of none.
            groups: how many there are, at least 1.
            size: rows of each, at least 1.
            keep: see `search`.
            tie_rank: see `search`.
            threads: see `search`.
            memory_limit: see `search`.

        Returns:
            (queries, groups * size): places g * size to (g + 1) * size hold group g's rows, nearest
            first; a small group ends in row -1 at +inf.

        Raises:
            QueryError: `GV-310` size below 1; else see `search`.

        Cost: on a device one pass over the rows; on the host one search for each group.
        """
        check_k(size)
        if self._on_device:
            from gpuvec.index.flat_device_groups import GroupTiles

            request = self._request(queries, keep, tie_rank, threads, memory_limit)
            tiles = GroupTiles(
                device_rows(self.vectors), self.metric, request.bits, request.tie_rank
            )
            return tiles.nearest(queries, to_device(codes, "scalars"), groups, size)
        mask, parts = as_mask(keep), []
        for group in range(groups):
            own = codes == group
            found = self.search(
                queries, size, keep=own if mask is None else own & mask, tie_rank=tie_rank,
                threads=threads, memory_limit=memory_limit,
            )  # fmt: skip
            parts += [found, Neighbors.empty(len(queries), size - found.k)]
        return Neighbors(
            np.concatenate([part.rows for part in parts], axis=1),
            np.concatenate([part.distances for part in parts], axis=1),
        )

    def _request(
        self,
        queries: Queries,
        keep: Keep | None,
        tie_rank: Array | None,
        threads: int,
        memory_limit: int | None,
    ) -> Request:
        """Check what was asked, and put both masks into one."""
        self._check(queries)
        check_lengths(self.num_rows, len(queries), keep=keep, tie_rank=tie_rank)
        mask, bits, passing = None, None, self.num_rows
        if self._on_device:
            bits = self._in_both(keep)
            passing = passing if bits is None else count(bits)
        else:
            mask = as_mask(keep)
            if self._valid is not None:
                mask = self._valid if mask is None else mask & self._valid
            passing = passing if mask is None else int(np.count_nonzero(mask))
        return Request(
            queries=queries,
            keep=mask,
            count=passing,
            tie_rank=_whole_numbers(tie_rank),
            threads=threads,
            memory_limit=scratch_limit(memory_limit),
            bits=bits,
        )

    def _in_both(self, keep: Keep | None) -> BitSet | None:
        """Return the kept rows that have a vector, on the device; None: all rows."""
        kept, valid = as_bits(keep), self.valid_bits
        if kept is None or valid is None:
            return valid if kept is None else kept
        return both(kept, valid)

    @property
    def device_scan(self) -> Any:
        """The `DeviceScan` of vectors on a GPU; None: they are searched on the host."""
        return self._scan if self._on_device else None

    @cached_property
    def valid_bits(self) -> BitSet | None:
        """The rows whose vector is not null, on the device; None: all."""
        return as_bits(self._valid)

    def _check(self, queries: Queries) -> None:
        if isinstance(self.vectors, SparseVectors) != isinstance(queries, SparseVectors):
            kinds = ["sparse" if isinstance(x, SparseVectors) else "dense"
                     for x in (queries, self.vectors)]  # fmt: skip
            raise metric_needs(self.metric, " queries of ".join(kinds) + " rows", wanted="alike")
        if not isinstance(queries, SparseVectors):
            check_pair(queries, _like(self.vectors), self.metric)

    def _per_query(self, what: str, value: Any, count: int) -> Array:
        """Return one float32 a query, on the side of the rows."""
        xp = array_namespace(_like(self.vectors)) if self._on_device else np
        given = xp.asarray(value, xp.float32)
        if given.ndim and len(given) != count:
            raise wrong_length(what, wanted=count, got=len(given))
        return xp.ascontiguousarray(xp.broadcast_to(given, (count,)))

    def _note(
        self, strategy: str, queries: int, candidates: int, rescanned: int, start: float
    ) -> None:
        self._local.stats = SearchStats(
            strategy=strategy,
            queries=queries,
            candidates=candidates,
            rescanned=rescanned,
            seconds=time.perf_counter() - start,
        )


def _like(vectors: Array | DeviceRows) -> Array:
    """Return vectors, or an array like them: of their width and dtype, on their side."""
    return vectors.like if isinstance(vectors, DeviceRows) else vectors


def _whole_numbers(tie_rank: Array | DeviceRows | None) -> Array | DeviceRows | None:
    if tie_rank is None or isinstance(tie_rank, DeviceRows):
        return tie_rank
    return tie_rank.astype(np.int64, copy=False)


def _scan_of(vectors: Array | DeviceRows | SparseVectors, metric: Metric) -> RowScan:
    """Choose how vectors of this kind are scanned."""
    if isinstance(vectors, SparseVectors):
        check_sparse(metric)
        return SparseScan(vectors, metric)
    like = _like(vectors)
    check_pair(like[:0] if is_binary(metric) else like[:0].astype(np.float32), like, metric)
    if isinstance(vectors, DeviceRows) or is_device_array(vectors):
        from gpuvec.index.flat_device import DeviceScan

        return DeviceScan(vectors, metric)
    return BitScan(vectors, metric) if is_binary(metric) else DenseScan(vectors, metric)
