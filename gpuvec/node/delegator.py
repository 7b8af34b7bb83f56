"""The delegator of one channel: all its segments, the newest rows too, and what a read sees."""

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.clock import pack_timestamp
from gpuvec.index.spec import IndexSpec
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.past import definition_for_rows
from gpuvec.meta.retention import cuts
from gpuvec.node.loader import Loader, wanted_spec
from gpuvec.rows import Rows
from gpuvec.segment.growing import GrowingSegment
from gpuvec.segment.info import SegmentInfo
from gpuvec.segment.keys import Positions
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.view import Snapshot
from gpuvec.segment.visible import NEWEST, Layout, VisibleSegment, fit
from gpuvec.types import ChannelName, SegmentId, SegmentState, Timestamp
from gpuvec.wal.record import WriteRecord

Segment = GrowingSegment | SealedSegment


@dataclass(frozen=True, slots=True)
class Located:
    """Where the visible rows of some keys are.

    Attributes:
        found: (keys,) bool.
        places: for each segment that has any: the segment, indices of the keys, and their rows.
    """

    found: NDArray[np.bool_]
    places: tuple[tuple[Segment, NDArray[np.int64], Positions], ...]


@dataclass(frozen=True, slots=True)
class Visibility:
    """What hides rows by the time of their insertion, apart from deletes."""

    truncated_ts: Timestamp = 0
    dropped: Mapping[str, Timestamp] | None = None
    ttl_s: float | None = None

    def hidden_until(self, partition: str) -> Timestamp:
        """Return the timestamp up to which rows of a partition are gone for good."""
        return max(self.truncated_ts, (self.dropped or {}).get(partition, 0))

    def outlived(self, now_ms: int) -> Timestamp:
        """Return the timestamp up to which rows have outlived their time."""
        return 0 if self.ttl_s is None else pack_timestamp(max(0, now_ms - int(self.ttl_s * 1000)))


