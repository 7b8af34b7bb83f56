"""Bulk import: rows of files become segments of a collection without passing through its log.

Steps, and what a death after each leaves behind:

1. The caller plans: which rows of which files make a part, under a name that follows from the list
   of files.
   → A job's folder with a plan. The same import later takes the plan over; a day later it goes.
2. `write_part`, for each part: rows sorted by key in segment files, then a step that names them.
   → Files that no manifest names, and perhaps a step: parts with a step are not written again,
   files without one are orphans.
3. `ImportedKeys` compares the keys of all segments with one another and with the collection's.
   → As after 2.
4. `settle`, under the channel's lock and with nothing in the log that is not in files: what was
   written meanwhile is compared too, rows that lose are listed as deleted, and one entry of the
   manifest makes all others visible, at one timestamp.
   → Answer lost: whoever imports the same again finds the write in the history.
5. The caller deletes the job's folder.
   → The next collection deletes it.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.messages import OnConflict
from gpuvec.meta.catalog import CollectionState, SegmentRecord, WriteSummary
from gpuvec.meta.changes import AddPartition, Change
from gpuvec.meta.changes_import import AddSegments
from gpuvec.meta.import_jobs import PartDone
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.flush import orders
from gpuvec.node.import_keys import Hits, ImportedKeys
from gpuvec.node.loader import Loader
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.segment.keys import Positions, one_array, sort_by_key
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.visible import Layout
from gpuvec.storage.object_store import Now, Procedure, Put
from gpuvec.storage.segment_files import TIMESTAMP_COLUMN, write_deletes, write_segment
from gpuvec.types import ChannelName, RequestId, SegmentId, Timestamp

OPERATION = "bulk_import"
NEVER = 0  # the time of a delete that hides a row at every version

Locate = Callable[[Any], Sequence[str]]  # a key: the places in the files that hold it


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """What the segments of an import have in common.

    Attributes:
        prefix: of the collection.
        layout: the schema that rows were validated against.
        segment_bytes: of a segment, about.
        locate: for messages about keys that come twice.
    """

    prefix: str
    channel: ChannelName
    partition: str
    layout: Layout
    on_conflict: OnConflict
    segment_bytes: int
    mint: Callable[[], SegmentId]
    locate: Locate


@dataclass(frozen=True, slots=True, kw_only=True)
class Meeting:
    """What an import meets under the channel's lock: the channel as all writes left it."""

    name: str
    prefix: str
    shard: ShardDelegator
    state: CollectionState
    stamp: Callable[[], Timestamp]
    mint: Callable[[], SegmentId]


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


# Step 2


def write_part(number: int, batches: Iterable[Rows], goal: Goal) -> Procedure[PartDone]:
    """Write the rows of one part; a segment begins anew when one is large enough.

    Args:
        number: of the part.
        batches: validated, with keys; those of one segment are in memory at once.
        goal: see `Goal`.

    Raises:
        SchemaError: `GV-663`, a key that comes twice, unless such rows are skipped or replaced.
    """
    records: list[SegmentRecord] = []
    rows = 0
    for group in _groups(batches, goal.segment_bytes):
        rows += sum(map(len, group))
        sorted_rows = _in_key_order(group, goal)
        size = sorted_rows.nbytes
        for order in orders(sorted_rows, goal.layout.schema, size):
            whole = len(order) == len(sorted_rows)
            part = sorted_rows if whole else sorted_rows.take(order)
            records.append((yield from _write_segment(part, goal)))
    return PartDone(part=number, segments=tuple(records), rows=rows)


def _groups(batches: Iterable[Rows], segment_bytes: int) -> Iterator[list[Rows]]:
    """Yield the batches of one segment after another; none that is empty."""
    waiting: list[Rows] = []
    size = 0
    for batch in batches:
        if len(batch):
            waiting.append(batch)
            size += batch.nbytes
        if size >= segment_bytes:
            yield waiting
            waiting, size = [], 0
    if waiting:
        yield waiting


def _in_key_order(batches: Sequence[Rows], goal: Goal) -> Rows:
    """Return the rows of all batches, sorted by key, each key once. Vectors are copied once."""
    name = goal.layout.schema.primary_key
    table = pa.concat_tables([batch.table for batch in batches])
    keys = one_array(table[name])
    found = sort_by_key(keys)
    order = np.arange(len(keys)) if found is None else found
    first_wins = goal.on_conflict is OnConflict.SKIP
    stay = _once(keys if found is None else keys.take(pa.array(order)), first_wins)
    if stay is not None:
        if goal.on_conflict is OnConflict.ERROR:
            at = int(np.argmin(stay))
            key = keys[int(order[at])].as_py()
            raise errors.duplicate_in_files(name, key, goal.locate(key), int((~stay).sum()))
        order = order[stay]
    if found is None and stay is None:
        return Rows.concat(batches)
    vectors: dict[str, VectorColumn] = {}
    for field in batches[0].vectors:
        vectors[field] = _gather([batch.vectors[field] for batch in batches], order)
    return Rows(table.take(pa.array(order)), vectors, batches[0].order)


