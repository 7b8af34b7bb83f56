"""From growing rows to segment files.

Steps, and what a death after each leaves behind:

1. `freeze`: under the channel's lock, growing segments freeze and new ones take the writes that
follow.
   → Nothing was written; the log rebuilds both.
2. `write_files`: rows sorted by key, and lists of deleted rows, under new names.
   → Orphan files; they are marked dead and deleted later.
3. The caller commits `Frozen.change` to the manifest: one entry.
   → Answer lost: the entry is read back. The log up to `to_lsn` is skipped from then on.
4. `swap`: under the lock, sealed segments take the place of the frozen ones; what was deleted in
   between is carried over.
   → A restart reads the manifest and finds the same.
5. The caller truncates the log up to `to_lsn`.
   → Truncated at the next flush.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec import telemetry
from gpuvec.meta.catalog import ChannelState
from gpuvec.meta.changes import Flush, SegmentRecord, WriteSummary
from gpuvec.meta.channel_state import Commits
from gpuvec.node.data_node import ChannelOwner
from gpuvec.node.loader import Loader
from gpuvec.rows import Rows
from gpuvec.schema import Schema
from gpuvec.segment.growing import GrowingSegment
from gpuvec.segment.keys import Positions, sort_by_key
from gpuvec.segment.sealed import SealedSegment
from gpuvec.storage.object_store import Procedure, Put
from gpuvec.storage.segment_files import write_deletes, write_segment
from gpuvec.types import ChannelName, SegmentId, Timestamp

_KEYED_PARTS = 16  # segments that a flush makes of rows with a partition key, at most
_KEYED_PART_BYTES = 4 << 20  # and at least so many bytes in each


@dataclass(frozen=True, slots=True)
class _Part:
    """A new segment: the rows of `source` at `order`."""

    record: SegmentRecord
    source: GrowingSegment
    order: Positions


@dataclass(slots=True, kw_only=True)
class Frozen:
    """What one flush saves: everything in the log up to `to_lsn`."""

    segments: tuple[GrowingSegment, ...]
    deleted: Mapping[SegmentId, int]  # deletes up to `to_lsn`, per frozen segment
    sealed: tuple[tuple[SealedSegment, int], ...]  # those with new deletes, and how many in all
    to_lsn: int
    last_ts: Timestamp
    writes: tuple[WriteSummary, ...]
    fences: tuple[int, ...]
    commits: Commits
    parts: list[_Part] = field(default_factory=list)
    deletes: dict[SegmentId, Mapping[str, Any]] = field(default_factory=dict)

    def change(self, channel: ChannelName, epoch: int, state: ChannelState) -> Flush:
        """Return the one change of the manifest that this flush is."""
        return Flush(
            channel=channel,
            epoch=epoch,
            from_lsn=state.flushed_lsn,
            to_lsn=self.to_lsn,
            last_ts=self.last_ts,
            segments=tuple(part.record for part in self.parts),
            deletes=self.deletes,
            writes=self.writes,
            fences=self.fences,
            commits=self.commits,
        )

    def tell(self, collection_id: str, seconds: float) -> None:
        """Count a flush that was done."""
        size = sum(part.record.size_bytes for part in self.parts)
        rows = sum(part.record.row_count for part in self.parts)
        telemetry.FLUSH_SECONDS.observe(seconds)
        telemetry.FLUSH_BYTES.add(size)
        telemetry.note("flush", collection=collection_id, rows=rows, bytes=size, seconds=seconds)


def freeze(owner: ChannelOwner) -> Frozen | None:
    """Do step 1, under the channel's lock; None when all is in files."""
    shard = owner.shard
    writes = owner.unflushed()
    if not writes:
        return None
    segments = tuple(shard.freeze())
    shard.publish(shard.version)
    unsaved = [s for s in shard.sealed() if len(s.deletes) > s.saved_deletes]
    return Frozen(
        segments=segments,
        deleted={segment.segment_id: len(segment.deletes) for segment in segments},
        sealed=tuple((segment, len(segment.deletes)) for segment in unsaved),
        to_lsn=owner.log.lsn,
        last_ts=owner.log.last_ts,
        writes=writes,
        fences=tuple(owner.log.fences(owner.log.lsn)),
        commits=owner.commits(),
    )


