"""Dense and binary vectors: from Arrow columns to arrays beside the table, and back.

Sparse vectors are in `gpuvec.sparse`; `gpuvec.api.inference` tells vectors from lists.
"""

from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.errors import (
    value_does_not_fit,
    vector_dimension,
    vector_not_finite,
    wrong_type,
)
from gpuvec.rows import DenseVectors
from gpuvec.schema import BinaryVector, Vector

DenseKind: TypeAlias = Vector | BinaryVector
_BLOCK = 1 << 20  # numbers looked at together; a few megabytes stay in the cache


def cast_dense(name: str, kind: DenseKind, column: DenseVectors) -> DenseVectors:
    """Bring vectors to the dtype of their field; those that have it are returned as they are.

    Floats go to any float dtype, rounded to the nearest; a number too large for a narrower one
    becomes infinite. They go to integers only if they are whole; what is not finite becomes 0. Bits
    come packed, as (rows, dim / 8) uint8, or one by one, as (rows, dim) of bool or 0 and 1.

    Raises:
        SchemaError: `GV-107` no numbers, `GV-108` a number out of range, `GV-112` another
            dimension.
    """
    values = np.asarray(column.values)
    if isinstance(kind, BinaryVector):
        packed = _pack_bits(name, kind, values)
        return DenseVectors(np.ascontiguousarray(packed), column.valid)
    check_width(name, kind.dim, values)
    if values.dtype == kind.numpy_dtype:
        return DenseVectors(np.ascontiguousarray(values), column.valid)
    if not _is_number(values.dtype):
        raise wrong_type(name, wanted=f"a vector of {kind.dtype}", got=f"vectors of {values.dtype}")
    if "int" in kind.dtype:
        _check_whole(name, kind, values)
        values = values if values.dtype.kind in "iu" else _no_gaps(values)
    with np.errstate(over="ignore"):
        return DenseVectors(values.astype(kind.numpy_dtype, order="C"), column.valid)


def check_width(name: str, wanted: int, values: NDArray[Any]) -> None:
    """Raise `GV-112` unless every row has `wanted` numbers."""
    if values.ndim != 2:
        raise wrong_type(name, wanted="a 2-D array", got=f"an array of shape {values.shape}")
    if values.shape[1] != wanted:
        raise vector_dimension(name, 0, wanted=wanted, got=values.shape[1])


def not_finite_rows(values: NDArray[Any]) -> NDArray[np.bool_] | None:
    """Return which rows of a 2-D array hold a NaN or an infinite number; None when no row does.

    Cost: one read of `values` where all is well.
    """
    if values.dtype.kind not in "fV" or not values.size:  # ml_dtypes' bfloat16 is of kind V
        return None
    step = max(1, _BLOCK // values.shape[1])
    found: NDArray[np.bool_] | None = None
    for start in range(0, len(values), step):
        block = values[start : start + step]
        if _looks_finite(block):
            continue
        bad = ~np.isfinite(block.astype(np.float32) if block.itemsize == 2 else block).all(axis=1)
        if bad.any():
            found = np.zeros(len(values), bool) if found is None else found
            found[start : start + step] = bad
    return found


def _looks_finite(block: NDArray[Any]) -> bool:
    """Return True only if every number is finite; False may be a false alarm."""
    if block.itemsize == 2:
        exponent = np.uint16(0x7C00 if block.dtype == np.float16 else 0x7F80)
        return not ((block.view(np.uint16) & exponent) == exponent).any()
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(block.sum()))


def not_finite_error(name: str, kind: Vector, source: NDArray[Any], row: int) -> Exception:
    """Return the error that shows which number of a row is not finite in the field's dtype."""
    with np.errstate(over="ignore"):
        numbers = source[row].astype(kind.numpy_dtype if "float" in kind.dtype else np.float64)
    place = int(np.flatnonzero(~np.isfinite(numbers.astype(np.float64)))[0])
    return vector_not_finite(name, row, place, wanted=kind.dtype, got=source[row, place])


