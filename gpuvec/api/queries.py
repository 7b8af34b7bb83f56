"""Queries in whatever form, as the vectors that a field is searched with."""

from collections.abc import Mapping
from numbers import Real
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.api.intake import AnyColumn, as_host_array, read_column
from gpuvec.device.arrays import array_namespace, from_dlpack, is_device_array
from gpuvec.errors import (
    SchemaError,
    null_not_allowed,
    unfit_queries,
    unreadable_queries,
    vector_not_finite,
    wrong_dimension,
)
from gpuvec.rows import DenseVectors, SparseVectors
from gpuvec.schema import BinaryVector, FieldType, SparseVector, Vector
from gpuvec.sparse import sparse_from_arrow, sparse_not_finite_error, sparse_not_finite_rows
from gpuvec.types import Array
from gpuvec.vectors import cast_dense, dense_from_arrow, not_finite_rows

_NAME = "queries"  # of the column that they are read as
_CUDA = (2, 13)  # DLPack device types: CUDA, CUDA managed memory


def to_queries(
    queries: Any, kind: FieldType, *, field: str, where: str = ""
) -> Array | SparseVectors:
    """Return queries in the form in which a field is searched.

    Args:
        queries: one vector, a 2-D array (CuPy's stay on the device), a vector column, or a list of
            vectors; for sparse fields dicts of position to number, or a SciPy matrix.
        kind: the type of the searched field.
        field: its name, for messages.
        where: the collection's name, for messages.

    Returns:
        (queries, dim) float32 on host or device; (queries, dim / 8) uint8 for binary fields; sparse
        rows. A float32 array is not copied.

    Raises:
        SchemaError: `GV-113` another dimension; a query among them that is null (`GV-109`), holds a
            NaN (`GV-111`) or has another dimension than the others (`GV-112`).
        QueryError: `GV-123`, no vectors.
    """
    if type(queries) is np.ndarray and isinstance(kind, Vector) and _is_ready(queries, kind):
        return queries.reshape(-1, kind.dim)
    wanted = _wanted(kind)
    try:
        return _query_matrix(_query_column(queries, kind, wanted), kind, wanted, field, where)
    except SchemaError as error:
        raise unfit_queries(error, _NAME, wanted) from None


def _is_ready(queries: NDArray[Any], kind: Vector) -> bool:
    """Return whether queries are as searches take them: most are, and a look shows it."""
    if queries.dtype != np.float32 or queries.ndim not in (1, 2) or queries.shape[-1] != kind.dim:
        return False
    if not queries.size or not queries.flags.c_contiguous:
        return False
    with np.errstate(over="ignore", invalid="ignore"):
        return bool(np.isfinite(queries.sum()))  # if not, it is seen later where the fault is


def _wanted(kind: FieldType) -> str:
    if isinstance(kind, Vector | BinaryVector):
        return f"vectors of {kind.dim} {'numbers' if isinstance(kind, Vector) else 'bits'}"
    return "sparse vectors: dicts of position to number"


def _query_column(queries: Any, kind: FieldType, wanted: str) -> AnyColumn | Array:
    """Return queries that are no table as a column; one vector as a column of one."""
    on_device = _device_array(queries)
    if on_device is not None and isinstance(kind, Vector):
        return on_device if on_device.ndim == 2 else on_device.reshape(1, -1)
    if isinstance(kind, SparseVector):
        return _read([queries] if isinstance(queries, Mapping) else queries, kind, wanted)
    if isinstance(queries, bytes):
        queries = np.frombuffer(queries, np.uint8)
    array = as_host_array(queries)
    if array is None and isinstance(queries, list | tuple) and queries:
        array = np.asarray(queries) if isinstance(queries[0], Real | np.bool_) else None
    if array is not None and array.ndim == 1 and array.dtype != object:
        return DenseVectors(array.reshape(1, -1))
    column = _read(queries, None, wanted)
    if isinstance(column, pa.ChunkedArray) and not pa.types.is_nested(column.type):
        numeric = pa.types.is_integer(column.type) or pa.types.is_floating(column.type)
        if numeric and not column.null_count:  # a pandas, polars or Arrow column that is one vector
            return DenseVectors(column.to_numpy().reshape(1, -1))
    return column


