"""Comparing numbers of different types exactly: what a literal becomes beside a column."""

import math
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.expr.bound import Known
from gpuvec.expr.literals import Values
from gpuvec.expr.tree import Compare, Expr, Literal
from gpuvec.schema import FieldType, Float32, Float64, Int8, Int16, Int32, Int64

INTEGERS = (Int8, Int16, Int32, Int64)
FLOATS = (Float32, Float64)
INT64_LOW, INT64_HIGH = -(2**63), 2**63 - 1
FLIPPED = {"==": "==", "!=": "!=", "<": ">", "<=": ">=", ">": "<", ">=": "<="}


def compare_number(op: str, operand: Expr, kind: FieldType, value: int | float) -> Expr:
    """Return `operand op value` as a comparison that is exact.

    A float beside a Float32 column is rounded to float32 first, as NumPy and Milvus do, so that
    `price == 0.1` finds a stored 0.1; everything else compares as the numbers that they are.
    """
    if isinstance(value, float) and math.isnan(value):
        return Known(operand, op == "!=")
    if isinstance(kind, INTEGERS):
        return _beside_integer(op, operand, value)
    if isinstance(value, int):
        return _beside_float(op, operand, value)
    return Compare(op, operand, Literal(_as_stored(kind, value)))


def _beside_integer(op: str, operand: Expr, value: int | float) -> Expr:
    if isinstance(value, float):
        if math.isinf(value):
            return _beyond(op, operand, above=value > 0)
        below = math.floor(value)
        if below != value:
            return _between(op, operand, below, below + 1)
        value = below
    if not INT64_LOW <= value <= INT64_HIGH:
        return _beyond(op, operand, above=value > 0)
    return Compare(op, operand, Literal(value))


def _beside_float(op: str, operand: Expr, value: int) -> Expr:
    try:
        near = float(value)
    except OverflowError:
        near = math.inf if value > 0 else -math.inf
    if near == value:
        return Compare(op, operand, Literal(near))
    if near > value:
        return _between(op, operand, math.nextafter(near, -math.inf), near)
    return _between(op, operand, near, math.nextafter(near, math.inf))


def _between(op: str, operand: Expr, below: int | float, above: int | float) -> Expr:
    """Compare with a number that lies between two neighbours of the operand's type."""
    if op in ("==", "!="):
        return Known(operand, op == "!=")
    return (
        Compare("<=", operand, Literal(below))
        if op[0] == "<"
        else Compare(">=", operand, Literal(above))
    )


def _beyond(op: str, operand: Expr, *, above: bool) -> Expr:
    """Compare an integer with a number above, or below, all of its type."""
    return Known(operand, op == "!=" or op[0] == ("<" if above else ">"))


def _as_stored(kind: FieldType, value: float) -> float:
    if not isinstance(kind, Float32) or math.isinf(value):
        return value
    with np.errstate(over="ignore", under="ignore"):
        rounded = float(np.float32(value))
    return value if math.isinf(rounded) or (rounded == 0) != (value == 0) else rounded


def matching_numbers(kind: FieldType, values: Values) -> pa.Array:
    """Return the numbers of a list that a column of this type can equal, as int64 or float64."""
    if (
        isinstance(values, pa.Array)
        and isinstance(kind, INTEGERS)
        and pa.types.is_int64(values.type)
    ):
        return values
    plain: list[Any] = values.to_pylist() if isinstance(values, pa.Array) else list(values)
    if isinstance(kind, INTEGERS):
        whole = (v for v in plain if isinstance(v, int) or v.is_integer())
        return pa.array([int(v) for v in whole if INT64_LOW <= v <= INT64_HIGH], pa.int64())
    return pa.array(
        [v for v in (_float_equal(kind, v) for v in plain) if v is not None], pa.float64()
    )


def _float_equal(kind: FieldType, value: int | float) -> float | None:
    if isinstance(value, float):
        return None if math.isnan(value) else _as_stored(kind, value) + 0.0  # no -0.0
    try:
        near = float(value)
    except OverflowError:
        return None
    return near if near == value else None
