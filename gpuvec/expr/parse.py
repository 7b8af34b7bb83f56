"""Filter text, and values for its parameters, to expressions."""

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

from gpuvec import errors
from gpuvec.expr.literals import one_type, plain_value, plain_values
from gpuvec.expr.tree import Expr, In, Literal, Parameter, ValueList
from gpuvec.expr.walk import map_children, parameters

CACHED_TEXT = 10_000  # longer texts are not kept


def parse_filter(text: str, params: Mapping[str, Any] | None = None) -> Expr:
    """Read filter text.

    Args:
        text: a filter, such as `price < {p} and brand in {b}`.
        params: a value for every `{name}` in it: a plain value, or a list for `in`.

    Raises:
        FilterError: `GV-201` syntax, `GV-203` a parameter without value, `GV-204` a value without
            parameter, `GV-205` a value of no use.
    """
    tree = _parse_cached(text) if len(text) <= CACHED_TEXT else _parse(text)
    return _fill(tree, text, params or {})


def as_filter(filter: str | Expr, params: Mapping[str, Any] | None = None) -> Expr:
    """Return filter text or an expression as an expression; see `parse_filter`."""
    if isinstance(filter, str):
        return parse_filter(filter, params)
    if not isinstance(filter, Expr):
        raise errors.not_a_filter(filter)
    return _fill(filter, "", params or {})


def _fill(tree: Expr, text: str, params: Mapping[str, Any]) -> Expr:
    wanted = parameters(tree)
    for name, node in wanted.items():
        if name not in params:
            position = node.origin.position if node.origin else 0
            raise errors.missing_parameter(text, position, name, params)
    if unused := set(params) - set(wanted):
        raise errors.unused_parameters(unused, wanted)
    if not wanted:
        return tree
    return _replace_parameters(tree, {name: params[name] for name in wanted})


def _replace_parameters(node: Expr, params: Mapping[str, Any]) -> Expr:
    match node:
        case Parameter(name=name):
            value = params[name]
            if _is_list(value):
                return ValueList(plain_values(value), origin=node.origin)
            return Literal(plain_value(value), origin=node.origin)
        case In(operand=operand, values=Parameter(name=name) as values):
            filled = ValueList(plain_values(params[name]), origin=values.origin)
            return In(_replace_parameters(operand, params), filled, origin=node.origin)
        case ValueList(values=tuple() as values):
            found = [plain_value(params[v.name]) if isinstance(v, Parameter) else v for v in values]
            return ValueList(one_type(found), origin=node.origin)
    return map_children(node, lambda child: _replace_parameters(child, params))


def _is_list(value: object) -> bool:
    if isinstance(value, str | bytes) or getattr(value, "ndim", 1) == 0:
        return False
    return hasattr(value, "__len__")


@lru_cache(maxsize=1024)
def _parse_cached(text: str) -> Expr:
    return _parse(text)


def _parse(text: str) -> Expr:
    from gpuvec.expr.grammar import read_filter  # reads a grammar: on first use

    return read_filter(text)
