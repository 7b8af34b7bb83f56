"""`ClusterEngine`: the engine of a client: it reads the store as any process may, others write.

Names and manifests are read from the store, so they are as new as the last commit, whoever made it.
Writes and the methods that change a collection go to its owner; changes of names to the
coordinator; reads are spread over the nodes.
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn, Protocol, TypeVar

from gpuvec import errors
from gpuvec.api.access import AccessControl
from gpuvec.api.collections import Collections, First
from gpuvec.api.engine import Engine
from gpuvec.api.maintenance import Maintenance
from gpuvec.clock import Clock
from gpuvec.cluster.at_owner import REPEATABLE, SETTINGS
from gpuvec.cluster.commits import COMMIT_S, OwnersLog, Standing
from gpuvec.cluster.job_calls import RemoteJobs, RemoteWorks
from gpuvec.cluster.warned import give
from gpuvec.cluster_messages import (
    COORDINATOR,
    CallCoordinator,
    Called,
    CallOwner,
    CloseDatabase,
    DatabaseRef,
    GetRoutes,
    OpenDatabase,
)
from gpuvec.events import Event, event_of
from gpuvec.messages import WriteReply, WriteRequest
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change
from gpuvec.proxy.calls import Submits, TransportCalls
from gpuvec.proxy.guard import Guard
from gpuvec.proxy.owner_calls import OwnerCalls
from gpuvec.proxy.proxy import Proxy
from gpuvec.proxy.router import Router
from gpuvec.rpc import Transport
from gpuvec.schema import Schema
from gpuvec.settings import config
from gpuvec.storage.object_store import Procedure, answered
from gpuvec.storage.open import Store
from gpuvec.types import Timestamp

NAMES_DEADLINE_S = 60.0
WORK_DEADLINE_S = 86_400.0  # of an owner's method; one that hangs is noticed by its silence
CLOSE_DEADLINE_S = 30.0  # nodes save what they own first
_PAUSE_S = 0.2
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """For whom a client works; see `OpenDatabase`."""

    user: str = ""
    password: str = field(default="", repr=False)
    node: str = ""


class Reach(Transport, Submits, Protocol):
    """A transport that also begins calls without waiting for them."""


class ClusterEngine(Engine):
    """One database in the process of a client. Safe for use by several threads.

    Args:
        store: where it lies.
        reference: how all processes open it.
        transport: reaches coordinator and nodes.
        credentials: for whom.
        clock, flush_bytes, age_s, segment_bytes: see `Engine`.

    Attributes:
        router: the nodes, as reads find them; routes that the coordinator pushes go to `apply`.
    """

    def __init__(
        self,
        store: Store,
        reference: DatabaseRef,
        *,
        transport: Reach,
        credentials: Credentials,
        clock: Clock | None = None,
        flush_bytes: int,
        age_s: float,
        segment_bytes: int = 1 << 30,
    ) -> None:
        super().__init__(
            store,
            reference.url,
            durability=reference.durability,
            clock=clock,
            flush_bytes=flush_bytes,
            age_s=age_s,
            segment_bytes=segment_bytes,
        )
        self.storage_options = reference.storage_options
        self.reference = reference
        self.client = secrets.token_hex(8)  # who holds the database open
        self._transport = transport
        self._opened = False
        self._credentials = credentials
        self.guard = Guard(
            credentials.user,
            lambda: self.root().access,
            self._shown_name,
            self._clock.monotonic_s,
            trusted=bool(credentials.node),
        )
        calls = TransportCalls(transport, self._clock)
        self.router = Router(
            reference.identity, calls, learn=transport.learn, admit=self.guard.read
        )
        self.access = _RemoteAccess(self)
        self.owners = OwnerCalls(self.router, self._shown_name)
        self.proxy = Proxy(self._send)
        self.collections = _RemoteCollections(self)
        self.maintenance = _OwnersMaintenance(self)
        self.jobs = RemoteJobs(self)
        self.works = RemoteWorks(self)

    def open(self) -> None:
        """Have the coordinator hold the database until `close`."""
        self._ask(self.opening())
        self._opened = True

    def opening(self) -> OpenDatabase:
        """Return what keeps the database open, said again and again."""
        told = self._credentials
        return OpenDatabase(
            database=self.reference,
            client=self.client,
            user=told.user,
            password=told.password,
            node=told.node,
        )

    def spread(self) -> Router:
        """See `Engine.spread`."""
        self._check_usable()
        return self.router

    def _shown_name(self, collection_id: str) -> str:
        """Return a collection's name as far as it is known, without a look at the store."""
        view = self.names.view
        name = None if view is None else self.names.root.name_of(collection_id)
        return name or collection_id

    def _send(self, request: WriteRequest) -> WriteReply:
        self._check_usable()
        self.guard.write(request)
        try:
            return self.owners.write(request)
        except errors.UnavailableError as error:
            if self._closed and error.details.get("outcome") == "none":
                raise errors.database_closed(self.where) from error
            raise

    def call_owner(self, collection_id: str, method: str, *arguments: Any, **options: Any) -> Any:
        """Have the owner of a collection do something; return what it returns.

        Raises:
            GpuvecError: what it raises there.
            UnavailableError: no owner answers; `details` tell whether it may have been done.
        """
        self._check_usable()
        self.guard.call(collection_id, method)
        message = CallOwner(
            identity=self.reference.identity,
            collection_id=collection_id,
            method=method,
            arguments=arguments,
            options=options,
            settings=config.chosen(SETTINGS),
        )
        called: Called = self.owners.call(
            message, repeats=method in REPEATABLE, deadline_s=WORK_DEADLINE_S
        )
        self.router.note_seen(collection_id, called.stamp)
        give(called.warnings)
        return called.value

    def call_coordinator(self, method: str, **arguments: Any) -> Any:
        """Have the coordinator do something with names."""
        called: Called = self._ask(
            CallCoordinator(
                identity=self.reference.identity,
                method=method,
                arguments=arguments,
                client=self.client,
            )
        )
        return called.value

    def pin(self, collection_id: str, changes: Sequence[Change]) -> None:
        """See `Engine.pin`: of who may read."""
        self.guard.check("read", collection_id)
        super().pin(collection_id, changes)

    def log_of(self, collection_id: str) -> OwnersLog[CollectionState]:
        """See `Engine.log_of`: readers have their pins committed."""
        identity = self.reference.identity
        return OwnersLog(identity, collection_id, CollectionState(), Standing())

    def run(self, procedure: Procedure[T]) -> T:
        """See `Engine.run`; the coordinator answers what is asked of it."""
        return super().run(answered(procedure, self._commit))

    def _commit(self, message: Any) -> Any:
        return self._transport.call(COORDINATOR, message, deadline_s=COMMIT_S)

    def node_names(self) -> list[str]:
        """See `Engine.node_names`."""
        table = self.router.directory.table
        if not table.routes.nodes:
            table.apply(self._ask(GetRoutes(identity=self.reference.identity)))
        return sorted(map(str, table.routes.nodes))

    def events(self, limit: int) -> list[Event]:
        """See `Engine.events`: those of all nodes."""
        return [event_of(values) for values in self.call_coordinator("events", limit=limit)]

    def _ask(self, message: Any) -> Any:
        """Return the coordinator's answer; one that is away is waited for, `cluster.wait_s`."""
        until_s = self._clock.monotonic_s() + config["cluster.wait_s"]
        while True:
            self._check_usable()
            try:
                return self._transport.call(COORDINATOR, message, deadline_s=NAMES_DEADLINE_S)
            except errors.UnavailableError as error:
                undone = error.details["outcome"] == "none" and error.details["retryable"]
                if not undone or self._clock.monotonic_s() >= until_s:
                    raise
            self._clock.sleep(_PAUSE_S)

    # What only owners do

    def flush(self, collection_id: str) -> None:
        """See `Engine.flush`."""
        self.call_owner(collection_id, "flush")

    def writing(self, collection_id: str = "") -> NoReturn:
        """Refuse: a client writes nothing itself."""
        raise errors.not_from_here("writing to a collection's log")

    def change(
        self,
        collection_id: str,
        decide: Callable[[CollectionState, Timestamp], Sequence[Change]],
    ) -> NoReturn:
        """Refuse: see `writing`."""
        raise errors.not_from_here("a change of a collection")

    def close(self) -> None:
        """Let go of the database, here and at the coordinator."""
        opened, self._opened = self._opened and self.usable, False
        super().close()
        if opened:
            self._leave()

    def _leave(self) -> None:
        message = CloseDatabase(identity=self.reference.identity, client=self.client)
        try:
            self._transport.call(COORDINATOR, message, deadline_s=CLOSE_DEADLINE_S)
        except (errors.UnavailableError, errors.DeadlineError, errors.ConflictError):
            return  # a coordinator that is gone, or was replaced, holds nothing


