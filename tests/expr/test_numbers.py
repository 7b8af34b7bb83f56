"""Every pair of numbers at the edges of their types, compared and computed as the oracle does."""

import importlib.util
import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.expr.arithmetic import compute, is_one_of
from gpuvec.expr.bind import bind
from gpuvec.expr.evaluate import evaluate
from gpuvec.expr.tree import Arithmetic, Compare, col, lit
from gpuvec.schema import Float32, Float64, Int64
from gpuvec.testing.strategies import FLOATS, INTS

_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

POOLS = {
    "whole": (Int64(nullable=True), (*INTS, 2**62, -(2**63) + 1, None)),
    "single": (
        Float32(nullable=True),
        (*(f for f in FLOATS if abs(f) not in (1e300, 1e-300)), None),
    ),
    "double": (Float64(nullable=True), (*FLOATS, 2.0**53 + 2, -(2.0**63) * 1.5, None)),
}
LITERALS = (*INTS, *FLOATS, 2.5, -0.1, 1e39, 2**63, -(2**63) - 1, 2**70 + 1, 10**400, -(10**400))
PAIRS = list(itertools.product(POOLS, repeat=2))


def agree(expr, fields, table):
    wanted = [oracle.value(expr, row, fields) for row in oracle.rows_of(table, fields)]
    assert repr(evaluate(bind(expr, fields), table).to_pylist()) == repr(wanted), str(expr)


def pairs_of(left, right):
    (left_kind, a), (right_kind, b) = POOLS[left], POOLS[right]
    x, y = zip(*itertools.product(a, b), strict=True)
    fields = {"x": left_kind, "y": right_kind}
    table = pa.table(
        {"x": pa.array(x, left_kind.arrow_type()), "y": pa.array(y, right_kind.arrow_type())}
    )
    return fields, table


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_columns_compare_exactly(left, right):
    fields, table = pairs_of(left, right)
    for op in oracle.OPERATORS:
        agree(Compare(op, col("x"), col("y")), fields, table)


@pytest.mark.parametrize("name", POOLS)
def test_columns_compare_exactly_with_every_literal(name):
    kind, values = POOLS[name]
    table = pa.table({"x": pa.array(values, kind.arrow_type())})
    for op, literal in itertools.product(oracle.OPERATORS, LITERALS):
        agree(Compare(op, col("x"), lit(literal)), {"x": kind}, table)
        agree(Compare(op, lit(literal), col("x")), {"x": kind}, table)
    for literal in LITERALS:
        agree(col("x").is_in([literal, 7]), {"x": kind}, table)


@pytest.mark.parametrize(("left", "right"), PAIRS)
def test_arithmetic_is_exact_or_null(left, right):
    fields, table = pairs_of(left, right)
    for op in ("+", "-", "*", "/", "%", "**"):
        agree(Arithmetic(op, col("x"), col("y")), fields, table)
    agree(-col("x"), fields, table)
    agree(col("x").abs(), fields, table)


@pytest.mark.parametrize("kind", [pa.int8(), pa.int32(), pa.int64(), pa.float32(), pa.float64()])
@pytest.mark.parametrize("count", [0, 3, 40])
def test_one_of_few_or_many_numbers_is_found_by_value(kind, count):
    rng = np.random.default_rng(count)
    column = pa.array(rng.integers(-100, 100, 500).tolist(), kind, mask=rng.random(500) < 0.1)
    wanted = [float(v) for v in rng.integers(-300, 300, count)]
    if pa.types.is_integer(kind):
        values = pa.array([int(v) for v in wanted], pa.int64())
    else:
        values = pa.array([*wanted, 0.1, 1e300], pa.float64())
    found = is_one_of(column, values).to_pylist()
    for value, hit in zip(column.to_pylist(), found, strict=True):
        assert value is None or hit == (value in wanted)


def test_sums_that_may_leave_64_bits_are_null_where_they_do():
    column = pa.array([2**62, -(2**62), 5, None])
    assert compute("*", column, pa.scalar(2), 4).to_pylist() == [None, -(2**63), 10, None]
    assert compute("+", column, column, 4).to_pylist() == [None, -(2**63), 10, None]
    small = pa.array([127, -128, None], pa.int8())
    assert compute("*", small, small, 3).to_pylist() == [16129, 16384, None]
    assert compute("-", small, pa.scalar(None, pa.int64()), 3).to_pylist() == [None] * 3
