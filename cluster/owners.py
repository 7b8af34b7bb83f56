"""Calls of a client to the owners of collections, who are found by the coordinator."""

import random
from typing import Any

from gpuvec import errors
from gpuvec.clock import Clock
from gpuvec.cluster_messages import COORDINATOR, Called, CallOwner, FindOwner, Owner, Write
from gpuvec.messages import WriteReply, WriteRequest
from gpuvec.rpc import Transport

DEADLINE_S = 600.0
_FIND_S = 5.0
_PAUSE_S = 0.02
_LONGEST_PAUSE_S = 0.5


class Owners:
    """Who owns which collection. Safe for use by several threads.

    Args:
        transport: reaches coordinator and nodes.
        identity: of the database.
        clock: for deadlines and pauses.
    """

    def __init__(self, transport: Transport, identity: str, clock: Clock) -> None:
        self._transport = transport
        self._identity = identity
        self._clock = clock
        self._known: dict[str, Owner] = {}

    def write(self, request: WriteRequest, *, deadline_s: float = DEADLINE_S) -> WriteReply:
        """Return the owner's answer to a write; it is tried again with the same request id.

        Raises:
            UnavailableError: no owner answered until the deadline; `outcome` tells what is known.
        """

        def message(owner: Owner) -> Write:
            return Write(identity=self._identity, request=request, term=owner.term)

        reply: WriteReply = self._call(request.collection_id, message, deadline_s, again=True)
        return reply

    def call(self, message: CallOwner, *, deadline_s: float = DEADLINE_S) -> Called:
        """Return what the owner's method returned; again only where nothing was done."""
        called: Called = self._call(
            message.collection_id, lambda _: message, deadline_s, again=False
        )
        return called

    def _call(self, collection_id: str, message: Any, deadline_s: float, *, again: bool) -> Any:
        until_s = self._clock.monotonic_s() + deadline_s
        pause_s = _PAUSE_S
        unknown = False
        while True:
            try:
                owner = self._owner(collection_id)
                left_s = max(0.001, until_s - self._clock.monotonic_s())
                return self._transport.call(owner.node, message(owner), deadline_s=left_s)
            except (errors.UnavailableError, errors.DeadlineError) as error:
                self._known.pop(collection_id, None)
                unknown = unknown or error.details.get("outcome") != "none"
                late = self._clock.monotonic_s() + pause_s >= until_s
                if late or not error.details.get("retryable", True) or (unknown and not again):
                    raise
            self._clock.sleep(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)

    def _owner(self, collection_id: str) -> Owner:
        known = self._known.get(collection_id)
        if known is None:
            message = FindOwner(identity=self._identity, collection_id=collection_id)
            known = self._transport.call(COORDINATOR, message, deadline_s=_FIND_S)
            assert isinstance(known, Owner)
            self._transport.learn(known.node, known.address)
            self._known[collection_id] = known
        return known
