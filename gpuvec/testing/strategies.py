"""Hypothesis strategies: scalar fields, tables of them, and conditions that fit.

Values come from small pools, so that comparisons often hold, with the edges of every type among
them.
"""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from random import Random
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st

from gpuvec.expr.tree import Arithmetic, Compare, Expr, Literal, col, combine, lit
from gpuvec.schema import (
    JSON,
    Bool,
    FieldType,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    List,
    String,
    Timestamp,
    is_nullable,
)

Fields = Mapping[str, FieldType]

INTS = (0, 1, -1, 2, 3, 5, 7, 100, 127, -128, 2**31, 2**53, 2**53 + 1, 2**63 - 1, -(2**63))
FLOATS = (
    0.0, -0.0, 0.1, 0.5, 1.0, 1.5, -1.0, 2.0, 3.0, 1e-300, 1e300, 2.0**53, 2.0**63, -(2.0**63),
    float("nan"), float("inf"), float("-inf"),
)  # fmt: skip
STRINGS = (
    "",
    "a",
    "b",
    "ab",
    "aab",
    "A",
    "a%b",
    "a_b",
    "é",
    "x\ny",
    "10\\",
    '"q"',
    "it's",
    "red shoe",
)
TIMES = (
    datetime(1970, 1, 1, tzinfo=UTC),
    datetime(2026, 11, 1, tzinfo=UTC),
    datetime(2026, 11, 1, 12, 30, 0, 1, tzinfo=UTC),
    datetime(1969, 12, 31, 23, 59, 59, 999999, tzinfo=UTC),
)
PATTERNS = (
    "%",
    "a%",
    "%b",
    "%a%",
    "_",
    "a_b",
    r"a\%b",
    r"a\_%",
    "",
    "%é%",
    "x_y",
    r"10\\",
    "a%b",
    "__",
)
NAMES = ("a", "b", "key é", 'q"uote')

_JSON_LEAVES = (
    None, True, False, *INTS, 2**64, 0.5, 1.0, -2.5, 1e300, "", "a", "ab", "é", "x\ny", '"q"',
)  # fmt: skip
_TEXT_FORMS = ("compare", "column", "in", "like", "starts", "ends", "contains", "words")
_JSON_FORMS = (
    "number", "text", "bool", "json", "sum", "in", "is", "null", "long", "like", "list",
)  # fmt: skip
_NUMBERS = (Int8, Int16, Int32, Int64, Float32, Float64)
_INTEGERS: dict[type[FieldType], int] = {Int8: 8, Int16: 16, Int32: 32, Int64: 64}
_KINDS: tuple[FieldType, ...] = (
    Int8(nullable=True), Int16(), Int32(nullable=True), Int64(nullable=True), Int64(),
    Float32(nullable=True), Float64(nullable=True), Float64(), String(nullable=True), String(),
    Bool(nullable=True), Timestamp(nullable=True), JSON(nullable=True), JSON(),
    List(Int32(), nullable=True), List(String(), nullable=True), List(Float32()),
)  # fmt: skip


def scalar_fields(max_fields: int = 6) -> st.SearchStrategy[Fields]:
    """Return fields of scalar types, named `c0`, `c1` and so on."""
    kinds = st.lists(st.sampled_from(_KINDS), min_size=1, max_size=max_fields)
    return kinds.map(lambda found: {f"c{number}": kind for number, kind in enumerate(found)})


def json_text(rng: Random) -> str:
    """Return a JSON text: an object mostly, with or without escapes and spaces."""
    value = _json_value(rng, 3, rng.choice(("object", "object", "any")))
    return json.dumps(value, ensure_ascii=rng.random() < 0.5, indent=rng.choice((None, 1)))


def _json_value(rng: Random, depth: int, form: str = "any") -> Any:
    if form == "any":
        form = rng.choice(("leaf", "leaf", "leaf", "list", "object")) if depth else "leaf"
    if form == "leaf":
        return rng.choice(_JSON_LEAVES)
    found = [_json_value(rng, depth - 1) for _ in range(rng.randint(0, 3))]
    return found if form == "list" else {rng.choice(NAMES): value for value in found}


def value(kind: FieldType, rng: Random) -> Any:
    """Return a value of a field's type, not null."""
    match kind:
        case Int8() | Int16() | Int32() | Int64():
            high = 2 ** (_INTEGERS[type(kind)] - 1)
            return rng.choice([v for v in INTS if -high <= v < high])
        case Float32():
            return rng.choice([v for v in FLOATS if abs(v) not in (1e300, 1e-300)])
        case Float64():
            return rng.choice(FLOATS)
        case String():
            return rng.choice(STRINGS)
        case Bool():
            return rng.random() < 0.5
        case Timestamp():
            return rng.choice(TIMES)
        case JSON():
            return json_text(rng)
        case List():
            return [value(kind.item, rng) for _ in range(rng.randint(0, 4))]
    raise AssertionError(f"no values of {kind}")


@st.composite
def tables(draw: st.DrawFn, fields: Fields) -> pa.Table:
    """Return a table of the fields, in one or two chunks: many rows from one drawn seed."""
    rng = Random(draw(st.integers(0, 2**32)))
    rows = draw(st.sampled_from((0, 1, 3, 40, 40)))
    columns = {}
    for name, kind in fields.items():
        nulls = 0.2 if is_nullable(kind) else 0.0
        found = [None if rng.random() < nulls else value(kind, rng) for _ in range(rows)]
        columns[name] = pa.array(found, kind.arrow_type())
    table = pa.table(columns)
    cut = rng.randint(0, rows)
    return pa.concat_tables([table.slice(0, cut), table.slice(cut)])


@st.composite
def conditions(draw: st.DrawFn, fields: Fields) -> Expr:
    """Return conditions on the fields that bind without an error."""
    return _Maker(draw, fields).condition(2)


