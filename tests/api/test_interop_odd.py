"""Whatever comes in is taken whole or refused, with an error of ours and no other library's."""

import collections
import datetime as dt
import decimal
import uuid
import warnings

import ml_dtypes
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import scipy.sparse

from gpuvec.api import interop
from gpuvec.errors import CastWarning, GpuvecError
from gpuvec.ingest import validate_rows
from gpuvec.schema import (
    JSON,
    BinaryVector,
    Bool,
    Float32,
    Float64,
    Int8,
    Int64,
    List,
    Schema,
    SparseVector,
    String,
    Timestamp,
    Vector,
)

NAN, INF = float("nan"), float("inf")
BF16 = ml_dtypes.bfloat16
KINDS = [
    Bool(nullable=True), Int8(nullable=True), Int64(), Float32(nullable=True), Float64(),
    String(nullable=True), Timestamp(nullable=True), JSON(nullable=True), List(String()),
    List(Int64(), nullable=True), Vector(2, nullable=True), Vector(2, dtype="int8"),
    Vector(2, dtype="bfloat16"), BinaryVector(8, nullable=True), SparseVector(nullable=True),
]  # fmt: skip
ODD = {
    "huge": [2**200, 1],
    "at the edge": [2**63, -(2**63)],
    "infinite": [INF, NAN],
    "nothing": [None, None],
    "mixed": [1, "a"],
    "bytes": [b"a", b"\xff"],
    "first and last day": [dt.date(1, 1, 1), dt.date(9999, 12, 31)],
    "time span": [dt.timedelta(1), None],
    "time of day": [dt.time(1), None],
    "decimals": [decimal.Decimal("1e20"), decimal.Decimal("1.25")],
    "decimal nan": [decimal.Decimal("NaN"), None],
    "uuids": [uuid.UUID(int=1), uuid.UUID(int=2)],
    "objects": [object(), object()],
    "sets": [{1}, {2}],
    "ragged": [[1, 2], [3]],
    "holes": [[1.0, None], None],
    "empty lists": [[], []],
    "nested": [[[1]], [[2]]],
    "mixed lists": [[1], ["a"]],
    "lists of dicts": [[{"a": 1}], []],
    "dicts": [{"a": 1}, {"b": [1]}],
    "dicts of objects": [{"a": object()}, {}],
    "empty dicts": [{}, {}],
    "negative positions": [{-1: 1.0}, {}],
    "huge positions": [{2**70: 1.0}, {}],
    "nan in a dict": [{1: NAN}, {}],
    "pairs for keys": [{(1, 2): 3}, {}],
    "one number": np.float32(1),
    "3-D": np.ones((2, 2, 2)),
    "complex": np.ones((2, 2), complex),
    "object matrix": np.array([[1, "a"], [None, 2]], object),
    "text matrix": np.array([["a", "b"]] * 2),
    "bfloat16": np.ones(2, BF16),
    "float8": np.ones((2, 2), ml_dtypes.float8_e4m3fn),
    "long double": np.ones((2, 2), np.longdouble),
    "no dimensions": np.ones((2, 0)),
    "records": np.array([(1, 2.0)] * 2, dtype=[("a", "i4"), ("b", "f4")]),
    "raw bytes": np.zeros(2, "V4"),
    "years": np.array(["2024", "2023"], "M8[Y]"),
    "not a time": np.array(["2024-01-01", "NaT"], "M8[D]"),
    "spans": np.array([1, 2], "m8[s]"),
    "big-endian": np.ones((2, 2), ">f4"),
    "masked": np.ma.masked_array(np.ones((2, 2)), [[0, 1], [0, 0]]),
    "arrays of objects": [np.array(["a"], object), np.array([], object)],
    "2-D arrays": [np.ones((1, 2)), np.ones((1, 2))],
    "0-D arrays": [np.array(1.0), np.array(2.0)],
    "arrays and lists": [np.ones(2), [1.0, 2.0]],
    "ragged bfloat16": [np.ones(2, BF16), np.ones(3, BF16)],
    "periods": pd.period_range("2024", periods=2),
    "intervals": pd.interval_range(0, 2),
    "pandas NA": pd.Series([pd.NA, 1], dtype=object),
    "pandas sparse": pd.arrays.SparseArray([1, 0]),
    "polars objects": pl.Series([object(), object()], dtype=pl.Object),
    "polars enum": pl.Series(["a", "b"], dtype=pl.Enum(["a", "b"])),
    "polars int128": pl.Series([1, 2], dtype=pl.Int128),
    "complex sparse": scipy.sparse.csr_array(np.eye(2) * 1j),
    "map to text": pa.array([[(1, "x")], []], pa.map_(pa.int64(), pa.string())),
    "bad JSON": pa.ExtensionArray.from_storage(pa.json_(), pa.array(["{", "1"])),
    "tensors": pa.ExtensionArray.from_storage(
        pa.fixed_shape_tensor(pa.float32(), [2]), pa.array([[1, 2]] * 2, pa.list_(pa.float32(), 2))
    ),
    "union": pa.UnionArray.from_sparse(
        pa.array([0, 1], pa.int8()), [pa.array([1, 2]), pa.array(["a", "b"])]
    ),
    "runs": pa.RunEndEncodedArray.from_arrays([2], ["a"]),
    "binary view": pa.array([b"ab", None], pa.binary_view()),
    "dictionary of lists": pa.DictionaryArray.from_arrays([0, 0], pa.array([[1, 2]])),
    "byte booleans": pa.ExtensionArray.from_storage(pa.bool8(), pa.array([0, 1], pa.int8())),
    "calendar spans": pa.array([(1, 2, 3), None], pa.month_day_nano_interval()),
    "text": "ab",
    "number": 3,
    "none": None,
    "deque": collections.deque([1, 2]),
    "dict": {"a": 1},
}


@pytest.fixture(autouse=True)
def lost_digits_are_fine():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", CastWarning)
        yield


def taken_whole_or_refused(values, schema_of) -> None:
    data = {"id": [1, 2], "f": values}
    try:
        schema = schema_of(data)
        rows = validate_rows(schema, interop.to_rows(data, schema))
    except GpuvecError:
        return
    assert len(rows) == 2
    out = interop.to_arrow(rows)
    out.validate(full=True)
    for leave in (interop.to_pandas, interop.to_polars, interop.to_numpy):
        leave(rows)
    if not schema.dynamic:
        again = validate_rows(schema, interop.to_rows(out, schema))
        assert str(interop.to_arrow(again)) == str(out)


@pytest.mark.parametrize("name", ODD)
def test_a_field_of_any_type_takes_or_refuses_it(name):
    for kind in KINDS:
        taken_whole_or_refused(ODD[name], lambda _: Schema({"id": Int64(), "f": kind}, "id"))  # noqa: B023


@pytest.mark.parametrize("name", ODD)
def test_inference_takes_or_refuses_it(name):
    taken_whole_or_refused(ODD[name], lambda data: interop.infer_schema(data, "id"))


@pytest.mark.parametrize("name", ODD)
def test_a_dynamic_schema_takes_or_refuses_it(name):
    taken_whole_or_refused(ODD[name], lambda _: Schema({"id": Int64()}, "id", dynamic=True))


@pytest.mark.parametrize("name", ODD)
def test_as_queries_it_is_taken_or_refused(name):
    for kind in KINDS[-5:]:
        try:
            found = interop.to_queries(ODD[name], kind, field="f")
        except GpuvecError:
            continue
        assert len(found) in (1, 2)
