"""Calls to the owner of a collection, who may change while one waits.

A write carries one request id through all its attempts, so the owner that logged it answers the
next attempt as it answered the first. Other calls are repeated where nothing was done, and where
they do no harm twice.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from gpuvec import errors
from gpuvec.cluster_messages import COORDINATOR, Called, CallOwner, FindOwner, Owner, Ping
from gpuvec.data_messages import Write
from gpuvec.messages import WriteReply, WriteRequest
from gpuvec.proxy.calls import Came
from gpuvec.proxy.directory import Directory
from gpuvec.proxy.router import Router
from gpuvec.settings import config
from gpuvec.types import NodeId

_OF_THE_STORE = ("GV-603", "GV-604")  # an owner's answer, that no other owner could better
_TOO_MANY = "GV-753"  # calls wait there
_FIND_S = 5.0
_BACKOFF_S = (0.02, 0.5)
_LATE_S = 1.0


class OwnerCalls:
    """Brings writes and methods to owners. Safe for use by several threads.

    Args:
        router: of the database: its routes, calls and limits are used.
        name_of: of a collection, for errors.
    """

    def __init__(self, router: Router, name_of: Callable[[str], str] = str) -> None:
        self._router = router
        self._name_of = name_of

    def write(self, request: WriteRequest, *, deadline_s: float | None = None) -> WriteReply:
        """Return the owner's answer to a write.

        Args:
            request: sent again as it is, until an owner answers.
            deadline_s: None: the setting `cluster.write_deadline_s`.

        Raises:
            GpuvecError: what the owner raised.
            UnavailableError: `GV-766`; its `outcome` is `unknown` if an attempt may have arrived.
        """
        router = self._router

        def message(owner: Owner) -> Write:
            return Write(
                identity=router.identity,
                request=request,
                term=owner.term,
                seen=router.seen.newest(),
            )

        attempts = _Attempts(
            router.directory,
            request.collection_id,
            message,
            repeats=True,
            request=request.request_id,
            name_of=self._name_of,
        )
        reply: WriteReply = attempts.run(deadline_s or config["cluster.write_deadline_s"])
        router.note_seen(request.collection_id, reply.version)
        return reply

    def call(
        self, message: CallOwner, *, repeats: bool = False, deadline_s: float | None = None
    ) -> Called:
        """Return what the owner's method returned.

        Args:
            message: names it.
            repeats: whether it does no harm twice, so that the next owner is asked too.
            deadline_s: None: the setting `cluster.write_deadline_s`.

        Raises:
            GpuvecError: what the method raised.
            UnavailableError: no owner answered. Nothing was done if `outcome` is `none`.
        """
        attempts = _Attempts(
            self._router.directory,
            message.collection_id,
            lambda owner: message,
            repeats=repeats,
            name_of=self._name_of,
        )
        called: Called = attempts.run(deadline_s or config["cluster.write_deadline_s"])
        return called


@dataclass(slots=True, eq=False)
class _Attempt:
    """One call to one owner.

    Attributes:
        wake_s: when its node is asked whether it lives, or is taken not to.
        hanging: its node answers no ping; its answer may come all the same.
    """

    owner: Owner
    begun_s: float
    wake_s: float
    pinged: bool = False
    hanging: bool = False


@dataclass(slots=True, eq=False)
class _Attempts:
    """One question, and the attempts to have an owner answer it.

    Attributes:
        repeats: whether an owner may be asked though an earlier one may have done it.
        request: the request id, for the error.
    """

    directory: Directory
    collection_id: str
    message: Callable[[Owner], Any]
    repeats: bool
    request: str = ""
    name_of: Callable[[str], str] = str
    open: dict[int, _Attempt] = field(default_factory=dict)
    pings: dict[int, int] = field(default_factory=dict)  # to the number of the attempt
    finding: int = 0  # number of the call to the coordinator
    refuted: Owner | None = None  # the last one that said it was none
    asks: bool = False  # whether the coordinator is asked before the next attempt
    arrived: bool = False  # whether an attempt may have been carried out
    cause: Exception | None = None
    waits: int = 0
    next_s: float = 0.0  # of the next attempt
    failing_s: float | None = None
    numbers: int = 0
    inbox: Any = None

    def run(self, deadline_s: float) -> Any:
        """Return the first answer."""
        calls = self.directory.calls
        self.inbox = calls.inbox()
        begun_s = now_s = calls.now_s()
        until_s = begun_s + deadline_s
        patience_s = self.directory.limits().wait_s
        while True:
            self._advance(now_s, until_s)
            tired_s = until_s if self.failing_s is None else self.failing_s + patience_s
            item = self.inbox.get(min(until_s, self._wake_s(tired_s)))
            now_s = calls.now_s()
            if item is not None:
                came = self._came(item[0], item[1], now_s)
                if came is not None:
                    if came.error is not None:
                        raise came.error
                    return came.reply
            if now_s >= until_s or (now_s >= tired_s and not self._living()):
                raise self._unreachable(now_s - begun_s)

    def _living(self) -> list[_Attempt]:
        return [attempt for attempt in self.open.values() if not attempt.hanging]

    def _wake_s(self, tired_s: float) -> float:
        living = self._living()
        if living:
            return min(attempt.wake_s for attempt in living)
        begins = not self.finding and self._may_begin()
        return min(tired_s, self.next_s) if begins else tired_s

    def _may_begin(self) -> bool:
        """Return whether another attempt does no harm: none hangs that may have done it."""
        return self.repeats or not self.open

    def _advance(self, now_s: float, until_s: float) -> None:
        """Look after the attempts under way; begin one if no node is at it."""
        for number, attempt in list(self.open.items()):
            if not attempt.hanging and attempt.wake_s <= now_s:
                self._late(number, attempt, now_s)
        if self._living() or self.finding or now_s < self.next_s or not self._may_begin():
            return
        owner = self.directory.table.owner(self.collection_id)
        if owner is None or self.asks:
            self._find()
        else:
            self._attempt(owner, now_s, until_s)

    def _find(self) -> None:
        message = FindOwner(identity=self.directory.identity, collection_id=self.collection_id)
        self.finding = self._begin(COORDINATOR, message, _FIND_S)

    def _attempt(self, owner: Owner, now_s: float, until_s: float) -> None:
        self.asks = True  # if this one fails
        if any(attempt.owner == owner for attempt in self.open.values()):
            self._again(now_s)  # it hangs, and nobody else is named
            return
        number = self._begin(owner.node, self.message(owner), until_s - now_s)
        self.open[number] = _Attempt(owner, now_s, now_s + _LATE_S)

    def _begin(self, node: NodeId, message: Any, deadline_s: float) -> int:
        number = self.numbers = self.numbers + 1
        self.directory.calls.begin(
            node,
            message,
            deadline_s=deadline_s,
            then=lambda came: self.inbox.put((number, came)),
        )
        return number

    def _came(self, number: int, came: Came, now_s: float) -> Came | None:
        """Take the end of a call in; return it if it ends the question."""
        if number in self.pings:
            self._pinged(self.pings.pop(number), came, now_s)
            return None
        if number == self.finding:
            self.finding = 0
            return self._found(came, now_s)
        attempt = self.open.pop(number)
        if came.error is None or not _on_the_way(came.error):
            return came
        self.cause = came.error
        details = getattr(came.error, "details", {})
        if details.get("outcome") != "none":
            self.arrived = True
            if not self.repeats:
                return came
        if getattr(came.error, "code", "") == "GV-741":
            self.refuted = attempt.owner
        self._again(now_s)
        return None

    def _found(self, came: Came, now_s: float) -> Came | None:
        if isinstance(came.reply, Owner):
            self.directory.note_owner(came.reply)
            self.asks = False
            return None
        if not isinstance(came.error, errors.UnavailableError | errors.DeadlineError):
            return came
        self.cause = self.cause or came.error
        last = self.directory.table.owner(self.collection_id)
        self.asks = last is None or last == self.refuted  # else it may still be the owner
        self._again(now_s)
        return None

    def _again(self, now_s: float) -> None:
        first, most = _BACKOFF_S
        wait_s = min(most, first * 2 ** min(self.waits, 10))
        self.waits += 1
        self.next_s = now_s + self.directory.backoff(wait_s)
        self.failing_s = now_s if self.failing_s is None else self.failing_s

    def _late(self, number: int, attempt: _Attempt, now_s: float) -> None:
        ping_s = self.directory.limits().ping_s
        if attempt.pinged:
            self._hangs(attempt, now_s)
            return
        attempt.pinged = True
        attempt.wake_s = now_s + ping_s
        self.pings[self._begin(attempt.owner.node, Ping(), ping_s)] = number

    def _pinged(self, number: int, came: Came, now_s: float) -> None:
        attempt = self.open.get(number)
        if attempt is None:
            return
        if isinstance(came.error, errors.UnavailableError | errors.DeadlineError):
            self._hangs(attempt, now_s)
            return
        attempt.pinged = False
        self.failing_s = None
        attempt.wake_s = now_s + max(_LATE_S, (now_s - attempt.begun_s) / 2)

    def _hangs(self, attempt: _Attempt, now_s: float) -> None:
        if attempt.hanging:
            return
        attempt.hanging = True
        self.directory.fleet.suspect(attempt.owner.node, now_s)
        self.arrived = True
        self._again(now_s)

    def _unreachable(self, seconds: float) -> Exception:
        return errors.owner_unreachable(
            self.name_of(self.collection_id),
            seconds,
            self.cause,
            outcome="unknown" if self.arrived or self.open else "none",
            request=self.request,
        )


def _on_the_way(error: Exception) -> bool:
    """Return whether an error is of the way to an owner, not of what was asked."""
    if isinstance(error, errors.QuotaError):
        return error.code == _TOO_MANY
    lost = isinstance(error, errors.UnavailableError | errors.DeadlineError)
    return lost and getattr(error, "code", "") not in _OF_THE_STORE
