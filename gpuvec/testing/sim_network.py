"""A network of processes in virtual time: messages are late, lost or doubled, processes die.

A process answers a message by a generator that yields seconds to wait, so all that it does in
several steps is interleaved with what others do. The same seed gives the same history.
"""

import heapq
import random
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from typing import Any

from gpuvec import errors
from gpuvec.cluster_messages import Ping, Pong
from gpuvec.proxy.calls import Came
from gpuvec.testing.network import VirtualInbox
from gpuvec.types import NodeId

Work = Generator[float, None, Any]  # yields seconds to wait
_QUICK_S = 0.002
_REFUSED_S = 0.001


@dataclass(frozen=True, slots=True, kw_only=True)
class Weather:
    """Chances per message or step, and how long things take.

    Attributes:
        lost: messages that never arrive.
        late: that take one of `late_s`.
        doubled: commands that arrive a second time, one of `late_s` after.
        stall: steps of a process that take one of `late_s`.
    """

    lost: float = 0.0
    late: float = 0.0
    doubled: float = 0.0
    stall: float = 0.0
    late_s: tuple[float, ...] = (0.3, 2.0, 5.0, 12.0)


@dataclass(eq=False)
class Process:
    """A process; a next one of its name has another incarnation.

    Attributes:
        answer: from a message to the work of answering it.
        alive: False: it was killed, and its work ended where it stood.
        frozen_s: until when it stands still.
    """

    name: NodeId
    incarnation: str
    answer: Callable[[Any], Work]
    alive: bool = True
    frozen_s: float = 0.0


@dataclass
class Web:
    """Processes, the messages between them, and time.

    Attributes:
        weather: how messages and steps fare.
        cut: pairs of names between which nothing passes that is sent now.
        there: who answers at a name.
    """

    seed: int
    weather: Weather = field(default_factory=Weather)
    now_s: float = 100.0
    cut: set[frozenset[str]] = field(default_factory=set)
    there: dict[NodeId, Process] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.chance = random.Random(self.seed)
        self._events: list[tuple[float, int, Callable[[], None]]] = []
        self._count = 0

    # Time

    def after(self, seconds: float, happens: Callable[[], None]) -> None:
        """Let something happen in so many seconds."""
        self._count += 1
        heapq.heappush(self._events, (self.now_s + seconds, self._count, happens))

    def run(self, until_s: float, enough: Callable[[], bool] = lambda: False) -> None:
        """Let events happen until there is enough, or until the time has come."""
        while not enough() and self._events and self._events[0][0] <= until_s:
            when_s, _, happens = heapq.heappop(self._events)
            self.now_s = max(self.now_s, when_s)
            happens()
        if not enough():
            self.now_s = max(self.now_s, until_s)

    # Processes

    def start(self, process: Process) -> None:
        """Let a process answer at its name."""
        self.there[process.name] = process

    def kill(self, process: Process) -> None:
        """End a process where it stands."""
        process.alive = False
        if self.there.get(process.name) is process:
            del self.there[process.name]

    def spawn(
        self, process: Process, work: Work, then: Callable[[Came], None] = lambda came: None
    ) -> None:
        """Let a process do some work; it ends with the process."""

        def step() -> None:
            if not process.alive:
                work.close()
                return
            if process.frozen_s > self.now_s:
                self.after(process.frozen_s - self.now_s, step)
                return
            try:
                seconds = next(work)
            except StopIteration as end:
                then(Came(reply=end.value))
            except errors.GpuvecError as error:
                then(Came(error=error))
            else:
                self.after(seconds + self._stall_s(), step)

        step()

    # Messages

    def begin(
        self,
        sender: str,
        to: NodeId,
        message: Any,
        *,
        deadline_s: float,
        then: Callable[[Came], None],
        incarnation: str = "",
        twice: bool = False,
    ) -> None:
        """Call whoever answers at a name; `then` runs once, with the answer or an error.

        Args:
            sender: who calls.
            to: who is called.
            message: what is said.
            deadline_s: when the caller gives up.
            then: told how the call ended.
            incarnation: only this one shall get the message; empty: any.
            twice: whether it may arrive a second time.
        """
        ended = False

        def end(came: Came) -> None:
            nonlocal ended
            if not ended:
                ended = True
                then(came)

        self.after(deadline_s, lambda: end(Came(error=errors.deadline_passed(to, deadline_s))))

        def arrive(end: Callable[[Came], None]) -> None:
            process = self.there.get(to)
            if process is None or incarnation not in ("", process.incarnation):
                end(Came(error=errors.no_such_node(to)))
            else:
                self._receive(process, message, lambda came: self._carry(to, sender, end, came))

        if to not in self.there:
            self.after(_REFUSED_S, lambda: end(Came(error=errors.no_such_node(to))))
            return
        if self._goes(sender, to):
            self.after(self._travel_s(), lambda: arrive(end))
        if twice and self.chance.random() < self.weather.doubled:
            delay_s = self.chance.choice(self.weather.late_s)
            self.after(delay_s, lambda: arrive(lambda came: None))

    def tell(self, sender: str, to: str, happens: Callable[[], None]) -> None:
        """Let news arrive that nobody answers; they may be lost, late, and out of order."""
        if self._goes(sender, to):
            self.after(self._travel_s(), happens)

    def _receive(self, process: Process, message: Any, end: Callable[[Came], None]) -> None:
        if isinstance(message, Ping):
            if process.frozen_s <= self.now_s:
                end(Came(reply=Pong(incarnation=process.incarnation)))
            return
        self.spawn(process, process.answer(message), end)

    def _carry(self, sender: str, to: str, end: Callable[[Came], None], came: Came) -> None:
        """Bring an answer back."""
        if self._goes(sender, to):
            self.after(self._travel_s(), lambda: end(came))

    def _goes(self, one: str, other: str) -> bool:
        """Return whether a message that is sent now will arrive."""
        lost = self.chance.random() < self.weather.lost
        return not lost and frozenset((one, other)) not in self.cut

    def _travel_s(self) -> float:
        if self.chance.random() < self.weather.late:
            return self.chance.choice(self.weather.late_s)
        return _QUICK_S * self.chance.random()

    def _stall_s(self) -> float:
        stalls = self.chance.random() < self.weather.stall
        return self.chance.choice(self.weather.late_s) if stalls else 0.0


class ClientCalls:
    """The network as one client sees it: `proxy.calls.Calls`."""

    def __init__(self, web: Web, name: str) -> None:
        self._web = web
        self._name = name

    def now_s(self) -> float:
        """See `Calls.now_s`."""
        return self._web.now_s

    def begin(
        self, node: NodeId, message: Any, *, deadline_s: float, then: Callable[[Came], None]
    ) -> None:
        """See `Calls.begin`."""
        self._web.begin(self._name, node, message, deadline_s=deadline_s, then=then)

    def inbox(self) -> VirtualInbox:
        """See `Calls.inbox`."""
        return VirtualInbox(self._web.run, self.now_s)