class _RemoteAccess(AccessControl):
    """See `AccessControl`: the coordinator decides and commits."""

    _engine: ClusterEngine

    def do(self, action: str, arguments: Mapping[str, Any]) -> None:
        """See `AccessControl.do`."""
        self._engine.call_coordinator("access", action=action, arguments=dict(arguments))
        self._engine.root()  # takes it over


class _OwnersMaintenance(Maintenance):
    """See `Maintenance`: that of owners; here nothing is maintained."""

    def __init__(self, engine: ClusterEngine) -> None:
        super().__init__(engine._data, engine, engine._clock, engine.leases)
        self._engine = engine

    def figures(self, collection_id: str) -> dict[str, float]:
        """See `Maintenance.figures`: the counters of the owner's node."""
        found: dict[str, float] = self._engine.call_owner(collection_id, "figures")
        return found


class _RemoteCollections(Collections):
    """See `Collections`: the coordinator does it, with ids that are made here."""

    _engine: ClusterEngine

    def create(
        self, name: str, schema: Schema, more: First | None = None, *, channels: int = 1
    ) -> str:
        """See `Collections.create`."""
        collection_id = self._new_id()
        then = [] if more is None else list(more(self._engine.stamp()))
        self._call(
            "create", collection_id=collection_id, name=name, schema=schema, then=then,
            channels=channels,
        )  # fmt: skip
        return collection_id

    def begin(
        self, collection_id: str, name: str, schema: Schema, then: Sequence[Change], channels: int
    ) -> None:
        """See `Collections.begin`."""
        self._call(
            "begin", collection_id=collection_id, name=name, schema=schema, then=list(then),
            channels=channels,
        )  # fmt: skip
        self._engine.names.expect(collection_id, name)
        self._engine.call_owner(collection_id, "expect", name)

    def name(self, collection_id: str, name: str) -> None:
        """See `Collections.name`."""
        self._call("name", collection_id=collection_id, name=name)

    def discard(self, collection_id: str, name: str) -> None:
        """See `Collections.discard`."""
        self._call("discard", collection_id=collection_id, name=name)

    def drop(self, name: str) -> None:
        """See `Collections.drop`."""
        collection_id = self._engine.root().id_of(name)
        self._call("drop", name=name)
        if collection_id is not None:
            self._engine.router.forget(collection_id)

    def rename(self, old: str, new: str) -> None:
        """See `Collections.rename`."""
        self._call("rename", old=old, new=new)

    def alias(self, alias: str, name: str | None) -> None:
        """See `Collections.alias`."""
        self._call("alias", alias=alias, name=name)

    def _call(self, method: str, **arguments: Any) -> None:
        self._engine.call_coordinator(method, **arguments)
        self._engine.root()  # takes it over
