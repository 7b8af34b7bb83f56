"""Filters row by row, slow and obvious: what `gpuvec.expr` must agree with."""

import json
import math
import operator
import re

import numpy as np

from gpuvec.expr.tree import (
    Arithmetic,
    Call,
    Column,
    Combine,
    Compare,
    In,
    IsNull,
    Like,
    Literal,
    Negate,
    Not,
    Subscript,
)
from gpuvec.schema import JSON, Float32

OPERATORS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt,
    "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
LOW, HIGH = -(2**63), 2**63 - 1


class Json:
    """A value inside a JSON column; None when it is null or missing."""

    def __init__(self, value):
        self.value = value


def rows_of(table, fields):
    """Return the rows as dicts of Python values."""
    rows = table.to_pylist()
    for row in rows:
        for name, kind in fields.items():
            if isinstance(kind, JSON):
                text = row[name]
                row[name] = Json(None if text is None else json.loads(text, parse_int=whole))
    return rows


def whole(digits):
    number = int(digits)
    return number if LOW <= number <= HIGH else float(number)


def condition(expr, row, fields):
    """Return True, False or None."""
    found = value(expr, row, fields)
    if isinstance(found, Json):
        return found.value if isinstance(found.value, bool) else None
    return found


def value(expr, row, fields):
    """Return the value of an expression in a row: a plain value, a list, None or a `Json`."""
    match expr:
        case Column(name=name):
            return row[name]
        case Literal(value=v):
            return v
        case Compare(op=op, left=a, right=b):
            return compare(op, a, b, row, fields)
        case Combine(op=op, operands=parts):
            found = [condition(part, row, fields) for part in parts]
            decisive = op == "or"
            if decisive in found:
                return decisive
            return None if None in found else not decisive
        case Not(operand=part):
            found = condition(part, row, fields)
            return None if found is None else not found
        case Arithmetic(op=op, left=a, right=b):
            return arithmetic(op, number(a, row, fields), number(b, row, fields))
        case Negate(operand=part):
            found = number(part, row, fields)
            return None if found is None else fitting(-found)
        case In(operand=operand, values=values):
            return is_in(operand, plain(values.values), row, fields)
        case IsNull(operand=part):
            found = value(part, row, fields)
            return (found.value if isinstance(found, Json) else found) is None
        case Like(operand=part, pattern=pattern):
            text = string(part, row, fields)
            return None if text is None else matches(text, pattern.value)
        case Subscript(operand=part, key=key):
            return member(value(part, row, fields), key.value)
        case Call(name=name, arguments=arguments):
            return call(name, arguments, row, fields)
    raise AssertionError(expr)


def plain(values):
    return values if isinstance(values, tuple) else values.to_pylist()


def family(v):
    if isinstance(v, bool):
        return "bool"
    if isinstance(v, int | float):
        return "number"
    return "string" if isinstance(v, str) else "other"


def stored(column, v, fields):
    """Return a float literal beside a Float32 column as float32, unless that loses all of it."""
    kind = fields.get(column.name) if isinstance(column, Column) else None
    if isinstance(column, Subscript) and isinstance(column.operand, Column):
        kind = getattr(fields[column.operand.name], "item", None)
    if not isinstance(kind, Float32) or not isinstance(v, float):
        return v
    return as_float32(v)


def as_float32(v):
    with np.errstate(all="ignore"):
        rounded = float(np.float32(v))
    lost = (math.isinf(rounded) and not math.isinf(v)) or (rounded == 0 and v != 0)
    return v if lost else rounded


def compare(op, left, right, row, fields):
    a, b = value(left, row, fields), value(right, row, fields)
    if isinstance(left, Literal):
        a = stored(right, a, fields)
    if isinstance(right, Literal):
        b = stored(left, b, fields)
    in_json = isinstance(a, Json) or isinstance(b, Json)
    a, b = (side.value if isinstance(side, Json) else side for side in (a, b))
    if a is None or b is None:
        return None
    if in_json:
        if family(a) != family(b) or family(a) == "other":
            return None
        if family(a) == "bool" and op not in ("==", "!="):
            return None
    if isinstance(a, str) != isinstance(b, str):  # a time and its text
        from datetime import datetime

        a, b = (datetime.fromisoformat(s) if isinstance(s, str) else s for s in (a, b))
    return OPERATORS[op](a, b)


def number(expr, row, fields):
    found = value(expr, row, fields)
    if isinstance(found, Json):
        return float(found.value) if family(found.value) == "number" else None
    return found


