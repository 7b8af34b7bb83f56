"""How frames and results look: console text and notebook HTML. Nothing here runs a query."""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from gpuvec.meta.catalog import CollectionState
from gpuvec.query.plan import Columns, Plan
from gpuvec.query.plan_text import plan_lines
from gpuvec.rows import DenseVectors, Rows, SparseVectors

SHOWN_ROWS = 10
SHOWN_TEXT = 60
_SHORT = {"float32": "f32", "float16": "f16", "bfloat16": "bf16", "int8": "i8", "uint8": "u8"}


def frame_text(plan: Plan) -> str:
    """Return columns and plan as text."""
    columns = plan.columns
    names = ", ".join(f"{name}: {columns.fields[name].KIND}" for name in columns.visible)
    return "\n".join([f"Frame [{names}]", *plan_lines(plan)])


def frame_html(plan: Plan) -> str:
    """Return columns and plan as HTML."""
    columns = plan.columns
    fields = [
        {"name": name, "type": repr(columns.fields[name]), "key": name == columns.primary_key}
        for name in columns.visible
    ]
    return _render("frame.html", fields=fields, plan="\n".join(plan_lines(plan)))


def result_text(rows: Rows, columns: Columns) -> str:
    """Return the first rows as a text table."""
    names = list(rows.order)
    lines = [names, *shown_rows(rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(names))]
    table = [
        "  ".join(v.ljust(w) for v, w in zip(line, widths, strict=True)).rstrip() for line in lines
    ]
    table.insert(1, "  ".join("-" * width for width in widths))
    head = f"Result {len(rows):,} rows × {len(names)} columns"  # noqa: RUF001
    more = [f"… {len(rows) - SHOWN_ROWS:,} more"] if len(rows) > SHOWN_ROWS else []
    return "\n".join([head, *table, *more])


def result_html(rows: Rows, columns: Columns) -> str:
    """Return the first rows as an HTML table."""
    types = {name: columns.fields[name].KIND for name in rows.order}
    return _render(
        "result.html",
        names=list(rows.order),
        types=types,
        lines=shown_rows(rows),
        total=len(rows),
        shown=SHOWN_ROWS,
    )


def database_html(
    path: str,
    states: Mapping[str, CollectionState],
    total: int,
    nodes: Sequence[str] = (),
    dashboard: str | None = None,
) -> str:
    """Return a database as HTML.

    Args:
        path: where it lies.
        states: of the collections that are shown, by name.
        total: collections that there are.
        nodes: of the cluster that serves it; none: no cluster does.
        dashboard: its address, if there is one.
    """
    lines = []
    for name, state in states.items():
        segments = state.segments.values()
        rows = f"{sum(s.row_count for s in segments):,}"
        size = f"{sum(s.size_bytes for s in segments):,}"
        lines.append([name, rows, f"{len(segments):,}", size, ", ".join(state.indexes)])
    return _render(
        "database.html", path=path, lines=lines, total=total, nodes=nodes, dashboard=dashboard
    )


def shown_rows(rows: Rows) -> list[list[str]]:
    """Return the first rows as texts, vectors shortened to `[0.12, -0.44, …] 128×f16`."""  # noqa: RUF002
    count = min(len(rows), SHOWN_ROWS)
    shown = [_shown_column(rows, name, count) for name in rows.order]
    return [list(line) for line in zip(*shown, strict=True)]


def _shown_column(rows: Rows, name: str, count: int) -> list[str]:
    column = rows.vectors.get(name)
    if column is None:
        return [
            _shown_value(value) for value in rows.table.column(name).slice(0, count).to_pylist()
        ]
    return [_shown_vector(column, row) for row in range(count)]


def _shown_vector(column: DenseVectors | SparseVectors, row: int) -> str:
    if column.valid is not None and not column.valid[row]:
        return "null"
    if isinstance(column, SparseVectors):
        low, high = int(column.offsets[row]), int(column.offsets[row + 1])
        pairs = zip(column.indices[low : low + 2], column.values[low : low + 2], strict=True)
        first = ", ".join(f"{i}: {v:.2f}" for i, v in pairs)
        return f"{{{first}{', …' if high - low > 2 else ''}}} {high - low} entries"
    values = np.asarray(column.values[row])
    kind = values.dtype.name
    digits = "{:d}" if values.dtype.kind in "iu" else "{:.2f}"
    number = int if values.dtype.kind in "iu" else float
    first = ", ".join(digits.format(number(value)) for value in values[:2])
    more = ", …" if len(values) > 2 else ""
    return f"[{first}{more}] {len(values)}×{_SHORT.get(kind, kind)}"  # noqa: RUF001


def _shown_value(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    text = "null" if value is None else " ".join(str(value).split())
    return text if len(text) <= SHOWN_TEXT else f"{text[: SHOWN_TEXT - 1]}…"


def _render(name: str, **values: Any) -> str:
    return str(_template(name).render(**values))


@cache
def _template(name: str) -> Any:
    import jinja2

    text = files("gpuvec.api").joinpath("templates", name).read_text(encoding="utf-8")
    return jinja2.Environment(autoescape=True).from_string(text)
