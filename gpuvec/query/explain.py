"""The plan as text: what is read, how segments are searched; when analysed, what was measured."""

import re
from dataclasses import dataclass

from gpuvec.query import plan as p
from gpuvec.query.collect import collect_rows, source_rows, visible_rows
from gpuvec.query.estimate import most_rows, row_bytes
from gpuvec.query.execute import LocalRun, Run
from gpuvec.query.measurements import Measurements
from gpuvec.query.optimize import apart, columns_read, optimize
from gpuvec.query.plan_text import Line, render, search_title, short, title
from gpuvec.query.session import Session
from gpuvec.query.survey import Selected, Survey, Taken, select, survey

_SAID_TWICE = re.compile(": exact scan(?! is)")  # the line begins with it
GUESSED_QUERIES = 1000  # of a query frame whose size is not known before it runs


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


def explain(node: p.Plan, session: Session, *, analyze: bool) -> PlanText:
    """Return the plan of a frame with what is known of its sources.

    Args:
        node: the plan.
        session: where it would run.
        analyze: run it, and add what was measured.
    """
    plan = apart(optimize(node))
    with LocalRun(session) as run:
        lines = render(_Explainer(run, plan).line(plan))
    if not analyze:
        return PlanText("\n".join(lines))
    _, metrics = collect_rows(node, session)
    return PlanText("\n".join([*lines, *_measured(metrics)]), metrics)


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
        note = ""
        if isinstance(node, p.Filter):
            note = _share(select(self._run, node.input, node.predicate))
        return Line(title(node), note, below)

    def _scan(self, node: p.Scan) -> Line:
        snapshot = self._run.snapshot(node.source)
        rows = visible_rows(snapshot)
        note = f"{_segments(len(snapshot.segments))}, {rows:,} rows, {self._reads(node, rows)}"
        read = self._read.get(id(node), set())
        names = [name for name in node.columns.fields if name in read]
        unread = [name for name in node.columns.vectors if name not in read]
        return Line(
            title(node), note, [Line(f"reads {', '.join(names) or '-'}", _not_read(unread))]
        )

    def _reads(self, node: p.Scan, rows: int) -> str:
        some = rows * row_bytes(node.columns, self._read.get(id(node), set()))
        every = rows * row_bytes(node.columns, node.columns.fields)
        return f"reads about {_size(some)} of {_size(every)}"

    def _search(self, node: p.Search) -> Line:
        queries = self._queries(node)
        notes = [f"queries {queries:,}"] if isinstance(node.queries, p.QueryArray) else []
        below: list[Line] = []
        rows = _unprojected(node.input)
        predicate, inner = None, rows
        if isinstance(rows, p.Filter) and _passes_segments(rows.input, filtered=False):
            predicate, inner = rows.predicate, rows.input
        made_for = None
        if _passes_segments(inner):
            selected = select(self._run, inner, predicate)
            found = survey(self._run, node, selected, queries)
            made_for = found.recall
            if predicate is not None:
                text = f"prefilter {short(predicate.expr)}"
                below.append(Line(text, f"{_share(selected)} → mask inside the scan"))
            below += [_way_line(taken, found, selected.pruned) for taken in found.ways]
            if found.seconds is not None:
                notes.append(f"est. {_time(found.seconds)}")
        if isinstance(inner, p.Scan):
            notes.append(self._reads(inner, visible_rows(self._run.snapshot(inner.source))))
        else:
            below.append(self.line(inner))
        if isinstance(node.queries, p.QueryFrame):
            below.append(Line("queries", "", [self.line(node.queries.plan)]))
        text = search_title(node, made_for)
        return Line(text, "  ".join(notes), [*below, self._output(node)])

    def _queries(self, node: p.Search) -> int:
        """Return how many queries there are; a guess for some query frames."""
        if isinstance(node.queries, p.QueryArray):
            return len(node.queries)
        plan = node.queries.plan
        rows = most_rows(plan, source_rows(self._run, plan))
        return GUESSED_QUERIES if rows is None else rows

    def _output(self, node: p.Search) -> Line:
        wanted = self._read.get(id(node), set())
        names = [name for name in node.columns.fields if name in wanted]
        unread = [name for name in node.columns.vectors if name not in wanted]
        return Line(f"output {', '.join(names)}", _not_read(unread))


