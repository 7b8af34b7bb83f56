"""Whether any row of a segment can pass a filter, from the bounds of its columns alone.

A condition becomes the set of truth values it may take, an expression the range it may lie in. Both
are only ever too wide: where nothing is known, everything is possible.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from itertools import product
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.expr.bound import Bound, BoundColumn, Coalesce, JsonValue, Known, OneOf
from gpuvec.expr.numbers import FLOATS, INT64_HIGH, INT64_LOW, INTEGERS
from gpuvec.expr.patterns import like_prefix
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
)
from gpuvec.schema import Timestamp


class Statistics(Protocol):
    """Bounds of a scalar field over some rows; see `gpuvec.segment.view.FieldStatistics`."""

    @property
    def low(self) -> Any:
        """No value is below it; None when all are null."""

    @property
    def high(self) -> Any:
        """No value is above it; None when all are null."""

    @property
    def null_count(self) -> int:
        """How many rows are null."""

    @property
    def row_count(self) -> int:
        """How many rows there are."""


Truths = frozenset[bool | None]

_ANY: Truths = frozenset((True, False, None))


@dataclass(frozen=True, slots=True)
class _Range:
    """What values an expression may have.

    `low` and `high` are None where nothing is known of them; `nulls` and `values` say whether there
    may be nulls, and anything else; `nan` whether NaN, which lies outside all bounds, may be among
    the values.
    """

    low: Any = None
    high: Any = None
    nulls: bool = True
    values: bool = True
    nan: bool = True

    @property
    def is_bounded(self) -> bool:
        return self.low is not None and self.high is not None


_UNKNOWN = _Range()


def can_match(bound: Bound, statistics: Callable[[str], Statistics | None]) -> bool:
    """Return whether a row with these statistics may pass a filter; False only if none can.

    Args:
        bound: a condition.
        statistics: of a scalar column; None where nothing is known.
    """
    return True in _truths(bound.tree, statistics)


def _truths(node: Expr, of: Callable[[str], Statistics | None]) -> Truths:
    """Return the truth values that a condition may take."""
    match node:
        case Literal(value=bool() as value):
            return frozenset((value,))
        case Combine(op=op, operands=operands):
            return _combined(op, [_truths(operand, of) for operand in operands])
        case Not(operand=operand):
            return frozenset(None if t is None else not t for t in _truths(operand, of))
        case Compare(op=op, left=left, right=right):
            return _compared(op, _range(left, of), _range(right, of))
        case Known(operand=operand, value=value):
            return _with_nulls(frozenset((value,)), _range(operand, of))
        case OneOf(operand=operand, values=values):
            return _one_of(_range(operand, of), values)
        case IsNull(operand=operand):
            found = _range(operand, of)
            return frozenset(t for t, may in ((True, found.nulls), (False, found.values)) if may)
        case Like(operand=operand, pattern=Literal(value=str() as pattern)):
            prefix, _ = like_prefix(pattern)
            return _begins(_range(operand, of), prefix)
        case Call(name="starts_with", arguments=(operand, Literal(value=str() as prefix))):
            return _begins(_range(operand, of), prefix)
        case Coalesce(operands=operands):
            return _first_known(_truths(operand, of) for operand in operands)
        case BoundColumn():
            found = _range(node, of)
            if found.is_bounded:
                return _with_nulls(frozenset((bool(found.low), bool(found.high))), found)
    return _ANY


def _combined(op: str, parts: list[Truths]) -> Truths:
    join = _and if op == "and" else _or
    found = parts[0]
    for part in parts[1:]:
        found = frozenset(join(a, b) for a, b in product(found, part))
    return found


def _and(a: bool | None, b: bool | None) -> bool | None:
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


def _or(a: bool | None, b: bool | None) -> bool | None:
    if a is True or b is True:
        return True
    return None if a is None or b is None else False


def _first_known(parts: Iterable[Truths]) -> Truths:
    """Return the truth values of the first part that is not null."""
    found: Truths = frozenset((None,))
    for part in parts:
        if None not in found:
            break
        found = (found - {None}) | part
    return found


def _with_nulls(truths: Truths, *ranges: _Range) -> Truths:
    """Return the truth values of a condition that is null where an operand is."""
    if not all(found.values for found in ranges):
        return frozenset((None,))
    return truths | {None} if any(found.nulls for found in ranges) else truths


def _compared(op: str, a: _Range, b: _Range) -> Truths:
    truths: set[bool | None] = set()
    if not (a.is_bounded and b.is_bounded):
        truths = {True, False}
    else:
        try:
            less, more = a.low < b.high, a.high > b.low
            equal = a.low <= b.high and b.low <= a.high
        except TypeError:  # statistics of another type than the column's
            return _ANY
        holds = {
            "==": (equal, less or more), "!=": (less or more, equal),
            "<": (less, equal or more), "<=": (less or equal, more),
            ">": (more, equal or less), ">=": (more or equal, less),
        }[op]  # fmt: skip
        truths.update(truth for truth, may in zip((True, False), holds, strict=True) if may)
    if a.nan or b.nan:
        truths.add(op == "!=")
    return _with_nulls(frozenset(truths), a, b)


def _one_of(found: _Range, values: pa.Array) -> Truths:
    if not len(values):
        return _with_nulls(frozenset((False,)), found)
    truths: set[bool | None] = {True, False}
    if found.is_bounded and not pa.types.is_boolean(values.type):
        try:
            low, high = (pa.scalar(bound, values.type) for bound in (found.low, found.high))
        except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
            return _ANY
        inside = pc.and_(pc.greater_equal(values, low), pc.less_equal(values, high))
        if not pc.any(inside).as_py():
            truths = {False}
    return _with_nulls(frozenset(truths), found)


def _begins(found: _Range, prefix: str) -> Truths:
    truths: set[bool | None] = {True, False}
    known = isinstance(found.low, str) and isinstance(found.high, str)
    if known and (found.high < prefix or found.low[: len(prefix)] > prefix):
        truths = {False}
    return _with_nulls(frozenset(truths), found)


def _range(node: Expr, of: Callable[[str], Statistics | None]) -> _Range:
    """Return the range of an expression."""
    match node:
        case Literal(value=value):
            nan = isinstance(value, float) and math.isnan(value)
            return _UNKNOWN if nan else _Range(value, value, nulls=False, nan=False)
        case BoundColumn():
            return _column_range(node, of(node.name))
        case Negate(operand=operand):
            zero = _Range(0, 0, nulls=False, nan=False)
            return _computed("-", zero, _range(operand, of))
        case Arithmetic(op="+" | "-" | "*" as op, left=left, right=right):
            return _computed(op, _range(left, of), _range(right, of))
        case JsonValue(column=column):
            found = of(column)
            if found is not None and found.null_count >= found.row_count:
                return _Range(values=False)
    return _UNKNOWN


def _column_range(node: BoundColumn, found: Statistics | None) -> _Range:
    if found is None:
        return _UNKNOWN
    is_float = isinstance(node.kind, FLOATS)
    nulls = found.null_count > 0
    if found.null_count >= found.row_count:
        return _Range(nulls=nulls, values=False, nan=False)
    low, high = (_comparable(node, bound) for bound in (found.low, found.high))
    return _Range(low, high, nulls=nulls, nan=is_float)


def _comparable(node: BoundColumn, bound: Any) -> Any:
    """Return a bound as the value that its column is compared as; None if it is of no use."""
    if isinstance(node.kind, Timestamp):
        return bound.astimezone(UTC) if isinstance(bound, datetime) and bound.tzinfo else None
    if isinstance(node.kind, INTEGERS) and not isinstance(bound, int):
        return None
    return None if isinstance(bound, float) and math.isnan(bound) else bound


def _computed(op: str, a: _Range, b: _Range) -> _Range:
    """Return the range of `a op b`, rounded as `gpuvec.expr.arithmetic` rounds."""
    either = _Range(nulls=True, values=a.values and b.values)
    if not (a.is_bounded and b.is_bounded):
        return either
    corners = [(x, y) for x in (a.low, a.high) for y in (b.low, b.high)]
    numbers = [_apply(op, x, y) for x, y in corners]
    if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
        return either
    low, high = min(numbers), max(numbers)
    fits = isinstance(low, float) or (low >= INT64_LOW and high <= INT64_HIGH)
    nulls = a.nulls or b.nulls or not fits
    found = _Range(low, high, nulls=nulls, values=either.values, nan=a.nan or b.nan)
    return found if fits else replace(found, low=None, high=None)


def _apply(op: str, x: Any, y: Any) -> Any:
    if isinstance(x, float) or isinstance(y, float):
        x, y = float(x), float(y)
    if op == "+":
        return x + y
    return x - y if op == "-" else x * y
