"""What is derived from segments once and used by many queries, within a budget of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

Key = tuple[Hashable, ...]  # begins with segment id and generation


@dataclass(slots=True)
class _Entry:
    value: Any = None
    size: Callable[[Any], int] = lambda _: 0
    lock: threading.Lock = field(default_factory=threading.Lock)
    made: bool = False


class DerivedCache:
    """Least recently used values go first when the budget is passed; making is single flight.

    An entry larger than the whole budget is still kept while it is the newest, so that a batch of tiles
    does not make it again for every tile.
    """

    def __init__(self, budget_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self._entries: OrderedDict[Key, _Entry] = OrderedDict()
        self._generations: dict[Hashable, Hashable] = {}
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Any], size: Callable[[Any], int]) -> Any:
        """Return the value of `key`, making it if needed.

        Args:
            key: segment id, generation, and what is derived. Another generation of the same segment
                puts the values of the former one out.
            make: called by one thread at a time for one key.
            size: bytes held by the value now; asked again at every later call, since values may grow.
        """
        with self._lock:
            entry = self._entries.get(key)
            if entry is not None and entry.made:
                self._entries.move_to_end(key)
                return entry.value
            if entry is None:
                self._forget_older(key)
                entry = self._entries[key] = _Entry(size=size)
        with entry.lock:
            if not entry.made:
                entry.value = make()
                entry.made = True
        with self._lock:
            self._trim(key)
        return entry.value

    @property
    def nbytes(self) -> int:
        """Bytes of all values."""
        with self._lock:
            return sum(entry.size(entry.value) for entry in self._entries.values() if entry.made)

    def trim(self) -> None:
        """Put values out until the budget holds; called after work that lets values grow."""
        with self._lock:
            self._trim(None)

    def clear(self) -> None:
        """Put everything out."""
        with self._lock:
            self._entries.clear()
            self._generations.clear()

    def _forget_older(self, key: Key) -> None:
        segment, generation = key[:2]
        if self._generations.get(segment, generation) != generation:
            for old in [k for k in self._entries if k[0] == segment and k[1] != generation]:
                del self._entries[old]
        self._generations[segment] = generation

    def _trim(self, newest: Key | None) -> None:
        held = {k: e.size(e.value) for k, e in self._entries.items() if e.made}
        total = sum(held.values())
        for key, size in held.items():
            if total <= self.budget_bytes:
                return
            if key != newest:
                total -= size
                del self._entries[key]
