"""Updates: rows that pass a filter are read, changed, and written anew in their partition."""

import json
from collections.abc import Mapping
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.columns import scalar_column
from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.expr.bind import bind
from gpuvec.expr.bound import Bound
from gpuvec.expr.json_values import with_member
from gpuvec.expr.tree import Expr
from gpuvec.ingest import validate_rows
from gpuvec.json_text import json_column, json_values
from gpuvec.messages import UpdateRows
from gpuvec.node.delegator import Located, Segment
from gpuvec.node.writing import Context, Head, Prepared, concat_keys, matching, places_of
from gpuvec.query.evaluate import evaluate_part
from gpuvec.query.part import computed_part
from gpuvec.rows import DenseVectors, Rows, VectorColumn
from gpuvec.schema import RESERVED_PREFIX, FieldType, Schema, SparseVector
from gpuvec.segment.keys import one_array
from gpuvec.segment.visible import VisibleSegment, null_vectors
from gpuvec.sparse import make_sparse
from gpuvec.wal.record import WriteRecord

_NOT_FREE = (RESERVED_PREFIX, "$meta")  # names that no dynamic column has

_Value: TypeAlias = Any  # a `Bound` expression, or an Arrow or vector column of one row


def prepare_update(change: UpdateRows, head: Head, context: Context) -> Prepared:
    """Return what an update of the rows that pass its filter writes."""
    schema = context.schema
    key = schema.primary_key
    _check_values(change.values, schema, context.where)
    wanted = {
        name: _value(name, schema.fields.get(name), value, context)
        for name, value in change.values.items()
    }
    records: list[tuple[WriteRecord, Located | None]] = []
    keys: list[pa.Array] = []
    by_partition: dict[str, list[tuple[Segment, NDArray[np.int64], Rows]]] = {}
    for segment, view, rows in matching(change.filter, context):
        old = _read(view, rows, context)
        by_partition.setdefault(segment.partition, []).append(
            (segment, rows, _changed(old, wanted))
        )
    for partition, parts in by_partition.items():
        new = Rows.concat([part for _, _, part in parts])
        new = _checked(new, schema)
        part_keys = one_array(new.table[key])
        keys.append(part_keys)
        records.append(
            (
                head.record(partition, part_keys, new, updated=len(new)),
                places_of([(segment, rows) for segment, rows, _ in parts]),
            )
        )
    return Prepared(records=tuple(records), keys=concat_keys(keys, schema))


def _checked(rows: Rows, schema: Schema) -> Rows:
    """Return changed rows as the schema wants them; the hidden column stays what it was."""
    if not schema.dynamic:
        return validate_rows(schema, rows)
    at = rows.table.column_names.index(DYNAMIC_COLUMN)
    checked = validate_rows(schema, Rows(rows.table.remove_column(at), rows.vectors))
    place = checked.table.column_names.index(DYNAMIC_COLUMN)
    table = checked.table.set_column(place, DYNAMIC_COLUMN, rows.table[at])
    return Rows(table, checked.vectors)


def _check_values(values: Mapping[str, Any], schema: Schema, where: str) -> None:
    for name in values:
        free = schema.dynamic and not str(name).startswith(_NOT_FREE)
        if name not in schema.fields and not free:
            raise errors.unknown_field(name, schema.fields, where=where)
        if name == schema.primary_key:
            raise errors.field_in_use(name, "primary key")


def _read(view: VisibleSegment, rows: NDArray[np.int64], context: Context) -> Rows:
    table = view.scalars(context.shard.layout.scalar_names).take(pa.array(rows))
    fields = context.schema.vector_fields
    return Rows(table, {name: view.vectors(name).take(rows) for name in fields})


def _value(name: str, kind: FieldType | None, value: Any, context: Context) -> _Value:
    """Return a new value in its field's type, or bound to the schema; without field as JSON.

    Raises:
        SchemaError: `GV-107` to `GV-119`, a value that does not fit.
    """
    if isinstance(value, Expr):
        if kind is not None and kind.is_vector:
            raise errors.unreadable_column(name, "an expression cannot be a vector")
        return bind(value, context.schema, where=context.where)
    if kind is None:
        return pa.chunked_array([json_values(name, [value])], pa.string())
    try:
        if kind.is_vector:
            return _one_vector(name, kind, value)
        if kind.KIND == "json" and value is not None and not isinstance(value, str):
            value = json.dumps(value)
        return scalar_column(name, kind, pa.chunked_array([pa.array([value])]))
    except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
        if isinstance(error, errors.GpuvecError):
            raise
        raise errors.unreadable_column(name, str(error)) from None


def _one_vector(name: str, kind: FieldType, value: Any) -> VectorColumn:
    if value is None:
        return null_vectors(kind, 1)
    if isinstance(kind, SparseVector):
        return make_sparse(name, [0, len(value)], list(value), list(value.values()))
    return DenseVectors(np.asarray(value).reshape(1, -1))


def _changed(old: Rows, wanted: Mapping[str, _Value]) -> Rows:
    """Return the rows with some fields replaced."""
    table, vectors = old.table, dict(old.vectors)
    first = np.zeros(len(old), np.int64)
    columns = {name: table[name] for name in table.column_names} | vectors
    part = computed_part(len(old), columns)
    for name, value in wanted.items():
        if not isinstance(value, Bound | pa.ChunkedArray):
            vectors[name] = value.take(first)
            continue
        new = evaluate_part(value, part) if isinstance(value, Bound) else value.take(first)
        at = table.schema.get_field_index(name)
        if at < 0:
            if isinstance(value, Bound) and value.type.KIND != "json":
                new = json_column(name, _chunked(new))
            at = table.schema.get_field_index(DYNAMIC_COLUMN)
            new = with_member(one_array(table[at]), name, one_array(_chunked(new)))
        table = table.set_column(at, table.column_names[at], new)
    return Rows(table, vectors)


def _chunked(column: pa.Array | pa.ChunkedArray) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