def _once(keys: pa.Array, first_wins: bool) -> NDArray[np.bool_] | None:
    """Return which of sorted keys stay, the first or the last of each; None when all do."""
    if len(keys) < 2:
        return None
    if pa.types.is_integer(keys.type):
        values = keys.to_numpy(zero_copy_only=False)
        same = values[1:] == values[:-1]
    else:
        equal = pc.equal(keys[1:], keys[:-1])
        same = np.asarray(equal.to_numpy(zero_copy_only=False), bool)
    if not same.any():
        return None
    return ~np.append(False, same) if first_wins else ~np.append(same, False)


def _gather(parts: Sequence[Any], order: Positions) -> VectorColumn:
    """Return the given rows of all parts, one after the other; each is copied once."""
    if isinstance(parts[0], SparseVectors):
        return SparseVectors.concat(parts).take(order)
    first: DenseVectors = parts[0]
    starts = np.cumsum([0, *map(len, parts)])
    place = np.full(starts[-1], -1, np.int64)
    place[order] = np.arange(len(order))
    values = np.empty((len(order), first.values.shape[1]), first.values.dtype)
    valid = None if all(part.valid is None for part in parts) else np.ones(len(order), bool)
    for part, low, high in zip(parts, starts[:-1], starts[1:], strict=True):
        to = place[low:high]
        stay = to >= 0
        whole = bool(stay.all())
        values[to if whole else to[stay]] = part.values if whole else part.values[stay]
        if valid is not None and part.valid is not None:
            valid[to if whole else to[stay]] = part.valid if whole else part.valid[stay]
    return DenseVectors(values, valid)


def _write_segment(rows: Rows, goal: Goal) -> Procedure[SegmentRecord]:
    """Write one segment. When its rows come to be is not known yet: the file says 0."""
    segment_id = goal.mint()
    times = np.zeros(len(rows), np.int64)
    files, written = write_segment(goal.prefix, segment_id, goal.layout.schema, rows, times)
    for key, parts in files:
        yield Put(key, parts)
    known = {n: bounds for n, bounds in written.statistics.items() if n != TIMESTAMP_COLUMN}
    return SegmentRecord(
        segment_id=segment_id,
        channel=goal.channel,
        partition=goal.partition,
        schema_version=goal.layout.version,
        row_count=len(rows),
        size_bytes=written.size_bytes,
        first_ts=0,
        last_ts=0,
        files=replace(written, statistics=known).to_json(),
        ts=0,
    )


# Step 4


