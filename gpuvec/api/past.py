"""`CollectionAt`: a collection at an older version. It reads like any; nothing changes it."""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gpuvec import errors
from gpuvec.api.collection import Collection
from gpuvec.api.frame import Frame, frame
from gpuvec.api.source import SEGMENT_SCHEMA, CollectionSource
from gpuvec.meta.past import state_at
from gpuvec.query.spread import Spread
from gpuvec.schema import Schema
from gpuvec.segment.view import Snapshot
from gpuvec.segment.visible import VisibleSegment
from gpuvec.types import SegmentState, Version

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine
    from gpuvec.api.index_report import IndexReport
    from gpuvec.meta.catalog import CollectionState

# What `Collection` has that a frame has not, and that changes nothing. All else is refused.
READS = {
    "name", "schema", "plan", "version", "partitions", "partition", "stats", "segments",
    "indexes", "versions", "at", "tags", "diff",
}  # fmt: skip


class SourceAt(CollectionSource):
    """The rows of a collection, or of one partition, at a version that stays."""

    def __init__(
        self, engine: "Engine", collection_id: str, version: Version, partition: str | None = None
    ) -> None:
        super().__init__(engine, collection_id, partition)
        self.version = version
        self.past = state_at(engine.state(collection_id), version)
        engine.leases.hold(self, collection_id, version)

    @property
    def schema(self) -> Schema:
        """The fields of the version."""
        return self.past.schema

    @property
    def spread(self) -> Spread | None:
        """See `CollectionSource.spread`."""
        return self._spread(self.version)

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Source.snapshot`."""
        with self.engine.reading_at(self.collection_id, [self.version]) as (found,):
            yield self._part(found)

    def only(self, partition: str) -> "SourceAt":
        """Return the rows of one partition."""
        return SourceAt(self.engine, self.collection_id, self.version, partition)


class CollectionAt(Collection):
    """A collection as it was at `version`. Made by `Collection.at`."""

    _source: SourceAt

    @property
    def version(self) -> Version:
        """The version that it is at."""
        return self._source.version

    def segments(self) -> Frame:
        """Return one row per segment that has rows of this version, as they are stored now."""
        with self._source.snapshot() as found:
            rows = [_segment_row(view) for view in found if isinstance(view, VisibleSegment)]
        return frame(pa.Table.from_pylist(rows, schema=SEGMENT_SCHEMA))

    def stats(self) -> dict[str, Any]:
        """Return rows, segments, indexes, partitions and version."""
        table = self.segments().to_arrow()
        return {
            "rows": self.count(),
            "segments": len(table),
            "stored_rows": sum(table["rows"].to_pylist()),
            "deleted_rows": sum(table["deleted"].to_pylist()),
            "size_bytes": sum(table["size_bytes"].to_pylist()),
            "indexes": {report.field: report.chosen for report in self._index_reports()},
            "index_bytes": sum(report.size_bytes for report in self._index_reports()),
            "partitions": len(self.partitions),
            "version": self.version,
            **self._origin(),
        }

    # Inside

    def _index_lines(self) -> list[str]:
        return []  # what they say of rows is of now

    def _title(self) -> str:
        when = "as it was created" if self.version == 0 else errors.time_text(self.version)
        return f'Collection "{self.name}" at version {self.version} ({when}), read-only'

    @property
    def _state(self) -> "CollectionState":
        return self._source.past

    def _index_reports(self) -> "list[IndexReport]":
        there = self._state.indexes
        return [report for report in super()._index_reports() if report.field in there]


def _segment_row(view: VisibleSegment) -> dict[str, Any]:
    columns = view.columns
    return {
        "segment_id": view.segment_id,
        "state": str(SegmentState.FLUSHED if view.indexes else SegmentState.SEALED),
        "partition": view.partition,
        "rows": view.num_rows,
        "deleted": view.delete_count,
        "size_bytes": getattr(columns, "size_bytes", 0),
        "indexes": sorted(view.indexes),
    }


def _refused(operation: str) -> Callable[..., Any]:
    def refuse(self: CollectionAt, *_: Any, **__: Any) -> Any:
        raise errors.read_only_version(self.name, operation, self.version)

    refuse.__name__ = operation
    refuse.__doc__ = "Refused: an older version is read-only."
    return refuse


for _kind in Collection.__mro__[: Collection.__mro__.index(Frame)]:
    for _name, _value in vars(_kind).items():
        if not _name.startswith("_") and inspect.isfunction(_value) and _name not in READS:
            setattr(CollectionAt, _name, _refused(_name))
del _kind, _name, _value
