"""The embedded host: coordinators and one node in this process, and two threads.

Here, and only here, are the roles of an embedded database put together. Threads start at the
first write: one commits, one maintains.
"""

import os
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any, TypeVar

from gpuvec import errors, telemetry
from gpuvec.api.access import AccessControl
from gpuvec.api.channels import OpenChannels
from gpuvec.api.collections import Collections
from gpuvec.api.committer import Committer, beside
from gpuvec.api.dropped import DroppedFiles, delete_collection, unnamed_collections
from gpuvec.api.figures import events_of
from gpuvec.api.heavy import Workplace
from gpuvec.api.job_host import JobHost, LocalJobs
from gpuvec.api.leases import Leases
from gpuvec.api.location import Place, check_location
from gpuvec.api.maintenance import Maintenance
from gpuvec.api.names import Names
from gpuvec.api.quotas import admit
from gpuvec.api.reading import Reading
from gpuvec.api.works import WorkList, Works
from gpuvec.api.writership import Writership
from gpuvec.clock import Clock, SystemClock, pack_timestamp
from gpuvec.coord.compaction import Wanted
from gpuvec.coord.data_coord import DataCoord, is_worth_a_segment
from gpuvec.coord.tso import TimestampOracle
from gpuvec.events import Event
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.shards import Channels
from gpuvec.proxy.proxy import Proxy
from gpuvec.storage import keys
from gpuvec.storage.fsspec_store import FsspecStore
from gpuvec.storage.local import LocalStore
from gpuvec.storage.object_store import Procedure, run
from gpuvec.storage.open import Store
from gpuvec.storage.remote_files import RemoteFiles
from gpuvec.storage.verified import files_of
from gpuvec.types import SegmentId, Timestamp

T = TypeVar("T")
WRITE_DEADLINE_S = 600.0
WORTH_COLLECTING = 100  # entries of the database's log
_SWEEP_AGE_S = 3600.0  # temporary files of writes that died


