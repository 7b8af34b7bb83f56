"""Types of function calls."""

from collections.abc import Callable
from typing import Any

from gpuvec import errors
from gpuvec.expr import functions as f
from gpuvec.expr.bind_compare import bind_contains, value_family
from gpuvec.expr.bound import Coalesce
from gpuvec.expr.functions import FUNCTIONS, Function
from gpuvec.expr.literals import read_time
from gpuvec.expr.numbers import INTEGERS
from gpuvec.expr.scope import Scope, Typed, as_json, describe, family
from gpuvec.expr.tree import Call, Expr, Literal, ValueList
from gpuvec.schema import Bool, FieldType, Float64, Int64, String

_JSON_AS: dict[str, tuple[str, FieldType]] = {
    f.NUMBER: ("number", Float64(nullable=True)),
    f.STRING: ("string", String(nullable=True)),
    f.BOOL: ("bool", Bool(nullable=True)),
}


def bind_call(scope: Scope, node: Call, bind: Callable[[Scope, Expr], Typed]) -> Typed:
    """Return a call with settled arguments, and its type.

    Raises:
        FilterError: `GV-202` wrong arguments, `GV-209` unknown function.
    """
    function = FUNCTIONS.get(node.name)
    if function is None:
        raise errors.unknown_function(*scope.place(node), node.name, FUNCTIONS)
    if len(node.arguments) != 1 + len(function.rest):
        wanted, got = 1 + len(function.rest), len(node.arguments)
        scope.fail(node, f"{node.name} takes {wanted} arguments, got {got}", function.usage)
    operand = bind(scope, node.arguments[0])
    of = family(operand[1])
    if of not in (*function.operand, "json") and function.operand != (f.ANY,):
        what = describe(node.arguments[0], operand[1])
        scope.fail(node.arguments[0], f"{node.name} is not for a {what}", function.usage)
    if node.name == "fill_null":
        bind(scope, node.arguments[1])
        return _fill_null(scope, node, operand)
    if "contains" in node.name:
        return _contains(scope, node, function, operand), Bool(nullable=True)
    rest = [_text(scope, argument, function) for argument in node.arguments[1:]]
    return _plain_call(node.name, function, operand, rest)


def _plain_call(name: str, function: Function, operand: Typed, rest: list[Expr]) -> Typed:
    expr, kind = operand
    if family(kind) != "json":
        return Call(name, (expr, *rest)), _result(function, kind)
    if f.LIST not in function.operand:
        wanted, kind = _JSON_AS[function.operand[0]]
        return Call(name, (as_json(expr, wanted), *rest)), _result(function, kind)
    length: Expr = Call("array_length", (as_json(expr, "array"),))
    if f.STRING in function.operand:
        length = Coalesce((Call(name, (as_json(expr, "string"),)), length))
    return length, _result(function, kind)


def _result(function: Function, kind: FieldType) -> FieldType:
    if function.result == f.BOOL:
        return Bool(nullable=True)
    if function.result == f.NUMBER:
        return Int64(nullable=True)
    if family(kind) == f.STRING:
        return String(nullable=True)
    return Int64(nullable=True) if isinstance(kind, INTEGERS) else Float64(nullable=True)


def _text(scope: Scope, node: Expr, function: Function) -> Expr:
    if not isinstance(node, Literal) or not isinstance(node.value, str):
        scope.fail(node, "wanted a text in quotes", function.usage)
    return Literal(node.value)


def _contains(scope: Scope, node: Call, function: Function, operand: Typed) -> Expr:
    wanted = node.arguments[1]
    is_list = isinstance(wanted, ValueList)
    if is_list != (function.rest == (f.VALUES,)) or not isinstance(wanted, Literal | ValueList):
        scope.fail(wanted, f"{node.name} takes {'one value' if is_list else 'a list of values'}",
                   function.usage)  # fmt: skip
    if family(operand[1]) == f.STRING:
        return Call("contains", (operand[0], _text(scope, wanted, function)))
    values = wanted if is_list else ValueList((wanted.value,), origin=wanted.origin)  # type: ignore[union-attr]
    mode = "all" if node.name.endswith("_all") else "any"
    found = bind_contains(scope, node.arguments[0], operand, mode, values)
    if node.name == "contains" and family(operand[1]) == "json" and isinstance(wanted.value, str):  # type: ignore[union-attr]
        text = Call("contains", (as_json(operand[0], "string"), Literal(wanted.value)))  # type: ignore[union-attr]
        return Coalesce((text, found))
    return found


def _fill_null(scope: Scope, node: Call, operand: Typed) -> Typed:
    expr, kind = operand
    if not isinstance(node.arguments[1], Literal):
        scope.fail(node.arguments[1], "fill_null takes one value", FUNCTIONS["fill_null"].usage)
    value: Any = node.arguments[1].value
    got, of = value_family(value), family(kind)
    if (of, got) == ("timestamp", "string"):
        value = read_time(value) or value
        got = value_family(value)
    if of == "json" and got in _JSON_AS:
        wanted, kind = _JSON_AS[got]
        expr, of = as_json(expr, wanted), got
    if of != got:
        scope.fail(
            node.arguments[1], f"cannot fill {describe(node.arguments[0], kind)} with {value!r}"
        )
    if isinstance(kind, INTEGERS) and isinstance(value, int):
        kind = Int64()
    elif of == "number":
        kind, value = Float64(), float(value)
    return Call("fill_null", (expr, Literal(value))), type(kind)()
