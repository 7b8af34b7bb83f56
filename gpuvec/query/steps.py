"""Filters step by step: what a scalar index answers is not read, the rest runs on few rows.

A condition falls apart at `and`, `or` and `not`. Parts that read one indexed field are asked of its
index, all conditions on one field together, so that `10 <= price < 20` is one range. What is left
runs over columns; beside an `and` the cheap parts first, and each only over the rows that those
before it leave, if that costs less. Each step gives the rows for which a condition is true, or
those for which it is true or null, whichever the step above needs: so SQL's three truth values hold
throughout.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import reduce
from weakref import WeakKeyDictionary

import numpy as np

from gpuvec.expr.bound import Bound, columns_of
from gpuvec.expr.tree import Combine, Expr, Not
from gpuvec.expr.weigh import CHOOSE, TAKE, weight
from gpuvec.index.scalar import Answer, ScalarIndex
from gpuvec.types import RowMask

# Runs a step over columns: of the rows in the mask, or of all; with True, null counts as true.
# Rows out of the mask are False.
RunOver = Callable[["Step", RowMask | None, bool], RowMask]
Indexes = Mapping[str, ScalarIndex]  # by field

_MASK_NS, _SET_NS = 0.06, 2.0  # of an index's answer: each row of the segment, each row set
_UNEQUAL = 8  # parts of an `and` are run apart if one costs so many times what another does


@dataclass(frozen=True, slots=True)
class Step:
    """A condition, and how its rows are found: by an index, from its parts, or over columns."""

    node: Expr
    weight: float  # of what is run over columns, per row
    answer: Answer | None = None
    parts: tuple["Step", ...] = ()
    fields: frozenset[str] = field(default_factory=frozenset)  # those whose index is asked

    @property
    def is_split(self) -> bool:
        """Whether there is anything to gain over running the whole condition over columns."""
        return self.answer is not None or bool(self.parts)


@dataclass(frozen=True, slots=True)
class _Shape:
    """A condition and its parts, the same for all segments that have indexes of the same fields.

    Attributes:
        node: the condition.
        weight: of running it over columns, per row.
        field: the indexed field that it reads, if it reads no other column.
        parts: operands of `and`, `or` and `not`, those on one indexed field as one.
    """

    node: Expr
    weight: float
    field: str | None
    parts: tuple["_Shape", ...]


_unindexed: WeakKeyDictionary[Bound, Step] = WeakKeyDictionary()
_shapes: WeakKeyDictionary[Bound, dict[frozenset[str], _Shape]] = WeakKeyDictionary()


def plan(bound: Bound, rows: int, indexes: Indexes) -> Step:
    """Return how the rows of a condition will be found.

    Args:
        bound: the condition.
        rows: of the segment.
        indexes: of the segment's fields.
    """
    if not indexes:
        step = _unindexed.get(bound)
        if step is None:
            shape = _shape(bound.tree, columns_of(bound.tree), frozenset())
            step = _unindexed[bound] = _plan(shape, 0, {})
        return step
    shapes = _shapes.setdefault(bound, {})
    fields = frozenset(indexes)
    if fields not in shapes:
        shapes[fields] = _shape(bound.tree, columns_of(bound.tree), fields)
    return _plan(shapes[fields], rows, indexes)


def _plan(shape: _Shape, rows: int, indexes: Indexes) -> Step:
    if shape.field is not None:
        answer = indexes[shape.field].ask(shape.node)
        if answer is not None and _pays(answer, shape.weight, rows):
            return Step(shape.node, 0.0, answer, fields=frozenset((shape.field,)))
    parts = [_plan(part, rows, indexes) for part in shape.parts]
    weights = [part.weight for part in parts]
    is_and = isinstance(shape.node, Combine) and shape.node.op == "and"
    mixed = is_and and max(weights) > _UNEQUAL * min(weights) and max(weights) > TAKE
    if mixed or any(part.is_split for part in parts):
        fields = frozenset[str]().union(*(part.fields for part in parts))
        return Step(shape.node, sum(weights), None, tuple(parts), fields)
    return Step(shape.node, shape.weight)


def _shape(node: Expr, names: frozenset[str], fields: frozenset[str]) -> _Shape:
    groups: list[tuple[Expr, frozenset[str]]] = []
    match node:
        case Combine(op=op, operands=operands):
            groups = _by_field(op, operands, fields)
        case Not(operand=operand):
            groups = [(operand, names)]
    only = next(iter(names)) if len(names) == 1 and names <= fields else None
    return _Shape(node, weight(node), only, tuple(_shape(*group, fields) for group in groups))


def _by_field(
    op: str, operands: tuple[Expr, ...], fields: frozenset[str]
) -> list[tuple[Expr, frozenset[str]]]:
    """Return the operands, all those on one indexed field as one, and the columns of each."""
    alone = [(operand, columns_of(operand)) for operand in operands]
    groups: dict[object, list[Expr]] = {}
    for place, (operand, names) in enumerate(alone):
        key = names if len(names) == 1 and names <= fields else place
        groups.setdefault(key, []).append(operand)
    if len(groups) in (1, len(alone)):  # the index could not answer all of them together
        return alone
    joined = (
        group[0] if len(group) == 1 else Combine(op, tuple(group)) for group in groups.values()
    )
    return [(part, columns_of(part)) for part in joined]


def _pays(answer: Answer, weight: float, rows: int) -> bool:
    return _MASK_NS * rows + _SET_NS * answer.scattered <= weight * rows


def narrow(cost: float, columns: int, rows: int, among: int) -> bool:
    """Return whether a condition had better run over chosen rows than over all.

    Args:
        cost: of the condition, per row.
        columns: that it reads.
        rows: of the segment.
        among: so many of them matter.
    """
    return CHOOSE * rows + (TAKE * columns + cost) * among < cost * rows


def find(step: Step, run: RunOver, among: RowMask | None, *, null: bool = False) -> RowMask:
    """Return the rows for which a condition is true, or with `null`, true or null.

    Args:
        step: from `plan`.
        run: runs a condition over columns.
        among: the rows that matter; the answer for others means nothing. None: all.
        null: see above.
    """
    if step.answer is not None:
        return step.answer.mask(null=null)
    if not step.parts:
        return run(step, among, null)
    if isinstance(step.node, Not):
        return ~find(step.parts[0], run, among, null=not null)
    assert isinstance(step.node, Combine)
    if step.node.op == "or":
        return reduce(np.logical_or, [find(part, run, among, null=null) for part in step.parts])
    found = among
    for part in sorted(step.parts, key=lambda part: part.weight):
        mask = find(part, run, found, null=null)
        found = mask if found is None else mask & found
    assert found is not None
    return found
