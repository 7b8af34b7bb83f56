"""The nearest rows within one segment: by its index or by the exact scan, whichever was chosen."""

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from gpuvec.index.base import Neighbors, Params, Queries
from gpuvec.index.keep import Keep
from gpuvec.index.spec import IndexSpec
from gpuvec.query.batch import take_queries
from gpuvec.query.indexed import has_knobs
from gpuvec.query.measurements import Measurements
from gpuvec.query.plan import Search
from gpuvec.query.session import Session
from gpuvec.query.strategy import Ask, Way, choose_way
from gpuvec.query.target import Target
from gpuvec.types import Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Question:
    """What is asked of one target.

    Attributes:
        queries: as `VectorIndex.search` takes them.
        k: at least 1, at most `passing`.
        keep: the rows that may be found, as the target's indexes take them; None: all.
        passing: how many they are, null vectors too.
        bound: (queries,) distance of the k-th row found elsewhere, +inf where there are fewer.
            Farther rows are not wanted. None: all are.
        high: rows farther than this are not wanted either; None: no limit.
    """

    queries: Queries
    k: int
    keep: Keep | None
    passing: int
    bound: Array | None
    high: float | None = None

    @property
    def limits(self) -> Array | None:
        """Return (queries,) both limits together; None: neither is set."""
        return both_limits(self.bound, self.high, len(self.queries))


def both_limits(bound: Array | None, high: float | None, queries: int) -> Array | None:
    """Return (queries,) float32, the lesser of a limit for each and one for all; None: neither."""
    if high is None:
        return bound
    far = np.full(queries, high, np.float32)
    return far if bound is None else np.minimum(bound, far)


class Ways:
    """Answers questions to the targets of one search."""

    def __init__(self, node: Search, session: Session, metrics: Measurements) -> None:
        self._node = node
        self._threads = session.threads
        self._scratch_bytes = session.memory_limit // 2
        self._metrics = metrics

    def plan(self, target: Target, passing: int, queries: int, k: int) -> Way:
        """Return how a question would be answered, as far as is known before it is asked."""
        ask = self._ask(target, passing, queries, k)
        if target.indexed is None or not self._fits(target):
            way = choose_way(ask, None)
            return replace(way, reason=f"{target.unused}: exact scan") if target.unused else way
        return target.calibrator.choose(ask)

    def search(self, target: Target, question: Question) -> Neighbors:
        """Return the nearest rows of a target, on the host; short only if there are no more.

        Rows beyond the limits may be missing.
        """
        if target.indexed is None or not self._fits(target):
            return self._scan(target, question)
        ask = self._ask(target, question.passing, len(question.queries), question.k)

        def approximate(queries: Queries, k: int, params: Params) -> Neighbors:
            return self._probe(target, question, queries, k, params)

        def exact(queries: Queries, k: int) -> Neighbors:
            self._metrics.checked += len(queries)
            return self._scan_some(target, question, queries, k)

        queries, judge = question.queries, target.calibrator
        way = judge.settle(ask, queries, approximate, exact)
        if way.params is not None:
            found = approximate(queries, way.k, way.params)
            stats = target.approximate.last_stats
            first, way = way, judge.review(ask, way, queries, found, approximate, exact)
            if way.params is not None and way.params != first.params:
                found = approximate(queries, way.k, way.params)
                stats = target.approximate.last_stats
        self._metrics.note_way(way, judge.live(way))
        if way.params is None:
            found = self._scan(target, question)
            if question.limits is None:
                judge.learn(ask, way, queries, found, approximate)
            return found
        name = way_name(target.indexed.spec, way.params)
        self._metrics.note_scan(stats, name)
        return self._complete(target, question, _cut(found, question.k))

    def _fits(self, target: Target) -> bool:
        """Return whether the target's index knows the knobs that were given."""
        params = self._node.params
        assert target.indexed is not None
        return params is None or has_knobs(target.indexed.spec, params)

    def _ask(self, target: Target, passing: int, queries: int, k: int) -> Ask:
        node = self._node
        return Ask(
            rows=target.base.num_rows, passing=passing, queries=queries, k=k,
            target=node.recall, params=node.params,
        )  # fmt: skip

    def _probe(
        self, target: Target, question: Question, queries: Queries, k: int, params: Params
    ) -> Neighbors:
        """Search the index as its curve was measured: without a bound."""
        return target.approximate.search(
            queries,
            k,
            params=params,
            keep=question.keep,
            tie_rank=target.ties,
            threads=self._threads,
            memory_limit=self._scratch_bytes,
        ).to_host()

    def _scan(self, target: Target, question: Question) -> Neighbors:
        found = self._scan_some(target, question, question.queries, question.k, question.limits)
        self._metrics.note_scan(target.exact.last_stats)
        return found

    def _scan_some(
        self,
        target: Target,
        question: Question,
        queries: Queries,
        k: int,
        bound: Array | None = None,
    ) -> Neighbors:
        return target.exact.search(
            queries,
            k,
            keep=question.keep,
            tie_rank=target.ties,
            bound=bound,
            threads=self._threads,
            memory_limit=self._scratch_bytes,
        ).to_host()

    def _complete(self, target: Target, question: Question, found: Neighbors) -> Neighbors:
        """Answer those queries exactly for which the index found too few rows."""
        short = found.rows[:, -1] < 0
        if not short.any():
            return found
        wanted = min(question.k, target.searchable(question.keep, question.passing))
        short &= np.count_nonzero(found.rows >= 0, axis=1) < wanted
        again = np.flatnonzero(short)
        if not len(again):
            return found
        self._metrics.completed += len(again)
        limits = question.limits
        few = take_queries(question.queries, again)
        whole = self._scan_some(
            target, question, few, question.k, None if limits is None else limits[again]
        )
        rows, distances = found.rows.copy(), found.distances.copy()
        rows[again], distances[again] = whole.rows, whole.distances
        return Neighbors(rows, distances)


def _cut(found: Neighbors, k: int) -> Neighbors:
    """Return the first k neighbours of each query."""
    if found.k <= k:
        return found
    return Neighbors(found.rows[:, :k], found.distances[:, :k])


def way_name(spec: IndexSpec, params: Params) -> str:
    """Return an index and its knobs as `explain` and `metrics` name them: `HNSW ef_search=64`."""
    return _name(type(spec).__name__, tuple(params.items()))


@lru_cache(maxsize=1024)
def _name(kind: str, knobs: tuple[tuple[str, float], ...]) -> str:
    return " ".join([kind, *(f"{name}={value:g}" for name, value in knobs)])
