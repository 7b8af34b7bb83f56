"""The timestamp oracle: hybrid timestamps that never go back."""

import threading

from gpuvec.clock import Clock, pack_timestamp
from gpuvec.types import Timestamp


class TimestampOracle:
    """Hands out timestamps that rise strictly, whatever the clock does.

    Whoever opens a log tells the oracle the last timestamp in it (`observe`) before taking one, so
    timestamps also rise across restarts and across a clock that was set back in between. Safe for
    use by several threads.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last = 0
        self._lock = threading.Lock()

    def next(self) -> Timestamp:
        """Return a timestamp above all others, as near to the present as that allows."""
        with self._lock:
            self._last = max(pack_timestamp(self._clock.now_ms()), self._last + 1)
            return self._last

    def observe(self, timestamp: Timestamp) -> None:
        """Note a timestamp that is in use."""
        with self._lock:
            self._last = max(self._last, timestamp)
