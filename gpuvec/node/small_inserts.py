"""Many small inserts as one: a single look-up of their keys, and a single append to the segment."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.messages import InsertRows, WriteRequest
from gpuvec.node.prepare import insert_record
from gpuvec.node.writing import Context, Prepared
from gpuvec.rows import Rows
from gpuvec.segment.keys import KeyIndex, one_array


@dataclass(frozen=True, slots=True, kw_only=True)
class Merged:
    """Inserts that concern nobody else: all their keys are new, and differ.

    Attributes:
        prepared: what each request writes.
        rows: of all of them, in order.
        timestamps: (rows,) of each row's write.
        partition: of all of them.
    """

    prepared: tuple[Prepared, ...]
    rows: Rows
    timestamps: NDArray[np.int64]
    partition: str


def merge(requests: Sequence[WriteRequest], context: Context) -> Merged | None:
    """Return a group of inserts as one, None when they must be looked at one by one."""
    changes = [r.change for r in requests if isinstance(r.change, InsertRows)]
    if len(changes) < len(requests) or not are_alike(changes, context):
        return None
    key = context.schema.primary_key
    keys = [one_array(change.rows.table[key]) for change in changes]
    all_keys = pa.concat_arrays(keys)
    if not all_differ(all_keys):
        return None
    if context.shard.find(all_keys).found.any():
        return None
    records = [insert_record(r, r.change.rows, context) for r in requests]  # type: ignore[union-attr]
    return Merged(
        prepared=tuple(
            Prepared(records=((record, None),), keys=own_keys, explicit_ids=True)
            for record, own_keys in zip(records, keys, strict=True)
        ),
        rows=Rows.concat([change.rows for change in changes]),
        timestamps=np.repeat([record.ts for record in records], [len(k) for k in keys]),
        partition=changes[0].partition,
    )


def all_differ(keys: pa.Array) -> bool:
    """Return whether no key comes twice."""
    index = KeyIndex()
    index.add(keys)
    return bool((index.find(keys) == np.arange(len(keys))).all())


def are_alike(changes: Sequence[InsertRows], context: Context) -> bool:
    """Return whether inserts are to one partition, with the same columns, laid out as now."""
    first = changes[0]
    key = context.schema.primary_key
    return all(
        len(change.rows)
        and change.partition == first.partition
        and change.schema_version == context.shard.layout.version
        and key in change.rows.table.column_names
        and change.rows.table.schema.equals(first.rows.table.schema)
        for change in changes
    )
