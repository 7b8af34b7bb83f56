"""Programs run over cuDF columns: each operation is one call of pylibcudf, fused ones together.

What differs between a program and libcudf ends here: scalars beside columns, the width of counts,
the bits behind the last row.
"""

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import pyarrow as pa

from gpuvec.device.library import cupy_module
from gpuvec.device.program import CASTS, COMPARE, FUSED, Op
from gpuvec.types import Array

_WORD = 32
_AST = {
    "eq": "EQUAL", "ne": "NOT_EQUAL", "lt": "LESS", "le": "LESS_EQUAL", "gt": "GREATER",
    "ge": "GREATER_EQUAL", "and": "NULL_LOGICAL_AND", "or": "NULL_LOGICAL_OR", "not": "NOT",
    "is_null": "IS_NULL", "xor": "BITWISE_XOR", "bit_and": "BITWISE_AND", "invert": "BIT_INVERT",
    "add": "ADD", "sub": "SUB", "mul": "MUL", "div": "DIV", "mod": "MOD", "floor": "FLOOR",
    "ceil": "CEIL", "rint": "RINT", "abs": "ABS",
}  # fmt: skip


def run(program: Op, columns: Mapping[str, Any], rows: int) -> Any:
    """Return the `pylibcudf.Column` of a program's values.

    Args:
        program: reads at least one column.
        columns: `pylibcudf.Column` by name.
        rows: of each.

    Cost: one kernel for each tree of fused operations, and one or two for each other operation.
    """
    if not rows:
        return _Runner(columns, rows).empty(program)
    return _Runner(columns, rows).column(program)


