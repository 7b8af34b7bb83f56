"""Objects as files of a local folder, safe against kill -9 and power cuts.

An object appears whole or not at all:

1. make the folder, and sync the folders above it (once in a process);
2. write a temporary file in the same folder;
3. sync the file;
4. give it its name: `link` where it must be new, `rename` where it may replace;
5. remove the temporary name (after `link`);
6. sync the folder.

| died after step | left behind | what a reader sees |
|---|---|---|
| 1 | an empty folder | nothing new |
| 2, 3 | a temporary file, which no listing shows and `sweep` removes | nothing new |
| 4, 5 | the object, perhaps not yet durable; perhaps its temporary name | all of the object |
| 6 | nothing | the object, for good: only now the call returns |

A log grows by one write and one sync of data for each `append`. A log on which either failed is
never appended to again: what the disk holds of it is unknown, and a second sync may claim success
for lost pages.
"""

import errno
import os
import secrets
import stat
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from gpuvec import errors
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.keys import check_key, check_prefix, is_key
from gpuvec.storage.object_store import Buffer
from gpuvec.storage.process_lock import hold_lock
from gpuvec.storage.system import System

DURABILITY = ("fsync", "os")
_WRITE_BYTES = 64 << 20  # one call; Linux ends at 2 GiB
_READ_BYTES = 1 << 30
_READ_ONLY = (errno.EROFS, errno.EINVAL)  # nothing there can have changed
_NOT_FOR_US = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS)  # to sync, above the root
_TRIES = 10  # to write into a folder that a sweep may remove at the same time


