"""Names and types: an expression against the fields that it is about."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec import errors
from gpuvec.expr.bind_call import bind_call
from gpuvec.expr.bind_compare import bind_compare, bind_in
from gpuvec.expr.bound import Bound, BoundColumn, JsonValue, VectorDistance
from gpuvec.expr.numbers import INT64_HIGH, INT64_LOW, INTEGERS
from gpuvec.expr.parse import as_filter
from gpuvec.expr.patterns import like_to_regex
from gpuvec.expr.scope import Fields, Scope, Typed, as_json, describe, family
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
from gpuvec.schema import (
    BinaryVector,
    Bool,
    FieldType,
    Float32,
    Float64,
    Int64,
    List,
    String,
    Timestamp,
    Vector,
)
from gpuvec.types import Metric

__all__ = ["Bound", "as_filter", "bind", "bind_filter"]

_BOOL = Bool(nullable=True)
_NOT_HINT = '"not" binds tightly: write not (a == 1), and ~(a == 1) in Python'


def bind(expr: Expr, fields: Fields, *, where: str = "") -> Bound:
    """Settle the names and types of an expression.

    Args:
        expr: what `gpuvec.expr.tree` or `as_filter` made.
        fields: name to type, vectors too; a schema's hidden `_gv_dynamic` makes unknown names mean
            JSON values in it. Columns of a join's sides are named `left.x` and `right.y`.
        where: what has the fields, for messages: `collection "items"`.

    Raises:
        NotFoundError: `GV-104`, a name that is no field.
        FilterError: `GV-202` types that do not fit, `GV-206` a comparison with null, `GV-208`
            nested too deeply, `GV-209` unknown function.
        SchemaError: `GV-113`, a query vector of another dimension.
    """
    scope = Scope(expr, fields, where)
    try:
        tree, kind = _bind(scope, expr)
    except RecursionError:
        raise errors.filter_too_deep() from None
    if isinstance(tree, BoundColumn) and kind.is_vector:
        scope.fail(expr, f"a {describe(expr, kind)} is no value", "use .distance(query)")
    return Bound(
        expr=expr,
        tree=tree,
        type=kind,
        columns=frozenset(scope.columns),
        present=frozenset(scope.present),
        distances=tuple(scope.distances),
    )


def bind_filter(expr: Expr, fields: Fields, *, where: str = "") -> Bound:
    """Bind an expression that must be a condition; see `bind`."""
    bound = bind(expr, fields, where=where)
    scope = Scope(expr, fields, where)
    tree = _condition(scope, expr, (bound.tree, bound.type), "a filter")
    return replace(bound, tree=tree, type=_BOOL)


def _bind(scope: Scope, node: Expr) -> Typed:
    """Return the node with settled names, and its type."""
    return _BINDERS[type(node)](scope, node)


def _condition(scope: Scope, node: Expr, found: Typed, place: str, hint: str = "") -> Expr:
    expr, kind = found
    if family(kind) == "json":
        return as_json(expr, "bool")
    if not isinstance(kind, Bool):
        scope.fail(node, f"{place} needs a condition, got {describe(node, kind)}", hint)
    return expr


def _literal(scope: Scope, node: Literal) -> Typed:
    match node.value:
        case None:
            scope.fail_null(node)
        case bool():
            return node, Bool()
        case int(value):
            if not INT64_LOW <= value <= INT64_HIGH:
                scope.fail(node, "this number does not fit into 64 bits", "write it as a float")
            return node, Int64()
        case float():
            return node, Float64()
        case str():
            return node, String()
    return node, Timestamp()


def _values(scope: Scope, node: ValueList) -> Typed:
    scope.fail(node, "a list cannot stand here", 'lists go after "in" and into array_contains')


def _parameter(scope: Scope, node: Parameter) -> Typed:
    raise errors.missing_parameter(*scope.place(node), node.name, ())


def _compare(scope: Scope, node: Compare) -> Typed:
    return bind_compare(scope, node, _side(scope, node.left), _side(scope, node.right)), _BOOL


def _side(scope: Scope, node: Expr) -> Typed:
    """Bind a side of a comparison, where a whole number may have any size."""
    if isinstance(node, Literal) and type(node.value) is int:
        return node, Int64()
    return _bind(scope, node)


def _combine(scope: Scope, node: Combine) -> Typed:
    parts = tuple(
        _condition(scope, part, _bind(scope, part), f'"{node.op}"') for part in node.operands
    )
    return Combine(node.op, parts), _BOOL


def _not(scope: Scope, node: Not) -> Typed:
    operand = _condition(scope, node.operand, _bind(scope, node.operand), '"not"', _NOT_HINT)
    return Not(operand), _BOOL


def _number(scope: Scope, node: Expr) -> Typed:
    """Return the node bound, as a number.

    Raises:
        FilterError: `GV-202`, it is none.
    """
    expr, kind = _bind(scope, node)
    if family(kind) == "json":
        return as_json(expr, "number"), Float64(nullable=True)
    if family(kind) != "number":
        scope.fail(node, f"wanted a number, got {describe(node, kind)}")
    return expr, kind


def _arithmetic(scope: Scope, node: Arithmetic) -> Typed:
    (left, left_kind), (right, right_kind) = _number(scope, node.left), _number(scope, node.right)
    whole = isinstance(left_kind, INTEGERS) and isinstance(right_kind, INTEGERS)
    kind = Int64(nullable=True) if whole and node.op not in ("/", "**") else None
    return Arithmetic(node.op, left, right), kind or Float64(nullable=True)


def _negate(scope: Scope, node: Negate) -> Typed:
    expr, kind = _number(scope, node.operand)
    whole = isinstance(kind, INTEGERS)
    return Negate(expr), Int64(nullable=True) if whole else Float64(nullable=True)


def _in(scope: Scope, node: In) -> Typed:
    if isinstance(node.values, Parameter):
        return _parameter(scope, node.values)
    return bind_in(scope, node, _bind(scope, node.operand)), _BOOL


def _is_null(scope: Scope, node: IsNull) -> Typed:
    expr, kind = _bind(scope, node.operand)
    if kind.is_vector:
        return IsNull(scope.presence(expr)), Bool()
    return IsNull(expr), Bool()


def _like(scope: Scope, node: Like) -> Typed:
    expr, kind = _bind(scope, node.operand)
    if family(kind) == "json":
        expr = as_json(expr, "string")
    elif family(kind) != "string":
        scope.fail(node.operand, f'"like" is for text, got {describe(node.operand, kind)}')
    pattern = node.pattern.value if isinstance(node.pattern, Literal) else None
    if not isinstance(pattern, str):
        scope.fail(node.pattern, "a pattern is a text", 'such as "red%"')
    if like_to_regex(pattern) is None:
        scope.fail(node.pattern, "a pattern cannot end in a single backslash", r"write \\")
    return Like(expr, Literal(pattern)), _BOOL


def _subscript(scope: Scope, node: Subscript) -> Typed:
    expr, kind = _bind(scope, node.operand)
    key = node.key.value if isinstance(node.key, Literal) else None
    if isinstance(key, bool) or not isinstance(key, str | int):
        scope.fail(node.key, "wanted a name in quotes or a position")
    if isinstance(key, int) and not 0 <= key < 2**31:
        scope.fail(node.key, f"positions count from 0, got {key}")
    if family(kind) == "json":
        assert isinstance(expr, JsonValue)
        return JsonValue(expr.column, (*expr.path, key), "text"), kind
    if not isinstance(kind, List):
        scope.fail(node.operand, f"cannot look into {describe(node.operand, kind)}")
    if not isinstance(key, int):
        scope.fail(node.key, "an element of a list is found by its position", "such as tags[0]")
    return Subscript(expr, Literal(key)), _nullable(kind.item)


def _call(scope: Scope, node: Call) -> Typed:
    return bind_call(scope, node, _bind)


def _distance(scope: Scope, node: Distance) -> Typed:
    kind = _bind(scope, node.operand)[1]
    if not isinstance(node.operand, Column) or not isinstance(kind, Vector | BinaryVector):
        got = describe(node.operand, kind)
        scope.fail(node.operand, f"distance is for dense and binary vector fields, got {got}")
    query = node.query.values if isinstance(node.query, ValueList) else None
    if not isinstance(query, pa.Array) or not pa.types.is_primitive(query.type):
        scope.fail(node.query, "wanted one query: a list of numbers")
    if len(query) != kind.width:
        raise errors.wrong_dimension(node.operand.name, wanted=kind.width, got=len(query))
    metric = node.metric or kind.metric
    known = (
        ("hamming", "jaccard")
        if isinstance(kind, BinaryVector)
        else ("cosine", "l2", "sqeuclidean", "ip")
    )
    if metric not in known:
        scope.fail(node, f'metric "{metric}" is not for this field', f"use {', '.join(known)}")
    dtype: Any = np.uint8 if isinstance(kind, BinaryVector) else np.float32
    values = query.to_numpy(zero_copy_only=False).astype(dtype)
    found = VectorDistance(node.operand.name, values, Metric(metric), len(scope.distances))
    scope.distances.append(found)
    return found, Float32(nullable=True)


def _aggregate(scope: Scope, node: Aggregate) -> Typed:
    scope.fail(node, f"{node} is of a group of rows", "aggregates go into .group_by(...).agg(...)")


def _alias(scope: Scope, node: Alias) -> Typed:
    return _bind(scope, node.operand)


def _nullable(kind: FieldType) -> FieldType:
    return type(kind)(nullable=True)  # type: ignore[call-arg]


_BINDERS: dict[type[Expr], Callable[[Scope, Any], Typed]] = {
    Column: Scope.column,
    Literal: _literal,
    ValueList: _values,
    Parameter: _parameter,
    Compare: _compare,
    Combine: _combine,
    Not: _not,
    Arithmetic: _arithmetic,
    Negate: _negate,
    In: _in,
    IsNull: _is_null,
    Like: _like,
    Subscript: _subscript,
    Call: _call,
    Distance: _distance,
    Aggregate: _aggregate,
    Alias: _alias,
}
