"""What happened of late: a bounded list of events, and those who want to hear of new ones."""

import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from gpuvec.clock import Clock, SystemClock

KEPT = 1000  # events of one process


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """One thing that happened.

    Attributes:
        time_ms: milliseconds since 1970-01-01 UTC.
        kind: what: `flush`, `build`, `compaction`, `node_joined`, …
        database: the identity of its store; empty: of no one database.
        node: where it happened; empty: in this process.
        details: plain values.
    """

    time_ms: int
    kind: str
    database: str = ""
    node: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    @property
    def time(self) -> datetime:
        """When it happened, in UTC."""
        return datetime.fromtimestamp(self.time_ms / 1000, UTC)

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values, for JSON and other processes; see `event_of`."""
        return {
            "time_ms": self.time_ms,
            "kind": self.kind,
            "database": self.database,
            "node": self.node,
            "details": dict(self.details),
        }

    def __repr__(self) -> str:
        when = self.time.strftime("%H:%M:%S.%f")[:-3]
        where = f" on {self.node}" if self.node else ""
        more = "".join(f" {name}={_shown(value)}" for name, value in self.details.items())
        return f"<{when} {self.kind}{where}{more}>"


def event_of(values: Mapping[str, Any]) -> Event:
    """Return the event that `Event.to_dict` described."""
    return Event(**values)


def _shown(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


class Events:
    """The newest events of a process. Safe for use by several threads.

    Args:
        clock: where their time comes from.
        kept: how many are kept.
    """

    def __init__(self, clock: Clock | None = None, kept: int = KEPT) -> None:
        self._clock = clock or SystemClock()
        self._kept: deque[Event] = deque(maxlen=kept)
        self._heard: tuple[Callable[[Event], None], ...] = ()
        self._lock = threading.Lock()

    def note(self, kind: str, *, database: str = "", node: str = "", **details: Any) -> None:
        """Keep an event that happens now, and tell those who listen."""
        now_ms = self._clock.now_ms()
        self.take(Event(time_ms=now_ms, kind=kind, database=database, node=node, details=details))

    def take(self, event: Event) -> None:
        """Keep an event of another process as it is, and tell those who listen."""
        self._kept.append(event)
        for listener in self._heard:
            listener(event)

    def newest(self, limit: int | None = None, *, database: str | None = None) -> list[Event]:
        """Return events, oldest first.

        Args:
            limit: so many of the newest; None: all that are kept.
            database: only its own and those of no one database; None: of all.
        """
        found = [e for e in self._kept.copy() if database is None or e.database in ("", database)]
        return found if limit is None else found[max(0, len(found) - limit) :]

    def clear(self) -> None:
        """Forget what happened."""
        self._kept.clear()

    def listen(self, listener: Callable[[Event], None]) -> Callable[[], None]:
        """Call `listener` with each new event, on the thread that notes it; return what ends it."""
        with self._lock:
            self._heard = (*self._heard, listener)

        def stop() -> None:
            with self._lock:
                self._heard = tuple(known for known in self._heard if known is not listener)

        return stop
