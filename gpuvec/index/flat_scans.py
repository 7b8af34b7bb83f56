"""The ways in which `FlatIndex` scans rows in host memory."""

import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from gpuvec.device.arrays import array_namespace
from gpuvec.index.admission import check_search_memory, scanned_together
from gpuvec.index.base import Neighbors, Queries, RangeNeighbors
from gpuvec.kernels.bitset import BitSet, unpack
from gpuvec.kernels.exact_scan import bit_scan_range, bit_scan_topk
from gpuvec.kernels.float_scan import float_scan_range, float_scan_topk
from gpuvec.kernels.scan_room import batch_room, plain_room
from gpuvec.kernels.sparse_scan import (
    SparsePack,
    pack_sparse,
    sparse_scan_range,
    sparse_scan_topk,
)
from gpuvec.once import cached_property
from gpuvec.rows import SparseVectors
from gpuvec.storage.mapping import release
from gpuvec.types import Array, Metric, RowMask

FEW_ROWS = 4096  # rows below which a float32 scan of just those rows is faster
_PACK_AFTER = 64  # queries that pay for deriving codes; or one a dimension, if that is more
_RELEASE_AFTER = 512  # queries whose scan takes so long that reading rows anew is nothing
_LEAST_SCRATCH = 4  # of the memory for temporary data, what is left to a scan beside its codes

_WHAT = "a search of vectors without an index"

Found = tuple[Neighbors, str, int, int]  # answer, strategy, candidates, queries rescanned


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One checked call of an index.

    Attributes:
        queries: (m, width), or sparse.
        keep: (n,) bool, masks of caller and index together; None: every row, or see `bits`.
        count: rows that may be found.
        tie_rank: (n,) int64 or None; a scan in device memory takes `DeviceRows` of such too.
        threads: 0: all cores.
        memory_limit: bytes for temporary data.
        bits: of a scan in device memory, what `keep` is elsewhere.
    """

    queries: Queries
    keep: RowMask | None
    count: int
    tie_rank: Array | None
    threads: int
    memory_limit: int
    bits: BitSet | None = None

    def listed(self) -> Array | None:
        """Return the rows that may be found, rising, (count,) int64 beside the rows; None: all."""
        if self.bits is not None:
            mask = unpack(self.bits)
            return array_namespace(mask).flatnonzero(mask)
        return None if self.keep is None else np.flatnonzero(self.keep)


class RowScan(Protocol):
    """Scans the rows of one index."""

    @property
    def nbytes(self) -> int:
        """Bytes derived from the rows, or expected to be."""

    def topk(self, request: Request, k: int, bound: Array | None) -> Found:
        """Return the `k` nearest rows of each query within its bound."""

    def range(self, request: Request, low: Array | None, high: Array) -> tuple[RangeNeighbors, str]:
        """Return every row with `low < distance <= high`, and the strategy's name."""


