"""Following a channel: another owner's writes, taken over from manifest and log, and read."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

from gpuvec.errors import channel_fenced, collection_gone, is_not_committed
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import WriteSummary
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.meta.retention import newest_version
from gpuvec.node.data_node import Beside, ChannelOwner, summaries
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.external import FilesOfOthers
from gpuvec.node.history import History, check_readable
from gpuvec.node.loader import Loader
from gpuvec.node.ports import Permit, Runner, Stamps, Together, always
from gpuvec.node.transaction import Sight
from gpuvec.segment.view import Snapshot
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore, Procedure
from gpuvec.storage.stamps import LastRead
from gpuvec.types import ChannelName, SegmentId, Timestamp
from gpuvec.wal.log import Cursor, Group, Tail, newest_log, read_tail

CHANNEL = ChannelName("s000")


class Follower:
    """The rows of one channel, as reads see them. Safe for use by several threads.

    Args:
        collection_id: whose channel this is.
        store: holds its files.
        run: runs procedures on that store.
        stamps: the oracle.
        mint: makes names that are never reused.
        flush_bytes: the size at which growing rows are flushed.
        committer: who this process is, for readers of the manifest.
        beside: see `ChannelOwner`.
        name: of the channel.
        sight: what was read of the manifest; several channels share one.
        together: all channels of the collection, where it has several.
        outside: reads files of others, where rows lie in them.
        permit: asked before a claim.
    """

    def __init__(
        self,
        collection_id: str,
        *,
        store: ObjectStore,
        run: Runner,
        stamps: Stamps,
        mint: Callable[[], SegmentId],
        flush_bytes: int,
        committer: str,
        beside: Beside,
        name: ChannelName = CHANNEL,
        sight: Sight | None = None,
        together: Together | None = None,
        outside: FilesOfOthers | None = None,
        permit: Permit = always,
    ) -> None:
        self.collection_id = collection_id
        self.name = name
        self._prefix = keys.collection(collection_id)
        self._store = store
        self._run = run
        self._stamps = stamps
        self._mint = mint
        self._flush_bytes = flush_bytes
        self._committer = committer
        self._beside = beside
        self._together = together
        self._outside = outside
        self._permit = permit
        self._sight = sight or Sight(ManifestLog(self._prefix, CollectionState()))
        self._manifest = self._sight.log
        self._installed = 0  # the entry that `_shard` shows
        self._cursor: Cursor | None = None
        self._owner: ChannelOwner | None = None
        self._loader: Loader | None = None
        self._shard: ShardDelegator | None = None
        folder = keys.manifest_folder(self._prefix)
        self._looked = LastRead(store, folder)
        self._followed = LastRead(store, folder, keys.wal_folder(self._prefix, name))
        self._lock = threading.RLock() if together is None else together.lock
        self._flush_lock = threading.Lock()
        self._history = History()
        self._replayed: list[WriteSummary] = []  # of another owner, in no file
        self._gone = ""  # its name, once the collection was dropped

    @property
    def _view(self) -> LogView[CollectionState] | None:
        return self._sight.view

    @_view.setter
    def _view(self, view: LogView[CollectionState]) -> None:
        self._sight.view = view

    @property
    def state(self) -> CollectionState:
        """The manifest as this process knows it."""
        assert self._view is not None, "refresh comes first"
        return self._view.state

    @property
    def shard(self) -> ShardDelegator:
        """The rows in memory and the open segments."""
        assert self._shard is not None, "refresh comes first"
        return self._shard

    @property
    def entry_id(self) -> int:
        """The newest entry of the manifest that this process knows."""
        return self._known.entry_id

    @property
    def shown_entry(self) -> int:
        """The entry of the manifest whose segments reads see; a look at the manifest is ahead."""
        return self._installed

    @property
    def owned(self) -> bool:
        """Whether this process writes to the channel."""
        return self._owner is not None

    def _check_there(self) -> None:
        if self._gone:
            raise collection_gone(self._gone)

    def refresh(self) -> None:
        """Take over what another process made durable; nothing to do for an owner."""
        if self._together is not None:
            self._together.refresh()
            return
        if self.owned:
            return
        stamp = self._followed.stamp(*newest_log(self._prefix, self.name, self._cursor))
        if self._gone or not self._followed.is_at(stamp):
            with self._lock:
                self._refresh()
                self._followed.note(stamp)

    def _refresh(self) -> None:
        self._check_there()
        if self.owned:
            return
        tail = self._run(self._tail(self._cursor))
        if self._cursor is not None and self._known.entry_id != self._installed:
            tail = self._run(self._tail(None))
        is_new = self._known.entry_id != self._installed
        with self._whole():
            self._cursor = tail.cursor
            if is_new or tail.groups:  # else reads go on with the same snapshot
                version = self.take_over(tail.groups, is_new=is_new)
                self.shard.publish(version)

    def take_over(self, groups: Sequence[Group], *, is_new: bool) -> Timestamp:
        """Follow another owner, under the lock; return what to publish.

        Args:
            groups: what it wrote since, and counts.
            is_new: whether they are all that come after the files of the manifest.
        """
        if is_new:
            self._install()
            self._replayed = []
        self._replayed += summaries(groups)
        return self._replay(groups)

    def _publish(self, version: Timestamp) -> None:
        """Let reads see what was applied; in all channels, so that they stay at one version."""
        if self._together is None:
            self.shard.publish(version)
        else:
            self._together.publish(version)

    def look(self) -> None:
        """Read the manifest alone: schema and partitions as they are now."""
        stamp = self._looked.stamp() if self._owner is None else None
        if self._owner is None and (self._gone or not self._looked.is_at(stamp)):
            with self._lock:
                self._check_there()
                self._view = self._run(self._manifest.read(self._view))
                self._looked.note(stamp)

    def confirm(self) -> None:
        """Look whether this process still owns the channel; if not, reads follow who does."""
        with self._lock:
            if self._owner is not None:
                self._view = self._run(self._manifest.read(self._view))
                if self.state.channels[self.name].epoch != self._owner.log.epoch:
                    self._disown()

    def snapshot(self, name: str, now_ms: int) -> Snapshot:
        """Return what is acknowledged now, at one version."""
        self.refresh()
        return self.seen(name, now_ms)

    def seen(self, name: str, now_ms: int) -> Snapshot:
        """Return the newest version that this process knows; asks the store nothing."""
        return self.shard.snapshot(name, now_ms)

    def steady(self) -> AbstractContextManager[Any]:
        """Return a block in which neither the manifest nor what reads see changes."""
        return self._lock

    def snapshots_at(self, name: str, *versions: Timestamp) -> list[Snapshot]:
        """Return what was visible at some versions, as views of the same segments.

        Raises:
            NotFoundError: `GV-641`, there is no such version yet.
            SnapshotExpiredError: `GV-640`, it was forgotten.
        """
        self.refresh()
        return self.seen_at(name, *versions)

    def seen_at(self, name: str, *versions: Timestamp, now_ms: int | None = None) -> list[Snapshot]:
        """Return versions that this process knows; asks the store nothing.

        Args: see `snapshots_at` and, for `now_ms`, `History.snapshots`.
        """
        newest, segments = self.shard.version, self.shard.published()
        state = self.state  # the last: what was forgotten before the segments changed is in it
        for version in versions:
            check_readable(state, name, version, newest)
        return self._history.snapshots(segments, state, name, versions, now_ms)

    def writes(self) -> list[WriteSummary]:
        """Return the writes that can be told of, oldest first, also those in no file."""
        self.refresh()
        later = self.unsaved_writes()  # before the state
        known = {write.ts: write for write in (*later, *self.state.history)}
        return [known[ts] for ts in sorted(known)]

    def unsaved_writes(self) -> tuple[WriteSummary, ...]:
        """Return the writes that are in no file, oldest first."""
        owner = self._owner
        return tuple(self._replayed) if owner is None else owner.unflushed()

    def _tail(self, cursor: Cursor | None) -> Procedure[Tail]:
        return read_tail(
            self._prefix,
            self.name,
            self._sight.position(self.name),
            appendable=self._store.appendable,
            cursor=cursor,
        )

    def _check_epoch(self, state: CollectionState) -> None:
        """Refuse what an owner commits who has been replaced."""
        mine = None if self._owner is None else self._owner.log.epoch
        newest = state.channels[self.name].epoch
        if mine is not None and mine != newest:
            raise channel_fenced(self.name, mine=mine, newest=newest, outcome="none")

    @property
    def _known(self) -> LogView[CollectionState]:
        assert self._view is not None
        return self._view

    def _install(self) -> None:
        state = self._known.state
        if self._shard is None:
            self._loader = Loader(
                self._store, state.schema.primary_key, prefix=self._prefix, outside=self._outside
            )
            self._shard = ShardDelegator(
                self.name, self._loader, self._mint, capacity_bytes=self._flush_bytes
            )
        self._shard.install(state)
        self._installed = self._known.entry_id

    def _replay(self, groups: Sequence[Group]) -> Timestamp:
        """Apply groups; return what to publish."""
        version = newest_version(self._known.state)
        for group in groups:
            for record in group.records:
                self.shard.apply(record)
                version = max(version, record.ts)
        return version

    def _disown(self) -> None:
        """Forget what is in memory: until the channel is claimed again, reads follow the log."""
        self.let_go()
        if self._together is not None:
            self._together.let_go()

    def let_go(self) -> None:
        """Forget what is in memory of this channel alone, under the lock."""
        self._owner = None
        self._installed = -1
        self._cursor = None
        self._followed.forget()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Forget what is in memory if a step fails or is interrupted: it may be half done."""
        try:
            yield
        except BaseException as error:
            if not is_not_committed(error):
                self._disown()
            raise

    @property
    def loader(self) -> Loader:
        """Opens the segments."""
        assert self._loader is not None, "refresh comes first"
        return self._loader
