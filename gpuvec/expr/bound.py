"""What binding makes of an expression: a tree with settled names and types, and its own nodes.

In a bound tree comparisons have sides of one family (numbers, texts, times, booleans), literals are
exact in the type they are compared in, and every use of a JSON value says which kind of value it
wants.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.expr.tree import Expr
from gpuvec.expr.walk import children
from gpuvec.schema import FieldType


@dataclass(frozen=True, slots=True, eq=False)
class BoundColumn(Expr):
    """A scalar column."""

    name: str
    kind: FieldType


@dataclass(frozen=True, slots=True, eq=False)
class JsonValue(Expr):
    """What lies at `path` in a JSON column, where it is of the wanted kind; null elsewhere.

    `wanted`: `int` (whole numbers of 64 bits), `float` (the other numbers), `number` (all, as
    float64), `string`, `bool`, `text` (anything but null, as JSON text), `array` (only below
    functions that look into it).
    """

    column: str
    path: tuple[str | int, ...]
    wanted: str


@dataclass(frozen=True, slots=True, eq=False)
class OneOf(Expr):
    """Whether the operand equals one of `values`: int64, float64, or of its own Arrow type."""

    operand: Expr
    values: pa.Array


@dataclass(frozen=True, slots=True, eq=False)
class Known(Expr):
    """`value` where the operand is not null, null elsewhere: comparisons that the types decide."""

    operand: Expr
    value: bool


@dataclass(frozen=True, slots=True, eq=False)
class Coalesce(Expr):
    """The first of the operands that is not null."""

    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Group:
    """Distinct values of one Arrow type, numbered (k,) int64; equal ones elsewhere share it."""

    values: pa.Array
    ids: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Contains(Expr):
    """Whether a list, or the JSON array at a path, has `all` or `any` of some values.

    Attributes:
        operand: a list, or a `JsonValue` that wants `array`.
        mode: `all` or `any`.
        groups: one for a list; for JSON one for each kind of value in `kinds`.
        kinds: of JSON, the kind of each group: `int`, `float`, `string`, `bool`.
        needed: how many distinct values were asked for; some may be in no group, because nothing
            can equal them.
    """

    operand: Expr
    mode: str
    groups: tuple[Group, ...]
    needed: int
    kinds: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class VectorDistance(Expr):
    """The distance of a vector field to one query.

    Attributes:
        field: the vector field.
        values: (dim,) float32; for binary fields (dim / 8,) uint8, packed.
        metric: of the field, where the expression named none.
        number: which of the expression's distances it is.
    """

    field: str
    values: NDArray[np.float32] | NDArray[np.uint8]
    metric: str
    number: int


def columns_of(tree: Expr) -> frozenset[str]:
    """Return the columns that a bound tree reads, vectors whose distance it asks for among them."""
    match tree:
        case BoundColumn(name=name):
            return frozenset((name,))
        case JsonValue(column=name) | VectorDistance(field=name):
            return frozenset((name,))
    return frozenset[str]().union(*map(columns_of, children(tree)))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, weakref_slot=True)
class Bound:
    """An expression that fits a schema.

    Attributes:
        expr: the expression as written.
        tree: the bound tree.
        type: of the values; computed ones are nullable.
        columns: the columns that it reads.
        present: those of them that are vectors, of which it asks only whether they are null.
        distances: the distances that it needs, in the order of their numbers.
    """

    expr: Expr
    tree: Expr
    type: FieldType
    columns: frozenset[str]
    present: frozenset[str] = frozenset()
    distances: tuple[VectorDistance, ...] = ()

    @property
    def vectors(self) -> frozenset[str]:
        """The vector fields that it reads."""
        return frozenset(distance.field for distance in self.distances)


def part_of(bound: Bound, tree: Expr) -> Bound:
    """Return a condition within a bound one, `tree`, as a bound one of its own."""
    names = columns_of(tree)
    return Bound(
        expr=bound.expr,
        tree=tree,
        type=bound.type,
        columns=names & bound.columns,
        present=names & bound.present,
        distances=tuple(d for d in bound.distances if d.field in names),
    )
