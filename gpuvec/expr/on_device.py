"""Bound expressions as programs that a card runs, with the meaning that `evaluate` gives them.

What a program cannot say in the same way to the last row stays with the host: JSON, letter case,
words, powers, products of two whole columns, whole numbers beside floats that lose digits.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from typing import Any, NoReturn

import pyarrow as pa

from gpuvec.device.program import Op, column, constant, walk
from gpuvec.expr import on_device_numbers as numbers
from gpuvec.expr.bound import Bound, BoundColumn, Contains, Known, OneOf, part_of
from gpuvec.expr.numbers import FLIPPED
from gpuvec.expr.patterns import like_parts
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
from gpuvec.schema import List

BOOL, INT64, FLOAT64 = pa.bool_(), pa.int64(), pa.float64()
NO_COLUMN = "values without a column"  # which is no work for a card
MOST_OPS = 200  # of a program
FEW_VALUES = 8  # compared one by one, in one pass with what is around them
_COMPARE = {"==": "eq", "!=": "ne", "<": "lt", "<=": "le", ">": "gt", ">=": "ge"}


class HostOnly(Exception):
    """What a card cannot compute as the host does; its text names the operation."""


@dataclass(frozen=True, slots=True, eq=False)
class Split:
    """A condition as what a card does of it, and what the host does; true where both are.

    Attributes:
        program: gives a truth value for each row; None: nothing is left for the card.
        rest: what is left for the host; None: nothing.
        reasons: the operations for which it is.
    """

    program: Op | None
    rest: Bound | None
    reasons: tuple[str, ...]


def split(bound: Bound, refuses: Callable[[Op], str] = lambda program: "") -> Split:
    """Divide a condition between card and host; operands of an outer `and` go each their way.

    Args:
        bound: the condition.
        refuses: names the operation of a program that the card's engine lacks; empty: none.
    """
    tree = bound.tree
    parts = tree.operands if isinstance(tree, Combine) and tree.op == "and" else (tree,)
    programs, rest, reasons = [], [], []
    for part in parts:
        try:
            program = program_of(bound, part)
            if why := refuses(program):
                _refuse(why)
            programs.append(program)
        except HostOnly as found:
            rest.append(part)
            reasons.append(str(found))
    left = bound if len(rest) == len(parts) else None
    if rest and left is None:
        left = part_of(bound, rest[0] if len(rest) == 1 else Combine("and", tuple(rest)))
    whole = reduce(_and, programs) if programs else None
    return Split(whole, left, tuple(dict.fromkeys(reasons)))


def program_of(bound: Bound, tree: Expr | None = None) -> Op:
    """Return the program of an expression, or of a part of it.

    Raises:
        HostOnly: there is none.
    """
    found = _Translator(bound.present).op(bound.tree if tree is None else tree)
    for op in walk(found):  # a kernel runs over the rows of columns: each operation needs one
        is_leaf = op.name == "column" or (op.name == "constant" and op is not found)
        if not is_leaf and all(argument.name == "constant" for argument in op.args):
            _refuse(NO_COLUMN)
    return found


def _and(a: Op, b: Op) -> Op:
    return Op("and", BOOL, (a, b))


def _or(a: Op, b: Op) -> Op:
    return Op("or", BOOL, (a, b))


def _known(op: Op, value: bool) -> Op:
    """Return a value where another is not null, null elsewhere."""
    there = Op("not", BOOL, (Op("is_null", BOOL, (op,)),))
    return Op("pick", BOOL, (there, constant(value, BOOL), constant(None, BOOL)))


def _refuse(what: str) -> NoReturn:
    raise HostOnly(what)


class _Translator:
    """Makes programs of bound trees.

    Args:
        present: vector columns of which it is asked only whether they are null.
    """

    def __init__(self, present: frozenset[str]) -> None:
        self._present = present

    def op(self, node: Expr) -> Op:
        """Return a node's program."""
        make = _TRANSLATORS.get(type(node))
        if make is None:
            _refuse(_NAMES.get(type(node).__name__, type(node).__name__))
        found = make(self, node)
        if found.size > MOST_OPS:  # checks of 64 bits name their operands several times
            _refuse("so many parts")
        return found

    def _column(self, node: BoundColumn) -> Op:
        if node.name in self._present:
            _refuse("null vectors")
        return column(node.name, node.kind.arrow_type())

    def _literal(self, node: Literal) -> Op:
        if isinstance(node.value, bool):
            return constant(node.value, BOOL)
        _refuse(NO_COLUMN)

    def _compare(self, node: Compare) -> Op:
        match node.left, node.right:
            case Literal(), Literal():
                _refuse(NO_COLUMN)
            case Literal(value=value), other:
                return self._beside(FLIPPED[node.op], self.op(other), value)
            case other, Literal(value=value):
                return self._beside(node.op, self.op(other), value)
        left, right = numbers.alike(self.op(node.left), self.op(node.right))
        if left.kind != right.kind:
            _refuse("a comparison of whole numbers with floats")
        return Op(_COMPARE[node.op], BOOL, (left, right))

    def _beside(self, op: str, operand: Op, value: Any) -> Op:
        operand, number = numbers.beside(operand, value)
        return Op(_COMPARE[op], BOOL, (operand, number))

    def _combine(self, node: Combine) -> Op:
        join = _and if node.op == "and" else _or
        return reduce(join, map(self.op, node.operands))

    def _not(self, node: Not) -> Op:
        return Op("not", BOOL, (self.op(node.operand),))

    def _is_null(self, node: IsNull) -> Op:
        return Op("is_null", BOOL, (self.op(node.operand),))

    def _known(self, node: Known) -> Op:
        return _known(self.op(node.operand), node.value)

    def _arithmetic(self, node: Arithmetic) -> Op:
        left, right = map(self._number, (node.left, node.right))
        found = numbers.compute(node.op, left, right)
        return found if found is not None else _refuse(f'"{node.op}" of such numbers')

    def _number(self, node: Expr) -> Op:
        if isinstance(node, Literal):
            return constant(node.value, FLOAT64 if isinstance(node.value, float) else INT64)
        return self.op(node)

    def _negate(self, node: Negate) -> Op:
        found = numbers.negate(self._number(node.operand))
        return found if found is not None else _refuse("minus a number")

    def _one_of(self, node: OneOf) -> Op:
        operand = self.op(node.operand)
        values = numbers.exact_values(operand.kind, node.values)
        if not len(values):
            return _known(operand, False)
        if len(values) > FEW_VALUES or pa.types.is_string(operand.kind):
            return Op("among", BOOL, (operand,), pa.array(values, operand.kind))
        return reduce(_or, (self._beside("==", operand, value) for value in values))

    def _like(self, node: Like) -> Op:
        operand = self.op(node.operand)
        assert isinstance(node.pattern, Literal)
        match like_parts(str(node.pattern.value)):
            case ():
                return self._beside("==", operand, "")
            case (str(text),) if text:
                return self._beside("==", operand, text)
            case (str(text), None) if text:
                return Op("starts_with", BOOL, (operand,), text)
            case (None, str(text)) if text:
                return Op("ends_with", BOOL, (operand,), text)
            case (None, str(text), None) if text:
                return Op("contains", BOOL, (operand,), text)
            case parts:
                return Op("like", BOOL, (operand,), "".join(map(_escaped, parts or ())))

    def _subscript(self, node: Subscript) -> Op:
        lists = self.op(node.operand)
        assert isinstance(node.key, Literal)
        return Op("element", lists.kind.value_type, (lists,), node.key.value)

    def _contains(self, node: Contains) -> Op:
        if not isinstance(node.operand, BoundColumn) or not isinstance(node.operand.kind, List):
            _refuse("JSON values")
        lists, group = self.op(node.operand), node.groups[0]
        by_id: dict[int, list[Op]] = {}
        item = lists.kind.value_type
        for value, number in zip(group.values.to_pylist(), group.ids.tolist(), strict=True):
            for exact in numbers.exact_values(item, pa.array([value], group.values.type)):
                by_id.setdefault(number, []).append(Op("has", BOOL, (lists,), exact))
        if not by_id or (node.mode == "all" and len(by_id) < node.needed):
            return self._never(lists, node)
        join = _or if node.mode == "any" else _and
        return reduce(join, (reduce(_or, some) for some in by_id.values()))

    def _never(self, lists: Op, node: Contains) -> Op:
        return _known(lists, node.mode == "all" and not node.needed)

    def _call(self, node: Call) -> Op:
        operand = self.op(node.arguments[0])
        rest = [a.value for a in node.arguments[1:] if isinstance(a, Literal)]
        match node.name, rest:
            case "abs" | "floor" | "ceil" | "round", _:
                return numbers.call(node.name, operand)
            case (("length" | "array_length"), _):
                return Op("length" if pa.types.is_string(operand.kind) else "count", INT64,
                          (operand,))  # fmt: skip
            case (("starts_with" | "ends_with" | "contains"), [text]):
                if not text:
                    return _known(operand, True)
                return Op(node.name, BOOL, (operand,), text)
            case "fill_null", [value]:
                operand = numbers.to_be_filled(operand, value)
                return Op("either", operand.kind, (operand, constant(value, operand.kind)))
        _refuse(f"{node.name}()")


def _escaped(part: str | None) -> str:
    if part is None:
        return "%"
    if not part:
        return "_"
    return "".join(f"\\{letter}" if letter in "\\%_" else letter for letter in part)


_NAMES = {
    "JsonValue": "JSON values", "Coalesce": "JSON values", "VectorDistance": "distances",
}  # fmt: skip
_TRANSLATORS: dict[type[Expr], Callable[[_Translator, Any], Op]] = {
    BoundColumn: _Translator._column,
    Literal: _Translator._literal,
    Compare: _Translator._compare,
    Combine: _Translator._combine,
    Not: _Translator._not,
    IsNull: _Translator._is_null,
    Known: _Translator._known,
    Arithmetic: _Translator._arithmetic,
    Negate: _Translator._negate,
    OneOf: _Translator._one_of,
    Like: _Translator._like,
    Subscript: _Translator._subscript,
    Contains: _Translator._contains,
    Call: _Translator._call,
}
