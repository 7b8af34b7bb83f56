"""The contract of what holds columns on a device: programs mean there what they mean over Arrow.

A test class inherits it and gives the fixture `engine`; it runs on a card, or rehearsed.
"""
# ruff: noqa: D102 - a test's name is its rule

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from gpuvec.device.arrays import to_host
from gpuvec.device.columns import ColumnEngine, ColumnRefusedError
from gpuvec.device.program import Op, walk
from gpuvec.expr.bind import bind_filter
from gpuvec.expr.evaluate import mask
from gpuvec.expr.on_device import split
from gpuvec.expr.parse import parse_filter
from gpuvec.schema import Bool, FieldType, Float32, Float64, Int8, Int64, List, String, Timestamp
from gpuvec.testing import programs, strategies
from gpuvec.testing.frames import TABLE

FIELDS: dict[str, FieldType] = {
    "a": Int64(), "tiny": Int8(nullable=True), "price": Float64(nullable=True),
    "half": Float32(nullable=True), "brand": String(nullable=True), "sold": Bool(nullable=True),
    "at": Timestamp(nullable=True), "tags": List(String()),
}  # fmt: skip
LISTS = (
    'tags[0] == "a"', "array_length(tags) == 0", 'array_contains_any(tags, ["a", "d"])',
)  # fmt: skip
CONDITIONS = (
    "a < 3", "tiny == -128", "price != price", "half + 0.25 > 1.7", 'brand == "x"', "not sold",
    'brand like "z_r%"', 'brand like "%🚲"', 'brand in ["x", ""]', 'at > "2026-01-01T00:00Z"',
    "tiny * 2 < 0", "a % 3 == -2", "a / tiny > 1", "abs(a) >= 3", "round(half) == 2",
    "length(brand) == 8", "fill_null(tiny, 9) == 9", "a in [1, 2, 3, 4, 5, 6, 7, 8, 9]",
    "price is null", "brand is not null", "sold or tiny > 0", "sold and not (price > 0)",
    "half in [0.5, 1, 2, 3, 4, 5, 6, 7, 8.5]", "a + a > 5", "a - tiny != 3", "-price < 0",
    "a * 4611686018427387904 > 0", "tiny % a == 0", "floor(price) < ceil(price)", "sold != (a > 2)",
    'fill_null(sold, true) and brand < "y"', 'at in ["2026-11-23T17:00Z"]', "a >= 3 and a <= 7",
    'starts_with(brand, "zü") or ends_with(brand, "x")', 'contains(brand, "rich")',
)  # fmt: skip
_RANDOM = settings(
    max_examples=80, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def on_device(engine: ColumnEngine, program: Op, table: pa.Table) -> NDArray[np.bool_]:
    """Return the rows for which a condition is true; bits behind the last are 0."""
    kinds = {str(op.value): op.kind for op in walk(program) if op.name == "column"}
    columns = {
        name: engine.put(pa.concat_arrays([*table[name].chunks, pa.array([], table[name].type)])
                         .cast(kind))
        for name, kind in kinds.items()
    }  # fmt: skip
    words = to_host(engine.words(program, columns, table.num_rows))
    assert len(words) == -(-table.num_rows // 32)
    bits = np.unpackbits(words.view(np.uint8), bitorder="little").astype(bool)
    assert not bits[table.num_rows :].any()
    return bits[: table.num_rows]


class ColumnEngineTests:
    """Rules for every engine."""

    conditions: tuple[str, ...] = CONDITIONS

    def test_conditions_select_what_the_host_selects(self, engine: Any) -> None:
        table = pa.concat_tables([TABLE] * 60).combine_chunks()  # more than one block
        for text in self.conditions:
            bound = bind_filter(parse_filter(text), FIELDS)
            found = split(bound, engine.refuses)
            assert found.rest is None, (text, found.reasons)
            assert found.program is not None
            got = on_device(engine, found.program, table)
            np.testing.assert_array_equal(got, mask(bound, table), err_msg=text)

    def test_rows_behind_others_are_read_where_they_lie(self, engine: Any) -> None:
        bound = bind_filter(parse_filter('sold and (tiny is null or brand != "x")'), FIELDS)
        table = pa.concat_tables([TABLE] * 9).combine_chunks().slice(3, 37)
        found = split(bound, engine.refuses)
        assert found.program is not None
        np.testing.assert_array_equal(on_device(engine, found.program, table), mask(bound, table))

    def test_no_rows_give_no_words(self, engine: Any) -> None:
        found = split(bind_filter(parse_filter("a < 3 and sold"), FIELDS), engine.refuses)
        assert found.program is not None
        assert on_device(engine, found.program, TABLE.slice(0, 0)).tolist() == []

    def test_random_programs_mean_the_same(self, engine: Any) -> None:
        @st.composite
        def cases(draw: Any) -> Any:
            fields = draw(strategies.scalar_fields())
            return fields, draw(strategies.conditions(fields)), draw(strategies.tables(fields))

        ran = []

        @_RANDOM
        @given(cases())
        def agree(case: Any) -> None:
            fields, expr, table = case
            program = split(bind_filter(expr, fields), engine.refuses).program
            if program is None:
                return
            wanted = np.asarray(programs.run(program, table).fill_null(False), bool)
            try:
                found = on_device(engine, program, table)
            except ColumnRefusedError:
                return
            np.testing.assert_array_equal(found, wanted, err_msg=str(program))
            ran.append(program)

        agree()
        assert len(ran) > 20

    @pytest.mark.parametrize("kind", ["int8", "int16", "int32", "int64", "float", "double", "bool"])
    def test_columns_of_nulls_alone_are_never_true(self, engine: Any, kind: str) -> None:
        table = pa.table({"n": pa.nulls(40, kind)})
        column = Op("column", table.schema.field("n").type, value="n")
        there = Op("not", pa.bool_(), (Op("is_null", pa.bool_(), (column,)),))
        assert not on_device(engine, there, table).any()
