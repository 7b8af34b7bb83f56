"""One column of whatever a user has, as an Arrow column or as vectors beside the table."""

import sys
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from itertools import chain, repeat
from numbers import Integral, Real
from operator import is_
from typing import Any, TypeAlias

import ml_dtypes
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.columns import decoded
from gpuvec.device.arrays import from_dlpack, to_host
from gpuvec.errors import SchemaError, unreadable_column, vector_dimension
from gpuvec.json_text import json_texts, json_values
from gpuvec.rows import DenseVectors, SparseVectors, VectorColumn
from gpuvec.schema import JSON, FieldType, SparseVector
from gpuvec.sparse import make_sparse

AnyColumn: TypeAlias = pa.ChunkedArray | DenseVectors | SparseVectors
_UUID_HIGH = np.array([0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34])  # of each byte
_BAD_VALUES = (pa.ArrowException, TypeError, ValueError, OverflowError)


def read_column(name: str, values: Any, kind: FieldType | None = None) -> AnyColumn:
    """Return a column in Arrow, a 2-D array as `DenseVectors`, a sparse matrix as `SparseVectors`.

    Arrow data and NumPy arrays of numbers are not copied; arrays on a GPU come to the host. Dicts
    become JSON text (`pa.json_()`), or sparse vectors if their keys are whole numbers.

    Args:
        name: of the column, for messages.
        values: an Arrow, pandas or polars column, an array, a SciPy sparse matrix, or a sequence.
        kind: what the schema says of it, if there is one.

    Raises:
        SchemaError: `GV-119` values of several types, or of none that we know.
    """
    if isinstance(values, DenseVectors | SparseVectors):
        return values
    if isinstance(values, pa.ChunkedArray | pa.Array):
        return _from_arrow(values)
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise unreadable_column(name, f"{type(values).__name__} is no column")
    if hasattr(values, "tocsr"):
        return _from_csr(name, values.tocsr())
    if _is_from("pandas", values):
        return _from_pandas(name, values, kind)
    if _is_from("polars", values) and str(values.dtype) == "Object":
        return _from_objects(name, values.to_list(), kind)
    if hasattr(values, "__arrow_c_stream__") or hasattr(values, "__arrow_c_array__"):
        return _from_arrow(_exported(name, values))
    array = as_host_array(values)
    if array is not None:
        return _from_array(name, array, kind)
    return _from_objects(name, list(values), kind)


def read_loose_column(name: str, values: Any) -> AnyColumn:
    """Return a column that no field names, whose values need not be of one type.

    Python values that Arrow cannot put into one column become JSON text, as do dicts. All else is
    as in `read_column`.
    """
    objects = _python_values(values)
    if objects is None:
        return read_column(name, values)
    kinds = set(map(type, objects)) - {type(None)}
    texts = sum(issubclass(kind, str) for kind in kinds)
    if 0 < texts < len(kinds) or any(issubclass(kind, Mapping) for kind in kinds):
        return _as_json(json_values(name, objects))
    try:
        return _from_objects(name, objects, None)
    except SchemaError:
        return _as_json(json_values(name, objects))


def _python_values(values: Any) -> list[Any] | None:
    """Return the values of a sequence of Python objects, missing ones None; None if it is none."""
    if isinstance(values, list | tuple):
        return list(values)
    if _is_from("pandas", values):
        return _pandas_values(sys.modules["pandas"].Series(values))
    if _is_from("polars", values):
        return list(values.to_list()) if str(values.dtype) == "Object" else None
    if isinstance(values, np.ndarray) and values.dtype == object and values.ndim == 1:
        return list(values)
    return None


def as_host_array(values: Any) -> NDArray[Any] | None:
    """Return an array or tensor of any library as NumPy's, copied only from a GPU; else None."""
    if isinstance(values, np.ndarray):
        return values
    if _is_from("torch", values):
        tensor = values.detach().cpu()
        if str(tensor.dtype) != "torch.bfloat16":
            return np.asarray(tensor.numpy())
        bits = tensor.contiguous().view(sys.modules["torch"].int16).numpy()
        return np.asarray(bits.view(ml_dtypes.bfloat16))
    if hasattr(values, "__dlpack__") and not isinstance(values, pa.Array):
        return np.asarray(to_host(from_dlpack(values)))
    return None


