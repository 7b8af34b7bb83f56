import datetime as dt
import pathlib
import sys
import uuid
from collections.abc import Iterator

import duckdb
import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest
import scipy.sparse
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gpuvec.api import interop
from gpuvec.errors import GpuvecError, NotFoundError, SchemaError, UnsupportedError
from gpuvec.ingest import validate_rows
from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.schema import (
    JSON,
    BinaryVector,
    Bool,
    Float32,
    Float64,
    Int8,
    Int16,
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
SCHEMA = Schema(
    {
        "id": Int64(),
        "title": String(nullable=True),
        "flag": Bool(nullable=True),
        "small": Int8(nullable=True),
        "big": Int64(nullable=True),
        "price": Float32(nullable=True),
        "ts": Timestamp(nullable=True),
        "tags": List(String(), nullable=True),
        "meta": JSON(nullable=True),
        "embedding": Vector(4, nullable=True),
        "small_embedding": Vector(2, dtype="float16"),
        "codes": Vector(3, dtype="int8"),
        "bits": BinaryVector(16),
        "words": SparseVector(nullable=True),
    },
    "id",
)
COLUMNS = {
    "id": [1, 2, 3],
    "title": ["a", None, "ü"],
    "flag": [True, None, False],
    "small": [1, None, -3],
    "big": [2**62 + 1, None, -(2**62) - 1],
    "price": [1.5, None, 2.5],
    "ts": [dt.datetime(2024, 1, 2, 3, 4, 5, 6, UTC), None, dt.datetime(1900, 1, 1, tzinfo=UTC)],
    "tags": [["x"], None, []],
    "meta": ['{"a":[1]}', None, "3"],
    "embedding": [[0.5, 1.0, -2.0, 3.0], None, [1.0, 2.0, 3.0, 4.0]],
    "small_embedding": [[0.5, 1.0], [2.0, 3.0], [4.0, 5.0]],
    "codes": [[1, 2, 3], [-4, 5, 6], [7, 8, -9]],
    "bits": [[97, 98], [0, 255], [1, 2]],
    "words": [[(1, 0.5), (7, 2.0)], None, []],
}  # fmt: skip


def table() -> pa.Table:
    return pa.table(
        {name: pa.array(COLUMNS[name], kind.arrow_type()) for name, kind in SCHEMA.fields.items()}
    )


def list_of_dicts() -> list[dict]:
    plain = {**COLUMNS, "words": [{1: 0.5, 7: 2.0}, None, {}]}
    plain["meta"] = [{"a": [1]}, None, "3"]
    plain["bits"] = [b"ab", b"\x00\xff", b"\x01\x02"]
    return [{name: values[row] for name, values in plain.items()} for row in range(3)]


class OnlyAStream:
    def __init__(self, inner: pa.Table) -> None:
        self._inner = inner

    def __arrow_c_stream__(self, requested_schema=None):
        return self._inner.__arrow_c_stream__(requested_schema)


class OnlyToArrow:
    """What cuDF offers."""

    def to_arrow(self) -> pa.Table:
        return table()


def dict_of_arrays() -> dict:
    return {
        **COLUMNS,
        "id": np.array([1, 2, 3], np.int32),
        "title": np.array(["a", None, "ü"], object),
        "embedding": [np.array(v, np.float64) if v else None for v in COLUMNS["embedding"]],
        "small_embedding": np.array(COLUMNS["small_embedding"], np.float64),
        "codes": np.array(COLUMNS["codes"]),
        "bits": np.unpackbits(np.array(COLUMNS["bits"], np.uint8), axis=1).astype(bool),
        "words": [{1: 0.5, 7: 2.0}, None, {}],
    }


SOURCES = {
    "Arrow table": table,
    "Arrow batch": lambda: table().to_batches()[0],
    "Arrow reader": lambda: table().to_reader(),
    "Arrow chunks": lambda: pa.concat_tables([table()[:1], table()[1:]]),
    "Arrow data set": lambda: ds.dataset(table()),
    "Arrow stream": lambda: OnlyAStream(table()),
    "to_arrow()": OnlyToArrow,
    "DuckDB": lambda: duckdb.from_arrow(table()),
    "polars": lambda: interop.to_polars(interop.to_rows(table(), SCHEMA)),
    "polars lazy": lambda: interop.to_polars(interop.to_rows(table(), SCHEMA)).lazy(),
    "pandas": lambda: interop.to_pandas(interop.to_rows(table(), SCHEMA)),
    "pandas of Arrow": lambda: table().to_pandas(types_mapper=pd.ArrowDtype),
    "Dask": lambda: interop.to_dask(interop.to_rows(table(), SCHEMA)),
    "rows": lambda: interop.to_rows(table(), SCHEMA),
    "list of dicts": list_of_dicts,
    "dict of arrays": dict_of_arrays,
}


@pytest.mark.parametrize("source", SOURCES, ids=str)
def test_every_source_gives_the_same_rows(source):
    found = validate_rows(SCHEMA, interop.to_rows(SOURCES[source](), SCHEMA))
    out = interop.to_arrow(found)
    assert out.column_names == list(SCHEMA.fields)
    assert out.drop_columns(["meta"]).to_pylist() == table().drop_columns(["meta"]).to_pylist()
    assert out["meta"].to_pylist() == ['{"a":[1]}', None, "3"]


@pytest.mark.parametrize("source", [s for s in SOURCES if s != "DuckDB"], ids=str)
def test_vectors_lie_beside_the_table(source):
    rows = interop.to_rows(SOURCES[source](), SCHEMA)
    assert set(rows.vectors) == set(SCHEMA.vector_fields)
    assert set(rows.table.column_names) == set(SCHEMA.scalar_fields)


def test_what_leaves_one_way_comes_back_the_same():
    rows = validate_rows(SCHEMA, interop.to_rows(table(), SCHEMA))
    for leave in (interop.to_arrow, interop.to_pandas, interop.to_polars, interop.to_dask):
        again = validate_rows(SCHEMA, interop.to_rows(leave(rows), SCHEMA))
        assert interop.to_arrow(again).equals(interop.to_arrow(rows)), leave.__name__
    lost = ["words", "price"]  # pairs without a type; a null that became NaN, which is a value
    arrays = {n: a for n, a in interop.to_numpy(rows).items() if n not in lost}
    arrays["embedding"] = [None if np.isnan(v).any() else v for v in arrays["embedding"]]
    again = validate_rows(SCHEMA, interop.to_rows({**arrays, "words": [None] * 3}, SCHEMA))
    wanted = interop.to_arrow(rows).drop_columns(lost)
    assert interop.to_arrow(again).drop_columns(lost).to_pylist() == wanted.to_pylist()


# without copies


MILLION = 1_000_000


@pytest.mark.parametrize("form", ["arrow", "lists", "polars", "dict", "stream", "rows"])
def test_a_million_vectors_come_in_and_go_out_without_a_copy(form):
    values = np.zeros((MILLION, 128), np.float32)
    ids = np.arange(MILLION)
    flat = pa.array(values.ravel())
    fixed = pa.table({"id": ids, "v": pa.FixedSizeListArray.from_arrays(flat, 128)})
    offsets = pa.array(np.arange(0, 128 * MILLION + 1, 128, dtype=np.int32))
    data = {
        "arrow": lambda: fixed,
        "stream": lambda: OnlyAStream(fixed),
        "lists": lambda: pa.table({"id": ids, "v": pa.ListArray.from_arrays(offsets, flat)}),
        "polars": lambda: pl.from_arrow(fixed),
        "dict": lambda: {"id": ids, "v": values},
        "rows": lambda: Rows(pa.table({"id": ids}), {"v": DenseVectors(values)}),
    }[form]()
    schema = interop.infer_schema(data, "id")
    assert schema["v"] == Vector(128)
    rows = validate_rows(schema, interop.to_rows(data, schema))
    assert np.shares_memory(rows.vectors["v"].values, values)
    assert np.shares_memory(rows.table["id"].chunk(0).to_numpy(), ids)
    out = interop.to_arrow(rows)["v"].chunk(0).values.to_numpy()
    assert np.shares_memory(out, values)
    assert np.shares_memory(interop.to_numpy(rows)["v"], values)


# inference


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1, 2], Int64(nullable=True)),
        (np.array([1, 2], np.uint8), Int16(nullable=True)),
        (np.array([1, 2], np.uint16), Int32(nullable=True)),
        (np.array([1, 2], np.uint64), Int64(nullable=True)),
        (np.array([1, 2], np.float16), Float32(nullable=True)),
        (np.array([1, 2], ml_dtypes.bfloat16), Float32(nullable=True)),
        ([1.5, None], Float64(nullable=True)),
        ([True, False], Bool(nullable=True)),
        (["a", "b"], String(nullable=True)),
        (np.array(["a", "b"]), String(nullable=True)),
        (pd.Categorical(["a", "b"]), String(nullable=True)),
        (pl.Series(["a", "b"], dtype=pl.Categorical), String(nullable=True)),
        (pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])), String(nullable=True)),
        ([uuid.UUID(int=1), None], String(nullable=True)),
        (np.array([1, 2], ">i4"), Int32(nullable=True)),
        ([None, None], String(nullable=True)),
        ([dt.date(2024, 1, 1), None], Timestamp(nullable=True)),
        (np.array(["2024-01-01", "2024-01-02"], "M8[ns]"), Timestamp(nullable=True)),
        ([{"a": 1}, {"b": "x"}], JSON(nullable=True)),
        ([[{"a": 1}], []], JSON(nullable=True)),
        ([[[1.0]], [[2.0]]], JSON(nullable=True)),
        ([["a", "b"], ["c", "d"]], List(String(), nullable=True)),
        ([[1], [1, 2]], List(Int64(), nullable=True)),
        ([[], []], List(String(), nullable=True)),
        ([[1, 2], [3, 4]], Vector(2)),
        ([[1.0, 2.0], None], Vector(2, nullable=True)),
        ([np.ones(3, np.float32), np.ones(3, np.float32)], Vector(3)),
        ([np.ones(3, ml_dtypes.bfloat16)] * 2, Vector(3, dtype="bfloat16")),
        ([np.ones(3, np.float16)] * 2, Vector(3, dtype="float16")),
        (np.ones((2, 3), ml_dtypes.bfloat16), Vector(3, dtype="bfloat16")),
        (np.ones((2, 3), np.uint8), Vector(3, dtype="uint8")),
        (np.ones((2, 3)), Vector(3)),
        (np.ones((2, 16), bool), BinaryVector(16)),
        (np.ones((2, 3)).T[:2], Vector(2)),
        ([b"ab", b"cd"], BinaryVector(16)),
        ([{1: 0.5}, {}], SparseVector()),
        ([{np.int64(1): np.float32(0.5)}, None], SparseVector(nullable=True)),
        (scipy.sparse.csr_array(np.eye(2)), SparseVector()),
        (scipy.sparse.coo_matrix(np.eye(2)), SparseVector()),
    ],
)
def test_a_field_type_follows_from_the_values(values, kind):
    data = {"id": [1, 2], "f": values}
    schema = interop.infer_schema(data, "id")
    assert schema["f"] == kind
    found = validate_rows(schema, interop.to_rows(data, schema))
    assert len(found) == 2
    alone = interop.to_rows(data)
    assert ("f" in alone.vectors) == kind.is_vector


