import datetime as dt
import decimal
import json
import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.errors import CastWarning, GpuvecError, NotFoundError, QueryError, SchemaError
from gpuvec.ingest import validate_rows, with_auto_ids
from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.schema import (
    JSON,
    BinaryVector,
    Bool,
    FieldType,
    Float32,
    Float64,
    Int8,
    Int32,
    Int64,
    List,
    Schema,
    SparseVector,
    String,
    Timestamp,
    Vector,
)

STEADY = settings(deadline=None, derandomize=True)
UTC = dt.UTC


def rows_of(**columns) -> Rows:
    vectors = {n: c for n, c in columns.items() if isinstance(c, DenseVectors | SparseVectors)}
    table = pa.table({n: c for n, c in columns.items() if n not in vectors})
    return Rows(table, vectors, tuple(columns))


def scalar(kind: FieldType, values) -> pa.ChunkedArray:
    """Return one column as the door lets it in, beside a key."""
    values = values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values)
    schema = Schema({"id": Int64(), "f": kind}, "id")
    return validate_rows(schema, rows_of(id=range(len(values)), f=values)).table["f"]


def dense(kind: FieldType, values, **options) -> DenseVectors:
    schema = Schema({"id": Int64(), "v": kind}, "id")
    found = validate_rows(schema, rows_of(id=range(len(values)), v=values), **options)
    return found.vectors["v"]


def refusal(call, *args, **options) -> SchemaError:
    with pytest.raises(SchemaError) as caught:
        call(*args, **options)
    return caught.value


# scalars


@pytest.mark.parametrize(
    ("kind", "values", "wanted"),
    [
        (Int8(), pa.array([1, -128]), [1, -128]),
        (Int32(), [1.0, -7.0], [1, -7]),
        (Int64(), pa.array([1, 2], pa.uint64()), [1, 2]),
        (Int64(), pa.array([1, 2], pa.float16()), [1, 2]),
        (Int64(nullable=True), [1.0, None], [1, None]),
        (Int64(), [decimal.Decimal("12.00")], [12]),
        (Float32(), [1, 2], [1.0, 2.0]),
        (Float32(), [0.1], [float(np.float32(0.1))]),
        (Float64(), pa.array([1.5], pa.float16()), [1.5]),
        (Float64(), [decimal.Decimal("1.25")], [1.25]),
        (Float64(), [math.inf], [math.inf]),
        (String(), pa.array(["a", "b", "a"]).dictionary_encode(), ["a", "b", "a"]),
        (String(), pa.array(["ä"], pa.large_string()), ["ä"]),
        (String(), pa.array(["ä"], pa.string_view()), ["ä"]),
        (String(), pa.RunEndEncodedArray.from_arrays([2, 3], ["a", "b"]), ["a", "a", "b"]),
        (String(nullable=True), pa.nulls(2), [None, None]),
        (Timestamp(), [dt.date(2024, 1, 2)], [dt.datetime(2024, 1, 2, tzinfo=UTC)]),
        (Timestamp(), [dt.datetime(2024, 1, 2)], [dt.datetime(2024, 1, 2, tzinfo=UTC)]),
        (
            Timestamp(),
            ["2024-01-02T01:00:00+01:00", "2024-01-02T00:00:00Z"],
            [dt.datetime(2024, 1, 2, tzinfo=UTC)] * 2,
        ),
        (Timestamp(), ["2024-01-02"], [dt.datetime(2024, 1, 2, tzinfo=UTC)]),
        (JSON(), ['{"a":1}', "3"], ['{"a":1}', "3"]),
        (JSON(nullable=True), [{"a": 1}, None], ['{"a":1}', None]),
        (List(Int8()), [[1], [], [2, 3]], [[1], [], [2, 3]]),
        (List(String(), nullable=True), [["a"], None, ["b"]], [["a"], None, ["b"]]),
        (List(Float32()), pa.array([[1, 2], [3, 4]], pa.list_(pa.int8(), 2)), [[1, 2], [3, 4]]),
        (List(Int64()), pa.array([[1], [2, 3]], pa.list_view(pa.int64())), [[1], [2, 3]]),
        (List(Int64()), pa.array([[9], [1], [2, 3]])[1:], [[1], [2, 3]]),
        (Bool(), [True, False], [True, False]),
    ],
)
def test_a_column_changes_form_without_changing_a_value(kind, values, wanted):
    found = scalar(kind, values)
    assert found.type == kind.arrow_type()
    assert found.to_pylist() == wanted


