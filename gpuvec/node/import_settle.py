"""The end of a bulk import: which of its rows become visible, and the one entry that says so."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.messages import OnConflict
from gpuvec.meta.catalog import CollectionState, SegmentRecord, WriteSummary
from gpuvec.meta.changes import AddPartition, Change
from gpuvec.meta.changes_import import AddSegments
from gpuvec.node.delegator import Visibility
from gpuvec.node.import_files import Locate
from gpuvec.node.import_keys import Hits, ImportedKeys
from gpuvec.segment.keys import Positions
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.view import Snapshot
from gpuvec.segment.visible import VisibleSegment
from gpuvec.storage.object_store import Now, Procedure, Put
from gpuvec.storage.segment_files import write_deletes
from gpuvec.types import ChannelName, RequestId, SegmentId, Timestamp

OPERATION = "bulk_import"
NEVER = 0  # the time of a delete that hides a row at every version


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What an import meets under the lock of all channels: the collection as all writes left it.

    Attributes:
        name: of the collection, for messages.
        sealed: each channel's segments: all its rows.
    """

    name: str
    prefix: str
    state: CollectionState
    version: Timestamp
    visibility: Visibility
    sealed: Mapping[ChannelName, Sequence[SealedSegment]]
    stamp: Callable[[], Timestamp]
    mint: Callable[[], SegmentId]


@dataclass(frozen=True, slots=True)
class Share:
    """The part of an import that goes to one channel.

    Attributes:
        records: its segments.
        keys: theirs, compared with one another.
    """

    channel: ChannelName
    records: Sequence[SegmentRecord]
    keys: ImportedKeys

    @property
    def num_rows(self) -> int:
        """Rows that won over others of the same key in the files."""
        lost = sum(map(len, self.keys.losers.values()))
        return sum(record.row_count for record in self.records) - lost


@dataclass(frozen=True, slots=True, kw_only=True)
class Addition:
    """What one import changes.

    Attributes:
        records: the new segments, with the deletion files that they begin with.
        deleted: rows of older segments that are gone from the write's timestamp on.
    """

    changes: tuple[Change, ...]
    write: WriteSummary
    records: tuple[SegmentRecord, ...]
    deleted: tuple[tuple[SealedSegment, Positions], ...]


def settle(
    job: RequestId,
    shares: Sequence[Share],
    on_conflict: OnConflict,
    *,
    partition: str,
    meeting: Meeting,
    locate: Locate,
    earlier: WriteSummary | None,
) -> Procedure[Addition | WriteSummary]:
    """Decide which rows become visible, and write the deletion files that say so.

    Args:
        job: the name of the import.
        shares: of the channels.
        on_conflict: what happens to rows whose key exists.
        partition: of all rows.
        meeting: see `Meeting`.
        locate: for messages.
        earlier: the same import, when it was done before.

    Returns:
        What to commit; `earlier` where every key is still there; a write at the present version
        where there is nothing to do.

    Raises:
        SchemaError: `GV-664`, a key that exists.
    """
    outlived = meeting.visibility.outlived((yield Now()))
    live = [_live(share, meeting, outlived) for share in shares]
    count = sum(int(found.taken.sum()) for own in live for found in own)
    rows = sum(share.num_rows for share in shares)
    if earlier is not None and count == rows and on_conflict is not OnConflict.REPLACE:
        return earlier
    if on_conflict is OnConflict.ERROR and count:
        raise _exists(shares, live, count, meeting, locate)
    ts = meeting.stamp()
    added: list[SegmentRecord] = []
    deletes: dict[SegmentId, Any] = {}
    deleted: list[tuple[SealedSegment, Positions]] = []
    for share, own in zip(shares, live, strict=True):
        hidden = _hidden(share, own if on_conflict is OnConflict.SKIP else ())
        added += yield from _added(share.records, hidden, ts, meeting)
        gone = _deleted(own, on_conflict)
        for there, old in gone:
            deletes[there.segment_id] = yield from _delete_more(there, old, ts, meeting)
        deleted += gone
    updated = count if on_conflict is OnConflict.REPLACE else 0
    skipped = count if on_conflict is OnConflict.SKIP else 0
    write = WriteSummary(
        ts=ts,
        request_id=job,
        operation=OPERATION,
        inserted=rows - updated - skipped,
        updated=updated,
        deleted=0,
        size_bytes=sum(record.size_bytes for record in added),
    )
    if not added and not deleted:
        return replace(write, ts=meeting.version)
    positions = {n: (c.epoch, c.flushed_lsn) for n, c in meeting.state.channels.items()}
    change = AddSegments(channels=positions, segments=tuple(added), deletes=deletes, write=write)
    new = [AddPartition(name=partition, ts=ts)] if partition else []
    return Addition(
        changes=(*new, change), write=write, records=tuple(added), deleted=tuple(deleted)
    )


