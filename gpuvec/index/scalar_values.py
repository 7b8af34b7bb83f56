"""The different values of a column, in order, and for which of them a condition holds.

Values are numbered by their order, from 0; the number after the last stands for null. Such a number
is a *slot*. What a condition says of a row depends on its slot alone, so that a condition becomes
two sets of slots: those for which it is true, and those for which it is true or null. `and`, `or`
and `not` of SQL act on the two sets without looking at rows.
"""

from bisect import bisect_left, bisect_right
from dataclasses import dataclass
from datetime import datetime
from functools import reduce
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.expr import evaluate as run
from gpuvec.expr.bound import Bound, BoundColumn, Known, OneOf, columns_of
from gpuvec.expr.literals import TIMESTAMP
from gpuvec.expr.numbers import FLIPPED
from gpuvec.expr.patterns import like_parts
from gpuvec.expr.tree import Call, Combine, Compare, Expr, IsNull, Like, Literal, Not
from gpuvec.once import cached_property
from gpuvec.schema import Bool

Runs: TypeAlias = NDArray[np.int64]  # (k, 2): ranges of slots, rising, apart from one another

_BOOL = Bool(nullable=True)
_STEP_NS, _LOOK_NS = 500, 12  # a step of a search among texts; a look at one value


@dataclass(frozen=True, slots=True, eq=False)
class Slots:
    """For which slots a condition holds: `sure` where it is true, `possible` also where null."""

    sure: Runs
    possible: Runs


