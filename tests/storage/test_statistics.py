from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuvec.storage.records import ColumnStatistics
from gpuvec.storage.statistics import LONGEST_TEXT_BYTES, column_statistics, cut_up


def bounds(values, kind=None):
    return column_statistics(pa.chunked_array([pa.array(values, kind)]))


@pytest.mark.parametrize(("values", "kind", "low", "high", "nulls"), [
    ([3, None, -1], pa.int8(), -1, 3, 1),
    ([2.5, float("inf")], pa.float32(), 2.5, float("inf"), 0),
    ([True, False], pa.bool_(), False, True, 0),
    (["b", "a", None], pa.string(), "a", "b", 1),
    ([None, None], pa.int64(), None, None, 2),
    ([], pa.string(), None, None, 0),
    ([0, 10**6], pa.timestamp("us", tz="UTC"), datetime(1970, 1, 1, tzinfo=UTC),
     datetime(1970, 1, 1, 0, 0, 1, tzinfo=UTC), 0),
])  # fmt: skip
def test_bounds_are_those_of_the_values(values, kind, low, high, nulls):
    wanted = ColumnStatistics(low=low, high=high, null_count=nulls, row_count=len(values))
    assert bounds(values, kind) == wanted


def test_what_has_no_bounds_has_no_statistics():
    assert bounds([1.0, float("nan")]) is None
    assert bounds([[1], [2]], pa.list_(pa.int64())) is None
    assert bounds([2**62], pa.timestamp("us", tz="UTC")) is None  # a year that Python lacks
    assert bounds(["\U0010ffff" * 50]) is None  # no larger text is short


@given(st.lists(st.text(max_size=90), min_size=1, max_size=5))
def test_cut_bounds_still_hold_all_texts(texts):
    found = bounds(texts, pa.string())
    if found is None:
        return
    assert all(found.low <= text <= found.high for text in texts)
    assert len(found.low.encode()) <= LONGEST_TEXT_BYTES
    assert len(found.high.encode()) <= LONGEST_TEXT_BYTES + 3  # the last letter may be a longer one


@pytest.mark.parametrize(("text", "wanted"), [
    ("short", "short"),
    ("a" * 65, "a" * 63 + "b"),
    ("é" * 40, "é" * 31 + "ê"),
    ("a" * 61 + "\ud7ff" + "z", "a" * 61 + "\ue000"),
    ("a" * 60 + "\U0010ffff" + "z", "a" * 59 + "b"),
])  # fmt: skip
def test_a_long_text_is_rounded_up(text, wanted):
    assert cut_up(text) == wanted
    assert cut_up(text) >= text
