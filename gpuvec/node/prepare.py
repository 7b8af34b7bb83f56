"""From a request to the records of the log: what a write does, decided under the channel's lock.

Nothing here changes anything: an error leaves rows and log as they were.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.expr.bind import Bound, bind
from gpuvec.expr.evaluate import evaluate, mask
from gpuvec.expr.prune import can_match
from gpuvec.expr.tree import Expr
from gpuvec.ingest import validate_rows, with_auto_ids
from gpuvec.messages import Change, DeleteRows, InsertRows, OnConflict, UpdateRows, WriteRequest
from gpuvec.node.delegator import Located, Segment, ShardDelegator
from gpuvec.rows import DenseVectors, Rows, VectorColumn
from gpuvec.schema import FieldType, Schema
from gpuvec.segment.keys import one_array
from gpuvec.segment.visible import VisibleSegment, fit, null_vectors
from gpuvec.types import RequestId, Timestamp
from gpuvec.wal.record import WriteRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A write that can be applied: its records, one per partition, and the keys it touches."""

    records: tuple[tuple[WriteRecord, Located | None], ...]
    keys: pa.Array
    explicit_ids: bool = False  # rows brought their own keys: the next automatic id may be another


@dataclass(frozen=True, slots=True, kw_only=True)
class Context:
    """What a request meets: the channel as all requests before it left it."""

    name: str  # of the collection, for messages
    shard: ShardDelegator
    now_ms: int
    stamp: Callable[[], Timestamp]  # a timestamp above all others
    take_ids: Callable[[int], int]  # so many new ids: the first of them

    @property
    def where(self) -> str:
        """The place that messages name."""
        return f'collection "{self.name}"'

    @property
    def schema(self) -> Schema:
        """The schema that rows have."""
        return self.shard.layout.schema


def prepare(request: WriteRequest, context: Context) -> Prepared:
    """Return what a request writes.

    Raises:
        SchemaError: `GV-157` a key that exists; those of `gpuvec.ingest` for unfit values.
        NotFoundError, FilterError: a filter or a value that does not fit the schema.
    """
    head = _head(request, context)
    change: Change = request.change
    match change:
        case InsertRows():
            return _insert(change, head, context)
        case UpdateRows():
            return _update(change, head, context)
        case DeleteRows():
            return _delete(change, head, context)


@dataclass(frozen=True, slots=True)
class _Head:
    request_id: RequestId
    operation: str
    schema_version: int
    stamp: Callable[[], Timestamp]

    def record(
        self, partition: str, keys: pa.Array | None, rows: Rows | None, **counts: Any
    ) -> WriteRecord:
        return WriteRecord(
            ts=self.stamp(),
            request_id=self.request_id,
            operation=self.operation,
            partition=partition,
            schema_version=self.schema_version,
            delete_keys=keys if keys is not None and len(keys) else None,
            rows=rows if rows is not None and len(rows) else None,
            inserted=counts.get("inserted", 0),
            updated=counts.get("updated", 0),
            deleted=counts.get("deleted", 0),
            first_auto_id=counts.get("first_auto_id"),
        )


def _head(request: WriteRequest, context: Context) -> _Head:
    version = context.shard.layout.version
    return _Head(request.request_id, request.operation, version, context.stamp)


# Insert and upsert


def insert_record(request: WriteRequest, rows: Rows, context: Context) -> WriteRecord:
    """Return the record of an insert of rows that fit the schema and whose keys are all new."""
    partition = request.change.partition if isinstance(request.change, InsertRows) else ""
    return _head(request, context).record(partition, None, rows, inserted=len(rows))


def _insert(change: InsertRows, head: _Head, context: Context) -> Prepared:
    rows, first_id = _with_ids(change.rows, context)
    if change.schema_version != context.shard.layout.version:
        rows = fit(rows, context.shard.layout, change.schema_version)
    keys = one_array(rows.table[context.schema.primary_key])
    if first_id is not None:
        record = head.record(
            change.partition, None, rows, inserted=len(rows), first_auto_id=first_id
        )
        return Prepared(records=((record, None),) if len(rows) else (), keys=keys)
    located = context.shard.find(keys)
    taken = located.found & ~_outlived(located, context)
    if change.on_conflict is OnConflict.ERROR and taken.any():
        row = int(np.flatnonzero(taken)[0])
        raise errors.key_exists(
            context.schema.primary_key, row, keys[row].as_py(), int(taken.sum()), where=context.name
        )
    if change.on_conflict is OnConflict.SKIP and taken.any():
        stay = ~taken
        rows, keys, located = rows.filter(stay), keys.filter(pa.array(stay)), _only(located, stay)
        taken = taken[stay]
    if not len(rows):
        return Prepared(records=(), keys=keys)
    gone = keys.filter(pa.array(located.found)) if located.found.any() else None
    updated = int(taken.sum())
    record = head.record(
        change.partition, gone, rows, inserted=len(rows) - updated, updated=updated
    )
    return Prepared(records=((record, located),), keys=keys, explicit_ids=True)


def _with_ids(rows: Rows, context: Context) -> tuple[Rows, int | None]:
    """Number the rows where the key is automatic and no column gives it."""
    if context.schema.primary_key in rows.table.column_names:
        return rows, None
    first = context.take_ids(len(rows))
    return with_auto_ids(context.schema, rows, first), first


def _outlived(located: Located, context: Context) -> NDArray[np.bool_]:
    """Return which located rows have outlived their time, so that their keys are free."""
    outlived = np.zeros(len(located.found), bool)
    until = context.shard.visibility.outlived(context.now_ms)
    if until:
        for segment, index, rows in located.places:
            outlived[index] = segment.inserted_at(rows) <= until
    return outlived


