"""An expression as filter text: what `gpuvec.expr.parse` reads back to the same tree."""

import json
import math
import re
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pyarrow as pa

from gpuvec import errors
from gpuvec.expr.tree import (
    Aggregate,
    Alias,
    Arithmetic,
    Call,
    Column,
    Combine,
    Compare,
    Distance,
    Expr,
    In,
    IsNull,
    Like,
    Literal,
    Negate,
    Not,
    Parameter,
    Subscript,
    ValueList,
)

KEYWORDS = frozenset(("and", "or", "not", "in", "like", "is", "null", "true", "false", "exists"))

# How tightly each form binds; Milvus's order.
_ALIAS, _OR, _AND, _EQUAL, _ORDER, _IN, _SUM, _PRODUCT, _UNARY, _POWER, _POSTFIX, _ATOM = range(12)
_COMPARE = {"==": _EQUAL, "!=": _EQUAL, "<": _ORDER, "<=": _ORDER, ">": _ORDER, ">=": _ORDER}
_ARITHMETIC = {"+": _SUM, "-": _SUM, "*": _PRODUCT, "/": _PRODUCT, "%": _PRODUCT, "**": _POWER}

_NAME = re.compile(r"(?!\d)\w+\Z|\$meta\Z")


def to_text(expr: Expr) -> str:
    """Return the expression as filter text.

    Raises:
        FilterError: `GV-208`, nested too deeply.
    """
    return _Writer(None).text(expr)


def locate(expr: Expr, target: Expr) -> tuple[str, int]:
    """Return an expression's text, and where in it the node `target` begins (0: not there)."""
    writer = _Writer(target)
    text = writer.text(expr)
    return text, writer.found


def quote(text: str) -> str:
    """Return text as a quoted string of the filter language."""
    return json.dumps(text, ensure_ascii=False)


class _Writer:
    """Writes a tree in parts, noting where one node of it begins."""

    def __init__(self, target: Expr | None) -> None:
        self.found = 0
        self._target = target
        self._parts: list[str] = []
        self._length = 0

    def text(self, expr: Expr) -> str:
        try:
            self._node(expr, _ALIAS)
        except RecursionError:
            raise errors.filter_too_deep() from None
        return "".join(self._parts)

    def _put(self, *parts: str) -> None:
        self._parts.extend(parts)
        self._length += sum(map(len, parts))

    def _node(self, expr: Expr, level: int) -> None:
        """Write a node, in parentheses where it binds less tightly than `level`."""
        wrapped = _level(expr) < level
        self._put("(" if wrapped else "")
        if expr is self._target:
            self.found = self._length
        _WRITERS[type(expr)](self, expr)
        self._put(")" if wrapped else "")

    def _column(self, node: Column) -> None:
        self._put(f"{node.side}." if node.side else "", name_text(node.name))

    def _literal(self, node: Literal) -> None:
        self._put(value_text(node.value))

    def _values(self, node: ValueList) -> None:
        found = node.values
        values: Any = found.to_pylist() if isinstance(found, pa.Array) else found
        texts = (f"{{{v.name}}}" if isinstance(v, Parameter) else value_text(v) for v in values)
        self._put("[", ", ".join(texts), "]")

    def _parameter(self, node: Parameter) -> None:
        self._put("{", node.name, "}")

    def _compare(self, node: Compare) -> None:
        level = _COMPARE[node.op]
        self._node(node.left, level if level == _EQUAL else level + 1)
        self._put(f" {node.op} ")
        self._node(node.right, level + 1)

    def _combine(self, node: Combine) -> None:
        for number, operand in enumerate(node.operands):
            self._put(f" {node.op} " if number else "")
            self._node(operand, _level(node) + 1)

    def _not(self, node: Not) -> None:
        match node.operand:
            case In(operand=operand, values=values):
                self._node(operand, _SUM)
                self._put(" not in ")
                self._node(values, _ATOM)
            case IsNull(operand=operand):
                self._node(operand, _POSTFIX)
                self._put(" is not null")
            case operand:
                self._put("not ")
                self._node(operand, _UNARY)

    def _arithmetic(self, node: Arithmetic) -> None:
        level = _ARITHMETIC[node.op]
        self._node(node.left, _POSTFIX if level == _POWER else level)
        self._put(f" {node.op} ")
        self._node(node.right, level + 1)

    def _negate(self, node: Negate) -> None:
        self._put("-")
        self._node(node.operand, _UNARY)

    def _in(self, node: In) -> None:
        self._node(node.operand, _SUM)
        self._put(" in ")
        self._node(node.values, _ATOM)

    def _is_null(self, node: IsNull) -> None:
        self._node(node.operand, _POSTFIX)
        self._put(" is null")

    def _like(self, node: Like) -> None:
        self._node(node.operand, _POSTFIX)
        self._put(" like ")
        self._node(node.pattern, _ATOM)

    def _subscript(self, node: Subscript) -> None:
        self._node(node.operand, _ATOM)
        self._put("[")
        self._node(node.key, _OR)
        self._put("]")

    def _call(self, node: Call) -> None:
        self._arguments(node.name, node.arguments)

    def _distance(self, node: Distance) -> None:
        metric = () if node.metric is None else (Literal(node.metric),)
        self._arguments("distance", (node.operand, node.query, *metric))

    def _aggregate(self, node: Aggregate) -> None:
        self._arguments(node.function, () if node.operand is None else (node.operand,))

    def _arguments(self, name: str, arguments: tuple[Expr, ...]) -> None:
        self._put(name, "(")
        for number, argument in enumerate(arguments):
            self._put(", " if number else "")
            self._node(argument, _OR)
        self._put(")")

    def _alias(self, node: Alias) -> None:
        self._node(node.operand, _OR)
        self._put(" as ", name_text(node.name))