class DenseScan:
    """Dense rows: by codes once enough queries came to pay for them, else in float32."""

    def __init__(self, rows: Array, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric
        self._pack: Any = None
        self._asked = 0
        self._count_lock = threading.Lock()  # held shortly
        self._lock = threading.Lock()  # held while codes are derived

    @property
    def nbytes(self) -> int:
        """See `RowScan.nbytes`: one byte a value and some words a row."""
        pack = self._pack
        return int(pack.nbytes) if pack is not None else self._rows.size + 16 * len(self._rows)

    def topk(self, request: Request, k: int, bound: Array | None) -> Found:
        """See `RowScan.topk`."""
        if self._takes_codes(request) and self._holds_batch(request, k):
            return self._batch(request, k, bound)
        tile, in_place = self._tile(request, k)
        listed = request.listed()
        answers, candidates = [], 0
        for start in range(0, max(1, len(request.queries)), tile):
            at = slice(start, start + tile)
            found, measured = float_scan_topk(
                self._rows,
                request.queries[at],
                k,
                self._metric,
                listed=listed,
                tie_rank=request.tie_rank,
                bound=None if bound is None else bound[at],
                threads=request.threads,
                in_place=in_place,
            )
            answers.append(found)
            candidates += measured
        return Neighbors.concat(answers), "float32 scan", candidates, 0

    def range(self, request: Request, low: Array | None, high: Array) -> tuple[RangeNeighbors, str]:
        """See `RowScan.range`."""
        tile, _ = self._tile(request, 0)
        listed = request.listed()

        def search(at: slice) -> RangeNeighbors:
            return float_scan_range(
                self._rows,
                request.queries[at],
                None if low is None else low[at],
                high[at],
                self._metric,
                listed=listed,
                tie_rank=request.tie_rank,
                threads=request.threads,
            )

        return join_ranges(search, len(request.queries), tile), "float32 scan"

    def _tile(self, request: Request, k: int) -> tuple[int, bool]:
        """Return how many queries are scanned together, and whether rows are measured in place."""
        return scanned_together(
            _WHAT, self._rows.shape, k, len(request.queries), request.memory_limit,
            threads=request.threads, masked=request.keep is not None,
        )  # fmt: skip

    def _holds_batch(self, request: Request, k: int) -> bool:
        """Return whether memory holds the least that a batch takes."""
        parts = batch_room(
            self._rows.shape, k, len(request.queries), threads=request.threads, count=request.count
        )
        return sum(parts.values()) <= request.memory_limit

    def _takes_codes(self, request: Request) -> bool:
        """Count the queries; return whether codes serve best and by now are worth deriving."""
        pairs = request.count * len(request.queries)
        if request.count < FEW_ROWS or pairs < len(self._rows):
            return False
        if self._pack is not None:
            return True
        with self._count_lock:
            self._asked += len(request.queries)
            asked = self._asked
        return asked >= max(_PACK_AFTER, int(self._rows.shape[1]))

    def _batch(self, request: Request, k: int, bound: Array | None) -> Found:
        from gpuvec.kernels.scan_topk import scan_topk

        limit = request.memory_limit
        pack = self._packed(request)
        limit = max(limit - pack.nbytes, limit // _LEAST_SCRATCH)  # set before there were codes
        found, stats = scan_topk(
            pack,
            self._rows,
            request.queries,
            k,
            keep=request.keep,
            tie_rank=request.tie_rank,
            bound=bound,
            threads=request.threads,
            memory_limit=limit,
        )
        if len(request.queries) >= _RELEASE_AFTER:
            release(self._rows)  # codes were read in their place; some rows were looked up
        return found, stats.strategy, stats.candidates, stats.rescanned

    def _packed(self, request: Request) -> Any:
        """Return the rows' codes; none where memory does not hold them, and float32 is scanned."""
        from gpuvec.kernels.scan_topk import RowPack, pack_rows

        limit = request.memory_limit
        with self._lock:
            if self._pack is None and self.nbytes > limit:
                return RowPack(metric=self._metric, shape=self._rows.shape, int8=None)
            if self._pack is None:
                self._pack = pack_rows(
                    self._rows, self._metric, threads=request.threads, memory_limit=limit
                )
            return self._pack


class BitScan:
    """Packed bits, by word operations."""

    nbytes = 0

    def __init__(self, rows: Array, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric

    def topk(self, request: Request, k: int, bound: Array | None) -> Found:
        """See `RowScan.topk`."""
        parts = plain_room(len(self._rows), k, masked=request.keep is not None)
        check_search_memory(_WHAT, parts, request.memory_limit)
        found = bit_scan_topk(
            self._rows,
            request.queries,
            k,
            self._metric,
            listed=request.listed(),
            tie_rank=request.tie_rank,
            bound=bound,
            threads=request.threads,
        )
        return found, "popcount scan", 0, 0

    def range(self, request: Request, low: Array | None, high: Array) -> tuple[RangeNeighbors, str]:
        """See `RowScan.range`."""
        found = bit_scan_range(
            self._rows,
            request.queries,
            low,
            high,
            self._metric,
            listed=request.listed(),
            tie_rank=request.tie_rank,
            threads=request.threads,
            memory_limit=request.memory_limit,
        )
        return found, "popcount scan"


class SparseScan:
    """Sparse rows, entry by entry."""

    def __init__(self, rows: SparseVectors, metric: Metric) -> None:
        self._rows = rows
        self._metric = metric
        self._lock = threading.Lock()

    @cached_property
    def _pack(self) -> SparsePack:
        return pack_sparse(self._rows)

    @property
    def nbytes(self) -> int:
        """See `RowScan.nbytes`."""
        return 4 * len(self._rows.indices) + 8 * len(self._rows)

    def topk(self, request: Request, k: int, bound: Array | None) -> Found:
        """See `RowScan.topk`."""
        parts = plain_room(len(self._rows), k, masked=request.keep is not None, held=self.nbytes)
        check_search_memory(_WHAT, parts, request.memory_limit)
        with self._lock:
            pack = self._pack
        found = sparse_scan_topk(
            pack,
            request.queries,
            k,
            self._metric,
            listed=request.listed(),
            tie_rank=request.tie_rank,
            bound=bound,
            threads=request.threads,
        )
        return found, "sparse scan", 0, 0

    def range(self, request: Request, low: Array | None, high: Array) -> tuple[RangeNeighbors, str]:
        """See `RowScan.range`."""
        with self._lock:
            pack = self._pack
        found = sparse_scan_range(
            pack,
            request.queries,
            low,
            high,
            self._metric,
            listed=request.listed(),
            tie_rank=request.tie_rank,
            threads=request.threads,
            memory_limit=request.memory_limit,
        )
        return found, "sparse scan"


def join_ranges(
    search: Callable[[slice], RangeNeighbors], num_queries: int, tile: int
) -> RangeNeighbors:
    """Answer tiles of queries one after the other and join what they found."""
    found = [search(slice(at, at + tile)) for at in range(0, max(1, num_queries), tile)]
    if len(found) == 1:
        return found[0]
    xp = array_namespace(found[0].rows)
    counts = xp.concatenate([xp.zeros(1, xp.int64), *(part.counts for part in found)])
    return RangeNeighbors(
        xp.cumsum(counts),
        xp.concatenate([part.rows for part in found]),
        xp.concatenate([part.distances for part in found]),
    )