def _is_from(library: str, value: object) -> bool:
    return type(value).__module__.partition(".")[0] == library and library in sys.modules


def _from_arrow(values: pa.ChunkedArray | pa.Array) -> pa.ChunkedArray:
    """Return a column without encodings; tensors are lists, UUIDs text."""
    column = values if isinstance(values, pa.ChunkedArray) else pa.chunked_array([values])
    if isinstance(column.type, pa.UuidType):
        return pa.chunked_array([_uuid_texts(chunk) for chunk in column.chunks], pa.string())
    if not isinstance(column.type, pa.FixedShapeTensorType):
        return decoded(column)
    return pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)


def _uuid_texts(chunk: pa.Array) -> pa.Array:
    data = np.frombuffer(chunk.storage.buffers()[1], np.uint8)
    data = data[16 * chunk.offset : 16 * (chunk.offset + len(chunk))].reshape(-1, 16)
    digits = np.frombuffer(b"0123456789abcdef", np.uint8)
    text = np.full((len(chunk), 36), ord("-"), np.uint8)
    text[:, _UUID_HIGH] = digits[data >> 4]
    text[:, _UUID_HIGH + 1] = digits[data & 15]
    mask = chunk.is_null().to_numpy(zero_copy_only=False)
    return pa.array(text.view("S36")[:, 0].astype("U36"), pa.string(), mask=mask)


def _exported(name: str, values: Any) -> pa.ChunkedArray:
    try:
        return pa.chunked_array(values)
    except _BAD_VALUES as error:
        raise unreadable_column(name, str(error).splitlines()[0]) from None


def _from_pandas(name: str, values: Any, kind: FieldType | None) -> AnyColumn:
    series = sys.modules["pandas"].Series(values)
    objects = _pandas_values(series)
    if objects is None:
        return _arrow(name, series, from_pandas=True)
    return _from_objects(name, objects, kind)


def _pandas_values(series: Any) -> list[Any] | None:
    """Return the objects of a series, missing ones None; None if it holds no objects."""
    if series.dtype != object:
        return None
    objects = series.to_numpy(copy=True)
    objects[series.isna().to_numpy()] = None
    return list(objects)


def _from_array(name: str, array: NDArray[Any], kind: FieldType | None) -> AnyColumn:
    if array.ndim == 2 and array.dtype != object:
        if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
            raise unreadable_column(name, f"a 2-D array of {array.dtype} holds no vectors")
        return _unmasked(array) if isinstance(array, np.ma.MaskedArray) else DenseVectors(array)
    if array.ndim != 1 and array.dtype != object:
        raise unreadable_column(name, f"an array of shape {array.shape} is neither 1-D nor 2-D")
    if array.dtype == object:
        return _from_objects(name, array.tolist(), kind)
    if array.dtype == ml_dtypes.bfloat16:
        array = array.astype(np.float32)
    return _arrow(name, array.astype(array.dtype.newbyteorder("="), copy=False))


def _unmasked(array: Any) -> DenseVectors:
    """Return a masked array; a row that is masked as a whole is null, a masked number NaN."""
    mask = np.ma.getmaskarray(array)
    null: NDArray[np.bool_] = np.asarray(mask.all(axis=1))
    inside = bool((mask.any(axis=1) & ~null).any())
    values = array.astype(np.float64).filled(np.nan) if inside else array.filled(0)
    values[null] = 0
    return DenseVectors(values, ~null if null.any() else None)


def _from_csr(name: str, matrix: Any) -> SparseVectors:
    if matrix.dtype.kind not in "fiub":
        raise unreadable_column(name, f"a sparse matrix of {matrix.dtype} holds no vectors")
    return make_sparse(name, matrix.indptr, matrix.indices, matrix.data)


def _from_objects(name: str, values: list[Any], kind: FieldType | None) -> AnyColumn:
    null = np.fromiter(map(is_, values, repeat(None)), bool, len(values))
    if null.all():
        return pa.chunked_array([pa.nulls(len(values))])
    first = values[int(np.argmin(null))]
    if isinstance(kind, JSON):
        return _json(name, values)
    if isinstance(first, Mapping):
        if isinstance(kind, SparseVector) or (kind is None and _is_sparse(first)):
            return _from_dicts(name, values, null)
        return _json(name, values)
    if isinstance(first, list | tuple) and first and isinstance(first[0], Mapping):
        return _json(name, values)
    if isinstance(first, np.ndarray) or (hasattr(first, "__dlpack__") and np.ndim(first)):
        return _from_arrays(name, values, null)
    return _arrow(name, values)