class ShardDelegator:
    """All rows of one channel: sealed segments, frozen ones being flushed, growing ones.

    One thread at a time changes it, under the channel's lock. What it writes stays invisible until
    `publish`; `snapshot` may be called by any thread, at any time.

    Args:
        channel: whose segments of a `CollectionState` to hold.
        loader: opens sealed segments.
        mint: makes segment ids.
        capacity_bytes: the size at which growing segments are flushed.
    """

    def __init__(
        self,
        channel: ChannelName,
        loader: Loader,
        mint: Callable[[], SegmentId],
        *,
        capacity_bytes: int,
    ) -> None:
        self._channel = channel
        self._loader = loader
        self._mint = mint
        self._capacity_bytes = capacity_bytes
        self._sealed: dict[SegmentId, SealedSegment] = {}
        self._frozen: list[GrowingSegment] = []
        self._growing: dict[str, GrowingSegment] = {}
        self._visibility = Visibility()
        self._layout: Layout | None = None
        self._wanted: Mapping[str, IndexSpec | None] = {}  # field to the index that it shall have
        self._indexed: CollectionState | None = None  # whose indexes the segments have
        self._published: tuple[Layout, Visibility, tuple[Segment, ...], Timestamp] | None = None
        self._cached: Snapshot | None = None
        self._view_lock = threading.Lock()

    @property
    def layout(self) -> Layout:
        """The schema that new rows have."""
        assert self._layout is not None, "install comes first"
        return self._layout

    @property
    def state(self) -> CollectionState:
        """The manifest that it follows."""
        assert self._indexed is not None, "install comes first"
        return self._indexed

    @property
    def visibility(self) -> Visibility:
        """What hides rows by the time of their insertion."""
        return self._visibility

    @property
    def growing_bytes(self) -> int:
        """Bytes of rows that are in no file."""
        return sum(segment.size_bytes for segment in (*self._frozen, *self._growing.values()))

    @property
    def unsaved_deletes(self) -> int:
        """Deletes of sealed rows that are in no file."""
        return sum(len(s.deletes) - s.saved_deletes for s in self.sealed())

    def segments(self) -> Iterator[Segment]:
        """Yield all segments, the newest first."""
        found: tuple[Segment, ...] = (
            *self._sealed.values(),
            *self._frozen,
            *self._growing.values(),
        )
        yield from reversed(found)

    def infos(self) -> list[SegmentInfo]:
        """Return what is known of each segment, the oldest first; reads no rows."""
        states: list[tuple[Segment, SegmentState]] = [
            *((segment, self._state_of(segment)) for segment in self.sealed()),
            *((segment, SegmentState.SEALED) for segment in tuple(self._frozen)),
            *((segment, SegmentState.GROWING) for segment in tuple(self._growing.values())),
        ]
        return [
            SegmentInfo(
                segment_id=segment.segment_id,
                state=state,
                channel=self._channel,
                partition=segment.partition,
                row_count=len(segment),
                deleted_count=len(segment.deletes),
                size_bytes=segment.size_bytes,
                first_ts=segment.first_ts,
                last_ts=segment.last_ts,
                indexes=tuple(getattr(segment, "indexes", ())),
            )
            for segment, state in states
        ]

    def _state_of(self, segment: SealedSegment) -> SegmentState:
        indexed = self._wanted and self._wanted.keys() <= segment.indexes.keys()
        return SegmentState.INDEXED if indexed else SegmentState.FLUSHED

    # Following the manifest

    def install(self, state: CollectionState) -> None:
        """Take over a state of the manifest as a whole: its segments, none growing."""
        self._growing, self._frozen = {}, []
        records = [r for r in state.segments.values() if r.channel == self._channel]
        self._loader.expect(records)
        self._sealed = {r.segment_id: self._loader.load(r) for r in records}
        self._loader.keep_only(set(self._sealed))
        self._indexed = None
        self.follow(state)

    def follow(self, state: CollectionState) -> None:
        """Take over schema, partitions, truncation, time to live and indexes; rows stay."""
        layout = Layout(state.schema, state.schema_version, state.field_versions)
        if self._layout is not None and layout.version != self._layout.version:
            self.freeze()
        self._layout = layout
        self._visibility = Visibility(
            state.truncated_ts, dict(state.dropped_partitions), state.ttl_s
        )
        self._wanted = {name: wanted_spec(d) for name, d in state.indexes.items()}
        self._index(state)

    def _index(self, state: CollectionState) -> None:
        """Give segments the indexes of their records; only changed records are looked at."""
        before, self._indexed = self._indexed, state
        known = before.segments if before is not None and before.indexes is state.indexes else {}
        for segment_id, segment in self._sealed.items():
            record = state.segments.get(segment_id)
            if record is not None and record is not known.get(segment_id):
                segment.index(self._loader.indexes(record, state.indexes))

    # Writing

    def find(self, keys: pa.Array, version: Timestamp = NEWEST) -> Located:
        """Return where rows with these keys are; expired ones count, truncated ones do not.

        Args:
            keys: int64 or string.
            version: what was truncated or dropped later counts: a log is replayed as it was.
        """
        found = np.zeros(len(keys), bool)
        places = []
        left = np.arange(len(keys))
        for segment in self.segments():
            if not len(left):
                break
            if len(segment.deletes) == len(segment):
                continue
            part = keys if len(left) == len(keys) else keys.take(pa.array(left))
            rows = segment.find(part, self._hidden_until(segment.partition, version))
            hit = rows >= 0
            if hit.any():
                places.append((segment, left[hit], rows[hit]))
                found[left[hit]] = True
                left = left[~hit]
        return Located(found, tuple(places))

    def _hidden_until(self, partition: str, version: Timestamp) -> Timestamp:
        """Return the timestamp up to which rows of a partition were gone at a version."""
        newest = self._visibility.hidden_until(partition)
        if newest <= version or self._indexed is None:
            return newest
        return max((ts for ts in cuts(self._indexed, partition) if ts <= version), default=0)

    def apply(self, record: WriteRecord, located: Located | None = None) -> int:
        """Take over a record of the log, invisibly until `publish`; return the bytes of its rows.

        Args:
            record: deletes come before rows.
            located: where the deleted keys are, if that is known already.
        """
        if record.delete_keys is not None:
            located = located or self.find(record.delete_keys, record.ts)
            for segment, _, rows in located.places:
                segment.delete(rows, record.ts)
        rows_now = record.rows
        if rows_now is None or not len(rows_now):
            return 0
        layout = self._layout_for(record.schema_version)
        if record.schema_version != layout.version:
            rows_now = fit(rows_now, layout, record.schema_version)
        return self._growing_for(record.partition, rows_now, layout).append(rows_now, record.ts)

    def _layout_for(self, schema_version: int) -> Layout:
        """Return how to lay out rows that were checked under an older schema: nothing is lost."""
        if schema_version == self.layout.version or self._indexed is None:
            return self.layout
        found = definition_for_rows(self._indexed, schema_version)
        return Layout(found.schema, found.schema_version, found.field_versions)

    def append(self, rows: Rows, partition: str, timestamps: NDArray[np.int64]) -> int:
        """Take over rows with new keys, laid out as now, invisibly; return their bytes."""
        return self._growing_for(partition, rows, self.layout).append(rows, timestamps)

    def _growing_for(self, partition: str, rows: Rows, layout: Layout) -> GrowingSegment:
        segment = self._growing.get(partition)
        if segment is not None and segment.layout.version != layout.version:
            self.freeze()
            segment = None
        if segment is None:
            row_bytes = max(1, rows.nbytes // max(1, len(rows)))
            capacity = self._capacity_bytes * 5 // 4 // row_bytes + len(rows)
            segment = GrowingSegment(self._mint(), partition, layout, capacity_rows=capacity)
            self._growing[partition] = segment
        return segment

    def settle(self) -> None:
        """Copy what was applied into its final place; `publish` does so too."""
        for segment in self._growing.values():
            segment.settle()

    def publish(self, version: Timestamp) -> None:
        """Make all that was applied visible to reads from now on, at once."""
        everything: tuple[Segment, ...] = (
            *self._sealed.values(),
            *self._frozen,
            *self._growing.values(),
        )
        with self._view_lock:
            for segment in everything:
                segment.publish()
            last = self._published[3] if self._published else 0
            self._published = (self.layout, self._visibility, everything, max(version, last))
            self._cached = None

    # Flushing

    def freeze(self) -> list[GrowingSegment]:
        """Let later rows go to new growing segments; return those that wait to be flushed."""
        self._frozen += [segment for segment in self._growing.values() if len(segment)]
        self._growing = {}
        return list(self._frozen)

    def sealed(self) -> tuple[SealedSegment, ...]:
        """Return the sealed segments, oldest first."""
        return tuple(self._sealed.values())

    def swap(self, frozen: Iterable[GrowingSegment], sealed: Iterable[SealedSegment]) -> None:
        """Put flushed segments in the place of frozen ones. `publish` makes it visible."""
        gone = {segment.segment_id for segment in frozen}
        self._frozen = [s for s in self._frozen if s.segment_id not in gone]
        self._sealed.update({segment.segment_id: segment for segment in sealed})

    def replace(self, gone: set[SegmentId], new: Iterable[SealedSegment]) -> None:
        """Put sealed segments in the place of others. `publish` makes it visible."""
        found: dict[SegmentId, SealedSegment] = {}
        waiting = list(new)
        for segment_id, segment in self._sealed.items():
            if segment_id in gone:
                found |= {other.segment_id: other for other in waiting}
                waiting = []
            else:
                found[segment_id] = segment
        self._sealed = found

    # Reading

    @property
    def version(self) -> Timestamp:
        """The timestamp of the newest visible write."""
        return self._published[3] if self._published else 0

    def published(self) -> tuple[Segment, ...]:
        """Return the segments that reads see, oldest first."""
        with self._view_lock:
            return self._published[2] if self._published else ()

    def snapshot(self, name: str, now_ms: int) -> Snapshot:
        """Return what is visible now."""
        with self._view_lock:
            assert self._published is not None, "publish comes first"
            layout, visibility, segments, version = self._published
            if self._cached is not None and self._cached.name == name:
                return self._cached
            outlived = visibility.outlived(now_ms)
            views = _views(layout, visibility, segments, outlived, working=False)
            snapshot = Snapshot(
                name=name,
                version=version,
                schema=layout.schema,
                segments=tuple(view for _, view in views),
                indexes=self._wanted,
            )
            self._cached = snapshot if visibility.ttl_s is None else None
            return snapshot

    def working_views(self, now_ms: int) -> list[tuple[Segment, VisibleSegment]]:
        """Return what the next write sees: also rows that are not published yet."""
        segments = tuple(reversed(list(self.segments())))
        outlived = self._visibility.outlived(now_ms)
        return _views(self.layout, self._visibility, segments, outlived, working=True)


def _views(
    layout: Layout,
    visibility: Visibility,
    segments: tuple[Segment, ...],
    outlived: Timestamp,
    *,
    working: bool,
) -> list[tuple[Segment, VisibleSegment]]:
    """Return a view of each segment that may have visible rows."""
    views = []
    for segment in segments:
        hidden = max(visibility.hidden_until(segment.partition), outlived)
        if hidden and segment.last_ts <= hidden:
            continue
        view = segment.view(layout, hidden, working=working)
        gone = view.delete_count >= view.num_rows and segment.deletes.hides_all(view.num_rows)
        if view.num_rows and not gone:
            views.append((segment, view))
    return views
