"""Coordinator and nodes of one database in this process: a cluster without a network."""

import functools
import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import Any, Self

import gpuvec.connecting
from gpuvec import errors, telemetry
from gpuvec.api.collection import Collection
from gpuvec.api.database import Database
from gpuvec.api.heavy import Work
from gpuvec.api.opening import checked_limit
from gpuvec.cluster.client_database import open_database
from gpuvec.cluster.client_engine import ClusterEngine
from gpuvec.cluster.maintenance import Workshop, perform
from gpuvec.cluster.node_engine import NodeEngine
from gpuvec.cluster.opening import open_client, open_coordinator, open_node, reference
from gpuvec.cluster.reporting import report_of
from gpuvec.cluster_messages import (
    COORDINATOR,
    LEASE_S,
    CallCoordinator,
    CloseDatabase,
    DatabaseRef,
    Disown,
    Done,
    FindOwner,
    GetRoutes,
    Hello,
    OpenDatabase,
    Opened,
    Owner,
    RouteDelta,
)
from gpuvec.coord.cluster_coord import ClusterCoord, SegmentSize
from gpuvec.rpc import InProcessTransport
from gpuvec.types import NodeId
from gpuvec.work_messages import Commit, HeavyWork, WorkShare

_TICK_S = 0.2
_FIND_S = 5.0
_PATIENCE_S = 20.0


class Network(InProcessTransport):
    """An in-process transport that begins calls on threads, and from which nodes can be cut off.

    Attributes:
        cut: the nodes that cannot be reached, and reach nobody.
    """

    def __init__(self) -> None:
        super().__init__()
        self.cut: set[NodeId] = set()
        self._threads = ThreadPoolExecutor(16, thread_name_prefix="gpuvec-network")

    def call(self, node: NodeId, message: Any, *, deadline_s: float) -> Any:
        """See `Transport.call`."""
        if node in self.cut:
            raise errors.no_such_node(node)
        return super().call(node, message, deadline_s=deadline_s)

    def submit(self, node: NodeId, message: Any, *, deadline_s: float) -> "Future[Any]":
        """See `gpuvec.proxy.calls.Submits`."""
        call = telemetry.bound(self.call)
        try:
            return self._threads.submit(call, node, message, deadline_s=deadline_s)
        except RuntimeError:  # closed
            raise errors.no_such_node(node) from None

    def of(self, sender: NodeId) -> "FromNode":
        """Return the network as a node has it."""
        return FromNode(self, sender)

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()


class FromNode:
    """The network to one node: `gpuvec.rpc.Transport`. One that is cut off reaches nobody."""

    def __init__(self, network: Network, sender: NodeId) -> None:
        self._network = network
        self._sender = sender

    def call(self, node: NodeId, message: Any, *, deadline_s: float) -> Any:
        """See `Transport.call`."""
        if self._sender in self._network.cut:
            raise errors.no_such_node(node)
        return self._network.call(node, message, deadline_s=deadline_s)

    def learn(self, node: NodeId, address: str) -> None:
        """See `Transport.learn`."""


