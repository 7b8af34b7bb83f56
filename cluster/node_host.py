"""A node of a cluster: an engine per database that it works for, and its talk with the coordinator.

It knows no Dask: `segment_host` puts it into a worker. What it owns and holds is said in a report
every `REPORT_S`; a coordinator that does not know it is greeted anew, so restarts of either need
nothing else.
"""

import logging
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from gpuvec import errors
from gpuvec.cluster.client_engine import ClusterEngine
from gpuvec.cluster.node_engine import NodeEngine
from gpuvec.cluster.opening import open_client, open_node
from gpuvec.cluster.reporting import report_of
from gpuvec.cluster.service import Lane, Service
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import (
    COORDINATOR,
    REPORT_S,
    CallOwner,
    CloseDatabase,
    DatabaseRef,
    Disown,
    Done,
    FindDatabase,
    Hello,
    Leaving,
    LoadSegments,
    Own,
    Ping,
    Pong,
    ReleaseSegments,
    ReportReply,
)
from gpuvec.data_messages import Busy, PlanRead, ReadPart, Write
from gpuvec.proxy.admission import Admission

_DEADLINE_S = 2.0  # of a report; leases run from when it was sent
_FIND_S = 5.0
_LEAVE_S = 5.0  # for what is owned to be taken over
_FORGET_S = 60.0  # a database that the coordinator has not open so long is let go here
_LANES = {
    Own: Lane.CONTROL,
    LoadSegments: Lane.CONTROL,
    ReleaseSegments: Lane.CONTROL,
    PlanRead: Lane.PLAN,
    Write: Lane.WRITE,
    CallOwner: Lane.WORK,
    Disown: Lane.WORK,
}

_logger = logging.getLogger("gpuvec.cluster")


