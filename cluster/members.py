"""Which nodes a cluster has, by what they said of themselves."""

import threading
from typing import Any

from gpuvec import telemetry
from gpuvec.cluster_messages import PROTOCOL, Hello
from gpuvec.types import NodeId


class Members:
    """The nodes that are there. Safe for use by several threads."""

    def __init__(self) -> None:
        self._nodes: dict[NodeId, Hello] = {}
        self._others: dict[NodeId, Hello] = {}  # that speak another protocol
        self._draining: set[NodeId] = set()
        self._lock = threading.Lock()

    def join(self, hello: Hello) -> bool:
        """Note a node that can work; return False for one that speaks another protocol."""
        with self._lock:
            if hello.protocol != PROTOCOL:
                self._others[hello.node] = hello
                return False
            known = self._nodes.get(hello.node)
            self._nodes[hello.node] = hello
            self._others.pop(hello.node, None)
            fresh = known is None or known.incarnation != hello.incarnation
            if fresh:
                self._draining.discard(hello.node)
        if fresh:
            telemetry.note("node_joined", peer=hello.node, address=hello.address)
        return True

    def drain(self, node: NodeId) -> Hello | None:
        """Note that a node will end; return who it is, None if it is not there."""
        with self._lock:
            hello = self._nodes.get(node)
            fresh = hello is not None and node not in self._draining
            if fresh:
                self._draining.add(node)
        if fresh:
            telemetry.note("node_leaving", peer=node)
        return hello

    def drop(self, address: str) -> list[Hello]:
        """Forget who answered at an address; return who that was."""
        with self._lock:
            gone = [hello for hello in self._nodes.values() if hello.address == address]
            for hello in gone:
                del self._nodes[hello.node]
                self._draining.discard(hello.node)
        for hello in gone:
            telemetry.note("node_lost", peer=hello.node, address=address)
        return gone

    def get(self, node: NodeId) -> Hello | None:
        """Return who a node is; None if it is not there."""
        return self._nodes.get(node)

    def all(self) -> list[Hello]:
        """Return the nodes that can work."""
        with self._lock:
            return list(self._nodes.values())

    def state(self) -> dict[str, dict[str, Any]]:
        """Return what people see, by the name of the node."""
        with self._lock:
            nodes, others = dict(self._nodes), dict(self._others)
            draining = set(self._draining)
        return {
            str(hello.node): {
                "incarnation": hello.incarnation,
                "address": hello.address,
                "host": hello.host,
                "group": hello.group,
                "memory_bytes": hello.memory_bytes,
                "memory_used": 0,
                "threads": hello.threads,
                "queue": 0,
                "latency_s": 0.0,
                "usable": hello.node in nodes,
                "draining": hello.node in draining,
            }
            for hello in [*nodes.values(), *others.values()]
        }
