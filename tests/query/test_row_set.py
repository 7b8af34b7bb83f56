"""Rows of a segment as masks and bits, and what names them."""

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.expr.bind import bind_filter
from gpuvec.expr.parse import parse_filter
from gpuvec.expr.tree import col
from gpuvec.kernels import bitset
from gpuvec.query.evaluate import keep_part
from gpuvec.query.memory_source import MemoryView, new_segment_id
from gpuvec.query.part import segment_part
from gpuvec.query.row_set import MOST_LISTED, RowSet, condition_name
from gpuvec.rows import Rows
from gpuvec.schema import Int64
from gpuvec.segment.deletes import DeleteLog

MASK = np.arange(70) % 3 == 0
FIELDS = {"a": Int64()}


def bound(text):
    return bind_filter(parse_filter(text), FIELDS)


def part_of(view):
    return segment_part(view, 0, lambda name: view.scalars([name])[name], lambda names: None)


@pytest.fixture
def view():
    return MemoryView(new_segment_id(), Rows(pa.table({"a": np.arange(70)}), {}, ("a",)))


@pytest.mark.parametrize("rows", [MASK, bitset.pack(MASK)], ids=["mask", "bits"])
def test_a_set_is_the_same_rows_in_each_form(rows):
    found = RowSet(rows)
    assert (len(found), found.count) == (70, 24)
    np.testing.assert_array_equal(found.mask, MASK)


def test_equal_conditions_have_one_name_and_others_another():
    names = [condition_name(bound(text)) for text in ("a < 3", "a<3", "a < 4", "a <= 3")]
    assert names[0] == names[1]
    assert len(set(names)) == 3


def test_long_lists_have_no_name():
    few, many = (bind_filter(col("a").is_in(list(range(n))), FIELDS) for n in (3, MOST_LISTED + 1))
    assert condition_name(few) is not None
    assert condition_name(many) is None


def test_filters_of_a_segment_are_named_by_the_segment_and_all_conditions(view):
    once = keep_part(bound("a < 30"), part_of(view))
    again = keep_part(bound("a > 10"), once)
    other = keep_part(bound("a > 10"), part_of(view))
    names = [part.origin.rows.name for part in (once, again, other)]
    assert names[1][:-1] == names[0]
    assert names[0][0] == view.segment_id
    assert len(set(names)) == 3
    assert keep_part(bound("a < 30"), part_of(view)).origin.rows.name == names[0]


def test_rows_chosen_by_a_computed_column_have_no_name(view):
    part = part_of(view).derive(["a"], lambda part, name: pa.array(np.zeros(part.num_rows, int)))
    assert keep_part(bound("a == 0"), part).origin.rows.name is None


def test_rows_hidden_by_a_mask_that_nothing_names_have_no_name(view):
    hidden = MemoryView(view.segment_id, view.rows, visible=MASK)
    assert part_of(hidden).origin.rows.name is None


def test_two_logs_of_deletes_have_two_numbers():
    assert DeleteLog().number != DeleteLog().number


def test_a_view_is_named_by_what_it_hides():
    from gpuvec.segment.visible import Layout, VisibleSegment
    from gpuvec.types import SegmentId

    class Stamped:
        layout_version = 0

        def timestamps(self):
            return np.arange(70)

    def view(deleted=0, hidden_until=-1, shown_until=10**9):
        return VisibleSegment(
            segment_id=SegmentId("s"), partition="", generation=0, num_rows=70, columns=Stamped(),
            layout=Layout(None), deletes=deletes, delete_count=deleted, hidden_until=hidden_until,
            first_ts=0, last_ts=69, shown_until=shown_until,
        )  # fmt: skip

    deletes = DeleteLog()
    deletes.add(np.array([3, 5]), 100)
    plain = view()
    assert plain.keep() is None
    same = [view(hidden_until=-5), view(shown_until=70)]
    other = [view(deleted=1), view(deleted=2), view(hidden_until=3), view(shown_until=30)]
    assert all(one.visibility == plain.visibility for one in same)
    assert len({one.visibility for one in (plain, *other)}) == 5
    assert all(one.keep() is not None for one in other)
