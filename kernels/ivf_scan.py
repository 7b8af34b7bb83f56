"""The approximate batch search: near rows of many dense queries, list by list.

Queries are rotated and encoded, lists and rows chosen by the compiled sweep (`kernels.ivf_sweep`),
and what it finds is measured as `paired_distances` does. A query with more candidates than there is
room for (mostly rows that are equal) is answered by the float32 scan instead, and counted.
"""

import time
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.blas import one_blas_thread
from gpuvec.kernels.float_scan import float_rescan
from gpuvec.kernels.int8_scan import tile_masks
from gpuvec.kernels.int8_tile import TILE_ROWS
from gpuvec.kernels.ivf_form import Effort, IvfPack, Keep, is_flat
from gpuvec.kernels.ivf_found import choose_nearest
from gpuvec.kernels.ivf_job import UNKNOWN
from gpuvec.kernels.ivf_means import frozen
from gpuvec.kernels.ivf_query import turn_queries
from gpuvec.kernels.ivf_sweep import find_rows
from gpuvec.kernels.ivf_work import FIXED_BYTES, LEAST_QUERIES, Work, WorkPool, work_bytes
from gpuvec.kernels.lanes import kernel_view, numbers_view
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.pairwise import METRIC_CODES
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.kernels.scan_bounds import score_limits
from gpuvec.types import RowMask

BLOCK = 2048  # queries per sweep, at most: each reads all codes once
LARGE_BLOCK = 8192  # of codes that no cache holds
CACHED_BYTES = 32 << 20
LEAST = 8  # queries that are worth a thread
ROOM = 256  # candidates per query, besides four times k
SCRATCH_BYTES = 256 << 20
FIRST = 2  # lists that a query starts with, at least
NEAR = 6  # lists that follow, before all within reach
_ONE_OR_SO, _FIRM = 4, 2.5  # with so few neighbours there is no spare candidate by chance
_MOST_FIRST = 48  # lists that it starts with, at most
_CERTAIN = 6.0  # spreads of what codes lose, by which bounds are widened
_NO_MASK = frozen(np.zeros(0, np.bool_))
_FEW = 16  # queries that look at a mask only where they get to
_THIN = 0.05  # masks that are looked at as a whole, for there are lists without any row

