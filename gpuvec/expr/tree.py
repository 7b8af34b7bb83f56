"""Expressions: frozen nodes that Python operators and filter text both make.

Filter text and Python make the same trees, and `str` prints a tree as filter text
(`gpuvec.expr.text`). Nodes have no types and know no schema; `gpuvec.expr.bind` checks them and
`gpuvec.expr.evaluate` runs them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple, NoReturn, Self, TypeAlias

from gpuvec import errors
from gpuvec.expr.literals import Plain, Values, plain_value, plain_values


class Origin(NamedTuple):
    """Where in a filter's text a node came from."""

    text: str
    position: int


Binary: TypeAlias = Callable[["Expr", object], "Expr"]


def _both(make: Callable[["Expr", "Expr"], "Expr"]) -> tuple[Binary, Binary]:
    """Return the methods of an operator, for `self` on its left and on its right."""
    return (
        lambda self, other: make(self, lit(other)),
        lambda self, other: make(lit(other), self),
    )


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Expr:
    """A column expression: `gv.col("price") < 10`.

    Operators make new expressions and compute nothing. Nulls follow SQL: `&`, `|` and `~` are
    three-valued, and a comparison with null selects nothing. Whole numbers are exact; a result
    beyond 64 bits and a division by zero are null; `/` and `**` give float64; the sign of `%` is
    that of its left side.
    """

    origin: Origin | None = field(default=None, kw_only=True)

    __hash__ = object.__hash__
    __array_ufunc__ = None  # NumPy scalars on the left leave the operator to us

    def __str__(self) -> str:
        from gpuvec.expr.text import to_text

        return to_text(self)

    def __repr__(self) -> str:
        text = str(self)
        return text if len(text) <= 200 else f"{text[:200]}…"

    def __bool__(self) -> NoReturn:
        raise errors.expression_truth(repr(self))

    def __iter__(self) -> Iterator[Any]:
        raise errors.expression_truth(repr(self))

    def __eq__(self, other: object) -> "Expr":  # type: ignore[override]
        return Compare("==", self, lit(other))

    def __ne__(self, other: object) -> "Expr":  # type: ignore[override]
        return Compare("!=", self, lit(other))

    __lt__ = _both(lambda a, b: Compare("<", a, b))[0]
    __le__ = _both(lambda a, b: Compare("<=", a, b))[0]
    __gt__ = _both(lambda a, b: Compare(">", a, b))[0]
    __ge__ = _both(lambda a, b: Compare(">=", a, b))[0]

    __and__, __rand__ = _both(lambda a, b: combine("and", a, b))
    __or__, __ror__ = _both(lambda a, b: combine("or", a, b))

    def __invert__(self) -> "Expr":
        return Not(self)

    __add__, __radd__ = _both(lambda a, b: Arithmetic("+", a, b))
    __sub__, __rsub__ = _both(lambda a, b: Arithmetic("-", a, b))
    __mul__, __rmul__ = _both(lambda a, b: Arithmetic("*", a, b))
    __truediv__, __rtruediv__ = _both(lambda a, b: Arithmetic("/", a, b))
    __mod__, __rmod__ = _both(lambda a, b: Arithmetic("%", a, b))
    __pow__, __rpow__ = _both(lambda a, b: Arithmetic("**", a, b))

    def __neg__(self) -> "Expr":
        return negate(self)

    def abs(self) -> "Expr":
        """Return the value without its sign."""
        return Call("abs", (self,))

    def __getitem__(self, key: str | int) -> "Expr":
        """Return a member of a JSON value or an element of a list; null where there is none."""
        return Subscript(self, lit(key))

    def is_in(self, values: Any) -> "Expr":
        """Return whether the value is one of `values`: a list, an array or a column."""
        return In(self, ValueList(plain_values(values)))

    def is_null(self) -> "Expr":
        """Return whether the value is null; of a JSON path, also whether it is missing."""
        return IsNull(self)

    def is_not_null(self) -> "Expr":
        """Return whether the value is not null."""
        return Not(IsNull(self))

    def between(self, low: object, high: object) -> "Expr":
        """Return whether `low <= value <= high`."""
        return combine("and", Compare(">=", self, lit(low)), Compare("<=", self, lit(high)))

    def like(self, pattern: str) -> "Expr":
        r"""Return whether the text matches: `%` any characters, `_` one, `\x` x itself."""
        return Like(self, lit(pattern))

    def starts_with(self, text: str) -> "Expr":
        """Return whether the text begins with `text`."""
        return Call("starts_with", (self, lit(text)))

    def ends_with(self, text: str) -> "Expr":
        """Return whether the text ends with `text`."""
        return Call("ends_with", (self, lit(text)))

    def contains(self, value: object) -> "Expr":
        """Return whether a text has `value` in it, or a list or JSON array has it as an element."""
        return Call("contains", (self, lit(value)))

    def contains_all(self, values: Any) -> "Expr":
        """Return whether a list or JSON array has every one of `values`."""
        return Call("array_contains_all", (self, ValueList(plain_values(values))))

    def contains_any(self, values: Any) -> "Expr":
        """Return whether a list or JSON array has one of `values`."""
        return Call("array_contains_any", (self, ValueList(plain_values(values))))

    def text_match(self, words: str) -> "Expr":
        """Return whether the text has one of the words, in any case."""
        return Call("text_match", (self, lit(words)))

    def lower(self) -> "Expr":
        """Return the text in lower case."""
        return Call("lower", (self,))

    def upper(self) -> "Expr":
        """Return the text in upper case."""
        return Call("upper", (self,))

    def length(self) -> "Expr":
        """Return the characters of a text, or the elements of a list or JSON array."""
        return Call("length", (self,))

    def fill_null(self, value: object) -> "Expr":
        """Return the value, or `value` where it is null."""
        return Call("fill_null", (self, lit(value)))

    def distance(self, query: Any, metric: str | None = None) -> "Expr":
        """Return the exact float32 distance of a vector field to one query; smaller is nearer."""
        return Distance(
            self, ValueList(plain_values(query)), None if metric is None else str(metric)
        )

    def min(self) -> "Expr":
        """Return the smallest value of a group."""
        return Aggregate("min", self)

    def max(self) -> "Expr":
        """Return the largest value of a group."""
        return Aggregate("max", self)

    def sum(self) -> "Expr":
        """Return the sum of a group's values."""
        return Aggregate("sum", self)

    def mean(self) -> "Expr":
        """Return the mean of a group's values, float64."""
        return Aggregate("mean", self)

    def count(self) -> "Expr":
        """Return how many values of a group are not null."""
        return Aggregate("count", self)

    def alias(self, name: str) -> "Expr":
        """Return the expression under a name of its own."""
        return Alias(self, name)

    def at(self, text: str, position: int) -> Self:
        """Return the node with a note of where it was read."""
        return replace(self, origin=Origin(text, position))


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Column(Expr):
    """A column by name; `side` is `left` or `right` in the condition of a join."""

    name: str
    side: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Literal(Expr):
    """One value. Times are `datetime` in UTC."""

    value: Plain


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ValueList(Expr):
    """A list of values. `Parameter` nodes may stand among a tuple's until they are filled in."""

    values: Values


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Parameter(Expr):
    """A `{name}` of filter text that has no value yet."""

    name: str


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Compare(Expr):
    """`left op right`; op is one of `== != < <= > >=`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Combine(Expr):
    """Two or more conditions joined by `and` or `or`; make it with `combine`."""

    op: str
    operands: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Not(Expr):
    """Not the operand."""

    operand: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Arithmetic(Expr):
    """`left op right`; op is one of `+ - * / % **`."""

    op: str
    left: Expr
    right: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Negate(Expr):
    """Minus the operand; make it with `negate`."""

    operand: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class In(Expr):
    """Whether the operand equals one of a `ValueList`'s values."""

    operand: Expr
    values: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class IsNull(Expr):
    """Whether the operand is null."""

    operand: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Like(Expr):
    """Whether the operand matches a pattern of `%`, `_` and text."""

    operand: Expr
    pattern: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subscript(Expr):
    """A member of a JSON value or an element of a list."""

    operand: Expr
    key: Expr


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Call(Expr):
    """A function of `gpuvec.expr.functions`, its name in lower case."""

    name: str
    arguments: tuple[Expr, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Distance(Expr):
    """The distance of a vector field to one query; `metric` None: the field's."""

    operand: Expr
    query: Expr
    metric: str | None = None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Aggregate(Expr):
    """`min`, `max`, `sum`, `mean` or `count` over a group; `count` without operand counts rows."""

    function: str
    operand: Expr | None


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Alias(Expr):
    """The operand under another name. Filter text has no alias."""

    operand: Expr
    name: str


AGGREGATES = ("min", "max", "sum", "mean", "count")


def col(name: str) -> Expr:
    """Return the column of that name: `gv.col("price") < 10`."""
    return Column(name)


def left(name: str) -> Expr:
    """Return a column of a join's left side."""
    return Column(name, "left")


def right(name: str) -> Expr:
    """Return a column of a join's right side."""
    return Column(name, "right")


def count() -> Expr:
    """Return the number of rows of a group."""
    return Aggregate("count", None)


def lit(value: object) -> Expr:
    """Return a value as an expression; an expression comes back as it is.

    Raises:
        FilterError: `GV-205`, a value that no column can hold.
    """
    return value if isinstance(value, Expr) else Literal(plain_value(value))


def combine(op: str, *conditions: Expr) -> Expr:
    """Join conditions with `and` or `or`; nested ones of the same kind become one."""
    flat: list[Expr] = []
    for condition in conditions:
        same = isinstance(condition, Combine) and condition.op == op
        flat.extend(condition.operands if same else (condition,))  # type: ignore[attr-defined]
    return Combine(op, tuple(flat), origin=conditions[0].origin)


def negate(operand: Expr) -> Expr:
    """Return minus the operand; of a number, the number with the other sign."""
    if isinstance(operand, Literal) and type(operand.value) in (int, float):
        return Literal(-operand.value, origin=operand.origin)  # type: ignore[operator]
    return Negate(operand, origin=operand.origin)


def output_name(expr: Expr) -> str | None:
    """Return the name of the column that an expression makes; None when it has none."""
    return expr.name if isinstance(expr, Column | Alias) else None