class Values:
    """The different values of one column.

    Args:
        values: (count,), rising as Arrow sorts them: NaN last, no null. Numbers may be there more
            than once, zeros with both signs; texts only once.
        few: whether they are so few beside the rows that a condition may be run over all of them.
        has_null: whether any row is null.
    """

    def __init__(self, values: pa.Array, *, few: bool, has_null: bool) -> None:
        self._values = values
        self._few = few
        self._has_null = has_null
        self.null = len(values)  # the slot of null
        self.slots = self.null + 1

    def find(self, node: Expr) -> Slots | None:
        """Return for which slots a bound condition holds; None for what is not looked up here.

        Args:
            node: a condition on this column and no other.
        """
        found = self._find(node)
        return self._run(node) if found is None and self._few else found

    def _find(self, node: Expr) -> Slots | None:
        match node:
            case Combine(op=op, operands=operands):
                parts = [self.find(operand) for operand in operands]
                known = [part for part in parts if part is not None]
                if len(known) < len(parts):
                    return None
                return reduce(self._and if op == "and" else self._or, known)
            case Not(operand=operand):
                part = self.find(operand)
                return None if part is None else self._not(part)
            case IsNull(operand=BoundColumn()):
                null = _run(self.null, self.slots)
                return Slots(null, null)
            case Known(operand=BoundColumn(), value=value):
                return self._with_null(_run(0, self.null if value else 0))
        ranges = self._ranges(node)
        return None if ranges is None else self._with_null(ranges)

    def _ranges(self, node: Expr) -> Runs | None:
        """Return the values for which a condition holds that is null for null only."""
        match node:
            case Compare(op=op, left=BoundColumn(), right=Literal(value=value)):
                return self._compared(op, value)
            case Compare(op=op, left=Literal(value=value), right=BoundColumn()):
                return self._compared(FLIPPED[op], value)
            case OneOf(operand=BoundColumn(), values=values):
                return self._one_of(values)
            case Like(operand=BoundColumn(), pattern=Literal(value=str() as pattern)):
                match like_parts(pattern):
                    case (str(text),) if text:
                        return self._compared("==", text)
                    case (str(text), None) if text:
                        return self._begins(text)
            case Call(name="starts_with", arguments=(BoundColumn(), Literal(value=str() as text))):
                return self._begins(text)
        return None

    def _compared(self, op: str, value: Any) -> Runs | None:
        bounds = self._bounds(value)
        if bounds is None:
            return None
        low, high = bounds
        match op:
            case "==":
                return _run(low, high)
            case "!=":
                return inverse(_run(low, high), self.null)
            case "<":
                return _run(0, low)
            case "<=":
                return _run(0, high)
            case ">":
                return _run(high, self._ordered)
        return _run(low, self._ordered)

    def _bounds(self, value: Any) -> tuple[int, int] | None:
        """Return how many values lie below, and how many not above, a value; None: unknown."""
        if self._texts is not None:
            if not isinstance(value, str):
                return None
            low = bisect_left(self._texts, value)
            return low, low + (low < self.null and self._texts[low] == value)
        if self._numbers is None:
            return None
        if isinstance(value, datetime):
            value = pa.scalar(value, TIMESTAMP).value
        if isinstance(value, str | bool) or value != value:
            return None
        return _number_bounds(self._numbers[: self._ordered], value)

    def _begins(self, text: str) -> Runs | None:
        if self._texts is None:
            return None
        size = len(text)
        low = bisect_left(self._texts, text)
        return _run(low, bisect_right(self._texts, text, low, key=lambda found: found[:size]))

    def _one_of(self, wanted: pa.Array) -> Runs | None:
        wanted = wanted.drop_null()
        if self._numbers is not None:
            return self._numbers_of(_numbers(wanted))
        if self._texts is None:
            return None
        if len(wanted) * _STEP_NS * self.slots.bit_length() > self.slots * _LOOK_NS:
            hit = pc.is_in(self._values, value_set=wanted)
            return runs_of(run.bools(hit))
        places = [bisect_left(self._texts, text) for text in wanted.unique().to_pylist()]
        found = np.array(places, np.int64)
        there = found < self.null
        same = pc.is_in(self._values.take(pa.array(found[there])), value_set=wanted)
        return _points(found[there][run.bools(same)])

    def _numbers_of(self, wanted: NDArray[Any]) -> Runs:
        """Return the slots of numbers, each as wide as the column's or wider."""
        assert self._numbers is not None
        have = self._numbers[: self._ordered]
        if have.dtype.kind == "i":
            limits = np.iinfo(have.dtype)
            wanted = wanted[(wanted >= limits.min) & (wanted <= limits.max)]
        with np.errstate(over="ignore"):
            cast = wanted.astype(have.dtype)
        cast = np.unique(cast[cast == wanted])
        low = np.searchsorted(have, cast, "left")
        high = np.searchsorted(have, cast, "right")
        pairs = np.stack([low, high], axis=1)[low < high]
        return either(pairs[:0], pairs)

    def _run(self, node: Expr) -> Slots:
        """Run a condition over one row of each value, and null."""
        names = columns_of(node)
        bound = Bound(expr=node, tree=node, type=_BOOL, columns=names)
        table = pa.table({name: self._with_nulls for name in names or ("",)})
        truth = run.evaluate(bound, table).combine_chunks()
        sure = runs_of(run.bools(truth))
        return Slots(sure, runs_of(run.bools(truth, null=True)) if truth.null_count else sure)

    def _with_null(self, ranges: Runs) -> Slots:
        if not self._has_null:
            return Slots(ranges, ranges)
        if len(ranges) and ranges[-1, 1] == self.null:
            possible = ranges.copy()
            possible[-1, 1] = self.slots
            return Slots(ranges, possible)
        return Slots(ranges, np.concatenate([ranges, _run(self.null, self.slots)]))

    def _and(self, a: Slots, b: Slots) -> Slots:
        sure = self._both(a.sure, b.sure)
        same = a.sure is a.possible and b.sure is b.possible
        return Slots(sure, sure if same else self._both(a.possible, b.possible))

    def _or(self, a: Slots, b: Slots) -> Slots:
        return Slots(either(a.sure, b.sure), either(a.possible, b.possible))

    def _not(self, a: Slots) -> Slots:
        possible = inverse(a.sure, self.slots)
        return Slots(
            possible if a.sure is a.possible else inverse(a.possible, self.slots), possible
        )

    def _both(self, a: Runs, b: Runs) -> Runs:
        if len(a) == len(b) == 1:
            return _run(max(a[0, 0], b[0, 0]), min(a[0, 1], b[0, 1]))
        return inverse(either(inverse(a, self.slots), inverse(b, self.slots)), self.slots)

    @cached_property
    def _numbers(self) -> NDArray[Any] | None:
        kind = self._values.type
        plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
        return _numbers(self._values) if plain or pa.types.is_timestamp(kind) else None

    @cached_property
    def _ordered(self) -> int:
        """How many values there are before NaN."""
        if self._numbers is None or self._numbers.dtype.kind != "f":
            return self.null
        return int(np.searchsorted(self._numbers, np.nan))

    @cached_property
    def _texts(self) -> "_Texts | None":
        return _Texts(self._values) if pa.types.is_string(self._values.type) else None

    @cached_property
    def _with_nulls(self) -> pa.Array:
        return pa.concat_arrays([self._values, pa.nulls(1, self._values.type)])


