"""Groups of some rows, from which the groups of all are made: what nodes send instead of columns.

A collection is grouped segment by segment, rows that are only in the log together, wherever it is
read; then what was found is merged in the order of the rows. Sums of floating-point numbers depend
on the order of additions, so one process and many nodes give the very same ones.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.expr.bind import Bound
from gpuvec.query.codes import first_rows, places_within, row_codes
from gpuvec.query.evaluate import evaluate_part
from gpuvec.query.part import Column, Part, computed_part, concat_columns, concat_parts, take_column
from gpuvec.query.reduce import IntArray
from gpuvec.schema import FieldType
from gpuvec.segment.view import Snapshot
from gpuvec.types import SegmentId

_CODE = "_gv_code"


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One aggregation: a function over an operand, computed into the column `name`.

    Attributes:
        operand: None counts rows.
        type: of the result.
    """

    name: str
    function: str
    operand: Bound | None
    type: FieldType


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Groups of some rows, in order of first appearance.

    Attributes:
        columns: the keys, then for each step what can be merged, by the step's name; of a mean the
            sum, and the count under the name that `_count_of` gives.
    """

    count: int
    columns: Mapping[str, Column]


def groups_of(part: Part, keys: Sequence[str], steps: Sequence[Step]) -> Groups:
    """Return the groups of rows.

    Cost: one sort per key, one pass per step.
    """
    codes = row_codes([part.column(key) for key in keys], keys)
    first = first_rows(codes)
    columns: dict[str, Column] = {key: take_column(part.column(key), first) for key in keys}
    values = {s.name: evaluate_part(s.operand, part) for s in steps if s.operand is not None}
    wanted: list[tuple[str, Column, str]] = []
    for step in steps:
        if step.function == "mean":
            numbers = pc.cast(values[step.name], pa.float64(), safe=False)
            wanted.append((step.name, numbers, "sum"))
            wanted.append((_count_of(step), numbers, "count"))
        else:
            wanted.append((step.name, values.get(step.name), step.function))
    columns.update(_reduced(codes, wanted))
    for step in steps:
        if step.function in ("min", "max"):
            columns[step.name] = _cast(columns[step.name], step.type)
    return Groups(len(first), columns)


def merged(found: Sequence[Groups], keys: Sequence[str], steps: Sequence[Step]) -> Groups:
    """Return the groups of all rows from those of some after the other; at least one."""
    if len(found) == 1:
        return found[0]
    whole = {name: concat_columns([g.columns[name] for g in found]) for name in found[0].columns}
    codes = row_codes([whole[key] for key in keys], keys)
    first = first_rows(codes)
    columns: dict[str, Column] = {key: take_column(whole[key], first) for key in keys}
    wanted = [(step.name, whole[step.name], _MERGED[step.function]) for step in steps]
    wanted += [
        (_count_of(step), whole[_count_of(step)], "sum")
        for step in steps
        if step.function == "mean"
    ]
    columns.update(_reduced(codes, wanted))
    return Groups(len(first), columns)


def finished(groups: Groups, keys: Sequence[str], steps: Sequence[Step]) -> Part:
    """Return one row per group: its keys, and the results of the steps."""
    columns = {key: groups.columns[key] for key in keys}
    for step in steps:
        found = groups.columns[step.name]
        if step.function == "mean":
            found = pc.divide(found, pc.cast(groups.columns[_count_of(step)], pa.float64()))
        columns[step.name] = _cast(found, step.type)
    return computed_part(groups.count, columns)


def heads_of(columns: Sequence[Column], names: Sequence[str], count: int) -> IntArray:
    """Return the first `count` rows of each combination of columns, rising."""
    codes = row_codes(columns, names)
    return np.flatnonzero(places_within(codes) < count)


def logged_after(snapshot: Snapshot) -> dict[SegmentId, str]:
    """Return, for each segment that is only in the log, the one in files before it; "": none is."""
    found: dict[SegmentId, str] = {}
    last = ""
    for view in snapshot:
        if getattr(view, "is_growing", False):
            found[view.segment_id] = last
        else:
            last = view.segment_id
    return found


def grouped_alike(
    parts: Iterable[tuple[SegmentId, Part]], after: Mapping[SegmentId, str]
) -> Iterator[tuple[SegmentId, Part]]:
    """Yield rows as they are grouped at once: by segment, those between two in files together.

    Args:
        parts: the rows of a source in order, by segment.
        after: see `logged_after`.

    Yields:
        the first segment of the rows, and these.
    """

    def run(item: tuple[SegmentId, Part]) -> tuple[str, bool]:
        segment = item[0]
        return (after[segment], True) if segment in after else (segment, False)

    for _, together in groupby(parts, run):
        found = list(together)
        yield found[0][0], concat_parts([part for _, part in found])


def _cast(column: Column, kind: FieldType) -> Column:
    wanted = kind.arrow_type()
    return column if column.type == wanted else column.cast(wanted)


def _count_of(step: Step) -> str:
    return f"{step.name}_count"


def _reduced(codes: IntArray, wanted: Sequence[tuple[str, Column, str]]) -> dict[str, Column]:
    """Return one value per group and aggregation: name, values (None: rows are counted), how."""
    held: dict[str, Any] = {_CODE: pa.array(codes)}
    held.update({name: values for name, values, _ in wanted if values is not None})
    told = [
        (_CODE, "count", pc.CountOptions(mode="all")) if values is None else (name, function)
        for name, values, function in wanted
    ]
    grouped = pa.table(held).group_by(_CODE, use_threads=False).aggregate(told)
    start = grouped.column_names.index(_CODE) + 1
    return {name: grouped.column(start + place) for place, (name, _, _) in enumerate(wanted)}


_MERGED = {"count": "sum", "sum": "sum", "mean": "sum", "min": "min", "max": "max"}
