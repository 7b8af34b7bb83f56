"""How the nodes do, as this client sees them: load, latency, whom to leave alone for a while."""

import math
import random
import statistics
import threading
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field

from gpuvec.cluster_messages import NodeLine
from gpuvec.types import NodeId

FAILURES = 3  # in a row open a node's breaker
_OPEN_S = (0.25, 5.0)  # the first time, and at most
_PROBE_S = 2.0  # after which a probe that told nothing is made again
_SMOOTHING = 0.2
_FADES_S = 10.0  # a latency is forgotten so fast, so that a node that was slow once is tried again
_REMEMBERED = 256  # latencies of each node


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFigures:
    """What this client saw of a node.

    Attributes:
        calls: that ended.
        failures: of them, with no answer or a broken connection.
        in_flight: calls that have not ended.
        p50_s: latency of the last calls; 0: there were none.
        open: whether it is left alone now.
    """

    node: NodeId
    calls: int
    failures: int
    in_flight: int
    p50_s: float
    p95_s: float
    open: bool


@dataclass(slots=True)
class _Node:
    incarnation: str = ""
    queue: int = 0  # as it was reported; our own calls may be among them
    in_flight: int = 0
    smooth_s: float = 0.0
    smooth_at_s: float = 0.0
    in_a_row: int = 0  # failures
    times_open: int = 0
    open_until_s: float = 0.0
    probed_s: float = float("-inf")
    calls: int = 0
    failures: int = 0
    latencies: deque[float] = field(default_factory=lambda: deque(maxlen=_REMEMBERED))


class Fleet:
    """The nodes of a cluster, each with a breaker. Safe for use by several threads.

    A breaker opens after `FAILURES` in a row, or when a node is suspected to hang. An open one
    closes when a `Ping` is answered after its time, or when the node comes back in another
    incarnation. Time is given, never asked for.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self._nodes: dict[NodeId, _Node] = {}
        self._lock = threading.Lock()
        self._random = random.Random(seed)

    def learn(self, lines: Iterable[NodeLine]) -> None:
        """Take in what the coordinator says of the nodes; a new incarnation is trusted."""
        with self._lock:
            for line in lines:
                node = self._of(line.node)
                node.queue = line.queue
                if node.incarnation != line.incarnation:
                    node.incarnation = line.incarnation
                    _close(node)

    def started(self, node: NodeId) -> None:
        """Note a call that begins."""
        with self._lock:
            self._of(node).in_flight += 1

    def answered(self, node: NodeId, seconds: float, now_s: float) -> None:
        """Note a call that ended with an answer, whatever it says."""
        with self._lock:
            known = self._of(node)
            known.in_flight -= 1
            known.calls += 1
            known.latencies.append(seconds)
            before_s = _faded(known, now_s)
            share = 1.0 if seconds > before_s else _SMOOTHING  # up at once, down slowly
            known.smooth_s = before_s + share * (seconds - before_s)
            known.smooth_at_s = now_s
            _close(known)

    def failed(self, node: NodeId, now_s: float) -> None:
        """Note a call that ended without an answer."""
        with self._lock:
            known = self._of(node)
            known.in_flight -= 1
            known.calls += 1
            known.failures += 1
            known.in_a_row += 1
            if known.in_a_row >= FAILURES:
                self._open(known, now_s)

    def suspect(self, node: NodeId, now_s: float) -> None:
        """Note that a node hangs: it does not answer even a `Ping`."""
        with self._lock:
            self._open(self._of(node), now_s)

    def alive(self, node: NodeId) -> None:
        """Note that a node answered a `Ping`."""
        with self._lock:
            _close(self._of(node))

    def is_open(self, node: NodeId) -> bool:
        """Return whether a node is left alone, since it failed."""
        with self._lock:
            return bool(self._of(node).times_open)

    def due(self, now_s: float) -> list[NodeId]:
        """Return the open nodes that are to be pinged now; each once in a while."""
        with self._lock:
            found = [
                name
                for name, node in self._nodes.items()
                if node.times_open
                and node.open_until_s <= now_s
                and node.probed_s + _PROBE_S <= now_s
            ]
            for name in found:
                self._nodes[name].probed_s = now_s
            return found

    def loads(self, nodes: Iterable[NodeId], now_s: float) -> dict[NodeId, tuple[float, float]]:
        """Return how long a call takes at each node, and how many wait or run there.

        Source: "peak EWMA" of Twitter's Finagle: a latency counts at once when it is long, fades
        when others are shorter, and with time.
        """
        with self._lock:
            return {
                name: (
                    max(_faded(node, now_s), 1e-4),
                    float(max(node.queue, node.in_flight)),
                )
                for name, node in ((name, self._of(name)) for name in nodes)
            }

    def figures(self) -> list[NodeFigures]:
        """Return what was seen of each node, by name."""
        with self._lock:
            return [_figures(name, self._nodes[name]) for name in sorted(self._nodes)]

    def _of(self, node: NodeId) -> _Node:
        return self._nodes.setdefault(node, _Node())

    def _open(self, node: _Node, now_s: float) -> None:
        if node.times_open and node.open_until_s > now_s:
            return
        first, most = _OPEN_S
        wait = min(most, first * 2**node.times_open)
        node.times_open += 1
        node.open_until_s = now_s + wait * self._random.uniform(0.5, 1.0)


def _faded(node: _Node, now_s: float) -> float:
    return node.smooth_s * math.exp(-max(0.0, now_s - node.smooth_at_s) / _FADES_S)


def _close(node: _Node) -> None:
    node.in_a_row = node.times_open = 0
    node.open_until_s = 0.0
    node.probed_s = float("-inf")


def _figures(name: NodeId, node: _Node) -> NodeFigures:
    latencies = sorted(node.latencies)
    return NodeFigures(
        node=name,
        calls=node.calls,
        failures=node.failures,
        in_flight=node.in_flight,
        p50_s=statistics.median(latencies) if latencies else 0.0,
        p95_s=latencies[int(0.95 * (len(latencies) - 1))] if latencies else 0.0,
        open=bool(node.times_open),
    )
