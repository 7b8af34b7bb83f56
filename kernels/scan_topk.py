"""The batch engine: exact nearest rows of many dense queries.

Rows are packed once into 8-bit codes (`pack_rows`). A scan multiplies tiles of codes by queries in
integers, bounds every score from both sides, and keeps the rows whose upper bound reaches the k-th
best lower bound (`kernels.int8_sweep`). Those few are measured by `paired_distances`. The last step
checks the proof: the k-th final distance must be nearer than any score at which rows were dropped.
A query whose proof fails, or with more candidates than fit, is scanned again and counted.

Machines without VNNI, extreme magnitudes and thin masks take float32 products instead, under the
same proof (`kernels.scan_float`).
"""

import time
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.blas import one_blas_thread
from gpuvec.kernels.candidates import Candidates, list_pairs, make_candidates
from gpuvec.kernels.float_scan import float_rescan
from gpuvec.kernels.host_heap import select_segments
from gpuvec.kernels.int8_pack import Int8Pack, pack_int8
from gpuvec.kernels.int8_scan import Int8Scan
from gpuvec.kernels.int8_thin import pays, thin_pack
from gpuvec.kernels.int8_tile import int8_lanes
from gpuvec.kernels.lanes import kernel_view
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import check_pair, paired_distances
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.kernels.scan_bounds import score_limits
from gpuvec.kernels.scan_float import FloatScan
from gpuvec.kernels.scan_room import CANDIDATES, LEAST_QUERIES, block_rows, query_bytes
from gpuvec.kernels.select_k import check_k, check_lengths
from gpuvec.types import Metric, RowMask

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]

STRATEGIES = {16: "int8-vnni512", 8: "int8-avxvnni", 0: "float32"}
BLOCK = 2048  # queries per sweep: their codes stay in the second cache
SCRATCH_BYTES = 1 << 30  # of a call without a limit
MIN_SHARE = 0.06  # of the rows; thinner masks are gathered and scanned in float32
MAX_SHARE = 0.1  # of the rows that may be found: more neighbours than that come from float32


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowPack:
    """What the batch engine derives from rows; worth keeping as long as they.

    Attributes:
        metric: that it serves.
        shape: of the rows.
        int8: tiles of codes; None where float32 is scanned.
    """

    metric: Metric
    shape: tuple[int, int]
    int8: Int8Pack | None

    @property
    def nbytes(self) -> int:
        """Bytes held: about one a value."""
        return 0 if self.int8 is None else self.int8.nbytes


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanStats:
    """What a scan did.

    Attributes:
        queries: answered.
        rescanned: of those, how many the bounds could not settle.
        candidates: pairs measured for their final distance.
        strategy: "int8-vnni512", "int8-avxvnni" or "float32".
        products: multiplications of the scan, without final distances.
        seconds: of wall time.
    """

    queries: int
    rescanned: int
    candidates: int
    strategy: str
    products: int
    seconds: float


class Scanner(Protocol):
    """Finds candidates for some of its queries."""

    norms: F64  # of the queries, as `score_limits` takes them
    refused: NDArray[np.bool_]  # queries that it cannot bound
    largest: float  # norm of a row

    def find(self, start: int, stop: int, found: Candidates) -> int:
        """Fill `found` for queries `start` to `stop`; return the products made."""


def pack_rows(
    rows: Any, metric: Metric, *, threads: int = 0, memory_limit: int | None = None
) -> RowPack:
    """Derive what `scan_topk` reads.

    Args:
        rows: (n, dim) host array of any dense dtype; may be memory mapped.
        metric: a dense one.
        threads: 0: all cores.
        memory_limit: bytes for temporary data; None: some hundred MiB.

    Cost: one read of the rows, dim² products a row for the rotation, and as many for the grouping.
    """
    metric = Metric(metric)
    int8 = None
    if int8_lanes() and rows.size:
        int8 = pack_int8(rows, metric, threads=threads, memory_limit=memory_limit)
    return RowPack(metric=metric, shape=rows.shape, int8=int8)


def scan_topk(
    pack: RowPack,
    rows: Any,
    queries: F32,
    k: int,
    *,
    keep: RowMask | None = None,
    tie_rank: I64 | None = None,
    bound: F32 | None = None,
    threads: int = 0,
    memory_limit: int | None = None,
) -> tuple[Neighbors, ScanStats]:
    """Find the `k` nearest rows of each query, exactly as `paired_distances` measures them.

    Args:
        pack: of these rows.
        rows: (n, dim) host array, as given to `pack_rows`.
        queries: (m, dim) float32.
        k: at least 1; any size.
        keep: (n,) bool, rows that may be found; None: all.
        tie_rank: (n,) int64, distinct, order of rows at equal distance; None: row order.
        bound: (m,) float32; only rows at most that far are wanted. None: all.
        threads: 0: all cores.
        memory_limit: bytes for temporary data beside the answer; None: a gibibyte.

    Returns:
        The neighbours, a short query ending in row -1 at +inf; and what was done.

    Raises:
        QueryError: `GV-310` k; `GV-312`, `GV-313` queries do not fit the rows; `GV-314` lengths.
    """
    begin = time.perf_counter()
    check_k(k)
    check_pair(queries, rows, pack.metric)
    check_lengths(len(rows), len(queries), keep=keep, tie_rank=tie_rank, bound=bound)
    job = _Job(pack, rows, queries, int(k), keep, tie_rank, bound, threads, memory_limit)
    out = job.run()
    return out, job.stats(time.perf_counter() - begin)


