"""Measures an index: recall and time of its settings, filtered and not, beside the exact scan.

A filter can be blind to what is asked, or follow it: rows near one another pass, so that the
neighbours of most queries do not. Both are measured at each selectivity. What is cheap to know goes
first: settings from the cheapest on, each with a few queries before many, until one finds nearly
everything or is slower than the exact scan.
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import ApproximateIndex, Neighbors, Params, VectorIndex
from gpuvec.index.curve import CurvePoint, RecallCurve, interval, recalls
from gpuvec.kernels.pairwise import is_binary, pairwise_distances
from gpuvec.rows import DenseVectors
from gpuvec.types import Array, Metric, RowMask

SELECTIVITIES = (1.0, 0.1, 0.5, 0.01, 0.9, 0.001)  # what matters most goes first
QUERIES = 1000  # at most
_PILOT = 96  # queries that show whether a setting is worth all of them
_HOPELESS = 0.85  # recall below which nobody looks for a setting
_COMPLETE = 0.9995
_SINGLES = 12
_SINGLES_S = 0.06  # for one setting's single queries
_QUICK_S = 0.04  # batches faster than this are timed twice
_PIVOTS = 4
_LEAST_SIDE = 50  # queries whose mean counts for itself

Progress = Callable[[float], None]  # told the share that is done; what it raises ends the work


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Case:
    """Rows that may be found: `name` and `selectivity` as in `CurvePoint`."""

    name: str
    selectivity: float
    keep: RowMask | None
    count: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Truth:
    """The exact answer of one case, and what it took.

    Attributes:
        neighbors: of all queries.
        point: of the exact scan.
        inside: (queries,) whether the nearest row of all passes; None without a filter.
    """

    neighbors: Neighbors
    point: CurvePoint
    inside: NDArray[np.bool_] | None


def measure_curve(
    index: ApproximateIndex,
    exact: VectorIndex,
    vectors: DenseVectors,
    metric: Metric,
    *,
    held_out: NDArray[np.int64] | None = None,
    queries: Array | None = None,
    ks: tuple[int, ...] = (10, 100),
    threads: int = 0,
    memory_limit: int | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RecallCurve:
    """Measure settings of an index on queries that its build never saw.

    Args:
        index: over `vectors`, without the rows held out.
        exact: the exact scan of the same vectors.
        vectors: of the segment.
        metric: of both.
        held_out: rows that the index has not been given; they are hidden from the exact scan too,
            and asked for where there are no `queries`. None: none are.
        queries: real ones, as the exact scan takes them; of more than `QUERIES` a sample is asked.
        ks: neighbours asked for.
        threads: see `VectorIndex.search`.
        memory_limit: see `VectorIndex.search`.
        budget_s: seconds after which no further setting is begun; cells that were not reached are
            missing from the curve, and searches there are exact. None: no end.
        seed: of the filters.
        progress: told how far the work is.

    Returns:
        Points of the exact scan (`params` None) and of the index's settings.
    """
    bench = _Bench(
        index=index,
        exact=exact,
        asked=_asked(vectors, metric, held_out, queries, seed),
        threads=threads,
        memory_limit=memory_limit,
    )
    findable = _findable(vectors, held_out)
    points: list[CurvePoint] = []
    deadline = None if budget_s is None else time.perf_counter() + budget_s
    total = len(ks) * (2 * len(SELECTIVITIES) - 1)
    done = 0
    for case in _cases(vectors, metric, findable, seed):
        inside = bench.inside(case, findable)
        for k in ks:
            late = deadline is not None and time.perf_counter() > deadline
            if not late and case.count >= 2 * k and len(bench.asked):
                points += bench.cell(case, k, inside, deadline)
            done += 1
            if progress is not None:
                progress(done / total)
    return RecallCurve(
        source="held-out rows" if queries is None else "given queries", points=tuple(points)
    )


class _Bench:
    """An index and the exact scan, measured on the same queries."""

    def __init__(
        self,
        *,
        index: ApproximateIndex,
        exact: VectorIndex,
        asked: Array,
        threads: int,
        memory_limit: int | None,
    ) -> None:
        self.asked = asked
        self._index = index
        self._exact = exact
        self._options: dict[str, Any] = {"threads": threads, "memory_limit": memory_limit}
        self._nearest: Neighbors | None = None

    def inside(self, case: _Case, findable: RowMask | None) -> NDArray[np.bool_] | None:
        """Return whether the nearest row of each query passes; None where all rows do."""
        if case.keep is None or case.name == "all":
            return None
        if self._nearest is None:
            self._nearest = self._exact.search(self.asked, 1, keep=findable, **self._options)
        nearest = self._nearest.rows[:, 0]
        passes: NDArray[np.bool_] = case.keep[np.maximum(nearest, 0)] & (nearest >= 0)
        return passes

    def cell(
        self, case: _Case, k: int, inside: NDArray[np.bool_] | None, deadline: float | None
    ) -> Iterator[CurvePoint]:
        """Yield the exact scan's point, then those of the settings, cheapest first."""
        truth = self._truth(case, k, inside)
        yield truth.point
        for params in self._index.settings(k):
            if deadline is not None and time.perf_counter() > deadline:
                return
            point = self._setting(case, k, truth, params)
            yield point
            slower = point.batch_s >= truth.point.batch_s
            if slower and point.single_s >= truth.point.single_s:
                return
            if point.recall >= _COMPLETE and point.queries == len(self.asked):
                return

    def _truth(self, case: _Case, k: int, inside: NDArray[np.bool_] | None) -> _Truth:
        def search(queries: Array) -> Neighbors:
            return self._exact.search(queries, k, keep=case.keep, **self._options)

        search(self.asked[: len(self.asked) // 2 + 1])  # derives what batches need, wakes memory
        found, batch_s = _timed(search, self.asked)
        neighbors = found.to_host()
        point = CurvePoint(
            params=None,
            k=k,
            selectivity=case.selectivity,
            case=case.name,
            recall=1.0,
            low=1.0,
            high=1.0,
            queries=len(self.asked),
            batch_s=batch_s / len(self.asked),
            single_s=_single(search, self.asked),
        )
        return _Truth(neighbors=neighbors, point=point, inside=inside)

    def _setting(self, case: _Case, k: int, truth: _Truth, params: Params) -> CurvePoint:
        """Measure one setting on a few queries, and on all if it may be of use."""

        def search(queries: Array) -> Neighbors:
            return self._index.search(queries, k, params=params, keep=case.keep, **self._options)

        few = self.asked[:_PILOT]
        found, seconds = _timed(search, few)
        values = recalls(found.to_host(), _first(truth.neighbors, len(few)))
        if len(few) < len(self.asked) and values.mean() >= _HOPELESS:
            found, seconds = _timed(search, self.asked)
            values = recalls(found.to_host(), truth.neighbors)
        recall, low, high = _worse_side(values, truth.inside)
        return CurvePoint(
            params=dict(params),
            k=k,
            selectivity=case.selectivity,
            case=case.name,
            recall=recall,
            low=low,
            high=high,
            queries=len(values),
            batch_s=seconds / len(values),
            single_s=_single(search, self.asked),
        )


def _asked(
    vectors: DenseVectors,
    metric: Metric,
    held_out: NDArray[np.int64] | None,
    queries: Array | None,
    seed: int,
) -> Array:
    """Return the queries to ask, in random order, so that the first ones stand for all."""
    rng = np.random.default_rng(seed)
    if queries is None:
        rows = np.empty(0, np.int64) if held_out is None else held_out
        chosen = vectors.values[rng.permutation(rows)[:QUERIES]]
        dtype = chosen.dtype if is_binary(metric) else np.float32
        return np.ascontiguousarray(chosen, dtype)
    return np.ascontiguousarray(queries[rng.permutation(len(queries))[:QUERIES]])


def _findable(vectors: DenseVectors, held_out: NDArray[np.int64] | None) -> RowMask | None:
    if held_out is None or not len(held_out):
        return vectors.valid
    keep = np.ones(len(vectors), bool) if vectors.valid is None else vectors.valid.copy()
    keep[held_out] = False
    return keep


def _cases(
    vectors: DenseVectors, metric: Metric, findable: RowMask | None, seed: int
) -> Iterator[_Case]:
    """Yield all rows first, then filters that ignore and filters that follow the queries."""
    rows = np.arange(len(vectors)) if findable is None else np.flatnonzero(findable)
    rng = np.random.default_rng(seed)
    blind = rng.permutation(len(rows))
    near: NDArray[np.int64] | None = None
    for share in SELECTIVITIES:
        if share == 1.0:
            yield _Case(name="all", selectivity=1.0, keep=findable, count=len(rows))
            continue
        if near is None:
            near = _around_pivots(vectors, metric, rows, rng)
        count = round(share * len(rows))
        for name, order in (("random", blind), ("clustered", near)):
            keep = np.zeros(len(vectors), bool)
            keep[rows[order[:count]]] = True
            yield _Case(name=name, selectivity=share, keep=keep, count=count)


def _around_pivots(
    vectors: DenseVectors, metric: Metric, rows: NDArray[np.int64], rng: np.random.Generator
) -> NDArray[np.int64]:
    """Return places in `rows`, those nearest to any of some random rows first."""
    if not len(rows):
        return np.empty(0, np.int64)
    pivots = vectors.values[rng.choice(rows, min(_PIVOTS, len(rows)), replace=False)]
    pivots = np.ascontiguousarray(pivots, pivots.dtype if is_binary(metric) else np.float32)
    place = np.full(len(rows), len(rows), np.int64)
    for distances in pairwise_distances(pivots, vectors.values, metric, threads=0):
        order = np.argsort(distances[rows], kind="stable")
        np.minimum.at(place, order, np.arange(len(rows)))
    return np.argsort(place, kind="stable")


def _worse_side(
    values: NDArray[np.float64], inside: NDArray[np.bool_] | None
) -> tuple[float, float, float]:
    """Return mean and interval: of queries whose nearest row passes or of others, the lower."""
    sides = [values]
    if inside is not None:
        here = inside[: len(values)]
        sides += [side for side in (values[here], values[~here]) if len(side) >= _LEAST_SIDE]
    return min(
        ((float(side.mean()), *interval(side)) for side in sides), key=lambda found: found[1]
    )


def _first(neighbors: Neighbors, count: int) -> Neighbors:
    return Neighbors(neighbors.rows[:count], neighbors.distances[:count])


def _timed(search: Callable[[Array], Neighbors], queries: Array) -> tuple[Neighbors, float]:
    """Return an answer and its seconds; what takes only a moment is timed twice."""
    start = time.perf_counter()
    found = search(queries)
    seconds = time.perf_counter() - start
    if seconds < _QUICK_S:
        start = time.perf_counter()
        search(queries)
        seconds = min(seconds, time.perf_counter() - start)
    return found, seconds


def _single(search: Callable[[Array], Neighbors], queries: Array) -> float:
    """Return the median time of queries asked one by one."""
    taken: list[float] = []
    search(queries[:1])
    for at in range(min(_SINGLES, len(queries))):
        start = time.perf_counter()
        search(queries[at : at + 1])
        taken.append(time.perf_counter() - start)
        if sum(taken) > _SINGLES_S and len(taken) >= 3:
            break
    return float(np.median(taken))
