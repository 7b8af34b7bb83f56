"""All channels of a collection that has several, behind the face of one."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import Any

from gpuvec.errors import bad_channel_count, collection_gone, is_not_committed
from gpuvec.messages import ChannelStatus, WriteReply, WriteRequest
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change, WriteSummary
from gpuvec.meta.collect import Collected, Limits
from gpuvec.meta.retention import newest_version
from gpuvec.node.all_shards import AllShards, merged
from gpuvec.node.channel import Channel
from gpuvec.node.data_node import Beside, ChannelLostError, answers_after
from gpuvec.node.history import History, check_readable
from gpuvec.node.import_settle import Addition
from gpuvec.node.ports import Permit, Runner, Stamps, always
from gpuvec.node.spanning import SpanningWriter
from gpuvec.node.transaction import Followed, Sight, claim_all, follow
from gpuvec.segment.routing import MOST_CHANNELS
from gpuvec.segment.view import Snapshot
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore, Procedure
from gpuvec.storage.stamps import LastRead
from gpuvec.types import ChannelName, SegmentId, Timestamp
from gpuvec.wal.log import newest_log


class Shards:
    """The rows of one collection, in several channels. Safe for use by several threads.

    One process owns all channels or none; their changes happen under one lock, and what a group of
    writes did becomes visible in all of them at once.

    Args:
        sight: what was read of the manifest: the channels stand in it.
        make: makes one of the channels.
        collection_id, store, run, stamps, committer, beside, permit: see `Channel`.
    """

    def __init__(
        self,
        collection_id: str,
        *,
        sight: Sight,
        store: ObjectStore,
        run: Runner,
        stamps: Stamps,
        committer: str,
        beside: Beside,
        make: Callable[[ChannelName, "Shards"], Channel],
        permit: Permit = always,
    ) -> None:
        self.collection_id = collection_id
        self.lock = threading.RLock()
        self._prefix = keys.collection(collection_id)
        self._sight = sight
        self._store = store
        self._run = run
        self._stamps = stamps
        self._committer = committer
        self._beside = beside
        self._permit = permit
        self.channels = tuple(make(name, self) for name in sight.channels)
        folders = [keys.wal_folder(self._prefix, name) for name in sight.channels]
        self._read = LastRead(store, keys.manifest_folder(self._prefix), *folders)
        self._followed: Followed | None = None
        self._writer: SpanningWriter | None = None
        self._history = History()
        self._gate = threading.Lock()  # of what reads see
        self._gone = ""

    def of(self, name: ChannelName) -> Channel:
        """Return one of the channels."""
        return next(channel for channel in self.channels if channel.name == name)

    def holding(self, segment_id: SegmentId) -> Channel:
        """Return the channel that a segment is of; any, where it is gone."""
        record = self.state.segments.get(segment_id)
        return self.channels[0] if record is None else self.of(record.channel)

    @property
    def state(self) -> CollectionState:
        """The manifest as this process knows it."""
        return self._sight.known.state

    @property
    def entry_id(self) -> int:
        """See `Channel.entry_id`."""
        return self._sight.known.entry_id

    @property
    def shown_entry(self) -> int:
        """See `Channel.shown_entry`."""
        return self.entry_id if self.owned else getattr(self._followed, "entry_id", -1)

    @property
    def shard(self) -> AllShards:
        """The open segments of all channels."""
        return AllShards(self.channels)

    @property
    def owned(self) -> bool:
        """Whether this process writes to the channels."""
        return self._writer is not None and all(channel.owned for channel in self.channels)

    # Following

    def refresh(self) -> None:
        """Take over what another process made durable; nothing to do for an owner."""
        if self.owned:
            return
        cursors = {} if self._followed is None else self._followed.cursors
        logs = [newest_log(self._prefix, name, cursor) for name, cursor in cursors.items()]
        stamp = self._read.stamp(*(log for found in logs for log in found))
        if self._gone or not self._read.is_at(stamp):
            with self.lock:
                self._refresh()
                self._read.note(stamp)

    def _refresh(self) -> None:
        self._check_there()
        if self.owned:
            return
        if any(channel.owned for channel in self.channels):
            self.let_go()
        before = self._followed
        with self._whole():
            self._followed, groups = self._run(
                follow(self._prefix, self._sight, before, appendable=self._store.appendable)
            )
            is_new = before is None or self._followed.entry_id != before.entry_id
            if is_new or any(groups.values()):  # else reads go on with the same snapshots
                self.publish(
                    max(
                        channel.take_over(groups[channel.name], is_new=is_new)
                        for channel in self.channels
                    )
                )

    def look(self) -> None:
        """Read the manifest alone: schema and partitions as they are now."""
        self.channels[0].look()

    def snapshot(self, name: str, now_ms: int) -> Snapshot:
        """Return what is acknowledged now, at one version of all channels."""
        self.refresh()
        return self.seen(name, now_ms)

    def seen(self, name: str, now_ms: int) -> Snapshot:
        """See `Channel.seen`."""
        with self._gate:
            found = [channel.shard.snapshot(name, now_ms) for channel in self.channels]
        version = max(snapshot.version for snapshot in found)
        segments = tuple(segment for snapshot in found for segment in snapshot.segments)
        return replace(found[0], version=version, segments=segments)

    def snapshots_at(self, name: str, *versions: Timestamp) -> list[Snapshot]:
        """See `Channel.snapshots_at`."""
        self.refresh()
        return self.seen_at(name, *versions)

    def seen_at(self, name: str, *versions: Timestamp, now_ms: int | None = None) -> list[Snapshot]:
        """See `Channel.seen_at`."""
        with self._gate:
            newest = self.shard.version
            segments = [found for each in self.channels for found in each.shard.published()]
        state = self.state  # the last: what was forgotten before the segments changed is in it
        for version in versions:
            check_readable(state, name, version, newest)
        return self._history.snapshots(segments, state, name, versions, now_ms)

    def writes(self) -> list[WriteSummary]:
        """Return the writes that can be told of, oldest first: one line for all parts of each."""
        self.refresh()
        with self.lock:
            return merged([*self.state.history, *self.unsaved_writes()])

    def unsaved_writes(self) -> tuple[WriteSummary, ...]:
        """See `Channel.unsaved_writes`; one line per channel of each."""
        return tuple(line for channel in self.channels for line in channel.unsaved_writes())

    def publish(self, version: Timestamp) -> None:
        """Let reads see what was applied in all channels, at once."""
        with self._gate:
            for channel in self.channels:
                channel.shard.publish(version)

    # Owning

    def claim(self, generation: int) -> None:
        """Become the owner of all channels; see `Channel.claim`."""
        with self.lock, self._whole():
            self._check_there()
            self.let_go()
            claimed = self._run(
                claim_all(
                    self._prefix, self._sight, self._stamps, appendable=self._store.appendable,
                    generation=generation, committer=self._committer, permit=self._permit,
                )
            )  # fmt: skip
            self.publish(
                max(
                    channel.adopt(claimed.logs[channel.name], claimed.groups[channel.name])
                    for channel in self.channels
                )
            )
            self._writer = SpanningWriter(
                {channel.name: channel.owner for channel in self.channels},
                self._stamps.next,
                flushed=merged([line for line in self.state.history if line.request_id]),
                run=self._run,
                beside=self._beside,
                publish=self.publish,
            )

    def confirm(self) -> None:
        """See `Channel.confirm`: who owns one channel owns all."""
        self.channels[0].confirm()

    def own(self, generation: int) -> SpanningWriter:
        """Return what writes, after claiming the channels if need be."""
        with self.lock:
            self._check_there()
            if not self.owned:
                self.claim(generation)
            assert self._writer is not None
            return self._writer

    def _check_there(self) -> None:
        if self._gone:
            raise collection_gone(self._gone)

    def let_go(self) -> None:
        """Forget what is in memory: until the channels are claimed again, reads follow the logs."""
        self._writer = None
        self._followed = None
        self._read.forget()
        for channel in self.channels:
            channel.let_go()

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """Forget what is in memory if a step fails or is interrupted: it may be half done."""
        try:
            yield
        except BaseException as error:
            if not is_not_committed(error):
                self.let_go()
            raise

    def retire(self, name: str) -> None:
        """End all writing, for good: the collection of that name was dropped."""
        with self.unflushed(), self.lock:
            self._gone = name
            for channel in self.channels:
                channel.retire_now(name)
            self.let_go()

    def close(self) -> None:
        """End writing, once flushes under way are done."""
        with self.unflushed(), self.lock:
            for channel in self.channels:
                channel.close_log()
            self.let_go()

    def write(
        self, name: str, requests: Sequence[WriteRequest], generation: int
    ) -> list[WriteReply | Exception]:
        """Do a group of writes, durable when this returns; each has its own answer or error."""
        with self.lock, self._whole():
            writer = self.own(generation)
            try:
                return writer.write(name, requests)
            except ChannelLostError as lost:
                self.let_go()
                return answers_after(lost.cause, lambda: self.own(generation), name, requests)

    def take_ids(self, count: int, generation: int) -> int:
        """Return the first of so many new automatic keys."""
        with self.lock:
            return self.own(generation).take_ids(count)

    def change(
        self, decide: Callable[[CollectionState, Timestamp], Sequence[Change]], generation: int
    ) -> None:
        """Commit changes of schema, partitions or time to live; see `Channel.change`."""
        with self.lock:
            self.own(generation)
            self.channels[0].own_newest(generation)
            if not (changes := decide(self.state, self._stamps.next())):
                return
            with self._whole():
                self.channels[0].commit(changes, generation)
                for channel in self.channels:
                    channel.follow_manifest()
                self.publish(newest_version(self.state))

    def pin(self, changes: Sequence[Change]) -> None:
        """See `Channel.pin`."""
        self.channels[0].pin(changes)

    # Files

    def flush(self, generation: int) -> bool:
        """Save all growing rows in files, channel by channel; return whether there were any."""
        return any([channel.flush(generation) for channel in reversed(self.channels)])

    def add_files(
        self, prepare: Callable[[], Procedure[Addition | WriteSummary]], generation: int
    ) -> WriteSummary:
        """Commit a write whose rows are in files already, in all channels; see `Channel`."""
        with self.unflushed():
            with self.lock:
                self.own(generation)
            self._flush_now(generation)  # most of it, while writes go on
            with self.lock:
                self.own(generation)
                self._flush_now(generation)
                writer = self.own(generation)
                found = self._run(prepare())
                if isinstance(found, WriteSummary):
                    return found
                with self._whole():
                    self.channels[0].commit(found.changes, generation)
                    for channel in self.channels:
                        channel.place(found)
                    self.publish(found.write.ts)
                writer.adopt(found.write)
                return found.write

    def _flush_now(self, generation: int) -> None:
        for channel in reversed(self.channels):
            channel.flush_now(generation)

    @contextmanager
    def unflushed(self) -> Iterator[None]:
        """Let no flush begin in any channel, and wait for those under way."""
        with ExitStack() as stack:
            for channel in self.channels:
                stack.enter_context(channel.unflushed())
            yield

    def collect(
        self, generation: int, limits: Limits | None = None, *, dry_run: bool = False
    ) -> Collected:
        """See `Channel.collect`."""
        with self.unflushed():
            return self.channels[0].collect_now(generation, limits, dry_run=dry_run)

    def status(self) -> ChannelStatus:
        """Return what is in no file, of all channels."""
        found = [channel.status() for channel in self.channels]
        return ChannelStatus(
            collection_id=self.collection_id,
            growing_bytes=sum(status.growing_bytes for status in found),
            writes=sum(status.writes for status in found),
            deletes=sum(status.deletes for status in found),
            oldest=min((s.oldest for s in found if s.oldest is not None), default=None),
        )


Channels = Channel | Shards


def check_channel_count(count: object) -> None:
    """Raise `QueryError` GV-651 when a collection cannot have so many channels."""
    if not isinstance(count, int) or isinstance(count, bool) or not 1 <= count <= MOST_CHANNELS:
        raise bad_channel_count(count, MOST_CHANNELS)


def channel_names(count: int) -> tuple[ChannelName, ...]:
    """Return the names of a new collection's channels, the lowest first."""
    return tuple(ChannelName(f"s{number:03d}") for number in range(count))


def open_channels(sight: Sight, collection_id: str, **wiring: Any) -> Channels:
    """Return a collection's channels, following their logs.

    Args:
        sight: of its manifest, which has been read.
        collection_id: of the collection.
        wiring: the other arguments of `Channel`.
    """

    def make(name: ChannelName, together: Shards) -> Channel:
        return Channel(collection_id, sight=sight, name=name, together=together, **wiring)

    found: Channels
    if len(sight.channels) > 1:
        needed = ("store", "run", "stamps", "committer", "beside", "permit")
        own = {name: wiring[name] for name in needed if name in wiring}
        found = Shards(collection_id, sight=sight, make=make, **own)
    else:
        found = Channel(collection_id, sight=sight, **wiring)
    found.refresh()
    return found