def test_keys_are_not_null_and_keep_to_two_types():
    assert interop.infer_schema({"id": np.array([1], np.int16)}, "id")["id"] == Int64()
    assert interop.infer_schema({"id": ["a"]}, "id")["id"] == String()
    with pytest.raises(SchemaError) as caught:
        interop.infer_schema({"id": [1.5]}, "id")
    assert caught.value.code == "GV-103"


@pytest.mark.parametrize(("key", "said"), [(None, "which column"), ("idd", 'Did you mean "id"')])
def test_a_primary_key_must_be_named(key, said):
    with pytest.raises(SchemaError, match=said) as caught:
        interop.infer_schema({"id": [1]}, key)
    assert caught.value.code == "GV-121"


@pytest.mark.parametrize(
    "values",
    [
        [dt.timedelta(1)],
        [dt.time(1)],
        [b"a", b"bc"],
        pa.array([None], pa.month_day_nano_interval()),
        pd.period_range("2024", periods=1, freq="Y"),
    ],
)
def test_a_column_without_a_field_type_is_refused(values):
    with pytest.raises(SchemaError) as caught:
        interop.infer_schema({"id": range(len(values)), "odd": values}, "id")
    assert caught.value.code == "GV-120"
    assert '"odd"' in caught.value.message


# refusals


