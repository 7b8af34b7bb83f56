"""How roles reach each other: one call with an answer and a deadline."""

from collections.abc import Callable
from typing import Any, Protocol

from gpuvec.errors import no_such_node
from gpuvec.types import NodeId

Handler = Callable[[Any, float], Any]  # (message, deadline in seconds) to reply


class Transport(Protocol):
    """Carries a message of `gpuvec.messages` to a node and its reply back."""

    def call(self, node: NodeId, message: Any, *, deadline_s: float) -> Any:
        """Return the node's reply, or raise the error it raised.

        Raises:
            UnavailableError: `GV-610`, nobody there; nothing was done.
            DeadlineError: `GV-611`, no answer in time; the outcome is unknown.
        """

    def learn(self, node: NodeId, address: str) -> None:
        """Note where a node answers from now on."""


class InProcessTransport:
    """All roles in one process: a call is a function call."""

    def __init__(self) -> None:
        self._handlers: dict[NodeId, Handler] = {}

    def serve(self, node: NodeId, handler: Handler) -> None:
        """Send calls for `node` to `handler`, which keeps the deadline itself."""
        self._handlers[node] = handler

    def learn(self, node: NodeId, address: str) -> None:
        """See `Transport.learn`; functions have no address."""

    def call(self, node: NodeId, message: Any, *, deadline_s: float) -> Any:
        """See `Transport.call`."""
        handler = self._handlers.get(node)
        if handler is None:
            raise no_such_node(node)
        return handler(message, deadline_s)
