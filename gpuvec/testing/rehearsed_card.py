"""A card that is not there: its memory, its streams, and every copy over a bus that is not there.

Memory is taken and given back as by CuPy's pool: freed blocks stay with the pool until it is told
to free them or has to. Copies on a stream happen as late as they may, so a missing wait shows.
"""

import threading
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np

UNIT = 512  # bytes; CuPy's pool rounds up to it
# Bytes of shared memory that a block may ask for, by compute capability (CUDA programming guide).
SHARED = {75: 64 << 10, 80: 163 << 10, 86: 99 << 10, 89: 99 << 10, 90: 227 << 10, 120: 99 << 10}


class OutOfMemoryError(MemoryError):
    """What CuPy raises; its text."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        text = f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes"
        super().__init__(text + (f", limit set to: {limit:,} bytes)." if limit else ")."))


@dataclass(slots=True)
class Copies:
    """Copies over the bus since the rehearsal began, or since `clear`.

    Attributes:
        to_device: bytes of each copy to the card, in order.
        to_host: bytes of each copy back, in order.
    """

    to_device: list[int] = field(default_factory=list)
    to_host: list[int] = field(default_factory=list)

    def clear(self) -> None:
        """Forget them."""
        self.to_device.clear()
        self.to_host.clear()


class Block:
    """Memory of the card that an array and its views share."""

    __slots__ = ("__weakref__",)


class Card:
    """One card.

    Args:
        total: its bytes.
        others: bytes that other processes hold; may be changed.
        compute: its capability, one of `SHARED`.
    """

    def __init__(self, total: int, others: int = 0, compute: int = 90) -> None:
        self.total, self.others, self.compute = total, others, compute
        self.copies = Copies()
        self.launches: list[str] = []  # of our kernels, by name
        self.operations = 0  # of CuPy on arrays: each is a launch or more
        self.used = 0  # in arrays
        self.held = 0  # by the pool, used or not
        self.most_used = 0
        self.limit = 0  # of the pool; 0: none
        self._lock = threading.RLock()

    def take(self, size: int) -> Block:
        """Allocate.

        Raises:
            OutOfMemoryError: the pool's limit, or the card, is too small.
        """
        size = -(-size // UNIT) * UNIT
        with self._lock:
            new = self.used + size
            if new > self.held:
                if (self.limit and new > self.limit) or new > self.total - self.others:
                    raise OutOfMemoryError(size, self.held, self.limit)
                self.held = new
            self.used = new
            self.most_used = max(self.most_used, new)
        block = Block()
        weakref.finalize(block, self._give_back, size).atexit = False
        return block

    def _give_back(self, size: int) -> None:
        with self._lock:
            self.used -= size

    def free_pool(self) -> None:
        """Give back what the pool holds and nobody uses."""
        with self._lock:
            self.held = self.used


class Event:
    """A place in a stream; see `cupy.cuda.Event`."""

    def __init__(
        self, block: bool = False, disable_timing: bool = False, interprocess: bool = False
    ) -> None:
        self._stream: Stream | None = None
        self._place = 0

    def record(self, stream: "Stream | None" = None) -> None:
        """Note how far a stream has come."""
        self._stream = stream or Stream.current()
        self._place = self._stream.enqueued

    def synchronize(self) -> None:
        """Wait for what came before."""
        if self._stream is not None:
            self._stream.run_to(self._place)

    @property
    def done(self) -> bool:
        """Whether what came before is done; asking does nothing."""
        return self._stream is None or self._stream.finished >= self._place


class Stream:
    """A queue of copies that wait to be waited for; see `cupy.cuda.Stream`.

    Work on the null stream is done at once: nothing here can show a missing wait among kernels.
    """

    _local = threading.local()
    null: "Stream"

    def __init__(
        self, null: bool = False, non_blocking: bool = False, ptds: bool = False,
        priority: int | None = None,
    ) -> None:  # fmt: skip
        self.is_null = null
        self.enqueued = self.finished = 0
        self._work: list[Callable[[], None]] = []
        self._lock = threading.RLock()
        self.ptr = 0 if null else id(self)

    @classmethod
    def current(cls) -> "Stream":
        """Return the calling thread's current stream."""
        entered = getattr(cls._local, "entered", [])
        return entered[-1] if entered else cls.null

    def later(self, work: Callable[[], None]) -> None:
        """Do something when somebody waits for it, on the null stream at once."""
        if self.is_null:
            work()
            return
        with self._lock:
            self._work.append(work)
            self.enqueued += 1

    def run_to(self, place: int) -> None:
        """Do what came before a place."""
        with self._lock:
            while self.finished < place:
                self.finished += 1
                self._work.pop(0)()

    def synchronize(self) -> None:
        """Wait for everything."""
        self.run_to(self.enqueued)

    def record(self, event: Event | None = None) -> Event:
        """Return an event at this place."""
        made = event or Event()
        made.record(self)
        return made

    def wait_event(self, event: Event) -> None:
        """Let what comes later here wait for an event."""
        event.synchronize()

    @property
    def done(self) -> bool:
        """Whether nothing is left to do."""
        return self.finished == self.enqueued

    def use(self) -> Self:
        """Make it the thread's current stream."""
        self._local.entered = [self]
        return self

    def __enter__(self) -> Self:
        self._local.entered = [*getattr(self._local, "entered", []), self]
        return self

    def __exit__(self, *_: object) -> None:
        self._local.entered = self._local.entered[:-1]


Stream.null = Stream(null=True)


class PinnedMemory(bytearray):
    """Host memory that a card can read by itself; see `cupy.cuda.alloc_pinned_memory`."""

    @property
    def ptr(self) -> int:
        """Its address."""
        return int(np.frombuffer(self, np.uint8).ctypes.data)

    def size(self) -> int:
        """Its bytes."""
        return len(self)


def root(values: np.ndarray[Any, Any]) -> Any:
    """Return what owns an array's memory."""
    found: Any = values
    while isinstance(found.base, np.ndarray):
        found = found.base
    return found
