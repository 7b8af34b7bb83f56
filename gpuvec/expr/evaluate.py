"""Running bound expressions over tables: vectorised, three-valued."""

from collections.abc import Callable, Iterator
from datetime import datetime
from functools import reduce
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec import errors
from gpuvec.expr import arithmetic, calls, json_values, lists, patterns
from gpuvec.expr.arithmetic import Value
from gpuvec.expr.bound import (
    Bound,
    BoundColumn,
    Coalesce,
    Contains,
    JsonValue,
    Known,
    OneOf,
    VectorDistance,
)
from gpuvec.expr.json_values import Spans
from gpuvec.expr.literals import TIMESTAMP
from gpuvec.expr.tree import (
    Arithmetic,
    Call,
    Combine,
    Compare,
    Expr,
    IsNull,
    Like,
    Literal,
    Negate,
    Not,
    Subscript,
)
from gpuvec.schema import Bool
from gpuvec.types import RowMask

Distances = Callable[[VectorDistance], Any]


def evaluate(
    bound: Bound, table: pa.Table, *, distance: Distances | None = None
) -> pa.ChunkedArray:
    """Compute an expression for every row.

    Args:
        bound: from `gpuvec.expr.bind.bind`.
        table: has at least `bound.columns`, in their fields' Arrow types; its number of rows
            counts.
        distance: gives a vector distance of every row: (rows,) float32, or an Arrow array with
            nulls where the vector is null. Needed if `bound.distances` is not empty.

    Returns:
        (rows,), of the Arrow type of `bound.type`.

    Cost: a pass over the columns for each operation. No row is looked at in Python.
    """
    wanted = bound.type.arrow_type()
    parts = [_array(value, rows).cast(wanted) for value, rows in _run(bound, table, distance)]
    return pa.chunked_array(parts, wanted)


