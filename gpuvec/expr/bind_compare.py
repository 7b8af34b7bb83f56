"""Types of comparisons, `in` and the functions that look for values in lists."""

import itertools
import operator
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.expr.bound import Coalesce, Contains, Group, Known, OneOf
from gpuvec.expr.literals import TIMESTAMP, read_time
from gpuvec.expr.numbers import FLIPPED, INTEGERS, compare_number, matching_numbers
from gpuvec.expr.scope import Scope, Typed, as_json, describe, family
from gpuvec.expr.tree import Compare, Expr, In, Literal, ValueList
from gpuvec.schema import FieldType, Float64, Int64, List

_PYTHON: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
_JSON_KINDS = {"number": ("int", "float"), "string": ("string",), "bool": ("bool",)}
_ISO_HINT = 'write a time as "2026-11-01T00:00Z"'


def bind_compare(scope: Scope, node: Compare, left: Typed, right: Typed) -> Expr:
    """Return `left op right` over sides of one family.

    Raises:
        FilterError: `GV-202`, families that are not compared.
    """
    (left_expr, left_kind), (right_expr, right_kind) = left, right
    families = family(left_kind), family(right_kind)
    if set(families) == {"timestamp", "string"}:
        left_expr, right_expr = (
            _time_literal(scope, side, expr, kind)
            for side, expr, kind in ((node.left, *left), (node.right, *right))
        )
        families = ("timestamp", "timestamp")
    if families == ("json", "json"):
        return _json_with_json(node.op, left_expr, right_expr)
    if "json" in families:
        if families[0] == "json":
            return _json_with(scope, node, left_expr, node.op, right)
        return _json_with(scope, node, right_expr, FLIPPED[node.op], left)
    if families[0] != families[1] or families[0] in ("list", "vector"):
        wanted = describe(node.left, left_kind), describe(node.right, right_kind)
        hint = "look into a list with array_contains" if "list" in families else ""
        scope.fail(node, f"cannot compare {wanted[0]} with {wanted[1]}", hint)
    if families[0] == "bool" and node.op not in ("==", "!="):
        scope.fail(node, "true and false have no order", "compare them with == or !=")
    if families[0] == "number":
        return _numbers(node.op, (left_expr, left_kind), (right_expr, right_kind))
    return Compare(node.op, left_expr, right_expr)


def _numbers(op: str, left: Typed, right: Typed) -> Expr:
    match left[0], right[0]:
        case Literal(value=a), Literal(value=b):
            return Literal(_PYTHON[op](a, b))
        case operand, Literal(value=int() | float() as value):
            return compare_number(op, operand, left[1], value)
        case Literal(value=int() | float() as value), operand:
            return compare_number(FLIPPED[op], operand, right[1], value)
    return Compare(op, left[0], right[0])


def _time_literal(scope: Scope, node: Expr, expr: Expr, kind: FieldType) -> Expr:
    if family(kind) == "timestamp":
        return expr
    if not isinstance(expr, Literal) or not isinstance(expr.value, str):
        scope.fail(node, f"cannot compare a timestamp with {describe(node, kind)}", _ISO_HINT)
    found = read_time(expr.value)
    if found is None:
        scope.fail(node, f'"{expr.value}" is no time', _ISO_HINT)
    return Literal(found)


def _json_with(scope: Scope, node: Compare, json: Expr, op: str, other: Typed) -> Expr:
    expr, kind = other
    kinds = _JSON_KINDS.get(family(kind))
    if kinds is None:
        scope.fail(node, f"cannot compare a JSON value with a {kind.KIND}")
    if kinds == ("bool",) and op not in ("==", "!="):
        scope.fail(node, "true and false have no order", "compare them with == or !=")
    if len(kinds) == 1:
        return Compare(op, as_json(json, kinds[0]), expr)
    number_kinds = (Int64(), Float64())
    parts = (
        _numbers(op, (as_json(json, wanted), number_kind), other)
        for wanted, number_kind in zip(kinds, number_kinds, strict=True)
    )
    return Coalesce(tuple(parts))


def _json_with_json(op: str, left: Expr, right: Expr) -> Expr:
    pairs = [*itertools.product(("int", "float"), repeat=2), ("string", "string")]
    if op in ("==", "!="):
        pairs.append(("bool", "bool"))
    return Coalesce(tuple(Compare(op, as_json(left, a), as_json(right, b)) for a, b in pairs))


