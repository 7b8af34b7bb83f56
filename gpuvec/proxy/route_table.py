"""Who serves what, as a client knows it: the coordinator's routes, kept up by what it pushes."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from gpuvec.cluster_messages import NodeLine, Owner, RouteDelta
from gpuvec.types import NodeId, SegmentId

_MOST_EARLY = 1000  # deltas that wait for one before them; beyond, the whole is fetched anyway


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """The routes of a database at one moment. Nothing in it changes any more.

    Attributes:
        generation: of the coordinator that rules; 0: none was heard yet.
        epoch: of the last change that is in it.
        segments: by collection and segment, the nodes that serve it.
        owners: by collection.
        nodes: those that live.
    """

    generation: int = 0
    epoch: int = 0
    segments: Mapping[str, Mapping[SegmentId, tuple[NodeId, ...]]] = field(default_factory=dict)
    owners: Mapping[str, Owner] = field(default_factory=dict)
    nodes: Mapping[NodeId, NodeLine] = field(default_factory=dict)

    def serving(self, collection_id: str, segment: SegmentId) -> tuple[NodeId, ...]:
        """Return the nodes that hold a segment warm; none: it has no route."""
        return self.segments.get(collection_id, {}).get(segment, ())

    def standing(self) -> list[NodeId]:
        """Return the nodes that take work without a route, by name; those that drain come last."""
        return sorted(self.nodes, key=lambda node: (self.nodes[node].draining, node))


class RouteTable:
    """Applies changes in the order of their epochs, whatever order they come in.

    Doubled and late changes do nothing, nor does what a former coordinator says. After a gap, or a
    new coordinator, `behind` asks for the whole. Safe for several threads; no method waits.

    Args:
        identity: of the database; changes of others are left alone.
    """

    def __init__(self, identity: str) -> None:
        self._identity = identity
        self._routes = Routes()
        self._early: dict[int, RouteDelta] = {}
        self._newest = 0  # the highest generation that was heard of
        self._lock = threading.Lock()

    @property
    def routes(self) -> Routes:
        """What is known now."""
        return self._routes

    @property
    def behind(self) -> bool:
        """Whether a change is known to be missing, so that the whole is to be fetched."""
        routes = self._routes
        return not routes.generation or self._newest > routes.generation or bool(self._early)

    def apply(self, delta: RouteDelta) -> None:
        """Take a change in, or keep it until those before it have come.

        Cost: one copy of the map of each collection that changes.
        """
        if delta.identity != self._identity:
            return
        with self._lock:
            self._note_generation(delta.generation)
            if delta.generation < self._newest:
                return
            if delta.whole:
                self._replace(delta)
            elif delta.generation != self._routes.generation or delta.epoch > self._next_epoch():
                self._keep(delta)
            elif delta.epoch == self._next_epoch():
                self._routes = _after(self._routes, delta)
            self._catch_up()

    def note_owner(self, owner: Owner) -> Owner:
        """Take in what `FindOwner` said, unless a later owner is known; return the one that counts.

        An owner that names no generation is taken to be of the one that is known.
        """
        with self._lock:
            routes = self._routes
            self._note_generation(owner.generation)
            owners = _later(routes.owners, {owner.collection_id: owner}, routes.generation)
            self._routes = replace(routes, owners=owners)
            return owners[owner.collection_id]

    def owner(self, collection_id: str) -> Owner | None:
        """Return the last owner that was heard of."""
        return self._routes.owners.get(collection_id)

    def forget_collection(self, collection_id: str) -> None:
        """Let go of a collection that was dropped."""
        with self._lock:
            routes = self._routes
            self._routes = replace(
                routes,
                owners={k: v for k, v in routes.owners.items() if k != collection_id},
                segments={k: v for k, v in routes.segments.items() if k != collection_id},
            )

    def _note_generation(self, generation: int) -> None:
        if generation > self._newest:
            self._newest = generation
            self._early.clear()

    def _next_epoch(self) -> int:
        return self._routes.epoch + 1

    def _replace(self, whole: RouteDelta) -> None:
        routes = self._routes
        if whole.generation == routes.generation and whole.epoch < routes.epoch:
            return
        named_since = {
            name: owner
            for name, owner in routes.owners.items()
            if owner.generation == whole.generation
        }
        self._routes = _after(Routes(generation=whole.generation, owners=named_since), whole)

    def _keep(self, delta: RouteDelta) -> None:
        if len(self._early) < _MOST_EARLY:
            self._early[delta.epoch] = delta

    def _catch_up(self) -> None:
        if self._routes.generation != self._newest:
            return
        while (delta := self._early.pop(self._next_epoch(), None)) is not None:
            self._routes = _after(self._routes, delta)
        for epoch in [epoch for epoch in self._early if epoch <= self._routes.epoch]:
            del self._early[epoch]


def _later(
    known: Mapping[str, Owner], named: Mapping[str, Owner], generation: int
) -> Mapping[str, Owner]:
    """Return `known` with those of `named` that are not older; `generation` of who names none."""
    owners = dict(known)
    for name, owner in named.items():
        dated = owner if owner.generation else replace(owner, generation=generation)
        old = owners.get(name)
        if old is None or (old.generation, old.term) <= (dated.generation, dated.term):
            owners[name] = dated
    return owners


def _after(routes: Routes, delta: RouteDelta) -> Routes:
    """Return routes with a change taken in.

    A node that is lost leaves every route at once, so that no delta need list its segments; an
    owner that is lost stays named, since only the coordinator says who follows it.
    """
    nodes = {node: line for node, line in routes.nodes.items() if node not in delta.lost}
    nodes.update({line.node: line for line in delta.nodes})
    segments = dict(routes.segments)
    for collection_id, changed in delta.segments.items():
        merged = {**segments.get(collection_id, {}), **changed}
        segments[collection_id] = {segment: to for segment, to in merged.items() if to}
    if lost := set(delta.lost):
        segments = {name: _without(lost, of) for name, of in segments.items()}
    return Routes(
        generation=delta.generation,
        epoch=delta.epoch,
        segments={name: of for name, of in segments.items() if of},
        owners=_later(routes.owners, delta.owners, delta.generation),
        nodes=nodes,
    )


def _without(
    lost: set[NodeId], segments: Mapping[SegmentId, tuple[NodeId, ...]]
) -> Mapping[SegmentId, tuple[NodeId, ...]]:
    if not any(lost.intersection(nodes) for nodes in segments.values()):
        return segments
    kept = {
        segment: tuple(node for node in nodes if node not in lost)
        for segment, nodes in segments.items()
    }
    return {segment: nodes for segment, nodes in kept.items() if nodes}
