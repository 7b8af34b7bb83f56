"""Who is let in: a bounded queue at each node, a rate at each door. Refusing early is cheap."""

import threading
from dataclasses import dataclass, field

from gpuvec import errors, telemetry
from gpuvec.data_messages import Busy

LARGE_COST = 20_000_000  # rows times queries, from which a call may keep a thread for long
_WAIT_S = (0.02, 2.0)  # that a refused call is told to wait, at least and at most
_SMOOTHING = 0.2


@dataclass(slots=True, eq=False)
class Ticket:
    """Of a call that was let in; `end` it."""

    large: bool
    begun_s: float


class Admission:
    """Lets calls into a lane of a node. Safe for use by several threads.

    Large calls leave one thread for small ones, so a batch never holds up a lookup for longer than
    other lookups do. What does not fit is refused with a time to come back, and asked of a replica.

    Args:
        threads: of the lane.
        most_waiting: calls that wait or run.
        large_cost: see above.
    """

    def __init__(
        self, threads: int, *, most_waiting: int = 256, large_cost: int = LARGE_COST
    ) -> None:
        self._threads = threads
        self._most_waiting = most_waiting
        self._large_cost = large_cost
        self._most_large = max(1, threads - 1)
        self._large = 0
        self._seconds = {True: 0.1, False: 0.01}  # smoothed time of large and small calls
        self._lock = threading.Lock()

    def enter(self, cost: int, *, waiting: int, now_s: float) -> Ticket | Busy:
        """Let a call in, or say when to come back.

        Args:
            cost: rows times queries, as the caller reckons.
            waiting: calls of the lane that wait or run, this one too.
            now_s: the time.
        """
        large = cost >= self._large_cost
        with self._lock:
            if waiting > self._most_waiting:
                return _busy(self._seconds[False] * waiting / self._threads)
            if large and self._large >= self._most_large:
                return _busy(self._seconds[True] / self._most_large)
            self._large += large
        return Ticket(large, now_s)

    def end(self, ticket: Ticket, now_s: float) -> None:
        """Note that a call has ended."""
        with self._lock:
            self._large -= ticket.large
            known = self._seconds[ticket.large]
            self._seconds[ticket.large] += _SMOOTHING * (now_s - ticket.begun_s - known)


def _busy(seconds: float) -> Busy:
    least, most = _WAIT_S
    telemetry.QUOTA_REFUSALS.add()
    return Busy(retry_after_s=min(most, max(least, seconds)))


@dataclass(slots=True, eq=False)
class Rate:
    """So much of something in a second, at a door of many clients. Thread-safe.

    Source: the token bucket: what was not used is saved up, for `burst_s` at most.

    Attributes:
        what: is counted: rows, queries.
        per_s: allowed in a second.
        burst_s: seconds whose share may be taken at once.
    """

    what: str
    per_s: float
    burst_s: float = 1.0
    _left: float = field(init=False)
    _at_s: float = field(init=False, default=float("-inf"))
    _lock: threading.Lock = field(init=False, default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._left = self.per_s * self.burst_s

    def take(self, amount: float, now_s: float) -> None:
        """Count an amount; one larger than the burst is let in when the whole burst is there.

        Raises:
            QuotaError: `GV-768`; `details` say when to come back.
        """
        most = self.per_s * self.burst_s
        with self._lock:
            if now_s > self._at_s:
                gained = 0.0 if self._at_s == float("-inf") else now_s - self._at_s
                self._left = min(most, self._left + gained * self.per_s)
                self._at_s = now_s
            short = min(amount, most) - self._left
            if short <= 1e-9:
                self._left -= amount
                return
        telemetry.QUOTA_REFUSALS.add()
        raise errors.rate_exceeded(self.what, self.per_s, short / self.per_s)