def words(program: Op, columns: Mapping[str, Any], rows: int) -> Array:
    """Return where a condition is true, as bits: (ceil(rows / 32),) uint32, the last ones 0.

    See `run`. Null is not true.
    """
    cupy = cupy_module()
    count = -(-rows // _WORD)
    if not count:
        return cupy.zeros(0, cupy.uint32)
    from pylibcudf.transform import bools_to_mask

    buffer, _ = bools_to_mask(run(program, columns, rows))
    found = cupy.asarray(buffer).view(cupy.uint32)[:count]
    if rows % _WORD:
        found[-1:] &= cupy.uint32((1 << rows % _WORD) - 1)
    return found


def from_arrow(values: pa.Array) -> Any:
    """Return an Arrow array as a `pylibcudf.Column`; times are in UTC, and no longer say so."""
    from pylibcudf import Column

    kind = _plain(values.type)
    return Column.from_arrow(values if kind == values.type else values.view(kind))


class _Runner:
    """Runs one program."""

    def __init__(self, columns: Mapping[str, Any], rows: int) -> None:
        self._columns = columns
        self._rows = rows

    def column(self, op: Op) -> Any:
        """Return an operation's values as a column."""
        if op.name == "column":
            return self._columns[op.value]
        if op.name == "constant":
            from pylibcudf import Column

            return Column.from_scalar(_scalar(op.value, op.kind), self._rows)
        return self._fused(op) if _is_fused(op) else _RUN[op.name](self, op)

    def value(self, op: Op) -> Any:
        """Return an operation's values as a column, or as a scalar where all are alike."""
        return _scalar(op.value, op.kind) if op.name == "constant" else self.column(op)

    def empty(self, op: Op) -> Any:
        """Return no values."""
        return from_arrow(pa.array([], op.kind))

    def _fused(self, op: Op) -> Any:
        from pylibcudf import Table
        from pylibcudf.transform import compute_column

        leaves: dict[Any, Any] = {}
        tree = self._expression(op, leaves)
        return compute_column(Table(list(leaves.values())), tree)

    def _expression(self, op: Op, leaves: dict[Any, Any]) -> Any:
        """Return an operation as a node of one kernel; its leaves go into a table's columns."""
        from pylibcudf.expressions import ASTOperator, ColumnReference, Literal, Operation

        if op.name == "constant":
            return Literal(_scalar(op.value, op.kind))
        if not _is_fused(op):
            name = op.value if op.name == "column" else op
            if name not in leaves:
                leaves[name] = self.column(op)
            return ColumnReference(list(leaves).index(name))
        arguments = [self._expression(argument, leaves) for argument in op.args]
        return Operation(getattr(ASTOperator, _AST[op.name]), *arguments)

    def _compare(self, op: Op) -> Any:
        from pylibcudf.binaryop import BinaryOperator, binary_operation

        left, right = map(self.value, op.args)
        operator = getattr(BinaryOperator, _AST[op.name])
        return binary_operation(left, right, operator, _kind(op.kind))

    def _is_null(self, op: Op) -> Any:
        from pylibcudf.unary import is_null

        return is_null(self.column(op.args[0]))

    def _cast(self, op: Op) -> Any:
        from pylibcudf.unary import cast

        return cast(self.column(op.args[0]), _kind(op.kind))

    def _pick(self, op: Op) -> Any:
        from pylibcudf.copying import copy_if_else

        condition, yes, no = op.args
        return copy_if_else(self.value(yes), self.value(no), self.column(condition))

    def _either(self, op: Op) -> Any:
        from pylibcudf.replace import replace_nulls

        return replace_nulls(self.column(op.args[0]), self.value(op.args[1]))

    def _find(self, op: Op) -> Any:
        from pylibcudf.strings import find

        function = getattr(find, op.name)
        return function(self.column(op.args[0]), _scalar(op.value, pa.string()))

    def _like(self, op: Op) -> Any:
        from pylibcudf.strings.contains import like

        return like(self.column(op.args[0]), op.value, "\\")

    def _length(self, op: Op) -> Any:
        from pylibcudf.strings.attributes import count_characters
        from pylibcudf.unary import cast

        return cast(count_characters(self.column(op.args[0])), _kind(op.kind))

    def _count(self, op: Op) -> Any:
        from pylibcudf.lists import count_elements
        from pylibcudf.unary import cast

        return cast(count_elements(self.column(op.args[0])), _kind(op.kind))

    def _among(self, op: Op) -> Any:
        from pylibcudf.search import contains

        return contains(from_arrow(op.value), self.column(op.args[0]))

    def _element(self, op: Op) -> Any:
        from pylibcudf.lists import extract_list_element

        return extract_list_element(self.column(op.args[0]), op.value)

    def _has(self, op: Op) -> Any:
        from pylibcudf.lists import contains

        key = _scalar(op.value, op.args[0].kind.value_type)
        return contains(self.column(op.args[0]), key)


_RUN: dict[str, Callable[[_Runner, Op], Any]] = {
    **dict.fromkeys(COMPARE, _Runner._compare),
    **dict.fromkeys(CASTS, _Runner._cast),
    "is_null": _Runner._is_null,
    "pick": _Runner._pick,
    "either": _Runner._either,
    **dict.fromkeys(("starts_with", "ends_with", "contains"), _Runner._find),
    "like": _Runner._like,
    "length": _Runner._length,
    "count": _Runner._count,
    "among": _Runner._among,
    "element": _Runner._element,
    "has": _Runner._has,
}


def _is_fused(op: Op) -> bool:
    """Return whether an operation can be part of one kernel: not over texts and lists."""
    return op.name in FUSED and not any(map(_is_long, op.args))


def _is_long(op: Op) -> bool:
    return bool(pa.types.is_string(op.kind) or pa.types.is_list(op.kind))


def _scalar(value: Any, kind: pa.DataType) -> Any:
    from pylibcudf import Scalar

    return Scalar.from_arrow(pa.scalar(value, _plain(kind)))


def _plain(kind: pa.DataType) -> pa.DataType:
    """Return a type as libcudf has it: its times are in UTC, and have no zone."""
    zoned = pa.types.is_timestamp(kind) and kind.tz is not None
    return pa.timestamp(kind.unit) if zoned else kind


@cache
def _kind(kind: pa.DataType) -> Any:
    from pylibcudf import DataType

    return DataType.from_arrow(kind)
