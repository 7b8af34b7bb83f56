"""Writes that span the channels of a collection.

One process owns all channels of a collection. It commits one group of writes after the other; a
group that touches several channels is a *transaction* (see `wal.mark`), named by its timestamp:

1. each channel but the lowest, the home, logs its part as prepared;
2. the home logs its own part as the commit: from here on all of it counts;
3. all parts become visible at once, and are acknowledged.

| died after | left behind | cured by |
|---|---|---|
| 1, or part of it | prepared parts that nobody may count | the next claim closes the home |
| 2 | a transaction that nobody was told of | it counts; a retry finds it |

After an append that failed nothing else may be logged: the channels are claimed again, all of them,
before any is written to. Claim: a. one manifest entry raises the epochs of all channels; b. each
log is claimed, after which no older owner can add to it; c. a prepared part counts if its home's
log, or the manifest, holds the commit, and is dropped if the home's log has gone past it. Where
neither is so the home is closed first: a record that says so is logged in the home.

So at any time at most the newest group is undecided. A reader in another process looks twice:
d. it reads all logs; the newest timestamp it met is M. All that counts up to M is in the logs now,
but for a transaction named M; e. it reads on in all logs, homes before those that ask them; f. it
takes all groups up to M, or up to the transaction that is still undecided.

Flush: the entry that flushes a commit keeps its name as long as another channel's log holds a part
of it (`ChannelState.commits`), and `flushed_ts` tells how far a channel was closed.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from gpuvec.errors import ConflictError, UnavailableError, missing_entry, part_not_logged
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import SetEpoch
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.meta.retention import newest_version
from gpuvec.node.ports import Permit, Stamps, always
from gpuvec.storage.object_store import Procedure
from gpuvec.types import ChannelName, Timestamp
from gpuvec.wal.log import (
    ChannelPosition,
    Cursor,
    Group,
    Mark,
    Position,
    Recovery,
    WriteAheadLog,
    claim,
    read_tail,
)
from gpuvec.wal.record import WriteRecord

Groups = Mapping[ChannelName, tuple[Group, ...]]


class Sight:
    """The manifest of a collection as far as this process has read it.

    Args:
        log: its manifest log.
        view: what was read of it before.
    """

    def __init__(
        self, log: ManifestLog[CollectionState], view: LogView[CollectionState] | None = None
    ) -> None:
        self.log = log
        self.view = view

    @property
    def known(self) -> LogView[CollectionState]:
        """The newest view that was read."""
        assert self.view is not None, "read comes first"
        return self.view

    @property
    def channels(self) -> tuple[ChannelName, ...]:
        """The collection's channels, the lowest first."""
        return tuple(sorted(self.known.state.channels))

    def read(self) -> Procedure[None]:
        """Read on to the log's end; `CorruptError` GV-520 when nothing is there at all."""
        self.view = yield from self.log.read(self.view)
        if not self.view.state.collection_id:
            raise missing_entry(self.log.first_key)

    def position(self, channel: ChannelName) -> Position:
        """Return the procedure that reads on and tells how far a channel is flushed."""

        def position() -> Procedure[ChannelPosition]:
            yield from self.read()
            found = self.known.state.channels[channel]
            return ChannelPosition(epoch=found.epoch, flushed_lsn=found.flushed_lsn)

        return position


# Writing


def append_across(
    logs: Mapping[ChannelName, WriteAheadLog],
    parts: Mapping[ChannelName, Sequence[WriteRecord]],
    ts: Timestamp,
) -> Procedure[None]:
    """Do steps 1 and 2; when this returns the group is durable and counts.

    Args:
        logs: of all channels; all of them must be claimed again when this fails.
        parts: the group's records, by channel; each part's timestamps rise.
        ts: the group's last timestamp.

    Raises:
        UnavailableError: `GV-650`, a part could not be logged: nothing was written; else see
            `WriteAheadLog.append`.
    """
    for procedure in prepare_parts(logs, parts, ts):
        yield from procedure
    yield from commit_part(logs, parts, ts)


def prepare_parts(
    logs: Mapping[ChannelName, WriteAheadLog],
    parts: Mapping[ChannelName, Sequence[WriteRecord]],
    ts: Timestamp,
) -> list[Procedure[None]]:
    """Return step 1 for each channel but the home: in any order, or at once."""
    found = marks(parts, ts)

    def prepare(channel: ChannelName) -> Procedure[None]:
        try:
            yield from logs[channel].append(parts[channel], found[channel])
        except UnavailableError as error:
            raise part_not_logged(channel, error) from error

    return [prepare(channel) for channel in sorted(parts)[1:]]