def _read(queries: Any, kind: FieldType | None, wanted: str) -> AnyColumn:
    if isinstance(queries, str | Mapping) or not hasattr(queries, "__iter__"):
        raise unreadable_queries(type(queries).__name__, wanted)
    return read_column(_NAME, queries, kind)


def _device_array(queries: Any) -> Array | None:
    """Return an array of any library that lies on a GPU as CuPy's; None if it is none."""
    if is_device_array(queries):
        return queries
    if isinstance(queries, pa.Array) or not hasattr(queries, "__dlpack_device__"):
        return None
    return from_dlpack(queries) if int(queries.__dlpack_device__()[0]) in _CUDA else None


def _query_matrix(
    column: AnyColumn | Array, kind: FieldType, wanted: str, field: str, where: str
) -> Array | SparseVectors:
    if isinstance(kind, SparseVector):
        return _sparse_queries(column, wanted)
    if isinstance(column, SparseVectors) or not isinstance(kind, Vector | BinaryVector):
        raise unreadable_queries("sparse vectors", wanted)
    if is_device_array(column):
        column = DenseVectors(column)
    elif isinstance(column, pa.ChunkedArray):
        if not len(column):
            return np.empty((0, kind.width), np.float32 if isinstance(kind, Vector) else np.uint8)
        if not _may_hold_vectors(column.type):
            raise unreadable_queries(column.type, wanted)
        column = dense_from_arrow(_NAME, column)
    if column.valid is not None and not column.valid.all():
        raise null_not_allowed(
            _NAME, int(np.argmin(column.valid)), why="every query needs a vector"
        )
    width = column.values.shape[1]
    if width != kind.width and (isinstance(kind, Vector) or width != kind.dim):
        raise wrong_dimension(field, wanted=kind.dim, got=width, where=where)
    if is_device_array(column.values):
        return _device_queries(column.values)
    if isinstance(kind, BinaryVector):
        return cast_dense(_NAME, kind, column).values
    found = cast_dense(_NAME, Vector(kind.dim), column).values
    bad = not_finite_rows(found)
    if bad is not None:
        row = int(np.argmax(bad))
        place = int(np.argmin(np.isfinite(found[row])))
        got = column.values[row, place]
        raise vector_not_finite(_NAME, row, place, wanted="float32", got=got)
    return found


def _may_hold_vectors(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_nested(kind) or pa.types.is_binary(kind) or pa.types.is_fixed_size_binary(kind)
    )


def _device_queries(values: Array) -> Array:
    xp = array_namespace(values)
    found = xp.ascontiguousarray(values.astype(xp.float32, copy=False))
    bad = ~xp.isfinite(found).all(axis=1)
    if bool(bad.any()):
        row = int(xp.argmax(bad))
        place = int(xp.argmin(xp.isfinite(found[row])))
        raise vector_not_finite(_NAME, row, place, wanted="float32", got=found[row, place])
    return found


def _sparse_queries(column: AnyColumn | Array, wanted: str) -> SparseVectors:
    if isinstance(column, pa.ChunkedArray):
        column = sparse_from_arrow(_NAME, column)
    if not isinstance(column, SparseVectors):
        raise unreadable_queries("an array", wanted)
    if column.valid is not None and not column.valid.all():
        raise null_not_allowed(
            _NAME, int(np.argmin(column.valid)), why="every query needs a vector"
        )
    bad = sparse_not_finite_rows(column)
    if bad is not None:
        raise sparse_not_finite_error(_NAME, column, int(np.argmax(bad)))
    return column
