"""On a card: cuDF gives programs the meaning that Arrow gives them."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuvec.device.columns import CudfColumns
from gpuvec.device.program import walk
from gpuvec.expr.bind import bind_filter
from gpuvec.expr.evaluate import mask
from gpuvec.expr.on_device import split
from gpuvec.expr.parse import parse_filter
from gpuvec.schema import Bool, Float32, Float64, Int8, Int64, List, String, Timestamp
from gpuvec.testing import programs, strategies
from gpuvec.testing.frames import TABLE

pytestmark = pytest.mark.gpu
QUICK = settings(
    max_examples=400, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)
FIELDS = {
    "a": Int64(), "tiny": Int8(nullable=True), "price": Float64(nullable=True),
    "half": Float32(nullable=True), "brand": String(nullable=True), "sold": Bool(nullable=True),
    "at": Timestamp(nullable=True), "tags": List(String()),
}  # fmt: skip
TEXTS = [
    "a < 3", "tiny == -128", "price != price", "half + 0.25 > 1.7", 'brand == "x"', "not sold",
    'brand like "z_r%"', 'brand like "%🚲"', 'brand in ["x", ""]', 'at > "2026-01-01T00:00Z"',
    "tiny * 2 < 0", "a % 3 == -2", "a / tiny > 1", "abs(a) >= 3", "round(half) == 2",
    "length(brand) == 8", "fill_null(tiny, 9) == 9", 'tags[0] == "a"', "array_length(tags) == 0",
    'array_contains_any(tags, ["a", "d"])', "a in [1, 2, 3, 4, 5, 6, 7, 8, 9]", "price is null",
    "sold or tiny > 0", "sold and not (price > 0)",
]  # fmt: skip


@pytest.fixture
def engine():
    pytest.importorskip("cudf")
    return CudfColumns()


def on_card(engine, program, table):
    """Return the mask that the card makes, and check the bits behind the last row."""
    names = {op.value: op.kind for op in walk(program) if op.name == "column"}
    columns = {
        name: engine.put(pa.concat_arrays([*table[name].chunks, pa.array([], table[name].type)])
                         .cast(kind))
        for name, kind in names.items()
    }  # fmt: skip
    words = engine.words(program, columns, table.num_rows).get()
    assert len(words) == -(-table.num_rows // 32)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
    assert not bits[table.num_rows :].any()
    return bits[: table.num_rows]


@pytest.mark.parametrize("text", TEXTS)
def test_conditions_select_what_the_host_selects(engine, text):
    bound = bind_filter(parse_filter(text), FIELDS)
    found = split(bound)
    assert found.rest is None
    table = pa.concat_tables([TABLE] * 9).combine_chunks()
    np.testing.assert_array_equal(on_card(engine, found.program, table), mask(bound, table))


def test_no_rows_give_no_words(engine):
    found = split(bind_filter(parse_filter("a < 3"), FIELDS))
    assert on_card(engine, found.program, TABLE.slice(0, 0)).tolist() == []


def test_random_programs_mean_the_same(engine):
    @st.composite
    def cases(draw):
        fields = draw(strategies.scalar_fields())
        return fields, draw(strategies.conditions(fields)), draw(strategies.tables(fields))

    @QUICK
    @given(cases())
    def agree(case):
        fields, expr, table = case
        program = split(bind_filter(expr, fields)).program
        if program is not None:
            wanted = np.asarray(programs.run(program, table).fill_null(False), bool)
            np.testing.assert_array_equal(on_card(engine, program, table), wanted)

    agree()