def commit_part(
    logs: Mapping[ChannelName, WriteAheadLog],
    parts: Mapping[ChannelName, Sequence[WriteRecord]],
    ts: Timestamp,
) -> Procedure[None]:
    """Do step 2, when all of step 1 is done."""
    home = min(parts)
    yield from logs[home].append(parts[home], marks(parts, ts)[home])


def marks(channels: Iterable[ChannelName], ts: Timestamp) -> dict[ChannelName, Mark | None]:
    """Return the mark of each channel's part of a group; None where there is only one."""
    home, *others = sorted(channels)
    if not others:
        return {home: None}
    prepared = dict.fromkeys(others, Mark.prepared(ts, home))
    return {home: Mark.commit(ts, others), **prepared}


# Deciding


@dataclass(frozen=True, slots=True)
class Decisions:
    """What the homes say of prepared parts.

    Attributes:
        committed: by home, the transactions that count.
        closed: by home, the timestamp up to which no other ever will.
    """

    committed: Mapping[ChannelName, frozenset[Timestamp]]
    closed: Mapping[ChannelName, Timestamp]

    def counts(self, group: Group) -> bool | None:
        """Return whether a group counts; None where that is undecided."""
        if not group.is_prepared:
            return True
        assert group.mark is not None
        if group.mark.ts in self.committed[group.mark.home]:
            return True
        return False if self.closed[group.mark.home] >= group.mark.ts else None

    def counted(self, groups: Sequence[Group]) -> tuple[Group, ...]:
        """Return the groups that count."""
        return tuple(group for group in groups if self.counts(group))


def decisions(groups: Groups, state: CollectionState) -> Decisions:
    """Return what logs and manifest say.

    Args:
        groups: of each channel, after what is flushed.
        state: of the manifest.
    """
    flushed = state.channels
    return Decisions(
        committed={
            name: frozenset(
                {group.last_ts for group in found if group.is_commit}
                | {ts for ts, _ in flushed[name].commits}
            )
            for name, found in groups.items()
        },
        closed={
            name: max(
                flushed[name].flushed_ts,
                max((group.last_ts for group in found), default=0),
            )
            for name, found in groups.items()
        },
    )


# Claiming


@dataclass(frozen=True, slots=True, kw_only=True)
class Claimed:
    """All channels in one hand: their logs, and the groups that count after what is flushed."""

    logs: Mapping[ChannelName, WriteAheadLog]
    groups: Groups


def claim_all(
    prefix: str,
    sight: Sight,
    stamps: Stamps,
    *,
    appendable: bool,
    generation: int,
    committer: str,
    permit: Permit = always,
) -> Procedure[Claimed]:
    """Become the owner of all channels; see the module for the steps.

    Raises:
        UnavailableError: another process claimed one of them at the same time.
        ConflictError: the same.
    """
    yield from sight.read()
    sight.view, changes = yield from take_epochs(  # a
        sight.log, sight.known, sight.channels,
        generation=generation, committer=committer, permit=permit)  # fmt: skip
    found: dict[ChannelName, Recovery] = {}
    for change in changes:  # b
        found[change.channel] = yield from claim(
            prefix, change.channel, change.epoch, sight.position(change.channel),
            appendable=appendable,
        )  # fmt: skip
    logs = {name: recovery.log for name, recovery in found.items()}
    groups = {name: recovery.groups for name, recovery in found.items()}
    state = sight.known.state
    stamps.observe(max(log.last_ts for log in logs.values()))
    stamps.observe(newest_version(state))
    decided = decisions(groups, state)
    for home in undecided_homes(groups, decided):  # c
        yield from logs[home].append((), Mark.close(stamps.next()))
    return Claimed(
        logs=logs, groups={name: decided.counted(groups[name]) for name in sight.channels}
    )


