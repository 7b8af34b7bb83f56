"""The storage protocol under simulation: who works on one channel, and what they promise.

The roles stand for the engine: they run the product's own procedures and keep no state but what a
process would. A write is one record without rows: an insert of a row named like its request, or a
delete of such a row. So the whole truth is a sequence of requests, and every read must have seen a
beginning of it.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import pairwise

from gpuvec.errors import ConflictError, CorruptError
from gpuvec.meta.catalog import ChannelState, CollectionState
from gpuvec.meta.changes import Flush, InitCollection, SegmentRecord, SetEpoch, WriteSummary
from gpuvec.meta.collect import Limits, collect_orphans
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.schema import Int64, Schema
from gpuvec.storage import keys
from gpuvec.storage.object_store import Get, Nonce, Now, Procedure, Put, Sleep
from gpuvec.testing.sim import Faults
from gpuvec.testing.sim_lives import Lives
from gpuvec.types import ChannelName, RequestId, SegmentId
from gpuvec.wal.log import ChannelPosition, Cursor, Group, Recovery, WriteAheadLog, claim, read_tail
from gpuvec.wal.record import WriteRecord

PREFIX = keys.collection("c-1")
CHANNEL = ChannelName("s000")
_ROLES = (
    ("owner", "owner", "flusher", "flusher", "collector", "collector", "reader", "reader"),
    ("owner", "owner", "owner", "flusher", "collector", "reader"),
)
_MOODS = (
    Faults(error=0.02, stall=0.03, kill=0.004, power_cut=0.0005),
    Faults(error=0.005, stall=0.012, kill=0.001, power_cut=0.0003, stalls=(50, 400, 400)),
    Faults(error=0.01, stall=0.06, kill=0.002, stalls=(20, 20, 100)),
)
_ROUNDS = 6  # of each life of a process

View = LogView[CollectionState]
Line = tuple[int, str]  # timestamp, request


@dataclass(frozen=True, slots=True)
class FlushTask:
    """What an owner hands to whoever flushes."""

    epoch: int
    from_lsn: int
    groups: tuple[Group, ...]
    fences: tuple[int, ...]


@dataclass(eq=False)
class LogSimulation(Lives):
    """Processes on one channel; see `Lives`."""

    moods = _MOODS
    casts = _ROLES
    rest = 100

    requests: dict[str, str] = field(default_factory=dict)  # to the row it deletes; "" inserts
    waiting: list[str] = field(default_factory=list)  # requests whose clients have no answer yet
    acknowledged: list[str] = field(default_factory=list)
    tasks: list[FlushTask] = field(default_factory=list)
    reads: list[list[Line]] = field(default_factory=list)
    finished: bool = False

    def roles(self) -> Mapping[str, Callable[[], Procedure[None]]]:
        """See `Lives.roles`."""
        return {
            "owner": self._own,
            "flusher": self._flush,
            "collector": self._collect,
            "reader": self._read,
        }

    # Roles

    def create(self) -> Procedure[None]:
        """See `Lives.create`."""
        log = manifest_log()
        schema = Schema({"id": Int64()}, "id")
        init = InitCollection(collection_id="c-1", schema=schema, channels=(CHANNEL,))
        yield from log.commit((yield from log.read()), [init], generation=1, committer="creator")

    def _own(self) -> Procedure[None]:
        """Claim the channel, answer clients, hand groups to flushers, truncate."""
        log = manifest_log()
        eye = Eye(log)
        recovery = yield from self._claim(log, eye)
        wal, held = recovery.log, list(recovery.groups)
        last_ts = max(_channel(eye.seen).flushed_ts, wal.last_ts)
        known = {line[1] for line in _history(eye.seen)}
        known.update(record.request_id for group in held for record in group.records)
        for _ in range(self.world.chance.choice((2, 10, 30))):
            batch = self._take(known)
            if batch:
                records = tuple(_record(r, last_ts + i) for i, r in enumerate(batch, 1))
                lsn = yield from self.write(wal, records)
                last_ts = records[-1].ts
                held.append(Group(lsn=lsn, last_ts=last_ts, records=records))
                known.update(batch)
            eye.view = yield from log.read(eye.seen)
            flushed = _channel(eye.seen)
            if flushed.epoch != wal.epoch:
                break
            held = [group for group in held if group.lsn > flushed.flushed_lsn]
            if held and self.world.chance.random() < 0.5:
                fences = wal.fences(held[-1].lsn)
                self.tasks.append(FlushTask(wal.epoch, flushed.flushed_lsn, tuple(held), fences))
            yield from wal.truncate(flushed.flushed_lsn, flushed.fences)
        yield from self.leave(wal)

    def leave(self, wal: WriteAheadLog) -> Procedure[None]:
        """Do what an owner does last: nothing, as if it had died."""
        yield from ()

    def _claim(self, log: ManifestLog[CollectionState], eye: "Eye") -> Procedure[Recovery]:
        view = yield from log.read()
        change = SetEpoch(channel=CHANNEL, epoch=_channel(view).epoch + 1)
        eye.view = yield from log.commit(view, [change], generation=1, committer="owner")
        epoch, look = change.epoch, eye.position
        return (yield from claim(PREFIX, CHANNEL, epoch, look, appendable=self.appendable))

    def finish(self) -> Procedure[None]:
        """Recover, and read what is there."""
        log = manifest_log()
        yield from self._claim(log, Eye(log))
        yield from self._read_once(None)
        self.finished = True

    def _flush(self) -> Procedure[None]:
        """Do an owner's task, perhaps long after the owner is gone, perhaps twice."""
        log = manifest_log()
        for _ in range(_ROUNDS):
            yield Sleep(0.2)
            if not self.tasks:
                continue
            task = self.world.chance.choice(self.tasks[-3:])
            view = yield from log.read()
            change = yield from self._write_files(view.state, task)
            try:
                yield from log.commit(view, [change], generation=1, committer="flusher")
            except ConflictError:
                continue  # somebody else flushed it, or owns the channel

    def _collect(self) -> Procedure[None]:
        log = manifest_log()
        for _ in range(_ROUNDS):
            yield Sleep(0.4)
            view = yield from log.read()
            yield from log.collect(view, keep=self.world.chance.choice((1, 2, 4)))
            yield from collect_orphans(
                log, view, PREFIX, generation=1, committer="collector", limits=Limits(grace_ms=0)
            )

    def _read(self) -> Procedure[None]:
        """Read again and again, with and without a cursor."""
        eye, cursor = Eye(manifest_log()), None
        groups: list[Group] = []
        for _ in range(_ROUNDS):
            yield Sleep(0.05)
            if self.world.chance.random() < 0.3:
                cursor, groups = None, []
            cursor = yield from self._read_once(cursor, groups, eye)

    def _read_once(
        self, cursor: Cursor | None, groups: list[Group] | None = None, eye: "Eye | None" = None
    ) -> Procedure[Cursor]:
        groups = [] if groups is None else groups
        eye = eye or Eye(manifest_log())
        before = len(self.acknowledged)
        tail = yield from read_tail(
            PREFIX, CHANNEL, eye.position, appendable=self.appendable, cursor=cursor
        )
        groups += tail.groups
        view = eye.seen
        flushed = _channel(view).flushed_lsn
        lines = list(_history(view))
        lines += [line for group in groups if group.lsn > flushed for line in _lines(group)]
        rows = yield from self._rows(eye, flushed, groups)
        if eye.seen is not view:
            return tail.cursor  # files went away under an old view, as they may
        stamps = [line[0] for line in lines]
        if any(later <= earlier for earlier, later in pairwise(stamps)):
            raise self.fail(f"timestamps do not rise: {lines}")
        missing = set(self.acknowledged[:before]) - {line[1] for line in lines}
        if missing:
            raise self.fail(f"a read missed acknowledged {sorted(missing)}")
        wanted = self._fold(lines)
        if rows != wanted:
            raise self.fail(f"a read saw rows {sorted(rows)}, its writes make {sorted(wanted)}")
        self.reads.append(lines)
        return tail.cursor

    def _rows(self, eye: "Eye", flushed: int, groups: list[Group]) -> Procedure[set[str]]:
        """Return the rows of segment files, deletion files and tail."""
        rows: dict[str, int] = {}
        state = eye.seen.state
        for segment in state.segments.values():
            hidden: list[str] = []
            try:
                found = json.loads((yield Get(segment.files["key"])))
                if segment.deletes is not None:
                    hidden = json.loads((yield Get(segment.deletes["key"])))
            except CorruptError:
                held = eye.seen.state.segments[segment.segment_id]
                yield from eye.position()
                if eye.seen.state.segments.get(segment.segment_id) == held:
                    raise
                return set()
            rows.update((row, ts) for row, ts in found.items() if row not in hidden)
        for group in groups:
            for record in group.records if group.lsn > flushed else ():
                if victim := self.requests[record.request_id]:
                    rows.pop(victim, None)
                else:
                    rows[record.request_id] = record.ts
        return set(rows)

    def _write_files(self, state: CollectionState, task: FlushTask) -> Procedure[Flush]:
        """Write a segment and deletion files; return the change that names them."""
        lines = [line for group in task.groups for line in _lines(group)]
        now, nonce = (yield Now()), (yield Nonce())
        segment_id = SegmentId(keys.ulid(now, nonce))
        key = f"{keys.segment_folder(PREFIX, segment_id)}/rows.json"
        victims = {self.requests[request] for _, request in lines}
        rows = {name: ts for ts, name in lines if not self.requests[name] and name not in victims}
        yield Put(key, [json.dumps(rows).encode()])
        deletes = {}
        for segment in state.segments.values():
            old = [] if segment.deletes is None else segment.deletes["rows"]
            hidden = sorted(victims.intersection(segment.files["rows"]).union(old))
            if hidden != old:
                name = keys.delete_file(PREFIX, segment.segment_id, keys.ulid(now, (yield Nonce())))
                yield Put(name, [json.dumps(hidden).encode()])
                deletes[segment.segment_id] = {"key": name, "rows": hidden}
        record = SegmentRecord(
            segment_id=segment_id,
            channel=CHANNEL,
            partition="",
            schema_version=1,
            row_count=len(rows),
            size_bytes=0,
            first_ts=lines[0][0],
            last_ts=lines[-1][0],
            files={"key": key, "rows": list(rows)},
        )
        return Flush(
            channel=CHANNEL,
            epoch=task.epoch,
            from_lsn=task.from_lsn,
            to_lsn=task.groups[-1].lsn,
            last_ts=lines[-1][0],
            segments=(record,),
            deletes=deletes,
            writes=tuple(_summary(*line) for line in lines),
            fences=task.fences,
        )

    def _fold(self, lines: list[Line]) -> set[str]:
        """Return the rows that a sequence of writes leaves."""
        rows: set[str] = set()
        for _, request in lines:
            if victim := self.requests[request]:
                rows.discard(victim)
            else:
                rows.add(request)
        return rows

    # Clients

    def _take(self, known: set[str]) -> list[str]:
        """Return requests to write now: retries whose outcome is open, and new ones."""
        for request in [r for r in self.waiting if r in known]:
            self.acknowledge(request)  # it had been done
        batch = self.waiting[:2]
        for _ in range(self.world.chance.randrange(3)):
            request, victim = f"r{len(self.requests)}", ""
            if self.acknowledged and self.world.chance.random() < 0.3:
                victim = self.world.chance.choice(self.acknowledged)
            self.requests[request] = victim
            self.waiting.append(request)
            batch.append(request)
        return batch

    def write(self, wal: WriteAheadLog, records: tuple[WriteRecord, ...]) -> Procedure[int]:
        """Append, then answer the clients."""
        lsn = yield from wal.append(records)
        for record in records:
            self.acknowledge(record.request_id)
        return lsn

    def acknowledge(self, request: str) -> None:
        """Answer a client."""
        if request in self.waiting:  # else a retry was faster
            self.waiting.remove(request)
            self.acknowledged.append(request)

    def check(self) -> None:
        """Compare all reads with the last one, which no fault disturbed."""
        if not self.finished:
            raise self.fail("the last read did not end")
        truth = self.reads[-1]
        for lines in self.reads:
            if lines != truth[: len(lines)]:
                raise self.fail(f"a read saw {lines}, the log holds {truth}")
        names = [line[1] for line in truth]
        if len(set(names)) < len(names):
            raise self.fail(f"a request was done twice: {names}")