F32 = NDArray[np.float32]
F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def keep_tiles(pack: IvfPack, mask: RowMask | None, queries: int, threads: int) -> Keep:
    """Turn a mask of rows into one of tiles.

    Args:
        pack: the rows.
        mask: (n,) bool; None: all that are packed.
        queries: how many ask; few get to few tiles, the others stay unknown.
        threads: 0: all cores.
    """
    arrays = pack.arrays
    lists = len(arrays.units)
    if mask is not None and queries <= _FEW:
        count = int(np.count_nonzero(mask))
        if count >= _THIN * len(mask):
            tiles = np.full(len(arrays.codes), UNKNOWN)
            return Keep(tiles=tiles, half=arrays.center_half, rows=count, lists=lists)
    given = frozen(np.zeros(0, np.bool_) if mask is None else mask)

    def work(part: tuple[int, int]) -> tuple[I64, I64]:
        tiles = arrays.list_tiles[part[0] : part[1] + 1]
        found: tuple[I64, I64] = tile_masks(
            arrays.rows[tiles[0] : tiles[-1]], tiles - tiles[0], given
        )
        return found

    done = run_parallel(work, split(lists, 64, least=512), threads)
    counts = np.concatenate([found[1] for found in done])
    half = arrays.center_half.copy()
    half[:lists][counts == 0] = np.inf
    return Keep(
        tiles=np.concatenate([found[0] for found in done]),
        half=frozen(half),
        rows=int(counts.sum()),
        lists=int(np.count_nonzero(counts)),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class IvfStats:
    """What a search did.

    Attributes:
        candidates: pairs measured for their final distance.
        rescanned: queries answered by the float32 scan.
        seconds: of wall time.
    """

    candidates: int
    rescanned: int
    seconds: float


class IvfSearch:
    """One call's queries over one pack.

    Args:
        pack: of the rows.
        rows: (n, dim) host array that was packed.
        queries: (m, dim) float32.
        k: at least 1.
        keep: rows that may be found.
        mask: the same by row; None: all.
        effort: how thorough.
        tie_rank: (n,) int64 or None.
        bound: (m,) float32 or None.
        threads: 0: all cores.
        memory_limit: bytes for temporary data.
        pool: lends working memory.
    """

    def __init__(
        self,
        pack: IvfPack,
        rows: Any,
        queries: F32,
        k: int,
        *,
        keep: Keep,
        mask: RowMask | None,
        effort: Effort,
        tie_rank: I64 | None,
        bound: F32 | None,
        threads: int,
        memory_limit: int | None,
        pool: WorkPool,
    ) -> None:
        self._pack = pack
        self._rows = rows
        self._queries = frozen(np.ascontiguousarray(queries))
        self._k = k
        self._keep = keep
        self._mask = None if mask is None else np.ascontiguousarray(mask)
        self._effort = effort
        self._tie_rank = tie_rank
        self._ranks = numbers_view(tie_rank)
        self._bound = bound
        self._threads = threads
        self._memory = memory_limit or SCRATCH_BYTES
        self._pool = pool
        self._size = min(k, keep.rows)
        self._room = min(keep.rows, ROOM + 4 * self._size)  # for candidates
        self._out = Neighbors.empty(len(queries), k)

    def run(self) -> tuple[Neighbors, IvfStats]:
        """Answer all queries."""
        begin = time.perf_counter()
        m, size, room = len(self._queries), self._size, self._room
        if size == 0 or m == 0:
            return self._out, IvfStats(candidates=0, rescanned=0, seconds=0.0)
        by_blas = len(self._pack.turn) == 0
        with one_blas_thread() if by_blas else nullcontext():
            done = run_parallel(
                lambda part: self._answer(*part, size, room), self._parts(m, room), self._threads
            )
        lost = done[0][0] if len(done) == 1 else np.concatenate([part[0] for part in done])
        which = np.flatnonzero(lost)
        self._rescan(which)
        return self._out, IvfStats(
            candidates=sum(part[1] for part in done),
            rescanned=len(which),
            seconds=time.perf_counter() - begin,
        )

    def least_bytes(self) -> int:
        """Return what the search takes with the fewest queries at once."""
        at_once = min(thread_count(self._threads), -(-len(self._queries) // LEAST))
        return at_once * (FIXED_BYTES + LEAST_QUERIES * work_bytes(self._pack, self._room))

    def _parts(self, m: int, room: int) -> list[tuple[int, int]]:
        """Cut the queries into those that are swept together."""
        threads = thread_count(self._threads)
        most = self._memory // threads // work_bytes(self._pack, room)
        block = BLOCK if self._pack.arrays.codes.nbytes <= CACHED_BYTES else LARGE_BLOCK
        parts = -(-m // int(min(block, max(8, most))))
        return split(m, -(-parts // threads) * threads, least=LEAST)

    def _answer(self, start: int, stop: int, size: int, room: int) -> tuple[NDArray[np.bool_], int]:
        """Answer some queries; return which were given up, and pairs measured."""
        pack, queries = self._pack, self._queries[start:stop]
        with self._pool.lend(pack, stop - start) as work:
            turned, norms, noise = turn_queries(queries, work)
            lost = np.isinf(norms)
            floor, limits = self._floors(queries, norms, start, stop)
            self._find(turned, noise, floor, size, room, work)
            pairs = choose_nearest(
                work.job, work.members[: stop - start], queries, kernel_view(self._rows),
                METRIC_CODES[pack.metric], limits, self._ranks, lost, self._out.rows[start:stop],
                self._out.distances[start:stop],
            )  # fmt: skip
        return lost, pairs

    def _floors(self, queries: F32, norms: F64, start: int, stop: int) -> tuple[F64, F64]:
        """Return scores that are worth looking for, and distances that are wanted."""
        pack = self._pack
        limits, floor = np.full(len(queries), np.inf), np.full(len(queries), -np.inf)
        if self._bound is not None:
            limits = self._bound[start:stop].astype(np.float64)
            floor = score_limits(limits, norms, 1.0, pack.metric)
            if is_flat(pack.metric):  # rows are less the origin, so scores are too
                floor -= (queries @ pack.origin) / np.where(norms > 0, norms, 1)
        floor[np.isinf(norms)] = np.inf
        return floor, limits

    def _find(self, turned: F32, noise: F64, floor: F64, size: int, room: int, work: Work) -> None:
        """Find what is likely to be near."""
        pack, keep, effort, job = self._pack, self._keep, self._effort, work.job
        work.make_room(size, room)
        needed = -(-3 * self._k * keep.lists // (2 * keep.rows))
        job["first"] = first = min(max(needed, FIRST), _MOST_FIRST)
        job["near"] = min(NEAR, TILE_ROWS - first)
        job["reach"], job["patience"] = effort.reach, effort.patience
        job["doubt"] = max(effort.doubt, _FIRM) if self._k < _ONE_OR_SO else effort.doubt
        find_rows(
            job, turned, noise, floor, 0.0 if self._bound is None else _CERTAIN, keep.tiles,
            _NO_MASK if self._mask is None else frozen(self._mask), keep.half, pack.variance,
            pack.reach, work.shape, pack.unit, work.codes, work.members, work.units, work.ends,
        )  # fmt: skip

    def _rescan(self, which: I64) -> None:
        """Answer some queries pair by pair."""
        if not len(which):
            return
        listed = np.sort(self._pack.arrays.rows[self._pack.arrays.rows >= 0])
        if self._mask is not None:
            listed = listed[self._mask[listed]]
        float_rescan(
            self._out, which, self._rows, self._queries, self._pack.metric,
            listed=listed, tie_rank=self._tie_rank, bound=self._bound, threads=self._threads,
        )  # fmt: skip