@pytest.mark.parametrize(
    ("kind", "values", "code", "row", "said"),
    [
        (Int8(), [1, 300, 2], "GV-108", 1, "300"),
        (Int64(), [1.0, 2.5], "GV-108", 1, "2.5"),
        (Int64(), [math.nan], "GV-108", 0, "nan"),
        (Int64(), [1e30], "GV-108", 0, "1e+30"),
        (Int64(), pa.array([2**64 - 1], pa.uint64()), "GV-108", 0, "18446744073709551615"),
        (Int64(), [decimal.Decimal("1.5")], "GV-108", 0, "1.5"),
        (Float32(), [1.0, 1e300], "GV-108", 1, "1e+300"),
        (Timestamp(), ["2024-01-01", "soon"], "GV-108", 1, "soon"),
        (Timestamp(), pa.array([2**62], pa.timestamp("s")), "GV-108", 0, str(2**62)),
        (JSON(), ["1", None, "{", "2"], "GV-115", 2, "'{'"),
        (JSON(), ["NaN"], "GV-115", 0, "NaN"),
        (JSON(), [{"a": 1.0}, {"a": math.inf}], "GV-115", 1, "JSON"),
        (JSON(), [b"a"], "GV-115", 0, "bytes"),
        (JSON(), [[dt.timedelta(1)]], "GV-115", 0, "timedelta"),
        (List(Int8()), [[1], [], [2, 300]], "GV-108", 2, "300"),
        (List(String()), [["a"], ["b", None]], "GV-109", 1, "null"),
        (String(), ["a", None], "GV-109", 1, "null"),
    ],
)
def test_a_value_that_does_not_fit_is_named_with_its_row(kind, values, code, row, said):
    if isinstance(kind, JSON) and isinstance(values[0], str):
        kind = JSON(nullable=True)
    error = refusal(scalar, kind, values)
    assert error.code == code
    assert f'field "f", row {row}' in error.message
    assert error.details["row"] == row
    assert said in error.message


@pytest.mark.parametrize(
    ("kind", "values"),
    [
        (Int64(), ["1"]),
        (Int64(), [True]),
        (Bool(), [0, 1]),
        (String(), [1]),
        (String(), [b"a"]),
        (Timestamp(), [1_700_000_000]),
        (Float64(), ["1.5"]),
        (List(Int64()), [1]),
        (List(Int64()), [["a"]]),
        (Vector(1), [1.0]),
        (Vector(1), [["a"]]),
        (SparseVector(), [[1.0, 2.0]]),
    ],
)
def test_a_column_of_another_type_is_refused_with_both_types(kind, values):
    error = refusal(scalar, kind, values)
    assert error.code == "GV-107"
    assert error.details["field"] == "f"
    assert error.details["wanted"] in error.message
    assert error.details["got"] in error.message


def test_bytes_that_are_no_text_are_refused():
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(np.array([0, 1, 2], np.int32)), pa.py_buffer(b"a\xff")]
    )
    error = refusal(scalar, String(), broken)
    assert (error.code, error.details["row"]) == ("GV-108", 1)


@pytest.mark.parametrize(
    ("kind", "values", "said"),
    [
        (Float32(), [1.5, 1_700_000_123.0], "row 1"),
        (Float32(), [2**24 + 1], "16777217 became 16777216"),
        (Float64(), [2**53 + 1], "9007199254740993"),
        (Timestamp(), pa.array([1000, 1001], pa.timestamp("ns")), "nanoseconds"),
    ],
)
def test_lost_digits_are_told(kind, values, said):
    with pytest.warns(CastWarning, match=said):
        scalar(kind, values)


def test_text_beyond_32_bit_offsets_is_split():
    part = pa.array(["x" * (1 << 20)], pa.large_string())
    found = scalar(String(), pa.chunked_array([part, part.slice(0, 1)]))
    assert found.type == pa.string()
    assert len(found) == 2


