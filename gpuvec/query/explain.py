"""The plan as text: what is read, how segments are searched; when analysed, what was measured."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from gpuvec.expr.prune import can_match
from gpuvec.query import plan as p
from gpuvec.query.collect import collect_rows, visible_rows
from gpuvec.query.estimate import row_bytes
from gpuvec.query.evaluate import mask_part
from gpuvec.query.execute import Run
from gpuvec.query.measurements import Measurements
from gpuvec.query.optimize import columns_read, optimize
from gpuvec.query.session import Session

NOTE_COLUMN = 46
SAMPLED_ROWS = 1_000_000  # of which a filter's selectivity is found
SHOWN_TEXT = 120


@dataclass(frozen=True, slots=True)
class PlanText:
    """How a frame runs. `str` and notebooks show it.

    Attributes:
        text: the tree.
        metrics: what was measured; None unless analysed.
    """

    text: str
    metrics: Measurements | None = None

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        from html import escape

        return f"<pre>{escape(self.text)}</pre>"


@dataclass(slots=True)
class Line:
    """A line of the tree, its remark to the right, and the lines below it."""

    text: str
    note: str = ""
    below: list["Line"] = field(default_factory=list)


def explain(node: p.Plan, session: Session, *, analyze: bool) -> PlanText:
    """Return the plan of a frame with what is known of its sources.

    Args:
        node: the plan.
        session: where it would run.
        analyze: run it, and add what was measured.
    """
    plan = optimize(node)
    with Run(session) as run:
        lines = render(_Explainer(run, plan).line(plan))
    if not analyze:
        return PlanText("\n".join(lines))
    _, metrics = collect_rows(node, session)
    return PlanText("\n".join([*lines, *_measured(metrics)]), metrics)


def plan_lines(node: p.Plan) -> list[str]:
    """Return the plan as written, without looking at any data."""
    return render(_static(node))


def render(line: Line) -> list[str]:
    """Return a tree of lines as text."""
    return list(_render(line, "", ""))


def _render(line: Line, first: str, rest: str) -> Iterable[str]:
    text = f"{first}{line.text}"
    yield f"{text.ljust(NOTE_COLUMN - 2)}  {line.note}" if line.note else text
    for place, below in enumerate(line.below):
        last = place == len(line.below) - 1
        yield from _render(
            below, rest + ("└─ " if last else "├─ "), rest + ("   " if last else "│  ")
        )


def _short(text: object) -> str:
    found = str(text)
    return found if len(found) <= SHOWN_TEXT else f"{found[: SHOWN_TEXT - 1]}…"


def title(node: p.Plan) -> str:
    """Return what a node does, in a few words."""
    return _TITLES[type(node)](node)


def _filter_title(node: p.Filter) -> str:
    return f"Filter {_short(node.predicate.expr)}"


def _compute_title(node: p.WithColumns) -> str:
    made = [f"{name} = {_short(bound.expr)}" for name, bound in node.computed.items()]
    return f"Compute {', '.join(made)}"


def _sort_title(node: p.Sort) -> str:
    keys = [f"{name} descending" if down else name for name, down in node.keys]
    return f"Sort {', '.join(keys)}"


def _sample_title(node: p.Sample) -> str:
    return f"Sample {node.count:,}" + ("" if node.seed is None else f" seed={node.seed}")


def _join_title(node: p.Join) -> str:
    pairs = zip(node.left_on, node.right_on, strict=True)
    return f"Join {node.how} {', '.join(f'{a} = {b}' for a, b in pairs)}"


def _search_title(node: p.Search) -> str:
    words = [f"Search {node.field}", "all neighbours" if node.k is None else f"k={node.k:,}"]
    if node.high is not None:
        words.append(
            f"radius={node.high:g}" if node.low is None else f"radius=({node.low:g}, {node.high:g})"
        )
    words.append(str(node.metric))
    if node.group_by is not None:
        words.append(f"group_by={node.group_by} group_size={node.group_size}")
    if node.exclude_self:
        words.append("exclude_self")
    return " ".join([*words, "exact" if node.recall is None else f"recall≥{node.recall:g}"])


_TITLES: dict[type[p.Plan], Callable[[Any], str]] = {
    p.Scan: lambda node: f"Scan {node.source.name or 'rows in memory or files'}",
    p.Filter: _filter_title,
    p.Get: lambda node: f"Get {len(node.ids):,} keys",
    p.Project: lambda node: f"Select {', '.join(node.columns.visible)}",
    p.WithColumns: _compute_title,
    p.Sort: _sort_title,
    p.Limit: lambda node: f"Limit {node.count:,}",
    p.Sample: _sample_title,
    p.Join: _join_title,
    p.Concat: lambda node: f"Concat {len(node.parts)} frames",
    p.Distinct: lambda node: f"Distinct {', '.join(node.names)}",
    p.Group: lambda node: f"Group by {', '.join(node.keys)}: {', '.join(node.aggregates)}",
    p.GroupHead: lambda node: f"First {node.count:,} of each {', '.join(node.keys)}",
    p.Describe: lambda node: "Describe",
    p.Search: _search_title,
}


def _static(node: p.Plan) -> Line:
    note = ""
    if isinstance(node, p.Search) and isinstance(node.queries, p.QueryArray):
        note = f"queries {len(node.queries):,}"
    return Line(title(node), note, [_static(below) for below in node.inputs])


class _Explainer:
    """Lines with what the sources say of themselves."""

    def __init__(self, run: Run, plan: p.Plan) -> None:
        self._run = run
        self._root = plan
        self._read = columns_read(plan, plan.columns.visible)

    def line(self, node: p.Plan) -> Line:
        if isinstance(node, p.Scan):
            return self._scan(node)
        if isinstance(node, p.Search):
            return self._search(node)
        below = [self.line(part) for part in node.inputs]
        note = self._selectivity(node)[0] if isinstance(node, p.Filter) else ""
        return Line(title(node), note, below)

    def _scan(self, node: p.Scan) -> Line:
        snapshot = self._run.snapshot(node.source)
        rows = visible_rows(snapshot)
        note = f"{_segments(len(snapshot.segments))}, {rows:,} rows, {self._reads(node, rows)}"
        read = self._read.get(id(node.source), set())
        names = [name for name in node.columns.fields if name in read]
        unread = [name for name in node.columns.vectors if name not in read]
        return Line(
            title(node), note, [Line(f"reads {', '.join(names) or '-'}", _not_read(unread))]
        )

    def _reads(self, node: p.Scan, rows: int) -> str:
        some = rows * row_bytes(node.columns, self._read.get(id(node.source), set()))
        every = rows * row_bytes(node.columns, node.columns.fields)
        return f"reads about {_size(some)} of {_size(every)}"

    def _search(self, node: p.Search) -> Line:
        notes, below = [], []
        if isinstance(node.queries, p.QueryArray):
            notes.append(f"queries {len(node.queries):,}")
        inner = node.input
        pruned = 0
        if isinstance(inner, p.Filter):
            share, pruned = self._selectivity(inner)
            text = f"prefilter {_short(inner.predicate.expr)}"
            below.append(Line(text, f"{share} → mask inside the scan"))
            inner = inner.input
        if isinstance(inner, p.Scan):
            snapshot = self._run.snapshot(inner.source)
            rows = visible_rows(snapshot)
            notes.append(self._reads(inner, rows))
            note = f"{rows:,} rows" + (f"; {pruned} more pruned by statistics" if pruned else "")
            count = sum(1 for view in snapshot if view.num_rows) - pruned
            below.append(Line(f"{_segments(count)}   exact scan", note))
        else:
            below.append(self.line(inner))
        if isinstance(node.queries, p.QueryFrame):
            below.append(Line("queries", "", [self.line(node.queries.plan)]))
        return Line(title(node), "  ".join(notes), [*below, self._output(node)])

    def _output(self, node: p.Search) -> Line:
        wanted = self._read.get(id(node), set())
        names = [name for name in node.columns.fields if name in wanted]
        unread = [name for name in node.columns.vectors if name not in wanted]
        return Line(f"output {', '.join(names)}", _not_read(unread))

    def _selectivity(self, node: p.Filter) -> tuple[str, int]:
        """Return the share of rows that pass, and how many segments statistics rule out."""
        looked, passed, pruned = 0, 0, 0
        for part in self._run.parts(node.input):
            if part.origin is not None and not can_match(node.predicate, part.origin.statistics):
                pruned += 1
            elif looked < SAMPLED_ROWS:
                passed += int(np.count_nonzero(mask_part(node.predicate, part)))
            looked += part.num_rows
            if looked >= SAMPLED_ROWS:
                break
        share = passed / looked if looked else 0.0
        sampled = f" of the first {looked:,} rows" if looked >= SAMPLED_ROWS else ""
        return f"selectivity {share:.2g}{sampled}", pruned


def _not_read(names: list[str]) -> str:
    return f"{', '.join(names)} not read" if names else ""


def _segments(count: int) -> str:
    return f"{count} segment{'s' * (count != 1)}"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.3g} {unit}"
        count /= 1024
    return f"{count:.3g} TiB"


def _measured(metrics: Measurements) -> list[str]:
    stages = ", ".join(
        f"{name} {seconds * 1000:.1f} ms" for name, seconds in metrics.stages.items()
    )
    lines = [
        f"measured: {metrics.output_rows:,} rows, {_size(metrics.output_bytes)} in "
        f"{metrics.seconds * 1000:.1f} ms ({stages})",
        f"  {metrics.segments} segments looked at, {metrics.segments_pruned} of them pruned; "
        f"{metrics.rows:,} rows",
    ]
    if metrics.queries:
        ways = ", ".join(f"{name} {count} times" for name, count in metrics.strategies.items())
        lines.append(
            f"  {metrics.queries:,} queries, {metrics.rows_passed:,} candidates, {ways}; "
            f"{metrics.rescanned:,} queries rescanned; recall {metrics.recall}"
        )
    return lines