def rows_left(snapshot: Snapshot, ts: Timestamp) -> int:
    """Return how many of the rows that were inserted at a timestamp are visible.

    Cost: one pass over the timestamps of segments that may hold such rows; no key is read.
    """
    count = 0
    for view in snapshot.segments:
        assert isinstance(view, VisibleSegment)
        if view.first_ts <= ts <= view.last_ts:
            there = view.columns.timestamps()[: view.num_rows] == ts
            keep = view.keep()
            count += int(np.count_nonzero(there if keep is None else there & keep))
    return count


@dataclass(frozen=True, slots=True)
class _Live:
    """The hits in one segment whose old row is there now, and which of them are in the way."""

    hits: Hits
    taken: NDArray[np.bool_]  # the others have outlived their time: their keys are free

    @classmethod
    def of(cls, hits: Hits, visibility: Visibility, outlived: Timestamp) -> "_Live":
        there, old = hits.there, hits.old
        gone = there.deletes.is_dead(old)
        since = there.inserted_at(old) if len(old) else old
        gone |= since <= visibility.hidden_until(there.partition)
        stay = ~gone
        found = Hits(there, old[stay], hits.segment[stay], hits.new[stay])
        return cls(found, since[stay] > outlived)


def _live(share: Share, meeting: Meeting, outlived: Timestamp) -> list[_Live]:
    """Return what of a channel's rows is in the way, with the deletes of now."""
    there = meeting.sealed[share.channel]
    share.keys.look(there)
    hits = [replace(share.keys.hits[segment.segment_id], there=segment) for segment in there]
    return [_Live.of(found, meeting.visibility, outlived) for found in hits if len(found.old)]


def _exists(
    shares: Sequence[Share],
    live: Sequence[Sequence[_Live]],
    count: int,
    meeting: Meeting,
    locate: Locate,
) -> errors.GpuvecError:
    share, found = next(
        (share, found)
        for share, own in zip(shares, live, strict=True)
        for found in own
        if found.taken.any()
    )
    at = int(np.flatnonzero(found.taken)[0])
    key = share.keys.key(int(found.hits.segment[at]), int(found.hits.new[at]))
    name = meeting.state.schema.primary_key
    places = locate(key)
    return errors.imported_key_exists(name, key, count, where=meeting.name, places=places)


def _hidden(share: Share, skipped: Sequence[_Live]) -> dict[int, list[Positions]]:
    """Return the rows that never become visible, by the number of their segment."""
    hidden = {number: [rows] for number, rows in share.keys.losers.items()}
    for found in skipped:
        for number in np.unique(found.hits.segment[found.taken]):
            mine = found.taken & (found.hits.segment == number)
            hidden.setdefault(int(number), []).append(found.hits.new[mine])
    return hidden


def _added(
    records: Sequence[SegmentRecord],
    hidden: Mapping[int, Sequence[Positions]],
    ts: Timestamp,
    meeting: Meeting,
) -> Procedure[list[SegmentRecord]]:
    """Return the segments with their timestamp, but those of which no row is visible."""
    added: list[SegmentRecord] = []
    for at, record in enumerate(records):
        if sum(map(len, hidden.get(at, ()))) == record.row_count:
            continue
        found = replace(record, ts=ts, first_ts=ts, last_ts=ts)
        if at in hidden:
            rows = np.sort(np.concatenate(hidden[at]))
            times = np.full(len(rows), NEVER, np.int64)
            deletes = yield from _write_deletes(record.segment_id, rows, times, meeting)
            found = replace(found, deletes=deletes)
        added.append(found)
    return added


def _deleted(
    live: Sequence[_Live], on_conflict: OnConflict
) -> list[tuple[SealedSegment, Positions]]:
    """Return the rows of older segments that go: replaced ones, and outlived ones always."""
    replaces = on_conflict is OnConflict.REPLACE
    gone = [(f.hits.there, f.hits.old if replaces else f.hits.old[~f.taken]) for f in live]
    return [(there, rows) for there, rows in gone if len(rows)]


def _delete_more(
    there: SealedSegment, rows: Positions, ts: Timestamp, meeting: Meeting
) -> Procedure[Mapping[str, Any]]:
    """Write the deletion file of an older segment that loses rows."""
    before, when = there.deletes.entries()
    all_rows = np.concatenate([before, rows])
    times = np.concatenate([when, np.full(len(rows), ts, np.int64)])
    return (yield from _write_deletes(there.segment_id, all_rows, times, meeting))


def _write_deletes(
    segment_id: SegmentId, rows: Positions, times: NDArray[np.int64], meeting: Meeting
) -> Procedure[Mapping[str, Any]]:
    files, record = write_deletes(
        meeting.prefix, segment_id, meeting.mint(), rows.astype(np.uint32), times
    )
    for key, parts in files:
        yield Put(key, parts)
    return record.to_json()