def bind_in(scope: Scope, node: In, operand: Typed) -> Expr:
    """Return whether the operand is one of the values of a list.

    Raises:
        FilterError: `GV-202`, a value of another family; `GV-206`, null in the list.
    """
    expr, kind = operand
    values = checked_values(scope, node.values, kind, node.operand)
    match family(kind):
        case "number":
            return OneOf(expr, matching_numbers(kind, values))
        case "string" | "bool" | "timestamp":
            return OneOf(expr, pa.array(values, kind.arrow_type()))
        case "json":
            parts = [
                OneOf(as_json(expr, wanted), group.values)
                for wanted, group in json_groups(_plain(values)).items()
            ]
            return Coalesce(tuple(parts)) if parts else Known(as_json(expr, "text"), False)
    scope.fail(node, f"cannot look for {describe(node.operand, kind)} in a list of values")


def checked_values(scope: Scope, node: Expr, kind: FieldType, about: Expr) -> Any:
    """Return a list's values, an Arrow array or a tuple, if they compare with `kind`."""
    if not isinstance(node, ValueList):
        scope.fail(node, "wanted a list of values", 'such as ["a", "b"]')
    values = node.values
    if isinstance(values, pa.Array) and _arrow_family(values.type) == family(kind):
        return values
    found = _plain(values)
    if None in found:
        scope.fail_null(node)
    return tuple(_checked(scope, node, value, kind, about) for value in found)


def _checked(scope: Scope, node: Expr, value: Any, kind: FieldType, about: Expr) -> Any:
    wanted, got = family(kind), value_family(value)
    if wanted == "timestamp" and got == "string":
        found = read_time(value)
        if found is None:
            scope.fail(node, f'"{value}" is no time', _ISO_HINT)
        return found
    if wanted != got and not (wanted == "json" and got in _JSON_KINDS):
        scope.fail(node, f"cannot compare {describe(about, kind)} with {value!r}")
    return value


def value_family(value: object) -> str:
    """Return the family of a plain value."""
    match value:
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "string"
    return "timestamp"


def _arrow_family(kind: pa.DataType) -> str:
    if kind == pa.bool_():
        return "bool"
    if kind == pa.string():
        return "string"
    return "timestamp" if kind == TIMESTAMP else "number"


def _plain(values: Any) -> tuple[Any, ...]:
    return tuple(values.to_pylist()) if isinstance(values, pa.Array) else values


def bind_contains(scope: Scope, node: Expr, operand: Typed, mode: str, wanted: Expr) -> Expr:
    """Return whether a list, or the array at a JSON path, has `all` or `any` of the values."""
    expr, kind = operand
    item = kind.item if isinstance(kind, List) else kind
    values = _plain(checked_values(scope, wanted, item, node))
    distinct = {(value_family(v), v) for v in values}
    needed = len(distinct)
    if family(kind) == "json":
        groups = json_groups(values)
        return Contains(as_json(expr, "array"), mode, tuple(groups.values()), needed, tuple(groups))
    ids = {key: number for number, key in enumerate(distinct)}
    return Contains(
        expr, mode, (_group(item, ((v, ids[value_family(v), v]) for v in values)),), needed
    )


def json_groups(values: Iterable[Any]) -> dict[str, "Group"]:
    """Return the numbered values that a JSON value may equal, by the kind that it is read as."""
    ids: dict[tuple[str, Any], int] = {}
    found: dict[str, list[tuple[Any, int]]] = {}
    for value in values:
        kind = value_family(value)
        number = ids.setdefault((kind, value), len(ids))
        for wanted in _JSON_KINDS[kind]:
            found.setdefault(wanted, []).append((value, number))
    kinds: dict[str, FieldType | None] = {"int": Int64(), "float": Float64()}
    return {wanted: _group(kinds.get(wanted), pairs) for wanted, pairs in found.items()}


def _group(kind: FieldType | None, pairs: Iterable[tuple[Any, int]]) -> Group:
    """Return the pairs whose value a number of `kind` can equal; of other types all."""
    found = {}
    for value, number in pairs:
        if kind is None or family(kind) != "number":
            found[value] = number
        elif len(equal := matching_numbers(kind, (value,))):
            found[equal[0].as_py()] = number
    arrow = kind.arrow_type() if kind is not None else None
    if kind is not None and family(kind) == "number":
        arrow = pa.int64() if isinstance(kind, INTEGERS) else pa.float64()
    return Group(pa.array(list(found), arrow), np.array(list(found.values()), np.int64))
