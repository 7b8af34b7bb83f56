"""What this process may take of a card's memory, and who has taken it."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gpuvec.device.memory import Memory
from gpuvec.errors import device_budget_exceeded
from gpuvec.settings import config

PARTS = ("vectors", "frames", "bits", "indexes", "scratch")
CARD_SHARE = 0.9  # of what was free at first; libraries need some beside what is booked
SCRATCH_SHARE = 4  # what stays on the card leaves such a part of the budget to searches
_GRANT_SHARE = 2  # of what is free, for one search's scratch: another may come


class Budget:
    """Books bytes before they are allocated. Safe for use by several threads.

    Args:
        card: asks the card for its memory.

    Attributes:
        lock: held for changes of what is booked, and by whoever makes room.
        make_room: lets go of at least so many bytes if it can; set by `residency`.
        peak_bytes: the most that was booked at once.
    """

    def __init__(self, card: Callable[[], Memory]) -> None:
        self.lock = threading.RLock()
        self.make_room: Callable[[int], None] = lambda _: None
        self.peak_bytes = 0
        self._ask = card
        self._card: Memory | None = None
        self._held = dict.fromkeys(PARTS, 0)
        self._halved = 0

    @property
    def limit_bytes(self) -> int:
        """Bytes in all: `device.memory_limit`, or what the card had left at first if that is less.

        A share is one of the whole card.
        """
        card, chosen = self.card, config["device.memory_limit"]
        free = int(card.free * CARD_SHARE)
        if chosen is None:
            return free
        return min(free, chosen if isinstance(chosen, int) else int(chosen * card.total))

    @property
    def resident_limit(self) -> int:
        """Bytes that may stay on the card between searches."""
        limit = self.limit_bytes
        return limit - limit // SCRATCH_SHARE

    @property
    def card(self) -> Memory:
        """The card's memory when it was first asked, or since `measure`."""
        if self._card is None:
            self._card = self._ask()
        return self._card

    def measure(self) -> None:
        """Ask the card again: others may have taken some of it, or given it back."""
        with self.lock:
            now = self._ask()
            self._card = Memory(total=now.total, free=min(now.total, now.free + self.held_bytes))

    @property
    def held_bytes(self) -> int:
        """Bytes booked now."""
        return sum(self._held.values())

    def parts(self) -> dict[str, int]:
        """Return the bytes booked now, by `PARTS`."""
        with self.lock:
            return dict(self._held)

    def take(self, part: str, size_bytes: int, *, what: str) -> None:
        """Book bytes, once room was made for them.

        Args:
            part: one of `PARTS`.
            size_bytes: at least 0.
            what: the bytes are for, for the message.

        Raises:
            DeviceMemoryError: `GV-903`, what is in use leaves too little.
        """
        with self.lock:
            if self.held_bytes + size_bytes > self.limit_bytes:
                self.make_room(self.held_bytes + size_bytes - self.limit_bytes)
            limit = self.limit_bytes
            if self.held_bytes + size_bytes > limit:
                raise device_budget_exceeded(
                    what, needed=size_bytes, limit=limit, parts=self.parts()
                )
            self._held[part] += size_bytes
            self.peak_bytes = max(self.peak_bytes, self.held_bytes)

    def give_back(self, part: str, size_bytes: int) -> None:
        """Book bytes out again."""
        with self.lock:
            self._held[part] -= size_bytes
            if self._held[part] < 0:
                raise AssertionError(f"more of {part} given back than was taken")

    @contextmanager
    def scratch(self, least: int, most: int, *, what: str) -> Iterator[int]:
        """Book room for temporary data while a block runs.

        Args:
            least: bytes without which the work cannot be done.
            most: bytes beyond which more would be of no use.
            what: the work, for the message.

        Yields:
            Bytes that may be used: between `least` and `most`.

        Raises:
            DeviceMemoryError: `GV-903`, see `take`.
        """
        with self.lock:
            free = max(0, self.limit_bytes - self.held_bytes)
            size = max(least, min(most, free // _GRANT_SHARE) >> self._halved)
            self.take("scratch", size, what=what)
        try:
            yield size
        finally:
            self.give_back("scratch", size)

    @contextmanager
    def halved(self, times: int) -> Iterator[None]:
        """Grant less scratch while a block runs: bytes were allocated that nobody had booked."""
        self._halved = times
        try:
            yield
        finally:
            self._halved = 0
