"""Questions about whole trees."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

import pyarrow as pa

from gpuvec.expr.tree import Expr, Parameter, children


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
