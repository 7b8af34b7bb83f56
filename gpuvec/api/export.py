"""Rows on their way out: Arrow, pandas, polars, NumPy, torch, Dask, cuDF."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.errors import no_tensor, package_missing, too_many_list_values
from gpuvec.rows import DenseVectors, Rows, VectorColumn
from gpuvec.schema import RESERVED_PREFIX, FieldType
from gpuvec.sparse import sparse_to_arrow
from gpuvec.types import Array
from gpuvec.vectors import dense_to_arrow

MOST_LIST_VALUES = 2**31 - 1  # of one list column of cuDF, and of Arrow
_DASK_PARTITION_ROWS = 1 << 18
_FEW_ROWS = 10_000  # that one thread converts in less time than others need to start


def to_arrow(rows: Rows) -> pa.Table:
    """Return all columns but hidden ones as an Arrow table.

    Vectors are fixed-size lists, of float32 for float16 and bfloat16; binary vectors lists of
    packed bytes; sparse ones maps. Nothing else is copied.
    """
    if _is_table(rows):
        return rows.table
    columns = {
        name: _arrow_vectors(rows.vectors[name]) if name in rows.vectors else rows.table[name]
        for name in _visible(rows)
    }
    return pa.table(columns)


def to_pandas(rows: Rows) -> Any:
    """Return a pandas DataFrame; a vector is an array per row, None where it is null.

    Integers and booleans with nulls have pandas' nullable types, so that no digit is lost.
    """
    import pandas as pd

    if _is_table(rows) and not any(map(_needs_nullable, rows.table.columns)):
        many = rows.table.num_rows > _FEW_ROWS
        return rows.table.to_pandas(use_threads=many, ignore_metadata=True)
    columns = {
        name: _pandas_vectors(rows.vectors[name])
        if name in rows.vectors
        else rows.table[name].to_pandas(
            types_mapper=_nullable_types(pd).get if rows.table[name].null_count else None
        )
        for name in _visible(rows)
    }
    return pd.DataFrame(columns, index=pd.RangeIndex(len(rows)))


def to_polars(rows: Rows) -> Any:
    """Return a polars DataFrame; dense vectors are of type `Array`, and not copied.

    Raises:
        UnsupportedError: `GV-930`, polars is not installed.
    """
    return _library("polars", "to_polars()").from_arrow(to_arrow(rows))


def to_numpy(rows: Rows) -> dict[str, NDArray[Any]]:
    """Return an array per column; dense vectors (rows, dim) in their own dtype, not copied.

    Nulls are None in text, lists and JSON, NaT in times, NaN in floats and float vectors; other
    columns with nulls come as masked arrays. Sparse vectors are arrays of (index, value) pairs.
    """
    return {
        name: _numpy_vectors(rows.vectors[name])
        if name in rows.vectors
        else _numpy_scalars(rows.table[name])
        for name in _visible(rows)
    }


def to_torch(rows: Rows) -> dict[str, Any]:
    """Return a torch tensor per column, sharing memory where NumPy's array may be written to.

    Raises:
        UnsupportedError: `GV-125` text, lists, sparse vectors, nulls; `GV-930` no torch.
    """
    torch = _library("torch", "to_torch()")
    arrays = to_numpy(rows)
    for name, column in rows.vectors.items():
        if getattr(column, "valid", None) is not None:
            arrays[name] = np.ma.masked_array(arrays[name])
    unfit = [
        n for n, a in arrays.items() if a.dtype.kind in "OM" or isinstance(a, np.ma.MaskedArray)
    ]
    unfit += [n for n in rows.table.column_names if n in arrays and rows.table[n].null_count]
    if unfit:
        raise no_tensor(dict.fromkeys(unfit))
    return {name: _tensor(torch, array) for name, array in arrays.items()}


def torch_has_device() -> bool:
    """Return whether torch is installed, and uses GPUs."""
    try:
        torch = import_module("torch")
    except ImportError:
        return False
    return bool(torch.cuda.is_available())


def device_tensors(arrays: Mapping[str, Array], fields: Mapping[str, FieldType]) -> dict[str, Any]:
    """Return device arrays as torch tensors, by DLPack: nothing is copied."""
    torch = _library("torch", "to_torch()")
    found = {}
    for name, array in arrays.items():
        if getattr(fields[name], "dtype", "") == "bfloat16":  # comes as its bits
            found[name] = torch.from_dlpack(array.view("int16")).view(torch.bfloat16)
        else:
            found[name] = torch.from_dlpack(array)
    return found


def to_dask(rows: Rows) -> Any:
    """Return a Dask DataFrame in partitions of 262,144 rows; columns are of pandas' Arrow types.

    Dask would turn arrays in object columns into text.

    Raises:
        UnsupportedError: `GV-930`, Dask's data frames are not installed.
    """
    dask = _library("dask.dataframe", "to_dask()")
    pandas = _library("pandas", "to_dask()")
    parts = -(-len(rows) // _DASK_PARTITION_ROWS) or 1
    frame = to_arrow(rows).to_pandas(types_mapper=pandas.ArrowDtype)
    return dask.from_pandas(frame, npartitions=parts)


def to_cudf(rows: Rows) -> Any:
    """Return a cuDF DataFrame; vectors are list columns.

    Raises:
        UnsupportedError: `GV-930`, cuDF is not installed; `GV-910`, a vector column is larger than
            cuDF can hold.
    """
    library = _library("cudf", "to_cudf()")
    return library.DataFrame.from_arrow(as_lists(to_arrow(rows)))


def as_lists(table: pa.Table) -> pa.Table:
    """Return fixed-size lists as lists of any size, which is what cuDF has; values not copied.

    Raises:
        UnsupportedError: `GV-910`, more values in a column than 32 bits count.
    """
    for place, field in enumerate(table.schema):
        if not pa.types.is_fixed_size_list(field.type):
            continue
        width, column = field.type.list_size, table.column(place)
        if width * len(column) > MOST_LIST_VALUES:
            raise too_many_list_values(
                field.name, rows=len(column), width=width, most=MOST_LIST_VALUES
            )
        lists = [_list(chunk, width) for chunk in column.chunks]
        table = table.set_column(
            place, field.name, pa.chunked_array(lists, pa.list_(field.type.value_type))
        )
    return table


def _list(fixed: pa.Array, width: int) -> pa.Array:
    offsets = pa.array(np.arange(len(fixed) + 1, dtype=np.int32) * np.int32(width))
    values = fixed.values.slice(fixed.offset * width, len(fixed) * width)
    mask = fixed.is_null() if fixed.null_count else None
    return pa.ListArray.from_arrays(offsets, values, mask=mask)


def _library(name: str, purpose: str) -> Any:
    """Import a library that only this conversion needs."""
    try:
        return import_module(name)
    except ImportError:
        raise package_missing(name, purpose) from None


def _is_table(rows: Rows) -> bool:
    """Return whether the scalar columns, as they are, are all that leaves."""
    names = rows.table.column_names
    return list(rows.order) == names and not any(n.startswith(RESERVED_PREFIX) for n in names)


def _needs_nullable(column: pa.ChunkedArray) -> bool:
    return column.null_count > 0 and column.type in _NULLABLE


def _visible(rows: Rows) -> list[str]:
    return [name for name in rows.order if not name.startswith(RESERVED_PREFIX)]


def _arrow_vectors(column: VectorColumn) -> pa.Array | pa.ChunkedArray:
    return dense_to_arrow(column) if isinstance(column, DenseVectors) else sparse_to_arrow(column)


_NULLABLE = (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.bool_())


def _nullable_types(pd: Any) -> dict[pa.DataType, Any]:
    return {
        pa.int8(): pd.Int8Dtype(),
        pa.int16(): pd.Int16Dtype(),
        pa.int32(): pd.Int32Dtype(),
        pa.int64(): pd.Int64Dtype(),
        pa.bool_(): pd.BooleanDtype(),
    }


def _pandas_vectors(column: VectorColumn) -> NDArray[np.object_]:
    found = np.empty(len(column), object)
    if not isinstance(column, DenseVectors):
        found[:] = sparse_to_arrow(column).to_pylist(maps_as_pydicts="strict")
        return found
    values = np.asarray(column.values)
    found[:] = list(values.astype(np.float32) if values.itemsize == 2 else values)
    if column.valid is not None:
        found[~column.valid] = None
    return found


def _numpy_vectors(column: VectorColumn) -> NDArray[Any]:
    if not isinstance(column, DenseVectors):
        return np.asarray(sparse_to_arrow(column).to_numpy())
    values: NDArray[Any] = np.asarray(column.values)
    if column.valid is None:
        return values
    if values.dtype.kind in "iu":
        return np.ma.masked_array(values, np.broadcast_to(~column.valid[:, None], values.shape))
    values = values.copy()
    values[~column.valid] = np.nan
    return values


def _numpy_scalars(column: pa.ChunkedArray) -> NDArray[Any]:
    whole = pa.types.is_integer(column.type) or pa.types.is_boolean(column.type)
    if whole and column.null_count:
        filled = column.fill_null(0 if pa.types.is_integer(column.type) else False)
        return np.ma.masked_array(filled.to_numpy(), column.is_null().to_numpy())
    return np.asarray(column.to_numpy())


def _tensor(torch: Any, array: NDArray[Any]) -> Any:
    array = array if array.flags.writeable else array.copy()
    if array.dtype.name == "bfloat16":
        return torch.from_numpy(array.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(array)
