"""Bounds of scalar columns, by which whole segments are passed over."""

from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.storage.records import ColumnStatistics

LONGEST_TEXT_BYTES = 64
_LAST_CHARACTER = 0x10FFFF
_SURROGATES = range(0xD800, 0xE000)


def table_statistics(table: pa.Table) -> dict[str, ColumnStatistics]:
    """Return the bounds of each column that has some."""
    found = {}
    for name in table.column_names:
        statistics = column_statistics(table[name])
        if statistics is not None:
            found[name] = statistics
    return found


def column_statistics(column: pa.ChunkedArray) -> ColumnStatistics | None:
    """Return the bounds of a column; None for lists, for NaN, and for what has no upper bound."""
    kind = column.type
    if pa.types.is_nested(kind):
        return None
    if pa.types.is_floating(kind) and pc.any(pc.is_nan(column)).as_py():
        return None
    try:
        bounds = pc.min_max(column).as_py()
    except (OverflowError, ValueError):  # instants beyond the years that Python knows
        return None
    low, high = bounds["min"], bounds["max"]
    if isinstance(low, str):
        low, high = _cut(low), cut_up(high)
        if high is None:
            return None
    return ColumnStatistics(low=low, high=high, null_count=column.null_count, row_count=len(column))


def _cut(text: str) -> str:
    return text.encode()[:LONGEST_TEXT_BYTES].decode(errors="ignore")


def cut_up(text: str) -> Any:
    """Return a text of about 64 bytes that is not smaller; None when there is none."""
    cut = _cut(text)
    if cut == text:
        return text
    while cut and ord(cut[-1]) == _LAST_CHARACTER:
        cut = cut[:-1]
    if not cut:
        return None
    following = ord(cut[-1]) + 1
    if following in _SURROGATES:
        following = _SURROGATES.stop
    return _cut(cut[:-1]) + chr(following)
