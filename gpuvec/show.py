"""Tables and facts on a terminal."""

import datetime
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table

_WIDEST = 48
_NAMES_AS_THEY_ARE = ("id", "version", "ts", "rank")  # no thousands separators
_BORDER = 3


def print_rows(
    out: Console, rows: Sequence[Mapping[str, Any]], *, keep: Collection[str] = ()
) -> None:
    """Print rows as a table; columns that do not fit the terminal are named below it.

    Args:
        out: the terminal.
        rows: all with the same names.
        keep: columns that stay when others must go.
    """
    if not rows:
        out.print("no rows")
        return
    cells = {name: [_cell(name, row[name]) for row in rows] for name in rows[0]}
    shown = _fitting(cells, out.width - 1, keep)
    table = Table()
    for name in shown:
        numeric = all(isinstance(row[name], int | float) for row in rows)
        table.add_column(name, justify="right" if numeric else "left", no_wrap=True)
    for row in zip(*(cells[name] for name in shown), strict=True):
        table.add_row(*row)
    out.print(table)
    left_out = [name for name in cells if name not in shown]
    if left_out:
        more = "1 more column" if len(left_out) == 1 else f"{len(left_out)} more columns"
        out.print(f"{more}: {', '.join(left_out)}", highlight=False)


def _fitting(cells: Mapping[str, Sequence[str]], room: int, keep: Collection[str]) -> list[str]:
    """Return the columns that fit, at least one; the last ones go first, those to keep last."""
    widths = {name: max(len(name), *map(len, texts)) + _BORDER for name, texts in cells.items()}
    shown = list(cells)
    for name in [n for n in shown[::-1] if n not in keep] + [n for n in shown[::-1] if n in keep]:
        if len(shown) > 1 and sum(widths[other] for other in shown) > room:
            shown.remove(name)
    return shown


def print_facts(out: Console, facts: Mapping[str, Any]) -> None:
    """Print one name and value a line; of a mapping, one line for each of its entries."""
    width = max(map(len, facts), default=0)
    for name, value in facts.items():
        lines = [_cell(name, value)]
        if isinstance(value, Mapping) and value:
            lines = [f"{key}: {_cell(key, part)}" for key, part in value.items()]
        elif isinstance(value, str):
            lines = [value]
        for number, line in enumerate(lines):
            head = "" if number else name
            out.print(f"{head:{width}}  {line}", highlight=False, markup=False, soft_wrap=True)


def _cell(name: str, value: Any) -> str:
    if value is None or (isinstance(value, Mapping) and not value):
        return "none"
    if isinstance(value, Mapping):
        return _cell(name, ", ".join(f"{key}: {part}" for key, part in value.items()))
    if isinstance(value, list):
        return _cell(name, ", ".join(map(str, value)))
    if isinstance(value, datetime.datetime):
        return value.isoformat(" ", timespec="milliseconds").replace("+00:00", "Z")
    if name.endswith("bytes") and isinstance(value, int):
        return f"{value / 2**20:,.1f} MiB"
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, bool) or not isinstance(value, int):
        text = str(value)
        return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
    plain = name.endswith(_NAMES_AS_THEY_ARE)
    return str(value) if plain else f"{value:,}"
