"""From a request to the records of the log: what a write does, decided under the channel's lock.

Nothing here changes anything: an error leaves rows and log as they were.
"""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.ingest import with_auto_ids
from gpuvec.messages import (
    Change,
    DeleteRows,
    InsertRows,
    OnConflict,
    RestoreRows,
    UpdateRows,
    WriteRequest,
)
from gpuvec.node.delegator import Located, Segment
from gpuvec.node.restore import prepare_restore
from gpuvec.node.update import prepare_update
from gpuvec.node.writing import Context, Head, Prepared, concat_keys, head_of, matching, places_of
from gpuvec.rows import Rows
from gpuvec.segment.keys import one_array
from gpuvec.segment.visible import fit
from gpuvec.wal.record import WriteRecord


def prepare(request: WriteRequest, context: Context) -> Prepared:
    """Return what a request writes.

    Raises:
        SchemaError: `GV-157` a key that exists; those of `gpuvec.ingest` for unfit values.
        NotFoundError, FilterError: a filter or a value that does not fit the schema.
        SnapshotExpiredError, SchemaError: a version that cannot be restored.
    """
    head = head_of(request, context)
    change: Change = request.change
    match change:
        case InsertRows():
            return _insert(change, head, context)
        case UpdateRows():
            return prepare_update(change, head, context)
        case DeleteRows():
            return _delete(change, head, context)
        case RestoreRows():
            return prepare_restore(change, head, context)


# Insert and upsert


def insert_record(request: WriteRequest, rows: Rows, context: Context) -> WriteRecord:
    """Return the record of an insert of rows that fit the schema and whose keys are all new."""
    partition = request.change.partition if isinstance(request.change, InsertRows) else ""
    return head_of(request, context).record(partition, None, rows, inserted=len(rows))


def _insert(change: InsertRows, head: Head, context: Context) -> Prepared:
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


def taken_keys(keys: pa.Array, context: Context) -> NDArray[np.bool_]:
    """Return which keys an insert may not bring."""
    located = context.shard.find(keys)
    return located.found & ~_outlived(located, context)


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


# Delete


def _delete(change: DeleteRows, head: Head, context: Context) -> Prepared:
    if change.keys is not None:
        keys = one_array(pc.unique(change.keys))
        located = context.shard.find(keys)
        there = located.found & ~_outlived(located, context)
        keys, located = keys.filter(pa.array(there)), _only(located, there)
    else:
        places, parts = [], []
        for segment, view, rows in matching(change.filter, context):
            places.append((segment, rows))
            column = view.scalars([context.schema.primary_key])[0]
            parts.append(one_array(column.take(pa.array(rows))))
        keys, located = concat_keys(parts, context.schema), places_of(places)
    if not len(keys):
        return Prepared(records=(), keys=keys)
    record = head.record("", keys, None, deleted=len(keys))
    return Prepared(records=((record, located),), keys=keys)
