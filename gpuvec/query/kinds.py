"""Kinds of queries: what checks showed of each, and whether queries are of a kind seen before.

Where a query's nearest and k-th rows lie tells how like the rows it is, and every answer says so.
Queries whose distances are spread otherwise than those checked before are thus another kind, of
which nothing is known yet, however well the index did on the others.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import Neighbors
from gpuvec.index.curve import ParamsKey

STEP = 64
MOST = 256
LEAST = 24  # checked queries that can show a setting to fall short
FORGETS = 512
WINDOW = 32  # queries that show whether they are of a kind
KINDS = 8  # of one region
_SIDE = 0.1  # of a kind's queries lie below, and as many above, what is kept of it
_ODD = 0.3  # of some queries beyond one side makes them another kind

Spread = NDArray[np.float64]


@dataclass(slots=True)
class Live:
    """Recall of one setting in one region, on real queries of one kind.

    Attributes:
        count: queries checked; of more than `FORGETS`, older ones count half.
        total: sum of their recalls.
        squares: sum of the squares.
        expected: recall by the curve.
    """

    count: float = 0
    total: float = 0.0
    squares: float = 0.0
    expected: float = 1.0

    @property
    def mean(self) -> float:
        """Mean recall; 1 before any query was checked."""
        return self.total / self.count if self.count else 1.0

    @property
    def error(self) -> float:
        """Standard error of the mean, as of values that spread by 0.05 at least."""
        spread = self.squares / self.count - self.mean**2
        return math.sqrt(max(spread, 0.05**2) / self.count)

    def add(self, values: NDArray[np.float64]) -> None:
        """Add the recalls of some queries."""
        if self.count > FORGETS:
            self.count, self.total, self.squares = (
                self.count / 2, self.total / 2, self.squares / 2
            )  # fmt: skip
        self.count += len(values)
        self.total += float(values.sum())
        self.squares += float((values**2).sum())

    @property
    def believed(self) -> float:
        """A recall that the queries so far speak for.

        It lies a standard error above the mean while they are few, as other evidence says that the
        setting is good enough, and one below it when they are many.
        """
        if self.count < STEP:
            return self.mean + self.error
        return self.mean - self.error * min(1.0, (self.count - STEP) / (MOST - STEP))

    def falls_short(self, target: float) -> bool:
        """Return whether queries enough speak against the setting."""
        return self.count >= LEAST and self.believed < target

    def leaves_open(self, target: float) -> bool:
        """Return whether more queries could well turn the verdict."""
        return self.count < LEAST or abs(self.believed - target) < self.error


@dataclass(slots=True, eq=False)
class Kind:
    """Queries that lie alike to the rows.

    Attributes:
        lives: by setting.
        low: (2,) distances of nearest and k-th row, below which a tenth of the queries lie; None:
            not known yet.
        high: (2,) those above which a tenth lies.
    """

    lives: dict[ParamsKey, Live] = field(default_factory=dict)
    low: Spread | None = None
    high: Spread | None = None

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

        Answers to few queries are gathered first. Once `KINDS` are known, none is new.
        """
        ends = self._gathered(found.distances[:, [0, min(k, found.k) - 1]].astype(np.float64))
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
