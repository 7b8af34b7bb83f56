"""Kinds of queries: what checks showed of each, and whether queries are of a kind seen before.

Where a query's nearest and k-th rows lie tells how like the rows it is, and every answer says so.
Queries whose distances are spread otherwise than those checked before are thus another kind, of
which nothing is known yet, however well the index did on the others.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import Neighbors
from gpuvec.index.curve import ParamsKey, Setting, params_key

STEP = 64
MOST = 256
LEAST = 24  # checked queries that can show a setting to fall short
FORGETS = 2048
WINDOW = 32  # queries that show whether they are of a kind
KINDS = 8  # of one region
_SPREAD = 0.03  # of recalls, until more than `STEP` show it to be less
_TAIL = 0.5  # of the spread of queries that find all or nothing: few may be very hard, and unseen
_CHANGED = 2.5  # errors by which the last recalls differ from those before: the queries changed
_Z95 = 1.645  # errors that one sample in twenty lies above the truth
_SIDE = 0.1  # of a kind's queries lie below, and as many above, what is kept of it
_ODD = 0.3  # of some queries beyond one side makes them another kind

Spread = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Live:
    """Recall of a setting in one region, on real queries of one kind.

    Attributes:
        count: queries checked; of more than `FORGETS`, older ones count half.
        mean: of their recalls; 1 before any query was checked.
        error: its standard error; of few queries as if they spread by `_SPREAD` and `_TAIL` at
            least.
    """

    count: float
    mean: float
    error: float

    def falls_short(self, target: float) -> bool:
        """Return whether queries enough speak against a setting, or too few of them for it.

        No more than one sample in twenty shows so much more than the truth.
        """
        return self.count >= LEAST and self.mean - _Z95 * self.error < target

    def seems_short(self, target: float) -> bool:
        """Return whether queries enough speak against a setting that other evidence speaks for.

        While they are few, up to a standard error is granted; from `MOST` on it is `falls_short`.
        """
        if self.count < STEP:
            granted = (STEP - self.count) / (STEP - LEAST)
        else:
            granted = -_Z95 * min(1.0, (self.count - STEP) / (MOST - STEP))
        return self.count >= LEAST and self.mean + granted * self.error < target


Short = Callable[[Live, float], bool]  # whether a setting falls short of a target


@dataclass(slots=True)
class _Sums:
    """Recalls of some queries, by their sums."""

    count: float = 0.0
    total: float = 0.0
    squares: float = 0.0

    def add(self, count: float, total: float, squares: float) -> None:
        self.count += count
        self.total += total
        self.squares += squares

    def live(self) -> Live:
        if not self.count:
            return Live(0.0, 1.0, 1.0)
        mean = self.total / self.count
        few = min(1.0, STEP / self.count)
        tail = _TAIL**2 * mean * (1 - mean) * min(1.0, MOST / self.count)
        spread = max(self.squares / self.count - mean**2, _SPREAD**2 * few, tail)
        return Live(self.count, mean, math.sqrt(spread / self.count))


@dataclass(slots=True)
class Checks:
    """Recalls of one measured setting in one region, on real queries of one kind.

    What is remembered goes when the last queries show another recall: they are what counts.

    Attributes:
        expected: recall by the curve.
    """

    expected: float
    _all: _Sums = field(default_factory=_Sums)
    _last: _Sums = field(default_factory=_Sums)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add the recalls of some queries."""
        if self._last.count >= STEP:
            self._last = _Sums()
        if self._all.count > FORGETS:
            known = self._all
            self._all = _Sums(known.count / 2, known.total / 2, known.squares / 2)
        sums = (float(len(values)), float(values.sum()), float((values**2).sum()))
        self._last.add(*sums)
        self._all.add(*sums)
        last, every = self._last.live(), self._all.live()
        far = _CHANGED * math.hypot(last.error, every.error)
        if last.count >= LEAST and abs(last.mean - every.mean) > far:
            self._all, self._last = self._last, _Sums()

    @property
    def live(self) -> Live:
        """What they showed."""
        return self._all.live()


@dataclass(slots=True, eq=False)
class Kind:
    """Queries that lie alike to the rows.

    Attributes:
        checks: by measured setting.
        low: (2,) distances of nearest and k-th row, below which a tenth of the queries lie; None:
            not known yet.
        high: (2,) those above which a tenth lies.
    """

    checks: dict[ParamsKey, Checks] = field(default_factory=dict)
    low: Spread | None = None
    high: Spread | None = None

    def live(self, setting: Setting) -> Live | None:
        """Return what is known of a setting, from those at its ends; None: nothing.

        Recall between them lies on a line or above it; see `index.curve`.
        """
        found = [self.checks.get(params_key(point.params or {})) for point in setting.ends]
        lives = [checks.live for checks in found if checks is not None]
        if len(lives) < len(found):
            return None
        if len(lives) == 1:
            return lives[0]
        low, high = lives
        return Live(
            count=min(low.count, high.count),
            mean=low.mean + setting.weight * (high.mean - low.mean),
            error=low.error + setting.weight * (high.error - low.error),
        )

    def failed(self, setting: Setting, target: float, short: Short) -> Live | None:
        """Return what speaks against a setting; None: nothing does."""
        known = self.checks.get(params_key(setting.ends[-1].params or {}))
        if known is not None and short(known.live, target):
            return known.live  # it is at least as thorough
        live = self.live(setting)
        return live if live is not None and short(live, target) else None

    def learn(self, ends: Spread) -> None:
        """Take the spread of (n, 2) distances."""
        self.low = np.quantile(ends, _SIDE, axis=0, method="lower")
        self.high = np.quantile(ends, 1 - _SIDE, axis=0, method="higher")

    def holds(self, ends: Spread) -> bool:
        """Return whether (n, 2) distances are spread as this kind's."""
        if self.low is None or self.high is None:
            return False
        beyond = np.maximum((ends < self.low).mean(axis=0), (ends > self.high).mean(axis=0))
        return bool(beyond.max() <= _ODD)


@dataclass(slots=True, eq=False)
class Kinds:
    """The kinds of queries that one region has seen, at most `KINDS`.

    Attributes:
        current: that of the last queries.
        known: all, oldest first.
    """

    current: Kind = field(default_factory=Kind)
    known: list[Kind] = field(default_factory=list)
    _waiting: list[Spread] = field(default_factory=list)
    _waiting_count: int = 0

    def __post_init__(self) -> None:
        self.known.append(self.current)

    def see(self, found: Neighbors, k: int) -> bool:
        """Look at an answer; return whether its queries are of a kind that is new.

        Answers to few queries are gathered first, of many some are looked at. Once `KINDS` are
        known, none is new.
        """
        some = found.distances[:: max(1, len(found.distances) // MOST)]
        ends = self._gathered(some[:, [0, min(k, found.k) - 1]].astype(np.float64))
        if ends is None:
            return False
        if self.current.low is None:
            self.current.learn(ends)
        if self.current.holds(ends):
            return False
        like = next((kind for kind in self.known if kind.holds(ends)), None)
        if like is not None:
            self.current = like
        elif len(self.known) < KINDS:
            self.current = Kind()
            self.current.learn(ends)
            self.known.append(self.current)
            return True
        return False

    def _gathered(self, ends: Spread) -> Spread | None:
        """Return distances of queries enough; None: there are too few yet."""
        if len(ends) >= WINDOW:
            return ends
        self._waiting.append(ends)
        self._waiting_count += len(ends)
        if self._waiting_count < WINDOW:
            return None
        ends = np.concatenate(self._waiting)
        self._waiting, self._waiting_count = [], 0
        return ends
