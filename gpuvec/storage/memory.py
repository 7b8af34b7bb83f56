"""Objects in memory: for tests, and for databases that end with the process."""

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

from gpuvec import errors
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.keys import check_key, check_prefix
from gpuvec.storage.object_store import Buffer
from gpuvec.storage.process_lock import ThreadLocks


class MemoryStore:
    """See `ObjectStore`. One step for every call, in one order.

    Args:
        appendable: False makes it like object stores, where a log is one object per group commit.
    """

    def __init__(self, *, appendable: bool = True) -> None:
        self._objects: dict[str, bytes | bytearray] = {}
        self._mutex = threading.Lock()
        self._locks = ThreadLocks()
        self._appendable = appendable

    @property
    def appendable(self) -> bool:
        """See `ObjectStore.appendable`."""
        return self._appendable

    @property
    def identity(self) -> str:
        """The same for every handle of this store."""
        return f"memory:{id(self)}"

    def close(self) -> None:
        """Do nothing: objects stay as long as the store."""

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`. Objects are not copied, logs are."""
        with self._mutex:
            found = self._objects.get(check_key(key))
            if found is None:
                raise errors.missing_object(key)
            return bytes(found)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        with self._mutex:
            found = self._objects.get(check_key(key))
            if found is None:
                raise errors.missing_object(key)
            if len(found) < start + length:
                raise errors.object_too_short(key, wanted=start + length, got=len(found))
            return bytes(found[start : start + length])

    def size(self, key: str) -> int | None:
        """See `ObjectStore.size`."""
        with self._mutex:
            found = self._objects.get(check_key(key))
            return None if found is None else len(found)

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`."""
        data = b"".join(as_bytes(part) for part in parts)
        with self._mutex:
            self._objects[check_key(key)] = data

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`."""
        if not data:
            raise AssertionError(f"{key}: an empty object cannot be created")
        with self._mutex:
            if check_key(key) in self._objects:
                return False
            self._objects[key] = bytes(data)
            return True

    def append(self, key: str, data: bytes) -> None:
        """See `ObjectStore.append`."""
        if not self._appendable:
            raise AssertionError(f"{key}: this store has no logs")
        with self._mutex:
            found = self._objects.setdefault(check_key(key), bytearray())
            self._objects[key] = found = bytearray(found) if isinstance(found, bytes) else found
            found += as_bytes(data)

    def sync(self, key: str) -> None:
        """See `ObjectStore.sync`: nothing to do."""
        check_key(key)

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """See `ObjectStore.list`."""
        check_prefix(prefix)
        with self._mutex:
            return sorted(k for k in self._objects if k.startswith(prefix) and k > start_after)

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""
        with self._mutex:
            for key in keys:
                self._objects.pop(check_key(key), None)

    def stamp(self, folders: Sequence[str], logs: Sequence[str]) -> None:
        """See `ObjectStore.stamp`: always None."""

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`: always None."""
        check_key(key)
        return None

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep every other holder of this store from the same lock; see `LocalStore.lock`."""
        return self._locks.hold(check_key(key))

    def peek(self) -> Sequence[str]:
        """Return the names at the top."""
        return sorted({key.partition("/")[0] for key in self.list("")})

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below one."""
        below = (key.removeprefix(f"{prefix}/").split("/") for key in self.list(f"{prefix}/"))
        return sorted({parts[0] for parts in below if len(parts) > 1})
