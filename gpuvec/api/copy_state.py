"""One version of one collection as a copy keeps it: which files, and what its manifest says."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.api.collection import Collection
from gpuvec.meta.catalog import ChannelState, CollectionState
from gpuvec.meta.changes import SegmentRecord
from gpuvec.meta.past import Past, state_at
from gpuvec.rows import Rows
from gpuvec.segment.keys import one_array, sort_by_key
from gpuvec.segment.routing import channel_of
from gpuvec.segment.sealed import SealedRows
from gpuvec.segment.visible import VisibleSegment
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.records import FileRecord, SegmentFiles
from gpuvec.storage.segment_files import File, read_deletes, write_deletes, write_segment
from gpuvec.types import ChannelName, Version


@dataclass(frozen=True, slots=True)
class _Planned:
    """A segment of the version.

    Attributes:
        record: what the copy keeps of it; None: its rows are written anew.
        has_deletes: whether the record names the deletion file that the version needs.
    """

    view: VisibleSegment
    record: SegmentRecord | None
    has_deletes: bool


class Copying:
    """A version of a collection, kept while the context lasts.

    Args:
        items: the collection.
        version: which can be read.
        target: where new files are written.
    """

    def __init__(self, items: Collection, version: Version, target: ObjectStore) -> None:
        self._items = items
        self._version = version
        self._target = target
        self._stack = ExitStack()
        self._made: list[SegmentRecord] = []

    def __enter__(self) -> Self:
        engine, collection_id = self._items._engine, self._items._id
        (found,) = self._stack.enter_context(engine.reading_at(collection_id, [self._version]))
        self._newest = engine.state(collection_id)
        self._past = state_at(self._newest, self._version)
        self._lines = engine.channel(collection_id).writes()
        self._prefix = keys.collection(collection_id)
        views = [view for view in found if isinstance(view, VisibleSegment)]
        self._planned = [self._plan(view) for view in views]
        self.num_rows = sum(_count_visible(view) for view in views)
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def external(self) -> bool:
        """Whether the rows lie in files of others."""
        return self._newest.external is not None

    @property
    def store(self) -> ObjectStore:
        """Where the files are now."""
        return self._items._engine.store

    def _plan(self, view: VisibleSegment) -> _Planned:
        segment = self._newest.segments.get(view.segment_id)
        if segment is None or not isinstance(view.columns, SealedRows):
            return _Planned(view, None, has_deletes=False)
        wanted = self._past.indexes
        indexes = {name: index for name, index in segment.indexes.items() if name in wanted}
        fits = self._deletes_fit(view, segment)
        deletes = segment.deletes if fits else None
        record = replace(segment, indexes=indexes, deletes=deletes, gone_ts=None)
        return _Planned(view, record, fits)

    def _deletes_fit(self, view: VisibleSegment, segment: SegmentRecord) -> bool:
        """Return whether the deletion file of a segment says just what the version needs."""
        if segment.last_ts > self._version:
            return False
        if segment.deletes is None:
            return view.delete_count == 0
        rows, _ = read_deletes(self.store, FileRecord.from_json(segment.deletes))
        return len(rows) == view.delete_count  # deletes in memory begin with those in the file

    def files(self) -> list[FileRecord]:
        """Return the files that go over as they are."""
        return [
            record
            for planned in self._planned
            if planned.record is not None
            for record in files_of(planned.record)
        ]

    def write(self) -> list[int]:
        """Write what is in no file of the source; return the sizes of the files."""
        sizes: list[int] = []
        for planned in self._planned:
            records, files = self._written(planned)
            for key, parts in files:
                self._target.put(key, parts)
                sizes.append(sum(len(memoryview(part)) for part in parts))
            self._made += records
        return sizes

    def _written(self, planned: _Planned) -> tuple[list[SegmentRecord], list[File]]:
        if planned.record is None:
            return self._rows(planned.view)
        if planned.has_deletes:
            return [planned.record], []
        deletes, files = self._deletes(planned.view)
        return [replace(planned.record, deletes=deletes)], files

    def _deletes(self, view: VisibleSegment) -> tuple[dict[str, Any] | None, list[File]]:
        """Return a deletion file with what the version hides, and nothing later."""
        rows, timestamps = view.deletes.entries(0, view.delete_count)
        young = np.empty(0, np.int64)
        if view.last_ts > self._version:
            young = np.flatnonzero(view.columns.timestamps()[: view.num_rows] > self._version)
        if not len(rows) and not len(young):
            return None, []
        at = np.concatenate([young, rows]).astype(np.uint32)
        when = np.concatenate([np.zeros(len(young), np.int64), timestamps])
        name = self._items._engine.mint()
        files, record = write_deletes(self._prefix, view.segment_id, name, at, when)
        return record.to_json(), files

    def _rows(self, view: VisibleSegment) -> tuple[list[SegmentRecord], list[File]]:
        """Return new segments with the rows that the version sees, one for each channel."""
        keep = view.keep()
        rows = np.arange(view.num_rows) if keep is None else np.flatnonzero(keep)
        key = self._past.schema.primary_key
        column = one_array(view.scalars([key])[0].take(pa.array(rows)))
        channels = list(self._newest.channels)
        parts = channel_of(column, len(channels))
        records: list[SegmentRecord] = []
        files: list[File] = []
        for number in np.unique(parts):
            here = parts == number
            order = sort_by_key(column.filter(pa.array(here)))
            at = rows[here] if order is None else rows[here][order]
            record, written = self._segment(view, at, channels[number])
            records.append(record)
            files += written
        return records, files

    def _segment(
        self, view: VisibleSegment, rows: NDArray[np.int64], channel: ChannelName
    ) -> tuple[SegmentRecord, list[File]]:
        layout = view.layout
        table = view.scalars(layout.scalar_names).take(pa.array(rows))
        fields = layout.schema.vector_fields
        found = Rows(table, {name: view.vectors(name).take(rows) for name in fields})
        inserted = view.columns.timestamps()[rows]
        name = self._items._engine.mint()
        files, written = write_segment(self._prefix, name, layout.schema, found, inserted)
        record = SegmentRecord(
            segment_id=name,
            channel=channel,
            partition=view.partition,
            schema_version=layout.version,
            row_count=len(rows),
            size_bytes=written.size_bytes,
            first_ts=int(inserted.min()),
            last_ts=int(inserted.max()),
            files=written.to_json(),
        )
        return record, files

    def state(self) -> CollectionState:
        """Return what the copy's log is to say, once all files are there."""
        version = self._version
        channels = {name: ChannelState(flushed_ts=version) for name in self._newest.channels}
        return replace(
            self._past,
            channels=channels,
            segments={segment.segment_id: segment for segment in self._made},
            history=tuple(line for line in self._lines if line.ts <= version),
            changed_ts=min(self._past.changed_ts, version),
            past=Past(forgotten=version),
            tags={name: ts for name, ts in self._past.tags.items() if ts == version},
            pins={},
            dead={},
        )


def files_of(segment: SegmentRecord) -> Iterator[FileRecord]:
    """Yield all files that a segment's record names, but those that are read in place."""
    if "external" not in segment.files:
        yield from SegmentFiles.from_json(segment.files).files
    if segment.deletes is not None:
        yield FileRecord.from_json(segment.deletes)
    for index in segment.indexes.values():
        yield from map(FileRecord.from_json, index.files.values())


def _count_visible(view: VisibleSegment) -> int:
    keep = view.keep()
    return view.num_rows if keep is None else int(np.count_nonzero(keep))
