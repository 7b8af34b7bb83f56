"""Float32 scan of dense rows by a few queries: candidates that are proven complete.

One pass over the rows in the dtype they are stored in, memory-bound for one query. Each pair's
float32 sum gives an interval that contains its final distance; a row stays a candidate while the
interval may reach the k nearest. The candidates are then measured by `paired_distances`, so the
answer is the exact one, ties included, whatever float32 rounding did.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels import plain_scan
from gpuvec.kernels.loading import is_loaded, load_beside, note_loaded
from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors
from gpuvec.kernels.pairwise import METRIC_CODES, paired_distances
from gpuvec.kernels.parallel import run_parallel, split, thread_count
from gpuvec.types import Array, Metric

_VALUES_PER_THREAD = 1 << 20  # below it, a second thread costs more than it brings
_RESCAN_TILE = 32  # queries


@dataclass(frozen=True, slots=True, eq=False)
class Candidates:
    """Pairs that may be wanted, query by query.

    Attributes:
        offsets: (queries + 1,) int64.
        rows: (offsets[-1],) int64.
        distances: (offsets[-1],) float32, final.
    """

    offsets: NDArray[np.int64]
    rows: NDArray[np.int64]
    distances: NDArray[np.float32]


def float_scan_topk(
    rows: Array,
    queries: Array,
    k: int,
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    bound: NDArray[np.float32] | None = None,
    threads: int = 0,
    in_place: bool = False,
) -> tuple[Neighbors, int]:
    """Find the `k` nearest rows of each query, exactly.

    Args:
        rows: (n, dim) host array of any dense dtype; may be memory mapped.
        queries: (m, dim) float32.
        k: at least 1.
        metric: a dense one.
        listed: positions of the rows that may be found, rising; None: all.
        tie_rank: see `VectorIndex.search`.
        bound: see `VectorIndex.search`.
        threads: 0: all cores.
        in_place: copy no blocks of rows, though compiled code must be waited for.

    Returns:
        The neighbours, and how many pairs were measured a second time.

    Cost: one read of the rows; per pair about dim / 16 fused multiply-adds of 16 lanes.
    """
    loaded = is_loaded(_name(rows))
    plain = not loaded and not in_place and plain_scan.serves(rows, queries)
    scan = plain_scan.plain_scan_topk if plain else compiled_scan_topk
    answer = scan(
        rows, queries, k, metric, listed=listed, tie_rank=tie_rank, bound=bound, threads=threads
    )
    if plain:
        load_beside(_name(rows), lambda: _load(rows.dtype))
    elif not loaded:
        note_loaded(_name(rows))
    return answer


def float_rescan(
    out: Neighbors,
    which: NDArray[np.int64],
    rows: Array,
    queries: Array,
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None,
    tie_rank: NDArray[np.int64] | None,
    bound: NDArray[np.float32] | None,
    threads: int,
) -> int:
    """Answer some queries of a batch again, exactly, into their places.

    Args:
        out: of the whole batch, on the host, written.
        which: (r,) positions of the queries.
        rows: see `float_scan_topk`, likewise what follows.
        queries: of the whole batch.
        metric: a dense one.
        listed: rows that may be found.
        tie_rank: of the rows.
        bound: of the whole batch.
        threads: 0: all cores.

    Returns:
        how many pairs were measured a second time.
    """
    measured = 0
    for start in range(0, len(which), _RESCAN_TILE):
        some = which[start : start + _RESCAN_TILE]
        found, pairs = float_scan_topk(
            rows, queries[some], out.rows.shape[1], metric, listed=listed, tie_rank=tie_rank,
            bound=None if bound is None else bound[some], threads=threads,
        )  # fmt: skip
        out.rows[some], out.distances[some] = found.rows, found.distances
        measured += pairs
    return measured


def _name(rows: Array) -> str:
    return f"float scan of {rows.dtype.type.__name__}"


def _load(dtype: np.dtype[Any]) -> Iterator[None]:
    """Load the compiled bodies for rows of a dtype, step by step."""
    for body in ("host_heap", "host_scan", "host_pairwise"):
        import_module(f"gpuvec.kernels.{body}")
        yield
    one = np.ones((1, 1), np.float32)
    compiled_scan_topk(one.astype(dtype), one, 1, Metric.COSINE)
    yield


def compiled_scan_topk(
    rows: Array,
    queries: Array,
    k: int,
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    bound: NDArray[np.float32] | None = None,
    threads: int = 0,
) -> tuple[Neighbors, int]:
    """Do what `float_scan_topk` does for any dtype and any number of queries."""
    from gpuvec.kernels import host_heap
    from gpuvec.kernels.lanes import numbers_view

    m = len(queries)
    limit = np.full(m, np.inf) if bound is None else np.array(bound, np.float64)
    floor = np.full(m, -np.inf)
    pairs = _candidates(rows, queries, k, metric, listed, floor, limit, threads)
    out = Neighbors(np.empty((m, k), np.int64), np.empty((m, k), np.float32))
    ranks = numbers_view(tie_rank)
    host_heap.select_segments(
        pairs.offsets, pairs.distances, pairs.rows, ranks, tie_rank is not None, limit,
        out.rows, out.distances,
    )  # fmt: skip
    return out, len(pairs.rows)


def float_scan_range(
    rows: Array,
    queries: Array,
    low: NDArray[np.float32] | None,
    high: NDArray[np.float32],
    metric: Metric,
    *,
    listed: NDArray[np.int64] | None = None,
    tie_rank: NDArray[np.int64] | None = None,
    threads: int = 0,
) -> RangeNeighbors:
    """Find every row with `low < distance <= high`, exactly, nearest first.

    Arguments are as in `float_scan_topk`; `low` and `high` hold one number per query. The answer,
    12 bytes a row, is also the only large temporary.
    """
    from gpuvec.kernels import host_heap
    from gpuvec.kernels.lanes import numbers_view

    m = len(queries)
    floor = np.full(m, -np.inf) if low is None else np.array(low, np.float64)
    limit = np.array(high, np.float64)
    pairs = _candidates(rows, queries, 0, metric, listed, floor, limit, threads)
    owner = np.repeat(np.arange(m), np.diff(pairs.offsets))
    inside = (pairs.distances > floor[owner]) & (pairs.distances <= limit[owner])
    counts = np.bincount(owner[inside], minlength=m)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    found, distances = pairs.rows[inside], pairs.distances[inside]
    ranks = numbers_view(tie_rank)
    host_heap.sort_segments(offsets, distances, found, ranks, tie_rank is not None)
    return RangeNeighbors(offsets, found, distances)


def _candidates(
    rows: Array,
    queries: Array,
    k: int,
    metric: Metric,
    listed: NDArray[np.int64] | None,
    floor: NDArray[np.float64],
    limit: NDArray[np.float64],
    threads: int,
) -> Candidates:
    """Scan parts of the rows side by side, then measure what they kept."""
    from gpuvec.kernels import host_scan
    from gpuvec.kernels.lanes import kernel_view, numbers_view

    data, asked = kernel_view(rows), kernel_view(queries)
    squares = np.einsum("ij,ij->i", queries, queries, dtype=np.float64)
    places = numbers_view(listed)
    size = len(rows) if listed is None else len(listed)
    if len(queries) == 0 or size == 0:
        none = np.zeros(0, np.int64)
        return Candidates(np.zeros(len(queries) + 1, np.int64), none, none.astype(np.float32))
    code, slack, m = METRIC_CODES[metric], float_slack(rows.shape[1]), len(queries)

    def work(part: tuple[int, int]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        counts, found, lows, last = host_scan.scan(
            asked, squares, data, places, *part, code, k, floor, limit, slack
        )
        left, kept = host_scan.gather(counts, found, lows, last)
        return left, kept

    least = max(1, _VALUES_PER_THREAD // max(1, rows.shape[1] * m))
    parts = run_parallel(work, split(size, thread_count(threads), least=least), threads)
    counts, found = parts[0]
    if len(parts) > 1:
        counts = np.sum([left for left, _ in parts], axis=0)
        found = np.concatenate([kept for _, kept in parts])
    owner = np.zeros(len(found), np.int64)
    if m > 1:
        owner = np.concatenate([np.repeat(np.arange(m), left) for left, _ in parts])
    if m > 1 and len(parts) > 1:
        order = np.argsort(owner, kind="stable")
        owner, found = owner[order], found[order]
    offsets = np.zeros(m + 1, np.int64)
    np.cumsum(counts, out=offsets[1:])
    distances = paired_distances(queries, rows, owner, found, metric, threads=threads)
    return Candidates(offsets, found, distances)


def float_slack(dim: int) -> float:
    """Return a bound of the relative error of `fast_*` sums of terms of one sign.

    Each of the 32 lanes adds dim / 32 products, five more additions join the lanes; three roundings
    happen before a term and one at the final distance. Twice that is taken.
    """
    unit = 2.0**-24
    return 2 * (-(-dim // 32) + 5 + 4) * unit