def write_files(
    frozen: Frozen, prefix: str, channel: ChannelName, mint: Callable[[], SegmentId]
) -> Procedure[None]:
    """Do step 2: write all files, and note their records in `frozen`."""
    for segment in frozen.segments:
        rows, timestamps = segment.rows(len(segment)), segment.timestamps(len(segment))
        deleted, deleted_ts = segment.deletes.entries(0, frozen.deleted[segment.segment_id])
        for order in orders(rows, segment.layout.schema, segment.size_bytes):
            record = yield from _write_part(
                segment, rows, timestamps, order, prefix, channel, mint()
            )
            place = np.full(len(segment), -1, np.int64)
            place[order] = np.arange(len(order))
            here = place[deleted] >= 0
            if here.any():
                frozen.deletes[record.segment_id] = yield from _write_deletes(
                    prefix, record.segment_id, mint(), place[deleted[here]], deleted_ts[here]
                )
            frozen.parts.append(_Part(record, segment, order))
    for sealed, count in frozen.sealed:
        rows_deleted, when = sealed.deletes.entries(0, count)
        frozen.deletes[sealed.segment_id] = yield from _write_deletes(
            prefix, sealed.segment_id, mint(), rows_deleted, when
        )


def swap(frozen: Frozen, owner: ChannelOwner, loader: Loader) -> None:
    """Do step 4, under the channel's lock, and publish it."""
    new = []
    for part in frozen.parts:
        deletes = frozen.deletes.get(part.record.segment_id)
        segment = loader.load(replace(part.record, deletes=deletes))
        place = np.full(len(part.source), -1, np.int64)
        place[part.order] = np.arange(len(part.order))
        later, when = part.source.deletes.entries(frozen.deleted[part.source.segment_id])
        here = place[later] >= 0
        for ts in np.unique(when[here]):
            segment.delete(place[later[here & (when == ts)]], int(ts))
        new.append(segment)
    for sealed, count in frozen.sealed:
        sealed.saved_deletes = count
    shard = owner.shard
    shard.swap(frozen.segments, new)
    shard.publish(shard.version)
    owner.forget_unflushed(len(frozen.writes), len(frozen.commits))


def orders(rows: Rows, schema: Schema, size_bytes: int) -> list[Positions]:
    """Return the rows of each new segment, sorted by primary key.

    With a partition key, large flushes become several segments with few values each, so that
    filters on it skip most.
    """
    parts = min(_KEYED_PARTS, size_bytes // _KEYED_PART_BYTES)
    column = rows.table[schema.primary_key]
    order = sort_by_key(column)
    whole = np.arange(len(rows)) if order is None else order
    if schema.partition_key is None or parts < 2:
        return [whole]
    values = pc.rank(rows.table[schema.partition_key], tiebreaker="dense").to_numpy()
    counts = np.bincount(values)
    part_of_value = (np.cumsum(counts) - counts) * parts // len(rows)
    part = part_of_value[values][whole]
    return [whole[part == number] for number in np.unique(part)]


def _write_part(
    segment: GrowingSegment,
    rows: Rows,
    timestamps: NDArray[np.int64],
    order: Positions,
    prefix: str,
    channel: ChannelName,
    segment_id: SegmentId,
) -> Procedure[SegmentRecord]:
    in_order = len(order) == len(rows) and bool((order[1:] > order[:-1]).all())
    rows = rows if in_order else rows.take(order)
    timestamps = timestamps if in_order else timestamps[order]
    files, written = write_segment(prefix, segment_id, segment.layout.schema, rows, timestamps)
    for key, parts in files:
        yield Put(key, parts)
    return SegmentRecord(
        segment_id=segment_id,
        channel=channel,
        partition=segment.partition,
        schema_version=segment.layout.version,
        row_count=len(order),
        size_bytes=written.size_bytes,
        first_ts=int(timestamps.min()),
        last_ts=int(timestamps.max()),
        files=written.to_json(),
    )


def _write_deletes(
    prefix: str,
    segment_id: SegmentId,
    name: str,
    rows: NDArray[np.int64],
    timestamps: NDArray[np.int64],
) -> Procedure[Mapping[str, Any]]:
    files, record = write_deletes(prefix, segment_id, name, rows.astype(np.uint32), timestamps)
    for key, parts in files:
        yield Put(key, parts)
    return record.to_json()