# defaults and nulls


def test_a_missing_column_gets_its_default_or_nulls():
    schema = Schema(
        {
            "id": Int64(),
            "a": Float32(default=1.5),
            "b": String(nullable=True),
            "c": List(Int64(), default=[1]),
            "d": JSON(default={"x": 1}),
            "e": Timestamp(default="2024-01-01"),
            "v": Vector(3, nullable=True),
            "s": SparseVector(nullable=True),
        },
        "id",
    )
    found = validate_rows(schema, rows_of(id=[1, 2]))
    assert found.order == tuple(schema.fields)
    assert found.table.schema == schema.arrow_schema()
    assert found.table.to_pylist()[1] == {
        "id": 2,
        "a": 1.5,
        "b": None,
        "c": [1],
        "d": '{"x":1}',
        "e": dt.datetime(2024, 1, 1, tzinfo=UTC),
    }
    assert not found.vectors["v"].valid.any()
    assert found.vectors["v"].values.shape == (2, 3)
    assert not found.vectors["s"].valid.any()


def test_a_default_fills_nulls_only_where_there_may_be_none():
    assert scalar(Int64(default=7), [1, None]).to_pylist() == [1, 7]
    assert scalar(Int64(default=7, nullable=True), [1, None]).to_pylist() == [1, None]


@pytest.mark.parametrize("kind", [Int64(), Vector(2), SparseVector(), BinaryVector(8)])
def test_a_missing_column_without_default_is_refused(kind):
    schema = Schema({"id": Int64(), "price": kind}, "id")
    error = refusal(validate_rows, schema, rows_of(id=[1]))
    assert error.code == "GV-106"
    assert '"price"' in error.message


@pytest.mark.parametrize("kind", [Vector(2), BinaryVector(8), SparseVector()])
def test_a_null_vector_needs_a_nullable_field(kind):
    values = {Vector: [[1.0, 2.0], None], BinaryVector: [b"a", None]}.get(type(kind))
    column = pa.array(values) if values else pa.array([[(1, 2.0)], None], pa.map_("u4", "f4"))
    error = refusal(dense, kind, column)
    assert (error.code, error.details["row"]) == ("GV-109", 1)


def test_an_unknown_column_names_the_nearest_field():
    schema = Schema({"id": Int64(), "price": Float32(nullable=True)}, "id")
    with pytest.raises(NotFoundError, match=r'"prcie" is no field.*Did you mean "price"') as caught:
        validate_rows(schema, rows_of(id=[1], prcie=[2.0]))
    assert caught.value.code == "GV-105"


# vectors


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16", "int8", "uint8"])
@pytest.mark.parametrize("source", ["float64", "float32", "float16", "bfloat16", "int64", "uint8"])
def test_vectors_go_to_the_dtype_of_their_field(dtype, source):
    values = np.array([[0, 1, 100], [7, 3, 2]]).astype(source)
    found = dense(Vector(3, dtype=dtype), DenseVectors(values))
    assert found.values.dtype.name == dtype
    assert found.values.flags.c_contiguous
    assert found.values.astype(np.float64).tolist() == [[0, 1, 100], [7, 3, 2]]


@pytest.mark.parametrize("make", [
    lambda e: pa.FixedSizeListArray.from_arrays(pa.array(e.ravel()), 16),
    lambda e: pa.ListArray.from_arrays(pa.array(range(0, e.size + 1, 16), pa.int32()), e.ravel()),
    lambda e: pa.chunked_array([pa.FixedSizeListArray.from_arrays(pa.array(e.ravel()), 16)]),
    DenseVectors,
])  # fmt: skip
def test_vectors_of_the_right_dtype_are_not_copied(make):
    values = np.random.default_rng(0).random((100, 16), dtype=np.float32)
    found = dense(Vector(16), make(values))
    assert np.shares_memory(found.values, values)
    assert np.array_equal(found.values, values)


