"""Programs for a card: what expressions become, and that they mean the same."""

from datetime import UTC, datetime

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvec.device.program import FUSED, columns_of
from gpuvec.expr.bind import bind_filter
from gpuvec.expr.evaluate import mask
from gpuvec.expr.on_device import HostOnly, program_of, split
from gpuvec.expr.parse import parse_filter
from gpuvec.schema import (
    JSON,
    Bool,
    Float32,
    Float64,
    Int8,
    Int32,
    Int64,
    List,
    String,
    Timestamp,
    Vector,
)
from gpuvec.testing import programs, strategies

QUICK = settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
FIELDS = {
    "tiny": Int8(nullable=True), "small": Int32(nullable=True), "big": Int64(nullable=True),
    "half": Float32(nullable=True), "price": Float64(nullable=True), "brand": String(nullable=True),
    "sold": Bool(nullable=True), "at": Timestamp(nullable=True), "tags": List(String()),
    "sizes": List(Int32()), "extra": JSON(nullable=True), "vec": Vector(4, nullable=True),
}  # fmt: skip


def bound(text):
    return bind_filter(parse_filter(text), FIELDS)


def program(text):
    return str(program_of(bound(text)))


GOLDEN = {
    "price < 20": "lt(price, 20.0)",
    "tiny == 300": "eq(to_int64(tiny), 300)",
    "small >= 3": "ge(small, 3)",
    "half == 0.1": "eq(half, 0.10000000149011612)",
    "half < 1e-300": "lt(to_float64(half), 1e-300)",
    "20 > price": "lt(price, 20.0)",
    "small < big": "lt(to_int64(small), big)",
    "half < price": "lt(to_float64(half), price)",
    "small < price": "lt(to_float64(small), price)",
    'brand == "zeta"': "eq(brand, 'zeta')",
    "sold": "sold",
    "not sold": "not(sold)",
    'at < "2026-11-01T00:00Z"': f"lt(at, {datetime(2026, 11, 1, tzinfo=UTC)!r})",
    "price < 20 and (sold or small is null)": "and(lt(price, 20.0), or(sold, is_null(small)))",
    "small in [3, 5]": "or(eq(small, 3), eq(small, 5))",
    "small in [1, 2, 3, 4, 5, 6, 7, 8, 9]": "among(small, [1, 2, 3, 4, 5, 6, 7, 8, 9])",
    "tiny in [300]": "pick(not(is_null(tiny)), False, None)",
    'brand in ["a"]': "among(brand, ['a'])",
    'brand like "a%"': "starts_with(brand, 'a')",
    'brand like "%a"': "ends_with(brand, 'a')",
    'brand like "%a%"': "contains(brand, 'a')",
    'brand like "a_b"': "like(brand, 'a_b')",
    'brand like "50\\\\%%x"': "like(brand, '50\\\\%%x')",
    "small + 1 > 3": "gt(add(to_int64(small), 1), 3)",
    "big + 1 > 3": "gt(pick(le(big, 9223372036854775806), add(big, 1), None), 3)",
    "big * -3 > 3": "gt(pick(and(ge(big, -3074457345618258602), le(big, 3074457345618258602)),"
    " mul(big, -3), None), 3)",
    "big + big > 3": "gt(pick(ge(bit_and(xor(big, add(big, big)), xor(big, add(big, big))), 0),"
    " add(big, big), None), 3)",
    "small % 7 == 1": "eq(mod(to_int64(small), 7), 1)",
    "big % -1 == 0": "eq(mod(big, 1), 0)",
    "price / small > 2": "gt(pick(ne(to_float64(small), 0.0), div(price, to_float64(small)), None),"
    " 2.0)",
    "price / 2 > 1": "gt(div(price, 2.0), 1.0)",
    "price < 10 * 2": "lt(price, 20.0)",
    "abs(big) > 3": "gt(pick(ne(big, -9223372036854775808), abs(big), None), 3)",
    "round(price) == 2": "eq(rint(price), 2.0)",
    "length(brand) > 3": "gt(length(brand), 3)",
    'starts_with(brand, "")': "pick(not(is_null(brand)), True, None)",
    "fill_null(small, 7) == 7": "eq(either(to_int64(small), 7), 7)",
    "fill_null(small, 0.5) < 7": "lt(either(to_float64(small), 0.5), 7.0)",
    "fill_null(half, 7) < 7": "lt(either(to_float64(half), 7.0), 7.0)",
    'tags[0] == "a"': "eq(element(tags, 0), 'a')",
    "array_length(tags) == 2": "eq(count(tags), 2)",
    'array_contains_all(tags, ["a", "b"])': "and(has(tags, 'a'), has(tags, 'b'))",
    "array_contains_any(sizes, [1, 2.5])": "has(sizes, 1)",
    "array_contains_all(sizes, [1, 2.5])": "pick(not(is_null(sizes)), False, None)",
}


