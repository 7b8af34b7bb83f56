"""Filter text: what it means, and what is said of text that means nothing."""

import time
from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.errors import FilterError
from gpuvec.expr.parse import as_filter, parse_filter
from gpuvec.expr.tree import Literal, col, combine, count, left, lit, right
from gpuvec.expr.walk import same

c = col


def caret(error):
    """Return what the caret of an error points at, and the note beside it."""
    lines = str(error).splitlines()
    number = next(n for n, line in enumerate(lines) if line.lstrip().startswith("^"))
    column = lines[number].index("^")
    return lines[number - 1][column:], lines[number].strip("^ ")


@pytest.mark.parametrize(
    ("text", "expr"),
    [
        ("price < 20", c("price") < 20),
        ("10 <= price < 20", (lit(10) <= c("price")) & (c("price") < 20)),
        ("3 > a >= b > 1", combine("and", lit(3) > c("a"), c("a") >= c("b"), c("b") > lit(1))),
        ("brand in ['acme', \"zeta\"]", c("brand").is_in(["acme", "zeta"])),
        ("brand not in ['acme']", ~c("brand").is_in(["acme"])),
        ("x in [1, -2, 0x10]", c("x").is_in([1, -2, 16])),
        ("x in [1, 2.5, 'a', true]", c("x").is_in([1, 2.5, "a", True])),
        ("x in []", c("x").is_in([])),
        ("title like 'red%'", c("title").like("red%")),
        ("title not like 'red%'", ~c("title").like("red%")),
        (r"title like '10\%'", c("title").like(r"10\%")),
        ("price is null", c("price").is_null()),
        ("price IS NOT NULL", c("price").is_not_null()),
        ("exists meta['a']", c("meta")["a"].is_not_null()),
        ("not (a == 1)", ~(c("a") == 1)),
        ("! (a == 1)", ~(c("a") == 1)),
        ("not a", ~c("a")),
        ("a && b || c", (c("a") & c("b")) | c("c")),
        ("a OR b AND c", c("a") | (c("b") & c("c"))),
        ("a or (b or c)", c("a") | c("b") | c("c")),
        ("a + b * 2 ** 3 % 4 - -5", (c("a") + (c("b") * (lit(2) ** 3)) % 4) - (-5)),
        ("-a ** 2", -(c("a") ** 2)),
        ("a < 1 == b < 2", (c("a") < 1) == (c("b") < 2)),
        ("a in [1] < true", c("a").is_in([1]) < True),
        ('meta["a"][0] == 1', c("meta")["a"][0] == 1),
        ("ARRAY_CONTAINS_ALL (tags , ['x'])", c("tags").contains_all(["x"])),
        ("left.seen < right.ts", left("seen") < right("ts")),
        ("`my col` == 1", c("my col") == 1),
        ("`a``b` == 1", c("a`b") == 1),
        ("`and` == 1", c("and") == 1),
        ("é == 'ü'", c("é") == "ü"),
        ("ts > ISO '2026-11-01T00:00Z'", c("ts") > datetime(2026, 11, 1, tzinfo=UTC)),
        ("price < float('nan')", c("price") < float("nan")),
        ("price < 1e3", c("price") < 1000.0),
        ("x == 123456789012345678901234567890", c("x") == 123456789012345678901234567890),
        ("count() > 3", count() > 3),
        ("min(distance) < 1", c("distance").min() < 1),
        (r'x == "a\"b\\\n\u00e9\ud83d\ude00"', c("x") == 'a"b\\\né😀'),
        ("x == 'it\\'s'", c("x") == "it's"),
    ],
)
def test_text_and_python_make_the_same_tree(text, expr):
    found = parse_filter(text)
    assert same(found, expr), f"{found} != {expr}"
    assert same(parse_filter(str(found)), found)


