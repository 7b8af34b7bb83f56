"""What can be computed over columns in device memory: small trees of operations, and no more.

`gpuvec.expr.on_device` makes them of expressions, `gpuvec.device.cudf_program` runs them on cuDF
columns, and `gpuvec.testing.programs` says what each operation means, over Arrow.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

COMPARE = ("eq", "ne", "lt", "le", "gt", "ge")
LOGIC = ("and", "or", "not", "is_null")
WHOLE = ("xor", "bit_and", "invert")
NUMBER = ("add", "sub", "mul", "div", "mod", "floor", "ceil", "rint", "abs")
CASTS = ("to_int64", "to_float64")
TEXTS = ("starts_with", "ends_with", "contains", "like", "length")
LISTS = ("element", "count", "has")

# Computed for each row from the same row's numbers, times and booleans alone: any tree of these is
# one pass over the columns.
FUSED = frozenset((*COMPARE, *LOGIC, *WHOLE, *NUMBER))


@dataclass(frozen=True, slots=True, eq=False)
class Op:
    r"""One operation.

    Where nothing else is said, a row of the result is null where an argument is. Arguments of
    comparisons, arithmetic and `among` are of one type.

    ========== =================================================================================
    column     the column that `value` names
    constant   `value` in every row, never null, or None: null in every row
    eq … ge    comparison; texts by their UTF-8 bytes; NaN is unequal to all, and not ordered
    and, or    of SQL's three truth values
    is_null    never null
    add … mod  int64, which wraps, or float64; `div` float64; `mod` has the sign of its first
    rint       the nearest whole number as float64, halves to even
    pick       of (condition, a, b) `a` where the condition is true, else `b`, also where null
    either     the first argument, or the second where it is null
    like       `%`, `_` and `\` before a character that stands for itself
    length     characters, int64
    among      whether the argument is in `value`, an Arrow array without null and NaN
    element    of a list, at position `value`; null where the list is shorter
    count      elements of a list, int64, nulls too
    has        whether a list has `value`; a null in the list is no value, and nothing else
    ========== =================================================================================

    Attributes:
        name: of the operation.
        kind: the Arrow type of the result.
        args: what it is computed from.
        value: what goes with it.
        size: operations of the tree.
    """

    name: str
    kind: pa.DataType
    args: tuple["Op", ...] = ()
    value: Any = None
    size: int = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "size", 1 + sum(argument.size for argument in self.args))

    def __str__(self) -> str:
        value = self.value.to_pylist() if isinstance(self.value, pa.Array) else self.value
        if self.name in ("column", "constant"):
            return str(value) if self.name == "column" else repr(value)
        rest = [] if self.value is None else [repr(value)]
        return f"{self.name}({', '.join([*map(str, self.args), *rest])})"


def column(name: str, kind: pa.DataType) -> Op:
    """Return the operation that reads a column."""
    return Op("column", kind, value=name)


def constant(value: Any, kind: pa.DataType) -> Op:
    """Return the operation that gives one value."""
    return Op("constant", kind, value=value)


def columns_of(op: Op) -> frozenset[str]:
    """Return the names of the columns that a tree reads."""
    return frozenset(str(node.value) for node in walk(op) if node.name == "column")


def walk(op: Op) -> Iterator[Op]:
    """Yield a tree's operations, each before its arguments."""
    yield op
    for argument in op.args:
        yield from walk(argument)
