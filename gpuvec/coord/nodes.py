"""What a coordinator knows of the nodes: who is there, where, how busy, and when it was last heard.

A node is known by its name; a process of that name is an *incarnation*. What is said by or of an
incarnation that was replaced does not count.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gpuvec.cluster_messages import PROTOCOL, Hello, NodeLine, NodeReport
from gpuvec.types import NodeId

_SMOOTHING = 0.1  # of the queue: with two reports a second it follows within some five seconds


@dataclass(slots=True)
class Node:
    """One node that is there.

    Attributes:
        heard_s: when it was last answered.
        draining: it will leave: it gets nothing new, and what it has goes elsewhere.
        memory_used: bytes, as it says.
        queue: calls that wait or run, smoothed.
        latency_s: p95 of its searches.
    """

    hello: Hello
    heard_s: float
    draining: bool = False
    memory_used: int = 0
    queue: float = 0.0
    latency_s: float = 0.0

    @property
    def name(self) -> NodeId:
        """The name, which the next incarnation will bear too."""
        return self.hello.node

    @property
    def busy(self) -> float:
        """Calls that wait or run, per thread."""
        return self.queue / max(1, self.hello.threads)

    def line(self) -> NodeLine:
        """Return the node as routers see it."""
        return NodeLine(
            node=self.name,
            incarnation=self.hello.incarnation,
            address=self.hello.address,
            draining=self.draining,
            queue=round(self.queue),
        )


class Nodes:
    """The nodes that are there and speak our protocol, by name."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Node] = {}
        self._leaving: dict[NodeId, str] = {}  # the incarnations that said so last

    def __iter__(self) -> Iterator[Node]:
        """Iterate over them."""
        return iter(self._nodes.values())

    def __len__(self) -> int:
        """Return how many there are."""
        return len(self._nodes)

    def get(self, name: NodeId) -> Node | None:
        """Return a node, None: it is not there."""
        return self._nodes.get(name)

    def is_usable(self, name: NodeId) -> bool:
        """Return whether a node may get new work."""
        node = self._nodes.get(name)
        return node is not None and not node.draining

    def is_there(self, name: NodeId, incarnation: str) -> bool:
        """Return whether an incarnation is the present one."""
        node = self._nodes.get(name)
        return node is not None and node.hello.incarnation == incarnation

    def hello(self, hello: Hello, now_s: float) -> Node | None:
        """Note that a node is there; None: it speaks another protocol and is left alone."""
        if hello.protocol != PROTOCOL:
            return None
        leaving = self._leaving.get(hello.node) == hello.incarnation
        node = Node(hello, now_s, draining=leaving)
        self._nodes[hello.node] = node
        return node

    def report(self, report: NodeReport, now_s: float) -> Node | None:
        """Note how busy a node is; None: it must say hello first."""
        node = self._nodes.get(report.node)
        if node is None or node.hello.incarnation != report.incarnation:
            return None
        node.heard_s = now_s
        node.memory_used = report.memory_used
        node.queue += _SMOOTHING * (report.queue - node.queue)
        node.latency_s = report.latency_s
        return node

    def lost(self, name: NodeId, incarnation: str) -> bool:
        """Note that an incarnation is gone; False: that is known, or another one is there."""
        if not self.is_there(name, incarnation):
            return False
        del self._nodes[name]
        return True

    def leaving(self, name: NodeId, incarnation: str) -> Node | None:
        """Note that a node will leave; None: it is not there."""
        self._leaving[name] = incarnation
        node = self._nodes.get(name)
        if node is None or node.hello.incarnation != incarnation:
            return None
        node.draining = True
        return node

    def silent(self, since_s: float) -> list[Node]:
        """Return the nodes that were not heard since then."""
        return [node for node in self if node.heard_s < since_s]