@pytest.mark.parametrize("text", GOLDEN)
def test_expressions_become_programs(text):
    assert program(text) == GOLDEN[text]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('extra["a"] == 3', "JSON values"),
        ('upper(brand) == "A"', "upper()"),
        ('text_match(brand, "red")', "text_match()"),
        ("price ** 2 > 3", '"**" of such numbers'),
        ("big * big > 3", '"*" of such numbers'),
        ("big % 0 == 1", '"%" of such numbers'),
        ("big < price", "a comparison of whole numbers with floats"),
        ("vec is null", "null vectors"),
        ("distance(vec, [1, 2, 3, 4]) < 3", "distances"),
        ('"a" == "b"', "values without a column"),
        ("true", "values without a column"),
        ("0 + 0 in [] or price < 3", "values without a column"),
    ],
)
def test_what_a_card_cannot_say_stays_with_the_host_and_is_named(text, reason):
    found = split(bound(text))
    assert (found.program, found.reasons) == (None, (reason,))
    assert found.rest is not None


def test_programs_stay_small_however_deep_an_expression_is():
    text = "big" + " + (big" * 60 + ")" * 60
    found = split(bound(f"{text} > 3 and sold"))
    assert found.reasons == ("so many parts",)
    assert str(found.program) == "sold"


def test_a_condition_is_divided_at_its_outer_and():
    found = split(bound('price < 20 and extra["a"] == 3 and sold and upper(brand) == "A"'))
    assert str(found.program) == "and(lt(price, 20.0), sold)"
    assert found.rest.columns == {"extra", "brand"}
    assert found.reasons == ("JSON values", "upper()")


def test_a_condition_that_a_card_can_run_leaves_nothing_to_the_host():
    found = split(bound("price < 20 and sold"))
    assert (found.rest, found.reasons) == (None, ())
    assert columns_of(found.program) == {"price", "sold"}


def test_an_or_goes_one_way_as_a_whole():
    found = split(bound('price < 20 or extra["a"] == 3'))
    assert found.program is None


EDGES = [-(2**63), -(2**63) + 1, -(2**53) - 1, -7, -1, 0, 1, 2, 7, 2**31, 2**62, 2**63 - 1, None]


@pytest.mark.parametrize(
    "text",
    [
        *(f"big {op} {c} > 5" for op in "+-*%" for c in (-(2**62), -3, -1, 1, 2, 3, 2**62)),
        *(f"{c} {op} big < 5" for op in "+-*" for c in (-(2**63), -3, 0, 1, 2**63 - 1)),
        "big + other > 5", "big - other > 5", "big % other == 0", "-big > 5", "abs(big) > 5",
        "big / other > 1", "big != other",
    ],
)  # fmt: skip
def test_whole_numbers_at_the_ends_of_64_bits_are_as_on_the_host(text):
    first, second = (np.array(EDGES, object)[grid.ravel()] for grid in np.indices((13, 13)))
    table = pa.table({"big": pa.array(first, pa.int64()), "other": pa.array(second, pa.int64())})
    fields = {"big": Int64(nullable=True), "other": Int64(nullable=True)}
    condition = bind_filter(parse_filter(text), fields)
    found = programs.run(program_of(condition), table).fill_null(False)
    np.testing.assert_array_equal(found, mask(condition, table))


@st.composite
def cases(draw):
    fields = draw(strategies.scalar_fields())
    return fields, draw(strategies.conditions(fields)), draw(strategies.tables(fields))


def agree(case):
    fields, expr, table = case
    condition = bind_filter(expr, fields)
    found = split(condition)
    both = np.ones(table.num_rows, bool)
    if found.program is not None:
        both &= np.asarray(programs.run(found.program, table).fill_null(False), bool)
    if found.rest is not None:
        both &= mask(found.rest, table)
    np.testing.assert_array_equal(both, mask(condition, table))
    return found


@QUICK
@given(cases())
def test_programs_select_what_the_host_selects(case):
    agree(case)


@pytest.mark.slow
@settings(QUICK, max_examples=4_000)
@given(cases())
def test_four_thousand_programs_agree(case):
    agree(case)


def test_most_conditions_without_json_have_a_program():
    fields = {name: kind for name, kind in FIELDS.items() if name not in ("extra", "vec")}
    counts = {True: 0, False: 0}

    @settings(QUICK, max_examples=150)
    @given(strategies.conditions(fields))
    def count(expr):
        counts[split(bind_filter(expr, fields)).rest is None] += 1

    count()
    assert counts[True] > 3 * counts[False]


def test_fused_operations_are_of_one_row_each():
    assert FUSED.isdisjoint(("among", "like", "pick", "either", "has", "element"))
    with pytest.raises(HostOnly):
        program_of(bound('extra["a"] == 3'))
