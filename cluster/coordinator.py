"""The coordinator of a cluster: all open databases, and the nodes that are there.

It knows no Dask: a host gives it a transport, a way to push routes to clients, and tells it whose
connection broke. Nothing in it is the only copy: nodes and clients say again what they need, so a
new coordinator knows all within some seconds.
"""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from typing import Any

from gpuvec import errors
from gpuvec.api.batch_job import Runner
from gpuvec.cluster.fuse import Fuse
from gpuvec.cluster.hosted import Hosted
from gpuvec.cluster.maintenance import Workshop
from gpuvec.cluster.members import Members
from gpuvec.cluster.service import Lane, Service
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import (
    KEEP_S,
    CallCoordinator,
    CloseDatabase,
    DatabaseRef,
    Done,
    FindDatabase,
    FindOwner,
    GetRoutes,
    Hello,
    Leaving,
    NodeReport,
    OpenDatabase,
    Opened,
    Ping,
    Pong,
    ReportReply,
    RouteDelta,
    Welcome,
)
from gpuvec.coord.adaptive import WorkerTarget
from gpuvec.coord.cluster_coord import Ledger
from gpuvec.types import NodeId
from gpuvec.work_messages import Commit, HeavyWork, WorkShare

_PERIOD_S = 0.5
_GONE_S = 15 * KEEP_S  # a client that was not heard so long holds nothing open
_AGAIN_S = 2.0  # between attempts to open a database that shall always be open
_POOL = 4
_ENDED = 1000  # clients whose late messages are known as such

_logger = logging.getLogger("gpuvec.cluster")