class Engine(Reading):
    """One database in this process. Safe for use by several threads.

    Args:
        store: where it lies.
        where: its path, for messages.
        durability: of the store, for those who open it again.
        clock: where time comes from.
        flush_bytes: the size at which growing rows are flushed.
        age_s: the age of the oldest growing row at which they are flushed, unless they are few.
        segment_bytes: the size that compaction brings segments to, at most.

    Attributes:
        names: which collections there are, as the database's log says.
        channels: of the collections that are open here.
        collections: creates, drops and renames them.
        dropped: files of collections that are gone.
        leases: versions that are read here.
        maintenance: flushes, builds, compacts and collects.
        jobs: where batch jobs run.
        works: heavy work that runs, here or anywhere in the cluster.
        own_works: what runs here.
        workplace: where other processes do heavy work; None: nowhere.
        access: changes users, roles and quotas.
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
        self.committer_name = f"{socket.gethostname()}:{self._pid}"
        self._closed = False
        self.names = Names(store, where, self.run)
        self._writer = Writership(store, where, self.names.log, self.run)
        self._place = Place(store, where)
        self._data = DataCoord(
            flush_bytes=flush_bytes, age_s=age_s, wanted=Wanted(size_bytes=segment_bytes)
        )
        self.oracle = TimestampOracle(self._clock)
        self.dropped = DroppedFiles(lambda name: delete_collection(store, self.run, name))
        self._lock = threading.RLock()
        self.channels = OpenChannels(self, flush_bytes, self._lock)
        self.collections = Collections(self)
        self.access = AccessControl(self)
        self._committer: Committer | None = None
        self.workplace: Workplace | None = None
        self.leases = Leases(self, self._clock)
        self.own_works = Works(self._clock)
        self.works: WorkList = self.own_works
        self.maintenance = Maintenance(self._data, self, self._clock, self.leases)
        self.builds = self.maintenance.builds
        self.jobs: JobHost = LocalJobs(self)
        self.proxy = Proxy(lambda request: self._submit(request, WRITE_DEADLINE_S))

    # Changing a collection

    def change(
        self,
        collection_id: str,
        decide: Callable[[CollectionState, Timestamp], Sequence[Change]],
    ) -> None:
        """Commit changes of a collection's schema, partitions, truncation or time to live."""
        with self.writing(collection_id) as generation:
            self.name_of(collection_id)
            self.channel(collection_id).change(decide, generation)

    def pin(self, collection_id: str, changes: Sequence[Change]) -> None:
        """Commit pins of versions that are read here; also where another process writes."""
        self.channel(collection_id).pin(changes)

    def flush(self, collection_id: str) -> None:
        """Save a collection's growing rows in segment files."""
        with self.owning(collection_id) as (channel, generation):
            channel.own(generation)
            channel.flush(generation)

    @contextmanager
    def owning(self, collection_id: str) -> Iterator[tuple[Channels, int]]:
        """Yield a collection's channel and the generation, as the process that writes."""
        with self.writing(collection_id) as generation:
            channel = self.channel(collection_id)
        with self._ruling(collection_id):
            yield channel, generation

    def permit(self, collection_id: str) -> None:
        """Raise where this process may not become the owner of a collection's channels."""

    # Writing

    def _submit(self, request: Any, deadline_s: float) -> Any:
        with self.writing(request.collection_id):
            admit(self, request)
            committer = self._begin()
        return committer.submit(request, deadline_s)

    def _begin(self) -> Committer:
        """Return what commits, begun at its first use; under the lock."""
        if self._committer is None:
            self._committer = Committer(self._write_group, self._maintain, self.where)
        return self._committer

    def _write_group(self, collection_id: str, requests: Sequence[Any]) -> Sequence[Any]:
        self._place.check()
        name = self.names.name_of(collection_id)
        channel = self.channels.of(collection_id)
        with self._ruling(collection_id):
            self.maintenance.admit(channel, self._flush_bytes)
            generation = self.generation_of(collection_id)
            answers = self._told(collection_id, channel.write(name, requests, generation))
        status = channel.status()
        self._data.note(status, self._clock.monotonic_s())
        if status.growing_bytes >= self._flush_bytes and self._committer is not None:
            self._committer.wake()
        return answers

    def _told(self, collection_id: str, answers: Sequence[Any]) -> Sequence[Any]:
        """Return the answers to a group of writes, as of a writer who was replaced if it was."""
        if any(isinstance(a, errors.UnavailableError) for a in answers) and self._is_replaced():
            return [errors.told_replaced(self.where, a) for a in answers]
        return answers

    def _maintain(self) -> None:
        """Look whether this process still writes; do what is due; delete what was dropped."""
        self._place.check()
        if self._writer.is_look_due(self._clock.monotonic_s()):
            self._is_replaced()
        with self._lock:
            if not self._closed:
                self.dropped.delete()
        self.maintenance.tend()

    def log_of(self, collection_id: str) -> ManifestLog[CollectionState]:
        """Return a collection's log, as this process commits to it."""
        return ManifestLog(keys.collection(collection_id), CollectionState())

    def generation_of(self, collection_id: str) -> int:
        """Return the generation under which this process writes to a collection; 0: it does not."""
        return self._writer.generation

    def writable(self) -> Sequence[Channels]:
        """See `gpuvec.api.builds.Host`."""
        return self.channels.all() if self._writer.generation else []

    @contextmanager
    def writing(self, collection_id: str = "") -> Iterator[int]:
        """Hold the engine's lock as who writes to a collection or, "", to the database's log."""
        with self._lock:
            self._check_usable()
            if self._writer.generation == 0:
                self._become_writer()
            elif self.names.stale:
                self.names.follow()
            with self._ruling(collection_id):
                yield self._writer.generation

    def _become_writer(self) -> None:
        view, folders = self._writer.take(self.names.view, self.committer_name)
        self.names.note(view)
        self.oracle.observe(pack_timestamp(view.state.reserved_ms))
        self.run(self.names.log.collect(view, worth=WORTH_COLLECTING))
        if isinstance(self._store, LocalStore | FsspecStore):
            self._store.sweep(self.now_ms() / 1000 - _SWEEP_AGE_S)
        self.dropped.add(unnamed_collections(folders, self.names.root.name_of))

    @contextmanager
    def _ruling(self, collection_id: str) -> Iterator[None]:
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
            if self._writer.look(self.names.view) and wrote:
                self.names.stale = True
                for channel in self.channels.all():
                    channel.close()
            return self._writer.replaced

    def signature(self) -> dict[str, Any]:
        """Return what entries of this process in logs are signed with."""
        return {"generation": self._writer.generation, "committer": self.committer_name}

    # Life

    def close(self) -> None:
        """Finish the writes under way, save what is worth it, let go of the database."""
        if self.usable:
            self.jobs.stop()
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
            if self._place.kept:
                self._save()
        finally:
            self.abandon()
            self._store.close()

    def _save(self) -> None:
        """As the process that writes, flush what is worth a segment; delete what was dropped."""
        if not self._writer.generation or self._is_replaced():
            return
        for channel in self.channels.all():
            if self.names.root.name_of(channel.collection_id) is not None:
                if is_worth_a_segment(channel.status()):
                    channel.flush(self._writer.generation)
                if channel.owned:
                    self.maintenance.finish(channel)
            channel.close()
        self.dropped.delete(read=True)

    @property
    def files(self) -> RemoteFiles | None:
        """What reads a bucket's files through caches; None for other stores."""
        return files_of(self._store)

    def node_names(self) -> list[str]:
        """Return the nodes of the cluster that serves the database; none: no cluster does."""
        return []

    def events(self, limit: int) -> list[Event]:
        """Return what happened of late, oldest first; see `gpuvec.events`."""
        self.root()
        return events_of(self, telemetry.EVENTS.newest(), limit)

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

    def beside(self, work: Callable[[], None]) -> Callable[[], None]:
        """Run `work` on a thread of its own; return what waits for its end."""
        return beside(work)

    def run(self, procedure: Procedure[T]) -> T:
        """Run a procedure on the store."""
        return run(procedure, self._store, self._clock)

    def stamp(self) -> Timestamp:
        """Return a timestamp above all others."""
        return self.oracle.next()

    def mint(self) -> SegmentId:
        """Make a name that is never reused."""
        return SegmentId(keys.ulid(self.now_ms(), secrets.token_hex(16)))

    def at_work(self) -> AbstractContextManager[None]:
        """See `Maintenance.at_work`."""
        return self.maintenance.at_work()

    def now_ms(self) -> int:
        """Return the time."""
        return self._clock.now_ms()
