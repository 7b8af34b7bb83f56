"""A network on a virtual clock, whose nodes are slow, refuse, hang and lose answers on schedule."""

import heapq
import random
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuvec import errors
from gpuvec.cluster_messages import Ping, Pong
from gpuvec.proxy.calls import Came
from gpuvec.types import NodeId

Handle = Callable[[Any], Any]
_REFUSED_S = 0.001  # a dead address says so at once


@dataclass(slots=True)
class _Host:
    handle: Handle
    latency_s: float = 0.001
    jitter: float = 0.0
    down: bool = False
    hanging: bool = False
    loses: int = 0  # answers, of the next calls
    held: list[Callable[[], None]] = field(default_factory=list)  # calls that came while it hung


class Network:
    """Carries calls between nodes that live in one process; time passes only while one waits.

    It is `proxy.calls.Calls`. The same seed and the same calls give the same history.

    Attributes:
        sent: every call that was begun: when, to whom, what.
    """

    def __init__(self, *, seed: int = 0) -> None:
        self.sent: list[tuple[float, NodeId, Any]] = []
        self._now_s = 0.0
        self._hosts: dict[NodeId, _Host] = {}
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._counter = 0
        self._random = random.Random(seed)

    # What happens to nodes

    def serve(self, node: NodeId, handle: Handle) -> None:
        """Answer calls for a node with a function; a `Ping` is answered without it."""
        self._hosts[node] = _Host(handle)

    def slow(self, node: NodeId, latency_s: float, *, jitter: float = 0.0) -> None:
        """Let a node take so long, plus or minus a share; a `Ping` stays quick."""
        self._hosts[node].latency_s, self._hosts[node].jitter = latency_s, jitter

    def stop(self, node: NodeId) -> None:
        """Let a node die: calls are refused, and answers under way are lost."""
        host = self._hosts[node]
        host.down, host.held = True, []

    def start(self, node: NodeId) -> None:
        """Let a node live again."""
        host = self._hosts[node]
        host.down = host.hanging = False
        held, host.held = host.held, []
        for arrive in held:
            arrive()

    def hang(self, node: NodeId) -> None:
        """Let a node keep what comes; `start` lets it answer all of that."""
        self._hosts[node].hanging = True

    def lose_answers(self, node: NodeId, count: int) -> None:
        """Let the connection break before the answers of the next calls, which are carried out."""
        self._hosts[node].loses = count

    def at(self, seconds: float, happens: Callable[[], None]) -> None:
        """Let something happen at a time."""
        self._push(max(seconds, self._now_s), happens)

    def calls_to(self, node: NodeId, kind: type) -> int:
        """Return how many messages of a class were sent to a node."""
        return sum(to == node and isinstance(message, kind) for _, to, message in self.sent)

    # Calls

    def now_s(self) -> float:
        """See `Calls.now_s`."""
        return self._now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self._run(self._now_s + seconds, lambda: False)

    def begin(
        self, node: NodeId, message: Any, *, deadline_s: float, then: Callable[[Came], None]
    ) -> None:
        """See `Calls.begin`."""
        self.sent.append((self._now_s, node, message))
        ended = False

        def end(came: Came) -> None:
            nonlocal ended
            if not ended:
                ended = True
                then(came)

        late = Came(error=errors.deadline_passed(node, deadline_s))
        self._push(self._now_s + deadline_s, lambda: end(late))
        self._push(
            self._now_s + self._travel_s(node, message), lambda: self._arrive(node, message, end)
        )

    def call(self, node: NodeId, message: Any, *, deadline_s: float) -> Any:
        """See `gpuvec.rpc.Transport.call`."""
        inbox = self.inbox()
        self.begin(node, message, deadline_s=deadline_s, then=inbox.put)
        came: Came = inbox.get(self._now_s + 2 * deadline_s)
        if came.error is not None:
            raise came.error
        return came.reply

    def inbox(self) -> "VirtualInbox":
        """See `Calls.inbox`."""
        return VirtualInbox(self._run, self.now_s)

    def _travel_s(self, node: NodeId, message: Any) -> float:
        host = self._hosts.get(node)
        if host is None or host.down or isinstance(message, Ping):
            return _REFUSED_S
        return host.latency_s * (1 + host.jitter * self._random.uniform(-1, 1)) / 2

    def _arrive(self, node: NodeId, message: Any, end: Callable[[Came], None]) -> None:
        host = self._hosts.get(node)
        if host is None or host.down:
            end(Came(error=errors.no_such_node(node)))
            return
        if host.hanging:
            host.held.append(lambda: self._arrive(node, message, end))
            return
        came = _outcome(host, message)
        if host.loses and not isinstance(message, Ping):
            host.loses -= 1
            came = Came(error=errors.connection_lost(node, "it was cut"))
        self._push(
            self._now_s + self._travel_s(node, message), lambda: self._leave(node, came, end)
        )

    def _leave(self, node: NodeId, came: Came, end: Callable[[Came], None]) -> None:
        host = self._hosts[node]
        if host.down:
            end(Came(error=errors.connection_lost(node, "the process ended")))
        elif host.hanging:
            host.held.append(lambda: self._leave(node, came, end))
        else:
            end(came)

    def _push(self, when_s: float, happens: Callable[[], None]) -> None:
        self._counter += 1
        heapq.heappush(self._events, (when_s, self._counter, happens))

    def _run(self, until_s: float, enough: Callable[[], bool]) -> None:
        """Let events happen in their order, until there is enough or the time has come."""
        while not enough() and self._events and self._events[0][0] <= until_s:
            when_s, _, happens = heapq.heappop(self._events)
            self._now_s = max(self._now_s, when_s)
            happens()
        if not enough():
            self._now_s = max(self._now_s, until_s)


def _outcome(host: _Host, message: Any) -> Came:
    if isinstance(message, Ping):
        return Came(reply=Pong(incarnation="1"))
    try:
        return Came(reply=host.handle(message))
    except errors.GpuvecError as error:
        return Came(error=error)


class VirtualInbox:
    """An inbox that lets virtual time pass while it waits."""

    def __init__(
        self, run: Callable[[float, Callable[[], bool]], None], now_s: Callable[[], float]
    ) -> None:
        self._items: deque[Any] = deque()
        self._run = run
        self._now_s = now_s

    def put(self, item: Any) -> None:
        """See `proxy.calls.Inbox.put`."""
        self._items.append(item)

    def get(self, until_s: float) -> Any:
        """See `proxy.calls.Inbox.get`."""
        self._run(max(until_s, self._now_s()), lambda: bool(self._items))
        return self._items.popleft() if self._items else None