class _Job:
    """One call of `scan_topk`."""

    def __init__(
        self,
        pack: RowPack,
        rows: Any,
        queries: F32,
        k: int,
        keep: RowMask | None,
        tie_rank: I64 | None,
        bound: F32 | None,
        threads: int,
        memory_limit: int | None,
    ) -> None:
        self._pack = pack
        self._rows = rows
        self._queries = np.ascontiguousarray(queries)
        self._k = k
        self._keep = keep
        self._tie_rank = tie_rank
        self._ranks = kernel_view(np.zeros(1, np.int64) if tie_rank is None else tie_rank)
        self._limits = np.full(len(queries), np.inf) if bound is None else bound.astype(np.float64)
        self._bound = bound
        self._threads = threads
        self._memory = memory_limit or SCRATCH_BYTES
        self._count = len(rows) if keep is None else int(np.count_nonzero(keep))
        self._out = Neighbors.empty(len(queries), k)
        self._rescanned = self._candidates = self._products = 0
        self._int8 = pack.int8
        if self._count < MIN_SHARE * len(rows) or self._k > MAX_SHARE * self._count:
            self._int8 = None
        self._strategy = STRATEGIES[int8_lanes() if self._int8 is not None else 0]
        self._masked = keep
        if self._int8 is not None and keep is not None and self._is_thin(len(rows)):
            self._int8, self._masked = thin_pack(self._int8, keep, threads=threads), None

    def _is_thin(self, rows: int) -> bool:
        """Return whether the rows that may be found are worth copying, and fit."""
        fits = 2 * self._count * self._pack.shape[1] < self._memory
        return fits and pays(rows, self._count, len(self._queries))

    def run(self) -> Neighbors:
        """Answer all queries, as many at a time as memory allows."""
        if self._count == 0:
            return self._out
        size = min(self._k, self._count)
        room = min(self._count, CANDIDATES + 4 * size)
        dim = self._pack.shape[1]
        least = LEAST_QUERIES if self._int8 is None else BLOCK
        share = self._memory if self._int8 is not None else self._memory // 2
        wave = max(least, share // query_bytes(dim, size, room))
        for start in range(0, len(self._queries), wave):
            self._wave(start, min(len(self._queries), start + wave), size, room)
        return self._out

    def stats(self, seconds: float) -> ScanStats:
        """Return what was done."""
        return ScanStats(
            queries=len(self._queries),
            rescanned=self._rescanned,
            candidates=self._candidates,
            strategy=self._strategy,
            products=self._products,
            seconds=seconds,
        )

    def _wave(self, start: int, stop: int, size: int, room: int) -> None:
        """Answer queries `start` to `stop`."""
        with one_blas_thread():  # its threads would spin on the cores of ours
            scanner = self._scanner(self._queries[start:stop], size)
        threads = thread_count(self._threads)
        parts = -(-(stop - start) // BLOCK)
        parts = -(-parts // threads) * threads

        def work(part: tuple[int, int]) -> tuple[NDArray[np.bool_], int, int]:
            limits = self._limits[start + part[0] : start + part[1]]
            at = slice(*part)
            floor = score_limits(limits, scanner.norms[at], scanner.largest, self._pack.metric)
            floor = np.where(scanner.refused[at], np.inf, floor)
            found = make_candidates(floor, size, room)
            products = scanner.find(*part, found)
            proven, pairs = self._finish(start + part[0], start + part[1], found, scanner, at, size)
            return proven & ~scanner.refused[at], pairs, products

        with one_blas_thread():
            done = run_parallel(work, split(stop - start, parts, least=8), self._threads)
        self._candidates += sum(pairs for _, pairs, _ in done)
        self._products += sum(products for _, _, products in done)
        proven = np.concatenate([proven for proven, _, _ in done])
        self._rescan(start + np.flatnonzero(~proven))

    def _scanner(self, queries: F32, size: int) -> Scanner:
        """Return what finds the candidates of some queries."""
        if self._int8 is not None:
            return Int8Scan(self._int8, queries, self._masked, size, self._threads)
        listed = np.arange(len(self._rows)) if self._keep is None else np.flatnonzero(self._keep)
        step = block_rows(self._pack.shape[1], self._memory, self._threads)
        return FloatScan(self._rows, queries, listed, self._pack.metric, step)

    def _finish(
        self, start: int, stop: int, found: Candidates, scanner: Scanner, at: slice, size: int
    ) -> tuple[NDArray[np.bool_], int]:
        """Measure candidates, choose, and say which queries are proven complete."""
        owners, places, begins = list_pairs(found)
        queries, metric = self._queries[start:stop], self._pack.metric
        distances = paired_distances(queries, self._rows, owners, places, metric, threads=1)
        rows, nearest = self._out.rows[start:stop], self._out.distances[start:stop]
        limits = self._limits[start:stop]
        ranked = self._tie_rank is not None
        select_segments(begins, distances, places, self._ranks, ranked, limits, rows, nearest)
        last = np.minimum(nearest[:, size - 1].astype(np.float64), limits)
        safe = score_limits(last, scanner.norms[at], scanner.largest, metric)
        return (found.floor <= safe) & ~found.lost, len(places)

    def _rescan(self, which: I64) -> None:
        """Answer some queries pair by pair."""
        listed = None if self._keep is None or not len(which) else np.flatnonzero(self._keep)
        self._candidates += float_rescan(
            self._out, which, self._rows, self._queries, self._pack.metric,
            listed=listed, tie_rank=self._tie_rank, bound=self._bound, threads=self._threads,
        )  # fmt: skip
        self._rescanned += len(which)