def _is_sparse(first: Mapping[Any, Any]) -> bool:
    return bool(first) and all(
        isinstance(key, Integral) and isinstance(value, Real) for key, value in first.items()
    )


def _json(name: str, values: Sequence[Any]) -> pa.ChunkedArray:
    return _as_json(json_texts(name, values))


def _as_json(texts: list[str | None]) -> pa.ChunkedArray:
    column = pa.ExtensionArray.from_storage(pa.json_(), pa.array(texts, pa.string()))
    return pa.chunked_array([column])


def _from_dicts(name: str, values: list[Any], null: NDArray[np.bool_]) -> SparseVectors:
    """Return dicts of position to number as sparse vectors; positions may be text, as in JSON."""
    dicts = [value for value in values if value is not None] if null.any() else values
    lengths = np.zeros(len(values), np.int64)
    try:
        lengths[~null] = np.fromiter(map(len, dicts), np.int64, len(dicts))
        count = int(lengths.sum())
        places = np.fromiter(map(int, chain.from_iterable(dicts)), np.int64, count)
        items = chain.from_iterable(map(dict.values, dicts))
        numbers = np.fromiter(map(float, items), np.float64, count)
    except (TypeError, ValueError, OverflowError) as error:
        raise unreadable_column(name, f"wanted dicts of position to number: {error}") from None
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return make_sparse(name, offsets, places, numbers, ~null if null.any() else None)


def _from_arrays(
    name: str, values: list[Any], null: NDArray[np.bool_]
) -> pa.ChunkedArray | VectorColumn:
    """Return a column of 1-D arrays as lists; of bfloat16, which Arrow lacks, as vectors."""
    present = [value for value in values if value is not None] if null.any() else values
    lengths = np.zeros(len(values), np.int64)
    try:
        if not isinstance(present[0], np.ndarray):
            present = [as_host_array(value) for value in present]
        lengths[~null] = np.fromiter(map(len, present), np.int64, len(present))
        flat = np.concatenate(present)
    except (TypeError, ValueError) as error:
        raise unreadable_column(name, f"wanted 1-D arrays: {error}") from None
    if flat.ndim != 1:
        raise unreadable_column(name, f"wanted 1-D arrays, got shape {present[0].shape}")
    if flat.dtype == ml_dtypes.bfloat16:
        return _stack(name, flat, lengths, null)
    if flat.dtype.kind not in "fiub":
        return _arrow(name, values)
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    starts = pa.array(offsets, mask=np.append(null, False) if null.any() else None)
    return pa.chunked_array([pa.LargeListArray.from_arrays(starts, pa.array(flat))])


def _stack(
    name: str, flat: NDArray[Any], lengths: NDArray[np.int64], null: NDArray[np.bool_]
) -> DenseVectors:
    width = int(lengths[int(np.argmin(null))])
    wrong = np.flatnonzero((lengths != width) & ~null)
    if len(wrong):
        row = int(wrong[0])
        raise vector_dimension(name, row, wanted=width, got=int(lengths[row]))
    if not null.any():
        return DenseVectors(flat.reshape(-1, width))
    values = np.zeros((len(lengths), width), flat.dtype)
    values[~null] = flat.reshape(-1, width)
    return DenseVectors(values, ~null)


def _arrow(name: str, values: Any, *, from_pandas: bool = False) -> pa.ChunkedArray:
    """Return values as Arrow infers them, or name the first that is unlike those before it."""
    try:
        found = pa.array(values, from_pandas=from_pandas)
    except _BAD_VALUES as error:
        reason = str(error).splitlines()[0]
        if not isinstance(values, list):
            raise unreadable_column(name, reason) from None
        row = _first_unlike(values)
        raise unreadable_column(
            name, f"row {row} is {values[row]!r:.60}, a {type(values[row]).__name__} ({reason})"
        ) from None
    return _from_arrow(found)


def _first_unlike(values: list[Any]) -> int:
    """Return the first row that Arrow cannot put into one column with those before it."""

    def fails(row: int) -> bool:
        try:
            pa.array(values[: row + 1])
        except _BAD_VALUES:
            return True
        return False

    return bisect_left(range(len(values) - 1), True, key=fails)