LISTS = st.lists(
    st.one_of(st.none(), st.lists(st.floats(-1e6, 1e6, width=32), min_size=3, max_size=3)),
    min_size=1,
    max_size=12,
)
LIST_TYPES = [
    pa.list_(pa.float32(), 3), pa.list_(pa.float64()), pa.large_list(pa.float32()),
    pa.list_view(pa.float32()), pa.large_list_view(pa.float64()),
]  # fmt: skip


@STEADY
@given(LISTS, st.sampled_from(LIST_TYPES), st.integers(0, 5), st.integers(0, 5))
def test_any_list_type_chunk_and_slice_gives_the_same_vectors(lists, kind, start, cut):
    whole = pa.array(lists, kind)[start:]
    column = pa.chunked_array([whole[:cut], whole[cut:]], kind)
    found = dense(Vector(3, nullable=True), column)
    lists = lists[start:]
    assert [None if x is None else list(x) for x in lists] == [
        row.tolist() if ok else None
        for row, ok in zip(
            found.values,
            np.ones(len(lists), bool) if found.valid is None else found.valid,
            strict=True,
        )
    ]
    assert found.valid is None or not found.values[~found.valid].any()


@pytest.mark.parametrize(
    ("column", "row", "got"),
    [
        (pa.array([[1.0, 2.0], [1.0, 2.0, 3.0]]), 1, 3),
        (pa.array([[1.0, 2.0], []]), 1, 0),
        (pa.array([[1.0] * 5] * 2, pa.list_(pa.float32(), 5)), 0, 5),
        (DenseVectors(np.zeros((2, 3), np.float32)), 0, 3),
        (pa.chunked_array([[[1.0, 2.0]], [[1.0]]]), 1, 1),
    ],
)
def test_a_wrong_dimension_is_an_error_whatever_is_done_with_bad_vectors(column, row, got):
    for what in ("error", "drop", "null"):
        error = refusal(dense, Vector(2, nullable=True), column, on_bad_vectors=what)
        assert error.code == "GV-112"
        assert error.message == f'field "v", row {row}: wanted 2 dimensions, got {got}'


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("dtype", ["float64", "float32", "float16", "bfloat16"])
@pytest.mark.parametrize("field", ["float32", "bfloat16", "int8"])
def test_a_vector_that_is_not_finite_is_refused_dropped_or_emptied(bad, dtype, field):
    values = np.ones((50_000, 33)).astype(dtype)
    values[41_234, 7] = bad
    kind = Vector(33, dtype=field, nullable=True)
    column = DenseVectors(values)
    error = refusal(dense, kind, column)
    assert error.code == "GV-111"
    assert 'field "v", row 41234' in error.message
    assert f"got {bad} at position 7" in error.message
    assert len(dense(kind, column, on_bad_vectors="drop")) == 49_999
    emptied = dense(kind, column, on_bad_vectors="null")
    assert np.flatnonzero(~emptied.valid).tolist() == [41_234]
    assert not emptied.values[41_234].any()
    assert values[41_234, 7] != 1  # the input is as it was


def test_a_number_too_large_for_a_narrow_float_is_a_bad_vector():
    error = refusal(dense, Vector(2, dtype="float16"), pa.array([[1.0, 2.0], [1.0, 70_000.0]]))
    assert (error.code, error.details["row"]) == ("GV-111", 1)
    assert "70000" in error.message
    assert "float16" in error.message


def test_large_finite_numbers_are_not_taken_for_infinite_ones():
    values = np.full((10, 8), 3e38, np.float32)
    assert np.array_equal(dense(Vector(8), DenseVectors(values)).values, values)


def test_a_null_inside_a_vector_is_a_bad_vector():
    column = pa.array([[1.0, None], [1.0, 2.0]])
    assert refusal(dense, Vector(2), column).code == "GV-111"
    assert len(dense(Vector(2), column, on_bad_vectors="drop")) == 1


@pytest.mark.parametrize(("value", "code"), [(0.5, "GV-108"), (200.0, "GV-108"), (-129, "GV-108")])
def test_numbers_that_an_integer_vector_cannot_hold_are_refused(value, code):
    error = refusal(
        dense, Vector(2, dtype="int8"), pa.array([[1, 2], [3, value]], pa.list_(pa.float64()))
    )
    assert (error.code, error.details["row"]) == (code, 1)


