"""The owner of channels: the only one that checks keys, stamps, appends to the log and applies.

A write is durable in the log before it becomes visible and before it is answered. Writes of one
group share an append: each is checked against the rows that those before it left, applied where no
read sees it, and published with the rest once the log has them. After a failed append the channel
is lost: what was applied is thrown away with it, and whoever claims the channel again learns from
the log which writes happened.
"""

import itertools
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.errors import (
    GpuvecError,
    UnavailableError,
    no_ids_left,
    write_failed,
    write_outcome_unknown,
)
from gpuvec.messages import WriteReply, WriteRequest
from gpuvec.meta.catalog import WriteSummary
from gpuvec.meta.channel_state import Commits
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.prepare import prepare
from gpuvec.node.small_inserts import Merged, merge
from gpuvec.node.writing import Context, Prepared
from gpuvec.segment.growing import GrowingSegment
from gpuvec.storage.object_store import Now, Procedure
from gpuvec.types import ChannelName, RequestId, Timestamp
from gpuvec.wal.frame import FrameKind
from gpuvec.wal.log import Group, Mark, WriteAheadLog
from gpuvec.wal.record import WriteRecord

_LAST_ID = 2**63 - 1
_REMEMBERED = 100_000  # answers kept for retries
_LARGE_BYTES = 1 << 20  # a group worth a second thread

Beside = Callable[[Callable[[], None]], Callable[[], None]]


class ChannelLostError(Exception):
    """The log took no more: the owner must be thrown away and the channel claimed again."""

    def __init__(self, cause: BaseException) -> None:
        super().__init__(str(cause))
        self.cause = cause


class Answers(Protocol):
    """Whoever knows which writes happened."""

    def answer_to(self, request_id: RequestId) -> WriteReply | None:
        """Return the answer that a request got before, if it is durable."""


@dataclass(frozen=True, slots=True)
class Applied:
    """A write that is in memory."""

    request_id: RequestId
    records: list[WriteRecord]
    size_bytes: int


_Outcome = tuple[dict[RequestId, WriteReply | Exception], list[Applied]]


class ChannelOwner:
    """Writes to one channel, one group at a time, under the channel's lock.

    Args:
        log: claimed; its records up to now were applied to `shard`.
        stamp: hands out timestamps above all others.
        beside: runs work while this thread goes on; returns what waits for its end.
        groups: what the log held beyond the flushed position, for retries.
        flushed: writes before that, newest last.
        last_id: tells the highest integer key of rows that are in no segment any more.
    """

    def __init__(
        self,
        log: WriteAheadLog,
        shard: ShardDelegator,
        stamp: Callable[[], Timestamp],
        *,
        beside: Beside,
        groups: Iterable[Group] = (),
        flushed: Iterable[WriteSummary] = (),
        last_id: Callable[[], int] = lambda: -1,
    ) -> None:
        self.log = log
        self.shard = shard
        self._stamp = stamp
        self._beside = beside
        self._last_id = last_id
        self._answers: OrderedDict[RequestId, WriteReply] = OrderedDict()
        self._unflushed: list[WriteSummary] = []
        self._commits: list[tuple[Timestamp, tuple[ChannelName, ...]]] = []
        self._next_id: int | None = None
        for summary in flushed:
            self._remember(summary)
        for group in groups:
            self.note(_from_log(group), group.mark)

    def answer_to(self, request_id: RequestId) -> WriteReply | None:
        """Return the answer that a request got before, if it is durable."""
        return self._answers.get(request_id)

    def write(
        self, name: str, requests: Sequence[WriteRequest]
    ) -> Procedure[list[WriteReply | Exception]]:
        """Do a group of writes; each has its own answer, or its own error.

        Args:
            name: of the collection, for messages.
            requests: in the order in which they happen; the same one may come twice.

        Raises:
            ChannelLostError: the log could not take the group.
        """
        context = Context(
            name=name,
            shard=self.shard,
            now_ms=(yield Now()),
            stamp=self._stamp,
            take_ids=self.take_ids,
        )
        fresh = [r for r in requests if r.request_id not in self._answers]
        unique = list({r.request_id: r for r in fresh}.values())
        answers, applied = self._apply_all(unique, context)
        if applied:
            yield from self._make_durable(applied)
        return [
            answers.get(request.request_id) or self._answers[request.request_id]
            for request in requests
        ]

    def _apply_all(self, requests: Sequence[WriteRequest], context: Context) -> _Outcome:
        """Apply a group in memory, together where that is the same as one by one.

        A bug is nobody's answer: it ends the group, and whoever owns the channel begins again.
        """
        answers: dict[RequestId, WriteReply | Exception] = {}
        merged = merge(requests, context) if len(requests) > 1 else None
        if merged is not None:
            for request, prepared in zip(requests, merged.prepared, strict=True):
                answers[request.request_id] = reply_of(prepared, self.shard.version)
            return answers, self.apply_merged(requests, merged)
        applied: list[Applied] = []
        for request in requests:
            try:
                prepared = prepare(request, context)
            except (GpuvecError, MemoryError) as error:  # nothing was changed: its own answer
                answers[request.request_id] = error
                continue
            answers[request.request_id] = reply_of(prepared, self.shard.version)
            if prepared.records:
                applied.append(self.apply(request, prepared))
        return answers, applied

    def apply(self, request: WriteRequest, prepared: Prepared) -> Applied:
        """Show a write to those after it in the group, but to no read."""
        try:
            size = sum(self.shard.apply(record, located) for record, located in prepared.records)
        except Exception as error:  # half applied: nobody may see or log it
            raise ChannelLostError(error) from error
        if prepared.explicit_ids:
            self._next_id = None
        return Applied(request.request_id, [record for record, _ in prepared.records], size)

    def apply_merged(self, requests: Sequence[WriteRequest], merged: Merged) -> list[Applied]:
        """Show inserts to those after them, but to no read."""
        try:
            size = self.shard.append(merged.rows, merged.partition, merged.timestamps)
        except Exception as error:
            raise ChannelLostError(error) from error
        self._next_id = None
        share = size / len(merged.rows)
        return [
            Applied(request.request_id, [found.records[0][0]], int(share * len(found.keys)))
            for request, found in zip(requests, merged.prepared, strict=True)
        ]

    def _make_durable(self, applied: Sequence[Applied]) -> Procedure[None]:
        """Append a group to the log, then show it to reads."""
        records = [record for write in applied for record in write.records]
        large = sum(write.size_bytes for write in applied) > _LARGE_BYTES
        wait = self._beside(self.shard.settle) if large else None
        try:
            try:
                yield from self.log.append(records)
            finally:
                if wait is not None:
                    wait()
            self.shard.publish(records[-1].ts)
        except Exception as error:
            raise ChannelLostError(error) from error
        self.note(applied)

    def unflushed(self) -> tuple[WriteSummary, ...]:
        """Return the writes that no manifest entry tells of, oldest first."""
        return tuple(self._unflushed)

    def commits(self) -> Commits:
        """Return the transactions whose commit record is in the log, and in no manifest entry."""
        return tuple(self._commits)

    def forget_unflushed(self, writes: int, commits: int) -> None:
        """Note that a manifest entry tells of the oldest writes and commits, so many of each."""
        del self._unflushed[:writes]
        del self._commits[:commits]

    def adopt(self, summary: WriteSummary) -> None:
        """Note a write that came in files: its answer, and that it may have brought keys."""
        self._remember(summary)
        self.forget_next_id()

    def forget_next_id(self) -> None:
        """Note that rows came whose keys gpuvec did not choose."""
        self._next_id = None

    def note(self, writes: Iterable[Applied], mark: Mark | None = None) -> None:
        """Note writes that are durable, and the mark that their group has in the log."""
        if mark is not None and mark.kind is FrameKind.COMMIT:
            self._commits.append((mark.ts, mark.channels))
        for summary in map(_summary, writes):
            self._unflushed.append(summary)
            self._remember(summary)

    def _remember(self, summary: WriteSummary) -> None:
        self._answers[summary.request_id] = answer_of(summary)
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)

    def take_ids(self, count: int) -> int:
        """Return the first of `count` ids above all that any row has, or had."""
        if self._next_id is None:
            known = map(self._highest_id, self.shard.segments())
            self._next_id = 1 + max(known, default=-1)
            self._next_id = max(self._next_id, 1 + self._last_id())
        first = self._next_id
        if first + count - 1 > _LAST_ID:
            raise no_ids_left(self.shard.layout.schema.primary_key, count)
        self._next_id += count
        return first

    def _highest_id(self, segment: object) -> int:
        key = self.shard.layout.schema.primary_key
        if isinstance(segment, GrowingSegment):
            return int(pc.max(segment.table([key], len(segment))[0]).as_py())
        high = segment.rows.statistics(key).high  # type: ignore[attr-defined]
        return -1 if high is None else int(high)


