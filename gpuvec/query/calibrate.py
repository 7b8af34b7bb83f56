"""Recall on real queries: an index is checked while it serves, and its settings are raised by it.

Held-out rows can be easier than the queries that people ask. So some queries are answered exactly
too, and a setting whose recall on these falls short of a target does not serve that target. Which
setting serves thus depends on what was asked before, in one direction only: never is a setting
taken that the measured curve does not allow.

When queries are checked (all of it counted in seconds that the curve expects, so that the same
calls in the same order always do the same):

* a batch of `BATCH` queries or more is checked before it is answered, the first time that a setting
  serves a region of k and selectivity. `STEP` of its queries tell; while they leave it open whether
  the target is reached, as many more do, up to a quarter of the batch or `MOST`. If the setting
  fails, the next one is checked on the same queries.
* afterwards, and for fewer queries, checks of up to `LATER` queries may take `SHARE` of the time
  that searches take; `EARLY_SHARE` until `STEP` queries of a setting have been checked, and
  `FIRST_SHARE` until `LEAST` have. As these are slow to come, a setting that has not been checked
  itself is judged by those beside it: if real queries miss twice as many rows there as by the
  curve, they are taken to miss twice as many here.
* when an answer shows queries of a new kind, see `kinds`, a batch is checked like the first one
  before its answer is given; for fewer queries checks begin anew. A setting has to do for all kinds
  that were seen.
"""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import Neighbors, Params, Queries
from gpuvec.index.curve import Cell, CurvePoint, params_key, recalls
from gpuvec.query.batch import take_queries
from gpuvec.query.kinds import LEAST, MOST, STEP, Kind, Kinds, Live
from gpuvec.query.strategy import Ask, IndexInfo, Way, choose_way

BATCH = 32
LATER = 16
SHARE = 0.05
EARLY_SHARE = 0.25
FIRST_SHARE = 1.0
_RARE = 0.001  # share of misses below which ratios of misses say nothing
_REMEMBERED = 256  # choices

Approximate = Callable[[Queries, int, Params], Neighbors]
Exact = Callable[[Queries, int], Neighbors]


@dataclass(slots=True)
class _Sample:
    """Queries of one batch that were answered exactly too."""

    queries: Any
    order: NDArray[np.int64]
    exact: Exact
    k: int
    taken: int = 0
    truth: list[Neighbors] = field(default_factory=list)

    def grow(self, count: int) -> tuple[Queries, Neighbors]:
        """Answer some more queries exactly; return these and their answers."""
        fresh = take_queries(self.queries, self.order[self.taken : self.taken + count])
        self.taken += len(fresh)
        self.truth.append(self.exact(fresh, self.k))
        return fresh, self.truth[-1]

    def all(self) -> tuple[Queries, Neighbors]:
        """Return all queries answered so far, and their answers."""
        every = take_queries(self.queries, self.order[: self.taken])
        return every, Neighbors.concat(self.truth)


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
        key = (ask.rows, ask.passing, ask.queries, ask.k, ask.target)
        if ask.exact or ask.params is not None:
            return choose_way(ask, self.info)
        way = self._chosen.get(key)
        if way is None:
            target = self._target(ask)
            why_out = self._failed_itself if ask.queries >= BATCH else self._failed_or_like_it
            with self._lock:
                way = choose_way(ask, self.info, lambda *at: why_out(*at, target=target))
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
        if way.kind == "exact" or way.cell is None:
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
        if way.kind == "exact" or way.cell is None or not found.k or not len(queries):
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
        return self._check(ask, way, min(ask.queries, STEP), approximate, sample)

    def live(self, way: Way) -> Live | None:
        """Return what real queries of the latest kind showed of a way; None: nothing yet."""
        if way.cell is None or way.params is None or way.cell.region not in self._kinds:
            return None
        return self._kinds[way.cell.region].current.lives.get(params_key(way.params))

    def _check(
        self, ask: Ask, way: Way, count: int, approximate: Approximate, sample: _Sample
    ) -> Way:
        """Check ways on a growing sample until one holds; the exact scan always does."""
        target = self._target(ask)
        most = min(MOST, ask.queries // 4)
        fresh, truth = sample.grow(count)
        checked = []
        while way.params is not None and way.params not in checked:
            values = recalls(approximate(fresh, way.k, way.params), truth)
            with self._lock:
                live = self._of(way)
                live.add(values)
                self._chosen.clear()
                more = min(STEP, most - sample.taken)
                grows = more > 0 and live.leaves_open(target)
                self._credit_s -= self._price(way, more) if grows else 0.0
            if grows:
                fresh, truth = sample.grow(more)
            else:
                checked.append(way.params)
                way, (fresh, truth) = self.choose(ask), sample.all()
        return way

    def _target(self, ask: Ask) -> float:
        return (self.info.target if ask.target is None else ask.target) or 1.0

    def _due(self, way: Way, queries: int) -> int:
        """Return how many of a batch's queries shall be checked, and pay for it."""
        live = self._of(way)
        early = live.count < STEP
        share = FIRST_SHARE if live.count < LEAST else EARLY_SHARE if early else SHARE
        self._credit_s += share * (way.seconds or 0.0)
        if early and queries >= BATCH:
            count = min(queries, STEP)
        else:
            count = min(queries, LATER)
            if self._credit_s < self._price(way, count):
                return 0
        self._credit_s -= self._price(way, count)
        return count

    def _price(self, way: Way, queries: int) -> float:
        scan = None if way.cell is None else way.cell.exact
        return math.inf if scan is None else scan.seconds(queries)

    def _kinds_at(self, cell: Cell) -> Kinds:
        found = self._kinds.get(cell.region)
        if found is None:
            found = self._kinds[cell.region] = Kinds()
        return found

    def _of(self, way: Way) -> Live:
        assert way.cell is not None
        assert way.params is not None
        lives, key = self._kinds_at(way.cell).current.lives, params_key(way.params)
        live = lives.get(key)
        if live is None:
            live = lives[key] = Live(expected=way.recall or 1.0)
        return live

    def _failed_itself(self, point: CurvePoint, cell: Cell, *, target: float) -> str | None:
        """Say why a setting is out by its own checks, on any kind of queries."""
        found = (_failed(kind, point, target) for kind in self._kinds_at(cell).known)
        return next(filter(None, found), None)

    def _failed_or_like_it(self, point: CurvePoint, cell: Cell, *, target: float) -> str | None:
        """Say why a setting is out by its own checks, or, before any, by those beside it."""
        found = (_failed_or_like_it(kind, point, target) for kind in self._kinds_at(cell).known)
        return next(filter(None, found), None)


def _failed(kind: Kind, point: CurvePoint, target: float) -> str | None:
    own = kind.lives.get(params_key(point.params or {}))
    if own is None or not own.falls_short(target):
        return None
    return f"recall {own.mean:.3f} ± {own.error:.3f} on {own.count:,.0f} real queries"


def _failed_or_like_it(kind: Kind, point: CurvePoint, target: float) -> str | None:
    own = kind.lives.get(params_key(point.params or {}))
    if own is not None and own.count >= LEAST:
        return _failed(kind, point, target)
    checked = [live for live in kind.lives.values() if live.count >= LEAST]
    missed = sum(live.count * (1 - live.mean) for live in checked)
    expected = sum(live.count * max(1 - live.expected, _RARE) for live in checked)
    harder = missed / expected if checked else 1.0
    if harder > 1.0 and 1 - harder * (1 - point.recall) < target:
        return f"real queries miss {harder:.1f} times as often"
    return None