class _Maker:
    """Draws expressions on some fields, choice by choice."""

    def __init__(self, draw: st.DrawFn, fields: Fields) -> None:
        self._draw = draw
        self._fields = fields

    def _pick(self, options: Sequence[Any]) -> Any:
        return self._draw(st.sampled_from(options))

    def _some(self, options: Sequence[Any]) -> list[Any]:
        return self._draw(st.lists(st.sampled_from(options), max_size=4))

    def _names(self, *kinds: type[FieldType]) -> list[str]:
        return [name for name, kind in self._fields.items() if isinstance(kind, kinds)]

    def condition(self, depth: int) -> Expr:
        form = self._pick(("leaf", "leaf", "and", "or", "not")) if depth else "leaf"
        if form == "leaf":
            return self._leaf()
        if form == "not":
            return ~self.condition(depth - 1)
        return combine(form, self.condition(depth - 1), self.condition(depth - 1))

    def _leaf(self) -> Expr:
        name = self._pick([*self._fields, ""])
        kind = self._fields.get(name)
        if kind is not None and self._pick(range(8)) == 0:
            return col(name).is_null()
        match kind:
            case Bool():
                flag: Expr = col(name)
                other = self._pick([True, False, col(self._pick(self._names(Bool)))])
                found: Expr = self._pick([flag, flag == other, flag != other])
                return found
            case Timestamp():
                return self._about_time(col(name))
            case String():
                return self._about_text(col(name))
            case JSON():
                return self._about_json(self._path(col(name)))
            case List():
                values = STRINGS if isinstance(kind.item, String) else (*INTS, *FLOATS)
                return self._about_list(col(name), values)
        left = self._number(2)
        if self._pick(range(4)) == 0:
            return left.is_in(self._some((*INTS, *FLOATS, 2**70)))
        return self._compared(left, self._number(1, huge=True))

    def _compared(self, left: Expr, right: Expr, *, ordered: bool = True) -> Expr:
        op = self._pick(("==", "!=", "<", "<=", ">", ">=") if ordered else ("==", "!="))
        sides = (left, right) if self._draw(st.booleans()) else (right, left)
        return Compare(op, *sides)

    def _number(self, depth: int, *, huge: bool = False) -> Expr:
        if depth and self._pick(range(3)) == 0:
            return self._computed(depth - 1)
        name = self._pick([*self._fields, *self._names(*_NUMBERS), ""])
        match self._fields.get(name):
            case Int8() | Int16() | Int32() | Int64() | Float32() | Float64():
                return col(name)
            case String() | List() if self._draw(st.booleans()):
                return col(name).length()
            case List(item=Int32() | Float32()):
                return col(name)[self._pick(range(4))]
        values = (*INTS, *FLOATS, 2**63, -(2**64), 10**400) if huge else (*INTS, *FLOATS)
        return lit(self._pick(values))

    def _computed(self, depth: int) -> Expr:
        left = self._number(depth)
        op = self._pick(("+", "-", "*", "/", "%", "**", "negate", "abs", "fill"))
        match op:
            case "negate":
                return left if isinstance(left, Literal) else -left
            case "abs":
                return left.abs()
            case "fill":
                return left.fill_null(self._pick((2, -0.5)))
        return Arithmetic(op, left, self._number(depth))

    def _about_time(self, time: Expr) -> Expr:
        form = self._pick(("in", "column", "time", "text"))
        if form == "in":
            return time.is_in(self._some(TIMES))
        found = self._pick(TIMES)
        other = col(self._pick(self._names(Timestamp))) if form == "column" else lit(found)
        return self._compared(time, lit(found.isoformat()) if form == "text" else other)

    def _about_text(self, text: Expr) -> Expr:
        text = self._pick((text, text, text.upper(), text.fill_null("a")))
        form = self._pick(_TEXT_FORMS)
        if form == "in":
            return text.is_in(self._some(STRINGS))
        if form == "like":
            return text.like(self._pick(PATTERNS))
        other = self._pick(STRINGS)
        match form:
            case "starts":
                return text.starts_with(other)
            case "ends":
                return text.ends_with(other)
            case "contains":
                return text.contains(other)
            case "words":
                return text.text_match(other)
        column = col(self._pick(self._names(String)))
        return self._compared(text, column if form == "column" else lit(other))

    def _path(self, expr: Expr) -> Expr:
        steps: tuple[str | int, ...] = (*NAMES, 0, 1)
        for step in self._draw(st.lists(st.sampled_from(steps), max_size=2)):
            expr = expr[step]
        return expr

    def _about_json(self, value: Expr) -> Expr:
        wanted = (True, False, *STRINGS, *INTS, 0.5, 1.0)
        form = self._pick(_JSON_FORMS)
        match form:
            case "number":
                return self._compared(value, self._number(1, huge=True))
            case "text":
                return self._compared(value, lit(self._pick(STRINGS)))
            case "bool":
                return self._compared(value, lit(self._draw(st.booleans())), ordered=False)
            case "json":
                return self._compared(value, self._path(col(self._pick(self._names(JSON)))))
            case "sum":
                return self._compared(value * 2, self._number(1))
            case "in":
                return value.is_in(self._some(wanted))
            case "null":
                return value.is_null()
            case "long":
                return value.length() > 1
            case "like":
                return value.like(self._pick(PATTERNS))
            case "list":
                return self._about_list(value, wanted)
        return value

    def _about_list(self, value: Expr, wanted: Sequence[Any]) -> Expr:
        form = self._pick(("one", "all", "any"))
        if form == "one":
            return value.contains(self._pick(wanted))
        return getattr(value, f"contains_{form}")(self._some(wanted))  # type: ignore[no-any-return]
