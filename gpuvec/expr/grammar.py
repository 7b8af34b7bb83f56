"""The grammar of filter text, `filter.lark`, and what its rules make."""

import re
from collections.abc import Collection
from datetime import datetime
from functools import cache
from importlib.resources import files
from typing import Any

from lark import Lark, Token, Transformer, UnexpectedInput, v_args
from lark.exceptions import UnexpectedToken, VisitError

from gpuvec import errors
from gpuvec.expr.literals import one_type, read_time
from gpuvec.expr.tree import (
    AGGREGATES,
    Aggregate,
    Arithmetic,
    Call,
    Column,
    Compare,
    Distance,
    Expr,
    In,
    IsNull,
    Like,
    Literal,
    Not,
    Parameter,
    Subscript,
    ValueList,
    combine,
    negate,
)


def read_filter(text: str) -> Expr:
    """Return the tree of filter text, with its parameters.

    Raises:
        FilterError: `GV-201`, it cannot be read; `GV-208`, it is nested too deeply.
    """
    try:
        tree = _parser().parse(text)
        return _TreeBuilder(text).transform(tree)
    except UnexpectedInput as error:
        problem: Exception = _syntax_error(text, error)
    except VisitError as error:
        problem = error.orig_exc
    except RecursionError:
        problem = errors.filter_too_deep()
    raise problem  # out here it holds no parser, which does not pickle


@cache
def _parser() -> Lark:
    grammar = files("gpuvec.expr").joinpath("filter.lark").read_text(encoding="utf-8")
    return Lark(grammar, parser="lalr", lexer="contextual", maybe_placeholders=False)


_ESCAPE = re.compile(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.)", re.DOTALL)
_ESCAPED = {
    "n": "\n", "t": "\t", "r": "\r", "b": "\b", "f": "\f", "0": "\0",
    "\\": "\\", '"': '"', "'": "'", "/": "/",
}  # fmt: skip


def unquote(quoted: str) -> str:
    """Return the text inside quotes; an escape that means nothing here stays, for `like`."""
    if "\\" not in quoted:
        return quoted[1:-1]
    text = _ESCAPE.sub(_unescape, quoted[1:-1])
    if any("\ud800" <= character <= "\udfff" for character in text):
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return text


def _unescape(found: re.Match[str]) -> str:
    mark = found[1]
    if len(mark) > 1:
        return chr(int(mark[1:], 16))
    return _ESCAPED.get(mark, found[0])


def whole_number(digits: str) -> int:
    """Return the value of decimal, `0x`, `0o` or `0b` digits."""
    return int(digits, 0)


_ITEM = re.compile(
    r"""(?P<text>"(?:[^"\\]|\\.)*"|'(?:[^'\\]|\\.)*')|(?P<word>[A-Za-z][^,\]]*)|(?P<number>[^\s,\[\]]+(?:\s+[^\s,\[\]]+)?)"""
)


def _flat_list(text: str) -> list[Any]:
    """Return the values of a list of plain values, which the lexer has checked."""
    if not re.search(r"[^-+\d\s,\[\]]", text):
        body = text.strip("[]").rstrip().rstrip(",")
        return [int(number) for number in body.replace(" ", "").split(",")]
    return [_item(found) for found in _ITEM.finditer(text)]


def _item(found: re.Match[str]) -> Any:
    if found["text"]:
        return unquote(found["text"])
    if found["word"]:
        return _word(found["word"].strip())
    digits = "".join(found["number"].split())
    sign = -1 if digits[0] == "-" else 1
    digits = digits.lstrip("+-")
    if digits.lower().startswith("float"):
        return sign * _word(digits)
    is_whole = digits[:2].lower() == "0x" or not re.search(r"[.eE]", digits)
    return sign * (whole_number(digits) if is_whole else float(digits))


def _word(word: str) -> Any:
    lowered = word.lower()
    if lowered.startswith("float"):
        return float(re.split("[\"']", word)[1])
    if lowered.startswith("iso"):
        return read_time(unquote(word[3:].strip()))
    return {"true": True, "false": False, "null": None}[lowered]


