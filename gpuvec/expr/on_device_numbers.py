"""Numbers in programs for a card: exact beside each other, and null where they leave 64 bits."""

import math
import operator
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.device.program import Op, constant
from gpuvec.expr import arithmetic
from gpuvec.expr.numbers import INT64_HIGH, INT64_LOW

BOOL, INT64, FLOAT64 = pa.bool_(), pa.int64(), pa.float64()
_EXACT_BITS = 32  # whole numbers so wide are floats of 64 bits without loss
_OPS = {"+": "add", "-": "sub", "*": "mul", "/": "div", "%": "mod"}
_PYTHON = {"+": operator.add, "-": operator.sub, "*": operator.mul}
_ROUND = {"floor": "floor", "ceil": "ceil", "round": "rint"}


def is_number(kind: pa.DataType) -> bool:
    """Return whether values of a type are numbers."""
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind))


def widened(op: Op) -> Op:
    """Return whole numbers as int64, floats as float64."""
    wide, cast = (INT64, "to_int64") if _is_whole(op) else (FLOAT64, "to_float64")
    if op.kind == wide:
        return op
    return constant(op.value, wide) if op.name == "constant" else Op(cast, wide, (op,))


def alike(left: Op, right: Op) -> tuple[Op, Op]:
    """Return two operands in one type, if that changes none of their values."""
    if left.kind == right.kind or not (is_number(left.kind) and is_number(right.kind)):
        return left, right
    if _is_whole(left) == _is_whole(right):
        return widened(left), widened(right)
    exact = _is_exact_float(left) and _is_exact_float(right)
    return (_float(left), _float(right)) if exact else (left, right)


def _is_exact_float(op: Op) -> bool:
    """Return whether the number, or every number of the type, is one of float64."""
    if op.name == "constant":
        return bool(float(op.value) == op.value)
    return not _is_whole(op) or op.kind.bit_width <= _EXACT_BITS


def beside(op: Op, value: Any) -> tuple[Op, Op]:
    """Return an operand and a plain value of its family in one type that holds both exactly."""
    if is_number(op.kind) and not _fits(op.kind, value):
        op = widened(op)
    return op, constant(value, op.kind)


def to_be_filled(op: Op, value: Any) -> Op:
    """Return an operand in the type that `fill_null` gives with a value: of numbers the widest."""
    if not is_number(op.kind):
        return op
    return _float(op) if isinstance(value, float) else widened(op)


def exact_values(kind: pa.DataType, values: pa.Array) -> list[Any]:
    """Return those of some values that a value of a type can equal, each once."""
    plain = values.drop_null().unique().to_pylist()
    return [value for value in plain if _fits(kind, value)] if is_number(kind) else plain


def compute(op: str, left: Op, right: Op) -> Op | None:
    """Return `left op right` as `expr.arithmetic` defines it; None where no program says it."""
    if left.name == right.name == "constant":
        first, second = (pa.scalar(side.value, side.kind) for side in (left, right))
        found = arithmetic.compute(op, first, second, 1)
        return constant(found[0].as_py(), found.type) if found.null_count == 0 else None
    if op == "**":
        return None
    if op == "/" or not (_is_whole(left) and _is_whole(right)):
        return _floats(op, _float(left), _float(right))
    left, right = widened(left), widened(right)
    return _remainder(left, right) if op == "%" else _whole(op, left, right)


def negate(op: Op) -> Op | None:
    """Return minus a number."""
    if _is_whole(op):
        return compute("-", constant(0, INT64), op)
    return compute("*", op, constant(-1.0, FLOAT64))


def call(name: str, op: Op) -> Op:
    """Return `abs`, `floor`, `ceil` or `round` of a number."""
    wide = widened(op)
    if name != "abs":
        return wide if _is_whole(op) else Op(_ROUND[name], FLOAT64, (wide,))
    found = Op("abs", wide.kind, (wide,))
    if op.kind != INT64:
        return found
    return _where(Op("ne", BOOL, (wide, constant(INT64_LOW, INT64))), found)


