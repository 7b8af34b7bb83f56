"""What is held in memory of files that are not on a local disk, within a budget of bytes."""

import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec import telemetry
from gpuvec.errors import file_exceeds_memory

Bytes = NDArray[np.uint8]


class Resident:
    """Arrays of bytes by key; those used longest ago go first. Safe for use by several threads.

    One that was let go is still found for as long as somebody uses it. Room is made before an array
    is made.

    Args:
        budget_bytes: of all arrays that are kept here.
        most_bytes: of a single file; a larger one is refused.
    """

    def __init__(self, budget_bytes: int, most_bytes: int) -> None:
        self.budget_bytes = budget_bytes
        self.most_bytes = most_bytes
        self._lock = threading.Lock()  # guards what follows
        self._kept: OrderedDict[Hashable, Bytes] = OrderedDict()
        self._kept_bytes = 0
        self._alive: weakref.WeakValueDictionary[Hashable, Any] = weakref.WeakValueDictionary()
        self._loading: dict[Hashable, threading.Lock] = {}
        self.peak_bytes = 0  # of all arrays that were alive at once
        telemetry.METERS.watch(
            self, lambda kept: [telemetry.MEMORY_BYTES.at(kept.held_bytes, "host")]
        )

    def limit(self, budget_bytes: int, *, most_bytes: int) -> None:
        """Set other limits; see the class."""
        with self._lock:
            self.budget_bytes, self.most_bytes = budget_bytes, most_bytes
            self._make_room(0)

    @property
    def held_bytes(self) -> int:
        """Bytes of all arrays that are alive, whoever holds them."""
        return sum(array.nbytes for array in list(self._alive.values()))

    def find(self, key: Hashable) -> Bytes | None:
        """Return an array, None if there is none."""
        found: Bytes | None = self._alive.get(key)
        if found is not None:
            with self._lock:
                if key in self._kept:
                    self._kept.move_to_end(key)
        return found

    def keep(self, key: Hashable, data: Bytes) -> None:
        """Keep an array that owns its memory, as far as the budget goes."""
        with self._lock:
            self._make_room(data.nbytes)
            self._keep(key, data)

    def load(self, key: Hashable, size: int, fill: Callable[[Bytes], None]) -> Bytes:
        """Return an array, made by `fill` if it is not there: by one thread at a time for a key.

        Args:
            key: of a file, for messages too.
            size: bytes of the array.
            fill: is given an empty array of that size.

        Raises:
            DeviceMemoryError: `GV-561`, it is larger than one may be.
        """
        with self._lock:
            loading = self._loading.setdefault(key, threading.Lock())
        try:
            with loading:
                found = self.find(key)
                if found is not None:
                    return found
                if size > self.most_bytes:
                    raise file_exceeds_memory(str(key), needed=size, limit=self.most_bytes)
                with self._lock:
                    self._make_room(size)
                made = np.empty(size, np.uint8)
                fill(made)
                made.flags.writeable = False
                with self._lock:
                    self._keep(key, made)
                return made
        finally:
            with self._lock:
                self._loading.pop(key, None)

    def _make_room(self, size: int) -> None:
        while self._kept and self._kept_bytes + size > self.budget_bytes:
            _, old = self._kept.popitem(last=False)
            self._kept_bytes -= old.nbytes

    def _keep(self, key: Hashable, data: Bytes) -> None:
        before = self._kept.pop(key, None)
        self._kept_bytes -= 0 if before is None else before.nbytes
        self._alive[key] = data
        self._make_room(data.nbytes)
        if data.nbytes <= self.budget_bytes:
            self._kept[key] = data
            self._kept_bytes += data.nbytes
        self.peak_bytes = max(self.peak_bytes, self.held_bytes)
