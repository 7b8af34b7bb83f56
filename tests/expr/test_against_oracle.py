"""Generated conditions over generated tables: what runs must agree with what is obvious."""

import importlib.util
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvec.expr.bind import bind_filter
from gpuvec.expr.evaluate import evaluate, mask
from gpuvec.expr.parse import parse_filter
from gpuvec.expr.prune import can_match
from gpuvec.expr.walk import same
from gpuvec.segment.view import FieldStatistics
from gpuvec.testing import strategies

_spec = importlib.util.spec_from_file_location("oracle", Path(__file__).with_name("oracle.py"))
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

QUICK = settings(
    max_examples=200, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SLOW = settings(QUICK, max_examples=20_000)


@st.composite
def cases(draw):
    fields = draw(strategies.scalar_fields())
    return fields, draw(strategies.conditions(fields)), draw(strategies.tables(fields))


def statistics_of(table, fields):
    def of(name):
        column = table[name]
        if pa.types.is_list(column.type):
            return None
        known = sorted(v for v in column.to_pylist() if v is not None and v == v)
        low, high = (known[0], known[-1]) if known else (None, None)
        return FieldStatistics(
            low=low, high=high, null_count=column.null_count, row_count=len(column)
        )

    return of


def agree(case):
    fields, expr, table = case
    bound = bind_filter(expr, fields)
    wanted = [oracle.condition(expr, row, fields) for row in oracle.rows_of(table, fields)]
    assert evaluate(bound, table).to_pylist() == wanted
    assert mask(bound, table).tolist() == [truth is True for truth in wanted]


def prune_soundly(case):
    fields, expr, table = case
    bound = bind_filter(expr, fields)
    if not can_match(bound, statistics_of(table, fields)):
        assert not mask(bound, table).any()


def print_faithfully(case):
    _, expr, _ = case
    assert same(parse_filter(str(expr)), expr)


@settings(QUICK, max_examples=600)
@given(cases())
def test_conditions_hold_where_the_oracle_says(case):
    agree(case)


@QUICK
@given(cases())
def test_pruning_never_loses_a_row(case):
    prune_soundly(case)


@QUICK
@given(cases())
def test_a_printed_condition_reads_back_as_the_same_tree(case):
    print_faithfully(case)


@QUICK
@given(cases())
def test_a_condition_read_from_its_text_selects_the_same_rows(case):
    fields, expr, table = case
    again = bind_filter(parse_filter(str(expr)), fields)
    assert np.array_equal(mask(again, table), mask(bind_filter(expr, fields), table))


@pytest.mark.slow
@SLOW
@given(cases())
def test_twenty_thousand_conditions_agree(case):
    agree(case)
    prune_soundly(case)
    print_faithfully(case)
