"""Plans as trees of text."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from gpuvec.query import plan as p

NOTE_COLUMN = 46
SHOWN_TEXT = 120


@dataclass(slots=True)
class Line:
    """A line of the tree, its remark to the right, and the lines below it."""

    text: str
    note: str = ""
    below: list["Line"] = field(default_factory=list)


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


def short(text: object) -> str:
    """Return a text, cut if it is long."""
    found = str(text)
    return found if len(found) <= SHOWN_TEXT else f"{found[: SHOWN_TEXT - 1]}…"


def title(node: p.Plan) -> str:
    """Return what a node does, in a few words."""
    return _TITLES[type(node)](node)


def _filter_title(node: p.Filter) -> str:
    return f"Filter {short(node.predicate.expr)}"


def _compute_title(node: p.WithColumns) -> str:
    made = [f"{name} = {short(bound.expr)}" for name, bound in node.computed.items()]
    return f"Compute {', '.join(made)}"


def _sort_title(node: p.Sort) -> str:
    keys = [f"{name} descending" if down else name for name, down in node.keys]
    return f"Sort {', '.join(keys)}"


def _sample_title(node: p.Sample) -> str:
    return f"Sample {node.count:,}" + ("" if node.seed is None else f" seed={node.seed}")


def _join_title(node: p.Join) -> str:
    pairs = zip(node.left_on, node.right_on, strict=True)
    return f"Join {node.how} {', '.join(f'{a} = {b}' for a, b in pairs)}"


def search_title(node: p.Search, made_for: float | None = None) -> str:
    """Return what a search does.

    Args:
        node: the search.
        made_for: the recall that its indexes were made for; None: there is none to use.
    """
    return f"{_search_words(node)} {_promise(node, made_for)}"


def _search_as_written(node: p.Search) -> str:
    asked = node.exact or node.recall is not None or node.params is not None
    return search_title(node) if asked else _search_words(node)  # else its indexes tell


def _search_words(node: p.Search) -> str:
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
    return " ".join(words)


def _promise(node: p.Search, made_for: float | None) -> str:
    if node.params is not None:
        return " ".join(f"{name}={value:g}" for name, value in node.params.items())
    recall = made_for if node.recall is None else node.recall
    return "exact" if node.exact or recall in (None, 1.0) else f"recall≥{recall:g}"


_TITLES: dict[type[p.Plan], Callable[[Any], str]] = {
    p.Scan: lambda node: f"Scan {node.source.name or 'rows in memory or files'}",
    p.Filter: _filter_title,
    p.Get: lambda node: f"Get {len(node.ids):,} keys",
    p.Project: lambda node: f"Select {', '.join(node.columns.visible)}",
    p.WithColumns: _compute_title,
    p.Sort: _sort_title,
    p.Limit: lambda node: f"Limit {node.count:,}",
    p.Slice: lambda node: f"Rows {node.start:,} to {node.stop:,}",
    p.Sample: _sample_title,
    p.Join: _join_title,
    p.Concat: lambda node: f"Concat {len(node.parts)} frames",
    p.Distinct: lambda node: f"Distinct {', '.join(node.names)}",
    p.Group: lambda node: f"Group by {', '.join(node.keys)}: {', '.join(node.aggregates)}",
    p.GroupHead: lambda node: f"First {node.count:,} of each {', '.join(node.keys)}",
    p.Describe: lambda node: "Describe",
    p.Search: _search_as_written,
}


def _static(node: p.Plan) -> Line:
    note = ""
    if isinstance(node, p.Search) and isinstance(node.queries, p.QueryArray):
        note = f"queries {len(node.queries):,}"
    return Line(title(node), note, [_static(below) for below in node.inputs])