class Eye:
    """A process's view of the manifest log, as `position` moves it."""

    def __init__(self, log: ManifestLog[CollectionState]) -> None:
        self._log = log
        self.view: View | None = None

    @property
    def seen(self) -> View:
        """The newest view that was read."""
        assert self.view is not None
        return self.view

    def position(self) -> Procedure[ChannelPosition]:
        """Read the manifest, and return how far it says the channel is flushed."""
        self.view = yield from self._log.read(self.view)
        channel = _channel(self.view)
        return ChannelPosition(epoch=channel.epoch, flushed_lsn=channel.flushed_lsn)


def manifest_log() -> ManifestLog[CollectionState]:
    """Return the manifest log of the simulated collection."""
    return ManifestLog(PREFIX, CollectionState(), checkpoint_every=7)


def _channel(view: View) -> ChannelState:
    return view.state.channels[CHANNEL]


def _record(request: str, ts: int) -> WriteRecord:
    return WriteRecord(ts=ts, request_id=RequestId(request), operation="write")


def _summary(ts: int, request: str) -> WriteSummary:
    return WriteSummary(
        ts=ts,
        request_id=RequestId(request),
        operation="write",
        inserted=0,
        updated=0,
        deleted=0,
        size_bytes=0,
    )


def _history(view: View) -> Iterator[Line]:
    for write in view.state.history:
        yield write.ts, write.request_id


def _lines(group: Group) -> Iterator[Line]:
    for record in group.records:
        yield record.ts, record.request_id
