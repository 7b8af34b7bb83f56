"""Groups and what is said of each; distinct rows; `describe`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.errors import not_an_aggregate, not_for_aggregate
from gpuvec.expr.bind import Bound, bind
from gpuvec.expr.tree import Aggregate as AggregateNode
from gpuvec.expr.tree import Column as ColumnNode
from gpuvec.expr.tree import Expr
from gpuvec.expr.walk import map_children
from gpuvec.query.codes import first_rows, places_within, row_codes
from gpuvec.query.evaluate import evaluate_part
from gpuvec.query.part import Column, Part, chunks_of, computed_part
from gpuvec.query.plan import Columns, Describe
from gpuvec.rows import DenseVectors, SparseVectors
from gpuvec.schema import (
    JSON,
    FieldType,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    List,
    String,
)

NUMBERS = (Int8, Int16, Int32, Int64, Float32, Float64)
DESCRIBE_FIELDS: dict[str, FieldType] = {
    "column": String(), "type": String(), "count": Int64(), "nulls": Int64(),
    "min": String(nullable=True), "max": String(nullable=True),
    "mean": Float64(nullable=True), "std": Float64(nullable=True),
}  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One aggregation: a function over an operand, computed into the column `name`.

    Attributes:
        operand: None counts rows.
    """

    name: str
    function: str
    operand: Bound | None


@dataclass(frozen=True, slots=True, eq=False)
class Aggregate:
    """One output column of `agg`.

    Attributes:
        steps: the aggregations it needs.
        result: what is made of them, over the group's keys and the steps' columns.
    """

    steps: tuple[Step, ...]
    result: Bound


def bind_aggregate(name: str, expr: Expr, columns: Columns, keys: Sequence[str]) -> Aggregate:
    """Check an expression of aggregates against the columns of a frame.

    Raises:
        QueryError: `GV-358`, there is no aggregate in it.
        NotFoundError: `GV-104`, unknown names.
        FilterError: types that do not fit.
    """
    steps: list[Step] = []
    fields = {key: columns.fields[key] for key in keys}

    def replaced(node: Expr) -> Expr:
        if not isinstance(node, AggregateNode):
            return map_children(node, replaced)
        operand = None
        if node.operand is not None:
            operand = bind(node.operand, columns.named, where=columns.where)
            _check_operand(node.function, operand)
        step = Step(f"_gv_{name}_{len(steps)}", node.function, operand)
        fields[step.name] = _result_type(step)
        steps.append(step)
        return ColumnNode(step.name)

    tree = replaced(expr)
    if not steps:
        raise not_an_aggregate(name, str(expr))
    return Aggregate(tuple(steps), bind(tree, fields, where=f'the groups of "{name}"'))


def _check_operand(function: str, operand: Bound) -> None:
    kind = operand.type
    fits = {
        "count": True,
        "sum": isinstance(kind, NUMBERS),
        "mean": isinstance(kind, NUMBERS),
        "min": not isinstance(kind, List | JSON) and not kind.is_vector,
        "max": not isinstance(kind, List | JSON) and not kind.is_vector,
    }
    if not fits[function]:
        raise not_for_aggregate(function, str(operand.expr), kind)


def _result_type(step: Step) -> FieldType:
    if step.function == "count" or step.operand is None:
        return Int64()
    kind = step.operand.type
    if step.function == "mean":
        return Float64(nullable=True)
    if step.function == "sum":
        whole = isinstance(kind, Int8 | Int16 | Int32 | Int64)
        return Int64(nullable=True) if whole else Float64(nullable=True)
    return kind


def group_part(part: Part, keys: Sequence[str], aggregates: Mapping[str, Aggregate]) -> Part:
    """Return one row per combination of the keys, in order of first appearance."""
    codes = row_codes([part.column(key) for key in keys], keys)
    first = first_rows(codes)
    columns: dict[str, Column] = {key: part.take(first).column(key) for key in keys}
    steps = [step for aggregate in aggregates.values() for step in aggregate.steps]
    columns.update(_run_steps(part, codes, steps))
    groups = computed_part(len(first), columns)
    for name, aggregate in aggregates.items():
        columns[name] = evaluate_part(aggregate.result, groups)
    return groups


def _run_steps(part: Part, codes: Any, steps: Sequence[Step]) -> dict[str, Column]:
    held: dict[str, Any] = {"_gv_code": pa.array(codes)}
    for step in steps:
        if step.operand is not None:
            held[step.name] = evaluate_part(step.operand, part)
    wanted = [
        ("_gv_code", "count", pc.CountOptions(mode="all"))
        if step.operand is None
        else (step.name, step.function)
        for step in steps
    ]
    grouped = pa.table(held).group_by("_gv_code", use_threads=False).aggregate(wanted)
    found: dict[str, Column] = {}
    for place, step in enumerate(steps):
        column = grouped.column(grouped.column_names.index("_gv_code") + 1 + place)
        kind = _result_type(step).arrow_type()
        found[step.name] = column if column.type == kind else column.cast(kind)
    return found


def head_part(part: Part, keys: Sequence[str], count: int) -> Part:
    """Return the first `count` rows of each combination of the keys, in the order of the input."""
    codes = row_codes([part.column(key) for key in keys], keys)
    return part.take(np.flatnonzero(places_within(codes) < count))


def distinct_part(part: Part, names: Sequence[str]) -> Part:
    """Return the first row of each combination of the named columns, in the order of the input."""
    codes = row_codes([part.column(name) for name in names], names)
    return part.take(np.sort(first_rows(codes)))


def describe_part(node: Describe, part: Part, nulls: Mapping[str, int]) -> Part:
    """Return one row per visible column of the input; see `DESCRIBE_FIELDS`.

    Args:
        node: what was asked.
        part: all rows of its input.
        nulls: how many there are, of columns that need not be read.
    """
    columns = node.input.columns

    def told(name: str) -> dict[str, Any]:
        if name in nulls:
            return {"count": part.num_rows - nulls[name], "nulls": nulls[name]}
        return _describe(part.column(name))

    lines = [
        {"column": name, "type": repr(columns.fields[name]), **told(name)}
        for name in columns.visible
    ]
    arrays = {
        name: pa.array([line.get(name) for line in lines], kind.arrow_type())
        for name, kind in DESCRIBE_FIELDS.items()
    }
    return computed_part(len(lines), arrays)


def _describe(column: Column) -> dict[str, Any]:
    if isinstance(column, DenseVectors | SparseVectors):
        nulls = 0 if column.valid is None else int(np.count_nonzero(~column.valid))
        return {"count": len(column) - nulls, "nulls": nulls}
    found: dict[str, Any] = {"count": len(column) - column.null_count, "nulls": column.null_count}
    kind = column.type
    if pa.types.is_nested(kind) or found["count"] == 0:
        return found
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found["mean"] = pc.mean(column).as_py()
        found["std"] = pc.stddev(column).as_py()
    bounds = pc.min_max(pa.chunked_array(chunks_of(column), type=kind))
    found["min"], found["max"] = (str(bounds[end].as_py()) for end in ("min", "max"))
    return found


def describe_columns() -> Columns:
    """Return the output columns of `describe`."""
    return Columns(dict(DESCRIBE_FIELDS))
