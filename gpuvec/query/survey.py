"""What a search would do, found without searching: rows that pass, and the way of each segment."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gpuvec.expr.bind import Bound
from gpuvec.expr.prune import can_match
from gpuvec.query import plan as p
from gpuvec.query.evaluate import indexed_fields, mask_part
from gpuvec.query.execute import Run
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import Part
from gpuvec.query.strategy import Way
from gpuvec.query.target import Target, make_targets
from gpuvec.query.ways import Ways, way_name

SAMPLED_ROWS = 1_000_000  # of which a filter's selectivity is found


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Selected:
    """The rows of an input that pass a filter.

    Attributes:
        parts: with how many rows of each pass; after `SAMPLED_ROWS` that is a guess.
        share: of the rows that were looked at.
        sampled: rows that were looked at; None: all.
        pruned: segments of which statistics say that no row passes.
        by_index: fields of the filter that an index answers, and its kind.
    """

    parts: Sequence[tuple[Part, int]]
    share: float
    sampled: int | None
    pruned: int
    by_index: Mapping[str, str]


def select(run: Run, node: p.Plan, predicate: Bound | None) -> Selected:
    """Return which rows of a plan pass."""
    looked, passed, pruned = 0, 0, 0
    found, rest = [], []
    cache, by_index = run.session.cache, dict[str, str]()
    for part in run.parts(node):
        if predicate is None:
            found.append((part, part.num_rows))
        elif part.origin is not None and not can_match(predicate, part.origin.statistics):
            pruned += 1
            looked += part.num_rows
        elif looked < SAMPLED_ROWS:
            mask = mask_part(predicate, part, cache)
            found.append((part, int(np.count_nonzero(mask))))
            by_index.update(indexed_fields(predicate, part, cache))
            passed += found[-1][1]
            looked += part.num_rows
        else:
            rest.append(part)
    share = passed / looked if looked else 0.0
    found += [(part, round(share * part.num_rows)) for part in rest]
    return Selected(
        parts=found, share=share, sampled=looked if rest else None, pruned=pruned,
        by_index=by_index,
    )  # fmt: skip


@dataclass(slots=True, kw_only=True)
class Taken:
    """One way, and the segments that go it.

    Attributes:
        name: `HNSW ef_search=64`, or `exact scan`.
        indexed: whether these segments have an index.
        segments, rows: how many.
        way: that with the lowest recall, of the largest of these segments.
        target: one of them.
    """

    name: str
    indexed: bool
    segments: int = 0
    rows: int = 0
    way: Way
    target: Target

    def add(self, way: Way, target: Target) -> None:
        """Count one more segment."""
        self.segments += 1
        self.rows += target.count
        mine, other = self.way.low or 0.0, way.low or 0.0
        if (other, -target.count) < (mine, -self.target.count):
            self.way, self.target = way, target


@dataclass(frozen=True, slots=True, kw_only=True)
class Survey:
    """How a search would go through its segments.

    Attributes:
        ways: those taken, indexes first.
        recall: that the indexes were made for, the highest; None: there is no index to use.
        seconds: expected for all queries; None where nothing was measured.
    """

    ways: Sequence[Taken]
    recall: float | None
    seconds: float | None


def survey(run: Run, node: p.Search, selected: Selected, queries: int) -> Survey:
    """Return the ways a search would take for so many queries at once."""
    ways = Ways(node, run.session, Measurements())
    targets = make_targets((part for part, _ in selected.parts), node, run.session)
    taken: dict[tuple[str, bool], Taken] = {}
    chosen: list[tuple[Target, int, Way]] = []
    for target, (_, passing) in zip(targets, selected.parts, strict=True):
        if not passing:
            continue
        k = passing if node.k is None else min(node.k + node.exclude_self, passing)
        way = ways.plan(target, passing, queries, k)
        chosen.append((target, passing, way))
        indexed = target.indexed is not None
        name = "exact scan"
        if target.indexed is not None and way.params is not None:
            name = way_name(target.indexed.spec, way.params)
        key = (name, indexed)
        if key not in taken:
            taken[key] = Taken(name=name, indexed=indexed, way=way, target=target)
        taken[key].add(way, target)
    goals = [target.indexed.target for target in targets if target.indexed is not None]
    return Survey(
        ways=sorted(taken.values(), key=lambda t: (t.way.kind == "exact", not t.indexed)),
        recall=max((goal for goal in goals if goal is not None), default=None),
        seconds=_seconds(chosen, queries),
    )


def _seconds(chosen: Sequence[tuple[Target, int, Way]], queries: int) -> float | None:
    """Return the expected time; scans that were not measured take as long a row as others."""
    known = sum(way.seconds or 0.0 for _, _, way in chosen)
    unknown = sum(passing for _, passing, way in chosen if way.seconds is None)
    if not unknown:
        return known if chosen else None
    rates = [rate for target, _, _ in chosen for rate in _scan_seconds_a_row(target, queries)]
    return known + unknown * float(np.mean(rates)) if rates else None


def _scan_seconds_a_row(target: Target, queries: int) -> Iterator[float]:
    if target.indexed is None:
        return
    curve = target.calibrator.info.curve
    cell = None if curve is None else curve.at(1, 1.0)
    if cell is not None and cell.exact is not None:
        yield cell.exact.seconds(queries) / max(1, target.base.num_rows)