def settle(
    job: RequestId,
    records: Sequence[SegmentRecord],
    keys: ImportedKeys,
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
        records: its segments.
        keys: theirs, compared with one another.
        on_conflict: what happens to rows whose key exists.
        partition: of all rows.
        meeting: see `Meeting`. Every row of the channel is in a sealed segment.
        locate: for messages.
        earlier: the same import, when it was done before.

    Returns:
        What to commit; `earlier` where every row is still there; a write at the present version
        where there is nothing to do.

    Raises:
        SchemaError: `GV-664`, a key that exists.
    """
    shard = meeting.shard
    keys.look(shard.sealed())
    outlived = shard.visibility.outlived((yield Now()))
    live = [_Live.of(hits, shard, outlived) for hits in _present(keys, shard)]
    taken = [found for found in live if found.taken.any()]
    count = sum(int(found.taken.sum()) for found in taken)
    total = sum(record.row_count for record in records)
    lost = sum(map(len, keys.losers.values()))
    if earlier is not None and count == total - lost and on_conflict is not OnConflict.REPLACE:
        return earlier
    if on_conflict is OnConflict.ERROR and taken:
        raise _exists(taken[0], keys, count, meeting, locate)
    hidden = {number: [rows] for number, rows in keys.losers.items()}
    if on_conflict is OnConflict.SKIP:
        for found in taken:
            for number in np.unique(found.hits.segment[found.taken]):
                mine = found.taken & (found.hits.segment == number)
                hidden.setdefault(int(number), []).append(found.hits.new[mine])
    ts = meeting.stamp()
    added = yield from _added(records, hidden, ts, meeting)
    deletes, deleted = yield from _deleted(live, on_conflict, ts, meeting)
    replaced = count if on_conflict is OnConflict.REPLACE else 0
    write = WriteSummary(
        ts=ts,
        request_id=job,
        operation=OPERATION,
        inserted=sum(_visible(record, hidden, at) for at, record in enumerate(records)) - replaced,
        updated=replaced,
        deleted=0,
        size_bytes=sum(record.size_bytes for record in added),
    )
    if not added and not deleted:
        return replace(write, ts=shard.version)
    positions = {n: (c.epoch, c.flushed_lsn) for n, c in meeting.state.channels.items()}
    change = AddSegments(
        channels=positions,
        segments=added,
        deletes=deletes,
        write=write,
    )
    new = [AddPartition(name=partition, ts=ts)] if partition else []
    return Addition(changes=(*new, change), write=write, records=added, deleted=deleted)


@dataclass(frozen=True, slots=True)
class _Live:
    """The hits in one segment whose old row is there now, and which of them are in the way."""

    hits: Hits
    taken: NDArray[np.bool_]  # the others have outlived their time: their keys are free

    @classmethod
    def of(cls, hits: Hits, shard: ShardDelegator, outlived: Timestamp) -> "_Live":
        there, old = hits.there, hits.old
        gone = there.deletes.is_dead(old)
        since = there.inserted_at(old) if len(old) else old
        gone |= since <= shard.visibility.hidden_until(there.partition)
        stay = ~gone
        found = Hits(there, old[stay], hits.segment[stay], hits.new[stay])
        return cls(found, since[stay] > outlived)


def _present(keys: ImportedKeys, shard: ShardDelegator) -> Iterator[Hits]:
    """Yield the hits in segments that are there now, with the deletes of now."""
    for segment in shard.sealed():
        hits = keys.hits[segment.segment_id]
        if len(hits.old):
            yield replace(hits, there=segment)


def _exists(
    found: _Live, keys: ImportedKeys, count: int, meeting: Meeting, locate: Locate
) -> errors.GpuvecError:
    at = int(np.flatnonzero(found.taken)[0])
    key = keys.key(int(found.hits.segment[at]), int(found.hits.new[at]))
    name = meeting.state.schema.primary_key
    places = locate(key)
    return errors.imported_key_exists(name, key, count, where=meeting.name, places=places)


def _visible(record: SegmentRecord, hidden: Mapping[int, Sequence[Positions]], at: int) -> int:
    return record.row_count - sum(map(len, hidden.get(at, ())))


def _added(
    records: Sequence[SegmentRecord],
    hidden: Mapping[int, Sequence[Positions]],
    ts: Timestamp,
    meeting: Meeting,
) -> Procedure[tuple[SegmentRecord, ...]]:
    """Return the segments with their timestamp, but those of which no row is visible."""
    added: list[SegmentRecord] = []
    for at, record in enumerate(records):
        if not _visible(record, hidden, at):
            continue
        found = replace(record, ts=ts, first_ts=ts, last_ts=ts)
        if at in hidden:
            rows = np.sort(np.concatenate(hidden[at]))
            times = np.full(len(rows), NEVER, np.int64)
            deletes = yield from _write_deletes(record.segment_id, rows, times, meeting)
            found = replace(found, deletes=deletes)
        added.append(found)
    return tuple(added)


def _deleted(
    live: Sequence[_Live], on_conflict: OnConflict, ts: Timestamp, meeting: Meeting
) -> Procedure[tuple[dict[SegmentId, Any], tuple[tuple[SealedSegment, Positions], ...]]]:
    """Write the deletion files of older segments: replaced rows go, outlived ones always."""
    files: dict[SegmentId, Any] = {}
    deleted: list[tuple[SealedSegment, Positions]] = []
    for found in live:
        rows = found.hits.old if on_conflict is OnConflict.REPLACE else found.hits.old[~found.taken]
        if not len(rows):
            continue
        there = found.hits.there
        before, when = there.deletes.entries()
        all_rows = np.concatenate([before, rows])
        times = np.concatenate([when, np.full(len(rows), ts, np.int64)])
        name = there.segment_id
        files[name] = yield from _write_deletes(name, all_rows, times, meeting)
        deleted.append((there, rows))
    return files, tuple(deleted)


def _write_deletes(
    segment_id: SegmentId, rows: Positions, times: NDArray[np.int64], meeting: Meeting
) -> Procedure[Mapping[str, Any]]:
    files, record = write_deletes(
        meeting.prefix, segment_id, meeting.mint(), rows.astype(np.uint32), times
    )
    for key, parts in files:
        yield Put(key, parts)
    return record.to_json()


def place(addition: Addition, shard: ShardDelegator, loader: Loader) -> None:
    """Put what was committed in its place in memory, invisibly until it is published."""
    for segment, rows in addition.deleted:
        segment.delete(rows, addition.write.ts)
        segment.saved_deletes = len(segment.deletes)
    shard.swap((), [loader.load(record) for record in addition.records])
