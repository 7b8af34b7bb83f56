"""Measures an index: recall and time of its settings, filtered and not, beside the exact scan.

A filter can be blind to what is asked, or follow it: rows near one another pass, so that the
neighbours of most queries do not. Both are measured at each selectivity. All settings get a few
queries, from the cheapest on, until one finds everything; with a filter also until two in a row are
slower than the exact scan, or time is up. Then those that seem to reach a target get all of them,
and at last, if there is time, all others. Time does not keep settings without a filter from being
tried, nor from all queries those that may reach a target, and a case whose exact answers are known
gets as much time as these took.

Times are the least of several, as other work on the machine only ever adds to them.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import ApproximateIndex, Neighbors, Params, VectorIndex
from gpuvec.index.curve import CurvePoint, RecallCurve, interval, recalls
from gpuvec.index.device_index import DeviceIndex
from gpuvec.index.from_host import FromHost
from gpuvec.index.trial_filters import Case, trial_filters
from gpuvec.kernels.pairwise import is_binary
from gpuvec.once import cached_property
from gpuvec.rows import DenseVectors
from gpuvec.types import Array, Metric, RowMask

TARGETS = (0.9, 0.95, 0.99)
QUERIES = 1000  # at most
_FILTERED_QUERIES = 500  # at most
_PILOT = 96  # queries that show whether a setting may reach a target
_DOUBT = 0.02  # by which their mean may be too low
_COMPLETE = 0.9995
_SLOWER = 1.25  # times the exact scan's time, of batches and of single queries
_UNFILTERED_WEIGHT = 4  # of the time, beside 1 for each filtered case
_FIRST_WEIGHT = 3  # of the most important k, beside 1 for each other
_SINGLES = 12
_RUNS = 4
_RUNS_S = 0.06  # for timing one setting again
_LEAST_SIDE = 50  # queries whose mean counts for itself
_NEIGHBORS = 1 << 20  # of all queries of a cell, which are fewer where k is large

Progress = Callable[[float], None]  # told the share that is done; what it raises ends the work


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Cell:
    """One case and `k`, and the exact answer.

    Attributes:
        case: rows that may be found.
        keep: these as a mask.
        k: neighbours.
        asked: queries.
        truth: their exact answer.
        exact: point of the exact scan.
        few_s: seconds per query that it takes for `_PILOT` of them.
        inside: (queries,) whether the nearest row of all passes; None unless rows are clustered.
    """

    case: Case
    keep: RowMask | None
    k: int
    asked: Array
    truth: Neighbors
    exact: CurvePoint
    few_s: float
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
    targets: tuple[float, ...] = TARGETS,
    threads: int = 0,
    memory_limit: int | None = None,
    budget_s: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> RecallCurve:
    """Measure settings of an index on queries that its build never saw.

    Args:
        index: over `vectors`, without the rows held out.
        exact: the exact scan of the same vectors, on the same device.
        vectors: of the segment, in host memory.
        metric: of both.
        held_out: rows that the index has not been given, or that are hidden from it; they are
            hidden from the exact scan too, and asked for where there are no `queries`. None: none.
        queries: real ones, as the exact scan takes them; of more than `QUERIES` a sample is asked.
        ks: neighbours asked for, the most important first.
        targets: recalls that searches will ask for, the most important first.
        threads: see `VectorIndex.search`.
        memory_limit: see `VectorIndex.search`.
        budget_s: seconds, shared among the cells, after which only a few queries are asked and no
            further cell is begun. Those that were not reached are missing from the curve, and
            searches there are exact. None: no end.
        seed: of the filters.
        progress: told how far the work is.

    Returns:
        Points of the exact scan (`params` None) and of the index's settings.
    """
    engine = ""
    if isinstance(index, DeviceIndex):
        engine, index, exact = index.engine.name, FromHost(index), FromHost(exact)
    bench = _Bench(
        index=index,
        exact=exact,
        asked=_asked(vectors, metric, held_out, queries, seed),
        findable=_findable(vectors, held_out),
        targets=targets,
        options={"threads": threads, "memory_limit": memory_limit},
    )
    cases = list(trial_filters(vectors, metric, bench.findable, seed))
    cells = [(case, k) for k in ks for case in cases if case.count >= 2 * k and len(bench.asked)]
    cells.sort(key=lambda cell: cell[0].name != "all")  # what is asked most comes first
    if cells:
        bench.warm_up(cases, max(k for _, k in cells))
    return RecallCurve(
        source="held-out rows" if queries is None else "given queries",
        points=tuple(_measured(bench, cells, budget_s, progress)),
        device="gpu" if engine else "cpu",
        engine=engine,
    )


def _measured(
    bench: "_Bench",
    cells: Sequence[tuple[Case, int]],
    budget_s: float | None,
    progress: Progress | None,
) -> Iterator[CurvePoint]:
    weights = [
        (_UNFILTERED_WEIGHT if case.name == "all" else 1)
        * (_FIRST_WEIGHT if k == cells[0][1] else 1)
        for case, k in cells
    ]
    end = None if budget_s is None else time.perf_counter() + budget_s
    for number, (case, k) in enumerate(cells):
        if end is None or time.perf_counter() < end:
            yield from bench.measure(case, k, _share(end, weights[number:]))
        if progress is not None:
            progress((number + 1) / len(cells))


def _share(end: float | None, weights: Sequence[int]) -> float:
    """Return when the first of some cells should end: some take less than their share."""
    if end is None:
        return float("inf")
    now = time.perf_counter()
    return now + (end - now) * min(1.0, 2 * weights[0] / sum(weights))


class _Bench:
    """An index and the exact scan, measured on the same queries."""

    def __init__(
        self,
        *,
        index: ApproximateIndex,
        exact: VectorIndex,
        asked: Array,
        findable: RowMask | None,
        targets: tuple[float, ...],
        options: dict[str, Any],
    ) -> None:
        self.asked = asked
        self.findable = findable
        self._index = index
        self._exact = exact
        self._targets = targets
        self._options = options

    @cached_property
    def _knows_hidden(self) -> bool:
        """Whether the index finds rows that it should not: such as were given to it since."""
        if self.findable is None:
            return False
        found = self._index.search(self.asked[:_PILOT], 1, **self._options).to_host().rows
        return not bool(self.findable[found[found >= 0]].all())

    @cached_property
    def _nearest(self) -> NDArray[np.int64]:
        """(queries,) the nearest row of all."""
        found = self._exact.search(self.asked, 1, keep=self.findable, **self._options).to_host()
        nearest: NDArray[np.int64] = found.rows[:, 0]
        return nearest

    def warm_up(self, cases: Sequence[Case], k: int) -> None:
        """Let both derive, compile and read what their first searches of each kind need."""
        for case in cases[:2]:
            keep = case.keep()
            for count in (1, _PILOT, _queries_for(k)):
                few = self.asked[:count]
                self._exact.search(few, k, keep=keep, **self._options)
                self._index.search(few, k, keep=keep, **self._options)

    def measure(self, case: Case, k: int, end: float) -> list[CurvePoint]:
        """Return the points of one cell, the exact scan's first."""
        begin = time.perf_counter()
        cell = self._cell(case, k)
        now = time.perf_counter()
        end = max(end, 2 * now - begin)  # what the exact answers took is not thrown away
        points = self._tried(cell, end)
        pilots = dict(points)
        is_whole = case.place is None
        for target in (*self._targets, None):
            for number, pilot in pilots.items():
                if pilot.recall < (min(self._targets) if target is None else target) - _DOUBT:
                    continue
                is_due = is_whole and target is not None
                known = points[number].queries == len(cell.asked)
                if not known and (is_due or time.perf_counter() < end):
                    points[number] = self._point(cell, pilot.params or {}, len(cell.asked))
                if target is not None and points[number].low >= target:
                    break
        return [cell.exact, *points.values()]

    def _tried(self, cell: _Cell, end: float) -> dict[int, CurvePoint]:
        """Return settings by number, from the cheapest on, each measured on a few queries.

        One that finds everything is measured on all of them where there is no filter: more may
        still be needed, and real queries may need more than these.
        """
        points: dict[int, CurvePoint] = {}
        slow_ones, is_whole = 0, cell.case.place is None
        for number, params in enumerate(self._index.settings(cell.k)):
            point = points[number] = self._point(cell, params, _PILOT)
            if point.recall >= _COMPLETE:
                if is_whole:
                    point = points[number] = self._point(cell, params, len(cell.asked))
                if point.recall >= _COMPLETE:
                    break
            slower = min(point.batch_s / cell.few_s, point.single_s / cell.exact.single_s)
            slow_ones = slow_ones + 1 if slower > _SLOWER else 0
            if not is_whole and (slow_ones >= 2 or time.perf_counter() > end):
                break
        return points

    def _cell(self, case: Case, k: int) -> _Cell:
        """Answer a case's queries exactly."""
        keep = case.keep()

        def search(queries: Array) -> Neighbors:
            return self._exact.search(queries, k, keep=keep, **self._options)

        most = QUERIES if case.name == "all" else _FILTERED_QUERIES
        asked = self.asked[: min(most, _queries_for(k))]
        found, batch_s = _timed(search, asked)
        few = asked[:_PILOT]
        few_s = _timed(search, few)[1] / len(few)
        exact = CurvePoint(
            params=None,
            k=k,
            selectivity=case.selectivity,
            case=case.name,
            recall=1.0,
            low=1.0,
            high=1.0,
            queries=len(asked),
            batch_s=batch_s / len(asked),
            single_s=_single(search, asked),
        )
        inside = None
        if case.name == "clustered" and keep is not None:
            nearest = self._nearest[: len(asked)]
            inside = keep[np.maximum(nearest, 0)] & (nearest >= 0)
        return _Cell(
            case=case,
            keep=keep,
            k=k,
            asked=asked,
            truth=found.to_host(),
            exact=exact,
            few_s=few_s,
            inside=inside,
        )

    def _point(self, cell: _Cell, params: Params, count: int) -> CurvePoint:
        """Measure one setting on some of the cell's queries."""
        keep = None if cell.case.name == "all" and not self._knows_hidden else cell.keep

        def search(queries: Array) -> Neighbors:
            return self._index.search(queries, cell.k, params=params, keep=keep, **self._options)

        few = cell.asked[:count]
        found, seconds = _timed(search, few)
        truth = Neighbors(cell.truth.rows[: len(few)], cell.truth.distances[: len(few)])
        values = recalls(found.to_host(), truth)
        recall, low, high = _worse_side(values, cell.inside)
        return CurvePoint(
            params=dict(params),
            k=cell.k,
            selectivity=cell.case.selectivity,
            case=cell.case.name,
            recall=recall,
            low=low,
            high=high,
            queries=len(values),
            batch_s=seconds / len(values),
            single_s=_single(search, cell.asked),
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


def _queries_for(k: int) -> int:
    return max(_PILOT, _NEIGHBORS // k)


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


def _timed(search: Callable[[Array], Neighbors], queries: Array) -> tuple[Neighbors, float]:
    """Return an answer and its seconds: the least of as many runs as take only a moment."""
    taken: list[float] = []
    while len(taken) < _RUNS and sum(taken) + min(taken, default=0.0) < _RUNS_S:
        start = time.perf_counter()
        found = search(queries)
        taken.append(time.perf_counter() - start)
    return found, min(taken)


def _single(search: Callable[[Array], Neighbors], queries: Array) -> float:
    """Return the seconds of a query asked alone: a fourth of some took less."""
    taken: list[float] = []
    search(queries[:1])
    for at in range(min(_SINGLES, len(queries))):
        start = time.perf_counter()
        search(queries[at : at + 1])
        taken.append(time.perf_counter() - start)
        if sum(taken) > _RUNS_S and len(taken) >= 3:
            break
    return float(np.quantile(taken, 0.25))