def test_columns_of_different_lengths_are_refused():
    with pytest.raises(SchemaError, match='"a" has 2, "b" has 1') as caught:
        interop.to_rows({"a": [1, 2], "b": [1]})
    assert caught.value.code == "GV-117"


@pytest.mark.parametrize(
    "data", [3, object(), "no such file.parquet", [1, 2], iter([]), pl.Series([1])]
)
def test_what_is_no_table_is_refused(data):
    with pytest.raises(GpuvecError) as caught:
        interop.to_rows(data)
    assert caught.value.code in ("GV-118", "GV-703")


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([1, 2, "x", 3], "row 2 is 'x', a str"),
        (["x", None, 2.5], "row 2 is 2.5, a float"),
        ([1, 2**70], "row 1"),
        ([[1.0], "x"], "row 1"),
        ([[1.0], [2.0, "x"]], "row 1"),
        (["\ud800"], "row 0"),
        ([np.ones(2), 3.0], "1-D arrays"),
        ([np.ones((2, 2))] * 2, "1-D arrays"),
        (np.ones((2, 2, 2)), "neither 1-D nor 2-D"),
        (np.ones((2, 2), complex), "complex"),
        ("text", "str is no column"),
        (5, "int is no column"),
        ({"a": 1}, "dict is no column"),
    ],
)
def test_a_column_of_mixed_values_names_the_first_that_differs(values, said):
    with pytest.raises(SchemaError) as caught:
        interop.to_rows({"f": values})
    assert caught.value.code == "GV-119"
    assert "'f'" in caught.value.message
    assert said in caught.value.message