def answers_after(
    cause: BaseException, claim: Callable[[], Answers], name: str, requests: Sequence[WriteRequest]
) -> list[WriteReply | Exception]:
    """Learn from the log which writes of a failed group happened.

    Args:
        cause: why the group failed.
        claim: becomes the owner anew.
        name: of the collection, for messages.
        requests: of the group.
    """
    try:
        owner = claim()
    except (GpuvecError, MemoryError):
        fenced = isinstance(cause, UnavailableError) and cause.details["outcome"] == "none"
        failed = write_failed if fenced else write_outcome_unknown
        return [failed(name, cause) for _ in requests]
    answers = [owner.answer_to(request.request_id) for request in requests]
    return [write_failed(name, cause) if answer is None else answer for answer in answers]


def summaries(groups: Iterable[Group]) -> list[WriteSummary]:
    """Return what the writes of groups that were read back did."""
    return [_summary(write) for group in groups for write in _from_log(group)]


def _summary(write: Applied) -> WriteSummary:
    records = write.records
    return WriteSummary(
        ts=records[-1].ts,
        request_id=write.request_id,
        operation=records[0].operation,
        inserted=sum(r.inserted for r in records),
        updated=sum(r.updated for r in records),
        deleted=sum(r.deleted for r in records),
        size_bytes=write.size_bytes,
        first_auto_id=records[0].first_auto_id,
    )


def _from_log(group: Group) -> Iterator[Applied]:
    """Yield the writes of a group that was read back."""
    for request_id, found in itertools.groupby(group.records, key=lambda r: r.request_id):
        records = list(found)
        size = sum(0 if r.rows is None else r.rows.nbytes for r in records)
        yield Applied(request_id, records, size)


def answer_of(summary: WriteSummary) -> WriteReply:
    """Return what whoever made a write was told."""
    keys = None
    if summary.first_auto_id is not None:
        first = summary.first_auto_id
        keys = pa.array(np.arange(first, first + summary.inserted, dtype=np.int64))
    return WriteReply(
        version=summary.ts,
        inserted=summary.inserted,
        updated=summary.updated,
        deleted=summary.deleted,
        keys=keys,
    )


def reply_of(prepared: Prepared, version: Timestamp) -> WriteReply:
    """Return the answer to a write; `version` where it changes nothing."""
    records = [record for record, _ in prepared.records]
    return WriteReply(
        version=records[-1].ts if records else version,
        inserted=sum(r.inserted for r in records),
        updated=sum(r.updated for r in records),
        deleted=sum(r.deleted for r in records),
        keys=prepared.keys,
    )
