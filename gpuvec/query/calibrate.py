"""Recall on real queries: an index is checked while it serves, and its settings follow.

Held-out rows can be easier than the queries that people ask. So some queries are answered exactly
too, and a setting whose recall on these falls short of a target does not serve that target. Which
setting serves thus depends on what was asked before; never is one taken that the measured curve
does not allow.

A check answers its queries with the measured settings on both sides of the one that serves, and
what lies between is judged by a line between their recalls. All checked queries of a kind count,
so the more were checked, the nearer to the target the setting comes, from either side.

When queries are checked (all of it counted in seconds that the curve expects, so that the same
calls in the same order always do the same):

* a batch of `BATCH` queries or more is checked before it is answered, the first time that a setting
  serves a region of k and selectivity: `STEP` of its queries, or if that is more a quarter of the
  batch up to `MOST`. If the setting fails, the next one is checked on the same queries.
* afterwards, and for fewer queries, checks of up to `STEP` queries may take `SHARE` of the time
  that searches take, and ever less once `ENOUGH` were checked; `EARLY_SHARE` until `STEP` queries
  have been checked, and `FIRST_SHARE` until `LEAST` have. As these are slow to come, a setting that
  has not been checked itself is judged by those beside it: if real queries miss twice as many rows
  there as by the curve, they are taken to miss twice as many here.
* when an answer shows queries of a new kind, see `kinds`, a batch is checked like the first one
  before its answer is given; for fewer queries checks begin anew. A setting has to do for all kinds
  that were seen.
* where a scan answers since no setting holds, the most thorough one is held against its answers.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import Neighbors, Params, Queries
from gpuvec.index.curve import Cell, CurvePoint, ParamsKey, Setting, params_key, recalls
from gpuvec.query.batch import take_queries
from gpuvec.query.kinds import LEAST, MOST, STEP, Checks, Kind, Kinds, Live
from gpuvec.query.strategy import Ask, IndexInfo, Way, choose_way

BATCH = 32
LATER = 16
SHARE = 0.05
EARLY_SHARE = 0.25
FIRST_SHARE = 1.0
ENOUGH = 512  # queries checked, beyond which checks become rare
_SMALL_BATCH = 2.0  # times what a curve says of it, a check of some queries takes
_RARE = 0.001  # share of misses below which ratios of misses say nothing
_REMEMBERED = 256  # choices

Approximate = Callable[[Queries, int, Params], Neighbors]
Exact = Callable[[Queries, int], Neighbors]


@dataclass(slots=True)
class _Sample:
    """Queries of one batch that are answered exactly too."""

    queries: Queries
    order: NDArray[np.int64]
    exact: Exact
    k: int
    taken: int = 0
    _truth: list[Neighbors] = field(default_factory=list)
    _used: dict[ParamsKey, int] = field(default_factory=dict)  # by setting, queries answered by it

    def grow(self, count: int) -> None:
        """Take so many queries in all."""
        if count > self.taken:
            self._truth.append(self.exact(self._some(self.taken, count), self.k))
            self.taken += len(self._truth[-1].rows)

    def recalls(self, params: Params, approximate: Approximate) -> NDArray[np.float64]:
        """Return the recalls of a setting on those queries that it has not answered yet."""
        start = self._used.get(params_key(params), 0)
        self._used[params_key(params)] = self.taken
        if start == self.taken:
            return np.empty(0)
        truth = Neighbors.concat(self._truth)
        truth = Neighbors(truth.rows[start:], truth.distances[start:])
        return recalls(approximate(self._some(start, self.taken), self.k, params), truth)

    def _some(self, start: int, stop: int) -> Queries:
        return take_queries(self.queries, self.order[start:stop])


class Calibrator:
    """Chooses ways for one opened index and checks them on real queries. For several threads.

    Args:
        info: of the index.
    """

    def __init__(self, info: IndexInfo) -> None:
        self.info = info
        self._lock = threading.Lock()
        self._kinds: dict[tuple[int, int], Kinds] = {}  # by `Cell.region`
        self._chosen: dict[tuple[Any, ...], Way] = {}
        self._credit_s = 0.0
        self._checks = 0

    def choose(self, ask: Ask) -> Way:
        """Return the cheapest way by curve and live checks; nothing is searched."""
        told = None if ask.params is None else params_key(ask.params)
        key = (ask.rows, ask.passing, ask.queries, ask.k, ask.target, ask.exact, told)
        way = self._chosen.get(key)
        if way is None:
            target = self._target(ask)
            few = ask.queries < BATCH
            with self._lock:
                way = choose_way(
                    ask, self.info, lambda *at: self._failed(*at, target=target, few=few)
                )
                if len(self._chosen) >= _REMEMBERED:
                    self._chosen.clear()
                self._chosen[key] = way
        return way

    def settle(self, ask: Ask, queries: Queries, approximate: Approximate, exact: Exact) -> Way:
        """Return the way to search a batch, checked on some of its queries where that is due.

        Args:
            ask: what is wanted.
            queries: the whole batch, as `ask.queries` says.
            approximate: searches the index for some queries, with a `k` and knobs.
            exact: answers some queries exactly, among the same rows.
        """
        way = self.choose(ask)
        if way.cell is None or way.setting is None:
            return way
        with self._lock:
            count = self._due(way, ask.queries)
            self._checks += count > 0
            seed = self._checks
        if not count:
            return way
        order = np.random.default_rng(seed).permutation(ask.queries)
        return self._check(ask, way, count, approximate, _Sample(queries, order, exact, way.k))

    def review(
        self,
        ask: Ask,
        way: Way,
        queries: Queries,
        found: Neighbors,
        approximate: Approximate,
        exact: Exact,
    ) -> Way:
        """Return the way that should have been taken: another one if these queries are a new kind.

        Args:
            ask: as `settle` had it.
            way: that `settle` returned.
            queries: the whole batch.
            found: what the index answered, as wide as `way.k`.
            approximate: see `settle`.
            exact: see `settle`.
        """
        if way.cell is None or way.setting is None or not found.k or not len(queries):
            return way
        with self._lock:
            if not self._kinds_at(way.cell).see(found, way.cell.k):
                return way
            self._credit_s = max(self._credit_s, 0.0)
            if ask.queries < BATCH:
                return way
            self._checks += 1
            seed = self._checks
        order = np.random.default_rng(seed).permutation(ask.queries)
        sample = _Sample(queries, order, exact, way.k)
        return self._check(ask, way, _first_count(ask.queries), approximate, sample)

    def learn(
        self, ask: Ask, way: Way, queries: Queries, truth: Neighbors, approximate: Approximate
    ) -> None:
        """Look, after a scan, whether the index would have done, so that it may serve again.

        Args:
            ask: what was wanted.
            way: the scan.
            queries: the whole batch.
            truth: its exact answer, on the host.
            approximate: see `settle`.
        """
        cell, target = way.cell, self._target(ask)
        setting = None if cell is None or cell.k != ask.k else cell.choices[-1:]
        if not setting or cell is None or setting[0].point.low < target:
            return
        point = setting[0].point
        with self._lock:
            if self._failed(setting[0], cell, target=target, few=ask.queries < BATCH) is None:
                return  # the scan is faster
            self._credit_s += SHARE * (way.seconds or 0.0)
            count = min(ask.queries, STEP)
            if self._credit_s < point.seconds(count):
                return
            self._credit_s -= point.seconds(count)
            self._checks += 1
            rows = np.random.default_rng(self._checks).permutation(ask.queries)[:count]
        found = approximate(take_queries(queries, rows), ask.k, point.params or {})
        values = recalls(found, Neighbors(truth.rows[rows], truth.distances[rows]))
        with self._lock:
            self._checks_of(point, cell).add(values)
            self._chosen.clear()

    def live(self, way: Way) -> Live | None:
        """Return what real queries of the latest kind showed of a way; None: nothing yet."""
        if way.cell is None or way.setting is None or way.cell.region not in self._kinds:
            return None
        return self._kinds[way.cell.region].current.live(way.setting)

    def _check(
        self, ask: Ask, way: Way, count: int, approximate: Approximate, sample: _Sample
    ) -> Way:
        """Check ways on a sample until one holds; the exact scan always does."""
        sample.grow(count)
        while way.cell is not None and way.setting is not None:
            news = False
            for point in way.setting.ends:
                values = sample.recalls(point.params or {}, approximate)
                news = news or len(values) > 0
                with self._lock:
                    self._checks_of(point, way.cell).add(values)
            if not news:
                break
            with self._lock:
                self._chosen.clear()
            way = self.choose(ask)
            if ask.queries >= BATCH and self._count(way) < STEP:
                sample.grow(_first_count(ask.queries))
        return way

    def _target(self, ask: Ask) -> float:
        return (self.info.target if ask.target is None else ask.target) or 1.0

    def _due(self, way: Way, queries: int) -> int:
        """Return how many of a batch's queries shall be checked, and pay for it."""
        known = self._count(way)
        share = SHARE * min(1.0, ENOUGH / max(known, 1.0))
        if known < STEP:
            share = FIRST_SHARE if known < LEAST else EARLY_SHARE
        self._credit_s += share * (way.seconds or 0.0)
        if known < STEP and queries >= BATCH:
            return _first_count(queries)
        for count in (min(queries, STEP), min(queries, LATER)):
            if self._credit_s >= self._price(way, count):
                self._credit_s -= self._price(way, count)
                return count
        return 0

    def _price(self, way: Way, queries: int) -> float:
        scan = None if way.cell is None else way.cell.exact
        if scan is None:
            return math.inf
        return scan.seconds(queries) * (_SMALL_BATCH if queries > 1 else 1.0)

    def _kinds_at(self, cell: Cell) -> Kinds:
        found = self._kinds.get(cell.region)
        if found is None:
            found = self._kinds[cell.region] = Kinds()
        return found

    def _count(self, way: Way) -> float:
        """Return how many queries of the latest kind were checked for a way."""
        live = self.live(way)
        return 0.0 if live is None else live.count

    def _checks_of(self, point: CurvePoint, cell: Cell) -> Checks:
        checks, key = self._kinds_at(cell).current.checks, params_key(point.params or {})
        found = checks.get(key)
        if found is None:
            found = checks[key] = Checks(expected=point.recall)
        return found

    def _failed(self, setting: Setting, cell: Cell, *, target: float, few: bool) -> str | None:
        """Say why a setting is out by checks of any kind of queries; None: it is not.

        Args:
            setting: of the cell.
            cell: see `_kinds_at`.
            target: recall to reach.
            few: whether it will not be checked before it answers, so that before its own checks
                those beside it count.
        """
        short = Live.seems_short if few else Live.falls_short
        for kind in self._kinds_at(cell).known:
            live = kind.failed(setting, target, short)
            if live is not None:
                return (
                    f"recall {live.mean:.3f} ± {live.error:.3f} on {live.count:,.0f} real queries"
                )
            why = _like_those_beside(kind, setting, target) if few else None
            if why is not None:
                return why
        return None


def _first_count(queries: int) -> int:
    """Return how many queries of a batch tell whether a setting holds."""
    return min(queries, max(STEP, min(MOST, queries // 4)))


def _like_those_beside(kind: Kind, setting: Setting, target: float) -> str | None:
    own = kind.live(setting)
    if own is not None and own.count >= LEAST:
        return None
    known = [(checks.live, checks.expected) for checks in kind.checks.values()]
    known = [(live, expected) for live, expected in known if live.count >= LEAST]
    missed = sum(live.count * (1 - live.mean) for live, _ in known)
    expected = sum(live.count * max(1 - expected, _RARE) for live, expected in known)
    harder = missed / expected if known else 1.0
    if harder > 1.0 and 1 - harder * (1 - setting.point.recall) < target:
        return f"real queries miss {harder:.1f} times as often"
    return None