def test_uuids_become_their_text():
    ids = [uuid.UUID(int=7), None, uuid.UUID("12345678-9abc-def0-1234-56789abcdef0")]
    assert interop.to_rows({"a": ids}).table["a"].to_pylist() == [i and str(i) for i in ids]
    sliced = pa.array([i and i.bytes for i in ids], pa.uuid())[2:]
    assert interop.to_rows({"a": sliced}).table["a"].to_pylist() == [str(ids[2])]


def test_masked_arrays_hold_null_vectors():
    values = np.ma.masked_array(np.ones((3, 2)), [[0, 0], [1, 1], [0, 0]])
    column = interop.to_rows({"v": values}).vectors["v"]
    assert column.valid.tolist() == [True, False, True]
    values = np.ma.masked_array(np.ones((3, 2)), [[0, 0], [1, 1], [0, 1]])
    assert np.isnan(interop.to_rows({"v": values}).vectors["v"].values[2, 1])


def test_ragged_bfloat16_vectors_name_the_row():
    values = [np.ones(2, ml_dtypes.bfloat16), None, np.ones(3, ml_dtypes.bfloat16)]
    with pytest.raises(SchemaError) as caught:
        interop.to_rows({"f": values})
    assert (caught.value.code, caught.value.details["row"]) == ("GV-112", 2)