def take_epochs(
    log: ManifestLog[CollectionState],
    view: LogView[CollectionState],
    names: Sequence[ChannelName],
    *,
    generation: int,
    committer: str,
    permit: Permit = always,
) -> Procedure[tuple[LogView[CollectionState], Sequence[SetEpoch]]]:
    """Commit the next epoch of channels, also where a lower generation commits one meanwhile."""
    while True:
        permit()  # after the look: who becomes the owner later makes the commit fail
        epochs = {name: view.state.channels[name].epoch + 1 for name in names}
        changes = [SetEpoch(channel=name, epoch=epoch) for name, epoch in epochs.items()]
        try:
            return (yield from log.commit(
                view, changes, generation=generation, committer=committer
            )), changes  # fmt: skip
        except ConflictError:
            before, view = view, (yield from log.read(view))
            if view.entry_id == before.entry_id:
                raise


def undecided_homes(groups: Groups, decided: Decisions) -> tuple[ChannelName, ...]:
    """Return the homes of transactions that are neither committed nor closed."""
    homes = {
        group.mark.home
        for found in groups.values()
        for group in found
        if group.mark is not None and decided.counts(group) is None
    }
    return tuple(sorted(homes))


# Following


@dataclass(frozen=True, slots=True, kw_only=True)
class Followed:
    """How far a reader has followed the channels of another process.

    Attributes:
        entry_id: of the manifest entry whose files come before the groups.
        version: up to which all that counts was returned, and nothing above.
        cursors: how far each log was read.
        waiting: groups that were read, of versions above.
    """

    entry_id: int
    version: Timestamp
    cursors: Mapping[ChannelName, Cursor]
    waiting: Groups


def follow(
    prefix: str, sight: Sight, known: Followed | None, *, appendable: bool
) -> Procedure[tuple[Followed, Groups]]:
    """Read every write that was acknowledged before this call, perhaps more: all of one version.

    Returns:
        How far it is now; and by channel the groups that count, above the version before. Where
        `entry_id` is another than before they are all that come after the files of that entry.

    Raises:
        CorruptError, UnavailableError: see `wal.log.read_tail`.
    """
    while True:
        looks = _Looks(prefix, sight, known, appendable)
        yield from looks.look()  # d
        entry = sight.known
        if known is not None and known.entry_id != entry.entry_id:
            known = None  # files changed: all logs are read from there on
            continue
        newest = looks.newest
        yield from looks.look()  # e
        if sight.known is entry:
            return looks.up_to(newest)  # f
        known = None


class _Looks:
    """One attempt to read all logs, in several looks."""

    def __init__(self, prefix: str, sight: Sight, known: Followed | None, appendable: bool) -> None:
        self._prefix = prefix
        self._sight = sight
        self._appendable = appendable
        self._version = 0 if known is None else known.version
        self._cursors = {} if known is None else dict(known.cursors)
        self._found = {} if known is None else dict(known.waiting)

    def look(self) -> Procedure[None]:
        """Read on in all logs, the lowest first: a home before those that ask it."""
        if self._sight.view is None:
            yield from self._sight.read()
        for name in self._sight.channels:
            tail = yield from read_tail(
                self._prefix, name, self._sight.position(name),
                appendable=self._appendable, cursor=self._cursors.get(name),
            )  # fmt: skip
            self._cursors[name] = tail.cursor
            self._found[name] = (*self._found.get(name, ()), *tail.groups)

    @property
    def newest(self) -> Timestamp:
        """The newest timestamp that was met."""
        stamps = (g.last_ts for found in self._found.values() for g in found)
        return max([self._least, *stamps])

    @property
    def _least(self) -> Timestamp:
        """The version below which nothing is open: of files, and of what was read before."""
        flushed = (c.flushed_ts for c in self._sight.known.state.channels.values())
        return max(self._version, *flushed)

    def up_to(self, newest: Timestamp) -> tuple[Followed, Groups]:
        """Return the groups up to a timestamp, or below the transaction that is undecided."""
        state = self._sight.known.state
        groups = {
            name: tuple(g for g in found if g.lsn > state.channels[name].flushed_lsn)
            for name, found in self._found.items()
        }
        decided = decisions(groups, state)
        stamps = {g.last_ts: decided.counts(g) for found in groups.values() for g in found}
        open_ = min((ts for ts, counts in stamps.items() if counts is None), default=newest + 1)
        stamps = {0: True, self._least: True, **stamps}
        version = max(ts for ts in stamps if ts < open_ and ts <= newest)
        followed = Followed(
            entry_id=self._sight.known.entry_id,
            version=version,
            cursors=self._cursors,
            waiting={n: tuple(g for g in f if g.last_ts > version) for n, f in groups.items()},
        )
        return followed, {
            name: decided.counted([g for g in found if g.last_ts <= version])
            for name, found in groups.items()
        }
