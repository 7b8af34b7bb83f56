"""The timestamp oracle: hybrid timestamps that never go back, and one time for all of a cluster."""

import threading

from gpuvec.clock import Clock, pack_timestamp, unpack_timestamp
from gpuvec.types import Timestamp


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

    def follow(self, now_ms: int, answered_s: float) -> None:
        """Take another process's time instead of the own clock's, from now on.

        Args:
            now_ms: what it answered; 0: nothing.
            answered_s: the own monotonic time when the answer came, so this time is never ahead of
                the other's, and behind by what the answer took.
        """
        if now_ms:
            with self._lock:
                self._ahead_ms = now_ms - answered_s * 1000

    @property
    def last(self) -> Timestamp:
        """The newest timestamp that was handed out or noted."""
        with self._lock:
            return self._last

    def _now_ms(self) -> int:
        if self._ahead_ms is None:
            return self._clock.now_ms()
        return int(self._clock.monotonic_s() * 1000 + self._ahead_ms)


class ClusterTime:
    """The time that a coordinator gives to nodes: its clock's, behind no timestamp that it knows.

    What a former coordinator gave out is known from the time of the newest entry in the database's
    log, and from nodes that report their newest timestamps.
    """

    def __init__(self, clock: Clock, newest: Timestamp = 0) -> None:
        self._clock = clock
        self._newest_ms = 0
        self.observe(newest)

    def observe(self, timestamp: Timestamp) -> None:
        """Note a timestamp that is in use."""
        self._newest_ms = max(self._newest_ms, unpack_timestamp(timestamp)[0])

    def now_ms(self) -> int:
        """Return the time; it never goes back."""
        self._newest_ms = max(self._newest_ms, self._clock.now_ms())
        return self._newest_ms