def test_ragged_pandas_vectors_name_the_row():
    frame = pd.DataFrame({"id": [1, 2, 3], "v": [np.ones(2), np.ones(2), np.ones(3)]})
    schema = Schema({"id": Int64(), "v": Vector(2)}, "id")
    with pytest.raises(SchemaError, match='field "v", row 2: wanted 2 dimensions, got 3'):
        interop.to_rows(frame, schema)


def test_names_must_be_text_and_distinct():
    for frame in (
        pd.DataFrame([[1, 2]]),
        pd.DataFrame([[1, 2]], columns=["a", "a"]),
        pa.table([[1], [2]], names=["a", "a"]),
        [{1: 2, "a": 3}],
    ):
        with pytest.raises(SchemaError) as caught:
            interop.to_rows(frame)
        assert caught.value.code == "GV-119"


def test_a_named_pandas_index_is_a_column_and_a_nameless_one_is_not():
    frame = pd.DataFrame({"a": [1, 2]}, index=pd.Index([5, 6], name="key"))
    assert interop.to_rows(frame).table.to_pydict() == {"key": [5, 6], "a": [1, 2]}
    assert interop.to_rows(frame.sample(2, random_state=0).rename_axis(None)).order == ("a",)


def test_a_missing_number_in_pandas_is_null():
    frame = pd.DataFrame({"a": [1.5, np.nan], "v": [np.ones(2), np.nan]})
    rows = interop.to_rows(frame)
    assert rows.table["a"].to_pylist() == [1.5, None]
    assert rows.vectors["v"].valid.tolist() == [True, False]


def test_dicts_may_lack_keys_and_no_dicts_are_no_rows():
    rows = interop.to_rows([{"a": 1}, {"b": "x"}])
    assert rows.table.to_pylist() == [{"a": 1, "b": None}, {"a": None, "b": "x"}]
    none = validate_rows(SCHEMA, interop.to_rows([], SCHEMA))
    assert (len(none), none.order) == (0, tuple(SCHEMA.fields))


def test_files_and_globs_are_read(tmp_path: pathlib.Path):
    pq.write_table(pa.table({"a": [1]}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"a": [2]}), tmp_path / "2.parquet")
    assert interop.to_rows(str(tmp_path / "*.parquet")).table["a"].to_pylist() == [1, 2]
    assert interop.to_rows(tmp_path / "2.parquet").table["a"].to_pylist() == [2]
    with pytest.raises(NotFoundError):
        interop.to_rows(tmp_path / "3.parquet")


class DlpackOnly:
    """An array of another library."""

    def __init__(self, values: np.ndarray) -> None:
        self._values = values
        self.ndim, self.shape = values.ndim, values.shape

    def __len__(self) -> int:
        return len(self._values)

    def __iter__(self) -> Iterator:
        return iter(self._values)

    def __dlpack__(self, **options):
        return self._values.__dlpack__(**options)

    def __dlpack_device__(self):
        return self._values.__dlpack_device__()


def test_arrays_of_any_library_come_in_by_dlpack_without_a_copy():
    values = np.random.default_rng(0).random((5, 3), dtype=np.float32)
    rows = interop.to_rows({"id": DlpackOnly(np.arange(5)), "v": DlpackOnly(values)})
    assert np.shares_memory(rows.vectors["v"].values, values)
    assert rows.table["id"].to_pylist() == list(range(5))
    listed = interop.to_rows({"v": [DlpackOnly(row) for row in values]})
    assert np.array_equal(listed.vectors["v"].values, values)


def test_torch_tensors_go_both_ways():
    torch = pytest.importorskip("torch")
    values = torch.ones(4, 3, dtype=torch.bfloat16)
    rows = interop.to_rows({"id": torch.arange(4), "v": values, "w": torch.ones(4, 2)})
    assert rows.vectors["v"].values.dtype == ml_dtypes.bfloat16
    out = interop.to_torch(rows)
    assert out["v"].dtype == torch.bfloat16
    assert torch.equal(out["w"], torch.ones(4, 2))


