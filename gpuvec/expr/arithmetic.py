"""Arithmetic and comparisons that lose no digits, on Arrow arrays.

int64 with int64 gives int64, except `/` and `**`, which give float64; anything with a float gives
float64. A whole result beyond 64 bits is null, and so is a division, or remainder, by zero. A
remainder has the sign of the dividend, as in C and SQL. Floats follow IEEE 754 otherwise.
"""

import operator
from functools import lru_cache
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Value: TypeAlias = Any  # a `pa.Array`, or a `pa.Scalar` where all rows have the same value

_LOWEST = np.int64(-(2**63))
_COMPUTE = {"+": pc.add, "-": pc.subtract, "*": pc.multiply}
_PLAIN = {"+": operator.add, "-": operator.sub, "*": operator.mul}
FEW_VALUES = 16  # compared one by one, which is quicker than looking them up
SPAN = 1 << 20  # of whole numbers that are looked up in a table
_COMPARE = {
    "==": pc.equal, "!=": pc.not_equal, "<": pc.less,
    "<=": pc.less_equal, ">": pc.greater, ">=": pc.greater_equal,
}  # fmt: skip


def compute(op: str, left: Value, right: Value, rows: int) -> pa.Array:
    """Return `left op right` as int64 or float64, (rows,); op is one of `+ - * / % **`."""
    if not (isinstance(left, pa.Scalar) and isinstance(right, pa.Scalar)):
        quick = _quick(op, left, right)
        if quick is not None:
            return quick
    a, a_null = _numbers(left, rows)
    b, b_null = _numbers(right, rows)
    null = _either(a_null, b_null)
    with np.errstate(all="ignore"):
        if op in ("/", "**") or a.dtype.kind == "f" or b.dtype.kind == "f":
            found, wrong = _float_result(op, a.astype(np.float64), b.astype(np.float64))
        else:
            found, wrong = _whole_result(op, a.astype(np.int64), b.astype(np.int64))
    return pa.array(np.broadcast_to(found, rows), mask=_mask(_either(null, wrong), rows))


def is_one_of(operand: pa.Array, values: pa.Array) -> pa.Array:
    """Return which values are among others, bool; anything where null."""
    kind = operand.type
    is_float = pa.types.is_floating(kind)
    if not (is_float or pa.types.is_integer(kind)):
        return pc.is_in(operand, value_set=values)
    plain, _ = _numbers(operand, len(operand))
    wanted = values.drop_null().unique().to_numpy(zero_copy_only=False)
    if not is_float:
        limits = np.iinfo(plain.dtype)
        wanted = wanted[(wanted >= limits.min) & (wanted <= limits.max)]
    with np.errstate(over="ignore"):
        near = wanted.astype(plain.dtype)
    near = near[near == wanted]
    if len(near) <= FEW_VALUES:
        found = np.zeros(len(plain), bool)
        for value in near:
            found |= plain == value
        return pa.array(found)
    if not is_float and int(near.max()) - int(near.min()) < SPAN:
        return pa.array(np.isin(plain, near, kind="table"))
    if is_float:
        return pc.is_in(plain_zeros(operand.cast(pa.float64())), value_set=values)
    return pc.is_in(operand.cast(pa.int64()), value_set=values)


def negate(value: Value, rows: int) -> pa.Array:
    """Return minus the value."""
    if _is_float(value):
        # 0 - x would lose the sign of zero
        return compute("*", value, pa.scalar(-1.0), rows)
    return compute("-", pa.scalar(0), value, rows)


def compare(op: str, left: Value, right: Value, rows: int) -> Value:
    """Return `left op right` of one family; whole numbers beside floats compare exactly."""
    if _is_whole(left) and _is_float(right):
        return _compare_mixed(op, left, right, rows)
    if _is_float(left) and _is_whole(right):
        flipped = {"<": ">", "<=": ">=", ">": "<", ">=": "<="}.get(op, op)
        return _compare_mixed(flipped, right, left, rows)
    return _COMPARE[op](*_alike(left, right))


def plain_zeros(floats: pa.Array) -> pa.Array:
    """Return the numbers with 0.0 for -0.0, which are equal but hash differently."""
    return pc.add(floats, pa.scalar(0.0, floats.type))


def _quick(op: str, left: Value, right: Value) -> pa.Array | None:
    """Return a result in one pass of Arrow's, where it needs no look at single rows."""
    run = _COMPUTE.get(op)
    if run is None:
        return None
    if _is_float(left) or _is_float(right):
        return run(left.cast(pa.float64(), safe=False), right.cast(pa.float64(), safe=False))
    if not _stays_whole(op, _bounds(left), _bounds(right)):
        return None
    return run(left.cast(pa.int64()), right.cast(pa.int64()))