class LocalStore:
    """See `ObjectStore`. Keys are paths below `root`, which is made by the first write.

    Args:
        root: a folder on a POSIX file system with hard links.
        durability: "fsync" survives power cuts; "os" leaves data to the operating system, which
            survives the death of this process but not of the machine.
        system: what stands for the operating system; tests pass others.

    Raises:
        QueryError: `GV-512`, another durability.
    """

    appendable = True

    def __init__(self, root: str | Path, *, durability: str = "fsync", system: System = os) -> None:
        if durability not in DURABILITY:
            raise errors.unknown_durability(durability, DURABILITY)
        self._root = os.path.abspath(root)
        self._durable = durability == "fsync"
        self._system = system
        self._made: set[str] = set()  # folders whose names are known to be durable
        self._logs: dict[str, _Log] = {}
        self._mutex = threading.Lock()  # guards _logs

    @property
    def root(self) -> Path:
        """The folder that holds all objects."""
        return Path(self._root)

    def close(self) -> None:
        """Close the logs. The store can be used again."""
        with self._mutex:
            logs, self._logs = self._logs, {}
        for log in logs.values():
            log.close()

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`."""
        with self._opened(key) as (fd, path):
            return self._read(fd, path, 0, self._system.fstat(fd).st_size)

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""
        with self._opened(key) as (fd, path):
            return self._read(fd, path, start, length)

    def size(self, key: str) -> int | None:
        """See `ObjectStore.size`."""
        path = self._path(key)
        with _reported("look at", path):
            try:
                found = self._system.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return int(found.st_size) if stat.S_ISREG(found.st_mode) else None

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`. The parts are written from where they lie."""
        path = self._path(key)
        with _reported("write", path), self._temporary(path, parts) as temporary:
            self._system.rename(temporary, path)  # 4
            self._sync_folder(os.path.dirname(path))  # 6

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`. After False, the other object is durable too."""
        if not data:
            raise AssertionError(f"{key}: an empty object cannot be created")
        path = self._path(key)
        with _reported("create", path), self._temporary(path, [data]) as temporary:
            try:
                self._system.link(temporary, path)  # 4
            except FileExistsError:
                created = False
            else:
                created = True
            self._system.unlink(temporary)  # 5
            self._sync_folder(os.path.dirname(path))  # 6
        return created

    def append(self, key: str, data: bytes) -> None:
        """See `ObjectStore.append`.

        Raises:
            StorageError: `GV-504` to `GV-506`, the system refuses. Then the end of the file is
                unknown, and every later call for this key raises `GV-507`.
        """
        path = self._path(key)
        with self._mutex:
            log = self._logs.setdefault(path, _Log(self._system))
        with log.lock, _reported("append to", path):
            if log.failed:
                raise errors.log_failed_before(path)
            try:
                self._append(log, path, data)
            except BaseException:
                log.failed = True
                raise

    def sync(self, key: str) -> None:
        """See `ObjectStore.sync`; also syncs the name of the file."""
        with self._opened(key) as (fd, path):
            if not self._durable:
                return
            try:
                self._system.fdatasync(fd)
                self._sync_folder(os.path.dirname(path))
            except OSError as error:
                if error.errno not in _READ_ONLY:
                    raise

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """See `ObjectStore.list`. Files that no store could have written are passed over."""
        folder = check_prefix(prefix).rpartition("/")[0]
        found: list[str] = []
        pending = [f"{folder}/" if folder else ""]
        while pending:
            here = pending.pop()
            path = os.path.join(self._root, here)
            with _reported("list", path):
                for name, is_folder in self._entries(path):
                    key = here + name
                    if not is_key(key):
                        continue
                    if not is_folder:
                        if key.startswith(prefix) and key > start_after:
                            found.append(key)
                    elif _may_hold(f"{key}/", prefix, start_after):
                        pending.append(f"{key}/")
        return sorted(found)

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`. Folders stay, also empty ones, until `sweep`."""
        folders = set()
        for key in keys:
            path = self._path(key)
            with self._mutex:
                log = self._logs.pop(path, None)
            if log is not None:
                log.close()
            with _reported("delete", path):
                try:
                    self._system.unlink(path)
                except (FileNotFoundError, NotADirectoryError):
                    continue
            folders.add(os.path.dirname(path))
        for folder in sorted(folders):
            with _reported("sync", folder), suppress(FileNotFoundError):
                self._sync_folder(folder)

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`. The file need not exist; None where `system` is a model."""
        path = self._path(key)
        return Path(path) if self._system is os else None

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep every other process, and every other store of this one, from the same lock.

        The lock ends with the context or the process, however it dies.

        Raises:
            UnavailableError: `GV-510`, held by another; the message names its process.
            StorageError: `GV-504` to `GV-506`, the lock file cannot be made.
        """
        path = self._path(key)
        with _reported("lock", path):
            self._make_folder(os.path.dirname(path))
        return hold_lock(path)

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files last written before a time, and empty folders; return how many.

        Call it only while holding the lock of those who write. `older_than_s` counts seconds since
        1970; leave an hour, since another thread or process may be writing.
        """
        with _reported("sweep", self._root):
            return self._sweep(self._root, older_than_s)

    def _sweep(self, folder: str, older_than_s: float) -> int:
        removed = 0
        for name, is_folder in self._entries(folder):
            path = os.path.join(folder, name)
            if is_folder:
                removed += self._sweep(path, older_than_s)
                with suppress(OSError):  # not empty, or filled just now
                    self._made.discard(path)
                    self._system.rmdir(path)
                    removed += 1
            elif name.startswith(".") and name.endswith(".tmp"):
                with suppress(FileNotFoundError):  # finished just now
                    if self._system.stat(path).st_mtime < older_than_s:
                        self._system.unlink(path)
                        removed += 1
        return removed

    def _path(self, key: str) -> str:
        return os.path.join(self._root, check_key(key))

    @contextmanager
    def _opened(self, key: str) -> Iterator[tuple[int, str]]:
        path = self._path(key)
        with _reported("read", path):
            try:
                fd = self._system.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except (FileNotFoundError, NotADirectoryError):
                raise errors.missing_object(path) from None
            try:
                yield fd, path
            finally:
                self._system.close(fd)

    def _read(self, fd: int, path: str, start: int, length: int) -> bytes:
        pieces = []
        done = 0
        while done < length:
            piece = self._system.pread(fd, min(length - done, _READ_BYTES), start + done)
            if not piece:
                raise errors.object_too_short(path, wanted=start + length, got=start + done)
            pieces.append(piece)
            done += len(piece)
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def _entries(self, folder: str) -> Sequence[tuple[str, bool]]:
        try:
            with self._system.scandir(folder) as entries:
                return [(entry.name, entry.is_dir()) for entry in entries]
        except (FileNotFoundError, NotADirectoryError):
            return []

    @contextmanager
    def _temporary(self, path: str, parts: Sequence[Buffer]) -> Iterator[str]:
        """Steps 1 to 3; a temporary file that was not given a name is gone afterwards."""
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
        fd = self._create(temporary, os.O_EXCL)
        try:
            try:
                self._write(fd, parts)  # 2
                if self._durable:
                    self._system.fsync(fd)  # 3
            finally:
                self._system.close(fd)
            yield temporary
        except BaseException:
            with suppress(OSError):
                self._system.unlink(temporary)
            raise

    def _create(self, path: str, flags: int) -> int:
        flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        folder = os.path.dirname(path)
        for attempt in range(_TRIES):
            try:
                self._make_folder(folder)  # 1
                return self._system.open(path, flags, 0o666)
            except FileNotFoundError:  # swept away in between
                self._made.clear()
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def _append(self, log: "_Log", path: str, data: bytes) -> None:
        is_new = log.fd < 0
        if is_new:
            log.fd = self._create(path, os.O_APPEND)
        self._write(log.fd, [data])
        if self._durable:
            self._system.fdatasync(log.fd)
        if is_new:
            self._sync_folder(os.path.dirname(path))

    def _write(self, fd: int, parts: Sequence[Buffer]) -> None:
        for part in parts:
            rest = as_bytes(part)
            while rest:
                rest = rest[self._system.write(fd, rest[:_WRITE_BYTES]) :]

    def _make_folder(self, folder: str) -> None:
        """Make a folder, and make its name and those above durable, whoever made them."""
        parent = os.path.dirname(folder)
        if folder in self._made or folder == parent:
            return
        self._make_folder(parent)
        is_new = True
        try:
            self._system.mkdir(folder)
        except FileExistsError:
            is_new = False
        try:
            self._sync_folder(parent)
        except OSError as error:
            is_ours = is_new or folder.startswith(os.path.join(self._root, ""))
            if is_ours or error.errno not in _NOT_FOR_US:
                raise
        self._made.add(folder)

    def _sync_folder(self, folder: str) -> None:
        if not self._durable:
            return
        fd = self._system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._system.fsync(fd)
        finally:
            self._system.close(fd)


class _Log:
    """An open log file; -1 until the first append."""

    def __init__(self, system: System) -> None:
        self._system = system
        self.lock = threading.Lock()
        self.fd = -1
        self.failed = False

    def close(self) -> None:
        with self.lock:
            if self.fd >= 0:
                self._system.close(self.fd)
            self.fd = -1


def _may_hold(folder: str, prefix: str, start_after: str) -> bool:
    """Return whether a key of that folder can be wanted."""
    if not (folder.startswith(prefix) or prefix.startswith(folder)):
        return False
    return folder > start_after or start_after.startswith(folder)


@contextmanager
def _reported(action: str, path: str) -> Iterator[None]:
    """Turn the system's refusals into `StorageError`s that say what was tried on which path."""
    try:
        yield
    except errors.StorageError:
        raise
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise errors.missing_object(path) from error
        raise errors.storage_failed(action, path, error) from error