def _only(located: Located, stay: NDArray[np.bool_]) -> Located:
    """Return what is located of the keys that stay, counted anew."""
    number = np.cumsum(stay) - 1
    places: list[tuple[Segment, NDArray[np.int64], NDArray[np.int64]]] = []
    for segment, index, rows in located.places:
        kept = stay[index]
        if kept.any():
            places.append((segment, number[index[kept]], rows[kept]))
    return Located(located.found[stay], tuple(places))


# Update


def _update(change: UpdateRows, head: _Head, context: Context) -> Prepared:
    schema = context.schema
    key = schema.primary_key
    _check_values(change.values, schema, context.where)
    wanted = {
        name: bind(value, schema, where=context.where) if isinstance(value, Expr) else value
        for name, value in change.values.items()
    }
    records: list[tuple[WriteRecord, Located | None]] = []
    keys: list[pa.Array] = []
    by_partition: dict[str, list[tuple[Segment, NDArray[np.int64], Rows]]] = {}
    for segment, view, rows in _matching(change.filter, context):
        old = _read(view, rows, context)
        by_partition.setdefault(segment.partition, []).append(
            (segment, rows, _changed(old, wanted, schema))
        )
    for partition, parts in by_partition.items():
        new = Rows.concat([part for _, _, part in parts])
        new = _checked(new, schema)
        part_keys = one_array(new.table[key])
        keys.append(part_keys)
        records.append(
            (
                head.record(partition, part_keys, new, updated=len(new)),
                _places([(segment, rows) for segment, rows, _ in parts]),
            )
        )
    return Prepared(records=tuple(records), keys=_concat_keys(keys, schema))


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
        if name not in schema.fields:
            raise errors.unknown_field(name, schema.fields, where=where)
        if name == schema.primary_key:
            raise errors.field_in_use(name, "primary key")


def _changed(old: Rows, wanted: Mapping[str, Any], schema: Schema) -> Rows:
    """Return the rows with some fields replaced by bound expressions or plain values."""
    table, vectors = old.table, dict(old.vectors)
    for name, value in wanted.items():
        kind = schema[name]
        if kind.is_vector:
            vectors[name] = _repeated(kind, value, len(old))
            continue
        if isinstance(value, Bound):
            column = evaluate(value, old.table)
        else:
            column = pa.chunked_array([_constant(kind, value, len(old))])
        table = table.set_column(table.schema.get_field_index(name), name, column)
    return Rows(table, vectors)


def _constant(kind: FieldType, value: Any, count: int) -> pa.Array:
    if kind.KIND == "json" and value is not None and not isinstance(value, str):
        value = json.dumps(value)
    return pa.repeat(pa.scalar(value, kind.arrow_type()), count)


def _repeated(kind: FieldType, value: Any, count: int) -> VectorColumn:
    """Return one vector, or null, for every row."""
    if value is None:
        return null_vectors(kind, count)
    one = np.asarray(value, getattr(kind, "numpy_dtype", np.float32)).reshape(1, -1)
    return DenseVectors(np.repeat(one, count, axis=0))


# Delete


def _delete(change: DeleteRows, head: _Head, context: Context) -> Prepared:
    if change.keys is not None:
        keys = one_array(pc.unique(change.keys))
        located = context.shard.find(keys)
        there = located.found & ~_outlived(located, context)
        keys, located = keys.filter(pa.array(there)), _only(located, there)
    else:
        places, parts = [], []
        for segment, view, rows in _matching(change.filter, context):
            places.append((segment, rows))
            column = view.scalars([context.schema.primary_key])[0]
            parts.append(one_array(column.take(pa.array(rows))))
        keys, located = _concat_keys(parts, context.schema), _places(places)
    if not len(keys):
        return Prepared(records=(), keys=keys)
    record = head.record("", keys, None, deleted=len(keys))
    return Prepared(records=((record, located),), keys=keys)


# Rows that pass a filter


def _matching(
    condition: Any, context: Context
) -> list[tuple[Segment, VisibleSegment, NDArray[np.int64]]]:
    """Return, per segment that has any, the visible rows for which a filter is true."""
    bound = bind(condition, context.schema, where=context.where)
    found = []
    for segment, view in context.shard.working_views(context.now_ms):
        if not can_match(bound, view.statistics):
            continue
        passes = mask(bound, view.scalars(sorted(bound.columns)))
        keep = view.keep()
        rows = np.flatnonzero(passes if keep is None else passes & keep)
        if len(rows):
            found.append((segment, view, rows))
    return found


def _read(view: VisibleSegment, rows: NDArray[np.int64], context: Context) -> Rows:
    table = view.scalars(context.shard.layout.scalar_names).take(pa.array(rows))
    fields = context.schema.vector_fields
    return Rows(table, {name: view.vectors(name).take(rows) for name in fields})


def _places(parts: list[tuple[Segment, NDArray[np.int64]]]) -> Located:
    """Return rows that were found by scanning as if their keys had been looked up."""
    places, start = [], 0
    for segment, rows in parts:
        places.append((segment, np.arange(start, start + len(rows)), rows))
        start += len(rows)
    return Located(np.ones(start, bool), tuple(places))


def _concat_keys(parts: list[pa.Array], schema: Schema) -> pa.Array:
    kind = schema[schema.primary_key].arrow_type()
    return pa.concat_arrays(parts) if parts else pa.array([], kind)
