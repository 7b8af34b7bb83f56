"""The coordinator of a simulated cluster: the product's `ClusterCoord`, hosted in virtual time."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuvec import errors
from gpuvec.cluster.commits import check_order, commit_once
from gpuvec.cluster_messages import (
    COORDINATOR,
    LEASE_S,
    Done,
    FindOwner,
    GetRoutes,
    Hello,
    NodeReport,
    ReportReply,
    RouteDelta,
)
from gpuvec.coord.cluster_coord import ClusterCoord, Command, SegmentSize
from gpuvec.proxy.calls import Came
from gpuvec.testing.sim_network import Process, Web, Work
from gpuvec.testing.sim_store import SimStore, View, stepwise
from gpuvec.types import NodeId
from gpuvec.work_messages import Commit, Committed

DB = "db"
CONFIRM_S = 3.0
_STORE_S = 0.01
_TICK_S = 0.5
_FIND_S = 5.0


def address(generation: int) -> NodeId:
    """Return the name at which the coordinator of a generation answers, also when replaced."""
    return NodeId(f"{COORDINATOR}-{generation}")


@dataclass(eq=False)
class SimCoordinator:
    """One coordinator of the database.

    Args:
        web: the network.
        store: the store.
        generation: taken in the store.
        push: brings news of routes to all clients.
        first: whether no coordinator was there before.
        replicas: of each segment.
        told: hears of broken rules.
    """

    web: Web
    store: SimStore
    generation: int
    push: Callable[[RouteDelta], None]
    first: bool
    replicas: int = 2
    told: Callable[[str], None] = lambda broken: None
    entries: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.coord = ClusterCoord(
            DB,
            self.generation,
            now_s=self.web.now_s,
            replicas=self.replicas,
            quarantine_s=0.0 if self.first else LEASE_S + CONFIRM_S,
            confirm_s=CONFIRM_S,
            damping_s=4.0,
        )
        if self.first:
            for name in self.store.shelves:
                self.coord.note_created(name)
        self._views: dict[str, View] = {}
        self._committing: set[str] = set()
        name = address(self.generation)
        self.process = Process(name, str(self.generation), self.answer)

    def start(self) -> None:
        """Begin to rule."""
        self.web.start(self.process)
        self.web.there[COORDINATOR] = self.process
        self.web.spawn(self.process, self._rule())

    def end(self) -> None:
        """Die."""
        self.web.kill(self.process)
        if self.web.there.get(COORDINATOR) is self.process:
            del self.web.there[COORDINATOR]

    def answer(self, message: Any) -> Work:
        """Return the work of answering a message."""
        match message:
            case FindOwner():
                return self._find(message)
            case Commit():
                return self._commit(message)
            case _:
                return self._answer(message)

    def _commit(self, order: Commit) -> Work:
        """Do as `cluster.commits.Desk`, step by step."""
        name = order.collection_id
        while name in self._committing:
            yield _STORE_S
        self._committing.add(name)
        try:
            owned = self.coord.is_term(name, order.term)
            check_order(order, self.generation, self.coord.is_term)
            shelf = self.store.shelves[name]
            before = self._views.get(name)
            procedure = commit_once(shelf.log, before, order, self.generation)
            found = yield from stepwise(procedure, shelf.objects, self.web)
            self._views[name], answer = found
        finally:
            self._committing.discard(name)
        if isinstance(answer, Committed) and not owned:
            self.told(f"{order.committer} had {order.changes} committed after its term was over")
        return answer

    def _answer(self, message: Any) -> Work:
        yield 0.0
        now_s = self.web.now_s
        match message:
            case Hello():
                self.coord.note_hello(message, now_s)
                return Done()
            case NodeReport():
                reply: ReportReply = self.coord.note_report(message, now_s)
                return reply
            case GetRoutes():
                return self.coord.whole_routes()
            case _:
                raise AssertionError(f"nobody answers {message}")

    def _find(self, message: FindOwner) -> Work:
        until_s = self.web.now_s + _FIND_S
        self.coord.want_owner(message.collection_id, self.web.now_s)
        while self.web.now_s < until_s:
            self._decide()
            found = self.coord.owner(message.collection_id)
            if found is not None:
                return found
            yield 0.05
        raise errors.no_such_node(f"owner of {message.collection_id}")

    def _rule(self) -> Work:
        while True:
            looked_s = self.web.now_s
            yield _STORE_S
            if self._is_replaced():
                self.end()  # another coordinator rules
                return
            self.coord.note_ruling(looked_s)
            for name, shelf in self.store.shelves.items():
                if self.entries.get(name) != shelf.entry_id:
                    self.entries[name] = shelf.entry_id
                    sizes = {s: SegmentSize(len(rows)) for s, rows in shelf.segments.items()}
                    self.coord.note_collection(name, sizes, self.web.now_s)
            self._decide()
            yield _TICK_S

    def _is_replaced(self) -> bool:
        return self.store.generation > self.generation

    def _decide(self) -> None:
        for command in self.coord.reconcile(self.web.now_s):
            self._send(command)
        delta = self.coord.take_delta()
        if delta is not None:
            self.push(delta)

    def _send(self, command: Command) -> None:
        def ended(came: Came) -> None:
            if not self.process.alive:
                return
            if came.error is None:
                self.coord.note_done(command)
            else:
                self.coord.note_failed(command, came.error, self.web.now_s)

        self.web.begin(
            self.process.name,
            command.node,
            command.message,
            deadline_s=5.0,
            then=ended,
            incarnation=command.incarnation,
            twice=True,
        )