_WRITERS: dict[type[Expr], Callable[[_Writer, Any], None]] = {
    Column: _Writer._column,
    Literal: _Writer._literal,
    ValueList: _Writer._values,
    Parameter: _Writer._parameter,
    Compare: _Writer._compare,
    Combine: _Writer._combine,
    Not: _Writer._not,
    Arithmetic: _Writer._arithmetic,
    Negate: _Writer._negate,
    In: _Writer._in,
    IsNull: _Writer._is_null,
    Like: _Writer._like,
    Subscript: _Writer._subscript,
    Call: _Writer._call,
    Distance: _Writer._distance,
    Aggregate: _Writer._aggregate,
    Alias: _Writer._alias,
}


def name_text(name: str) -> str:
    """Return a column's name as text: in backticks when it is no plain name."""
    plain = _NAME.match(name) and name.lower() not in KEYWORDS
    return name if plain else "`" + name.replace("`", "``") + "`"


def value_text(value: Any) -> str:
    """Return a plain value as text."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case float():
            return repr(value) if math.isfinite(value) else f'float("{value}")'
        case str():
            return quote(value)
        case datetime():
            return f'ISO "{value.isoformat().replace("+00:00", "Z")}"'
        case _:
            return _digits(value)


def _digits(value: int) -> str:
    # Python refuses to print more than 4,300 decimal digits; hexadecimal has no such limit
    return str(value) if value.bit_length() < 10_000 else hex(value)


def _level(expr: Expr) -> int:
    match expr:
        case Alias():
            return _ALIAS
        case Combine(op=op):
            return _OR if op == "or" else _AND
        case Compare(op=op):
            return _COMPARE[op]
        case Arithmetic(op=op):
            return _ARITHMETIC[op]
        case In() | Not(operand=In()):
            return _IN
        case IsNull() | Like() | Not(operand=IsNull()):
            return _POSTFIX
        case Negate() | Not():
            return _UNARY
        case Literal(value=int() | float() as number) if value_text(number).startswith("-"):
            return _UNARY
    return _ATOM
