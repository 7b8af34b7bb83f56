"""The functions of expressions: what each takes and gives. `gpuvec.expr.calls` runs them."""

from dataclasses import dataclass

# A family is a set of types that are compared and computed alike.
BOOL, NUMBER, STRING, TIME, LIST, ANY = "bool", "number", "string", "timestamp", "list", "any"
VALUE, VALUES, TEXT = "value", "values", "text"  # a literal: any one, a list of them, a text

SAME = "same"  # the result has the type of the first argument


@dataclass(frozen=True, slots=True)
class Function:
    """What a function takes and gives.

    Attributes:
        operand: the families its first argument may have; a JSON value is read as the first of
            them.
        rest: what the other arguments are: `value`, `values`, `text`, or `any` for an expression of
            the same family.
        result: a family, or `same`.
        usage: how it is called.
    """

    operand: tuple[str, ...]
    rest: tuple[str, ...]
    result: str
    usage: str


def _contains(name: str, rest: str, shown: str) -> tuple[str, Function]:
    return name, Function((LIST,), (rest,), BOOL, f"{name}(list, {shown})")


FUNCTIONS: dict[str, Function] = {
    "abs": Function((NUMBER,), (), SAME, "abs(number)"),
    "floor": Function((NUMBER,), (), SAME, "floor(number)"),
    "ceil": Function((NUMBER,), (), SAME, "ceil(number)"),
    "round": Function((NUMBER,), (), SAME, "round(number)"),
    "lower": Function((STRING,), (), SAME, "lower(text)"),
    "upper": Function((STRING,), (), SAME, "upper(text)"),
    "length": Function((STRING, LIST), (), NUMBER, "length(text or list)"),
    "starts_with": Function((STRING,), (TEXT,), BOOL, 'starts_with(text, "start")'),
    "ends_with": Function((STRING,), (TEXT,), BOOL, 'ends_with(text, "end")'),
    "contains": Function((STRING, LIST), (VALUE,), BOOL, "contains(text or list, value)"),
    "text_match": Function((STRING,), (TEXT,), BOOL, 'text_match(text, "words")'),
    "fill_null": Function((ANY,), (VALUE,), SAME, "fill_null(expression, value)"),
    "array_length": Function((LIST,), (), NUMBER, "array_length(list)"),
    **dict(
        _contains(
            f"{kind}_contains{mode}", VALUES if mode else VALUE, "[values]" if mode else "value"
        )
        for kind in ("array", "json")
        for mode in ("", "_all", "_any")
    ),
}