def test_emptying_bad_vectors_needs_a_nullable_field():
    column = pa.array([[math.nan]])
    assert refusal(dense, Vector(1), column, on_bad_vectors="null").code == "GV-124"


@pytest.mark.parametrize("option", ["on_bad_vectors", "on_duplicate"])
def test_an_option_that_does_not_exist_is_refused(option):
    schema = Schema({"id": Int64()}, "id")
    with pytest.raises(QueryError, match=rf"GV-158\] {option} must be one of error.*'lats'"):
        validate_rows(schema, rows_of(id=[1]), **{option: "lats"})


def test_bits_come_packed_or_one_by_one():
    bits = np.random.default_rng(0).random((9, 24)) < 0.5
    packed = np.packbits(bits, axis=1)
    flat = pa.array(bits.ravel())
    forms = [
        DenseVectors(bits),
        DenseVectors(bits.astype(np.int64)),
        DenseVectors(packed),
        pa.FixedSizeListArray.from_arrays(flat, 24),
        pa.FixedSizeListArray.from_arrays(pa.array(packed.ravel()), 3),
        pa.array([row.tobytes() for row in packed]),
        pa.array([row.tobytes() for row in packed], pa.large_binary()),
        pa.array([row.tobytes() for row in packed], pa.binary(3)),
        pa.array([row.tolist() for row in packed]),
    ]
    for form in forms:
        assert np.array_equal(dense(BinaryVector(24), form).values, packed)
    assert refusal(dense, BinaryVector(24), DenseVectors(bits * 2)).code == "GV-108"
    assert refusal(dense, BinaryVector(32), DenseVectors(packed)).code == "GV-112"
    assert refusal(dense, BinaryVector(24), pa.array([b"abc", b"ab"])).details["row"] == 1


def test_null_bits_are_zeros():
    found = dense(BinaryVector(16, nullable=True), pa.array([b"ab", None, b"cd"]))
    assert found.values.tolist() == [[97, 98], [0, 0], [99, 100]]
    assert found.valid.tolist() == [True, False, True]


# sparse vectors


@pytest.mark.parametrize(
    "column",
    [
        pa.array([[(7, 1.0), (2, 3.0)], None, [], [(9, 0.0)]], pa.map_(pa.int32(), pa.float64())),
        pa.array(
            [[{"i": 7, "v": 1.0}, {"i": 2, "v": 3.0}], None, [], []],
            pa.list_(pa.struct([("i", pa.int64()), ("v", pa.float32())])),
        ),
        pa.array(
            [
                {"indices": [7, 2], "values": [1.0, 3.0]},
                None,
                {"indices": [], "values": []},
                {"indices": [1], "values": [0.0]},
            ]
        ),
    ],
)
def test_sparse_vectors_are_sorted_and_without_zeros(column):
    for start in (0, 1):
        found = dense(SparseVector(nullable=True), column[start:])
        assert found.offsets.tolist() == [0, 2, 2, 2, 2] if not start else [0, 0, 0, 0]
        assert found.valid.tolist() == [True, False, True, True][start:]
        if not start:
            assert found.indices.tolist() == [2, 7]
            assert found.values.tolist() == [3.0, 1.0]


@pytest.mark.parametrize(
    ("entries", "code"),
    [
        ([(1, 1.0), (1, 2.0)], "GV-116"),
        ([(-1, 1.0)], "GV-116"),
        ([(2**32, 1.0)], "GV-116"),
        ([(1, math.nan)], "GV-111"),
    ],
)
def test_sparse_vectors_that_make_no_sense_are_refused(entries, code):
    column = pa.array([[], entries], pa.map_(pa.int64(), pa.float64()))
    error = refusal(dense, SparseVector(), column)
    assert (error.code, error.details["row"]) == (code, 1)
    if code == "GV-111":
        assert len(dense(SparseVector(), column, on_bad_vectors="drop")) == 1
        kind = SparseVector(nullable=True)
        assert dense(kind, column, on_bad_vectors="null").valid.tolist() == [True, False]


# keys