class _Texts:
    """Texts for `bisect`, which Arrow and Python order alike."""

    def __init__(self, values: pa.Array) -> None:
        self._values = values

    def __len__(self) -> int:
        return len(self._values)

    def __getitem__(self, place: int) -> str:
        return str(self._values[place])


def _numbers(values: pa.Array) -> NDArray[Any]:
    """Return numbers, or instants as microseconds, over Arrow's memory."""
    if pa.types.is_timestamp(values.type):
        values = values.cast(TIMESTAMP).view(pa.int64())
    dtype = np.dtype(values.type.to_pandas_dtype())
    data = values.buffers()[1]
    if data is None or not len(values):
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(values), values.offset * dtype.itemsize)


def _number_bounds(have: NDArray[Any], value: int | float) -> tuple[int, int]:
    """Return how many numbers are below, and how many not above, one of any size."""
    if have.dtype.kind == "i":
        limits = np.iinfo(have.dtype)
        if value > limits.max or value < limits.min:
            return (len(have),) * 2 if value > 0 else (0, 0)
        near = have.dtype.type(value)
    else:
        with np.errstate(over="ignore"):
            near = have.dtype.type(value)
    low, high = (int(np.searchsorted(have, near, side)) for side in ("left", "right"))
    rounded = near.item()
    if rounded == value:
        return low, high
    return (low, low) if rounded > value else (high, high)


def _run(start: Any, stop: Any) -> Runs:
    return np.array([[start, stop]], np.int64) if start < stop else np.empty((0, 2), np.int64)


def _points(slots: NDArray[np.int64]) -> Runs:
    return either(np.empty((0, 2), np.int64), np.stack([slots, slots + 1], axis=1))


def runs_of(flags: NDArray[np.bool_]) -> Runs:
    """Return where flags are set."""
    framed = np.zeros(len(flags) + 2, np.int8)
    framed[1:-1] = flags
    return np.flatnonzero(np.diff(framed)).reshape(-1, 2)


def either(a: Runs, b: Runs) -> Runs:
    """Return what is in one of two sets; `b` may be in any order and overlap itself."""
    pairs = np.concatenate([a, b])
    if len(pairs) < 2:
        return pairs
    pairs = pairs[np.argsort(pairs[:, 0], kind="stable")]
    stops = np.maximum.accumulate(pairs[:, 1])
    first = np.concatenate([[True], pairs[1:, 0] > stops[:-1]])
    last = np.concatenate([first[1:], [True]])
    return np.stack([pairs[first, 0], stops[last]], axis=1)


def inverse(runs: Runs, slots: int) -> Runs:
    """Return the other slots."""
    edges = np.concatenate([[0], runs.ravel(), [slots]]).reshape(-1, 2)
    found: Runs = edges[edges[:, 0] < edges[:, 1]]
    return found
