"""Whatever holds a table, as `Rows`; and the schema that follows from it."""

import os
from collections.abc import Mapping
from itertools import chain
from operator import methodcaller
from typing import Any

import pyarrow as pa

from gpuvec.api.inference import infer_fields
from gpuvec.api.intake import AnyColumn, read_column, read_loose_column
from gpuvec.errors import (
    needs_primary_key,
    uneven_columns,
    unreadable_column,
    unreadable_data,
)
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import (
    BinaryVector,
    FieldType,
    Int8,
    Int16,
    Int32,
    Int64,
    Schema,
    String,
    Vector,
)
from gpuvec.sparse import sparse_from_arrow
from gpuvec.vectors import dense_column


def to_rows(data: Any, schema: Schema | None = None) -> Rows:
    """Return rows of anything that holds a table; vectors beside the scalars, nothing checked yet.

    Takes `Rows`; pandas, polars, Dask and cuDF frames; Arrow tables, batches, readers and data
    sets; DuckDB relations and whatever else exports the Arrow C interface, or has `to_arrow` or
    `to_table`; a path, URL or glob of files; a dict of columns (NumPy, CuPy, torch, Arrow, SciPy
    sparse, lists); a list of dicts. Arrow columns and host arrays are not copied.

    Args:
        data: the table.
        schema: tells which columns are vectors, sparse vectors or JSON; inferred without it.

    Raises:
        SchemaError: `GV-107` to `GV-120`; the message names the column, and the row if it is one.
        NotFoundError: `GV-703`, no such file.
    """
    if isinstance(data, Rows):
        return data
    if isinstance(getattr(data, "rows", None), Rows):
        rows: Rows = data.rows  # a `Result`
        return rows
    columns = _read_columns(data, schema)
    kinds = infer_fields(columns) if schema is None else schema.fields
    scalars: dict[str, pa.ChunkedArray] = {}
    vectors: dict[str, VectorColumn] = {}
    for name, column in columns.items():
        kind = kinds.get(name)
        if kind is not None and kind.is_vector:
            vectors[name] = _vectors(name, kind, column)
        elif isinstance(column, DenseVectors | SparseVectors):
            vectors[name] = column
        else:
            scalars[name] = column
    return Rows(pa.table(scalars), vectors, tuple(columns))


def infer_schema(
    data: Any,
    primary_key: str | None = None,
    *,
    partition_key: str | None = None,
    dynamic: bool = False,
) -> Schema:
    """Return the schema that follows from data; see `gpuvec.api.inference.infer_field`.

    Args:
        data: see `to_rows`.
        primary_key: a column of whole numbers or text; it becomes `Int64` or `String`, not null.
        partition_key: see `Schema`.
        dynamic: see `Schema`.

    Raises:
        SchemaError: `GV-103` a key of another type, `GV-120` a column without a type, `GV-121` no
            such primary key.
    """
    fields = infer_fields(_read_columns(data, None))
    if not isinstance(primary_key, str) or primary_key not in fields:
        raise needs_primary_key(fields, primary_key)
    fields[primary_key] = key_type(fields[primary_key])
    return Schema(fields, primary_key, partition_key=partition_key, dynamic=dynamic)


def key_type(kind: FieldType) -> FieldType:
    """Return the type of a primary key whose values a field type describes."""
    if isinstance(kind, Int8 | Int16 | Int32 | Int64):
        return Int64()
    return String() if isinstance(kind, String) else kind


def _vectors(name: str, kind: FieldType, column: AnyColumn) -> VectorColumn:
    if isinstance(column, SparseVectors):
        return column
    if isinstance(kind, Vector | BinaryVector):
        return dense_column(name, kind, column)
    return column if isinstance(column, DenseVectors) else sparse_from_arrow(name, column)


def _read_columns(data: Any, schema: Schema | None) -> dict[str, AnyColumn]:
    """Return the columns of any table, each in Arrow or as vectors, all of one length."""
    if isinstance(data, Rows):
        return {n: data.vectors[n] if n in data.vectors else data.table[n] for n in data.order}
    kinds = {} if schema is None else schema.fields
    raw = _raw_columns(data, kinds)
    loose = set(raw) - set(kinds) if schema is not None and schema.dynamic else set()
    columns = {
        name: read_loose_column(name, values)
        if name in loose
        else read_column(name, values, kinds.get(name))
        for name, values in raw.items()
    }
    lengths = {name: len(column) for name, column in columns.items()}
    if len(set(lengths.values())) > 1:
        raise uneven_columns(lengths)
    return columns


def _raw_columns(data: Any, kinds: Mapping[str, FieldType]) -> dict[str, Any]:
    """Return name to values, as they are."""
    if isinstance(data, str | os.PathLike):
        from gpuvec.api.files import open_files  # takes a fifth of a second

        return _arrow_columns(open_files(os.fspath(data)).to_table())
    if isinstance(data, Mapping):
        return _named(list(data), list(data.values()))
    if isinstance(data, list | tuple):
        return _dict_columns(data, kinds)
    library = type(data).__module__.partition(".")[0]
    if library in ("dask", "dask_expr") and hasattr(data, "compute"):
        return _raw_columns(data.compute(), kinds)
    if library == "polars" and hasattr(data, "collect"):
        data = data.collect()
    if library == "polars" and hasattr(data, "get_columns"):
        return _named(data.columns, data.get_columns())
    if library == "pandas" and hasattr(data, "columns"):
        named = any(name is not None for name in data.index.names)
        frame = data.reset_index() if named else data
        return _named(list(frame.columns), [frame.iloc[:, at] for at in range(frame.shape[1])])
    if hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__"):
        try:
            return _arrow_columns(pa.table(data))
        except (pa.ArrowInvalid, TypeError):
            raise unreadable_data(data) from None
    for method in ("to_arrow", "to_table"):
        if hasattr(data, method):
            return _arrow_columns(getattr(data, method)())
    raise unreadable_data(data)


def _arrow_columns(table: Any) -> dict[str, Any]:
    if not isinstance(table, pa.Table):
        raise unreadable_data(table)
    return _named(table.column_names, table.columns)


def _named(names: list[Any], columns: list[Any]) -> dict[str, Any]:
    for at, name in enumerate(names):
        if not isinstance(name, str):
            raise unreadable_column(name, "a column's name must be text")
        if name in names[:at]:
            raise unreadable_column(name, "two columns have this name")
    return dict(zip(names, columns, strict=True))


def _dict_columns(rows: Any, kinds: Mapping[str, FieldType]) -> dict[str, Any]:
    """Return the columns of a list of dicts; a key that a dict lacks is null."""
    for kind in set(map(type, rows)):
        if not issubclass(kind, Mapping):
            row = next(row for row in rows if isinstance(row, kind))
            raise unreadable_data(row)
    if not rows:
        return {name: pa.nulls(0) for name in kinds}
    names = list(dict.fromkeys(chain.from_iterable(rows)))
    return _named(names, [list(map(methodcaller("get", name), rows)) for name in names])
