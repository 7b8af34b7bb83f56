"""`CoordinatorEngine`: names, generation and dropped files of a database that a cluster serves.

It holds what one process alone may hold: the lock of a directory, the newest generation of the
database's log. It owns no channels; collections are written by the nodes that it names.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from gpuvec import errors
from gpuvec.api.collections import Collections
from gpuvec.api.engine import WORTH_COLLECTING, Engine
from gpuvec.api.job_host import LocalJobs
from gpuvec.clock import Clock
from gpuvec.cluster.commits import Desk
from gpuvec.cluster.doors import Doors
from gpuvec.cluster_messages import CallCoordinator, Called, OpenDatabase
from gpuvec.messages import WorkLine
from gpuvec.meta.changes import Change, GrantLeases, ReserveTime
from gpuvec.schema import Schema
from gpuvec.storage.open import Store
from gpuvec.types import NodeId


class CoordinatorEngine(Engine):
    """One database at its coordinator. Safe for use by several threads.

    Args:
        store: where it lies.
        where: its path, for messages.
        disown: called before a collection is dropped, outside of all locks: returns when no node
            owns it any more, and none will.
        durability, clock, flush_bytes, age_s, segment_bytes: see `Engine`.
    """

    def __init__(
        self,
        store: Store,
        where: str,
        *,
        disown: Callable[[str], None],
        durability: str,
        clock: Clock | None = None,
        flush_bytes: int,
        age_s: float,
        segment_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(
            store,
            where,
            durability=durability,
            clock=clock,
            flush_bytes=flush_bytes,
            age_s=age_s,
            segment_bytes=segment_bytes,
        )
        self.collections = _Collections(self, disown)
        self.jobs: LocalJobs = LocalJobs(self, by_cluster=True)
        self.doors = Doors()
        self._works: dict[NodeId, tuple[WorkLine, ...]] = {}  # heavy work, as nodes tell of it
        self.begun: dict[str, str] = {}  # collections that are being filled, and their names to be
        self.leaving: set[str] = set()  # collections that are being dropped
        self._methods: dict[str, Callable[..., Any]] = {
            "create": self.collections.create_whole,
            "begin": self.collections.begin,
            "name": self.collections.name,
            "discard": self.collections.discard,
            "drop": self.collections.drop,
            "rename": self.collections.rename,
            "alias": self.collections.alias,
            "events": lambda limit: [event.to_dict() for event in self.events(limit)],
            "run_job": lambda job_id: self.jobs.launch(job_id),
            "access": self.access.do,
        }

    def rule(self) -> int:
        """Become the coordinator; return the generation.

        Raises:
            ConflictError: `GV-602`, a process writes to the directory; `GV-538`, replaced before.
            StorageError: the store cannot be written, or not safely: `GV-531`.
        """
        with self.writing() as generation:
            return generation

    def admit(self, message: OpenDatabase) -> None:
        """Let a client in.

        Raises:
            AccessDeniedError: `GV-720`, the database has users, and this is none of them.
        """
        self.doors.admit(message, self.names.root.access)

    def call(self, message: CallCoordinator, _: float) -> Called:
        """Do what a client wants with names, users, roles or quotas.

        Raises:
            AccessDeniedError: `GV-721`, its user may not.
            GpuvecError: what comes of it embedded.
            UnsupportedError: `GV-746`, there is no such method.
        """
        method = self._methods.get(message.method)
        if method is None and message.method != "works":
            raise errors.not_from_here(message.method)
        self.doors.check(message, self.names.root, self.where)
        if method is None:
            return Called(value=self._works_for(message.client))
        return Called(value=method(**message.arguments))

    def note_works(self, node: NodeId, lines: tuple[WorkLine, ...]) -> None:
        """Note the heavy work that a node tells of."""
        self._works[node] = lines

    def _works_for(self, client: str) -> list[WorkLine]:
        """Return heavy work of the collections that a client may read."""
        may = self.doors.reader(client, self.names.root.access)
        told = [line for lines in list(self._works.values()) for line in lines]
        return [line for line in told if may(line.collection_id)]

    def desk(self, owns: Callable[[str, int], bool]) -> Desk:
        """Return where nodes have entries committed, once this rules; see `Desk`."""
        return Desk(self.run, self.generation, owns=owns, there=self._is_there)

    def _is_there(self, collection_id: str) -> bool:
        named = self.names.root.name_of(collection_id) is not None
        return (named or collection_id in self.begun) and collection_id not in self.leaving

    def ids(self) -> dict[str, str]:
        """Return id to name of all collections, also of those that are being filled.

        Not of those that are being dropped: from here on nobody owns them.
        """
        root = self.root()
        named = {}
        for name in root.names():
            _, collection_id = root.resolve(name)
            named[collection_id] = name
        found = {**self.begun, **named}
        return {name: found[name] for name in found.keys() - self.leaving}

    @property
    def generation(self) -> int:
        """Under which it rules; 0: not yet, or not any more."""
        return self._writer.generation

    @property
    def lease_s(self) -> float:
        """How long leases may live on that this coordinator, or the one before, gave."""
        view = self.names.view
        return view.state.lease_s if view is not None else 0.0

    @property
    def reserved_ms(self) -> int:
        """Below which the timestamps of nodes are, by its word or that of the one before."""
        view = self.names.view
        return view.state.reserved_ms if view is not None else 0

    def grant_leases(self, lease_s: float, until_ms: int) -> None:
        """Commit how long leases may live on from here on; 0: none is out.

        Args:
            lease_s: of each.
            until_ms: see `reserve`.
        """
        changes = [GrantLeases(lease_s=lease_s), ReserveTime(until_ms=until_ms)]
        with self.writing():
            self.names.commit(*changes, **self.signature())

    def reserve(self, until_ms: int) -> None:
        """Commit below which time the timestamps of nodes stay."""
        with self.writing():
            self.names.commit(ReserveTime(until_ms=until_ms), **self.signature())
            view = self.names.view
        if view is not None and view.entry_id % WORTH_COLLECTING == 0:
            self.run(self.names.log.collect(view))

    def confirm(self) -> bool:
        """Return whether the log as it is now knows no later coordinator; `StorageError` else."""
        newest = self.run(self.names.log.read(self.names.view))
        return bool(newest.generation <= self.generation_of(""))

    def tend(self) -> bool:
        """Delete what was dropped; return whether this is still the coordinator.

        Raises:
            StorageError: the store fails; or `GV-613`, its folder was moved.
        """
        self._place.check()
        if self._writer.is_look_due(self._clock.monotonic_s()) and self._is_replaced():
            return False
        with self._lock:
            if not self._closed:
                self.dropped.delete()
        return not self._writer.replaced


class _Collections(Collections):
    """See `Collections`: what clients ask for may be asked for twice, and owners end first."""

    _engine: CoordinatorEngine

    def __init__(self, engine: CoordinatorEngine, disown: Callable[[str], None]) -> None:
        super().__init__(engine)
        self._disown = disown

    def create_whole(
        self, collection_id: str, name: str, schema: Schema, then: Sequence[Change], channels: int
    ) -> None:
        """Create a collection with an id that the client made; done before, it is done."""
        with self._engine.writing():
            if self._engine.names.root.id_of(name) != collection_id:
                self.begin(collection_id, name, schema, then, channels)
                self.name(collection_id, name)

    def begin(
        self, collection_id: str, name: str, schema: Schema, then: Sequence[Change], channels: int
    ) -> None:
        """See `Collections.begin`; done before, it is done."""
        if collection_id not in self._engine.begun:
            super().begin(collection_id, name, schema, then, channels)
            self._engine.begun[collection_id] = name

    def name(self, collection_id: str, name: str) -> None:
        """See `Collections.name`; done before, it is done."""
        with self._engine.writing():
            if self._engine.names.root.id_of(name) != collection_id:
                if collection_id not in self._engine.begun:
                    raise errors.creation_cut(name)  # its files may be deleted already
                super().name(collection_id, name)
            self._engine.begun.pop(collection_id, None)

    def discard(self, collection_id: str, name: str) -> None:
        """See `Collections.discard`."""
        with self._leaving(collection_id):
            self._engine.begun.pop(collection_id, None)
            super().discard(collection_id, name)

    def drop(self, name: str) -> None:
        """See `Collections.drop`."""
        with self._engine.writing():
            _, collection_id = self._engine.names.root.resolve(name)
            self._engine.names.root.drop(name)  # refuses an alias
        with self._leaving(collection_id):
            super().drop(name)

    @contextmanager
    def _leaving(self, collection_id: str) -> Iterator[None]:
        """Let nobody own a collection, from now until it is gone."""
        self._engine.leaving.add(collection_id)
        try:
            self._disown(collection_id)
            yield
        finally:
            self._engine.leaving.discard(collection_id)
