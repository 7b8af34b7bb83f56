"""Who writes to each collection: one owner at a time, under leases.

A *term* names one grant; terms rise over all coordinators of a database, since they begin with the
coordinator's generation. A node's lease runs from when it *sent* the report whose answer renewed
it, so the end that is noted here, from when the answer left, is never too early.

A collection gets a new owner only if

* the old one acknowledged that it disowned it, or
* the old one's lease has run out, and it is gone or has been asked in vain for `PATIENCE_S`.

Neither leases nor terms are what keeps two owners apart: that is the epoch in the log. A lease
tells an owner that nobody else was named, so that it may answer reads without a look at the store.

After a start of the coordinator (`quarantine_s`) leases of its predecessor may be out: nobody gets
one until those have run out. Nodes that report collections as owned by an older term keep them,
under a new one and without a lease, so writing goes on. And a coordinator whose rule was not
confirmed by a look at the log for `confirm_s` renews nothing: another one may rule by now.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

from gpuvec.cluster_messages import LEASE_S, Disown, NodeReport, Own, Owner
from gpuvec.coord.commands import Command
from gpuvec.coord.nodes import Node, Nodes
from gpuvec.types import NodeId

PATIENCE_S = 30.0
_ASK_SOON_S = 0.2  # after a command that did not arrive
_ASK_AGAIN_S = 5.0  # for an answer that is missing
_TERMS = 1 << 32  # of each generation
_SETTLED_S = 60.0  # an owner stays at least so long, unless it leaves
_BALANCE_S = 5.0
_MISSING_S = 2.0  # reports may have been sent before a grant was heard
_MOST_GRANTS = 200  # of one step
_GROWING_BYTES = 64 << 20  # in memory: as much to do as another collection


@dataclass(slots=True)
class _Grant:
    """A collection in the hands of a node.

    Attributes:
        since_s: when it was decided.
        lease_s: the end of its lease, at the latest.
        acknowledged: whether the node said that it owns it.
        ask_s: when to send the command (again).
        ending_s: since when it shall disown it; None: it shall not.
        missed_s: since when its node's reports do not name it; None: they do.
    """

    node: NodeId
    incarnation: str
    term: int
    since_s: float
    lease_s: float = float("-inf")
    acknowledged: bool = False
    ask_s: float = float("-inf")
    ending_s: float | None = None
    missed_s: float | None = None


class Ownership:
    """Grants collections to nodes. Owns no clock.

    Args:
        identity, generation: of the database.
        nodes: who is there; whoever notes it there tells this, too.
        lease_s: length of leases.
        quarantine_s: how long after `start_s` leases of a former coordinator may be out.
        confirm_s: how long a look at the log is good for; None: nobody else can rule.
    """

    def __init__(
        self,
        identity: str,
        generation: int,
        nodes: Nodes,
        *,
        start_s: float,
        lease_s: float = LEASE_S,
        quarantine_s: float = LEASE_S,
        confirm_s: float | None = None,
    ) -> None:
        self._identity = identity
        self._generation = generation
        self._nodes = nodes
        self._lease_s = lease_s
        self._free_s = start_s + quarantine_s
        self._confirm_s = confirm_s
        self._start_s = start_s
        self._confirmed_s = start_s
        self._term = generation * _TERMS
        self._grants: dict[str, _Grant] = {}
        self._of_node: dict[NodeId, set[str]] = {}
        self._open: set[str] = set()  # grants that are to be told to their nodes, or to end
        self._created: set[str] = set()
        self._dropped: set[str] = set()
        self._wanted: dict[str, float] = {}  # without a grant: when it may be granted
        self._growing: dict[str, int] = {}  # bytes, as owners say
        self._strays: dict[tuple[str, NodeId], tuple[int, float]] = {}  # term, when to ask again
        self._failed: dict[tuple[str, NodeId], float] = {}  # not to be tried before
        self._changed: set[str] = set()
        self._balanced_s = start_s

    # Noting

    def note_ruling(self, looked_s: float) -> None:
        """Note that a look at the log, begun then, found no other coordinator."""
        self._confirmed_s = max(self._confirmed_s, looked_s)

    def want(self, collection_id: str, now_s: float) -> None:
        """Note that a collection needs an owner."""
        if collection_id not in self._grants:
            free_s = now_s if collection_id in self._created else self._free_s
            self._wanted.setdefault(collection_id, free_s)

    def note_created(self, collection_id: str) -> None:
        """Note a collection that this coordinator made: nobody can hold a lease of it."""
        self._created.add(collection_id)

    def note_dropped(self, collection_id: str) -> None:
        """Note that a collection is gone; who owned it is told if it goes on."""
        if collection_id in self._grants:
            self._end(collection_id, float("-inf"))
        self._dropped.add(collection_id)
        self._wanted.pop(collection_id, None)
        self._growing.pop(collection_id, None)

    def note_node(self, name: NodeId) -> None:
        """Note that a node was lost or will leave: what it owns is looked at."""
        self._open |= self._of_node.get(name, set())
        self._changed |= self._of_node.get(name, set())

    def note_report(self, report: NodeReport, now_s: float) -> dict[str, int]:
        """Note what a node owns; return the terms whose leases go on."""
        for status in report.statuses.get(self._identity, ()):
            self._growing[status.collection_id] = status.growing_bytes
        renewed = {}
        for collection_id, term in report.owned.get(self._identity, {}).items():
            grant = self._grants.get(collection_id)
            if grant is None or grant.term != term or grant.incarnation != report.incarnation:
                self._note_stray(report, collection_id, term, now_s)
                continue
            grant.missed_s = None
            if not grant.acknowledged:
                self._acknowledge(collection_id, grant)
            if grant.ending_s is None and self._may_lease(collection_id, now_s):
                grant.lease_s = now_s + self._lease_s
                renewed[collection_id] = term
        self._note_missing(report, now_s)
        return renewed

    def note_owned(self, collection_id: str, term: int) -> None:
        """Note that a node answered `Own`."""
        grant = self._grants.get(collection_id)
        if grant is not None and grant.term == term and not grant.acknowledged:
            self._acknowledge(collection_id, grant)

    def note_disowned(self, collection_id: str, node: NodeId, term: int) -> None:
        """Note that a node ended all writing under a term."""
        stray = self._strays.get((collection_id, node))
        if stray is not None and stray[0] <= term:
            del self._strays[collection_id, node]
        grant = self._grants.get(collection_id)
        if grant is not None and (grant.node, grant.term) == (node, term):
            self._end(collection_id, self._start_s)

    def note_refused(self, collection_id: str, node: NodeId, term: int, now_s: float) -> None:
        """Note that a node answered `Own` with an error: it may have it all the same."""
        grant = self._grants.get(collection_id)
        if grant is not None and (grant.node, grant.term) == (node, term):
            self._failed[collection_id, node] = now_s + PATIENCE_S
            self._begin_end(collection_id, grant, now_s)

    def note_unanswered(self, collection_id: str, term: int, now_s: float) -> None:
        """Note that a command did not arrive, or its answer: it is sent again."""
        grant = self._grants.get(collection_id)
        if grant is not None and grant.term == term:
            grant.ask_s = min(grant.ask_s, now_s + _ASK_SOON_S)

    # Deciding

    def reconcile(
        self, now_s: float, affinity: Callable[[str], Mapping[NodeId, int]]
    ) -> list[Command]:
        """Return what to tell nodes; `affinity`: how many segments of a collection each holds."""
        for collection_id in sorted(self._open):
            self._review(collection_id, self._grants[collection_id], now_s)
        due = sorted(name for name, free_s in self._wanted.items() if free_s <= now_s)
        if due:
            loads = self._loads()
            for collection_id in due[:_MOST_GRANTS]:
                self._grant(collection_id, loads, affinity(collection_id), now_s)
        if now_s >= self._balanced_s + _BALANCE_S:
            self._balanced_s = now_s
            self._balance(now_s)
        return list(self._commands(now_s))

    def take_changed(self) -> set[str]:
        """Return the collections whose owner changed since the last call."""
        changed, self._changed = self._changed, set()
        return changed

    def owner(self, collection_id: str) -> Owner | None:
        """Return who owns a collection and said so; None: nobody, or it is changing."""
        grant = self._grants.get(collection_id)
        if grant is None or not grant.acknowledged or grant.ending_s is not None:
            return None
        node = self._nodes.get(grant.node)
        if node is None or node.hello.incarnation != grant.incarnation:
            return None
        return Owner(
            collection_id=collection_id,
            node=grant.node,
            address=node.hello.address,
            term=grant.term,
            generation=self._generation,
        )

    def owners(self) -> dict[str, Owner]:
        """Return all owners."""
        return {c: owner for c in sorted(self._grants) if (owner := self.owner(c)) is not None}

    def is_term(self, collection_id: str, term: int) -> bool:
        """Return whether a term is the one under which a collection is owned, till its very end."""
        grant = self._grants.get(collection_id)
        return grant is not None and grant.term == term

    def has_grants(self, node: NodeId) -> bool:
        """Return whether a node owns something, or may."""
        return any(grant.node == node for grant in self._grants.values())

    def growing_bytes(self, collection_id: str) -> int:
        """Return what the owner said last that is in no file."""
        return self._growing.get(collection_id, 0)

    @property
    def is_ruling(self) -> bool:
        """Return whether leases are out, or may be, that a next coordinator must wait for."""
        return bool(self._grants)

    # Steps

    def _note_stray(self, report: NodeReport, collection_id: str, term: int, now_s: float) -> None:
        """Note that a node owns what it was not granted: adopt that, or have it disowned."""
        grant = self._grants.get(collection_id)
        is_old = term <= self._generation * _TERMS
        if grant is None and is_old and collection_id not in self._dropped:
            if self._nodes.is_usable(report.node):
                self._give(collection_id, report.node, report.incarnation, now_s)
                return
        elif grant is not None and grant.incarnation == report.incarnation and term < grant.term:
            grant.ask_s = min(grant.ask_s, now_s + _ASK_AGAIN_S)  # it will be told its new term
            return
        known = self._strays.get((collection_id, report.node))
        if known is None or known[0] < term:
            self._strays[collection_id, report.node] = (term, now_s)

    def _note_missing(self, report: NodeReport, now_s: float) -> None:
        """Note what a node does not own although it said so: it has lost it, and shall say that."""
        owned = report.owned.get(self._identity, {})
        for collection_id in self._of_node.get(report.node, set()).difference(owned):
            grant = self._grants[collection_id]
            if grant.missed_s is None:
                grant.missed_s = now_s
            elif grant.acknowledged and now_s >= grant.missed_s + _MISSING_S:
                self._begin_end(collection_id, grant, now_s)

    def _may_lease(self, collection_id: str, now_s: float) -> bool:
        if now_s < self._free_s and collection_id not in self._created:
            return False
        return self._confirm_s is None or now_s <= self._confirmed_s + self._confirm_s

    def _acknowledge(self, collection_id: str, grant: _Grant) -> None:
        grant.acknowledged = True
        if grant.ending_s is None:
            self._open.discard(collection_id)
        self._changed.add(collection_id)

    def _review(self, collection_id: str, grant: _Grant, now_s: float) -> None:
        """End what must end."""
        if not self._nodes.is_there(grant.node, grant.incarnation):
            if now_s >= grant.lease_s:
                self._end(collection_id, now_s)
        elif grant.ending_s is not None:
            if now_s >= max(grant.lease_s, grant.ending_s + PATIENCE_S):
                self._strays[collection_id, grant.node] = (grant.term, now_s)
                self._end(collection_id, now_s)
        elif not self._nodes.is_usable(grant.node):
            self._begin_end(collection_id, grant, now_s)

    def _begin_end(self, collection_id: str, grant: _Grant, now_s: float) -> None:
        if grant.ending_s is None:
            grant.ending_s = now_s
            grant.ask_s = float("-inf")
            self._open.add(collection_id)
            self._changed.add(collection_id)

    def _end(self, collection_id: str, free_s: float) -> None:
        grant = self._grants.pop(collection_id)
        self._of_node[grant.node].discard(collection_id)
        self._open.discard(collection_id)
        self._wanted[collection_id] = free_s
        self._changed.add(collection_id)

    def _grant(
        self,
        collection_id: str,
        loads: dict[NodeId, float],
        affinity: Mapping[NodeId, int],
        now_s: float,
    ) -> None:
        """Name the node that has least to do; among equals one that holds most of it."""
        usable = [node for node in self._nodes if not node.draining]
        willing = [
            node for node in usable if now_s >= self._failed.get((collection_id, node.name), now_s)
        ]
        if not usable:
            return

        def order(node: Node) -> tuple[float, int, float, NodeId]:
            return loads.get(node.name, 0.0), -affinity.get(node.name, 0), node.busy, node.name

        best = min(willing or usable, key=order)
        self._give(collection_id, best.name, best.hello.incarnation, now_s)
        loads[best.name] = loads.get(best.name, 0.0) + self._cost(collection_id)

    def _give(self, collection_id: str, node: NodeId, incarnation: str, now_s: float) -> None:
        self._wanted.pop(collection_id, None)
        self._term += 1
        self._grants[collection_id] = _Grant(node, incarnation, self._term, now_s)
        self._of_node.setdefault(node, set()).add(collection_id)
        self._open.add(collection_id)

    def _cost(self, collection_id: str) -> float:
        return 1 + self._growing.get(collection_id, 0) / _GROWING_BYTES

    def _loads(self) -> dict[NodeId, float]:
        loads: dict[NodeId, float] = {node.name: 0.0 for node in self._nodes if not node.draining}
        for collection_id, grant in self._grants.items():
            loads[grant.node] = loads.get(grant.node, 0.0) + self._cost(collection_id)
        return loads

    def _balance(self, now_s: float) -> None:
        """Take one collection from the node that owns most, if another one then owns less."""
        if self._open:
            return  # one change at a time
        usable = {name: load for name, load in self._loads().items() if self._nodes.is_usable(name)}
        if len(usable) < 2:
            return
        most = max(sorted(usable), key=usable.__getitem__)
        least = min(usable.values())
        settled = [
            (self._cost(name), name)
            for name in self._of_node.get(most, ())
            if now_s >= self._grants[name].since_s + _SETTLED_S
        ]
        if settled:
            cost, name = min(settled)
            if usable[most] - cost >= least + cost:
                self._begin_end(name, self._grants[name], now_s)

    def _commands(self, now_s: float) -> Iterator[Command]:
        for collection_id in sorted(self._open):
            grant = self._grants[collection_id]
            if now_s < grant.ask_s or not self._nodes.is_there(grant.node, grant.incarnation):
                continue
            grant.ask_s = now_s + _ASK_AGAIN_S
            if grant.ending_s is None:
                own = self._own(collection_id, grant.term)
                yield Command(node=grant.node, incarnation=grant.incarnation, message=own)
            else:
                disown = self._disown(collection_id, grant.term)
                yield Command(node=grant.node, incarnation=grant.incarnation, message=disown)
        for (collection_id, name), (term, due_s) in list(self._strays.items()):
            node = self._nodes.get(name)
            if node is None:
                del self._strays[collection_id, name]
            elif now_s >= due_s:
                self._strays[collection_id, name] = (term, now_s + _ASK_AGAIN_S)
                disown = self._disown(collection_id, term)
                yield Command(node=name, incarnation=node.hello.incarnation, message=disown)

    def _own(self, collection_id: str, term: int) -> Own:
        return Own(
            identity=self._identity,
            collection_id=collection_id,
            generation=self._generation,
            term=term,
            lease_s=self._lease_s,
        )

    def _disown(self, collection_id: str, term: int) -> Disown:
        return Disown(
            identity=self._identity,
            collection_id=collection_id,
            generation=self._generation,
            term=term,
        )