@pytest.mark.parametrize(
    ("kind", "keys"),
    [(Int64(), [5, 3, 5, 3, 5]), (String(), ["b", "a", "b", "a", "b"])],
)
def test_a_key_that_comes_twice_is_refused_or_the_last_wins(kind, keys):
    schema = Schema({"id": kind, "n": Int64()}, "id")
    rows = rows_of(id=pa.chunked_array([keys[:2], keys[2:]]), n=range(5))
    error = refusal(validate_rows, schema, rows)
    assert error.code == "GV-110"
    assert f"rows 0 and 2 both have {keys[0]!r}" in error.message
    last = validate_rows(schema, rows, on_duplicate="last")
    assert last.table["n"].to_pylist() == [3, 4]


def test_rows_that_are_dropped_do_not_count_as_duplicates_and_rows_keep_their_numbers():
    schema = Schema({"id": Int64(), "v": Vector(1)}, "id")
    rows = rows_of(id=[1, 1, 2, 2], v=[[math.nan], [1.0], [2.0], [3.0]])
    error = refusal(validate_rows, schema, rows, on_bad_vectors="drop")
    assert error.details["rows"] == [2, 3]
    found = validate_rows(schema, rows.slice(0, 3), on_bad_vectors="drop")
    assert found.table["id"].to_pylist() == [1, 2]


@STEADY
@given(st.lists(st.integers(-3, 3) | st.integers(), max_size=20))
def test_the_last_row_of_each_key_wins(keys):
    keys = [key for key in keys if -(2**63) <= key < 2**63]
    schema = Schema({"id": Int64(), "n": Int64()}, "id")
    rows = rows_of(id=pa.array(keys, pa.int64()), n=pa.array(range(len(keys)), pa.int64()))
    found = validate_rows(schema, rows, on_duplicate="last").table
    wanted = dict(zip(keys, range(len(keys)), strict=True))
    assert dict(zip(found["id"].to_pylist(), found["n"].to_pylist(), strict=True)) == wanted
    assert found["n"].to_pylist() == sorted(wanted.values())


def test_auto_keys_are_left_to_who_numbers_them():
    schema = Schema({"id": Int64(auto=True), "n": Int64()}, "id", dynamic=True)
    for rows in (rows_of(n=[1, 2], x=["a", "b"]), rows_of(id=pa.nulls(2), n=[1, 2], x=["a", "b"])):
        found = validate_rows(schema, rows)
        assert found.order == ("n", DYNAMIC_COLUMN)
        numbered = with_auto_ids(schema, found, 40)
        assert numbered.order == ("id", "n", DYNAMIC_COLUMN)
        assert numbered.table["id"].to_pylist() == [40, 41]
        assert numbered.table.column_names == ["id", "n", DYNAMIC_COLUMN]
    given_ids = validate_rows(schema, rows_of(id=[7, 8], n=[1, 2]))
    assert with_auto_ids(schema, given_ids, 40) is given_ids
    assert refusal(validate_rows, schema, rows_of(id=[7, None], n=[1, 2])).code == "GV-109"


# dynamic columns


VALUES = st.one_of(
    st.lists(st.text() | st.none(), min_size=3, max_size=3),
    st.lists(st.integers(-(2**63), 2**63 - 1) | st.none(), min_size=3, max_size=3),
    st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=3, max_size=3),
    st.lists(st.booleans() | st.none(), min_size=3, max_size=3),
    st.lists(st.lists(st.text()), min_size=3, max_size=3),
)


@STEADY
@given(st.dictionaries(st.text(min_size=1).filter(lambda n: n != "id"), VALUES, max_size=4))
def test_unknown_columns_come_back_from_their_json(columns):
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    names = [name for name in columns if not name.startswith("_gv_")]
    try:
        rows = rows_of(id=[1, 2, 3], **{name: pa.array(columns[name]) for name in names})
    except UnicodeEncodeError:
        return  # a lone surrogate is no text
    texts = validate_rows(schema, rows).table[DYNAMIC_COLUMN].to_pylist()
    wanted = [{n: columns[n][at] for n in names if columns[n][at] is not None} for at in range(3)]
    assert [{} if text is None else json.loads(text) for text in texts] == wanted


