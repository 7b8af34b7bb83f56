"""2xx: filters and expressions."""

from collections.abc import Iterable

from gpuvec.errors.base import FilterError, did_you_mean


def filter_syntax(text: str, position: int, expected: str, *, hint: str = "") -> FilterError:
    """`GV-201`: the text cannot be read; `expected` says what could stand at `position`."""
    return FilterError(
        "GV-201",
        "cannot read this filter",
        hint=_with_caret(text, position, f"expected {expected}", hint),
        details={"text": text, "position": position, "expected": expected},
    )


def filter_type(text: str, position: int, problem: str, *, hint: str = "") -> FilterError:
    """`GV-202`: an operation on values that it is not for."""
    return FilterError(
        "GV-202",
        problem,
        hint=_with_caret(text, position, "here", hint),
        details={"text": text, "position": position},
    )


def missing_parameter(text: str, position: int, name: str, given: Iterable[str]) -> FilterError:
    """Return the error for a `{name}` in a filter that no parameter fills."""
    names = list(given)
    return FilterError(
        "GV-203",
        f"no value for the parameter {{{name}}}.{did_you_mean(name, names)}",
        hint=_with_caret(text, position, f'give params={{"{name}": ...}}'),
        details={"parameter": name, "given": names},
    )


def unused_parameters(names: Iterable[str], known: Iterable[str]) -> FilterError:
    """Return the error for parameters that a filter does not name."""
    unused, wanted = sorted(names), sorted(known)
    near = did_you_mean(unused[0], wanted)
    has = f"its parameters: {', '.join(wanted)}" if wanted else "it has no parameters"
    return FilterError(
        "GV-204",
        f"the filter does not use {', '.join(unused)}.{near}",
        hint=f"{has}; a parameter is written {{name}}",
        details={"unused": unused, "known": wanted},
    )


def bad_value(value: object) -> FilterError:
    """Return the error for a value that no filter can hold."""
    return FilterError(
        "GV-205",
        f"a {type(value).__name__} cannot be a value in an expression: {_short(value)}",
        hint="use a bool, int, float, text, datetime or date; for several values, is_in([...])",
        details={"type": type(value).__name__},
    )


def bad_list(value: object) -> FilterError:
    """Return the error for a list that a filter cannot search."""
    return FilterError(
        "GV-205",
        f"wanted a flat list of values, got {type(value).__name__}: {_short(value)}",
        hint="use a list, a one-dimensional array or a column",
        details={"type": type(value).__name__},
    )


def null_value(text: str, position: int) -> FilterError:
    """`GV-206`: null where it could never select a row."""
    return FilterError(
        "GV-206",
        "nothing is equal to null, nor different from it",
        hint=_with_caret(text, position, 'write "is null" or .is_null()'),
        details={"text": text, "position": position},
    )


def expression_truth(text: str) -> FilterError:
    """Return the error for asking an expression whether it is true."""
    return FilterError(
        "GV-207",
        f"an expression is neither true nor false before it is run: {text}",
        hint="write & | ~ for and, or, not, with parentheses around comparisons; "
        ".between(low, high) for a range; .is_in(values) for in",
        details={"text": text},
    )


def filter_too_deep() -> FilterError:
    """Return the error for a filter nested too deeply to read."""
    return FilterError(
        "GV-208",
        "the expression is nested too deeply",
        hint="put long alternatives in a list: name in [...]",
    )


def unknown_function(text: str, position: int, name: str, known: Iterable[str]) -> FilterError:
    """Return the error for a function that does not exist, with the nearest name."""
    names = sorted(known)
    return FilterError(
        "GV-209",
        f'no function "{name}".{did_you_mean(name, names)}',
        hint=_with_caret(text, position, f"functions: {', '.join(names)}"),
        details={"function": name, "known": names},
    )


def not_a_filter(value: object) -> FilterError:
    """Return the error for something that is neither filter text nor expression."""
    return FilterError(
        "GV-210",
        f"a filter is text or an expression, got {type(value).__name__}: {_short(value)}",
        hint='write "price < 20" or gv.col("price") < 20',
        details={"type": type(value).__name__},
    )


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 60 else f"{text[:60]}…"


def _with_caret(text: str, position: int, note: str, hint: str = "") -> str:
    """Return the line of `text` around a position, a caret below it with a note, then the hint."""
    first = text.rfind("\n", 0, position) + 1
    last = text.find("\n", position)
    line = text[first : len(text) if last < 0 else last].replace("\t", " ")
    column = position - first
    skip = max(0, column - 60)
    before = "…" if skip else ""
    after = "…" if len(line) > skip + 120 else ""
    shown = f"{before}{line[skip : skip + 120]}{after}"
    found = f"{shown}\n  {' ' * (column - skip + len(before))}^ {note}"
    return f"{found}\n  {hint}" if hint else found
