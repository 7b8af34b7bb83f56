"""Time: clocks that can be replaced in tests, and hybrid timestamps."""

import time
from typing import Protocol

from gpuvec.types import Timestamp

LOGICAL_BITS = 18
_LOGICAL_MASK = (1 << LOGICAL_BITS) - 1


class Clock(Protocol):
    """Where time comes from. Nothing else in gpuvec asks the operating system."""

    def now_ms(self) -> int:
        """Return milliseconds since 1970-01-01 UTC."""

    def monotonic_s(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of the operating system."""

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return time.time_ns() // 1_000_000

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """See `Clock.sleep`."""
        time.sleep(seconds)


class ManualClock:
    """A clock that moves only when told to."""

    def __init__(self, now_ms: int = 1_700_000_000_000) -> None:
        self._now_ms = float(now_ms)
        self._monotonic_s = 0.0

    def now_ms(self) -> int:
        """See `Clock.now_ms`."""
        return int(self._now_ms)

    def monotonic_s(self) -> float:
        """See `Clock.monotonic_s`."""
        return self._monotonic_s

    def sleep(self, seconds: float) -> None:
        """Advance both times by `seconds` at once."""
        self.advance(seconds)

    def advance(self, seconds: float) -> None:
        """Let time pass."""
        self._now_ms += seconds * 1000
        self._monotonic_s += seconds

    def step_back(self, seconds: float) -> None:
        """Move the wall clock back, as an operator or NTP may; monotonic time goes on."""
        self._now_ms -= seconds * 1000


def pack_timestamp(physical_ms: int, logical: int = 0) -> Timestamp:
    """Return `physical_ms << 18 | logical`."""
    return (physical_ms << LOGICAL_BITS) | logical


def unpack_timestamp(timestamp: Timestamp) -> tuple[int, int]:
    """Return the physical milliseconds and the logical counter of a timestamp."""
    return timestamp >> LOGICAL_BITS, timestamp & _LOGICAL_MASK