def _stays_whole(op: str, a: tuple[int, int], b: tuple[int, int]) -> bool:
    """Return whether no result leaves 64 bits."""
    corners = [_PLAIN[op](x, y) for x in a for y in b]
    return bool(min(corners) >= _LOWEST and max(corners) < -int(_LOWEST))


def _bounds(value: Value) -> tuple[int, int]:
    """Return bounds of whole numbers: those of the type where it is small."""
    if isinstance(value, pa.Scalar):
        return (value.as_py() or 0,) * 2
    if value.type != pa.int64():
        limits = np.iinfo(value.type.to_pandas_dtype())
        return int(limits.min), int(limits.max)
    found = pc.min_max(value).as_py()
    return found["min"] or 0, found["max"] or 0


def _alike(left: Value, right: Value) -> tuple[Value, Value]:
    """Give a literal the type of the column beside it, if it fits: columns are not widened."""
    for literal, column, place in ((left, right, 0), (right, left, 1)):
        if isinstance(literal, pa.Scalar) and literal.type != column.type and literal.is_valid:
            cast = _cast_exactly(literal.as_py(), literal.type, column.type)
            if cast is not None:
                return (cast, column) if place == 0 else (column, cast)
    return left, right


@lru_cache(maxsize=1024)
def _cast_exactly(value: Any, kind: pa.DataType, wanted: pa.DataType) -> Value | None:
    """Return a literal in another type; None where it loses digits."""
    literal = pa.scalar(value, kind)
    try:
        cast = literal.cast(wanted)
    except pa.ArrowInvalid:
        return None
    return cast if cast.cast(kind).equals(literal) else None


def _compare_mixed(op: str, whole: Value, floats: Value, rows: int) -> pa.Array:
    a, a_null = _numbers(whole, rows)
    b, b_null = _numbers(floats, rows)
    a, b = a.astype(np.int64), b.astype(np.float64)
    with np.errstate(all="ignore"):
        low = np.floor(b)
        above, below = low >= 2.0**63, low < -(2.0**63)  # the float is; false for NaN
        near = np.where(above | below | np.isnan(b), 0.0, low).astype(np.int64)
        less = above | (~below & ((a < near) | ((a == near) & (b > low))))
        equal = ~above & ~below & (a == near) & (b == low)
    nan = np.isnan(b)
    less, equal = less & ~nan, equal & ~nan
    more = ~less & ~equal & ~nan
    found = {
        "==": equal, "!=": ~equal, "<": less, "<=": less | equal, ">": more, ">=": more | equal,
    }[op]  # fmt: skip
    return pa.array(np.broadcast_to(found, rows), mask=_mask(_either(a_null, b_null), rows))


def _float_result(op: str, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    match op:
        case "+":
            return a + b, None
        case "-":
            return a - b, None
        case "*":
            return a * b, None
        case "/":
            return a / b, b == 0
        case "%":
            return np.fmod(a, b), b == 0
    # the C library's pow: NumPy's has other results at other lengths and on other processors
    a, b = np.broadcast_arrays(a, b)
    return pc.power(pa.array(a), pa.array(b)).to_numpy(), None


def _whole_result(op: str, a: NDArray[Any], b: NDArray[Any]) -> tuple[NDArray[Any], Any]:
    """Return the result, and where it has none."""
    if op == "%":
        zero = b == 0
        divisor = np.where(zero | (b == -1), 1, b)  # the lowest number % -1 would trap
        return np.fmod(a, divisor), zero
    if op == "*":
        found = a * b
        lowest = ((a == _LOWEST) & (b == -1)) | ((b == _LOWEST) & (a == -1))
        divisor = np.where((b == 0) | (b == -1), 1, b)
        exact = (b == 0) | (b == -1) | (found // divisor == a)
        return found, lowest | ~exact
    found = a + b if op == "+" else a - b
    other = b if op == "+" else ~b
    return found, ((a ^ found) & (other ^ found)) < 0


def _numbers(value: Value, rows: int) -> tuple[NDArray[Any], Any]:
    """Return the numbers, (rows,) or (1,), and where they are null: a mask, or None."""
    if isinstance(value, pa.Scalar):
        if not value.is_valid:
            return np.zeros(1, np.int64 if _is_whole(value) else np.float64), np.ones(1, bool)
        return np.array([value.as_py()]), None
    if not value.null_count:
        return value.to_numpy(zero_copy_only=False), None
    filled = pc.fill_null(value, pa.scalar(0, value.type))
    return filled.to_numpy(zero_copy_only=False), value.is_null().to_numpy(False)


def _either(a: Any, b: Any) -> Any:
    if a is None or b is None:
        return b if a is None else a
    return a | b


def _mask(null: Any, rows: int) -> Any:
    return None if null is None else np.broadcast_to(null, rows)


def _is_float(value: Value) -> bool:
    return bool(pa.types.is_floating(value.type))


def _is_whole(value: Value) -> bool:
    return bool(pa.types.is_integer(value.type))
