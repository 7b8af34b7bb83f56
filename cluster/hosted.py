"""One open database at the coordinator: its engine, its decisions, and who waits for them.

The host feeds it messages and runs `reconcile` on one thread. Manifests are read on threads of a
pool, since a store may be slow; decisions are made under one lock, from memory only.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any

from gpuvec import errors, telemetry
from gpuvec.api.figures import described
from gpuvec.clock import SystemClock
from gpuvec.cluster.fuse import Fuse
from gpuvec.cluster.opening import open_coordinator
from gpuvec.cluster_messages import (
    LEASE_S,
    CallCoordinator,
    Called,
    CloseDatabase,
    DatabaseRef,
    Disown,
    FindOwner,
    Hello,
    LoadSegments,
    NodeReport,
    Own,
    Owner,
    ReportReply,
    RouteDelta,
)
from gpuvec.coord.adaptive import Demand
from gpuvec.coord.cluster_coord import ClusterCoord, Command, Ledger, SegmentSize
from gpuvec.coord.tso import RANGE_MS, ClusterTime, TimeRange
from gpuvec.storage.network import NetworkStore
from gpuvec.types import NodeId
from gpuvec.work_messages import Behind, Commit, Committed

Send = Callable[[NodeId, str, Any, float], "Future[Any]"]  # node, incarnation, message, deadline_s

_ORDER_S = 5.0
_HAND_OVER_S = 60.0  # a Disown flushes first
_FIND_SHARE = 0.8  # of the time that the caller waits, so that the answer reaches it
_TEND_S = 1.0
_CONFIRM_S = 3.0  # how long a look at a bucket's log is good for

_logger = logging.getLogger("gpuvec.cluster")


class Hosted:
    """A database that this coordinator rules. Safe for use by several threads.

    Args:
        ref: how all processes open it.
        hellos: of the nodes that are there.
        ledger: of memory promised to nodes, by all databases.
        send: begins a call of a node; fails where another incarnation answers now.
        push: tells clients what changed in the routes.
        kick: has `reconcile` called soon.
        pool: for work on the store.
        replicas: nodes that shall hold each segment.
        groups: by name of a collection, the resource groups whose nodes may hold its segments.

    Raises:
        ConflictError: `GV-602`, a process that is not of the cluster writes to the directory.
        StorageError: the store cannot be read or written.
    """

    def __init__(
        self,
        ref: DatabaseRef,
        hellos: Iterable[Hello],
        *,
        ledger: Ledger,
        send: Send,
        push: Callable[[RouteDelta], None],
        kick: Callable[[], None],
        pool: Fuse,
        replicas: int = 1,
        groups: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.ref = ref
        self.engine = open_coordinator(ref, disown=self._drop)
        self._on_network = isinstance(self.engine.store, NetworkStore)
        try:
            self.generation = self.engine.rule()
            quarantine_s = self.engine.lease_s
            self._time = ClusterTime(SystemClock())
            self._time.begin_at(self.engine.reserved_ms)
            self._range = TimeRange(self._time.now_ms() + RANGE_MS)
            lease_s = LEASE_S + (_CONFIRM_S if self._on_network else 0.0)
            self.engine.grant_leases(lease_s, self._range.until_ms)
        except BaseException:
            self.engine.close()
            raise
        self._send, self._push, self._kick, self._pool = send, push, kick, pool
        self._groups = groups or {}
        now_s = time.monotonic()
        self._coord = ClusterCoord(
            ref.identity,
            self.generation,
            now_s=now_s,
            ledger=ledger,
            replicas=replicas,
            quarantine_s=quarantine_s,
            confirm_s=_CONFIRM_S if self._on_network else None,
        )
        self._news = threading.Condition(threading.RLock())
        self._desk = self.engine.desk(self._owns)
        self._under_way: set[Command] = set()
        self._entries: dict[str, int] = {}  # of the manifests that were noted
        self._described: dict[str, dict[str, Any]] = {}
        self._reading: set[str] = set()  # collections whose manifest is being read
        self._tended_s = now_s
        self._tending = False
        self.ruling = True
        for hello in hellos:
            self._coord.note_hello(hello, now_s)
        for collection_id in self.engine.ids():
            self._read_soon(collection_id)

    # What nodes say

    def hello(self, hello: Hello) -> None:
        """Note a node that can work."""
        with self._news:
            self._coord.note_hello(hello, time.monotonic())

    def report(self, report: NodeReport) -> ReportReply:
        """Note what a node holds; return which of its leases go on."""
        for collection_id, entry in report.entries.get(self.ref.identity, {}).items():
            if entry > self._entries.get(collection_id, -1):
                self._read_soon(collection_id)
        with self._news:
            reply = self._coord.note_report(report, time.monotonic())
            self._time.observe(report.newest.get(self.ref.identity, 0))
            self.engine.note_works(report.node, report.works.get(self.ref.identity, ()))
            now_ms = self._time.now_ms()
        identity = self.ref.identity
        return replace(reply, now_ms={identity: now_ms}, until_ms={identity: self._range.until_ms})

    def lost(self, node: NodeId, incarnation: str) -> None:
        """Note that a node is gone."""
        with self._news:
            self._coord.note_lost(node, incarnation, time.monotonic())
            self.engine.note_works(node, ())

    def leaving(self, node: NodeId, incarnation: str) -> None:
        """Note that a node will end."""
        with self._news:
            self._coord.note_leaving(node, incarnation)

    def drained(self, node: NodeId) -> bool:
        """Return whether a node may end without loss of service."""
        with self._news:
            return self._coord.drained(node)

    # What clients ask

    def find_owner(self, message: FindOwner, deadline_s: float) -> Owner:
        """Return who owns a collection; wait until there is one.

        Raises:
            NotFoundError: `GV-608`, there is no such collection.
            UnavailableError: `GV-610`, nobody could take it in time; `GV-759`, there is nobody.
        """
        collection_id = message.collection_id
        if collection_id not in self.engine.ids():
            raise errors.collection_gone(collection_id)
        until_s = time.monotonic() + _FIND_SHARE * deadline_s
        with suppress(errors.GpuvecError):  # else time stands still before the old bound
            self._reserve()
        with self._news:
            self._coord.want_owner(collection_id, time.monotonic())
            while (found := self._coord.owner(collection_id)) is None:
                self._kick()
                left_s = until_s - time.monotonic()
                if left_s <= 0 or not self.ruling:
                    if not self._coord.state()["nodes"]:
                        raise errors.no_workers()
                    raise errors.no_such_node(f"owner of {collection_id}")
                self._news.wait(min(left_s, 0.2))
        return found

    def call(self, message: CallCoordinator, deadline_s: float) -> Called:
        """Do what a client wants with names."""
        if message.method in ("create", "begin"):
            with self._news:  # before the name is there: its first owner need not wait
                self._coord.note_created(message.arguments["collection_id"])
        called = self.engine.call(message, deadline_s)
        if message.method in ("create", "begin"):
            self._read_soon(message.arguments["collection_id"])
        return called

    def commit(self, order: Commit) -> Committed | Behind:
        """Append an entry to the log of a collection for its owner; see `cluster.commits`."""
        answer = self._desk.commit(order)
        self._read_soon(order.collection_id)
        return answer

    def _owns(self, collection_id: str, term: int) -> bool:
        with self._news:
            return self._coord.is_term(collection_id, term)

    def routes(self) -> RouteDelta:
        """Return all routes."""
        with self._news:
            return self._coord.whole_routes()

    # Deciding

    def reconcile(self) -> None:
        """Decide what is to be done, and begin it."""
        now_s = time.monotonic()
        with self._news:
            commands = [c for c in self._coord.reconcile(now_s) if c not in self._under_way]
            self._under_way.update(commands)
            delta = self._coord.take_delta()
            self._news.notify_all()
        for command in commands:
            self._begin(command)
        if delta is not None:
            self._push(delta)
        if now_s >= self._tended_s + _TEND_S and not self._tending:
            self._tended_s, self._tending = now_s, True
            self._pool.submit(self._tend)

    def _begin(self, command: Command) -> None:
        deadline_s = _HAND_OVER_S if isinstance(command.message, Disown) else _ORDER_S
        future = self._send(command.node, command.incarnation, command.message, deadline_s)
        future.add_done_callback(self._pool.guarded(partial(self._ended, command)))

    def _ended(self, command: Command, ended: "Future[Any]") -> None:
        error = ended.exception()
        with self._news:
            self._under_way.discard(command)
            if error is None:
                self._coord.note_done(command)
                if isinstance(command.message, Own):
                    self._tell_owner(command.message, command.node)
                elif isinstance(command.message, LoadSegments):
                    self._tell_placed(command.message, command.node)
            else:
                assert isinstance(error, Exception)
                self._coord.note_failed(command, error, time.monotonic())
            self._news.notify_all()
        self._kick()

    def _tell_owner(self, own: Own, node: NodeId) -> None:
        telemetry.OWNER_CHANGES.add()
        telemetry.note(
            "owner_changed", database=self.ref.identity, collection=own.collection_id,
            owner=node, term=own.term,
        )  # fmt: skip

    def _tell_placed(self, load: LoadSegments, node: NodeId) -> None:
        telemetry.note(
            "segments_placed", database=self.ref.identity, collection=load.collection_id,
            peer=node, segments=len(load.segments),
        )  # fmt: skip

    def _tend(self) -> None:
        looked_s = time.monotonic()
        try:
            self.ruling = self.engine.tend()
            self.engine.jobs.adopt()
            if self.ruling and self._coord.is_ruling:
                self._reserve()
            if self._on_network and self.ruling and self.engine.confirm():
                with self._news:
                    self._coord.note_ruling(looked_s)
        except errors.GpuvecError as error:
            _logger.warning("%s: %s", self.ref.url, error)
        finally:
            self._tending = False

    def _reserve(self) -> None:
        """Let timestamps go further, before nodes need that."""
        until_ms = self._range.wanted(self._time.now_ms())
        if until_ms is not None:
            self.engine.reserve(until_ms)
            self._range.note(until_ms)

    def _read_soon(self, collection_id: str) -> None:
        with self._news:
            if collection_id in self._reading:
                return
            self._reading.add(collection_id)
        self._pool.submit(self._read, collection_id)

    def _read(self, collection_id: str) -> None:
        """Note which segments the newest manifest of a collection names."""
        with self._news:
            self._reading.discard(collection_id)  # an entry that comes from here on is read again
        try:
            state = self.engine.state(collection_id)
            entry = self.engine.channel(collection_id).channels[0].entry_id
        except errors.NotFoundError:
            return
        except errors.GpuvecError as error:
            _logger.warning("%s: manifest of %s: %s", self.ref.url, collection_id, error)
            return
        sizes = {
            s.segment_id: SegmentSize(s.size_bytes, s.row_count) for s in state.segments.values()
        }
        shown = described(state)
        groups = tuple(self._groups.get(self.engine.ids().get(collection_id, ""), ()))
        with self._news:
            if entry < self._entries.get(collection_id, -1):
                return
            self._entries[collection_id] = entry
            self._described[collection_id] = shown
            self._coord.note_collection(collection_id, sizes, time.monotonic(), groups=groups)
        self._kick()

    # Ending

    def _drop(self, collection_id: str) -> None:
        """End the ownership of a collection that will be dropped."""
        with self._news:
            owner = self._coord.owner(collection_id)
            self._coord.note_dropped(collection_id, time.monotonic())
            self._entries.pop(collection_id, None)
            self._described.pop(collection_id, None)
            self._desk.forget(collection_id)
        if owner is None:
            return
        order = Disown(
            identity=self.ref.identity, collection_id=collection_id, dropped=True,
            generation=self.generation, term=owner.term,
        )  # fmt: skip
        try:
            self._send(owner.node, "", order, _HAND_OVER_S).result()
        except (errors.UnavailableError, errors.DeadlineError):
            time.sleep(LEASE_S)  # it may live on: its lease ends before the collection does
        self._kick()

    def release(self, nodes: Iterable[NodeId]) -> None:
        """Have all nodes save and let go of the database; if all did, no lease is out."""
        order = CloseDatabase(identity=self.ref.identity)
        sent = {node: self._send(node, "", order, _HAND_OVER_S) for node in nodes}
        ended = {node for node, future in sent.items() if future.exception() is None}
        with self._news:
            for collection_id, owner in self._coord.whole_routes().owners.items():
                if owner.node in ended:
                    self._coord.note_disowned(collection_id, owner.node, owner.term)
            ruling = self._coord.is_ruling
        if not ruling:
            self.engine.grant_leases(0.0, self._time.now_ms() + 1)

    def close(self) -> None:
        """Let go of the database here."""
        with self._news:
            self.ruling = False
            self._coord.close()
            self._news.notify_all()
        self.engine.close()

    # Looking

    def demand(self) -> Demand:
        """Return what the database asks of the cluster."""
        with self._news:
            return self._coord.demand()

    def state(self) -> dict[str, Any]:
        """Return what people see of it, from memory; see `gpuvec.cluster.view`."""
        with self._news:
            state = self._coord.state()
            owned = state["collections"]
            shown = {
                collection_id: {
                    "name": name,
                    "owner": None,
                    "term": 0,
                    **self._described.get(collection_id, {}),
                    **owned.get(collection_id, {}),
                    "entry": self._entries.get(collection_id, 0),
                }
                for collection_id, name in self.engine.ids().items()
            }
        jobs = self.engine.jobs.lines()
        found = {"url": self.ref.url, "recovered": self.ruling, "collections": shown, "jobs": jobs}
        return {**state, **found}