# out


def test_narrow_floats_leave_as_float32_and_in_numpy_as_they_are():
    values = np.array([[1.5, 2.5]])
    rows = Rows(
        pa.table({}),
        {n: DenseVectors(values.astype(n)) for n in ("float16", "bfloat16", "float32", "int8")},
    )
    out = interop.to_arrow(rows)
    assert [str(t.value_type) for t in out.schema.types] == ["float", "float", "float", "int8"]
    assert interop.to_pandas(rows)["bfloat16"][0].dtype == np.float32
    assert {n: a.dtype.name for n, a in interop.to_numpy(rows).items()} == {
        n: n for n in rows.order
    }


def test_pandas_loses_no_digit_to_a_null():
    rows = interop.to_rows(table(), SCHEMA)
    frame = interop.to_pandas(rows)
    assert frame["big"].tolist()[0] == 2**62 + 1
    assert frame["big"].isna().tolist() == [False, True, False]
    assert frame["embedding"].iloc[1] is None
    assert frame["words"].iloc[0] == {1: 0.5, 7: 2.0}


def test_nulls_in_numpy_are_masked_missing_or_none():
    arrays = interop.to_numpy(interop.to_rows(table(), SCHEMA))
    assert arrays["big"].mask.tolist() == [False, True, False]
    assert arrays["big"][0] == 2**62 + 1
    assert np.isnan(arrays["price"][1])
    assert np.isnat(arrays["ts"][1])
    assert arrays["title"][1] is None
    assert np.isnan(arrays["embedding"][1]).all()


def test_hidden_columns_stay_inside():
    rows = Rows(pa.table({"a": [1], "_gv_dynamic": ["{}"]}))
    assert interop.to_arrow(rows).column_names == ["a"]
    assert list(interop.to_numpy(rows)) == ["a"]


def test_no_rows_leave_with_their_columns():
    rows = validate_rows(SCHEMA, interop.to_rows([], SCHEMA))
    for leave in (interop.to_arrow, interop.to_pandas, interop.to_polars, interop.to_numpy):
        out = leave(rows)
        assert len(out if not isinstance(out, dict) else out["id"]) == 0
    assert interop.to_arrow(rows).schema.types[9:13] == [
        kind.arrow_type() for kind in list(SCHEMA.fields.values())[9:13]
    ]


@pytest.mark.parametrize(("leave", "library"), [
    (interop.to_torch, "torch"), (interop.to_cudf, "cudf"), (interop.to_polars, "polars"),
    (interop.to_dask, "dask.dataframe"),
])  # fmt: skip
def test_a_library_that_is_not_there_is_named(monkeypatch, leave, library):
    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(UnsupportedError, match=library) as caught:
        leave(Rows(pa.table({"a": [1]})))
    assert caught.value.code == "GV-930"


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ([1, "x", None, [1, "y"]], ["1", '"x"', None, '[1,"y"]']),
        ([{"a": 1}, "x"], ['{"a":1}', '"x"']),
        ([[{"a": 1}], "[1]"], ['[{"a":1}]', '"[1]"']),
        ([{1: 0.5}, {"b": None}], ['{"1":0.5}', '{"b":null}']),
        ([True, 1, 2**70], ["true", "1", str(2**70)]),
        ([dt.datetime(2026, 11, 1, 12), "x"], ['"2026-11-01T12:00:00"', '"x"']),
        ([1, float("nan"), "x"], ["1", None, '"x"']),
        ([np.ones(2, np.float32), "x"], ["[1.0,1.0]", '"x"']),
        (pd.Series([1, "x", None, float("nan")], dtype=object), ["1", '"x"', None, None]),
        (pl.Series([1, "x"], dtype=pl.Object), ["1", '"x"']),
        (np.array([1, "x"], object), ["1", '"x"']),
    ],
)
def test_values_that_no_field_names_need_not_be_of_one_type(values, wanted):
    schema = Schema({"id": Int64()}, "id", dynamic=True)
    data = {"id": np.arange(len(values)), "a": values}
    found = validate_rows(schema, interop.to_rows(data, schema)).table["_gv_dynamic"]
    assert found.to_pylist() == [None if text is None else f'{{"a":{text}}}' for text in wanted]
    with pytest.raises(SchemaError):
        interop.to_rows({"id": [0, 1], "a": [1, "x"]})


