"""A store that fails on schedule."""

import threading
import time
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from enum import Enum
from pathlib import Path

from gpuvec.errors import StorageError
from gpuvec.storage.object_store import Buffer, ObjectStore


class Crash(BaseException):
    """The process is gone; nothing of it may run on."""


class Fault(Enum):
    """How an operation fails."""

    BEFORE = "error, no effect"
    AFTER = "error, but the effect happened"
    TORN = "error, and a part of an append happened; else as BEFORE"
    REPEATED = "a retry below met the first try: put_if_absent says False of its own object"
    CONFLICT = "409: put_if_absent says False and creates nothing; else as BEFORE"
    MISSING = "404 for what is there: get, get_range and size find nothing; else as BEFORE"
    DELAY = "it takes a while, then succeeds"
    CRASH_BEFORE = "the process dies before the effect"
    CRASH_AFTER = "the process dies after the effect"
    CRASH_TORN = "the process dies within an append; else as CRASH_BEFORE"


_DELAY_S = 0.002
_ONLY_FOR: dict[Fault | None, tuple[str, ...]] = {
    Fault.CONFLICT: ("put_if_absent",),
    Fault.MISSING: ("get", "get_range", "size"),
}


class FaultStore:
    """A store whose operations fail as planned, and that counts them.

    Args:
        inner: holds the objects, and is what a new process finds after a crash.
        plan: the fault of the operation with that number, from 0; others succeed.

    Attributes:
        identity: of this store; see the stores' `identity`.
        operations: method and key of every operation begun.
    """

    def __init__(self, inner: ObjectStore, plan: Mapping[int, Fault] | None = None) -> None:
        self._inner = inner
        self._plan = dict(plan or {})
        self._dead = False
        self._mutex = threading.Lock()
        self.identity = f"faulty {id(self)}"
        self.operations: list[tuple[str, str]] = []

    @property
    def appendable(self) -> bool:
        """See `ObjectStore.appendable`."""
        return self._inner.appendable

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self._operation("get", key) as fault:
            return self._inner.get(_gone(key) if fault is Fault.MISSING else key)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        with self._operation("get_range", key) as fault:
            key = _gone(key) if fault is Fault.MISSING else key
            return self._inner.get_range(key, start, length)

    def size(self, key: str) -> int | None:
        """See `ObjectStore.size`."""
        with self._operation("size", key) as fault:
            return None if fault is Fault.MISSING else self._inner.size(key)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`."""
        with self._operation("put", key):
            self._inner.put(key, parts)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`."""
        with self._operation("put_if_absent", key) as fault:
            if fault is Fault.CONFLICT:
                return False
            created = self._inner.put_if_absent(key, data)
        return created and fault is not Fault.REPEATED

    def append(self, key: str, data: bytes) -> None:
        """See `ObjectStore.append`."""
        torn = lambda: self._inner.append(key, bytes(data)[: len(data) // 2])  # noqa: E731
        with self._operation("append", key, torn):
            self._inner.append(key, data)

    def sync(self, key: str) -> None:
        """See `ObjectStore.sync`."""
        with self._operation("sync", key):
            self._inner.sync(key)

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """See `ObjectStore.list`."""
        with self._operation("list", prefix):
            return self._inner.list(prefix, start_after)

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""
        with self._operation("delete", " ".join(keys)):
            self._inner.delete(keys)

    def folders(self, prefix: str) -> Sequence[str]:
        """See the stores' `folders`; a listing."""
        with self._operation("list", f"{prefix}/"):
            found: Sequence[str] = self._inner.folders(prefix)  # type: ignore[attr-defined]
            return found

    def peek(self) -> Sequence[str]:
        """See the stores' `peek`; a listing."""
        with self._operation("list", ""):
            found: Sequence[str] = self._inner.peek()  # type: ignore[attr-defined]
            return found

    def lock(self, key: str) -> AbstractContextManager[None]:
        """See the stores' `lock`; no operation, since it ends with the process."""
        held: AbstractContextManager[None] = self._inner.lock(key)  # type: ignore[attr-defined]
        return held

    def close(self) -> None:
        """See the stores' `close`."""
        self._inner.close()  # type: ignore[attr-defined]

    def heal(self) -> None:
        """Let every operation from now on succeed; a dead process stays dead."""
        self._plan.clear()

    def stamp(self, folders: Sequence[str], logs: Sequence[str]) -> Hashable | None:
        """See `ObjectStore.stamp`; no operation, since it may only save some."""
        return self._inner.stamp(folders, logs)

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`."""
        return self._inner.local_path(key)

    @contextmanager
    def _operation(
        self, name: str, key: str, torn: Callable[[], None] = lambda: None
    ) -> Iterator[Fault | None]:
        with self._mutex:
            if self._dead:
                raise Crash
            fault = self._plan.get(len(self.operations))
            self.operations.append((name, key))
        if fault in (Fault.TORN, Fault.CRASH_TORN):
            torn()
        if fault is Fault.DELAY:
            time.sleep(_DELAY_S)
        if fault in (Fault.BEFORE, Fault.TORN) or name not in _ONLY_FOR.get(fault, (name,)):
            raise _failed(name, key)
        if fault in (Fault.CRASH_BEFORE, Fault.CRASH_TORN):
            self._die()
        yield fault
        if fault is Fault.AFTER:
            raise _failed(name, key)
        if fault is Fault.CRASH_AFTER:
            self._die()

    def _die(self) -> None:
        self._dead = True
        raise Crash


def _gone(key: str) -> str:
    """Return a key under which nothing lies, for an error like that of the store."""
    return f"{key}.missing"


def _failed(name: str, key: str) -> StorageError:
    return StorageError("GV-504", f"cannot {name} {key}: planned failure")