class Coordinator:
    """All databases of one cluster. Safe for use by several threads.

    Args:
        transport: reaches the nodes.
        push: tells clients what changed in the routes; waits for nothing.
        databases: held open whether or not a client asks.
        replicas: nodes that shall hold each segment.
        groups: by name of a collection, the resource groups whose nodes may hold its segments.
        runner: makes what makes the parts of a database's batch jobs; None: this process does.
        workshop: has heavy work done; None: owners do it themselves.
        end: called when an error escaped, so that nothing is decided any more.
    """

    def __init__(
        self,
        transport: DaskTransport,
        push: Callable[[RouteDelta], None],
        *,
        databases: Iterable[DatabaseRef] = (),
        replicas: int = 1,
        groups: Mapping[str, Sequence[str]] | None = None,
        runner: Callable[[str], Runner] | None = None,
        workshop: Workshop | None = None,
        end: Callable[[], None] = lambda: None,
    ) -> None:
        self._runner = runner
        self._workshop = workshop
        self._transport = transport
        self._push = push
        self._replicas = replicas
        self._groups = dict(groups or {})
        self._pinned = {ref.identity: ref for ref in databases}
        self._hosted: dict[str, Hosted] = {}
        self._saving: dict[str, Hosted] = {}  # whose nodes save what they own, at last
        self._clients: dict[str, dict[str, float]] = {}  # by database: when each was heard
        self._ended: deque[str] = deque(maxlen=_ENDED)  # clients that closed their database
        self._opening: dict[str, threading.Lock] = {}
        self._begun: set[str] = set()  # databases that are being opened for nobody
        self._failures: dict[str, str] = {}  # of those, and why
        self._members = Members()
        self._ledger = Ledger()
        self._target = WorkerTarget()
        self._lock = threading.Lock()
        self._pool = Fuse(end, _POOL)
        self._news = threading.Event()
        self._stopped = False
        decide = self._pool.guarded(self._run)
        self._thread = threading.Thread(target=decide, name="gpuvec-coordinator", daemon=True)
        self._thread.start()

    def serve(self, service: Service) -> None:
        """Have a service answer what nodes and clients say to a coordinator."""
        service.serve(
            {
                Hello: self._hello,
                NodeReport: self._report,
                Leaving: self._leaving,
                GetRoutes: lambda message, _: self._of(message.identity).routes(),
                FindDatabase: lambda message, _: self._of(message.identity).ref,
                Ping: lambda _, __: Pong(incarnation=""),
            }
        )
        service.serve({FindOwner: self._find_owner}, lane=Lane.WRITE)
        service.serve({Commit: self._commit}, lane=Lane.PLAN)
        if (workshop := self._workshop) is not None:
            service.serve({HeavyWork: lambda message, _: workshop.ask(message)}, lane=Lane.READ)
            service.serve({WorkShare: lambda message, _: workshop.share(message)})
        service.serve(
            {
                OpenDatabase: self._open,
                CloseDatabase: self._close,
                CallCoordinator: self._call,
            },
            lane=Lane.WORK,
        )

    def kick(self) -> None:
        """Have what is wanted compared with what is there, soon."""
        self._news.set()

    # Nodes

    def _hello(self, hello: Hello, _: float) -> Welcome:
        self._transport.learn(hello.node, hello.address)
        usable = self._members.join(hello)
        hosted = self._open_now()
        if usable:
            for database in hosted.values():
                database.hello(hello)
        self.kick()
        return Welcome(
            databases=tuple(database.ref for database in hosted.values()),
            generations={identity: d.generation for identity, d in hosted.items()},
            usable=usable,
        )

    def _report(self, report: NodeReport, _: float) -> ReportReply:
        hello = self._members.get(report.node)
        if hello is None or hello.incarnation != report.incarnation:
            return ReportReply(known=False)
        renewed: dict[str, Mapping[str, int]] = {}
        now_ms: dict[str, int] = {}
        until_ms: dict[str, int] = {}
        for identity, database in self._open_now().items():
            reply = database.report(report)
            if not reply.known:
                return ReportReply(known=False)
            renewed[identity] = reply.renewed.get(identity, {})
            now_ms.update(reply.now_ms)
            until_ms.update(reply.until_ms)
        return ReportReply(known=True, renewed=renewed, now_ms=now_ms, until_ms=until_ms)

    def _leaving(self, leaving: Leaving, _: float) -> Done:
        self.drain(leaving.node)
        return Done()

    def drain(self, node: NodeId) -> None:
        """Have what a node owns and holds go elsewhere."""
        hello = self._members.drain(node)
        if hello is not None:
            for database in self._open_now().values():
                database.leaving(node, hello.incarnation)
            self.kick()

    def drained(self, node: NodeId) -> bool:
        """Return whether a node may end."""
        return all(database.drained(node) for database in self._open_now().values())

    def lost(self, address: str) -> None:
        """Note that the node at an address is gone: its connection broke."""
        for hello in self._members.drop(address):
            for database in self._open_now().values():
                database.lost(hello.node, hello.incarnation)
        self.kick()

    def node_at(self, address: str) -> NodeId | None:
        """Return the node that answers at an address."""
        return next((h.node for h in self._members.all() if h.address == address), None)

    def _send(
        self, node: NodeId, incarnation: str, message: Any, deadline_s: float
    ) -> "Future[Any]":
        hello = self._members.get(node)
        if hello is None or incarnation not in ("", hello.incarnation) or self._stopped:
            failed: Future[Any] = Future()
            failed.set_exception(errors.no_such_node(node))
            return failed
        return self._transport.submit(node, message, deadline_s=deadline_s)

    # Databases

    def _open_now(self) -> dict[str, Hosted]:
        with self._lock:
            return dict(self._hosted)

    def _open(self, message: OpenDatabase, _: float) -> Opened:
        if message.client in self._ended:  # said before the client closed it, and late
            raise errors.not_hosted(message.database.identity)
        hosted = self.hold(message.database, message.client)
        try:
            hosted.engine.admit(message)
        except errors.AccessDeniedError:
            self._pool.submit(self._leave, message.database.identity, message.client)
            raise
        return Opened(generation=hosted.generation)

    def hold(self, ref: DatabaseRef, client: str) -> Hosted:
        """Open a database unless it is, and keep it for a client."""
        with self._lock:
            lock = self._opening.setdefault(ref.identity, threading.Lock())
        with lock:
            hosted = self._hosted.get(ref.identity)
            if hosted is None or not hosted.ruling:
                hosted = self._begin(ref)
            with self._lock:
                self._clients.setdefault(ref.identity, {})[client] = time.monotonic()
            return hosted

    def _begin(self, ref: DatabaseRef) -> Hosted:
        former = self._hosted.pop(ref.identity, None)
        if former is not None:
            former.close()
        hellos = self._members.all()
        hosted = Hosted(
            ref,
            hellos,
            ledger=self._ledger,
            send=self._send,
            push=self._push,
            kick=self.kick,
            pool=self._pool,
            replicas=self._replicas,
            groups=self._groups,
        )
        if self._runner is not None:
            hosted.engine.jobs.run_with(partial(self._runner, ref.identity))
        with self._lock:
            self._hosted[ref.identity] = hosted
        for hello in self._members.all():
            if hello not in hellos:
                hosted.hello(hello)
        self.kick()
        return hosted

    def _close(self, message: CloseDatabase, _: float) -> Done:
        self._ended.append(message.client)
        self._leave(message.identity, message.client)
        return Done()

    def _leave(self, identity: str, client: str) -> None:
        with self._lock:
            lock = self._opening.setdefault(identity, threading.Lock())
        with lock:
            with self._lock:
                clients = self._clients.get(identity, {})
                clients.pop(client, None)
                if identity in self._hosted:
                    self._hosted[identity].engine.doors.forget(client)
                busy = identity in self._hosted and self._hosted[identity].engine.jobs.busy
                if clients or busy or identity in self._pinned:
                    return
                hosted = self._hosted.pop(identity, None)
                if hosted is None:
                    return
                self._saving[identity] = hosted
            try:
                hosted.release([hello.node for hello in self._members.all()])
            finally:
                del self._saving[identity]
                hosted.close()

    def _of(self, identity: str) -> Hosted:
        with self._lock:
            found = self._hosted.get(identity)
        if found is None or not found.ruling:
            raise errors.not_hosted(identity)
        return found

    def _find_owner(self, message: FindOwner, deadline_s: float) -> Any:
        return self._of(message.identity).find_owner(message, deadline_s)

    def _commit(self, order: Commit, _: float) -> Any:
        saving = self._saving.get(order.identity)
        return (saving or self._of(order.identity)).commit(order)

    def _call(self, message: CallCoordinator, deadline_s: float) -> Any:
        return self._of(message.identity).call(message, deadline_s)

    # The thread that decides

    def _run(self) -> None:
        while not self._stopped:
            self._news.wait(_PERIOD_S)
            self._news.clear()
            for database in self._open_now().values():
                database.reconcile()
            self._mind()

    def _mind(self) -> None:
        """Open what shall always be open; let go of what clients that are gone held."""
        for ref in self._pinned.values():
            if ref.identity not in self._hosted and ref.identity not in self._begun:
                self._begun.add(ref.identity)
                self._failures.setdefault(ref.identity, "it is being opened")
                self._pool.submit(self._open_pinned, ref)
        late_s = time.monotonic() - _GONE_S
        with self._lock:
            gone = [
                (identity, client)
                for identity, clients in self._clients.items()
                for client, heard_s in clients.items()
                if heard_s < late_s
            ]
            for identity, client in gone:
                del self._clients[identity][client]
            gone += [(i, "") for i in self._hosted if not self._clients.get(i)]  # held by jobs
        for identity, client in gone:
            self._pool.submit(self._leave, identity, client)

    def _open_pinned(self, ref: DatabaseRef) -> None:
        try:
            self.hold(ref, "")
            del self._failures[ref.identity]
        except errors.GpuvecError as error:
            _logger.warning("cannot open %s: %s", ref.url, error)
            self._failures[ref.identity] = str(error)
            time.sleep(_AGAIN_S)
        finally:
            self._begun.discard(ref.identity)

    def close(self) -> None:
        """Stop deciding, and let go of all databases; nodes go on as without a coordinator."""
        self._stopped = True
        self.kick()
        self._thread.join()
        self._pool.shutdown(wait=True, cancel_futures=True)
        for database in self._hosted.values():
            database.close()
        self._hosted.clear()

    # Looking

    def wanted_workers(self) -> int:
        """Return how many workers there shall be, for Dask's adaptive scaling."""
        demands = [database.demand() for database in self._open_now().values()]
        return self._target.wanted(demands, time.monotonic())

    def state(self) -> dict[str, Any]:
        """Return what people see, from memory; see `gpuvec.cluster.view`."""
        with self._lock:
            clients = {identity: len(held) for identity, held in self._clients.items()}
        nodes = self._members.state()
        databases = {identity: hosted.state() for identity, hosted in self._open_now().items()}
        for identity, database in databases.items():
            database["clients"] = clients.get(identity, 0)
            if self._workshop is not None:
                database["jobs"] += self._workshop.lines(identity)
            for name, figures in database.pop("nodes").items():
                known = nodes.setdefault(str(name), {})
                draining = known.get("draining", False) or figures.get("draining", False)
                known.update(figures, draining=draining)
        reason = _unready(self._failures, self._members.all())
        return {"ready": not reason, "reason": reason, "nodes": nodes, "databases": databases}


def _unready(failures: Mapping[str, str], nodes: Collection[Hello]) -> str:
    if failures:
        identity, cause = next(iter(failures.items()))
        return f"{identity} is not open: {cause}"
    return "" if nodes else "no node has said hello"
