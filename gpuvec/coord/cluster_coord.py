"""The coordinator of one database in a cluster: who is there, who writes, who serves.

Its host feeds it what it hears, calls `reconcile` now and then and after news, sends the commands
that come back, and tells how each went. Facts may come late, twice or not at all.
"""

from collections.abc import Mapping
from typing import Any

from gpuvec.cluster_messages import (
    LEASE_S,
    Disown,
    Hello,
    NodeReport,
    Own,
    Owner,
    ReportReply,
    RouteDelta,
)
from gpuvec.coord.adaptive import Demand
from gpuvec.coord.commands import Command
from gpuvec.coord.nodes import Node, Nodes
from gpuvec.coord.ownership import Ownership
from gpuvec.coord.placement import Ledger
from gpuvec.coord.query_coord import DAMPING_S, QueryCoord, SegmentSize
from gpuvec.errors import DeadlineError, GpuvecError, UnavailableError
from gpuvec.types import NodeId, SegmentId

__all__ = ["ClusterCoord", "Command", "Ledger", "SegmentSize"]

_SILENT_LEASES = 2.0  # a node that was not heard for so many lengths of a lease counts as lost


class ClusterCoord:
    """Decides for one database. Owns no socket, thread or clock; calls come one at a time.

    Args:
        identity, generation: of the database, and of this coordinator's rule.
        now_s: the host's monotonic clock, as in all calls.
        ledger: memory promised to nodes; one for all databases of the cluster.
        replicas: how many nodes shall hold each segment.
        lease_s: how long an owner may answer reads without a look, after each report.
        quarantine_s: how long leases of a former coordinator may be out; see `coord.ownership`.
        confirm_s: how long `note_ruling` is good for; None: the store's lock keeps others off.
        damping_s: from a loss until a further copy is made where one is left.
    """

    def __init__(
        self,
        identity: str,
        generation: int,
        *,
        now_s: float,
        ledger: Ledger | None = None,
        replicas: int = 1,
        lease_s: float = LEASE_S,
        quarantine_s: float = LEASE_S,
        confirm_s: float | None = None,
        damping_s: float = DAMPING_S,
    ) -> None:
        self.identity = identity
        self.generation = generation
        self._silent_s = _SILENT_LEASES * lease_s
        self._reconciled_s = now_s
        self._awake_s = now_s  # since when there was no gap in which reports may have waited
        self._nodes = Nodes()
        self._ownership = Ownership(
            identity,
            generation,
            self._nodes,
            start_s=now_s,
            lease_s=lease_s,
            quarantine_s=quarantine_s,
            confirm_s=confirm_s,
        )
        self._query = QueryCoord(
            identity,
            generation,
            self._nodes,
            ledger or Ledger(),
            replicas=replicas,
            damping_s=damping_s,
        )
        self._epoch = 0
        self._told: dict[NodeId, tuple[Any, ...]] = {}  # nodes, as routers know them
        self._lost: set[NodeId] = set()

    # Noting

    def note_hello(self, hello: Hello, now_s: float) -> bool:
        """Note a node that can work; False: it speaks another protocol."""
        known = self._nodes.get(hello.node)
        if known is not None and known.hello.incarnation != hello.incarnation:
            self.note_lost(hello.node, known.hello.incarnation, now_s)
        node = self._nodes.hello(hello, now_s)
        if node is not None:
            self._lost.discard(hello.node)
            self._query.note_node(node)
        return node is not None

    def note_report(self, report: NodeReport, now_s: float) -> ReportReply:
        """Note what a node holds and owns; return which of its leases go on."""
        node = self._nodes.report(report, now_s)
        if node is None:
            return ReportReply(known=False)
        self._query.note_load(node)
        self._query.note_held(node.name, report.held.get(self.identity, {}), now_s)
        renewed = self._ownership.note_report(report, now_s)
        return ReportReply(known=True, renewed={self.identity: renewed})

    def note_lost(self, name: NodeId, incarnation: str, now_s: float) -> None:
        """Note that a node is gone: its connection broke, or it said that it has ended."""
        if self._nodes.lost(name, incarnation):
            self._lost.add(name)
            self._query.note_lost(name, now_s)
            self._ownership.note_node(name)

    def note_leaving(self, name: NodeId, incarnation: str) -> None:
        """Note that a node will end: what it has goes elsewhere; see `drained`."""
        node = self._nodes.leaving(name, incarnation)
        if node is not None:
            self._query.note_node(node)
            self._ownership.note_node(name)

    def note_collection(
        self,
        collection_id: str,
        segments: Mapping[SegmentId, SegmentSize],
        now_s: float,
        *,
        groups: tuple[str, ...] = (),
    ) -> None:
        """Note all segments that the newest manifest of a collection names.

        Those of `groups` may hold them, resource groups of nodes; none: any.
        """
        self._query.note_collection(collection_id, segments, now_s, groups=groups)

    def note_created(self, collection_id: str) -> None:
        """Note a collection that this coordinator made: its first owner need not wait."""
        self._ownership.note_created(collection_id)

    def note_dropped(self, collection_id: str, now_s: float) -> None:
        """Note that a collection is gone."""
        self._query.note_collection(collection_id, {}, now_s)
        self._ownership.note_dropped(collection_id)

    def note_ruling(self, looked_s: float) -> None:
        """Note that a look at the database's log, begun then, found no later generation."""
        self._ownership.note_ruling(looked_s)

    def note_disowned(self, collection_id: str, node: NodeId, term: int) -> None:
        """Note that a node ended all writing under a term, of itself."""
        self._ownership.note_disowned(collection_id, node, term)

    def note_done(self, command: Command) -> None:
        """Note that a command was answered without an error."""
        match command.message:
            case Own() as own:
                self._ownership.note_owned(own.collection_id, own.term)
            case Disown() as disown:
                self._ownership.note_disowned(disown.collection_id, command.node, disown.term)
            case _:
                pass  # reports tell what is held

    def note_failed(self, command: Command, error: Exception, now_s: float) -> None:
        """Note that a command was answered with an error, or not at all."""
        unanswered = isinstance(error, UnavailableError | DeadlineError)
        refused = isinstance(error, GpuvecError) and not unanswered
        message = command.message
        if isinstance(message, Own | Disown):
            if refused and isinstance(message, Own):
                self._ownership.note_refused(
                    message.collection_id, command.node, message.term, now_s
                )
            else:
                self._ownership.note_unanswered(message.collection_id, message.term, now_s)
        elif refused:
            self._query.note_failed(command.node, message.segments, now_s)
        else:
            self._query.note_unsent(command.node, message.segments)

    def want_owner(self, collection_id: str, now_s: float) -> None:
        """Note that somebody needs an owner of a collection; `reconcile` names one."""
        self._ownership.want(collection_id, now_s)

    # Deciding

    def reconcile(self, now_s: float) -> list[Command]:
        """Return what to send, so that what is there comes nearer to what is wanted."""
        if now_s > self._reconciled_s + self._silent_s / 2:
            self._awake_s = now_s  # this process stood still: silence may be its own
        self._reconciled_s = now_s
        if now_s >= self._awake_s + self._silent_s:
            for node in self._nodes.silent(now_s - self._silent_s):
                self.note_lost(node.name, node.hello.incarnation, now_s)
        return [
            *self._ownership.reconcile(now_s, self._query.held_of),
            *self._query.reconcile(now_s),
        ]

    # What clients and hosts ask

    def owner(self, collection_id: str) -> Owner | None:
        """Return who owns a collection; None: nobody as yet."""
        return self._ownership.owner(collection_id)

    def is_term(self, collection_id: str, term: int) -> bool:
        """Return whether a node that owns a collection under this term may have it changed."""
        return self._ownership.is_term(collection_id, term)

    def take_delta(self) -> RouteDelta | None:
        """Return what changed in the routes since the last call; None: nothing."""
        segments = self._query.take_changes()
        changed = sorted(self._ownership.take_changed())
        owners = {c: owner for c in changed if (owner := self.owner(c)) is not None}
        nodes = [node for node in self._nodes if self._told.get(node.name) != _gist(node)]
        lost = tuple(sorted(self._lost))
        self._lost.clear()
        for name in lost:
            self._told.pop(name, None)
        self._told.update((node.name, _gist(node)) for node in nodes)
        if not (segments or owners or nodes or lost):
            return None
        self._epoch += 1
        return RouteDelta(
            identity=self.identity,
            generation=self.generation,
            epoch=self._epoch,
            segments=segments,
            owners=owners,
            nodes=tuple(node.line() for node in nodes),
            lost=lost,
        )

    def whole_routes(self) -> RouteDelta:
        """Return all routes, to which the deltas of later epochs apply."""
        return RouteDelta(
            identity=self.identity,
            generation=self.generation,
            epoch=self._epoch,
            segments=self._query.routes(),
            owners=self._ownership.owners(),
            nodes=tuple(node.line() for node in self._nodes),
            whole=True,
        )

    def drained(self, name: NodeId) -> bool:
        """Return whether a node may end: it owns nothing, and others serve what it does."""
        return not self._ownership.has_grants(name) and self._query.is_drained(name)

    @property
    def is_ruling(self) -> bool:
        """Return whether nodes own collections: leases may be out."""
        return self._ownership.is_ruling

    def demand(self) -> Demand:
        """Return what this database asks of the cluster; see `coord.adaptive`."""
        staying = [node for node in self._nodes if not node.draining]
        return Demand(
            wanted_bytes=self._query.wanted_bytes,
            queue=sum(node.queue for node in staying),
            threads=sum(node.hello.threads for node in staying),
            latency_s=max((node.latency_s for node in staying), default=0.0),
            budgets=tuple(sorted(node.hello.memory_bytes for node in staying)),
        )

    def state(self) -> dict[str, Any]:
        """Return what is known, as plain values for people to see."""
        owners = self._ownership.owners()
        return {
            "generation": self.generation,
            "epoch": self._epoch,
            "nodes": {node.name: self._node_state(node) for node in self._nodes},
            "collections": {
                name: {
                    "owner": owner.node,
                    "term": owner.term,
                    "growing_bytes": self._ownership.growing_bytes(name),
                }
                for name, owner in owners.items()
            },
            "segments": [
                [
                    segment.collection_id,
                    segment.segment_id,
                    segment.size.rows,
                    segment.size.size_bytes,
                    sorted(segment.holders),
                    self._query.replicas,
                ]
                for segment in self._query.segments()
            ],
            "unplaced": sorted(self._query.unplaced),
        }

    def close(self) -> None:
        """Give back the memory that was promised to this database."""
        self._query.close()

    def _node_state(self, node: Node) -> dict[str, Any]:
        hello = node.hello
        return {
            "incarnation": hello.incarnation,
            "address": hello.address,
            "host": hello.host,
            "group": hello.group,
            "memory_bytes": hello.memory_bytes,
            "memory_used": node.memory_used,
            "threads": hello.threads,
            "queue": round(node.queue, 2),
            "latency_s": node.latency_s,
            "usable": True,
            "draining": node.draining,
            "segments": len(self._query.placed(node.name)),
        }


def _gist(node: Node) -> tuple[Any, ...]:
    """Return what routers shall be told of when it changes; of the queue only its magnitude."""
    return node.hello.incarnation, node.hello.address, node.draining, round(node.queue).bit_length()
