"""A lock that one process holds, and that says which."""

import fcntl
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from gpuvec import errors


@contextmanager
def hold_lock(path: str) -> Iterator[None]:
    """Hold the lock of a file, made where it is missing; see `LocalStore.lock`."""
    fd = _open(path)
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise errors.locked(path, _owner(fd)) from None
        except OSError as error:
            raise errors.storage_failed("lock", path, error) from error
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
        yield
    finally:
        os.close(fd)  # which also unlocks


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise errors.storage_failed("lock", path, error) from error


def _owner(fd: int) -> int | None:
    """Return the process that holds the lock; None when it has not yet said so."""
    with suppress(ValueError):
        return int(os.pread(fd, 32, 0))
    return None


class ThreadLocks:
    """The same between threads of one process, for stores in memory."""

    def __init__(self) -> None:
        self._held: set[str] = set()
        self._mutex = threading.Lock()

    @contextmanager
    def hold(self, key: str) -> Iterator[None]:
        """Hold the lock of a key; `UnavailableError` GV-510 when another does."""
        with self._mutex:
            if key in self._held:
                raise errors.locked(key, os.getpid())
            self._held.add(key)
        try:
            yield
        finally:
            with self._mutex:
                self._held.discard(key)
