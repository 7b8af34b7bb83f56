"""Restoring: rows that an older version has and the present one has not come back, others go.

One write like any other: keys to delete, and the rows that come back with the values that they
had. Rows that both versions share stay where they are.
"""

import itertools
from collections.abc import Sequence

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec import errors
from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.messages import RestoreRows
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.past import state_at
from gpuvec.node.changed import Differing, differing, keys_of
from gpuvec.node.history import check_readable, views_at
from gpuvec.node.writing import Context, Head, Prepared
from gpuvec.rows import Rows
from gpuvec.schema import Schema
from gpuvec.segment.visible import VisibleSegment, default_column, field_kind, null_vectors


def prepare_restore(change: RestoreRows, head: Head, context: Context) -> Prepared:
    """Return what makes the rows those of an older version.

    Raises:
        SnapshotExpiredError: `GV-640`, its rows are gone.
        SchemaError: `GV-647`, fields that it has are not there now.

    Memory: the rows that come back, once.
    """
    state, shard, schema = context.shard.state, context.shard, context.schema
    check_readable(state, context.name, change.version, shard.version)
    past = state_at(state, change.version)
    _check_fields(context.name, change.version, past.schema, schema)
    segments = tuple(reversed(list(shard.segments())))
    then = [view for _, view in views_at(segments, past, change.version)]
    now = [view for _, view in shard.working_views(context.now_ms)]
    parts = differing(then, now, whole=not _same_fields(past, state))
    key, kind = schema.primary_key, schema[schema.primary_key].arrow_type()
    back = keys_of(((part.before, part.gone) for part in parts), key, kind)
    gone = keys_of(((part.after, part.come) for part in parts), key, kind)
    keys = pc.unique(pa.concat_arrays([gone, back]))
    if not len(keys):
        return Prepared(records=(), keys=keys)
    updated = int(pc.sum(pc.is_in(back, value_set=gone)).as_py() or 0)
    returning = _rows_by_partition(parts, schema)
    partition, rows = returning[0] if returning else ("", None)
    first = head.record(
        partition,
        keys,
        rows,
        inserted=len(back) - updated,
        updated=updated,
        deleted=len(gone) - updated,
    )
    later = [head.record(partition, None, rows) for partition, rows in returning[1:]]
    located = shard.find(keys)  # those of rows that outlived their time too
    return Prepared(
        records=((first, located), *((record, None) for record in later)),
        keys=keys,
        explicit_ids=True,
    )


def _check_fields(name: str, version: int, then: Schema, now: Schema) -> None:
    lost = [
        field
        for field, kind in then.fields.items()
        if field not in now.fields or now[field].arrow_type() != kind.arrow_type()
    ]
    if lost:
        raise errors.restore_loses(name, version, lost)


def _same_fields(past: CollectionState, state: CollectionState) -> bool:
    """Return whether every field that a version has is still the same one."""
    return past.field_versions.items() <= state.field_versions.items()


def _rows_by_partition(parts: Sequence[Differing], schema: Schema) -> list[tuple[str, Rows]]:
    """Return the rows that come back, laid out as now, by their partition."""
    returning = [(part.before, part) for part in parts if len(part.gone)]
    ordered = sorted(
        ((view, part) for view, part in returning if isinstance(view, VisibleSegment)),
        key=lambda pair: pair[0].partition,
    )
    return [
        (partition, Rows.concat([_read(view, part, schema) for view, part in group]))
        for partition, group in itertools.groupby(ordered, lambda pair: pair[0].partition)
    ]


def _read(view: VisibleSegment, part: Differing, schema: Schema) -> Rows:
    then, count = view.layout, len(part.gone)
    names = [*schema.scalar_fields, *([DYNAMIC_COLUMN] if schema.dynamic else [])]
    known = [name for name in names if name in then.scalar_names]
    table = view.scalars(known).take(pa.array(part.gone))
    columns = {
        name: table[name]
        if name in known
        else default_column(name, field_kind(schema, name), count)
        for name in names
    }
    vectors = {
        name: view.vectors(name).take(part.gone)
        if name in then.schema.vector_fields
        else null_vectors(kind, count)
        for name, kind in schema.vector_fields.items()
    }
    return Rows(pa.table(columns), vectors)
