"""Stores that break a promise, as real ones were seen to: a probe must find each out."""

import threading
import time
from collections.abc import Callable

from gpuvec.errors import StorageError
from gpuvec.storage.memory import MemoryStore


class IgnoresConditions(MemoryStore):
    """Overwrites, and says that it created: `rclone serve s3`."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; this one replaces."""
        self.put(key, [data])
        return True


class OverwritesSecretly(MemoryStore):
    """Overwrites, and says that the key exists."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; this one replaces."""
        created = self.size(key) is None
        self.put(key, [data])
        return created


class RejectsConditions(MemoryStore):
    """Answers 501 to every conditional request, and takes all others."""

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; this one fails."""
        raise StorageError("GV-532", f"cannot create {key}: 501 Not Implemented")


class LooksFirst(MemoryStore):
    """Looks whether the key is there, then writes: fsspec's local files."""

    def __init__(self) -> None:
        super().__init__(appendable=False)
        self._together = threading.Barrier(2)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; several may win."""
        if self.size(key) is not None:
            return False
        try:
            self._together.wait(0.2)  # two that come at once both saw nothing
        except threading.BrokenBarrierError:
            self._together.reset()
        self.put(key, [data])
        return True


class ListsLate(MemoryStore):
    """Lists a key only some time after it was written: S3 before 2020."""

    def __init__(self, delay_s: float = 60.0) -> None:
        super().__init__(appendable=False)
        self._delay_s = delay_s
        self._written: dict[str, float] = {}

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`."""
        self._written.setdefault(key, time.monotonic())
        return super().put_if_absent(key, data)

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """See `ObjectStore.list`; new keys are missing."""
        now = time.monotonic()
        known = super().list(prefix, start_after)
        return [key for key in known if now - self._written.get(key, 0.0) > self._delay_s]


class Unreachable(MemoryStore):
    """Fails at everything."""

    def _fail(self) -> StorageError:
        return StorageError("GV-532", "cannot reach the store: connection refused")

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`; this one fails."""
        raise self._fail()

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`; this one fails."""
        raise self._fail()

    def delete(self, keys: object) -> None:
        """See `ObjectStore.delete`; this one fails."""
        raise self._fail()


UNSAFE: tuple[Callable[[], MemoryStore], ...] = (
    IgnoresConditions,
    OverwritesSecretly,
    RejectsConditions,
    LooksFirst,
    ListsLate,
)