def _unprojected(node: p.Plan) -> p.Plan:
    """Return what a choice of columns is made of: to a search it is the same."""
    while isinstance(node, p.Project):
        node = node.input
    return node


def _passes_segments(node: p.Plan, *, filtered: bool = True) -> bool:
    """Return whether a plan gives the rows of its sources segment by segment, and moves none.

    Args:
        node: the plan.
        filtered: whether it may leave some out.
    """
    if isinstance(node, p.Scan):
        return True
    streams = isinstance(node, p.Project | p.WithColumns | p.Concat)
    streams |= filtered and isinstance(node, p.Filter)
    return streams and all(_passes_segments(below, filtered=filtered) for below in node.inputs)


def _way_line(taken: Taken, found: Survey, pruned: int) -> Line:
    text = f"{_segments(taken.segments)}   {taken.name}"
    if taken.way.kind == "index":
        curve = taken.target.calibrator.info.curve
        source = "" if curve is None else f" of {curve.source}"
        note = taken.way.reason.replace("curve:", f"curve{source}:", 1)
        live = taken.target.calibrator.live(taken.way)
        if live is not None and live.count:
            note += f"; {live.mean:.3f} on {live.count:,.0f} real queries"
        return Line(text, note)
    notes = [f"{taken.rows:,} rows"]
    if taken.indexed or taken.target.unused:
        notes.append(_SAID_TWICE.sub("", taken.way.reason))
    elif found.recall is not None:
        notes.append("written since the index, or too few for one")
    if pruned and taken is found.ways[-1]:
        notes.append(f"{pruned} more pruned by statistics")
    return Line(text, "; ".join(notes))


def _share(selected: Selected) -> str:
    """Return the share of rows that pass, and of how many that was found."""
    sampled = "" if selected.sampled is None else f" of the first {selected.sampled:,} rows"
    indexed = ", ".join(f"{name} by {kind}" for name, kind in selected.by_index.items())
    return f"selectivity {selected.share:.2g}{sampled}" + (f"; {indexed}" if indexed else "")


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


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1000:.3g} ms"


def _measured(metrics: Measurements) -> list[str]:
    stages = ", ".join(
        f"{name} {seconds * 1000:.1f} ms" for name, seconds in metrics.stages.items()
    )
    lines = [
        f"measured: {metrics.output_rows:,} rows, {_size(metrics.output_bytes)} in "
        f"{metrics.seconds * 1000:.1f} ms ({stages})",
        f"  {_segments(metrics.segments)} looked at, {metrics.segments_pruned} pruned; "
        f"{metrics.rows:,} rows",
    ]
    if metrics.queries:
        lines += _measured_search(metrics)
    return [*lines, *_measured_nodes(metrics)]


def _measured_nodes(metrics: Measurements) -> list[str]:
    lines = [
        f"  node {name}: {work.calls} calls about {_segments(work.segments)}, "
        f"{_size(work.size_bytes)} in {_time(work.seconds)}, {_time(work.worked_s)} of it work"
        for name, work in sorted(metrics.nodes.items())
    ]
    if metrics.begun:
        lines.append(f"  begun anew {metrics.begun} times: segments were rewritten meanwhile")
    return lines


def _measured_search(metrics: Measurements) -> list[str]:
    ways = ", ".join(f"{count:,} x {name}" for name, count in metrics.strategies.items())
    recall = "unknown" if metrics.recall is None else f"{metrics.recall:.4g}"
    lines = [
        f"  {metrics.queries:,} queries, {metrics.rows_passed:,} rows that pass: {ways or 'none'}",
        f"  {metrics.candidates:,} distances measured again, {metrics.rescanned:,} queries "
        f"rescanned, {metrics.completed:,} short answers completed by a scan",
        f"  expected recall {recall}",
    ]
    if metrics.live_recall is not None:
        lines[-1] += f", on real queries checked by a scan, {metrics.checked:,} of them now"
    return lines
