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
from gpuvec.query.evaluate import evaluate_part
from gpuvec.query.part import Column, Part, chunks_of, computed_part
from gpuvec.query.partial import Groups, Step, finished, heads_of, merged
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
        kind = _result_type(node.function, operand)
        step = Step(f"_gv_{name}_{len(steps)}", node.function, operand, kind)
        fields[step.name] = kind
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


def _result_type(function: str, operand: Bound | None) -> FieldType:
    if function == "count" or operand is None:
        return Int64()
    kind = operand.type
    if function == "mean":
        return Float64(nullable=True)
    if function == "sum":
        whole = isinstance(kind, Int8 | Int16 | Int32 | Int64)
        return Int64(nullable=True) if whole else Float64(nullable=True)
    return kind


def steps_of(aggregates: Mapping[str, Aggregate]) -> tuple[Step, ...]:
    """Return the steps of all output columns."""
    return tuple(step for aggregate in aggregates.values() for step in aggregate.steps)


def group_part(
    found: Sequence[Groups], keys: Sequence[str], aggregates: Mapping[str, Aggregate]
) -> Part:
    """Return one row per combination of the keys, in order of first appearance.

    Args:
        found: groups of all rows, those of some after the other; at least one.
        keys: the columns.
        aggregates: by output column.
    """
    steps = steps_of(aggregates)
    whole = merged(found, keys, steps)
    groups = finished(whole, keys, steps)
    columns = {key: whole.columns[key] for key in keys}
    for name, aggregate in aggregates.items():
        columns[name] = evaluate_part(aggregate.result, groups)
    return computed_part(whole.count, columns)


def head_part(part: Part, keys: Sequence[str], count: int) -> Part:
    """Return the first `count` rows of each combination of the keys, in the order of the input."""
    return part.take(heads_of([part.column(key) for key in keys], keys, count))


def distinct_part(part: Part, names: Sequence[str]) -> Part:
    """Return the first row of each combination of the named columns, in the order of the input."""
    return head_part(part, names, 1)


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
