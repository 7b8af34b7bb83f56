"""One channel on this node: it follows another's log until it claims the channel itself."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TypeVar

from gpuvec import telemetry
from gpuvec.errors import UnavailableError, channel_fenced
from gpuvec.messages import ChannelStatus, WriteReply, WriteRequest
from gpuvec.meta.catalog import ChannelState, CollectionState
from gpuvec.meta.changes import Change, WriteSummary
from gpuvec.meta.collect import Collected, Limits, collect_orphans
from gpuvec.meta.manifest import LogView
from gpuvec.meta.retention import newest_version
from gpuvec.node.data_node import ChannelLostError, ChannelOwner, answers_after
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.flush import Frozen, freeze, swap, write_files
from gpuvec.node.following import CHANNEL, Follower
from gpuvec.node.import_settle import Addition
from gpuvec.node.loader import Loader
from gpuvec.node.transaction import take_epochs
from gpuvec.storage.object_store import Procedure
from gpuvec.types import ChannelName, SegmentId, Timestamp
from gpuvec.wal.log import Group, WriteAheadLog, claim

__all__ = ["CHANNEL", "Channel"]
T = TypeVar("T")
_WORTH_COLLECTING = 100  # entries of a manifest
_REMEMBERED = 100_000  # writes


class Channel(Follower):
    """The rows of one channel, as follower or as owner. Safe for use by several threads.

    Args: see `Follower`.
    """

    @property
    def channels(self) -> tuple["Channel", ...]:
        """The collection's channels."""
        return (self,)

    def of(self, name: ChannelName) -> "Channel":
        """Return the channel of that name: this one."""
        return self

    def holding(self, segment_id: SegmentId) -> "Channel":
        """Return the channel that a segment is of: this one."""
        return self

    @property
    def owner(self) -> ChannelOwner:
        """What writes to the channel."""
        assert self._owner is not None, "claim comes first"
        return self._owner

    def own(self, generation: int) -> ChannelOwner:
        """Return the owner, which claims the channel if there is none."""
        with self._lock:
            self._check_there()
            if self._owner is None:
                self.claim(generation)
            return self.owner

    def own_newest(self, generation: int) -> None:
        """Own the channel, and know what readers have pinned meanwhile; under the lock."""
        mine = self.own(generation).log.epoch
        self._view = self._run(self._manifest.read(self._view))
        newest = self.state.channels[self.name].epoch
        if newest != mine:  # memory lacks what the newer owner did
            self._disown()
            raise channel_fenced(self.name, mine=mine, newest=newest, outcome="none")

    def retire(self, name: str) -> None:
        """End all writing, for good: the collection of that name was dropped. Waits for a flush."""
        with self._flush_lock, self._lock:
            self.retire_now(name)
            self._disown()

    def retire_now(self, name: str) -> None:
        """Refuse whatever comes, under the lock: the collection of that name was dropped."""
        self._gone = name

    def close(self) -> None:
        """End writing, once a flush under way is done."""
        with self._flush_lock, self._lock:
            if self._owner is not None:
                self.close_log()
                self._disown()

    def close_log(self) -> None:
        """Note where the log ends, under the lock; nothing is written to it any more."""
        if self._owner is not None:
            self._run(self._owner.log.close())

    # Owning

    def claim(self, generation: int) -> None:
        """Become the owner: fence off whoever was it, and replay the log.

        Raises:
            UnavailableError: another process claimed the channel at the same time.
            StorageError: the store cannot be written.
        """
        if self._together is not None:
            self._together.claim(generation)
            return
        with self._lock, self._whole():
            view = self._run(self._manifest.read(self._view))
            self._view, (change,) = self._run(
                take_epochs(
                    self._manifest,
                    view,
                    [self.name],
                    generation=generation,
                    committer=self._committer,
                    permit=self._permit,
                )
            )
            recovery = self._run(
                claim(
                    self._prefix,
                    self.name,
                    change.epoch,
                    self._sight.position(self.name),
                    appendable=self._store.appendable,
                )
            )
            self._stamps.observe(max(newest_version(self.state), recovery.log.last_ts))
            self.shard.publish(self.adopt(recovery.log, recovery.groups))

    def adopt(self, log: WriteAheadLog, groups: Sequence[Group]) -> Timestamp:
        """Become the owner with a claimed log, under the lock; return what to publish.

        Args:
            log: of this channel.
            groups: that count, after what is flushed.
        """
        history = () if self._together else self.state.history[-_REMEMBERED:]
        self._install()
        version = self._replay(groups)
        self._cursor = None
        self._owner = ChannelOwner(
            log,
            self.shard,
            self._stamps.next,
            beside=self._beside,
            groups=groups,
            flushed=[write for write in history if write.request_id],
            last_id=lambda: self.state.last_id,
        )
        return version

    def write(
        self, name: str, requests: Sequence[WriteRequest], generation: int
    ) -> list[WriteReply | Exception]:
        """Do a group of writes, durable when this returns; each has its own answer or error."""
        with self._lock:
            owner = self.own(generation)
            try:
                return list(self._run(owner.write(name, requests)))
            except ChannelLostError as lost:
                return self._recover(name, requests, generation, lost.cause)
            except BaseException:
                self._disown()
                raise

    def _recover(
        self,
        name: str,
        requests: Sequence[WriteRequest],
        generation: int,
        cause: BaseException,
    ) -> list[WriteReply | Exception]:
        self._disown()
        return answers_after(cause, lambda: self.own(generation), name, requests)

    def change(
        self, decide: Callable[[CollectionState, Timestamp], Sequence[Change]], generation: int
    ) -> None:
        """Commit changes of schema, partitions, truncation or time to live, and show them.

        Args:
            decide: from the newest state and a new timestamp to changes; none, and nothing is done.
            generation: of this process as the coordinator.
        """
        with self._lock:
            self.own_newest(generation)
            ts = self._stamps.next()
            changes = decide(self.state, ts)
            if not changes:
                return
            with self._whole():
                self.commit(changes, generation)
                self.follow_manifest()
                self.shard.publish(newest_version(self.state))

    def commit(self, changes: Sequence[Change], generation: int) -> None:
        """Commit changes to the manifest, under the lock."""
        self._view = self._commit(self._known, changes, generation)

    def follow_manifest(self) -> None:
        """Take over schema and the like from the manifest, under the lock; `publish` shows it."""
        self._installed = self._known.entry_id
        self.shard.follow(self.state)

    def pin(self, changes: Sequence[Change]) -> None:
        """Commit pins of versions; readers do so too, in the name of whoever owns the channel."""
        with self._lock:
            self._check_there()
            view = self._run(self._manifest.read(self._view))
            self._view = self._commit(view, changes, view.generation)
            if self.owned:
                self._installed = self._known.entry_id

    def _commit(
        self, view: LogView[CollectionState], changes: Sequence[Change], generation: int
    ) -> LogView[CollectionState]:
        with self._whole():  # it may be there: whoever comes next reads the log first
            return self._run(
                self._manifest.commit(
                    view,
                    changes,
                    generation=generation,
                    committer=self._committer,
                    check=self._check_epoch,
                )
            )

    # Flushing

    def flush(self, generation: int) -> bool:
        """Save all growing rows in files; return whether there were any. Writes go on meanwhile."""
        with self._flush_lock:
            return self.flush_now(generation)

    def flush_now(self, generation: int) -> bool:
        """Do as `flush`, while no other flush is under way."""
        if self._owner is not None and self._owner.unflushed():
            self._manifest.ready()
        with self._lock:
            owner = self._owner
            frozen = None if owner is None else freeze(owner)  # 1
        if owner is None or frozen is None:
            return False
        began_s = time.perf_counter()
        with telemetry.span("flush", collection=self.collection_id):
            self._run(write_files(frozen, self._prefix, self.name, self._mint))  # 2
        with self._lock:
            if self._owner is not owner:
                return False  # the channel was lost: its log has the rows
            with self._whole():
                self._commit_flush(frozen, owner, generation)  # 3
                assert self._loader is not None
                swap(frozen, owner, self._loader)  # 4
                fences = self._known.state.channels[self.name].fences
                self._run(owner.log.truncate(frozen.to_lsn, fences))  # 5
        frozen.tell(self.collection_id, time.perf_counter() - began_s)
        return True

    def add_files(
        self,
        prepare: Callable[[], Procedure[Addition | WriteSummary]],
        generation: int,
    ) -> WriteSummary:
        """Commit a write whose rows are in files already, at one timestamp, and show it.

        Args:
            prepare: decides on it, with every row of the channel in files and no write under way;
                or returns an earlier write, and nothing is done.
            generation: of this process as the coordinator.
        """
        with self._flush_lock:
            with self._lock:
                self.own(generation)
            self.flush_now(generation)  # most of it, while writes go on
            with self._lock:
                owner = self.own(generation)
                self.flush_now(generation)
                found = self._run(prepare())
                if isinstance(found, WriteSummary):
                    return found
                with self._whole():
                    self.commit(found.changes, generation)
                    self.place(found)
                    self.shard.publish(found.write.ts)
                owner.adopt(found.write)
                return found.write

    def place(self, addition: Addition) -> None:
        """Put this channel's part of what was committed in its place in memory; not published."""
        self._installed = self._known.entry_id
        assert self._loader is not None
        own = [record for record in addition.records if record.channel == self.name]
        mine = set(self.shard.sealed())
        for segment, rows in addition.deleted:
            if segment in mine:
                segment.delete(rows, addition.write.ts)
                segment.saved_deletes = len(segment.deletes)
        self.shard.swap((), [self._loader.load(record) for record in own])

    def take_ids(self, count: int, generation: int) -> int:
        """Return the first of so many new automatic keys."""
        with self._lock:
            return self.own(generation).take_ids(count)

    def collect(
        self, generation: int, limits: Limits | None = None, *, dry_run: bool = False
    ) -> Collected:
        """Delete files that no entry names: replaced ones, and those of work that died."""
        with self._flush_lock:
            return self.collect_now(generation, limits, dry_run=dry_run)

    def collect_now(
        self, generation: int, limits: Limits | None = None, *, dry_run: bool = False
    ) -> Collected:
        """Do as `collect`, while no flush is under way in any channel."""
        if self._gone:
            return Collected()
        _, collected = self._run(
            collect_orphans(
                self._manifest,
                self._known,
                self._prefix,
                generation=generation,
                committer=self._committer,
                limits=limits or Limits(),
                dry_run=dry_run,
            )
        )
        if not dry_run:
            view = self._run(self._manifest.read(self._known))
            self._run(self._manifest.collect(view, worth=_WORTH_COLLECTING))
        return collected

    def peek(self, look: Callable[[CollectionState, ShardDelegator], T], generation: int) -> T:
        """Return what a look at manifest and memory tells, between two writes."""
        with self._lock:
            self.own_newest(generation)
            return look(self.state, self.shard)

    @contextmanager
    def unflushed(self) -> Iterator[None]:
        """Let no flush begin, and wait for one under way."""
        with self._flush_lock:
            yield

    def replace(
        self,
        decide: Callable[[CollectionState, ShardDelegator], Sequence[Change]],
        fill: Callable[[ShardDelegator, Loader], None],
        generation: int,
    ) -> bool:
        """Commit that segments take the place of others, and let reads see it; return whether.

        Args:
            decide: from the newest state and the rows in memory to changes; none: nothing is done.
            fill: puts the new segments in their place, in memory.
            generation: of this process as the coordinator.
        """
        with self._lock:
            self.own_newest(generation)
            changes = decide(self.state, self.shard)
            if not changes:
                return False
            with self._whole():
                self._view = self._commit(self._known, changes, generation)
                self._installed = self._known.entry_id
                assert self._loader is not None
                fill(self.shard, self._loader)
                self.shard.follow(self.state)
                self._publish(newest_version(self.state))
            return True

    def _commit_flush(self, frozen: Frozen, owner: ChannelOwner, generation: int) -> None:
        channel: ChannelState = self._known.state.channels[self.name]
        change = frozen.change(self.name, owner.log.epoch, channel)
        try:
            self._view = self._commit(self._known, [change], generation)
        except UnavailableError:
            self._view = self._run(self._manifest.read(self._known))
            if self._known.state.channels[self.name].flushed_lsn != frozen.to_lsn:
                raise
            self._owner = owner  # it was committed after all
        self._installed = self._known.entry_id

    def status(self) -> ChannelStatus:
        """Return what is in no file."""
        owner = self._owner
        if owner is None:
            return ChannelStatus(collection_id=self.collection_id)
        unflushed = owner.unflushed()
        return ChannelStatus(
            collection_id=self.collection_id,
            growing_bytes=self.shard.growing_bytes,
            writes=len(unflushed),
            deletes=self.shard.unsaved_deletes,
            oldest=unflushed[0].ts if unflushed else None,
        )
