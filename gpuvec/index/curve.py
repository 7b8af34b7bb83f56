"""What an index was measured to reach: recall and time by setting, `k` and selectivity.

How a promise is read off a curve. A search asks for `k` neighbours of which a share `selectivity`
of the rows may answer. Measured cells lie on a grid; the search is held to

* the next larger measured `k` (one that exceeds it by a tenth still counts as it),
* the measured selectivities on both sides of its own; below the smallest, nothing is promised;
  from `NEARLY_ALL` on to what lies on a line between them, as few rows that are hidden, by deletes
  most of all, are missed by few queries,
* every case measured there: filters that ignore the queries and filters that follow them.

A setting reaches a target when the lower end of its interval does in all of these. The interval is
one of 95 % over a thousand queries or so. As all settings meet the same queries, the cheapest one
that seems to reach a target falls short of it for one index in forty, by about one standard error.

Settings between two that were measured may be taken as well. More effort finds ever fewer of the
rows still missed, so that recall between two settings is at least what a line between theirs says;
their lower ends and times are taken to lie on such lines too.
"""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import pairwise
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.base import Params
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.once import cached_property

Z95 = 1.959964
TIE = 1e-6  # distances this near, relative and absolute, count as equal
NEARLY_ALL = 0.8  # of the rows
_STEPS = 8  # from one measured setting to the next

ParamsKey = tuple[tuple[str, float], ...]


def params_key(params: Params) -> ParamsKey:
    """Return knobs as something to look up by."""
    return tuple(sorted(params.items()))


def interval(values: NDArray[np.float64]) -> tuple[float, float]:
    """Return the 95 % interval of a mean of values in [0, 1]: Wilson's.

    It has as many trials as the spread of the values allows, at least one per value.
    """
    count = len(values)
    if not count:
        return (0.0, 1.0)
    mean, spread = float(values.mean()), float(values.var())
    trials = count * mean * (1 - mean) / spread if spread > 0 else float(count)
    z2 = Z95 * Z95
    middle = (mean + z2 / (2 * trials)) / (1 + z2 / trials)
    half = Z95 / (1 + z2 / trials) * math.sqrt(mean * (1 - mean) / trials + z2 / (4 * trials**2))
    return (max(0.0, min(mean, middle - half)), min(1.0, max(mean, middle + half)))


def recalls(found: Neighbors, truth: Neighbors) -> NDArray[np.float64]:
    """Return the recall of each query; a row tied with the last true one counts.

    Args:
        found: answers, on the host, at least as wide as `truth`; what lies beyond is not looked at.
        truth: the true answers, on the host.

    Returns:
        (queries,) shares of the true rows; 1 where there are none.
    """
    k = truth.k
    wanted = np.count_nonzero(truth.rows >= 0, axis=1)
    last = np.take_along_axis(truth.distances, np.maximum(wanted - 1, 0)[:, None], axis=1)
    distances = found.distances[:, :k]
    near = (distances <= last + TIE * (1 + np.abs(last))) & (found.rows[:, :k] >= 0)
    hits = np.minimum(np.count_nonzero(near, axis=1), wanted)
    shares: NDArray[np.float64] = np.divide(hits, wanted, out=np.ones(len(hits)), where=wanted > 0)
    return shares


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One setting, measured in one case.

    Attributes:
        params: knobs of the index; None: the exact scan, measured beside it.
        k: neighbours asked for.
        selectivity: share of the rows that passed the filter.
        case: which rows those were: "all", "random", or "clustered" (near one another; the recall
            is that of the queries whose neighbours pass or of the others, whichever is worse).
        recall: mean over the queries.
        low: lower end of its 95 % interval.
        high: upper end.
        queries: that were asked.
        batch_s: seconds per query, asked all at once.
        single_s: seconds per query, asked one by one.
    """

    params: Params | None
    k: int
    selectivity: float
    case: str
    recall: float
    low: float
    high: float
    queries: int
    batch_s: float
    single_s: float

    def seconds(self, queries: int) -> float:
        """Return the expected time of a number of queries asked at once."""
        if queries <= 1:
            return queries * self.single_s
        if queries >= self.queries:
            return queries * self.batch_s
        step = (self.queries * self.batch_s - self.single_s) / (self.queries - 1)
        return self.single_s + (queries - 1) * max(step, 0.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What a search may take: a setting that was measured, or one between two of these.

    Attributes:
        point: what is expected of it.
        ends: the measured settings on both sides, the cheaper one first; only one where it was
            measured itself.
        weight: of the second one.
    """

    point: CurvePoint
    ends: tuple[CurvePoint, ...]
    weight: float = 0.0


