"""Tables and facts on a terminal."""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDEST = 48
_NAMES_AS_THEY_ARE = ("id", "version", "ts", "rank")  # no thousands separators
_BORDER = 3


def print_rows(out: Console, rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows as a table; columns that do not fit the terminal are counted instead."""
    if not rows:
        out.print("no rows")
        return
    cells = {name: [_cell(name, row[name]) for row in rows] for name in rows[0]}
    table = Table()
    room = out.width - 1
    left_out = 0
    for name, texts in cells.items():
        width = max(len(name), *map(len, texts)) + _BORDER
        if left_out or (width > room and table.columns):
            left_out += 1
            continue
        room -= width
        numeric = all(isinstance(row[name], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in zip(*list(cells.values())[: len(table.columns)], strict=True):
        table.add_row(*row)
    out.print(table)
    if left_out:
        more = "1 more column" if left_out == 1 else f"{left_out} more columns"
        out.print(f"{more}: {', '.join(list(cells)[-left_out:])}", highlight=False)


def print_facts(out: Console, facts: Mapping[str, Any]) -> None:
    """Print one name and value a line."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        out.print(f"{name:{width}}  {_cell(name, value)}", highlight=False)


def _cell(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("bytes") and isinstance(value, int):
        return f"{value / 2**20:,.1f} MiB"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool) or not isinstance(value, int):
        text = str(value)
        return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
    plain = name.endswith(_NAMES_AS_THEY_ARE)
    return str(value) if plain else f"{value:,}"
