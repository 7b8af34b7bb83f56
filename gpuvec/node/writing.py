"""What every kind of write shares: what it meets, what it makes, and how rows are found."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.expr.bind import bind
from gpuvec.expr.bound import Bound
from gpuvec.expr.prune import can_match
from gpuvec.messages import WriteRequest
from gpuvec.node.delegator import Located, Segment, ShardDelegator
from gpuvec.query.evaluate import mask_part
from gpuvec.query.part import Part, computed_part
from gpuvec.rows import Rows
from gpuvec.schema import Schema
from gpuvec.segment.visible import VisibleSegment
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


@dataclass(frozen=True, slots=True)
class Head:
    """What all records of one request have in common."""

    request_id: RequestId
    operation: str
    schema_version: int
    stamp: Callable[[], Timestamp]

    def record(
        self, partition: str, keys: pa.Array | None, rows: Rows | None, **counts: Any
    ) -> WriteRecord:
        """Return a record at a new timestamp; `counts` are those of `WriteRecord`."""
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


def head_of(request: WriteRequest, context: Context) -> Head:
    """Return the common part of a request's records."""
    version = context.shard.layout.version
    return Head(request.request_id, request.operation, version, context.stamp)


def matching(
    condition: Any, context: Context
) -> list[tuple[Segment, VisibleSegment, NDArray[np.int64]]]:
    """Return, per segment that has any, the visible rows for which a filter is true."""
    bound = bind(condition, context.schema, where=context.where)
    found = []
    for segment, view in context.shard.working_views(context.now_ms):
        if not can_match(bound, view.statistics):
            continue
        passes = mask_part(bound, _part(view, bound))
        keep = view.keep()
        rows = np.flatnonzero(passes if keep is None else passes & keep)
        if len(rows):
            found.append((segment, view, rows))
    return found


def _part(view: VisibleSegment, bound: Bound) -> Part:
    """Return the columns of a segment that an expression reads, with all rows."""
    vectors = bound.vectors | bound.present
    table = view.scalars(sorted(bound.columns - vectors))
    columns = {name: view.vectors(name) for name in vectors}
    return computed_part(
        view.num_rows, {name: table[name] for name in table.column_names} | columns
    )


def places_of(parts: list[tuple[Segment, NDArray[np.int64]]]) -> Located:
    """Return rows that were found by scanning as if their keys had been looked up."""
    places, start = [], 0
    for segment, rows in parts:
        places.append((segment, np.arange(start, start + len(rows)), rows))
        start += len(rows)
    return Located(np.ones(start, bool), tuple(places))


def concat_keys(parts: list[pa.Array], schema: Schema) -> pa.Array:
    """Return keys in one array of the primary key's type."""
    kind = schema[schema.primary_key].arrow_type()
    return pa.concat_arrays(parts) if parts else pa.array([], kind)