@pytest.mark.parametrize(
    "expr",
    [
        (c("a") + 1) * 2,
        c("a") - (c("b") - c("c")),
        (c("a") ** 2) ** 3,
        c("a") ** (c("b") ** 2),
        lit(-5) ** 2,
        c("a").__neg__().__neg__(),
        (c("a") == 1) == (c("b") == 2),
        (c("a") < 1) < (c("b") < 2),
        ~(~c("a").is_null()),
        (~c("a")).is_null(),
        (c("a") + 1).like("x"),
        (c("a") + 1)["k"],
        c("a").is_in([True, False]).is_in([True]),
        c("a").is_in([float("inf"), -0.0, float("nan")]),
        c("a").is_in([datetime(2026, 1, 1), "x", None]),
        c("a").distance(np.array([0.1, 2], np.float32), "l2") < 1,
        c("a").distance([1, 2]) < 1,
        c("a") == 10**5000,
        c("a") == -(10**5000),
        c("a") == "\x00\x1f\u2028\t",
        c("a") == -0.0,
        c("`") == c("1x"),
        c("$meta")["x"] == 1,
        c("left.x") == left("my col"),
        c("a").fill_null("x").lower().starts_with("y"),
        c("a").between(1, c("b") | c("c")),
        lit(True) & None,
    ],
    ids=lambda expr: str(expr)[:60],
)
def test_a_printed_expression_reads_back_as_the_same_tree(expr):
    assert same(parse_filter(str(expr)), expr)


@pytest.mark.parametrize(
    ("text", "place", "note"),
    [
        ("price <<< 10", "<< 10", 'expected a value, a field or "("'),
        ("", "", 'expected a value, a field or "("'),
        ("a ==", "", 'expected a value, a field or "("'),
        ("a = 3", "= 3", 'expected a comparison, "and", "or" or the end'),
        ("a and or b", "or b", 'expected a value, a field or "("'),
        ("(a == 1", "", 'expected ")"'),
        ("a in 5", "5", "expected a list"),
        ("a in [1,,2]", ",2]", 'expected a value or "]"'),
        ("a in [1 2]", "2]", 'expected "," or "]"'),
        ("007 == a", "007 == a", 'expected a value, a field or "("'),
        ("1 < a > 3", "> 3", 'expected another "<", as in low <= name < high'),
        ("x like 5", "5", "expected a value"),
        ("ts > ISO 'soon'", "ISO 'soon'", 'expected a time such as ISO "2026-11-01T00:00Z"'),
        ("a == 1\nand b ==", "", 'expected a value, a field or "("'),
    ],
)
def test_broken_text_is_shown_with_a_caret_and_what_could_stand_there(text, place, note):
    with pytest.raises(FilterError) as found:
        parse_filter(text)
    assert found.value.code == "GV-201"
    assert caret(found.value) == (place, note)


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("a = 1", '"=="'),
        ("a & b", '"and"'),
        ("a | b", '"or"'),
        ("a == 'x", "quote"),
        ("{", "braces"),
    ],
)
def test_common_slips_get_a_hint(text, hint):
    with pytest.raises(FilterError, match="GV-201") as found:
        parse_filter(text)
    assert hint in found.value.hint.splitlines()[-1]


def test_a_long_text_is_shown_around_its_mistake():
    text = " or ".join(f"name_{n} == {n}" for n in range(1000)) + " or or x == 1"
    with pytest.raises(FilterError) as found:
        parse_filter(text)
    assert max(map(len, str(found.value).splitlines())) < 200
    assert caret(found.value)[0] == "or x == 1"


def test_parameters_stand_for_values_and_lists():
    text = "price < {p} and brand in {b} and x in [{one}, 3]"
    text += " and title like {t} and meta[{k}] == {n}"
    params = {"p": np.float32(0.5), "b": np.array(["acme"]), "one": 1, "t": "r%", "k": "a", "n": 7}
    wanted = combine(
        "and", c("price") < 0.5, c("brand").is_in(["acme"]), c("x").is_in([1, 3]),
        c("title").like("r%"), c("meta")["a"] == 7,
    )  # fmt: skip
    assert same(parse_filter(text, params), wanted)
    assert same(parse_filter(text, params | {"b": pa.array(["acme"])}), wanted)


