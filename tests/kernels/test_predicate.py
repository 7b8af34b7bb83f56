"""Conditions run by our own kernel: rehearsed here, the same on a card."""

import faulthandler
import os

import numpy as np
import pyarrow as pa
import pytest

from gpuvec.device import transfer
from gpuvec.device.columns import ColumnRefusedError
from gpuvec.expr.bind import bind_filter
from gpuvec.expr.on_device import split
from gpuvec.expr.parse import parse_filter
from gpuvec.kernels import predicate
from gpuvec.kernels.launch import source_of
from gpuvec.kernels.predicate import PlainColumns
from gpuvec.schema import Float64, String
from gpuvec.testing import rehearsal
from gpuvec.testing.column_engines import FIELDS, LISTS, ColumnEngineTests, on_device
from gpuvec.testing.frames import TABLE
from gpuvec.testing.shim import ShimError


class TestPlainColumns(ColumnEngineTests):
    @pytest.fixture
    def engine(self, rehearsed):
        return PlainColumns()


@pytest.mark.gpu
class TestPlainColumnsOnACard(ColumnEngineTests):
    @pytest.fixture
    def engine(self):
        return PlainColumns()


@pytest.mark.parametrize("text", [*LISTS, "brand == other", 'fill_null(brand, "z") == "z"'])
def test_what_the_kernel_lacks_is_named(text):
    fields = FIELDS | {"other": String()}
    found = split(bind_filter(parse_filter(text), fields), PlainColumns().refuses)
    assert found.program is None
    assert found.reasons[0] in ("lists", "texts beside each other")


def test_a_condition_of_too_many_parts_at_once_is_refused():
    fields = {"a": Float64()}
    deep = "a" + " + (a" * 20 + ")" * 20 + " < 1"
    found = split(bind_filter(parse_filter(deep), fields), PlainColumns().refuses)
    assert (found.program, found.reasons) == (None, ("so many parts",))
    flat = " + ".join(["a"] * 20) + " < 1"
    assert split(bind_filter(parse_filter(flat), fields), PlainColumns().refuses).rest is None


def test_columns_of_mostly_distinct_texts_and_of_lists_are_refused(rehearsed):
    texts = pa.array([f"text {i}" for i in range(300)])
    with pytest.raises(ColumnRefusedError, match="distinct"):
        PlainColumns().put(texts)
    with pytest.raises(ColumnRefusedError, match="list"):
        PlainColumns().put(TABLE["tags"].chunk(0))


def test_texts_lie_there_as_numbers_and_their_answers_go_up_as_a_table(rehearsed):
    texts = pa.array([f"brand {i % 7}" for i in range(900)] + [None])
    before = transfer.copied()
    column = PlainColumns().put(texts)
    assert transfer.copied()[transfer.UP, "scalars"] - before.get((transfer.UP, "scalars"), 0) == (
        4 * 901
    )
    program = split(bind_filter(parse_filter('b like "%3"'), {"b": String(nullable=True)})).program
    between = transfer.copied()
    PlainColumns().words(program, {"b": column}, 901)
    moved = {k: v - between.get(k, 0) for k, v in transfer.copied().items() if v != between.get(k)}
    assert set(moved) == {(transfer.UP, "queries")}
    assert moved[transfer.UP, "queries"] < 100


def test_steps_are_numbered_as_in_the_source():
    numbers = predicate._numbers()
    assert (numbers["LOAD_BIT"], numbers["LOAD_I8"]) == (0, 1)
    assert numbers["AMONG_F"] == len(numbers) - 1
    used = {*predicate._PLAIN.values(), *predicate._LOADS.values(), *predicate._ROUNDING.values()}
    assert used <= set(numbers)


CHECKED = (
    "a < 3", "sold and tiny is null", "not sold or price >= 0.5", "fill_null(tiny, 3) == 3",
    'brand == "x" or a > 5', "a in [1, 2, 3, 4, 5, 6, 7, 8, 9]", "a % tiny == 0",
    "length(brand) < 2",
    "price <= 0.5", "half > 1.5", "a + a == 6", "abs(a) == 5", "round(half) == 2", "a / 2 == 1.5",
)  # fmt: skip


def conditions_are_right():
    from gpuvec.expr.evaluate import mask

    engine = PlainColumns()
    table = (
        pa.concat_tables([TABLE] * 61).combine_chunks().slice(2, 289)
    )  # one row in the last word
    for text in CHECKED:
        bound = bind_filter(parse_filter(text), FIELDS)
        found = on_device(engine, split(bound).program, table)
        if not np.array_equal(found, mask(bound, table)):
            return False
    return True


MUTANTS = [
    ("own < rows ? own : rows - 1", "own < rows ? own : 0x7fffffffffffll", True),
    ("const bool passes = own < rows && ", "const bool passes = ", True),
    ("valid[row >> 3] >> (row & 7)", "valid[row >> 3] >> (row & 6)", False),
    ("nulls & ~(1u << top)", "nulls", False),
    ("words[own >> 5]", "words[own >> 6]", False),
    ("value == 2", "value == 3", False),
    ("decided ? decisive : !decisive", "decided ? !decisive : decisive", False),
    ("low = middle + 1", "low = middle + 2", False),
    ("threadIdx.x & 31) == 0", "threadIdx.x & 31) == 1", False),
    ("const int from = yes ? top + 1 : top + 2", "const int from = yes ? top + 2 : top + 1", False),
    ("value = no_a ? b : a", "value = no_b ? a : b", False),
]


def still_right(change=None, orders=(1, 2, 3)):
    """Return whether answers are right, found out in a process that may die of a broken kernel."""
    child = os.fork()
    if not child:
        status = 1
        try:
            faulthandler.disable()
            status = 0 if all(right_in(order, change) for order in orders) else 1
        finally:
            os._exit(status)
    return os.waitpid(child, 0)[1] == 0


def right_in(order, change):
    with rehearsal.rehearsal(order=order, change=change):
        try:
            return conditions_are_right()
        except ShimError:
            return False


@pytest.mark.parametrize(
    ("text", "instead"),
    [pytest.param(*m[:2], marks=() if m[2] else pytest.mark.slow) for m in MUTANTS],
)
def test_a_broken_kernel_is_noticed(rehearsed, text, instead):
    assert text in source_of("predicate.cu")
    assert not still_right(lambda code: code.replace(text, instead), orders=(1,))


def test_the_kernel_is_right_in_every_order(rehearsed):
    assert still_right()
