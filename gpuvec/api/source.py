"""What stands behind a `Collection`: its rows as a source, its segments, its answers to writes."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import pyarrow as pa

from gpuvec.api.engine import Engine
from gpuvec.query.build import scan
from gpuvec.query.plan import Scan
from gpuvec.query.spread import Spread
from gpuvec.schema import Schema
from gpuvec.segment.view import Snapshot
from gpuvec.segment.visible import VisibleSegment
from gpuvec.types import Version

SEGMENT_SCHEMA = pa.schema(
    [
        ("segment_id", pa.string()),
        ("state", pa.string()),
        ("channel", pa.string()),
        ("partition", pa.string()),
        ("rows", pa.int64()),
        ("deleted", pa.int64()),
        ("size_bytes", pa.int64()),
        ("indexes", pa.list_(pa.string())),
    ]
)

_HISTORY = "history"  # every row is deleted, and kept for older versions


@dataclass(frozen=True, slots=True)
class WriteResult:
    """What a write did; it is durable and readable.

    Attributes:
        version: the version that it made, or the present one if it changed nothing.
        inserted: rows that are new.
        updated: rows that took the place of others.
        deleted: rows that are gone.
        ids: the primary keys written or deleted, in order.
    """

    version: Version
    inserted: int
    updated: int
    deleted: int
    ids: pa.Array

    def __repr__(self) -> str:
        return (
            f"WriteResult(version={self.version}, inserted={self.inserted:,}, "
            f"updated={self.updated:,}, deleted={self.deleted:,})"
        )


class CollectionSource:
    """The rows of a collection, or of one partition; see `gpuvec.query.plan.Source`."""

    def __init__(self, engine: Engine, collection_id: str, partition: str | None = None) -> None:
        self.engine = engine
        self.collection_id = collection_id
        self.partition = partition
        self._scanned: tuple[Schema, Scan] | None = None

    @property
    def name(self) -> str:
        """See `Source.name`."""
        return self.engine.name_of(self.collection_id)

    @property
    def schema(self) -> Schema:
        """See `Source.schema`."""
        return self.engine.state(self.collection_id).schema

    def scan(self) -> Scan:
        """Return all rows as a plan: the same one for as long as name and schema stay."""
        with self.engine.glance(self.collection_id, rows=False):
            schema, last = self.schema, self._scanned
            if last is None or last[0] is not schema or last[1].columns.name != self.name:
                last = self._scanned = schema, scan(self)
            return last[1]

    @property
    def spread(self) -> Spread | None:
        """How the nodes of a cluster know these rows; None: they are read here."""
        return self._spread(None)

    def _spread(self, version: Version | None) -> Spread | None:
        nodes = self.engine.spread()
        if nodes is None:
            return None
        return Spread(
            nodes=nodes,
            collection_id=self.collection_id,
            partition=self.partition,
            version=version,
        )

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Source.snapshot`."""
        with self.engine.reading(self.collection_id) as found:
            yield self._part(found)

    def _part(self, found: Snapshot) -> Snapshot:
        """Return the source's part of a snapshot of the collection."""
        if self.partition is None:
            return found
        segments = tuple(
            segment
            for segment in found.segments
            if isinstance(segment, VisibleSegment) and segment.partition == self.partition
        )
        return replace(found, segments=segments)

    def only(self, partition: str) -> "CollectionSource":
        """Return the rows of one partition."""
        return CollectionSource(self.engine, self.collection_id, partition)


def segment_table(engine: Engine, collection_id: str) -> dict[str, list[Any]]:
    """Return the columns of `SEGMENT_SCHEMA`, oldest segment first; reads no rows."""
    engine.snapshot(collection_id)  # follows another process's log
    infos = engine.channel(collection_id).shard.infos()
    files = engine.state(collection_id).segments
    old = {
        info.segment_id
        for info in infos
        if info.segment_id in files
        and (files[info.segment_id].gone_ts or info.deleted_count == info.row_count)
    }
    return {
        "segment_id": [info.segment_id for info in infos],
        "state": [_HISTORY if info.segment_id in old else str(info.state) for info in infos],
        "channel": [info.channel for info in infos],
        "partition": [info.partition for info in infos],
        "rows": [info.row_count for info in infos],
        "deleted": [info.deleted_count for info in infos],
        "size_bytes": [info.size_bytes for info in infos],
        "indexes": [list(info.indexes) for info in infos],
    }