def _floats(op: str, left: Op, right: Op) -> Op | None:
    found = Op(_OPS[op], FLOAT64, (left, right))
    if op not in ("/", "%"):
        return found
    if right.name == "constant":
        return found if right.value != 0 else None
    return _where(Op("ne", BOOL, (right, constant(0.0, FLOAT64))), found)


def _remainder(left: Op, right: Op) -> Op | None:
    if right.name == "constant":
        if right.value == 0:
            return None
        # the lowest number by -1 overflows; its remainder is 0, as by 1
        by = constant(1 if right.value == -1 else right.value, INT64)
        return Op("mod", INT64, (left, by))
    zero, minus_one = (Op("eq", BOOL, (right, constant(number, INT64))) for number in (0, -1))
    by = Op("pick", INT64, (Op("or", BOOL, (zero, minus_one)), constant(1, INT64), right))
    return _where(Op("not", BOOL, (zero,)), Op("mod", INT64, (left, by)))


def _whole(op: str, left: Op, right: Op) -> Op | None:
    found = Op(_OPS[op], INT64, (left, right))
    corners = [_PYTHON[op](a, b) for a in _bounds(left) for b in _bounds(right)]
    if min(corners) >= INT64_LOW and max(corners) <= INT64_HIGH:
        return found
    if left.name == "constant" or right.name == "constant":
        return _where_inside(op, left, right, found)
    if op == "*":
        return None
    other = right if op == "+" else Op("invert", INT64, (right,))
    signs = Op("bit_and", INT64, tuple(Op("xor", INT64, (a, found)) for a in (left, other)))
    return _where(Op("ge", BOOL, (signs, constant(0, INT64))), found)


def _where_inside(op: str, left: Op, right: Op, found: Op) -> Op:
    """Return a result where the operand beside a constant does not lead out of 64 bits."""
    c = left.value if left.name == "constant" else right.value
    operand = right if left.name == "constant" else left
    if op == "+":
        low, high = INT64_LOW - c, INT64_HIGH - c
    elif op == "*":  # by 0 nothing leaves
        ends = (-(-INT64_LOW // c), INT64_HIGH // c), (-(-INT64_HIGH // c), INT64_LOW // c)
        low, high = ends[0] if c > 0 else ends[1]
    elif left.name == "constant":
        low, high = c - INT64_HIGH, c - INT64_LOW
    else:
        low, high = INT64_LOW + c, INT64_HIGH + c
    least, most = _bounds(operand)
    checks = []
    if low > least:
        checks.append(Op("ge", BOOL, (operand, constant(low, INT64))))
    if high < most:
        checks.append(Op("le", BOOL, (operand, constant(high, INT64))))
    inside = checks[0] if len(checks) == 1 else Op("and", BOOL, tuple(checks))
    return _where(inside, found)


def _where(condition: Op, found: Op) -> Op:
    return Op("pick", found.kind, (condition, found, constant(None, found.kind)))


def _bounds(op: Op) -> tuple[int, int]:
    """Return bounds of whole numbers."""
    if op.name == "constant":
        return op.value, op.value
    kind = op.args[0].kind if op.name == "to_int64" else op.kind
    limits = np.iinfo(kind.to_pandas_dtype())
    return int(limits.min), int(limits.max)


def _fits(kind: pa.DataType, value: float) -> bool:
    """Return whether a type holds a number exactly."""
    if pa.types.is_integer(kind):
        limits = np.iinfo(kind.to_pandas_dtype())
        return isinstance(value, int) and int(limits.min) <= value <= int(limits.max)
    if kind == FLOAT64 or math.isinf(value):
        return True
    with np.errstate(over="ignore"):
        return float(np.float32(value)) == value


def _float(op: Op) -> Op:
    if op.name == "constant":
        return constant(float(op.value), FLOAT64)
    return op if op.kind == FLOAT64 else Op("to_float64", FLOAT64, (op,))


def _is_whole(op: Op) -> bool:
    return bool(pa.types.is_integer(op.kind))