def string(expr, row, fields):
    found = value(expr, row, fields)
    if isinstance(found, Json):
        return found.value if isinstance(found.value, str) else None
    return found


def fitting(v):
    return v if isinstance(v, float) or LOW <= v <= HIGH else None


def arithmetic(op, a, b):
    if a is None or b is None:
        return None
    if op in ("/", "%") and b == 0:
        return None
    if op in ("/", "**") or isinstance(a, float) or isinstance(b, float):
        a, b = np.float64(a), np.float64(b)
        with np.errstate(all="ignore"):
            found = {
                "+": lambda: a + b, "-": lambda: a - b, "*": lambda: a * b, "/": lambda: a / b,
                "%": lambda: np.fmod(a, b), "**": lambda: power(float(a), float(b)),
            }[op]()  # fmt: skip
        return float(found)
    if op == "%":
        return int(math.copysign(1, a)) * (abs(a) % abs(b))
    return fitting({"+": a + b, "-": a - b, "*": a * b}[op])


def power(a, b):
    """Return what C's pow returns where Python's raises."""
    is_odd = b % 2 == 1
    try:
        return math.pow(a, b)
    except OverflowError:
        return -math.inf if a < 0 and is_odd else math.inf
    except ValueError:
        return (math.copysign(math.inf, a) if is_odd else math.inf) if a == 0 else math.nan


def is_in(operand, values, row, fields):
    found = value(operand, row, fields)
    if isinstance(found, Json):
        if found.value is None or family(found.value) not in {family(v) for v in values}:
            return False if not values and found.value is not None else None
        return any(family(v) == family(found.value) and v == found.value for v in values)
    if found is None:
        return None
    return any(found == stored(operand, v, fields) for v in values)


def member(found, key):
    if isinstance(found, Json):
        inside = found.value
        if isinstance(inside, dict) and isinstance(key, str):
            return Json(inside.get(key))
        if isinstance(inside, list) and isinstance(key, int):
            return Json(inside[key] if key < len(inside) else None)
        return Json(None)
    return None if found is None or key >= len(found) else found[key]


def matches(text, pattern):
    """Match by trying every way."""
    if not pattern:
        return not text
    if pattern[0] == "%":
        return any(matches(text[n:], pattern[1:]) for n in range(len(text) + 1))
    if pattern[0] == "_":
        return bool(text) and matches(text[1:], pattern[1:])
    wanted, rest = (pattern[1], pattern[2:]) if pattern[0] == "\\" else (pattern[0], pattern[1:])
    return text[:1] == wanted and matches(text[1:], rest)


def contains(found, wanted, item, mode):
    def equal(a, b):
        b = as_float32(b) if isinstance(item, Float32) and isinstance(b, float) else b
        return family(a) == family(b) and a == b

    hits = [any(equal(element, w) for element in found) for w in wanted]
    return all(hits) if mode == "all" else any(hits)


def simple_call(name, found, text=""):
    words = {w.lower() for w in re.findall(r"\w+", text)}
    return {
        "abs": lambda: fitting(abs(found)),
        "upper": lambda: found.upper(),
        "length": lambda: len(found),
        "starts_with": lambda: found.startswith(text),
        "ends_with": lambda: found.endswith(text),
        "text_match": lambda: bool(words & {w.lower() for w in re.findall(r"\w+", found)}),
    }[name]()


def call(name, arguments, row, fields):
    found = value(arguments[0], row, fields)
    rest = [plain(a.values) if hasattr(a, "values") else a.value for a in arguments[1:]]
    if isinstance(found, Json):
        found = found.value
        wanted = {"length": str | list, "contains": str | list}.get(name, list)
        if not isinstance(found, wanted):
            return None
        if name == "contains" and isinstance(found, str) and not isinstance(rest[0], str):
            return None
    if name == "fill_null":
        if found is None:
            return rest[0]
        return float(found) if isinstance(rest[0], float) else found
    if found is None:
        return None
    if isinstance(found, str) and name == "contains":
        return rest[0] in found
    if "contains" not in name:
        return simple_call(name, found, *rest)
    item = None
    if isinstance(arguments[0], Column):
        item = getattr(fields[arguments[0].name], "item", None)
    wanted = rest[0] if isinstance(rest[0], list | tuple) else [rest[0]]
    return contains(found, wanted, item, "all" if name.endswith("all") else "any")