@dataclass(frozen=True, kw_only=True)
class RecallCurve:
    """All points of one index over one segment.

    Attributes:
        source: where the queries came from: "held-out rows" or "given queries".
        points: the settings of one case in the order of `ApproximateIndex.settings`.
        device: on which it was measured, "cpu" or "gpu"; on another, times and the rows that are
            found are not these.
        engine: of an index on a GPU, the library that searched it; else "".
    """

    source: str
    points: tuple[CurvePoint, ...]
    device: str = "cpu"
    engine: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal curve."""
        points = [asdict(point) for point in self.points]
        where = {} if self.device == "cpu" else {"device": self.device, "engine": self.engine}
        return {"source": self.source, "points": points, **where}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the curve that `to_json` wrote."""
        points = tuple(CurvePoint(**point) for point in data["points"])
        where = {name: data[name] for name in ("device", "engine") if name in data}
        return cls(source=data["source"], points=points, **where)

    @cached_property
    def ks(self) -> tuple[int, ...]:
        """The `k` that were measured, rising."""
        return tuple(sorted({point.k for point in self.points}))

    @cached_property
    def _worst(self) -> dict[int, dict[float, dict[ParamsKey | None, CurvePoint]]]:
        """By k and selectivity, the latter rising: of each setting the worst of all cases."""
        found: dict[int, dict[float, list[CurvePoint]]] = {}
        for point in sorted(self.points, key=lambda point: point.selectivity):
            found.setdefault(point.k, {}).setdefault(point.selectivity, []).append(point)
        return {
            k: {share: _worst_by_params(points) for share, points in shares.items()}
            for k, shares in found.items()
        }

    def measured_k(self, k: int) -> int | None:
        """Return the `k` whose measurements hold for this one; None: it is larger than all."""
        return next((known for known in self.ks if k <= known + max(1, known // 10)), None)

    def at(self, k: int, selectivity: float) -> "Cell | None":
        """Return what is promised for `k` neighbours among a share of the rows.

        None: nothing, as `k` is larger or the share smaller than all that was measured.
        """
        known = self.measured_k(k)
        if known is None:
            return None
        measured = self._worst[known]
        below = [share for share in measured if share <= selectivity]
        if not below:
            return None
        above = [share for share in measured if share >= selectivity]
        low = below[-1]
        high = above[0] if above else low
        weight = 0.0 if high == low else (selectivity - low) / (high - low)
        lines = low >= NEARLY_ALL and high == 1.0
        settings, exact = _merge(measured[low], measured[high], weight, lines=lines)
        return Cell(k=known, asked=selectivity, selectivity=low, settings=settings, exact=exact)

    def best(self, k: int, recall: float, *, queries: int = 1000) -> CurvePoint | None:
        """Return the fastest setting that reaches a recall without a filter; None: none does."""
        cell = self.at(k, 1.0)
        reached = [] if cell is None else [s for s in cell.settings if s.low >= recall]
        return min(reached, key=lambda point: point.seconds(queries), default=None)


@dataclass(frozen=True, kw_only=True)
class Cell:
    """What holds for one `k` and selectivity: of each setting the worst of all cases.

    Attributes:
        k: that was measured.
        asked: selectivity of the search.
        selectivity: the smaller one of those measured that decide.
        settings: of the index, the cheapest first; times are those expected at the selectivity
            asked for.
        exact: the scan of all rows that pass.
    """

    k: int
    asked: float
    selectivity: float
    settings: tuple[CurvePoint, ...]
    exact: CurvePoint | None

    @cached_property
    def region(self) -> tuple[int, int]:
        """The `k` and the selectivity to about a quarter of a power of ten; 0 for all rows."""
        return self.k, 0 if self.asked >= 1.0 else min(-1, round(4 * math.log10(self.asked)))

    @cached_property
    def choices(self) -> tuple[Setting, ...]:
        """All that a search may take, the cheapest first."""
        found: list[Setting] = []
        for one, other in pairwise(self.settings):
            found += [Setting(point=one, ends=(one,)), *_between(one, other)]
        return (*found, *(Setting(point=last, ends=(last,)) for last in self.settings[-1:]))


def _between(one: CurvePoint, other: CurvePoint) -> Iterator[Setting]:
    """Yield settings between two that differ in one knob."""
    known, more = one.params or {}, other.params or {}
    names = [name for name in known.keys() & more.keys() if known[name] != more[name]]
    if len(names) != 1 or known.keys() != more.keys():
        return
    start, stop = known[names[0]], more[names[0]]
    whole, last = isinstance(start, int) and isinstance(stop, int), start
    for step in range(1, _STEPS):
        value = start + (stop - start) * step / _STEPS
        value = math.ceil(value) if whole else round(value, 4)
        if value in (last, stop):
            continue
        last, weight = value, (value - start) / (stop - start)
        yield Setting(
            point=_on_line(one, other, weight, {**known, names[0]: value}),
            ends=(one, other),
            weight=weight,
        )


def _on_line(
    one: CurvePoint, other: CurvePoint, weight: float, params: Params | None
) -> CurvePoint:
    def at(name: str) -> float:
        first, last = float(getattr(one, name)), float(getattr(other, name))
        return first + weight * (last - first)

    return replace(
        one, params=params, recall=at("recall"), low=at("low"), high=at("high"),
        queries=min(one.queries, other.queries), batch_s=at("batch_s"), single_s=at("single_s"),
    )  # fmt: skip


def _merge(
    sparse: Mapping[ParamsKey | None, CurvePoint],
    dense: Mapping[ParamsKey | None, CurvePoint],
    weight: float,
    *,
    lines: bool,
) -> tuple[tuple[CurvePoint, ...], CurvePoint | None]:
    """Join settings and scan of two selectivities.

    Args:
        sparse: those where fewer rows pass.
        dense: those where more pass.
        weight: of the denser one's times.
        lines: whether recalls lie on lines as times do; else the lower one counts.
    """
    settings, exact = [], None
    for key, point in sparse.items():
        other = dense.get(key, point if key is None else None)
        if other is None:
            continue
        joined = _on_line(point, other, weight, point.params)
        if not lines:
            worse = point if point.low <= other.low else other
            joined = replace(joined, recall=worse.recall, low=worse.low, high=worse.high)
        if key is None:
            exact = joined
        else:
            settings.append(joined)
    return _smoothed(settings), exact


def _smoothed(settings: Sequence[CurvePoint]) -> tuple[CurvePoint, ...]:
    """Let no setting take longer than a more thorough one: such times are chance."""
    batch_s = single_s = math.inf
    found = []
    for point in reversed(settings):
        batch_s, single_s = min(batch_s, point.batch_s), min(single_s, point.single_s)
        found.append(replace(point, batch_s=batch_s, single_s=single_s))
    return tuple(reversed(found))


def _worst_by_params(points: Sequence[CurvePoint]) -> dict[ParamsKey | None, CurvePoint]:
    """Return, for each setting measured in every case, the lowest recall and the longest times."""
    cases = {point.case for point in points}
    grouped: dict[ParamsKey | None, list[CurvePoint]] = {}
    for point in points:
        key = None if point.params is None else params_key(point.params)
        grouped.setdefault(key, []).append(point)
    return {
        key: _worst(group)
        for key, group in grouped.items()
        if {point.case for point in group} == cases
    }


def _worst(points: Iterable[CurvePoint]) -> CurvePoint:
    group = list(points)
    return replace(
        min(group, key=lambda point: point.low),
        batch_s=max(point.batch_s for point in group),
        single_s=max(point.single_s for point in group),
    )