# queries


E = np.random.default_rng(0).random((6, 4), dtype=np.float32)
ONE = [0.1, 0.2, 0.3, 0.4]


@pytest.mark.parametrize(
    ("queries", "wanted"),
    [
        (E, E),
        (E[0], E[:1]),
        (E.astype(np.float64), E),
        (E.tolist(), E),
        (list(E), E),
        (tuple(ONE), [ONE]),
        ([1, 2, 3, 4], [[1, 2, 3, 4]]),
        ([ONE], [ONE]),
        (np.asfortranarray(E), E),
        (E[::2], E[::2]),
        (pd.Series(list(E)), E),
        (pd.DataFrame({"v": list(E)})["v"][1:3], E[1:3]),
        (pl.Series(E.tolist(), dtype=pl.Array(pl.Float32, 4)), E),
        (pl.Series(E.tolist()), E),
        (pa.array(list(E)), E),
        (pa.chunked_array([list(E[:2]), list(E[2:])]), E),
        (pd.Series(ONE), [ONE]),
        (pl.Series(ONE), [ONE]),
        (pa.array(ONE), [ONE]),
        (DlpackOnly(E), E),
        (DlpackOnly(E[1]), E[1:2]),
        (E.astype(ml_dtypes.bfloat16), E.astype(ml_dtypes.bfloat16)),
        (np.empty((0, 4)), np.empty((0, 4))),
        ([], np.empty((0, 4))),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_queries_in_any_form_are_one_float32_matrix(queries, wanted, dtype):
    found = interop.to_queries(queries, Vector(4, dtype=dtype), field="v")
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    assert np.array_equal(found, np.asarray(wanted, np.float32))


def test_float32_queries_are_not_copied():
    assert np.shares_memory(interop.to_queries(E, Vector(4), field="v"), E)
    column = pa.FixedSizeListArray.from_arrays(pa.array(E.ravel()), 4)
    assert np.shares_memory(interop.to_queries(column, Vector(4), field="v"), E)


@pytest.mark.parametrize("queries", [E, E[0], E.tolist(), pa.array(list(E)), ONE, pd.Series(ONE)])
def test_queries_of_another_dimension_are_refused_as_the_contract_says(queries):
    with pytest.raises(SchemaError) as caught:
        interop.to_queries(queries, Vector(128), field="embedding", where="items")
    assert str(caught.value).splitlines()[0] == (
        '[GV-113] queries have 4 dimensions; field "embedding" of "items" has 128'
    )


@pytest.mark.parametrize(
    ("queries", "code", "row"),
    [
        ([ONE, [0.1, np.nan, 0, 0]], "GV-111", 1),
        (np.full((3, 4), np.inf), "GV-111", 0),
        (pa.array([ONE, None]), "GV-109", 1),
        ([ONE, ONE[:3]], "GV-112", 1),
    ],
)
def test_a_query_that_is_no_vector_is_named_with_its_row(queries, code, row):
    with pytest.raises(SchemaError) as caught:
        interop.to_queries(queries, Vector(4), field="v")
    assert (caught.value.code, caught.value.details["row"]) == (code, row)
    assert "queries" in caught.value.message


@pytest.mark.parametrize(
    "queries", ["red shoe", ["red", "shoe"], 5, {"v": ONE}, [{"a": 1}], [None]]
)
@pytest.mark.parametrize("kind", [Vector(4), BinaryVector(8), SparseVector()])
def test_what_is_no_query_is_refused(queries, kind):
    with pytest.raises(GpuvecError):
        interop.to_queries(queries, kind, field="v")


def test_binary_queries_are_packed_bytes():
    bits = np.random.default_rng(0).random((3, 16)) < 0.5
    packed = np.packbits(bits, axis=1)
    for queries in (bits, packed, [row.tobytes() for row in packed], bits.tolist()):
        found = interop.to_queries(queries, BinaryVector(16), field="b")
        assert found.dtype == np.uint8
        assert np.array_equal(found, packed)
    one = interop.to_queries(packed[0].tobytes(), BinaryVector(16), field="b")
    assert np.array_equal(one, packed[:1])
    with pytest.raises(SchemaError, match=r"queries have 2 dimensions.*has 32"):
        interop.to_queries(packed, BinaryVector(32), field="b")


def test_sparse_queries_are_dicts_maps_or_matrices():
    matrix = scipy.sparse.random_array(
        (4, 50), density=0.1, rng=np.random.default_rng(0), format="csr"
    )
    dicts = [
        dict(zip(matrix.indices[a:b].tolist(), matrix.data[a:b].tolist(), strict=True))
        for a, b in zip(matrix.indptr, matrix.indptr[1:], strict=False)
    ]
    wanted = interop.to_queries(matrix, SparseVector(), field="s")
    maps = pa.array([list(d.items()) for d in dicts], pa.map_(pa.int64(), pa.float64()))
    for queries in (dicts, maps):
        found = interop.to_queries(queries, SparseVector(), field="s")
        assert isinstance(found, SparseVectors)
        assert found.offsets.tolist() == wanted.offsets.tolist()
        assert found.indices.tolist() == wanted.indices.tolist()
        assert found.values.tolist() == wanted.values.tolist()
    assert len(interop.to_queries({3: 1.0}, SparseVector(), field="s")) == 1
    with pytest.raises(GpuvecError, match="dicts of position to number"):
        interop.to_queries(E, SparseVector(), field="s")


# round trips of made-up columns


ARRAYS = st.sampled_from(["float32", "float16", "int8", "uint8"]).flatmap(
    lambda dtype: hnp.arrays(
        dtype,
        st.tuples(st.integers(0, 7), st.integers(1, 9)),
        elements={"allow_nan": False, "allow_infinity": False} if "float" in dtype else None,
    )
)


@STEADY
@given(ARRAYS)
def test_vectors_of_any_dtype_survive_every_way_out_and_in(values):
    kind = Vector(values.shape[1], dtype=values.dtype.name)
    schema = Schema({"id": Int64(), "v": kind}, "id")
    rows = validate_rows(
        schema, interop.to_rows({"id": np.arange(len(values)), "v": values}, schema)
    )
    for leave in (interop.to_arrow, interop.to_pandas, interop.to_polars, interop.to_numpy):
        again = validate_rows(schema, interop.to_rows(leave(rows), schema))
        assert again.vectors["v"].values.dtype == values.dtype
        assert np.array_equal(again.vectors["v"].values, values)


@pytest.mark.gpu
def test_queries_on_a_gpu_stay_there_and_rows_come_to_the_host():
    cupy = pytest.importorskip("cupy")
    queries = cupy.asarray(E)
    found = interop.to_queries(queries, Vector(4), field="v")
    assert found is queries or found.data.ptr == queries.data.ptr
    assert interop.to_queries(queries[0], Vector(4), field="v").shape == (1, 4)
    assert interop.to_queries(cupy.ones((2, 8), bool), BinaryVector(8), field="b").shape == (2, 1)
    with pytest.raises(SchemaError) as caught:
        interop.to_queries(cupy.asarray([ONE, [0, np.nan, 0, 0]]), Vector(4), field="v")
    assert (caught.value.code, caught.value.details["row"]) == ("GV-111", 1)
    assert isinstance(interop.to_rows({"v": queries}).vectors["v"].values, np.ndarray)