def mask(
    bound: Bound, table: pa.Table, *, distance: Distances | None = None, null: bool = False
) -> RowMask:
    """Return the rows for which a condition is true, (rows,) bool; where it is null, `null`.

    `bound` comes from `bind_filter`; see `evaluate`.
    """
    if not isinstance(bound.type, Bool):
        raise errors.filter_type(
            str(bound.expr), 0, f"a filter needs a condition, got {bound.type.KIND}"
        )
    parts = [_truth(value, rows, null) for value, rows in _run(bound, table, distance)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.zeros(0, bool)


def _truth(value: Value, rows: int, null: bool) -> RowMask:
    if isinstance(value, pa.Scalar):
        return np.full(rows, value.as_py() if value.is_valid else null)
    return bools(value, null=null)


def bools(values: pa.Array, *, null: bool = False) -> RowMask:
    """Return an array of booleans as NumPy holds them, with `null` for null."""
    if values.null_count:
        values = pc.fill_null(values, null)
    bits = np.frombuffer(values.buffers()[1] or b"", np.uint8)
    skipped = values.offset % 8
    found = np.unpackbits(
        bits[values.offset // 8 :], count=skipped + len(values), bitorder="little"
    )
    return found.view(bool)[skipped:]


def _run(bound: Bound, table: pa.Table, distance: Distances | None) -> Iterator[tuple[Value, int]]:
    """Yield the values of each batch of rows, and their number."""
    distances = {}
    for node in bound.distances:
        if distance is None:
            raise AssertionError(f"{bound.expr} needs distances")
        distances[node.number] = pa.array(distance(node), pa.float32())
    if not bound.columns:
        yield _Batch(table, table.num_rows, distances).value(bound.tree), table.num_rows
        return
    start = 0
    for batch in table.select(sorted(bound.columns)).to_batches():
        part = {n: d.slice(start, batch.num_rows) for n, d in distances.items()}
        yield _Batch(batch, batch.num_rows, part).value(bound.tree), batch.num_rows
        start += batch.num_rows


def _array(value: Value, rows: int) -> pa.Array:
    return pa.repeat(value, rows) if isinstance(value, pa.Scalar) else value


class _Batch:
    """A batch of rows, and what was found in its JSON columns."""

    def __init__(self, batch: Any, rows: int, distances: dict[int, pa.Array]) -> None:
        self._batch = batch
        self._rows = rows
        self._distances = distances
        self._spans: dict[tuple[str, tuple[str | int, ...]], Spans] = {}

    def value(self, node: Expr) -> Value:
        """Return the node's value for every row; a scalar where it is the same for all."""
        return _EVALUATORS[type(node)](self, node)

    def array(self, node: Expr) -> pa.Array:
        """Return the node's value for every row, as an array."""
        return _array(self.value(node), self._rows)

    def _column(self, node: BoundColumn) -> Value:
        column = self._batch.column(node.name)
        wanted = node.kind.arrow_type()
        return column if column.type == wanted else column.cast(wanted)

    def _literal(self, node: Literal) -> Value:
        kind = TIMESTAMP if isinstance(node.value, datetime) else None
        return pa.scalar(node.value, kind)

    def _find(self, node: JsonValue) -> Spans:
        key = (node.column, node.path)
        if key not in self._spans:
            self._spans[key] = json_values.find(self._batch.column(node.column), node.path)
        return self._spans[key]

    def _json(self, node: JsonValue) -> Value:
        return json_values.values(self._find(node), node.wanted)

    def _compare(self, node: Compare) -> Value:
        return arithmetic.compare(
            node.op, self.value(node.left), self.value(node.right), self._rows
        )

    def _combine(self, node: Combine) -> Value:
        join = pc.and_kleene if node.op == "and" else pc.or_kleene
        return reduce(join, map(self.value, node.operands))

    def _not(self, node: Not) -> Value:
        return pc.invert(self.value(node.operand))

    def _arithmetic(self, node: Arithmetic) -> Value:
        left, right = self.value(node.left), self.value(node.right)
        return arithmetic.compute(node.op, left, right, self._rows)

    def _negate(self, node: Negate) -> Value:
        return arithmetic.negate(self.value(node.operand), self._rows)

    def _one_of(self, node: OneOf) -> Value:
        operand = self.array(node.operand)
        found = arithmetic.is_one_of(operand, node.values)
        return pc.if_else(operand.is_valid(), found, None) if operand.null_count else found

    def _known(self, node: Known) -> Value:
        operand = self.array(node.operand)
        return pc.if_else(operand.is_valid(), node.value, pa.scalar(None, pa.bool_()))

    def _coalesce(self, node: Coalesce) -> Value:
        return pc.coalesce(*map(self.array, node.operands))

    def _is_null(self, node: IsNull) -> Value:
        return self.array(node.operand).is_null()

    def _like(self, node: Like) -> Value:
        assert isinstance(node.pattern, Literal)
        return patterns.like(self.array(node.operand), str(node.pattern.value))

    def _subscript(self, node: Subscript) -> Value:
        assert isinstance(node.key, Literal)
        assert isinstance(node.key.value, int)
        return lists.element(self.array(node.operand), node.key.value)

    def _contains(self, node: Contains) -> Value:
        if isinstance(node.operand, JsonValue):
            return lists.json_contains(node, self._find(node.operand))
        return lists.contains(node, self.array(node.operand))

    def _call(self, node: Call) -> Value:
        operand = node.arguments[0]
        if isinstance(operand, JsonValue) and operand.wanted == "array":
            return json_values.lengths(self._find(operand))
        rest = tuple(a.value for a in node.arguments[1:] if isinstance(a, Literal))
        return calls.call(node.name, self.array(operand), rest)

    def _distance(self, node: VectorDistance) -> Value:
        return self._distances[node.number]


_EVALUATORS: dict[type[Expr], Callable[[_Batch, Any], Value]] = {
    BoundColumn: _Batch._column,
    Literal: _Batch._literal,
    JsonValue: _Batch._json,
    Compare: _Batch._compare,
    Combine: _Batch._combine,
    Not: _Batch._not,
    Arithmetic: _Batch._arithmetic,
    Negate: _Batch._negate,
    OneOf: _Batch._one_of,
    Known: _Batch._known,
    Coalesce: _Batch._coalesce,
    IsNull: _Batch._is_null,
    Like: _Batch._like,
    Subscript: _Batch._subscript,
    Contains: _Batch._contains,
    Call: _Batch._call,
    VectorDistance: _Batch._distance,
}
