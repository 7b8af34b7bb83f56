"""Walks over trees: their nodes, and questions about all of them."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, replace
from functools import cache
from typing import Any

import pyarrow as pa

from gpuvec.expr.tree import Expr, Parameter


def children(expr: Expr) -> Iterator[Expr]:
    """Yield the nodes directly below."""
    kind: Any = type(expr)
    for name in _names(kind):
        value = getattr(expr, name)
        if isinstance(value, Expr):
            yield value
        elif isinstance(value, tuple):
            yield from (part for part in value if isinstance(part, Expr))


@cache
def _names(kind: Any) -> tuple[str, ...]:
    """Return the attributes of a kind of node that may hold nodes; asking dataclasses is slow."""
    return tuple(item.name for item in fields(kind) if item.name != "origin")


def map_children(expr: Expr, change: Callable[[Expr], Expr]) -> Expr:
    """Return the node with every node directly below replaced by `change` of it."""
    changed: dict[str, Any] = {}
    for item in fields(expr):
        value = getattr(expr, item.name)
        if isinstance(value, Expr):
            changed[item.name] = change(value)
        elif isinstance(value, tuple) and item.name != "origin":
            changed[item.name] = tuple(
                change(part) if isinstance(part, Expr) else part for part in value
            )
    return replace(expr, **changed) if changed else expr


def same(a: Expr, b: Expr) -> bool:
    """Return whether two trees are equal in every node and value, wherever they came from."""
    return type(a) is type(b) and all(
        _same_value(getattr(a, item.name), getattr(b, item.name))
        for item in fields(a)
        if item.name != "origin"
    )


def _same_value(a: Any, b: Any) -> bool:
    if isinstance(a, Expr):
        return isinstance(b, Expr) and same(a, b)
    if isinstance(a, tuple):
        return (
            isinstance(b, tuple)
            and len(a) == len(b)
            and all(_same_value(x, y) for x, y in zip(a, b, strict=True))
        )
    if isinstance(a, pa.Array):
        return isinstance(b, pa.Array) and repr(a.to_pylist()) == repr(b.to_pylist())
    if isinstance(a, float):  # NaN is the same literal as NaN, and 0.0 is another than -0.0
        return isinstance(b, float) and repr(a) == repr(b)
    return type(a) is type(b) and bool(a == b)


def parameters(expr: Expr) -> Mapping[str, Parameter]:
    """Return the parameters below, each name once, in the order of the text."""
    found: dict[str, Parameter] = {}
    pending = [expr]
    while pending:
        node = pending.pop()
        if isinstance(node, Parameter):
            found.setdefault(node.name, node)
        pending.extend(reversed(list(children(node))))
    return found
