"""The door: rows are brought to the form of their schema, or refused with field, row and reason.

Nothing behind the door checks again. `gpuvec.columns` casts scalars, `gpuvec.vectors` and
`gpuvec.sparse` vectors, `gpuvec.dynamic` keeps columns that no field names.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.columns import Column, default_value, scalar_column
from gpuvec.dynamic import DYNAMIC_COLUMN, pack_dynamic
from gpuvec.errors import (
    bad_choice,
    duplicate_key,
    missing_column,
    no_room_for_nulls,
    null_not_allowed,
    unknown_column,
    wrong_type,
)
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import (
    FieldType,
    Int64,
    Schema,
    SparseVector,
    Vector,
    is_nullable,
)
from gpuvec.sparse import (
    empty_rows,
    make_sparse,
    sparse_from_arrow,
    sparse_not_finite_error,
    sparse_not_finite_rows,
)
from gpuvec.vectors import cast_dense, dense_column, not_finite_error, not_finite_rows

ON_BAD_VECTORS = ("error", "drop", "null")
ON_DUPLICATE = ("error", "last", "any")


def validate_rows(
    schema: Schema, rows: Rows, *, on_bad_vectors: str = "error", on_duplicate: str = "error"
) -> Rows:
    """Bring rows to their schema's fields, order and types.

    Missing columns get the field's default, or nulls. An `auto` primary key that is missing, or
    null in all rows, is left out: see `with_auto_ids`. With a dynamic schema the hidden text column
    `_gv_dynamic` comes last. Columns that have their type already are not copied.

    Args:
        schema: what the rows must be.
        rows: any Arrow types; vectors beside the table or in list, map or binary columns.
        on_bad_vectors: what to do with a vector that has a NaN, an infinite or a missing number, or
            one too large for the field: `error`, `drop` the row, or make the vector `null`. A wrong
            dimension is always an error.
        on_duplicate: what to do with rows of one primary key: `error`, the `last` one wins, or
            `any` stay.

    Raises:
        NotFoundError: `GV-105`, a column that no field takes.
        QueryError: `GV-158`, an option that does not exist.
        SchemaError: `GV-106` to `GV-117`: the message names field and row.
    """
    if on_duplicate not in ON_DUPLICATE:
        raise bad_choice("on_duplicate", on_duplicate, ON_DUPLICATE)
    if on_bad_vectors not in ON_BAD_VECTORS:
        raise bad_choice("on_bad_vectors", on_bad_vectors, ON_BAD_VECTORS)
    given = _columns(rows)
    extra = _unknown_columns(schema, given)
    scalars = _scalars(schema.fields, given, len(rows))
    if schema.dynamic:
        scalars[DYNAMIC_COLUMN] = pack_dynamic(extra, len(rows))
    vectors, dropped = _vectors(schema.fields, given, len(rows), on_bad_vectors)
    keep = _kept(schema, scalars, dropped, on_duplicate)
    found = _assemble(schema.fields, scalars, vectors)
    return found if keep is None else found.filter(keep)


def with_auto_ids(schema: Schema, rows: Rows, first_id: int) -> Rows:
    """Return validated rows numbered from `first_id` in their `auto` primary key.

    Rows that bring their own keys, or whose key is not `auto`, are returned as they are.
    """
    name = schema.primary_key
    kind = schema[name]
    if name in rows.order or not (isinstance(kind, Int64) and kind.auto):
        return rows
    ids = pa.chunked_array([pa.array(np.arange(first_id, first_id + len(rows), dtype=np.int64))])
    scalars = {name: ids, **{n: rows.table[n] for n in rows.table.column_names}}
    return _assemble(schema.fields, scalars, rows.vectors)


def _columns(rows: Rows) -> dict[str, Column | VectorColumn]:
    table: dict[str, Column] = {name: rows.table[name] for name in rows.table.column_names}
    return {**table, **rows.vectors}


def _assemble(
    fields: Mapping[str, FieldType],
    scalars: Mapping[str, Column],
    vectors: Mapping[str, VectorColumn],
) -> Rows:
    """Return the columns in the order of the fields, the hidden column last."""
    order = [name for name in fields if name in scalars or name in vectors]
    types = [
        pa.field(name, fields[name].arrow_type(), nullable=is_nullable(fields[name]))
        for name in order
        if name in scalars
    ]
    if DYNAMIC_COLUMN in scalars:
        order.append(DYNAMIC_COLUMN)
        types.append(pa.field(DYNAMIC_COLUMN, pa.string()))
    table = pa.table([scalars[field.name] for field in types], schema=pa.schema(types))
    return Rows(table, vectors, tuple(order))


def _unknown_columns(
    schema: Schema, given: Mapping[str, Column | VectorColumn]
) -> dict[str, Column]:
    extra: dict[str, Column] = {}
    for name, column in given.items():
        if name in schema.fields:
            continue
        if not schema.dynamic or not isinstance(column, pa.ChunkedArray) or name == DYNAMIC_COLUMN:
            raise unknown_column(name, schema.fields)
        extra[name] = column
    return extra


def _scalars(
    fields: Mapping[str, FieldType], given: Mapping[str, Column | VectorColumn], num_rows: int
) -> dict[str, Column]:
    found: dict[str, Column] = {}
    for name, kind in fields.items():
        if kind.is_vector:
            continue
        column = given.get(name)
        auto = isinstance(kind, Int64) and kind.auto
        if isinstance(column, DenseVectors | SparseVectors):
            raise wrong_type(name, wanted=kind.KIND, got="vectors")
        if column is None:
            if not auto:
                found[name] = _missing(name, kind, given, num_rows)
        elif not (auto and num_rows and column.null_count == num_rows):
            found[name] = scalar_column(name, kind, column)
    return found


def _missing(name: str, kind: FieldType, given: Mapping[str, Any], num_rows: int) -> Column:
    default = default_value(name, kind)
    if not default.is_valid and not is_nullable(kind):
        raise missing_column(name, given)
    return pa.chunked_array([pa.repeat(default, num_rows)])


def _vectors(
    fields: Mapping[str, FieldType],
    given: Mapping[str, Column | VectorColumn],
    num_rows: int,
    on_bad_vectors: str,
) -> tuple[dict[str, VectorColumn], NDArray[np.bool_] | None]:
    """Return the vector columns, and which rows must be dropped."""
    found: dict[str, VectorColumn] = {}
    dropped: NDArray[np.bool_] | None = None
    for name, kind in fields.items():
        if not kind.is_vector:
            continue
        if name not in given and not is_nullable(kind):
            raise missing_column(name, given)
        column = given.get(name, pa.chunked_array([pa.nulls(num_rows)]))
        cast, bad = _one_vector(name, kind, column, on_bad_vectors)
        _check_valid(name, kind, cast)
        if bad is not None and on_bad_vectors == "null":
            if not is_nullable(kind):
                raise no_room_for_nulls(name)
            cast = _without(cast, bad)
        elif bad is not None:
            dropped = bad if dropped is None else dropped | bad
        found[name] = cast
    return found, dropped


def _one_vector(
    name: str, kind: Any, column: Column | VectorColumn, on_bad_vectors: str
) -> tuple[VectorColumn, NDArray[np.bool_] | None]:
    """Return the column in its field's form, and which rows are not finite, if any are."""
    if isinstance(kind, SparseVector):
        return _sparse(name, column, on_bad_vectors)
    if isinstance(column, SparseVectors):
        raise wrong_type(name, wanted=f"a vector of {kind.dim} numbers", got="sparse vectors")
    source = dense_column(name, kind, column)
    cast = cast_dense(name, kind, source)
    if not isinstance(kind, Vector):
        return cast, None
    bad = not_finite_rows(cast.values if "float" in kind.dtype else source.values)
    if bad is not None and on_bad_vectors == "error":
        raise not_finite_error(name, kind, source.values, int(np.argmax(bad)))
    return cast, bad


