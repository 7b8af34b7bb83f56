"""What is derived from segments once and used by many queries, within a budget of bytes."""

import itertools
import threading
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, field
from typing import Any

from gpuvec import telemetry

Key = tuple[Hashable, ...]  # begins with segment id and generation


@dataclass(slots=True, eq=False)
class _Entry:
    value: Any = None
    size_bytes: int = 0
    made: bool = False
    used: int = 0  # when, by the cache's count of uses
    users: "set[Key]" = field(default_factory=set)  # entries whose values hold this one
    lock: threading.Lock = field(default_factory=threading.Lock)


class DerivedCache:
    """Least recently used values go first when the budget is passed; making is single flight.

    A value larger than the whole budget is still kept while it is the newest, so that a batch of
    tiles does not make it again for every tile. Finding a value takes no lock.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._entries: dict[Key, _Entry] = {}
        self._generations: dict[Hashable, Hashable] = {}
        self._held = 0
        self._uses = itertools.count(1)
        self._lock = threading.Lock()
        telemetry.METERS.watch(
            self, lambda cache: [telemetry.MEMORY_BYTES.at(cache.nbytes, "host")]
        )

    def get(
        self,
        key: Key,
        make: Callable[[], Any],
        size: Callable[[Any], int],
        needs: Callable[[Any], Sequence[Key]] = lambda _: (),
    ) -> Any:
        """Return the value of `key`, making it if needed.

        Args:
            key: segment id, generation, and what is derived. Another generation of the same segment
                puts the values of the former one out.
            make: called by one thread at a time for one key.
            size: bytes that a value holds, now or after its first use; asked once.
            needs: keys of the values that a value holds but does not count; asked once. A use of it
                is a use of them, and it goes when one of them goes.
        """
        entry = self._entries.get(key)
        if entry is not None and entry.made:
            entry.used = next(self._uses)
            return entry.value
        with self._lock:
            entry = self._entries.get(key)
            if entry is None:
                self._forget_older(key)
                entry = self._entries[key] = _Entry()
        with entry.lock:
            if not entry.made:
                entry.value = make()
                entry.size_bytes = size(entry.value)
                self._admit(key, entry, needs(entry.value))
        return entry.value

    def has(self, key: Key) -> bool:
        """Return whether a value is there."""
        entry = self._entries.get(key)
        return entry is not None and entry.made

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        return self._held

    def clear(self) -> None:
        """Put everything out."""
        with self._lock:
            self._entries.clear()
            self._generations.clear()
            self._held = 0

    def _admit(self, key: Key, entry: _Entry, needs: Sequence[Key]) -> None:
        with self._lock:
            entry.used = next(self._uses)
            entry.made = True
            if self._entries.get(key) is not entry:  # put out while it was made
                return
            self._held += entry.size_bytes
            if not all(map(self.has, needs)):
                self._drop(key)
                return
            for need in needs:
                self._entries[need].users.add(key)
            if self._held > self.budget_bytes:
                self._make_room(key)

    def _make_room(self, newest: Key) -> None:
        made = [k for k, e in self._entries.items() if e.made and e.size_bytes and k != newest]
        for old in sorted(made, key=self._last_use):
            if self._held <= self.budget_bytes:
                return
            self._drop(old)

    def _last_use(self, key: Key) -> int:
        entry = self._entries[key]
        users = (self._entries.get(user) for user in entry.users)
        return max([entry.used, *(user.used for user in users if user is not None)])

    def _forget_older(self, key: Key) -> None:
        segment, generation = key[:2]
        if self._generations.get(segment, generation) != generation:
            for old in [k for k in self._entries if k[0] == segment and k[1] != generation]:
                self._drop(old)
        self._generations[segment] = generation

    def _drop(self, key: Key) -> None:
        entry = self._entries.pop(key, None)
        if entry is None:  # it went with another
            return
        if entry.made:
            self._held -= entry.size_bytes
        for user in entry.users:
            self._drop(user)
