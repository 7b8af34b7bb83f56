"""The timestamp oracle: hybrid timestamps that never go back, and one time for all nodes.

In a cluster, a database's time is bounded: the coordinator commits to the database's log how far
timestamps may go before it lets nodes go there. Whoever rules next begins above the bound, so
timestamps rise though all processes were lost at once and the clock was set back.
"""

import threading

from gpuvec import errors
from gpuvec.clock import Clock, pack_timestamp, unpack_timestamp
from gpuvec.types import Timestamp

RANGE_MS = 20_000  # ahead of use; so far a next coordinator may be ahead of its clock
_ROOM_MS = 1000  # below the bound where time stands still: room for 262 million timestamps


class TimestampOracle:
    """Hands out timestamps that rise strictly, whatever the clock does.

    Whoever opens a log tells the oracle the last timestamp in it (`observe`) before taking one, so
    timestamps also rise across restarts and across a clock that was set back in between. In a
    cluster the oracles of all nodes `follow` the coordinator's time. Safe for use by several
    threads.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self._ahead_ms: float | None = None  # of the monotonic clock; None: the own clock counts
        self._until_ms: int | None = None  # no timestamp may reach it; None: there is no bound
        self._lock = threading.Lock()

    def next(self) -> Timestamp:
        """Return a timestamp above all others, as near to the present as that allows."""
        with self._lock:
            self._last = max(pack_timestamp(self._now_ms()), self._last + 1)
            return self._last

    def observe(self, timestamp: Timestamp) -> None:
        """Note a timestamp that is in use."""
        with self._lock:
            self._last = max(self._last, timestamp)

    def follow(self, now_ms: int, answered_s: float, until_ms: int | None = None) -> None:
        """Take another process's time instead of the own clock's, from now on.

        Args:
            now_ms: what it answered; 0: nothing.
            answered_s: the own monotonic time when the answer came, so this time is never ahead of
                the other's, and behind by what the answer took.
            until_ms: which timestamps must not reach: time stands still before it. None: as told
                last.
        """
        with self._lock:
            if now_ms:
                self._ahead_ms = now_ms - answered_s * 1000
            if until_ms is not None:
                self._until_ms = until_ms

    def check(self) -> None:
        """Raise where no timestamp is left below the bound.

        Raises:
            UnavailableError: `GV-749`, until the coordinator has raised it.
        """
        with self._lock:
            if self._until_ms is not None and self._last >= pack_timestamp(self._until_ms - 1):
                raise errors.no_timestamps(self._until_ms)

    @property
    def last(self) -> Timestamp:
        """The newest timestamp that was handed out or noted."""
        with self._lock:
            return self._last

    def _now_ms(self) -> int:
        if self._ahead_ms is None:
            return self._clock.now_ms()
        now_ms = int(self._clock.monotonic_s() * 1000 + self._ahead_ms)
        return now_ms if self._until_ms is None else min(now_ms, self._until_ms - _ROOM_MS)


class ClusterTime:
    """The time that a coordinator gives to nodes: its clock's, behind no timestamp that it knows.

    What a former coordinator gave out is below the bound that it committed; what an embedded
    process did, is known from nodes that report the newest timestamps in their logs.
    """

    def __init__(self, clock: Clock, newest: Timestamp = 0) -> None:
        self._clock = clock
        self._newest_ms = 0
        self.observe(newest)

    def begin_at(self, reserved_ms: int) -> None:
        """Note below which time a former coordinator let timestamps go."""
        self._newest_ms = max(self._newest_ms, reserved_ms)

    def observe(self, timestamp: Timestamp) -> None:
        """Note a timestamp that is in use."""
        self._newest_ms = max(self._newest_ms, unpack_timestamp(timestamp)[0])

    def now_ms(self) -> int:
        """Return the time; it never goes back."""
        self._newest_ms = max(self._newest_ms, self._clock.now_ms())
        return self._newest_ms


class TimeRange:
    """How far the timestamps of one database may go, as its log says.

    Args:
        until_ms: what a former coordinator committed; the present one begins there.
    """

    def __init__(self, until_ms: int) -> None:
        self.until_ms = until_ms

    def wanted(self, now_ms: int) -> int | None:
        """Return the bound to commit next; None: half of the present range is left."""
        left_ms = self.until_ms - now_ms
        return None if left_ms >= RANGE_MS // 2 else now_ms + RANGE_MS

    def note(self, until_ms: int) -> None:
        """Note what was committed."""
        self.until_ms = until_ms
