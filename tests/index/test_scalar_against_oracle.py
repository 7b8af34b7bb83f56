"""Generated conditions over segments of which some have indexes: they select what is obvious."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvec.expr.bind import bind_filter
from gpuvec.expr.bound import columns_of
from gpuvec.expr.evaluate import bools, evaluate
from gpuvec.query.evaluate import keep_part, mask_part
from gpuvec.testing import strategies
from tests.index.scalar_segments import indexed_view, kinds_of_index, loaded, part_of

_path = Path(__file__).parents[1] / "expr" / "oracle.py"
_spec = importlib.util.spec_from_file_location("oracle", _path)
oracle = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(oracle)

QUICK = settings(
    max_examples=300, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
SLOW = settings(QUICK, max_examples=20_000)


@st.composite
def segments(draw):
    """Return fields, a condition, and a segment with indexes on some fields and hidden rows."""
    fields = draw(strategies.scalar_fields())
    condition = draw(strategies.conditions(fields))
    table = draw(strategies.tables(fields))
    wanted = {
        name: draw(st.sampled_from((None, *kinds_of_index(kind)))) for name, kind in fields.items()
    }
    specs = {name: spec for name, spec in wanted.items() if spec is not None}
    visible = draw(st.sampled_from(("all", "most", "few")))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    share = {"most": 0.8, "few": 0.1}.get(visible)
    keep = None if share is None else rng.random(len(table)) < share
    return fields, condition, table, indexed_view(table, specs, keep)


def select_alike(case):
    fields, condition, table, view = case
    bound = bind_filter(condition, fields)
    rows = oracle.rows_of(table, fields)
    wanted = np.array([oracle.condition(condition, row, fields) is True for row in rows], bool)
    part, cache = part_of(view, fields)
    visible = np.ones(len(rows), bool) if view.visible is None else view.visible
    assert np.array_equal(mask_part(bound, part, cache), wanted[visible])
    assert np.array_equal(mask_part(bound, part), wanted[visible])
    kept = keep_part(bound, part, cache)
    assert kept.num_rows == np.count_nonzero(wanted & visible)
    name = next(iter(fields))
    expected = table[name].filter(np.asarray(wanted & visible))
    assert repr(kept.column(name).to_pylist()) == repr(expected.to_pylist())  # NaN is NaN


@QUICK
@given(segments())
def test_filters_select_the_same_rows_with_any_indexes(case):
    select_alike(case)


@QUICK
@given(st.data())
def test_an_index_answers_exactly_or_not_at_all(data):
    fields = data.draw(strategies.scalar_fields(1))
    table, condition = (
        data.draw(strategies.tables(fields)),
        data.draw(strategies.conditions(fields)),
    )
    bound = bind_filter(condition, fields)
    specs = kinds_of_index(fields["c0"])
    if not specs or columns_of(bound.tree) != {"c0"}:
        return
    index = loaded(data.draw(st.sampled_from(specs)), table["c0"])
    answer = index.ask(bound.tree)
    if answer is None:
        return
    truth = evaluate(bound, table).combine_chunks()
    assert np.array_equal(answer.mask(), bools(truth))
    assert np.array_equal(answer.mask(null=True), bools(truth, null=True))
    assert answer.count >= np.count_nonzero(bools(truth))


@pytest.mark.slow
@SLOW
@given(segments())
def test_twenty_thousand_filters_select_the_same_rows(case):
    select_alike(case)