def test_a_parameter_without_value_is_named():
    with pytest.raises(FilterError, match="GV-203") as found:
        parse_filter("price < {prise}", {"price": 3})
    assert 'Did you mean "price"?' in str(found.value)
    assert caret(found.value)[0] == "{prise}"


def test_a_value_without_parameter_is_named():
    with pytest.raises(FilterError, match="GV-204"):
        parse_filter("price < 3", {"p": 3})
    with pytest.raises(FilterError, match="GV-204"):
        as_filter(c("price") < 3, {"p": 3})


def test_parameters_cannot_break_out_of_their_place():
    found = parse_filter("brand == {b}", {"b": '" or true or brand == "'})
    assert same(found, c("brand") == '" or true or brand == "')
    assert same(parse_filter(str(found)), found)


@pytest.mark.parametrize("value", [object(), b"x", 1j, {"a": 1}, "\ud800", [[1]]])
def test_values_that_no_column_can_hold_are_refused(value):
    with pytest.raises(FilterError, match="GV-205"):
        c("a").is_in(value) if isinstance(value, list) else lit(value)


@pytest.mark.parametrize("value", [None, 3, True, ["a == 1"]])
def test_what_is_no_filter_is_refused(value):
    with pytest.raises(FilterError, match="GV-210"):
        as_filter(value)


def test_an_expression_has_no_truth_value():
    for use in (
        lambda: bool(c("a") == 1),
        lambda: 1 < c("a") < 2,
        lambda: c("a") in [c("b")],
        lambda: 3 in c("a"),
        lambda: list(c("a")),
    ):
        with pytest.raises(FilterError, match="GV-207") as found:
            use()
    assert ".between(low, high)" in found.value.hint


def test_numpy_scalars_on_the_left_make_expressions():
    assert same(np.float32(0.5) < c("a"), c("a") > 0.5)
    assert same(np.int64(3) + c("a"), lit(3) + c("a"))


def test_arrays_of_every_library_make_the_same_list():
    import pandas as pd
    import polars as pl

    wanted = c("a").is_in([1, 2])
    for values in (
        (1, 2), np.array([1, 2], np.int8), np.array([1, 2], np.uint64), pd.Series([1, 2]),
        pl.Series([1, 2]), pa.array([1, 2]), pa.chunked_array([[1], [2]]),
        pa.array([1, 2]).dictionary_encode(), range(1, 3), np.array([1, 2], ">i4"),
    ):  # fmt: skip
        assert same(c("a").is_in(values), wanted)
    times = [datetime(2026, 1, 1, tzinfo=UTC)]
    nanoseconds = np.array(["2026-01-01"], "datetime64[ns]")
    for values in (nanoseconds, pd.to_datetime(["2026-01-01"]), pa.array(times), times):
        assert same(c("a").is_in(values), c("a").is_in(times))


def test_ten_thousand_values_are_read_in_a_third_of_a_second():
    for values in (list(range(10**12, 10**12 + 10_000)), [f"k{n}" for n in range(10_000)]):
        start = time.perf_counter()
        found = parse_filter(f"id in {values}")
        assert time.perf_counter() - start < 0.3
        assert same(found, c("id").is_in(values))


def test_a_text_is_read_once():
    text = "price < 20 and brand == 'acme'"
    assert parse_filter(text) is parse_filter(text)


def test_deep_nesting_is_an_error_and_width_is_not():
    wide = parse_filter(" or ".join(["a == 1"] * 5000))
    assert len(wide.operands) == 5000
    assert same(parse_filter(str(wide)), wide)
    deep = c("a")
    for _ in range(5000):
        deep = -deep
    with pytest.raises(FilterError, match="GV-208"):
        str(deep)
    with pytest.raises(FilterError, match="GV-208"):
        parse_filter("- " * 5000 + "a", {})


def test_a_literal_is_folded_with_its_sign():
    assert same(parse_filter("-5"), Literal(-5))
    assert same(-lit(5), Literal(-5))