class NodeHost:
    """The engines of one node. Safe for use by several threads.

    Args:
        hello: who this is.
        transport: reaches the coordinator.
        service: answers what others send here.
    """

    def __init__(self, hello: Hello, transport: DaskTransport, service: Service) -> None:
        self.hello = hello
        self._transport = transport
        self._service = service
        self._admission = Admission(service.threads(Lane.READ))
        self._engines: dict[str, NodeEngine] = {}
        self._known_s: dict[str, float] = {}  # when the coordinator last named a database
        self._lock = threading.Lock()
        self._opening: dict[str, threading.Lock] = {}
        self._heard_s = float("-inf")  # when the newest report that was answered had been sent
        self._closing = ThreadPoolExecutor(1, thread_name_prefix="gpuvec-close")
        self._news = threading.Event()
        self._stopped = False
        for kind, lane in _LANES.items():
            service.serve({kind: self._handle}, lane=lane)
        service.serve({ReadPart: self._read}, lane=Lane.READ)
        service.serve({CloseDatabase: self._close}, lane=Lane.WORK)
        service.serve({Ping: self._ping})
        self._thread = threading.Thread(target=self._run, name="gpuvec-node", daemon=True)

    def start(self) -> None:
        """Begin to report."""
        self._thread.start()

    def engine_of(self, identity: str) -> NodeEngine:
        """Return the engine of a database, opened now if it was not.

        Raises:
            UnavailableError: `GV-754`, the coordinator does not hold the database; or it does not
                answer.
        """
        found = self._engines.get(identity)
        if found is not None and found.usable:
            return found
        with self._lock:
            lock = self._opening.setdefault(identity, threading.Lock())
        with lock:
            found = self._engines.get(identity)
            if found is not None and found.usable:
                return found
            if self._stopped:
                raise errors.not_hosted(identity)
            message = FindDatabase(identity=identity)
            ref = self._transport.call(COORDINATOR, message, deadline_s=_FIND_S)
            return self._open(ref)

    def client_of(self, identity: str) -> ClusterEngine:
        """Return the engine of a client of a database, whose reads all nodes share; close it."""
        message = FindDatabase(identity=identity)
        ref = self._transport.call(COORDINATOR, message, deadline_s=_FIND_S)
        return open_client(ref, transport=self._transport, node=self.hello.node)

    def _open(self, ref: DatabaseRef) -> NodeEngine:
        engine = open_node(ref, node=self.hello.node, transport=self._transport)
        engine.heard(self._heard_s, {})
        with self._lock:
            self._engines[ref.identity] = engine
            self._known_s[ref.identity] = time.monotonic()
        return engine

    # What others send

    def _handle(self, message: Any, deadline_s: float) -> Any:
        reply = self.engine_of(message.identity).handle(message, deadline_s)
        if isinstance(message, Own):
            self._news.set()  # a report brings the lease
        return reply

    def _read(self, message: ReadPart, deadline_s: float) -> Any:
        waiting = self._service.waiting(Lane.READ)
        ticket = self._admission.enter(message.cost, waiting=waiting, now_s=time.monotonic())
        if isinstance(ticket, Busy):
            return ticket
        try:
            return self._handle(message, deadline_s)
        finally:
            self._admission.end(ticket, time.monotonic())

    def _ping(self, _: Ping, __: float) -> Pong:
        return Pong(incarnation=self.hello.incarnation, queue=self._service.waiting(Lane.READ))

    def _close(self, message: CloseDatabase, _: float) -> Done:
        self._let_go(message.identity)
        return Done()

    def _let_go(self, identity: str) -> None:
        with self._lock:
            lock = self._opening.setdefault(identity, threading.Lock())
        with lock:
            with self._lock:
                engine = self._engines.pop(identity, None)
            if engine is not None:
                engine.close()

    # The thread that reports

    def _run(self) -> None:
        known = False
        while not self._stopped:
            try:
                if not known:
                    self._transport.call(COORDINATOR, self.hello, deadline_s=_DEADLINE_S)
                known = self._report()
            except (errors.UnavailableError, errors.DeadlineError, errors.QuotaError):
                pass  # it is away: its next one is told all that this one knew
            except Exception:
                _logger.exception("a report of %s failed", self.hello.node)
            self._news.wait(0.0 if not known and self._heard_s < 0 else REPORT_S)
            self._news.clear()

    def _report(self) -> bool:
        with self._lock:
            engines = {i: engine for i, engine in self._engines.items() if engine.usable}
        queue = self._service.waiting(Lane.READ)
        report = report_of(self.hello.node, self.hello.incarnation, engines, queue=queue)
        sent_s = time.monotonic()
        reply: ReportReply = self._transport.call(COORDINATOR, report, deadline_s=_DEADLINE_S)
        if reply.known:
            self._heard_s = sent_s
            self._note(reply, engines, sent_s)
        for engine in engines.values():
            engine.tend()
        return reply.known

    def _note(self, reply: ReportReply, engines: Mapping[str, NodeEngine], sent_s: float) -> None:
        now_s = time.monotonic()
        for identity, engine in engines.items():
            engine.heard(sent_s, reply.renewed.get(identity, {}))
            time_ms, until_ms = reply.now_ms.get(identity, 0), reply.until_ms.get(identity)
            engine.oracle.follow(time_ms, now_s, until_ms)
            if identity in reply.renewed:
                self._known_s[identity] = now_s
            elif now_s > self._known_s[identity] + _FORGET_S:
                self._known_s[identity] = now_s
                self._closing.submit(self._let_go, identity)

    # Ending

    def leave(self) -> None:
        """Have others take over what is owned here, save the rest, and end; blocks."""
        message = Leaving(node=self.hello.node, incarnation=self.hello.incarnation)
        with suppress(errors.UnavailableError, errors.DeadlineError):
            self._transport.call(COORDINATOR, message, deadline_s=_DEADLINE_S)
            until_s = time.monotonic() + _LEAVE_S
            while time.monotonic() < until_s and self._owns():
                time.sleep(0.02)
        self.stop()

    def _owns(self) -> bool:
        return any(engine.grants.terms() for engine in list(self._engines.values()))

    def stop(self) -> None:
        """Save what is owned here, and end."""
        self._stopped = True
        self._news.set()
        if self._thread.is_alive():
            self._thread.join()
        for identity in list(self._engines):
            self._let_go(identity)
        self._closing.shutdown(wait=True)
        self._service.close()
        self._transport.close()
