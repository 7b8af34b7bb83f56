"""Writes that span channels under simulation: who works on a collection, and what they promise.

The roles run the product's own procedures (`gpuvec.node.transaction`) and keep no state but what a
process would. A write is a name, logged in one channel or in several at one timestamp. The truth is
a sequence of writes; every read must have seen all of it up to its version, each write in all of
its channels, and nothing above.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from gpuvec.errors import ConflictError
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Flush, InitCollection, WriteSummary
from gpuvec.meta.channel_state import Commits
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node import transaction
from gpuvec.node.transaction import Claimed, Followed, Groups, Sight
from gpuvec.schema import Int64, Schema
from gpuvec.storage import keys
from gpuvec.storage.object_store import Procedure, Sleep
from gpuvec.testing.sim import Faults
from gpuvec.testing.sim_lives import Lives
from gpuvec.types import ChannelName, RequestId
from gpuvec.wal.log import Group, Mark
from gpuvec.wal.record import WriteRecord

PREFIX = keys.collection("c-1")
CHANNELS = tuple(ChannelName(f"s{number:03d}") for number in range(3))
_ROLES = (
    ("owner", "owner", "flusher", "reader", "reader", "reader"),
    ("owner", "owner", "owner", "flusher", "flusher", "reader"),
    ("owner", "flusher", "reader", "reader"),
)
_MOODS = (
    Faults(error=0.02, stall=0.03, kill=0.004, power_cut=0.0005),
    Faults(error=0.005, stall=0.012, kill=0.001, power_cut=0.0003, stalls=(50, 400, 400)),
    Faults(error=0.01, stall=0.06, kill=0.002, stalls=(20, 20, 100)),
)
_ROUNDS = 6  # of each life of a process

Line = tuple[int, str, str]  # timestamp, write, channel


class Stamps:
    """The oracle of one process."""

    def __init__(self) -> None:
        self.last = 0

    def next(self) -> int:
        """Return a timestamp above all others."""
        self.last += 1
        return self.last

    def observe(self, timestamp: int) -> None:
        """Note a timestamp that is in use."""
        self.last = max(self.last, timestamp)


@dataclass(frozen=True, slots=True)
class FlushTask:
    """What an owner hands to whoever flushes one of its channels."""

    channel: ChannelName
    epoch: int
    from_lsn: int
    to_lsn: int
    last_ts: int
    lines: tuple[Line, ...]
    fences: tuple[int, ...]
    commits: Commits


@dataclass(frozen=True, slots=True)
class Read:
    """What a reader saw."""

    version: int
    lines: frozenset[Line]


@dataclass(eq=False)
class ChannelsSimulation(Lives):
    """Processes on several channels; see `Lives`."""

    moods = _MOODS
    casts = _ROLES
    rest = 60

    requests: dict[str, tuple[ChannelName, ...]] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)  # writes whose clients have no answer yet
    acknowledged: list[str] = field(default_factory=list)
    tasks: list[FlushTask] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    finished: bool = False

    def roles(self) -> Mapping[str, Callable[[], Procedure[None]]]:
        """See `Lives.roles`."""
        return {
            "owner": self._own,
            "flusher": self._flush,
            "reader": self._read,
        }

    # Roles

    def create(self) -> Procedure[None]:
        """See `Lives.create`."""
        log = manifest_log()
        schema = Schema({"id": Int64()}, "id")
        init = InitCollection(collection_id="c-1", schema=schema, channels=CHANNELS)
        yield from log.commit((yield from log.read()), [init], generation=1, committer="creator")

    def _own(self) -> Procedure[None]:
        """Claim the channels, answer clients, hand groups to flushers, truncate."""
        sight, stamps = Sight(manifest_log()), Stamps()
        among = self.world.chance.choice((CHANNELS, CHANNELS, CHANNELS[1:]))
        claimed = yield from self.claim(sight, stamps)
        held = {name: list(groups) for name, groups in claimed.groups.items()}
        known = {line[1] for line in _history(sight)} | {line[1] for line in _lines(claimed.groups)}
        for _ in range(self.world.chance.choice((4, 20, 80))):
            batch = self._take(known, among)
            if batch:
                yield from self._write(batch, claimed, stamps, held)
                known.update(batch)
            if self.world.chance.random() < 0.6:
                continue
            before = sight.known
            yield from sight.read()
            channels = sight.known.state.channels
            if any(channels[name].epoch != log.epoch for name, log in claimed.logs.items()):
                break
            self._hand_over(sight, claimed, held)
            for name, log in claimed.logs.items() if sight.known is not before else ():
                yield from log.truncate(channels[name].flushed_lsn, channels[name].fences)

    def claim(self, sight: Sight, stamps: Stamps) -> Procedure[Claimed]:
        """Become the owner of all channels."""
        return transaction.claim_all(
            PREFIX, sight, stamps, appendable=self.appendable, generation=1, committer="owner"
        )

    def _write(
        self,
        batch: list[str],
        claimed: Claimed,
        stamps: Stamps,
        held: dict[ChannelName, list[Group]],
    ) -> Procedure[None]:
        """Log a group, then answer the clients."""
        parts: dict[ChannelName, list[WriteRecord]] = defaultdict(list)
        for request in batch:
            ts = stamps.next()
            for name in self.requests[request]:
                parts[name].append(_record(request, ts))
        yield from self.write(batch, claimed, parts, stamps.last)
        home, *others = sorted(parts)
        for name, records in parts.items():
            mark = None
            if others:
                commit = Mark.commit(stamps.last, others)
                mark = commit if name == home else Mark.prepared(stamps.last, home)
            lsn = claimed.logs[name].lsn
            held[name].append(
                Group(lsn=lsn, last_ts=stamps.last, records=tuple(records), mark=mark)
            )

    def write(
        self,
        batch: list[str],
        claimed: Claimed,
        parts: Mapping[ChannelName, list[WriteRecord]],
        last_ts: int,
    ) -> Procedure[None]:
        """Make a group durable, then answer its clients."""
        yield from transaction.append_across(claimed.logs, parts, last_ts)
        for request in batch:
            self.acknowledge(request)

    def _hand_over(
        self, sight: Sight, claimed: Claimed, held: dict[ChannelName, list[Group]]
    ) -> None:
        """Perhaps let a flusher save what some channels hold."""
        for name, groups in held.items():
            flushed = sight.known.state.channels[name].flushed_lsn
            held[name] = groups = [group for group in groups if group.lsn > flushed]
            if not groups or self.world.chance.random() < 0.6:
                continue
            log = claimed.logs[name]
            self.tasks.append(
                FlushTask(
                    channel=name,
                    epoch=log.epoch,
                    from_lsn=flushed,
                    to_lsn=log.lsn,
                    last_ts=log.last_ts,
                    lines=tuple(_lines({name: tuple(groups)})),
                    fences=log.fences(log.lsn),
                    commits=tuple(
                        (g.mark.ts, g.mark.channels) for g in groups if g.mark and g.is_commit
                    ),
                )
            )

    def _flush(self) -> Procedure[None]:
        """Do an owner's task, perhaps long after the owner is gone, perhaps twice."""
        log = manifest_log()
        for _ in range(_ROUNDS):
            yield Sleep(0.2)
            if not self.tasks:
                continue
            task = self.world.chance.choice(self.tasks[-4:])
            view = yield from log.read()
            try:
                yield from log.commit(view, [_flush(task)], generation=1, committer="flusher")
            except ConflictError:
                continue  # somebody else flushed it, or owns the channel

    def finish(self) -> Procedure[None]:
        """Recover, and read what is there."""
        yield from self.claim(Sight(manifest_log()), Stamps())
        yield from self._read_once(Sight(manifest_log()), None, {})
        self.finished = True

    def _read(self) -> Procedure[None]:
        """Read again and again, with and without what was read before."""
        sight, followed = Sight(manifest_log()), None
        groups: dict[ChannelName, tuple[Group, ...]] = {}
        for _ in range(_ROUNDS):
            yield Sleep(0.05)
            if self.world.chance.random() < 0.3:
                followed, groups = None, {}
            followed = yield from self._read_once(sight, followed, groups)

    def _read_once(
        self,
        sight: Sight,
        known: Followed | None,
        groups: dict[ChannelName, tuple[Group, ...]],
    ) -> Procedure[Followed]:
        before = len(self.acknowledged)
        followed, found = yield from self.follow(sight, known)
        if known is None or followed.entry_id != known.entry_id:
            groups.clear()
        for name, new in found.items():
            groups[name] = (*groups.get(name, ()), *new)
        lines = [*_history(sight), *_lines(groups)]
        self._check_read(followed.version, lines, before)
        return followed

    def follow(self, sight: Sight, known: Followed | None) -> Procedure[tuple[Followed, Groups]]:
        """Read what is there."""
        return transaction.follow(PREFIX, sight, known, appendable=self.appendable)

    def _check_read(self, version: int, lines: list[Line], before: int) -> None:
        if len(set(lines)) < len(lines):
            raise self.fail(f"a read saw lines twice: {sorted(lines)}")
        places: dict[str, set[str]] = defaultdict(set)
        for ts, request, name in lines:
            places[request].add(name)
            if ts > version:
                raise self.fail(f"a read at {version} saw a write at {ts}")
        for request, names in places.items():
            if names != set(self.requests[request]):
                raise self.fail(f"{request} is in {sorted(names)} only")
        missing = set(self.acknowledged[:before]) - places.keys()
        if missing:
            raise self.fail(f"a read missed acknowledged {sorted(missing)}")
        self.reads.append(Read(version, frozenset(lines)))

    # Clients

    def _take(self, known: set[str], among: tuple[ChannelName, ...]) -> list[str]:
        """Return requests to write now: retries whose outcome is open, and new ones.

        Args:
            known: requests that were done.
            among: the channels of new ones.
        """
        for request in [r for r in self.waiting if r in known]:
            self.acknowledge(request)  # it had been done
        batch = self.waiting[:2] if self.world.chance.random() < 0.5 else []
        for _ in range(self.world.chance.randrange(3)):
            request = f"r{len(self.requests)}"
            count = min(self.world.chance.choice((1, 1, 1, 2, 3)), len(among))
            self.requests[request] = tuple(sorted(self.world.chance.sample(among, count)))
            self.waiting.append(request)
            batch.append(request)
        return batch

    def acknowledge(self, request: str) -> None:
        """Answer a client."""
        if request in self.waiting:  # else a retry was faster
            self.waiting.remove(request)
            self.acknowledged.append(request)

    def check(self) -> None:
        """Compare all reads with the last one, which no fault disturbed."""
        if not self.finished:
            raise self.fail("the last read did not end")
        truth = self.reads[-1].lines
        for read in self.reads:
            wanted = {line for line in truth if line[0] <= read.version}
            if read.lines != wanted:
                raise self.fail(
                    f"a read at {read.version} saw {sorted(read.lines)}, there is {sorted(wanted)}"
                )
        stamps = {(ts, request) for ts, request, _ in truth}
        if len({request for _, request in stamps}) < len(stamps):
            raise self.fail(f"a write was done twice: {sorted(stamps)}")
        if len({ts for ts, _ in stamps}) < len(stamps):
            raise self.fail(f"two writes have one timestamp: {sorted(stamps)}")


def manifest_log() -> ManifestLog[CollectionState]:
    """Return the manifest log of the simulated collection."""
    return ManifestLog(PREFIX, CollectionState(), checkpoint_every=7)


def _record(request: str, ts: int) -> WriteRecord:
    return WriteRecord(ts=ts, request_id=RequestId(request), operation="write")


def _flush(task: FlushTask) -> Flush:
    return Flush(
        channel=task.channel,
        epoch=task.epoch,
        from_lsn=task.from_lsn,
        to_lsn=task.to_lsn,
        last_ts=task.last_ts,
        writes=tuple(_summary(*line) for line in task.lines),
        fences=task.fences,
        commits=task.commits,
    )


def _summary(ts: int, request: str, channel: str) -> WriteSummary:
    return WriteSummary(
        ts=ts,
        request_id=RequestId(request),
        operation=channel,
        inserted=0,
        updated=0,
        deleted=0,
        size_bytes=0,
    )


def _history(sight: Sight) -> Iterator[Line]:
    for write in sight.known.state.history:
        yield write.ts, write.request_id, write.operation


def _lines(groups: Groups) -> Iterator[Line]:
    for name, found in groups.items():
        for group in found:
            for record in group.records:
                yield record.ts, record.request_id, name
