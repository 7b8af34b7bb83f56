"""Calls that run at once and can be left behind, and a place to wait for their answers.

All that routers know of time and of the network goes through `Calls`, so a test can run them on a
virtual clock against a network that fails on schedule.
"""

import queue
from collections.abc import Callable
from concurrent.futures import Executor, Future
from dataclasses import dataclass
from typing import Any, Protocol

from gpuvec import errors, telemetry
from gpuvec.clock import Clock, SystemClock
from gpuvec.rpc import Transport
from gpuvec.types import NodeId


@dataclass(frozen=True, slots=True, kw_only=True)
class Came:
    """How a call ended: with a reply, or with an error."""

    reply: Any = None
    error: Exception | None = None


class Inbox(Protocol):
    """Where one thread waits for what others bring."""

    def put(self, item: Any) -> None:
        """Bring something; from any thread."""

    def get(self, until_s: float) -> Any:
        """Return the next thing; None when the time comes before it."""


class Calls(Protocol):
    """Begins calls, and tells the time. Safe for use by several threads."""

    def now_s(self) -> float:
        """Return seconds that never go back."""

    def begin(
        self, node: NodeId, message: Any, *, deadline_s: float, then: Callable[[Came], None]
    ) -> None:
        """Call a node; `then` runs once when it ends, on any thread, maybe before this returns."""

    def inbox(self) -> Inbox:
        """Return an inbox for the calling thread."""


class Submits(Protocol):
    """A transport whose calls need no thread of the caller."""

    def submit(self, node: NodeId, message: Any, *, deadline_s: float) -> "Future[Any]":
        """Begin a call; the future ends as `rpc.Transport.call` would."""


class Threaded:
    """Gives a plain transport `submit`, on the threads of an executor."""

    def __init__(self, transport: Transport, executor: Executor) -> None:
        self._transport = transport
        self._executor = executor

    def submit(self, node: NodeId, message: Any, *, deadline_s: float) -> "Future[Any]":
        """See `Submits.submit`."""
        call = telemetry.bound(self._transport.call)
        return self._executor.submit(call, node, message, deadline_s=deadline_s)


class TransportCalls:
    """Calls over a transport, on the clock of the machine."""

    def __init__(self, transport: Submits, clock: Clock | None = None) -> None:
        self._transport = transport
        self._clock = clock or SystemClock()

    def now_s(self) -> float:
        """See `Calls.now_s`."""
        return self._clock.monotonic_s()

    def begin(
        self, node: NodeId, message: Any, *, deadline_s: float, then: Callable[[Came], None]
    ) -> None:
        """See `Calls.begin`."""
        try:
            future = self._transport.submit(node, message, deadline_s=deadline_s)
        except errors.UnavailableError as error:
            then(Came(error=error))
            return
        future.add_done_callback(lambda ended: then(_came(ended, node)))

    def inbox(self) -> Inbox:
        """See `Calls.inbox`."""
        return _QueueInbox(self._clock)


def _came(ended: "Future[Any]", node: NodeId) -> Came:
    if ended.cancelled():
        return Came(error=errors.no_such_node(node))
    error = ended.exception()
    if error is None:
        return Came(reply=ended.result())
    if isinstance(error, Exception):
        return Came(error=error)
    raise error  # the process is asked to end


class _QueueInbox:
    def __init__(self, clock: Clock) -> None:
        self._items: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self._clock = clock

    def put(self, item: Any) -> None:
        """See `Inbox.put`."""
        self._items.put(item)

    def get(self, until_s: float) -> Any:
        """See `Inbox.get`."""
        try:
            return self._items.get(timeout=max(0.0, until_s - self._clock.monotonic_s()))
        except queue.Empty:
            return None