def _sparse(
    name: str, column: Column | VectorColumn, on_bad_vectors: str
) -> tuple[SparseVectors, NDArray[np.bool_] | None]:
    if isinstance(column, DenseVectors):
        raise wrong_type(name, wanted="sparse vectors", got="a 2-D array")
    if isinstance(column, SparseVectors):
        cast = make_sparse(name, column.offsets, column.indices, column.values, column.valid)
    else:
        cast = sparse_from_arrow(name, column)
    bad = sparse_not_finite_rows(cast)
    if bad is not None and on_bad_vectors == "error":
        raise sparse_not_finite_error(name, cast, int(np.argmax(bad)))
    return cast, bad


def _check_valid(name: str, kind: FieldType, column: VectorColumn) -> None:
    if column.valid is not None and not is_nullable(kind) and not column.valid.all():
        raise null_not_allowed(name, int(np.argmin(column.valid)))


def _without(column: VectorColumn, bad: NDArray[np.bool_]) -> VectorColumn:
    if isinstance(column, SparseVectors):
        return empty_rows(column, bad)
    values = column.values.copy()
    values[bad] = 0
    return DenseVectors(values, ~bad if column.valid is None else column.valid & ~bad)


def _kept(
    schema: Schema,
    scalars: Mapping[str, Column],
    dropped: NDArray[np.bool_] | None,
    on_duplicate: str,
) -> NDArray[np.bool_] | None:
    """Return the rows that stay, None for all; raise `GV-110` for a key that comes twice."""
    keep = None if dropped is None else ~dropped
    name = schema.primary_key
    if name not in scalars or on_duplicate == "any":
        return keep
    rows = np.arange(len(scalars[name])) if keep is None else np.flatnonzero(keep)
    keys = scalars[name] if keep is None else scalars[name].take(pa.array(rows))
    codes = _codes(keys)
    if codes is None:
        return keep
    place = np.arange(len(codes))
    if on_duplicate == "error":
        first = np.empty(len(codes), np.int64)
        first[codes[::-1]] = place[::-1]
        at = int(np.argmax(first[codes] != place))
        row, earlier = int(rows[at]), int(rows[first[codes[at]]])
        raise duplicate_key(name, row, earlier, scalars[name][row].as_py())
    last = np.empty(len(codes), np.int64)
    last[codes] = place
    keep = np.zeros(len(scalars[name]), bool)
    keep[rows[last[codes] == place]] = True
    return keep


def _codes(keys: Column) -> NDArray[np.int64] | None:
    """Return a number per key, equal for equal keys; None when no two are equal."""
    if pa.types.is_integer(keys.type):
        values = keys.to_numpy()
        if len(values) < 2 or bool((values[1:] > values[:-1]).all()):
            return None
    encoded = pc.dictionary_encode(keys)
    if not encoded.num_chunks or len(encoded.chunk(0).dictionary) == len(keys):
        return None
    parts = [chunk.indices.to_numpy() for chunk in encoded.chunks]
    return np.concatenate(parts).astype(np.int64)