def test_times_and_nested_values_are_kept_as_json():
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    rows = rows_of(
        id=[1],
        day=[dt.date(2024, 1, 2)],
        at=[dt.datetime(2024, 1, 2, 3)],
        deep=[{"a": [1, None]}],
        cost=[decimal.Decimal("1.50")],
        nothing=pa.nulls(1),
        word=pa.array(["x"]).dictionary_encode(),
        raw=pa.ExtensionArray.from_storage(pa.json_(), pa.array(['{"b": 2}'])),
    )
    found = json.loads(validate_rows(schema, rows).table[DYNAMIC_COLUMN][0].as_py())
    assert found == {
        "day": "2024-01-02",
        "at": "2024-01-02T03:00:00.000000",
        "deep": {"a": [1, None]},
        "cost": 1.5,
        "word": "x",
        "raw": {"b": 2},
    }


def test_what_json_cannot_say_is_refused():
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    assert refusal(validate_rows, schema, rows_of(id=[1], x=[math.inf])).code == "GV-115"
    assert refusal(validate_rows, schema, rows_of(id=[1], x=[b"a"])).code == "GV-115"


def test_unknown_vectors_are_refused_even_where_columns_may_be_unknown():
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    with pytest.raises(NotFoundError):
        validate_rows(schema, rows_of(id=[1], v=DenseVectors(np.zeros((1, 2), np.float32))))


PRINTABLE = st.text(st.characters(exclude_categories=["Cs"]))


@STEADY
@given(st.lists(st.lists(st.lists(PRINTABLE | st.none()) | st.none()) | st.none(), min_size=1))
def test_nested_lists_come_back_from_their_json(lists):
    column = pa.array(lists, pa.list_(pa.list_(pa.string())))
    for start in (0, 1):
        texts = scalar(JSON(nullable=True), column[start:]).to_pylist()
        assert [None if text is None else json.loads(text) for text in texts] == lists[start:]


@STEADY
@given(
    st.lists(
        st.none()
        | st.fixed_dictionaries(
            {"a": st.integers(-9, 9) | st.none(), 'b"': st.lists(st.booleans()) | st.none()}
        ),
        min_size=1,
    )
)
def test_structs_come_back_from_their_json(values):
    kind = pa.struct([("a", pa.int64()), ('b"', pa.list_(pa.bool_()))])
    texts = scalar(JSON(nullable=True), pa.array(values, kind)).to_pylist()
    assert [None if text is None else json.loads(text) for text in texts] == values


def test_maps_and_missing_numbers_have_a_json_form():
    maps = pa.array([[("a", 1.5), ("b", math.nan)], None, []], pa.map_(pa.string(), pa.float64()))
    found = scalar(JSON(nullable=True), maps).to_pylist()
    assert found == ['{"a":1.5,"b":null}', None, "{}"]
    assert scalar(JSON(), pa.array([{}, {}], pa.struct([]))).to_pylist() == ["{}", "{}"]
    assert scalar(JSON(), [dt.time(1, 2)]).to_pylist() == ['"01:02:00"']


# whole batches


def test_columns_come_in_the_order_of_the_schema_whatever_order_they_had():
    schema = Schema({"a": Int64(), "v": Vector(1), "b": String()}, "a")
    found = validate_rows(schema, rows_of(v=[[1.0]], b=["x"], a=[1]))
    assert found.order == ("a", "v", "b")
    assert found.table.column_names == ["a", "b"]


def test_no_rows_are_rows():
    schema = Schema({"id": Int64(), "t": String(), "v": Vector(2), "s": SparseVector()}, "id")
    found = validate_rows(
        schema, rows_of(id=pa.nulls(0), t=pa.nulls(0), v=pa.nulls(0), s=pa.nulls(0))
    )
    assert len(found) == 0
    assert found.table.schema == schema.arrow_schema()
    assert found.vectors["v"].values.shape == (0, 2)


def test_every_refusal_says_what_to_do():
    schema = Schema({"id": Int64(), "v": Vector(2)}, "id")
    for rows in (rows_of(id=["a"], v=[[1.0, 2.0]]), rows_of(id=[1], v=[[1.0]]), rows_of(id=[1])):
        with pytest.raises(GpuvecError) as caught:
            validate_rows(schema, rows)
        assert caught.value.hint