@v_args(inline=True)
class _TreeBuilder(Transformer[Token, Expr]):
    """Makes nodes, each with a note of where it came from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self._text = text

    def start(self, node: Expr) -> Expr:
        return node

    def any_of(self, *conditions: Expr) -> Expr:
        return combine("or", *conditions)

    def all_of(self, *conditions: Expr) -> Expr:
        return combine("and", *conditions)

    def compare(self, left: Expr, op: Token, right: Expr) -> Expr:
        return self._at(op, Compare(str(op), left, right))

    def chain(self, first: Expr, *rest: Any) -> Expr:
        """Read `a < b <= c` as `a < b and b <= c`."""
        directions = {op[0] for op in rest[::2]}
        if len(directions) > 1:
            wrong = next(op for op in rest[::2] if op[0] != rest[0][0])
            raise errors.filter_syntax(
                self._text,
                wrong.start_pos or 0,
                f'another "{rest[0][0]}", as in low <= name < high',
            )
        values = [first, *rest[1::2]]
        parts = [
            self._at(op, Compare(str(op), values[number], values[number + 1]))
            for number, op in enumerate(rest[::2])
        ]
        return parts[0] if len(parts) == 1 else combine("and", *parts)

    def is_in(self, operand: Expr, values: Expr) -> Expr:
        return In(operand, values, origin=operand.origin)

    def is_not_in(self, operand: Expr, values: Expr) -> Expr:
        return Not(In(operand, values, origin=operand.origin), origin=operand.origin)

    def arithmetic(self, left: Expr, op: Token, right: Expr) -> Expr:
        return self._at(op, Arithmetic(str(op), left, right))

    def minus(self, mark: Token, operand: Expr) -> Expr:
        return self._at(mark, negate(operand))

    def plus(self, mark: Token, operand: Expr) -> Expr:
        return operand

    def negation(self, mark: Token, operand: Expr) -> Expr:
        return self._at(mark, Not(operand))

    def exists(self, mark: Token, operand: Expr) -> Expr:
        return Not(IsNull(operand, origin=operand.origin), origin=operand.origin)

    def like(self, operand: Expr, pattern: Expr) -> Expr:
        return Like(operand, pattern, origin=operand.origin)

    def not_like(self, operand: Expr, pattern: Expr) -> Expr:
        return Not(Like(operand, pattern, origin=operand.origin), origin=operand.origin)

    def is_null(self, operand: Expr) -> Expr:
        return IsNull(operand, origin=operand.origin)

    def is_not_null(self, operand: Expr) -> Expr:
        return Not(IsNull(operand, origin=operand.origin), origin=operand.origin)

    def subscript(self, operand: Expr, key: Expr) -> Expr:
        return Subscript(operand, key, origin=operand.origin)

    def column(self, name: Token) -> Expr:
        return self._at(name, Column(str(name)))

    def quoted_column(self, name: Token) -> Expr:
        return self._at(name, Column(_plain_name(name)))

    def side_column(self, token: Token) -> Expr:
        side, name = token.split(".", 1)
        return self._at(token, Column(_plain_name(name), side))

    def call(self, name: Token, *arguments: Expr) -> Expr:
        function = name.lower()
        if function in AGGREGATES and len(arguments) == (
            0 if not arguments and function == "count" else 1
        ):
            return self._at(name, Aggregate(function, *(arguments or (None,))))
        if function == "distance" and len(arguments) in (2, 3):
            metric = (
                arguments[2].value
                if len(arguments) == 3 and isinstance(arguments[2], Literal)
                else None
            )
            return self._at(name, Distance(arguments[0], arguments[1], metric))  # type: ignore[arg-type]
        return self._at(name, Call(function, arguments))

    def whole_list(self, token: Token) -> Expr:
        return self._at(token, ValueList(one_type(_flat_list(token))))

    def list_of_parts(self, *parts: Expr) -> Expr:
        values = tuple(part.value if isinstance(part, Literal) else part for part in parts)
        found = values if any(isinstance(v, Parameter) for v in values) else one_type(values)
        return ValueList(found, origin=parts[0].origin if parts else None)

    def text(self, token: Token) -> Expr:
        return self._at(token, Literal(unquote(token)))

    def whole(self, token: Token) -> Expr:
        return self._at(token, Literal(whole_number(token)))

    def fraction(self, token: Token) -> Expr:
        return self._at(token, Literal(float(token)))

    def special(self, token: Token) -> Expr:
        return self._at(token, Literal(_word(token)))

    def time(self, token: Token) -> Expr:
        found = _word(token)
        if not isinstance(found, datetime):
            raise errors.filter_syntax(
                self._text, token.start_pos or 0, 'a time such as ISO "2026-11-01T00:00Z"'
            )
        return self._at(token, Literal(found))

    def true(self, token: Token) -> Expr:
        return self._at(token, Literal(True))

    def false(self, token: Token) -> Expr:
        return self._at(token, Literal(False))

    def null(self, token: Token) -> Expr:
        return self._at(token, Literal(None))

    def parameter(self, token: Token) -> Expr:
        return self._at(token, Parameter(token.strip("{} \t\n")))

    def _at(self, token: Token, node: Expr) -> Expr:
        return node.at(self._text, token.start_pos or 0)


def _plain_name(name: str) -> str:
    return name[1:-1].replace("``", "`") if name.startswith("`") else str(name)


_EXPECTED: tuple[tuple[str, frozenset[str]], ...] = (
    ("a value", frozenset({"INT", "FLOAT", "STRING", "TRUE", "SPECIAL"})),
    ("a field", frozenset({"NAME"})),
    ("a list", frozenset({"LIST"})),
    ('"("', frozenset({"LPAR"})),
    ("a comparison", frozenset({"EQUAL", "ORDER"})),
    ('"and"', frozenset({"_AND"})),
    ('"or"', frozenset({"_OR"})),
    ('","', frozenset({"COMMA"})),
    ('")"', frozenset({"RPAR"})),
    ('"]"', frozenset({"RSQB"})),
    ("the end", frozenset({"$END"})),
)
_SLIPS = {
    "=": 'write "==" to compare',
    "&": 'write "and"',
    "|": 'write "or"',
    "~": 'write "not (...)"',
    "^": 'write "**" for a power',
    '"': 'a text ends with the quote it began with, on the same line; inside it write \\"',
    "'": "a text ends with the quote it began with, on the same line; inside it write \\'",
    "`": "a quoted name ends with a backtick",
    "{": "a parameter is a name in braces: {low}",
}


def _syntax_error(text: str, error: UnexpectedInput) -> errors.FilterError:
    at_end = isinstance(error, UnexpectedToken) and error.token.type == "$END"
    place = len(text.rstrip()) if at_end else int(getattr(error, "pos_in_stream", 0) or 0)
    slip = "" if at_end else _SLIPS.get(text[place : place + 1], "")
    return errors.filter_syntax(text, place, _expected(_accepted(error)), hint=slip)


def _accepted(error: UnexpectedInput) -> Collection[str]:
    parser = getattr(error, "interactive_parser", None)
    return parser.accepts() if parser is not None else ()


def _expected(accepted: Collection[str]) -> str:
    words = [word for word, terminals in _EXPECTED if terminals & set(accepted)]
    if "a comparison" in words and '"("' in words:
        words.remove('"("')  # of a call, after a name
    if not words:
        return "something else"
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"