def dense_column(
    name: str, kind: DenseKind, column: pa.ChunkedArray | DenseVectors
) -> DenseVectors:
    """Return the vectors of a field in their own dtype, whatever form they came in."""
    if isinstance(column, DenseVectors):
        return column
    if column.null_count == len(column):
        empty = np.zeros((len(column), kind.width), kind.numpy_dtype)
        return DenseVectors(empty, np.zeros(len(column), bool) if len(column) else None)
    width = kind.dim if isinstance(kind, Vector) else None  # bits come packed or one by one
    return dense_from_arrow(name, column, width=width)


def dense_from_arrow(
    name: str, column: pa.ChunkedArray | pa.Array, *, width: int | None = None
) -> DenseVectors:
    """Return lists of numbers, bits or bytes as a 2-D array in their own dtype.

    One chunk of (fixed-size) lists without nulls gives a view, all else a copy. A null in a vector
    becomes NaN, a null vector zeros.

    Args:
        name: of the field, for messages.
        column: fixed-size lists, lists, list views, (fixed-size) binary, or nulls only.
        width: numbers per row; the first vector's length by default.

    Raises:
        SchemaError: `GV-107` no lists of numbers, `GV-112` a vector of another length.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    chunks = [_storage(chunk) for chunk in chunks if len(chunk)]
    width = _first_width(name, chunks) if width is None else width
    parts, first_row = [], 0
    for chunk in chunks:
        parts.append(_matrix(name, chunk, width, first_row))
        first_row += len(chunk)
    return DenseVectors.concat(parts) if parts else DenseVectors(np.empty((0, width), np.float32))


def dense_to_arrow(column: DenseVectors) -> pa.Array:
    """Return vectors as fixed-size lists; only float16 and bfloat16 are copied, to float32."""
    values = np.ascontiguousarray(column.values)
    if values.dtype.itemsize == 2:
        values = values.astype(np.float32)
    mask = None if column.valid is None else pa.array(~column.valid)
    return pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), values.shape[1], mask=mask)


def _storage(chunk: pa.Array) -> pa.Array:
    return chunk.storage if isinstance(chunk.type, pa.FixedShapeTensorType) else chunk


def _first_width(name: str, chunks: list[pa.Array]) -> int:
    for chunk in chunks:
        if pa.types.is_fixed_size_list(chunk.type):
            return int(chunk.type.list_size)
        if pa.types.is_fixed_size_binary(chunk.type):
            return int(chunk.type.byte_width)
        lengths = _lengths(name, chunk)
        if (lengths >= 0).any():
            return int(lengths[np.argmax(lengths >= 0)])
    return 0


def _lengths(name: str, chunk: pa.Array) -> NDArray[np.int64]:
    """Return the length of each row, -1 for nulls."""
    if pa.types.is_null(chunk.type):
        return np.full(len(chunk), -1)
    if not (_is_list(chunk.type) or _is_binary(chunk.type)):
        raise wrong_type(name, wanted="a vector", got=chunk.type)
    found = (pc.list_value_length if _is_list(chunk.type) else pc.binary_length)(chunk)
    return np.asarray(found.fill_null(-1).to_numpy(zero_copy_only=False), np.int64)


def _matrix(name: str, chunk: pa.Array, width: int, first_row: int) -> DenseVectors:
    """Return one chunk as an array; see `dense_from_arrow`."""
    valid = chunk.is_valid().to_numpy(zero_copy_only=False) if chunk.null_count else None
    if pa.types.is_null(chunk.type):
        return DenseVectors(np.zeros((len(chunk), width), np.float32), valid)
    flat, rows_dense = _flat(name, chunk, width, first_row)
    if rows_dense:
        values = flat.reshape(len(chunk), width)
        if valid is not None:
            values = values.copy()
            values[~valid] = 0
        return DenseVectors(values, valid)
    values = np.zeros((len(chunk), width), flat.dtype)
    values[valid] = flat.reshape(-1, width) if width else 0
    return DenseVectors(values, valid)


def _flat(name: str, chunk: pa.Array, width: int, first_row: int) -> tuple[NDArray[Any], bool]:
    """Return all numbers in a row, and whether null vectors have their place among them."""
    kind = chunk.type
    if pa.types.is_fixed_size_list(kind):
        _check_lengths(name, np.array([kind.list_size]), width, first_row)
        return _numbers(name, chunk.values.slice(chunk.offset * width, len(chunk) * width)), True
    if pa.types.is_fixed_size_binary(kind):
        _check_lengths(name, np.array([kind.byte_width]), width, first_row)
        data = np.frombuffer(chunk.buffers()[1], np.uint8)
        return data[chunk.offset * width : (chunk.offset + len(chunk)) * width], True
    _check_lengths(name, _lengths(name, chunk), width, first_row)
    return _numbers(name, chunk.flatten()) if _is_list(kind) else _bytes(
        chunk
    ), not chunk.null_count


def _bytes(chunk: pa.Array) -> NDArray[np.uint8]:
    """Return the bytes of all binary values that are not null."""
    chunk = chunk.drop_null() if chunk.null_count else chunk
    width = np.int64 if pa.types.is_large_binary(chunk.type) else np.int32
    offsets = np.frombuffer(chunk.buffers()[1], width)[chunk.offset : chunk.offset + len(chunk) + 1]
    return np.frombuffer(chunk.buffers()[2], np.uint8)[offsets[0] : offsets[-1]]


def _is_list(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.ListType | pa.LargeListType | pa.ListViewType | pa.LargeListViewType)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _check_lengths(name: str, lengths: NDArray[np.int64], width: int, first_row: int) -> None:
    wrong = np.flatnonzero((lengths != width) & (lengths >= 0))
    if len(wrong):
        row = int(wrong[0])
        raise vector_dimension(name, first_row + row, wanted=width, got=int(lengths[row]))


def _numbers(name: str, flat: pa.Array) -> NDArray[Any]:
    kind = flat.type
    if pa.types.is_decimal(kind):
        flat = flat.cast(pa.float64())
    elif pa.types.is_null(kind):
        flat = flat.cast(pa.float32())
    elif not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise wrong_type(name, wanted="a vector of numbers", got=f"lists of {kind}")
    return np.asarray(flat.to_numpy(zero_copy_only=False))


def _is_number(dtype: np.dtype[Any]) -> bool:
    return dtype.kind in "fiu" or dtype.name == "bfloat16"


def _no_gaps(values: NDArray[Any]) -> NDArray[np.float64]:
    """Return 0 for numbers that are not finite: their rows are found and dealt with elsewhere."""
    return np.nan_to_num(values.astype(np.float64), nan=0.0, posinf=0.0, neginf=0.0)


def _check_whole(name: str, kind: Vector, values: NDArray[Any]) -> None:
    """Raise `GV-108` at the first finite number that the integer dtype cannot hold."""
    limits = np.iinfo(kind.dtype)
    step = max(1, _BLOCK // values.shape[1])
    for start in range(0, len(values), step):
        block = values[start : start + step]
        if block.dtype.kind not in "iu":
            block = _no_gaps(block)
        wrong = (block < limits.min) | (block > limits.max) | (block != np.trunc(block))
        if wrong.any():
            row, place = (int(at) for at in np.argwhere(wrong)[0])
            wanted = f"whole numbers from {limits.min} to {limits.max}"
            raise value_does_not_fit(name, start + row, wanted=wanted, got=block[row, place].item())


def _pack_bits(name: str, kind: BinaryVector, values: NDArray[Any]) -> NDArray[np.uint8]:
    one_by_one = values.ndim == 2 and values.shape[1] == kind.dim
    if one_by_one and values.dtype.kind in "biuf":
        wrong = np.zeros(1, bool) if values.dtype.kind == "b" else (values != 0) & (values != 1)
        if wrong.any():
            row, place = (int(at) for at in np.argwhere(wrong)[0])
            raise value_does_not_fit(
                name, row, wanted="bits, 0 or 1", got=values[row, place].item()
            )
        return np.packbits(values.astype(bool), axis=1)
    check_width(name, kind.width, values)
    if values.dtype.kind not in "iu":
        raise wrong_type(name, wanted="a vector of packed bits, uint8", got=values.dtype)
    if values.dtype != np.uint8:
        _check_whole(name, Vector(kind.width, dtype="uint8"), values)
    return values.astype(np.uint8, copy=False)
