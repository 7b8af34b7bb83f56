"""What goes wrong in a simulated cluster: processes die, stand still, part, leave and come."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from random import Random

from gpuvec.cluster_messages import COORDINATOR
from gpuvec.proxy.owner_calls import OwnerCalls
from gpuvec.proxy.router import Router
from gpuvec.testing.sim_coordinator import SimCoordinator
from gpuvec.testing.sim_network import Web
from gpuvec.testing.sim_node import SimNode
from gpuvec.types import NodeId


@dataclass(eq=False)
class SimClient:
    """A client: one call at a time."""

    name: str
    router: Router
    owners: OwnerCalls
    busy: bool = False
    known: tuple[int, int] = (0, 0)  # generation and epoch of its routes


class Faults(ABC):
    """The part of `ClusterSimulation` that lets things go wrong."""

    web: Web
    chance: Random
    storm: bool
    nodes: dict[NodeId, SimNode]
    zombies: list[SimCoordinator]
    leaving: set[NodeId]
    clients: list[SimClient]
    coordinator: SimCoordinator
    _numbers: int

    @abstractmethod
    def add_node(self, name: NodeId) -> None:
        """Let a node join, or come back by its name."""

    @abstractmethod
    def _coordinator(self, *, first: bool) -> SimCoordinator:
        """Return a coordinator that begins to rule."""

    def _plan_faults(self, end_s: float) -> None:
        self._replaced: list[SimNode] = []
        faults = self.faults()
        chosen = self.chance.sample(faults, min(len(faults), self.chance.choice((2, 4, 6))))
        for _ in range(20 if self.storm else self.chance.choice((2, 5, 10))):
            self.web.after(
                self.chance.random() * (end_s - self.web.now_s), self.chance.choice(chosen)
            )

    def faults(self) -> tuple[Callable[[], None], ...]:
        """Return what may happen, the frequent more than once."""
        return (
            self._kill_node, self._kill_node, self._freeze, self._cut, self._cut, self._split,
            self._vanish, self._leave, self._add, self._next_coordinator, self._second_coordinator,
        )  # fmt: skip

    def partitions(self) -> tuple[Callable[[], None], ...]:
        """Return what parts processes from each other, and ends none."""
        return self._split, self._cut, self._freeze

    def _some_node(self) -> SimNode | None:
        alive = [node for node in self.nodes.values() if node.process.alive]
        return self.chance.choice(alive) if alive else None

    def _kill_node(self) -> None:
        node = self._some_node()
        if node is not None:
            self._lose(node, noticed=self.chance.random() < 0.7)
            back_s = self.chance.choice((0.5, 3.0, 20.0))
            self.web.after(back_s, lambda: self._come_back(node))

    def _lose(self, node: SimNode, *, noticed: bool) -> None:
        self.web.kill(node.process)
        if noticed:
            self.web.after(0.15, lambda: self._tell_lost(node))

    def _tell_lost(self, node: SimNode) -> None:
        for coordinator in (self.coordinator, *self.zombies):
            coordinator.coord.note_lost(node.name, node.incarnation, self.web.now_s)

    def _come_back(self, node: SimNode) -> None:
        if self.nodes.get(node.name) is node:
            self.add_node(node.name)

    def _freeze(self) -> None:
        node = self._some_node()
        if node is not None:
            node.process.frozen_s = self.web.now_s + self.chance.choice((1.0, 4.0, 10.0))

    def _cut(self) -> None:
        """Part two who talk to each other; the coordinator may take the node for dead."""
        node = self._some_node()
        if node is None:
            return
        clients = [client.name for client in self.clients]
        other = self.chance.choice((node.coordinator, node.coordinator, *clients))
        pair = frozenset((node.name, other))
        self.web.cut.add(pair)
        if other == node.coordinator and self.chance.random() < 0.5:
            self._tell_lost(node)
        self.web.after(self.chance.choice((1.0, 5.0, 12.0)), lambda: self.web.cut.discard(pair))

    def _split(self) -> None:
        """Part a node and a client from the coordinator: they still have each other."""
        node, client = self._some_node(), self.chance.choice(self.clients)
        if node is not None:
            names = (node.name, client.name)
            others = (node.coordinator, COORDINATOR)
            pairs = {frozenset((name, other)) for name in names for other in others}
            self.web.cut |= pairs
            self.web.after(
                self.chance.choice((5.0, 12.0)), lambda: self.web.cut.difference_update(pairs)
            )

    def _vanish(self) -> None:
        """Let a node die for ever, unseen."""
        node = self._some_node()
        if node is not None and len(self.nodes.keys() - self.leaving) > 2:
            del self.nodes[node.name]
            self._lose(node, noticed=False)

    def _leave(self) -> None:
        """Let a node drain, and end when it may."""
        node = self._some_node()
        if node is None or len(self.nodes) - len(self.leaving) < 2:
            return
        self.leaving.add(node.name)

        def look() -> None:
            if self.nodes.get(node.name) is not node or not node.process.alive:
                return
            self.coordinator.coord.note_leaving(node.name, node.incarnation)
            if self.coordinator.coord.drained(node.name):
                del self.nodes[node.name]
                self._lose(node, noticed=True)
            else:
                self.web.after(0.5, look)

        look()

    def _add(self) -> None:
        if len(self.nodes) < 5:
            self._numbers += 1
            self.add_node(NodeId(f"node-{self._numbers}"))

    def _next_coordinator(self) -> None:
        """Let the coordinator die, and another one come."""
        self.coordinator.end()
        self.web.after(self.chance.choice((0.1, 2.0, 6.0)), self._rule_anew)

    def _second_coordinator(self) -> None:
        """Let another coordinator take over while this one lives on, cut off from the store."""
        old = self.coordinator
        old.process.frozen_s = 0.0
        self.zombies.append(old)
        self._rule_anew(at_once=False)

    def _rule_anew(self, at_once: bool = True) -> None:
        if self.coordinator.process.alive and at_once:
            return  # another one came meanwhile
        self.coordinator = self._coordinator(first=False)
        for node in self.nodes.values():
            delay_s = 0.0 if at_once else self.chance.choice((0.0, 0.5, 3.0, 8.0))
            self.web.after(delay_s, partial(self._follow_newest, node))

    def _follow_newest(self, node: SimNode) -> None:
        node.coordinator = self.coordinator.process.name