class Roles:
    """One database with its coordinator and some nodes. Safe for use by several threads.

    Args:
        ref: of the database.
        nodes: how many.
        lease_s: how long owners may believe that they are.

    Attributes:
        transport: reaches all of them.
        nodes: by name.
        coordinator: the engine that rules.
        listeners: told of each change of routes.
        worked: who did which heavy work.
    """

    def __init__(self, ref: DatabaseRef, *, nodes: int = 2, lease_s: float = LEASE_S) -> None:
        self.ref = ref
        self.transport = Network()
        self.coordinator = open_coordinator(ref, disown=self._disown)
        self.generation = self.coordinator.rule()
        self._lock = threading.RLock()
        self._coord = ClusterCoord(
            ref.identity, self.generation, now_s=time.monotonic(), lease_s=lease_s, quarantine_s=0.0
        )
        self._desk = self.coordinator.desk(self._owns)
        self._workers = ThreadPoolExecutor(2, thread_name_prefix="gpuvec-worker")
        self.workshop = Workshop(self._work, lambda: len(self.nodes), (errors.UnavailableError,))
        self._turn = itertools.count()
        self.transport.serve(COORDINATOR, self._answer)
        self.nodes: dict[NodeId, NodeEngine] = {}
        self.listeners: list[Callable[[RouteDelta], None]] = []
        self.worked: list[tuple[NodeId, str]] = []
        for number in range(nodes):
            self.add_node(NodeId(f"node-{number}"))
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gpuvec-roles", daemon=True)
        self._thread.start()

    def add_node(self, name: NodeId) -> NodeEngine:
        """Let another node join."""
        sent_s = time.monotonic()
        engine = open_node(self.ref, node=name, transport=self.transport.of(name))
        self.transport.serve(name, engine.handle)
        hello = Hello(
            node=name, incarnation="1", address=f"inproc://{name}", host="here",
            memory_bytes=1 << 30, threads=1,
        )  # fmt: skip
        with self._lock:
            self._coord.note_hello(hello, sent_s)
            self.nodes[name] = engine
        engine.heard(sent_s, {})
        return engine

    def lose(self, name: NodeId) -> None:
        """Tell the coordinator that the connection to a node broke."""
        with self._lock:
            self._coord.note_lost(name, "1", time.monotonic())
        self.coordinator.note_works(name, ())

    def pause(self) -> None:
        """Let nothing happen by itself any more."""
        self._stop.set()
        self._thread.join()

    def client(self) -> ClusterEngine:
        """Return the engine of another client."""
        return open_client(self.ref, transport=self.transport)

    def tick(self) -> None:
        """Let nodes report, note what there is, and do what the coordinator wants."""
        self._report()
        for collection_id in self.coordinator.ids():
            try:
                found = self.coordinator.state(collection_id).segments.values()
            except errors.NotFoundError:
                continue
            sizes = {s.segment_id: SegmentSize(s.size_bytes, s.row_count) for s in found}
            with self._lock:
                self._coord.note_collection(collection_id, sizes, time.monotonic())
        self.coordinator.tend()
        self._reconcile()
        with self._lock:
            delta = self._coord.take_delta()
        if delta is not None:
            for listen in list(self.listeners):
                listen(delta)

    def _report(self) -> None:
        for name, engine in list(self.nodes.items()):
            if name in self.transport.cut:
                continue
            sent_s = time.monotonic()
            report = report_of(name, "1", {self.ref.identity: engine})
            with self._lock:
                reply = self._coord.note_report(report, time.monotonic())
            self.coordinator.note_works(name, report.works.get(self.ref.identity, ()))
            engine.heard(sent_s, reply.renewed.get(self.ref.identity, {}))
            engine.tend()

    def _reconcile(self) -> None:
        with self._lock:
            commands = self._coord.reconcile(time.monotonic())
        for command in commands:
            try:
                self.transport.call(command.node, command.message, deadline_s=5.0)
            except errors.GpuvecError as error:
                with self._lock:
                    self._coord.note_failed(command, error, time.monotonic())
            else:
                with self._lock:
                    self._coord.note_done(command)

    def _run(self) -> None:
        while not self._stop.wait(_TICK_S):
            with suppress(errors.StorageError):  # whoever asks is told
                self.tick()

    def _answer(self, message: Any, deadline_s: float) -> Any:
        if isinstance(message, OpenDatabase):
            self.coordinator.admit(message)
            return Opened(generation=self.generation)
        if isinstance(message, CloseDatabase):
            return Done()
        if isinstance(message, FindOwner):
            return self._find(message.collection_id)
        if isinstance(message, Commit):
            return self._desk.commit(message)
        if isinstance(message, HeavyWork):
            return self.workshop.ask(message)
        if isinstance(message, WorkShare):
            return self.workshop.share(message)
        if isinstance(message, CallCoordinator):
            called = self.coordinator.call(message, deadline_s)
            if message.method in ("create", "begin"):
                with self._lock:
                    self._coord.note_created(message.arguments["collection_id"])
            return called
        assert isinstance(message, GetRoutes), message
        with self._lock:
            return self._coord.whole_routes()

    def _find(self, collection_id: str) -> Any:
        if collection_id not in self.coordinator.ids():
            raise errors.collection_gone(collection_id)
        until_s = time.monotonic() + _FIND_S
        while time.monotonic() < until_s:
            with self._lock:
                self._coord.want_owner(collection_id, time.monotonic())
            self._reconcile()
            with self._lock:
                found = self._coord.owner(collection_id)
            if found is not None:
                self._report()  # which brings the lease
                return found
            time.sleep(0.005)
        raise errors.no_such_node(f"owner of {collection_id}")

    def _work(self, identity: str, job_id: str, work: Work) -> "Future[Any]":
        """Have a node do a work, each in turn."""
        names = sorted(self.nodes)
        name = names[next(self._turn) % len(names)]
        self.worked.append((name, job_id))
        return self._workers.submit(self._perform, name, job_id, work)

    def _perform(self, name: NodeId, job_id: str, work: Work) -> Any:
        if name in self.transport.cut:
            raise errors.no_such_node(name)
        return perform(self.nodes[name], job_id, work, 1 << 30)

    def _owns(self, collection_id: str, term: int) -> bool:
        with self._lock:
            return self._coord.is_term(collection_id, term)

    def _disown(self, collection_id: str) -> None:
        with self._lock:
            owner = self._coord.owner(collection_id)
            self._coord.note_dropped(collection_id, time.monotonic())
        if owner is not None:
            order = Disown(
                identity=self.ref.identity, collection_id=collection_id, dropped=True,
                generation=self.generation, term=owner.term,
            )  # fmt: skip
            self.transport.call(owner.node, order, deadline_s=60.0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End nodes and coordinator."""
        self.pause()
        self.workshop.close()
        for engine in self.nodes.values():
            engine.close()
        with self._lock:
            self._coord.close()
        self.coordinator.close()
        self.transport.close()
        self._workers.shutdown()


class RolesInProcess:
    """Opens databases as `gpuvec.connect` does, each on nodes of its own in this process.

    Handles of one database share coordinator and nodes, which end with the last of them.

    Args:
        nodes: how many each database has.
    """

    def __init__(self, nodes: int = 2) -> None:
        self._nodes = nodes
        self._open: dict[str, tuple[Roles, list[int]]] = {}
        self._lock = threading.RLock()

    def connect(
        self,
        path: str | os.PathLike[str],
        *,
        cluster: Any = None,
        storage_options: Mapping[str, Any] | None = None,
        device: str = "auto",
        memory_limit: int | str | None = None,
        durability: str | None = None,
        user: str | None = None,
        password: str | None = None,
    ) -> Database:
        """See `gpuvec.connect`; a database in memory runs embedded."""
        if cluster is not None or os.fspath(path).startswith("memory://"):
            return gpuvec.connecting.connect(
                path, cluster=cluster, storage_options=storage_options, device=device,
                memory_limit=memory_limit, durability=durability, user=user, password=password,
            )  # fmt: skip
        checked_limit(device, memory_limit)
        ref = reference(path, storage_options, durability)
        roles = self._roles(ref)
        return open_database(
            path,
            transport=roles.transport,
            storage_options=storage_options,
            device=device,
            memory_limit=memory_limit,
            durability=durability,
            user=user,
            password=password,
            on_close=lambda: self._release(ref.identity, roles),
        )

    def _roles(self, ref: DatabaseRef) -> Roles:
        with self._lock:
            known = self._open.get(ref.identity)
            if known is None:
                known = self._open[ref.identity] = Roles(ref, nodes=self._nodes), [0]
            roles, handles = known
            handles[0] += 1
            return roles

    def _release(self, identity: str, roles: Roles) -> None:
        with self._lock:
            known = self._open.get(identity)
            if known is None or known[0] is not roles:
                return
            known[1][0] -= 1
            if known[1][0]:
                return
            del self._open[identity]
        roles.close()


@contextmanager
def on_workers(count: int) -> Iterator[Callable[..., Database]]:
    """Yield what opens databases as `gpuvec.connect` does, on a cluster of worker processes."""
    from gpuvec.cluster.launch import local

    cluster = local(count, threads_per_worker=1)
    try:
        yield functools.partial(_connect, cluster)
    finally:
        with suppress(TimeoutError):  # on a busy machine Dask kills what ends too slowly
            cluster.close(timeout=60)


def _connect(workers: Any, path: str | os.PathLike[str], **options: Any) -> Database:
    if not os.fspath(path).startswith("memory://") and options.get("cluster") is None:
        options["cluster"] = workers
    return gpuvec.connecting.connect(path, **options)


def owner_of(roles: Roles, collection: Collection) -> Owner:
    """Return who owns a collection; one is named if there is none."""
    message = FindOwner(identity=roles.ref.identity, collection_id=collection._id)
    found: Owner = roles.transport.call(COORDINATOR, message, deadline_s=_FIND_S)
    return found


def wait_for(what: Callable[[], bool], why: str) -> None:
    """Wait until something is so, for 20 s at most."""
    until_s = time.monotonic() + _PATIENCE_S
    while not what():
        assert time.monotonic() < until_s, why
        time.sleep(0.01)


def cut_off_owner(roles: Roles, collection: Collection) -> NodeEngine:
    """Cut the owner of a collection off; return its engine once another one is named."""
    owner = owner_of(roles, collection)
    roles.transport.cut.add(owner.node)
    roles.lose(owner.node)

    def moved() -> bool:
        try:
            return owner_of(roles, collection).node != owner.node
        except errors.UnavailableError:
            return False

    wait_for(moved, "nobody took over")
    return roles.nodes[owner.node]
