"""One question to several nodes, until every part of it is answered once.

The parts are dealt out to nodes; each node's parts form a group. A group is answered by its own
call, or by the groups into which its parts were dealt again - because the call failed, hangs, or is
late enough to be hedged. Whichever comes first counts and the rest is dropped, so no part is ever
answered for twice. Nothing here waits, sends or knows the time; `gpuvec.proxy.router` does.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

from gpuvec import errors
from gpuvec.proxy.calls import Came
from gpuvec.proxy.placing import Tried, Unit
from gpuvec.query.spread import Replan
from gpuvec.types import NodeId

_BACKOFF_S = (0.02, 0.5)  # before parts that nobody is left for are dealt out again
_LATE_S = 1.0  # a call that takes longer is a reason to ask whether its node lives


class Verdict(Enum):
    """What a reply is worth."""

    ANSWER = "answer"
    BUSY = "busy"  # later, or of a replica
    BEHIND = "behind"  # of another node
    UNABLE = "unable"  # it knows the entry, and not the rows that another node named


class Host(Protocol):
    """What a scatter needs done."""

    def place(self, units: Iterable[Unit], tried: Tried, *, warm: bool) -> dict[NodeId, list[Unit]]:
        """Return whom to ask for which parts; see `placing.Placer.place`."""

    def send(self, node: NodeId, units: Sequence[Unit]) -> int:
        """Begin a call; return its number."""

    def ping(self, node: NodeId) -> int:
        """Ask a node whether it lives; return the number of the call."""

    def judge(self, node: NodeId, reply: Any) -> Verdict:
        """Return what a reply is worth, or raise what ends the read."""

    def hedge_delay_s(self) -> float | None:
        """Return when a call like these is late; None: never."""

    def may_hedge(self, calls: int) -> bool:
        """Return whether so many calls may be doubled; if so, they count."""

    def gone(self, node: NodeId) -> bool:
        """Return whether the coordinator says that a node is lost."""

    def hangs(self, node: NodeId) -> None:
        """Note that a node answers no ping."""


@dataclass(slots=True, eq=False)
class Group:
    """Parts that one node was asked for, or that wait for one.

    Attributes:
        node: None: nobody is asked now.
        number: of the call.
        begun_s: when it was sent.
        wake_s: when there is something to do about it, if nothing comes.
        hedge_s: when it is late enough for a second call; None: never.
        pinged: whether its node is being asked if it lives.
        failing_s: since when its parts go from node to node; None: they do not.
        waits: how often they found nobody to ask.
        parts: the groups they were dealt out to again; together they are the same parts.
    """

    units: list[Unit]
    wake_s: float
    node: NodeId | None = None
    number: int = -1
    begun_s: float = 0.0
    hedge_s: float | None = None
    pinged: bool = False
    failing_s: float | None = None
    waits: int = 0
    answered: bool = False
    reply: Any = None
    seconds: float = 0.0
    parts: list["Group"] = field(default_factory=list)

    @property
    def done(self) -> bool:
        """Whether everything in it is answered."""
        return self.answered or (bool(self.parts) and all(part.done for part in self.parts))

    def open(self) -> Iterator["Group"]:
        """Yield the groups, below it too, that still wait for a call or a node."""
        if self.done:
            return
        if not self.parts:
            yield self
        for part in self.parts:
            yield from part.open()

    def answers(self) -> Iterator["Group"]:
        """Yield the groups whose answers are together the whole."""
        if self.answered:
            yield self
            return
        for part in self.parts:
            yield from part.answers()


class Scatter:
    """Follows one question; tell it what happens, and it says what to do by calling its host.

    Args:
        units: that are to be answered for.
        host: that does things.
        now_s: the time.
        deadline_s: when the whole must have ended.
        patience_s: how long a part may wait with nobody to ask.
        ping_s: how long a node may take to say that it lives.
        backoff: from seconds to seconds, with some jitter.
    """

    def __init__(
        self,
        units: Iterable[Unit],
        host: Host,
        *,
        now_s: float,
        deadline_s: float,
        patience_s: float,
        ping_s: float,
        backoff: Callable[[float], float],
    ) -> None:
        self._host = host
        self._deadline_s = deadline_s
        self._patience_s = patience_s
        self._ping_s = ping_s
        self._backoff = backoff
        self._calls: dict[int, Group] = {}
        self._pings: dict[int, tuple[Group, int]] = {}  # with the number of the call
        self._tried: dict[Unit, frozenset[NodeId]] = {}
        self._storage_failed = False
        self.cause: Exception | None = None  # the last error of a node
        self.retries = 0
        self._root = Group(list(units), now_s)
        self._deal(self._root, now_s)

    @property
    def done(self) -> bool:
        """Whether everything is answered."""
        return self._root.done

    @property
    def wake_s(self) -> float:
        """When `tick` is to be called, if nothing comes before."""
        return min([self._deadline_s, *(group.wake_s for group in self._root.open())])

    def answers(self) -> list[Group]:
        """Return the groups that together answer for every part once."""
        return list(self._root.answers())

    def missing(self) -> list[Unit]:
        """Return the parts that are not answered for."""
        return [unit for group in self._root.open() for unit in group.units]

    def came(self, number: int, ended: Came, now_s: float) -> None:
        """Take the end of a call in.

        Raises:
            GpuvecError: an error that every node would answer with.
            Exception: what the host's `judge` raises.
        """
        if number in self._pings:
            self._pinged(*self._pings.pop(number), ended, now_s)
            return
        group = self._calls.pop(number)
        node = group.node
        if node is None or group.done:
            return
        if ended.error is not None:
            self._note_error(ended.error)
            self._ended(group, now_s, tried=True)
            return
        verdict = self._host.judge(node, ended.reply)
        if verdict is Verdict.ANSWER:
            group.answered, group.reply = True, ended.reply
            group.seconds = now_s - group.begun_s
        elif verdict is Verdict.UNABLE:
            raise self.cause if self._storage_failed and self.cause is not None else Replan
        else:
            self._ended(group, now_s, tried=verdict is Verdict.BEHIND)

    def tick(self, now_s: float) -> bool:
        """Do what is due; return whether there is any point in waiting on."""
        for group in list(self._root.open()):
            if group.wake_s <= now_s:
                self._wake(group, now_s)
        waiting = [group.failing_s for group in self._root.open() if group.node is None]
        tired = any(since is None or now_s - since >= self._patience_s for since in waiting)
        return now_s < self._deadline_s and not tired

    def _wake(self, group: Group, now_s: float) -> None:
        if group.node is None:
            self._deal(group, now_s)
        elif self._host.gone(group.node):
            self._leave(group, group.node, now_s)
        elif group.hedge_s is not None:
            group.hedge_s = None
            group.wake_s = max(group.begun_s + _LATE_S, now_s)
            self._hedge(group, group.node, now_s)
        elif not group.pinged:
            group.pinged = True
            group.wake_s = now_s + self._ping_s
            self._pings[self._host.ping(group.node)] = group, group.number
        else:
            self._host.hangs(group.node)
            self._leave(group, group.node, now_s)

    def _pinged(self, group: Group, number: int, ended: Came, now_s: float) -> None:
        if group.node is None or group.number != number or group.done or group.parts:
            return
        if isinstance(ended.error, errors.UnavailableError | errors.DeadlineError):
            self._host.hangs(group.node)
            self._leave(group, group.node, now_s)
            return
        group.pinged, group.failing_s = False, None
        group.wake_s = now_s + max(_LATE_S, (now_s - group.begun_s) / 2)

    def _hedge(self, group: Group, node: NodeId, now_s: float) -> None:
        """Ask replicas for the same parts, if each has one and the budget allows it."""
        if None in group.units:
            return  # rows of the log are answered for by one node throughout a read
        self._note_tried(group.units, node)
        placed = self._host.place(group.units, self._tried, warm=True)
        if sum(map(len, placed.values())) == len(group.units) and self._host.may_hedge(len(placed)):
            group.parts = [
                self._send(Group(units, now_s), to, now_s) for to, units in placed.items()
            ]

    def _ended(self, group: Group, now_s: float, *, tried: bool) -> None:
        """A call brought nothing: deal its parts out again, unless that was done before."""
        node, group.node = group.node, None
        if group.parts:
            return
        if tried and node is not None:
            self._note_tried(group.units, node)
        self._again(group, now_s)

    def _leave(self, group: Group, node: NodeId, now_s: float) -> None:
        """Ask others for the parts of a call that may still come."""
        self._note_tried(group.units, node)
        group.parts = [Group(group.units, now_s, failing_s=group.failing_s)]
        self._again(group.parts[0], now_s)

    def _again(self, group: Group, now_s: float) -> None:
        self.retries += 1
        group.failing_s = now_s if group.failing_s is None else group.failing_s
        self._deal(group, now_s)

    def _deal(self, group: Group, now_s: float) -> None:
        """Find nodes for parts that nobody is asked for."""
        placed = self._host.place(group.units, self._tried, warm=False)
        found = {unit for units in placed.values() for unit in units}
        left = [unit for unit in group.units if unit not in found]
        if not placed:
            self._wait(group, now_s)
        elif len(placed) == 1 and not left:
            self._send(group, next(iter(placed)), now_s)
        else:
            group.parts = [
                self._send(Group(units, now_s, failing_s=group.failing_s), node, now_s)
                for node, units in placed.items()
            ]
            if left:
                rest = Group(left, now_s, failing_s=group.failing_s, waits=group.waits)
                self._wait(rest, now_s)
                group.parts.append(rest)

    def _wait(self, group: Group, now_s: float) -> None:
        """Let parts wait; when they are dealt out again, nodes that failed may have come back."""
        first, most = _BACKOFF_S
        group.failing_s = now_s if group.failing_s is None else group.failing_s
        group.wake_s = now_s + self._backoff(min(most, first * 2 ** min(group.waits, 10)))
        group.waits += 1
        for unit in group.units:
            self._tried.pop(unit, None)

    def _send(self, group: Group, node: NodeId, now_s: float) -> Group:
        delay_s = self._host.hedge_delay_s()
        hedged = delay_s is not None and delay_s < _LATE_S
        group.hedge_s = now_s + delay_s if delay_s is not None and hedged else None
        group.wake_s = group.hedge_s or now_s + _LATE_S
        group.node, group.begun_s, group.pinged = node, now_s, False
        group.number = self._host.send(node, group.units)
        self._calls[group.number] = group
        return group

    def _note_tried(self, units: Iterable[Unit], node: NodeId) -> None:
        for unit in units:
            self._tried[unit] = self._tried.get(unit, frozenset()) | {node}

    def _note_error(self, error: Exception) -> None:
        """Keep an error that is the node's; raise one that is the question's."""
        self.cause = error
        if isinstance(error, errors.UnavailableError | errors.DeadlineError | errors.QuotaError):
            return
        if isinstance(error, errors.StorageError) and not self._storage_failed:
            self._storage_failed = True  # a node's disk may be at fault: one other is asked
            return
        raise error
