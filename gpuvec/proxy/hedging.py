"""When a call is asked again of a replica, though it has not failed.

Source: Dean and Barroso, "The Tail at Scale", CACM 56(2), 2013: a second request after the 95th
percentile of the expected latency of its kind costs a few per cent of load and cuts the tail.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Hashable

QUANTILE = 0.95
LEAST_SEEN = 20  # calls of a kind, before any of them is doubled
_REMEMBERED = 200
_KINDS = 256
_LEAST_DELAY_S = 0.002
_AGAIN = 16  # observations after which the quantile is computed again


class _Kind:
    __slots__ = ("delay_s", "latencies", "since")

    def __init__(self) -> None:
        self.latencies: deque[float] = deque(maxlen=_REMEMBERED)
        self.since = 0
        self.delay_s: float | None = None

    def observe(self, seconds: float) -> None:
        """Take one latency in."""
        self.latencies.append(seconds)
        self.since += 1
        if len(self.latencies) >= LEAST_SEEN and (self.delay_s is None or self.since >= _AGAIN):
            ordered = sorted(self.latencies)
            self.delay_s = max(_LEAST_DELAY_S, ordered[int(QUANTILE * (len(ordered) - 1))])
            self.since = 0


class Hedging:
    """Knows how long calls of each kind take, and how many may be doubled. Thread-safe.

    Args:
        share: of all calls, that may be made twice; 0: none.
        burst: doubled calls that may come at once, when there were none for long.
    """

    def __init__(self, *, share: float, burst: int = 4) -> None:
        self._share = share
        self._burst = float(burst)
        self._left = 1.0 if share else 0.0
        self._kinds: OrderedDict[Hashable, _Kind] = OrderedDict()
        self._lock = threading.Lock()

    def called(self) -> None:
        """Note one call that is no double."""
        with self._lock:
            self._left = min(self._burst, self._left + self._share)

    def observe(self, kind: Hashable, seconds: float) -> None:
        """Note how long a call took."""
        with self._lock:
            known = self._kinds.get(kind)
            if known is None:
                known = self._kinds[kind] = _Kind()
                if len(self._kinds) > _KINDS:
                    self._kinds.popitem(last=False)
            self._kinds.move_to_end(kind)
            known.observe(seconds)

    def delay_s(self, kind: Hashable) -> float | None:
        """Return after how long a call is late; None: too few of its kind were seen."""
        with self._lock:
            known = self._kinds.get(kind)
            return None if known is None else known.delay_s

    def take(self, calls: int) -> bool:
        """Return whether so many calls may be doubled now; if so, they count."""
        with self._lock:
            if calls > self._left:
                return False
            self._left -= calls
            return True
