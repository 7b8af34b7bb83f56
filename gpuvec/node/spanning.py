"""Writes to all channels of a collection: checked everywhere, then applied and logged as one.

A request becomes a part per channel that it concerns. All parts are prepared before any is applied,
so an error leaves every channel as it was. The parts of a request share their timestamps, and a
group is one transaction, or one frame where it stays in one channel (`node.transaction`).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.errors import GpuvecError, SchemaError, key_exists, no_ids_left
from gpuvec.ingest import with_auto_ids
from gpuvec.messages import InsertRows, OnConflict, WriteReply, WriteRequest
from gpuvec.meta.changes import WriteSummary
from gpuvec.node.data_node import (
    Applied,
    Beside,
    ChannelLostError,
    ChannelOwner,
    answer_of,
    reply_of,
)
from gpuvec.node.ports import Runner
from gpuvec.node.prepare import insert_record, prepare, taken_keys
from gpuvec.node.small_inserts import Merged, all_differ, are_alike
from gpuvec.node.split import Parts, joined_keys, split
from gpuvec.node.transaction import commit_part, marks, prepare_parts
from gpuvec.node.writing import Context, Prepared
from gpuvec.rows import Rows
from gpuvec.schema import Schema
from gpuvec.segment.keys import one_array
from gpuvec.segment.routing import channel_of, places_by_channel
from gpuvec.storage.object_store import Now, Procedure
from gpuvec.types import ChannelName, RequestId, Timestamp

_LAST_ID = 2**63 - 1
_LARGE_BYTES = 1 << 20  # a group worth a second thread


class _Stamps:
    """The timestamps of one request: its n-th record has the same one in each channel."""

    def __init__(self, stamp: Callable[[], Timestamp]) -> None:
        self._stamp = stamp
        self._given: list[Timestamp] = []

    def reader(self) -> Callable[[], Timestamp]:
        """Return what hands them out, from the first one on, to one channel."""
        taken = 0

        def take() -> Timestamp:
            nonlocal taken
            taken += 1
            if taken > len(self._given):
                self._given.append(self._stamp())
            return self._given[taken - 1]

        return take


@dataclass(frozen=True, slots=True)
class _Spread:
    """A request as its parts, each prepared in its channel."""

    parts: Mapping[ChannelName, tuple[WriteRequest, Prepared]]
    reply: WriteReply


class SpanningWriter:
    """Writes to all channels of a collection, one group at a time, under the collection's lock.

    Args:
        owners: of all channels, the lowest first.
        stamp: hands out timestamps above all others.
        flushed: what is in files of writes before, one line for all parts of each.
        run: runs procedures on the store.
        beside: see `ChannelOwner`.
        publish: makes all that was applied visible in all channels, at once.
    """

    def __init__(
        self,
        owners: Mapping[ChannelName, ChannelOwner],
        stamp: Callable[[], Timestamp],
        *,
        flushed: Iterable[WriteSummary],
        run: Runner,
        beside: Beside,
        publish: Callable[[Timestamp], None],
    ) -> None:
        self._owners = owners
        self._stamp = stamp
        self._flushed = {line.request_id: answer_of(line) for line in flushed}
        self._run = run
        self._beside = beside
        self._publish = publish
        self._next_id: int | None = None

    def answer_to(self, request_id: RequestId) -> WriteReply | None:
        """Return the answer that a request got before, if it is durable."""
        found = [owner.answer_to(request_id) for owner in self._owners.values()]
        found.append(self._flushed.get(request_id))
        parts = [reply for reply in found if reply is not None]
        if not parts:
            return None
        inserted = sum(part.inserted for part in parts)
        numbered = [part.keys for part in parts if part.keys is not None and len(part.keys)]
        keys = None
        if numbered:  # each part begins with the first id of all
            first = numbered[0][0].as_py()
            keys = pa.array(np.arange(first, first + inserted, dtype=np.int64))
        return WriteReply(
            version=max(part.version for part in parts),
            inserted=inserted,
            updated=sum(part.updated for part in parts),
            deleted=sum(part.deleted for part in parts),
            keys=keys,
        )

    def adopt(self, summary: WriteSummary) -> None:
        """Note a write that came in files: its answer, and that it may have brought keys."""
        self._flushed[summary.request_id] = answer_of(summary)
        self._next_id = None
        for owner in self._owners.values():
            owner.forget_next_id()

    def write(self, name: str, requests: Sequence[WriteRequest]) -> list[WriteReply | Exception]:
        """Do a group of writes; see `ChannelOwner.write`.

        Raises:
            ChannelLostError: a log could not take its part: all channels must be claimed again.
        """
        now_ms = self._run(_now())
        done: dict[RequestId, WriteReply | Exception] = {}
        fresh: dict[RequestId, WriteRequest] = {}
        for request in requests:
            answer = self.answer_to(request.request_id)
            if answer is None:
                fresh[request.request_id] = request
            else:
                done[request.request_id] = answer
        group = _Group(self._owners, name, now_ms, self._stamp, self.take_ids)
        done |= group.do(list(fresh.values()))
        if group.brought_keys:
            self._next_id = None
        if group.applied:
            self._make_durable(group.applied)
        return [done[request.request_id] for request in requests]

    def _make_durable(self, applied: Mapping[ChannelName, list[Applied]]) -> None:
        """Log a group, then show it to reads."""
        parts = {
            channel: [record for write in writes for record in write.records]
            for channel, writes in applied.items()
        }
        ts = max(records[-1].ts for records in parts.values())
        logs = {channel: owner.log for channel, owner in self._owners.items()}
        wait = self._settle(applied)
        try:
            try:
                self._at_once(prepare_parts(logs, parts, ts))
                self._run(commit_part(logs, parts, ts))
            finally:
                if wait is not None:
                    wait()
            self._publish(ts)
        except Exception as error:
            raise ChannelLostError(error) from error
        found = marks(parts, ts)
        for channel, writes in applied.items():
            self._owners[channel].note(writes, found[channel])

    def _at_once(self, procedures: Sequence[Procedure[None]]) -> None:
        """Run procedures on several threads, all to their end; raise what the first of them met."""
        if not procedures:
            return
        works: list[Callable[[], None]] = [partial(self._run, one) for one in procedures]
        works[:-1] = map(self._beside, works[:-1])
        failures = []
        for work in reversed(works):
            try:
                work()
            except Exception as error:
                failures.append(error)
        if failures:
            raise failures[-1]

    def _settle(self, applied: Mapping[ChannelName, list[Applied]]) -> Callable[[], None] | None:
        """Begin to copy a large group into its place, on a second thread."""
        if sum(w.size_bytes for writes in applied.values() for w in writes) <= _LARGE_BYTES:
            return None

        def settle() -> None:
            for channel in applied:
                self._owners[channel].shard.settle()

        return self._beside(settle)

    def take_ids(self, count: int) -> int:
        """Return the first of so many new automatic keys, above those of all channels."""
        if self._next_id is None:
            self._next_id = max(owner.take_ids(0) for owner in self._owners.values())
        first = self._next_id
        if first + count - 1 > _LAST_ID:
            key = next(iter(self._owners.values())).shard.layout.schema.primary_key
            raise no_ids_left(key, count)
        self._next_id += count
        return first


class _Group:
    """One group of writes, as it is applied."""

    def __init__(
        self,
        owners: Mapping[ChannelName, ChannelOwner],
        name: str,
        now_ms: int,
        stamp: Callable[[], Timestamp],
        take_ids: Callable[[int], int],
    ) -> None:
        self._owners = owners
        self._name = name
        self._now_ms = now_ms
        self._stamp = stamp
        self._take_ids = take_ids
        self._schema: Schema = next(iter(owners.values())).shard.layout.schema
        self._version = max(owner.shard.version for owner in owners.values())
        self.applied: dict[ChannelName, list[Applied]] = defaultdict(list)
        self.brought_keys = False  # rows with keys that gpuvec did not choose

    def do(self, requests: Sequence[WriteRequest]) -> dict[RequestId, WriteReply | Exception]:
        """Apply requests in memory, together where that is the same as one by one."""
        answers: dict[RequestId, WriteReply | Exception] | None = None
        if len(requests) > 1:
            answers = self._together(requests)
        if answers is not None:
            return answers
        answers = {}
        for request in requests:
            try:
                spread = self._prepare(request)
            except (GpuvecError, MemoryError) as error:  # nothing was changed: its own answer
                answers[request.request_id] = error
                continue
            answers[request.request_id] = spread.reply
            for channel, (part, prepared) in spread.parts.items():
                if prepared.records:
                    self.applied[channel].append(self._owners[channel].apply(part, prepared))
        return answers

    def _context(self, channel: ChannelName, stamp: Callable[[], Timestamp]) -> Context:
        return Context(
            name=self._name,
            shard=self._owners[channel].shard,
            now_ms=self._now_ms,
            stamp=stamp,
            take_ids=self._take_ids,
        )

    # One by one

    def _prepare(self, request: WriteRequest) -> _Spread:
        """Return what a request writes in each channel; nothing is changed."""
        change, first_id = request.change, None
        if isinstance(change, InsertRows):
            if self._schema.primary_key not in change.rows.table.column_names:
                first_id = self._take_ids(len(change.rows))
                rows = with_auto_ids(self._schema, change.rows, first_id)
                change = replace(change, rows=rows)
            else:
                self.brought_keys = True
        stamps = _Stamps(self._stamp)
        parts = split(change, tuple(self._owners), self._schema)
        spread = {}
        try:
            for channel, (part, _) in parts.items():
                own = replace(request, change=part)
                prepared = prepare(own, self._context(channel, stamps.reader()))
                spread[channel] = own, _numbered(prepared, first_id)
        except SchemaError:
            if isinstance(change, InsertRows) and change.on_conflict is OnConflict.ERROR:
                self._check_new(change, parts)
            raise
        keys = joined_keys(change, [found.keys for _, found in spread.values()], self._schema)
        return _Spread(spread, self._reply([found for _, found in spread.values()], keys))

    def _check_new(self, change: InsertRows, parts: Parts) -> None:
        """Raise the error of the whole insert, not of a part, when its keys are taken."""
        keys = one_array(change.rows.table[self._schema.primary_key])
        taken = np.zeros(len(keys), bool)
        for channel, (part, rows) in parts.items():
            assert isinstance(part, InsertRows)
            context = self._context(channel, self._stamp)
            part_keys = one_array(part.rows.table[self._schema.primary_key])
            taken[slice(None) if rows is None else rows] = taken_keys(part_keys, context)
        if taken.any():
            row = int(np.flatnonzero(taken)[0])
            raise key_exists(
                self._schema.primary_key, row, keys[row].as_py(), int(taken.sum()), where=self._name
            )

    def _reply(self, parts: Sequence[Prepared], keys: pa.Array) -> WriteReply:
        replies = [reply_of(prepared, self._version) for prepared in parts]
        wrote = [r.version for r, part in zip(replies, parts, strict=True) if part.records]
        return WriteReply(
            version=max(wrote, default=self._version),
            inserted=sum(reply.inserted for reply in replies),
            updated=sum(reply.updated for reply in replies),
            deleted=sum(reply.deleted for reply in replies),
            keys=keys,
        )

    # Many small inserts

    def _together(
        self, requests: Sequence[WriteRequest]
    ) -> dict[RequestId, WriteReply | Exception] | None:
        """Apply inserts of new keys by one look-up per channel; None if some are not new."""
        changes = [r.change for r in requests if isinstance(r.change, InsertRows)]
        context = self._context(next(iter(self._owners)), self._stamp)
        if len(changes) < len(requests) or not are_alike(changes, context):
            return None
        keys = [one_array(change.rows.table[self._schema.primary_key]) for change in changes]
        all_keys = pa.concat_arrays(keys)
        if not all_differ(all_keys):
            return None
        rows = Rows.concat([change.rows for change in changes])
        request_of = np.repeat(np.arange(len(keys)), [len(own) for own in keys])
        places = places_by_channel(channel_of(all_keys, len(self._owners)), len(self._owners))
        for owner, at in zip(self._owners.values(), places, strict=True):
            if len(at) and owner.shard.find(all_keys.take(pa.array(at))).found.any():
                return None
        given = np.array([self._stamp() for _ in requests], np.int64)
        for (channel, owner), at in zip(self._owners.items(), places, strict=True):
            if len(at):
                own = [requests[number] for number in np.unique(request_of[at])]
                merged = self._merged(channel, own, rows.take(at), given[request_of[at]])
                self.applied[channel] += owner.apply_merged(own, merged)
        self.brought_keys = True
        return {
            request.request_id: WriteReply(version=int(ts), inserted=len(own_keys), keys=own_keys)
            for request, ts, own_keys in zip(requests, given, keys, strict=True)
        }

    def _merged(
        self,
        channel: ChannelName,
        requests: Sequence[WriteRequest],
        rows: Rows,
        timestamps: NDArray[np.int64],
    ) -> Merged:
        """Return the parts that requests have in a channel; `rows` come request by request."""
        stamps, starts = np.unique(timestamps, return_index=True)
        context = self._context(channel, iter(stamps.tolist()).__next__)
        keys = one_array(rows.table[self._schema.primary_key])
        prepared = []
        bounds = pairwise([*starts.tolist(), len(rows)])
        for request, (start, stop) in zip(requests, bounds, strict=True):
            record = insert_record(request, rows.slice(start, stop), context)
            own = keys.slice(start, stop - start)
            prepared.append(Prepared(records=((record, None),), keys=own, explicit_ids=True))
        partition = prepared[0].records[0][0].partition
        return Merged(
            prepared=tuple(prepared), rows=rows, timestamps=timestamps, partition=partition
        )


def _now() -> Procedure[int]:
    now_ms: int = yield Now()
    return now_ms


def _numbered(prepared: Prepared, first_id: int | None) -> Prepared:
    """Return a part whose records tell the first id that gpuvec gave to the whole insert."""
    if first_id is None:
        return prepared
    records = tuple((replace(r, first_auto_id=first_id), at) for r, at in prepared.records)
    return replace(prepared, records=records)
