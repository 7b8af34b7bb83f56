"""The embedded host: coordinators and one node in this process, and two threads.

Here, and only here, are the roles of an embedded database put together. Threads start at the
first write: one commits, one maintains.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, TypeVar

from gpuvec import errors
from gpuvec.api.committer import Committer, beside
from gpuvec.api.dropped import ID_PREFIX, DroppedFiles, delete_collection, unnamed_collections
from gpuvec.api.external_files import ExternalFiles
from gpuvec.api.glance import glance
from gpuvec.api.leases import Leases, told_expired
from gpuvec.api.location import Place, check_location
from gpuvec.api.maintenance import Maintenance
from gpuvec.api.writership import Writership
from gpuvec.clock import Clock, SystemClock
from gpuvec.coord.compaction import Wanted
from gpuvec.coord.data_coord import DataCoord, is_worth_a_segment
from gpuvec.coord.root_coord import RootCoord
from gpuvec.coord.tso import TimestampOracle
from gpuvec.meta.catalog import CollectionState, DatabaseState
from gpuvec.meta.changes import Change, InitCollection
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.node.shards import Channels, channel_names, open_channels
from gpuvec.node.transaction import Sight
from gpuvec.proxy.proxy import Proxy
from gpuvec.rpc import InProcessTransport
from gpuvec.schema import Schema
from gpuvec.segment.view import Snapshot
from gpuvec.storage import keys
from gpuvec.storage.local import LocalStore
from gpuvec.storage.object_store import Procedure, run
from gpuvec.storage.open import Store
from gpuvec.storage.remote_files import RemoteFiles
from gpuvec.storage.stamps import LastRead
from gpuvec.storage.verified import files_of
from gpuvec.types import NodeId, SegmentId, Timestamp

T = TypeVar("T")
NODE = NodeId("embedded")
WRITE_DEADLINE_S = 600.0
_WORTH_COLLECTING = 100  # entries of the database's log
_SWEEP_AGE_S = 3600.0  # temporary files of writes that died


class Engine:
    """One database in this process. Safe for use by several threads.

    Args:
        store: where it lies.
        where: its path, for messages.
        durability: of the store, for those who open it again.
        clock: where time comes from.
        flush_bytes: the size at which growing rows are flushed.
        age_s: the age of the oldest growing row at which they are flushed, unless they are few.
        segment_bytes: the size that compaction brings segments to, at most.
    """

    def __init__(
        self,
        store: Store,
        where: str,
        *,
        durability: str,
        clock: Clock | None = None,
        flush_bytes: int,
        age_s: float,
        segment_bytes: int = 1 << 30,
    ) -> None:
        check_location(store, where)
        self.where = where
        self.durability = durability
        self.storage_options: Mapping[str, Any] | None = None  # of the connection that opened it
        self.store = self._store = store
        self._clock = clock or SystemClock()
        self._flush_bytes = flush_bytes
        self._pid = os.getpid()
        self._committer_name = f"{socket.gethostname()}:{self._pid}"
        self._closed = False
        self._catalog = ManifestLog(keys.CATALOG, DatabaseState())
        self._writer = Writership(store, where, self._catalog, self.run)
        self._view: LogView[DatabaseState] | None = None
        self._followed = LastRead(store, keys.manifest_folder(keys.CATALOG))
        self._root = RootCoord(where)
        self._place = Place(store, where)
        self._stale = False  # the database's log may hold more than `_view`
        self._data = DataCoord(
            flush_bytes=flush_bytes, age_s=age_s, wanted=Wanted(size_bytes=segment_bytes)
        )
        self._oracle = TimestampOracle(self._clock)
        self._channels: dict[str, Channels] = {}
        self._unnamed: dict[str, str] = {}  # collections that are being filled, and their names
        self._names: dict[str, str] = {}  # for messages about collections that are gone
        self._dropped = DroppedFiles(lambda name: delete_collection(store, self.run, name))
        self._lock = threading.RLock()
        self._committer: Committer | None = None
        self.leases = Leases(self, self._clock)
        self.maintenance = Maintenance(self._data, self, self._clock, self.leases)
        self.builds = self.maintenance.builds
        transport = InProcessTransport()
        transport.serve(NODE, self._submit)
        self.proxy = Proxy(transport, lambda _: NODE, deadline_s=WRITE_DEADLINE_S)

    # Reading

    def snapshot(self, collection_id: str) -> Snapshot:
        """Return a collection at its newest version."""
        with self.glance(collection_id):
            name = self.name_of(collection_id)
            return self._channel(collection_id).snapshot(name, self.now_ms())

    def glance(self, collection_id: str, *, rows: bool = True) -> AbstractContextManager[None]:
        """Return a block in which a bucket is asked for news once; see `gpuvec.api.glance`."""
        catalog = self._writer.generation == 0 or self._stale
        channel = self._channels.get(collection_id)
        return glance(self._store, channel, catalog=catalog, rows=rows)

    @contextmanager
    def reading(self, collection_id: str) -> Iterator[Snapshot]:
        """Yield a collection at its newest version; its files stay meanwhile, even if dropped.

        Raises:
            NotFoundError: `GV-608`, it was dropped, perhaps by another process while it was read.
            SnapshotExpiredError: `GV-640`, files that it needs are no longer kept.
        """
        with self._kept(collection_id):
            yield self.snapshot(collection_id)

    @contextmanager
    def reading_at(
        self, collection_id: str, versions: Sequence[Timestamp]
    ) -> Iterator[list[Snapshot]]:
        """Yield a collection at some versions, as views of the same segments; else as `reading`."""
        with self._kept(collection_id):
            name = self.name_of(collection_id)
            yield self._channel(collection_id).snapshots_at(name, *versions)

    @contextmanager
    def _kept(self, collection_id: str) -> Iterator[None]:
        with self._dropped.kept(collection_id), self.leases.reading(collection_id):
            try:
                yield
            except errors.CorruptError as error:
                name = self.name_of(collection_id)  # a collection that is gone is not damaged
                raise told_expired(error, self.state(collection_id), name) from error

    def state(self, collection_id: str) -> CollectionState:
        """Return the newest manifest of a collection."""
        channel = self.channel(collection_id)
        channel.look()
        return channel.state

    def channel(self, collection_id: str) -> Channels:
        """Return the channels of a collection, following their logs."""
        self._check_usable()
        return self._channel(collection_id)

    def _channel(self, collection_id: str) -> Channels:
        found = self._channels.get(collection_id)
        if found is None:
            with self._lock:
                found = self._channels.get(collection_id)
                if found is None:
                    found = self._channels[collection_id] = self._open(collection_id)
        return found

    def root(self) -> RootCoord:
        """Return the root coordinator, told of what other processes did."""
        self._check_usable()
        if self._writer.generation == 0 or self._stale:
            with self._lock:
                self._follow()
        return self._root

    def _follow(self) -> None:
        stamp = self._followed.stamp()
        if self._stale or not self._followed.is_at(stamp):
            self._view = self.run(self._catalog.read(self._view))
            self._root.note(self._view.state)
            self._stale = False
            self._followed.note(stamp)

    def name_of(self, collection_id: str) -> str:
        """Return the present name of a collection.

        Raises:
            NotFoundError: `GV-608`, it was dropped.
        """
        self.root()
        return self._known_name(collection_id)

    def _known_name(self, collection_id: str) -> str:
        name = self._root.name_of(collection_id) or self._unnamed.get(collection_id)
        if name is None:
            raise errors.collection_gone(self._names.get(collection_id, collection_id))
        self._names[collection_id] = name
        return name

    # Collections

    def create(
        self,
        name: str,
        schema: Schema,
        more: Callable[[Timestamp], Sequence[Change]] | None = None,
        *,
        channels: int = 1,
    ) -> str:
        """Create a collection; return its id.

        Args:
            name: must be free.
            schema: the fields.
            more: further changes that it begins with, from a new timestamp.
            channels: how many.
        """
        with self._writing():
            collection_id = self._begin(name, schema, more, channels)
            self._commit(self._root.create(name, collection_id))
            return collection_id

    @contextmanager
    def creating(self, name: str, schema: Schema, *, channels: int = 1) -> Iterator[str]:
        """Yield the id of a new collection, which gets its name only if the block succeeds.

        Until then nobody else can find it, and what dies before leaves files without a name, which
        the next process that writes deletes.

        Args:
            name: must be free, at the end too.
            schema: the fields.
            channels: how many.
        """
        with self._writing():
            collection_id = self._begin(name, schema, None, channels)
            self._unnamed[collection_id] = name
        try:
            yield collection_id
            with self._writing():
                self._commit(self._root.create(name, collection_id))
        except BaseException:
            with suppress(errors.GpuvecError), self._writing():
                if self._root.name_of(collection_id) is None:
                    self._discard(collection_id, name)
            raise
        finally:
            del self._unnamed[collection_id]

    def _begin(
        self,
        name: str,
        schema: Schema,
        more: Callable[[Timestamp], Sequence[Change]] | None,
        channels: int,
    ) -> str:
        """Begin the log of a collection without a name; return its id."""
        collection_id = f"{ID_PREFIX}{self.mint()}"
        self._root.create(name, collection_id)  # checks the name
        log = ManifestLog(keys.collection(collection_id), CollectionState())
        first = InitCollection(
            collection_id=collection_id, schema=schema, channels=channel_names(channels)
        )
        view = self.run(log.read())
        then = [] if more is None else more(self.stamp())
        self.run(log.commit(view, [first, *then], **self._signed()))
        return collection_id

    def drop(self, name: str) -> None:
        """Forget a collection, then delete its files: now, or after reads that are under way."""
        with self._writing():
            _, collection_id = self._root.resolve(name)
            self._commit(self._root.drop(name))
            self._discard(collection_id, name)

    def _discard(self, collection_id: str, name: str) -> None:
        """Delete the files of a collection without a name: now, or after reads under way."""
        channel = self._channels.pop(collection_id, None)
        if channel is not None:
            channel.retire(name)
        self.builds.forget(collection_id)
        self._dropped.add([collection_id])
        self._dropped.delete()

    def rename(self, old: str, new: str) -> None:
        """Give a collection another name."""
        with self._writing():
            self._commit(self._root.rename(old, new))

    def alias(self, alias: str, name: str | None) -> None:
        """Point an alias to a collection, or with None forget it."""
        with self._writing():
            self._commit(self._root.alias(alias, name))

    def change(
        self,
        collection_id: str,
        decide: Callable[[CollectionState, Timestamp], Sequence[Change]],
    ) -> None:
        """Commit changes of a collection's schema, partitions, truncation or time to live."""
        with self._writing() as generation:
            self.name_of(collection_id)
            self.channel(collection_id).change(decide, generation)

    def pin(self, collection_id: str, changes: Sequence[Change]) -> None:
        """Commit pins of versions that are read here; also where another process writes."""
        self.channel(collection_id).pin(changes)

    def flush(self, collection_id: str) -> None:
        """Save a collection's growing rows in segment files."""
        with self.owning(collection_id) as (channel, generation):
            channel.flush(generation)

    @contextmanager
    def owning(self, collection_id: str) -> Iterator[tuple[Channels, int]]:
        """Yield a collection's channel and the generation, as the process that writes."""
        with self._writing() as generation:
            channel = self.channel(collection_id)
        with self._ruling():
            yield channel, generation

    # Writing

    def _submit(self, request: Any, deadline_s: float) -> Any:
        with self._writing():
            if self._committer is None:
                self._committer = Committer(self._write_group, self._maintain, self.where)
            committer = self._committer
        return committer.submit(request, deadline_s)

    def _write_group(self, collection_id: str, requests: Sequence[Any]) -> Sequence[Any]:
        self._place.check()
        name = self._known_name(collection_id)
        channel = self._channel(collection_id)
        with self._ruling():
            self.maintenance.admit(channel, self._flush_bytes)
            answers: Sequence[Any] = channel.write(name, requests, self._writer.generation)
        if any(isinstance(a, errors.UnavailableError) for a in answers) and self._is_replaced():
            answers = [errors.told_replaced(self.where, a) for a in answers]
        status = channel.status()
        self._data.note(status, self._clock.monotonic_s())
        if status.growing_bytes >= self._flush_bytes and self._committer is not None:
            self._committer.wake()
        return answers

    def _maintain(self) -> None:
        """Look whether this process still writes; do what is due; delete what was dropped."""
        self._place.check()
        if self._writer.is_look_due(self._clock.monotonic_s()):
            self._is_replaced()
        with self._lock:
            if not self._closed:
                self._dropped.delete()
        self.maintenance.tend()

    @property
    def generation(self) -> int:
        """Under which this process writes; 0 when it does not."""
        return self._writer.generation

    def writable(self) -> Sequence[Channels]:
        """See `gpuvec.api.builds.Host`."""
        return list(self._channels.values()) if self._writer.generation else []

    @contextmanager
    def _writing(self) -> Iterator[int]:
        """Hold the engine's lock as the process that writes; yield the generation."""
        with self._lock:
            self._check_usable()
            if self._writer.generation == 0:
                self._become_writer()
            elif self._stale:
                self._follow()
            with self._ruling():
                yield self._writer.generation

    def _become_writer(self) -> None:
        self._view, folders = self._writer.take(self._view, self._committer_name)
        self._root.note(self._view.state)
        self.run(self._catalog.collect(self._view, worth=_WORTH_COLLECTING))
        if isinstance(self._store, LocalStore):
            self._store.sweep(self.now_ms() / 1000 - _SWEEP_AGE_S)
        self._dropped.add(unnamed_collections(folders, self._root.name_of))

    @contextmanager
    def _ruling(self) -> Iterator[None]:
        """Tell the errors of a writer who was replaced from others."""
        try:
            yield
        except (errors.UnavailableError, errors.ConflictError) as error:
            if self._is_replaced():
                raise errors.writer_replaced(self.where, error) from error
            raise

    def _is_replaced(self) -> bool:
        """Look whether another process took over; if so, follow it, as any reader does."""
        with self._lock:
            wrote = self._writer.generation
            if self._writer.look(self._view) and wrote:
                self._stale = True
                for channel in self._channels.values():
                    channel.close()
            return self._writer.replaced

    def _commit(self, change: Change) -> None:
        assert self._view is not None
        self._stale = True  # until it is known what became of it
        self._view = self.run(self._catalog.commit(self._view, [change], **self._signed()))
        self._root.note(self._view.state)
        self._stale = False

    def _signed(self) -> dict[str, Any]:
        return {"generation": self._writer.generation, "committer": self._committer_name}

    # Life

    def close(self) -> None:
        """Finish the writes under way, save what is worth it, let go of the database."""
        if self.usable:
            self.leases.stop()
        with self._lock:
            if self._closed:
                return
            self._closed = True
            committer, self._committer = self._committer, None
        if os.getpid() != self._pid:
            return
        try:
            self.builds.stop()
            if committer is not None:
                committer.stop()
            if self._place.kept and self._writer.generation and not self._is_replaced():
                self._save()
        finally:
            self.abandon()
            self._store.close()

    def _save(self) -> None:
        """Flush what is worth a segment; delete what was dropped."""
        for collection_id, channel in self._channels.items():
            status = channel.status()
            if is_worth_a_segment(status) and self._root.name_of(collection_id) is not None:
                channel.flush(self._writer.generation)
            if channel.owned and self._root.name_of(collection_id) is not None:
                self.maintenance.finish(channel)
            channel.close()
        self._dropped.delete(read=True)

    @property
    def files(self) -> RemoteFiles | None:
        """What reads a bucket's files through caches; None for other stores."""
        return files_of(self._store)

    def abandon(self) -> None:
        """Let go of the lock; a forked child's came along, and shall end with the parent."""
        self._writer.release()

    @property
    def usable(self) -> bool:
        """Whether it is open and in its place, and this is the process that opened it."""
        return not self._closed and os.getpid() == self._pid and self._place.kept

    def _check_usable(self) -> None:
        if self._closed:
            raise errors.database_closed(self.where)
        if os.getpid() != self._pid:
            raise errors.forked(self.where)
        self._place.check()

    def _open(self, collection_id: str) -> Channels:
        self._known_name(collection_id)
        sight = Sight(ManifestLog(keys.collection(collection_id), CollectionState()))
        self.run(sight.read())
        return open_channels(
            sight,
            collection_id,
            store=self._store,
            run=self.run,
            stamps=self._oracle,
            mint=self.mint,
            flush_bytes=self._flush_bytes,
            committer=self._committer_name,
            beside=self.beside,
            outside=ExternalFiles(
                self,
                lambda: self._channel(collection_id).state.schema,
                lambda: self.name_of(collection_id),
            ),
        )

    def beside(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` on a thread of its own; return what waits for its end."""
        return beside(work)

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure on the store."""
        return run(procedure, self._store, self._clock)

    def stamp(self) -> Timestamp:
        """Return a timestamp above all others."""
        return self._oracle.next()

    def mint(self) -> SegmentId:
        """Make a name that is never reused."""
        return SegmentId(keys.ulid(self.now_ms(), secrets.token_hex(16)))

    def now_ms(self) -> int:
        """Return the time."""
        return self._clock.now_ms()
