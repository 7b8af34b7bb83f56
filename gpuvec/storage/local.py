"""Objects as files of a local folder, safe against kill -9 and power cuts.

How they are written, step by step, is in `gpuvec.storage.durable`.
"""

import errno
import math
import os
import stat
import threading
from collections import OrderedDict
from collections.abc import Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path

from gpuvec import errors
from gpuvec.storage.durable import DurableFolder, DurableLog, is_temporary, reported
from gpuvec.storage.keys import check_key, check_prefix, is_key
from gpuvec.storage.object_store import Buffer
from gpuvec.storage.process_lock import hold_lock
from gpuvec.storage.stamps import Stamps
from gpuvec.storage.system import HOST, System

DURABILITY = ("fsync", "os")
_READ_BYTES = 1 << 30
_OPEN = 64  # logs that hold a descriptor
_READ_ONLY = (errno.EROFS, errno.EINVAL)  # nothing there can have changed


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

    def __init__(
        self, root: str | Path, *, durability: str = "fsync", system: System = HOST
    ) -> None:
        if durability not in DURABILITY:
            raise errors.unknown_durability(durability, DURABILITY)
        self._root = os.path.abspath(root)
        self._system = system
        self._files = DurableFolder(self._root, durable=durability == "fsync", system=system)
        self._logs: dict[str, DurableLog] = {}
        self._open_logs: OrderedDict[str, DurableLog] = OrderedDict()  # used last at the end
        self._mutex = threading.Lock()  # guards both
        self._stamps = Stamps(self._root)

    @property
    def root(self) -> Path:
        """The folder that holds all objects."""
        return Path(self._root)

    @property
    def identity(self) -> str:
        """The same for every store of this folder."""
        return os.path.realpath(self._root)

    def close(self) -> None:
        """Close the logs. The store can be used again."""
        with self._mutex:
            logs = list(self._logs.values())
        for log in logs:
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
        with reported("look at", path):
            try:
                found = self._system.stat(path)
            except (FileNotFoundError, NotADirectoryError):
                return None
            return int(found.st_size) if stat.S_ISREG(found.st_mode) else None

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`. The parts are written from where they lie."""
        path = self._path(key)
        with reported("write", path):
            self._files.replace(path, parts)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`. After False, the other object is durable too."""
        if not data:
            raise AssertionError(f"{key}: an empty object cannot be created")
        path = self._path(key)
        with reported("create", path):
            return self._files.create(path, data)

    def append(self, key: str, data: bytes) -> None:
        """See `ObjectStore.append`.

        Raises:
            StorageError: `GV-504` to `GV-506`, the system refuses. Then the end of the file is
                unknown, and every later call for this key raises `GV-507`.
        """
        path = self._path(key)
        log = self._log(path)
        with reported("append to", path):
            log.append(data)

    def _log(self, path: str) -> DurableLog:
        """Return a log; those not used for longest are closed, and opened again when needed."""
        with self._mutex:
            log = self._logs.setdefault(path, self._files.log(path))
            self._open_logs[path] = log
            self._open_logs.move_to_end(path)
            idle = self._open_logs.popitem(last=False)[1] if len(self._open_logs) > _OPEN else None
        if idle is not None:
            idle.close()
        return log

    def sync(self, key: str) -> None:
        """See `ObjectStore.sync`; also syncs the name of the file."""
        with self._opened(key) as (fd, path):
            try:
                self._files.sync_data(fd)
                self._files.sync_folder(os.path.dirname(path))
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
            with reported("list", path):
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
                self._open_logs.pop(path, None)
            if log is not None:
                log.close()
            with reported("delete", path):
                try:
                    self._system.unlink(path)
                except (FileNotFoundError, NotADirectoryError):
                    continue
            folders.add(os.path.dirname(path))
        for folder in sorted(folders):
            with reported("sync", folder), suppress(FileNotFoundError):
                self._files.sync_folder(folder)

    def stamp(self, folders: Sequence[str], logs: Sequence[str]) -> Hashable | None:
        """See `ObjectStore.stamp`; None where `system` is a model."""
        return self._stamps.stamp(folders, logs) if self._system is HOST else None

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`. The file need not exist; None where `system` is a model."""
        path = self._path(key)
        return Path(path) if self._system is HOST else None

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Keep every other process, and every other store of this one, from the same lock.

        The lock ends with the context or the process, however it dies.

        Raises:
            UnavailableError: `GV-510`, held by another; the message names its process.
            StorageError: `GV-504` to `GV-506`, the lock file cannot be made.
        """
        path = self._path(key)
        with reported("lock", path):
            self._files.make_folder(os.path.dirname(path))
        return hold_lock(path)

    def sweep(self, older_than_s: float) -> int:
        """Remove temporary files last written before a time, and empty folders; return how many.

        Call it only while holding the lock of those who write. `older_than_s` counts seconds since
        1970; leave an hour, since another thread or process may be writing.
        """
        with reported("sweep", self._root):
            return self._sweep(self._root, older_than_s)

    def remove_folder(self, prefix: str) -> None:
        """Remove the folder of a prefix that nobody writes to any more, unless it holds objects.

        Temporary files in it go, however young they are: writes that died left them.
        """
        path = self._path(prefix)
        with reported("sweep", path):
            self._sweep(path, math.inf)
            with suppress(OSError):  # not empty, or not there
                self._files.remove_folder(path)

    def peek(self) -> Sequence[str]:
        """Return the names at the top, whoever wrote them."""
        with reported("list", self._root):
            return sorted(name for name, _ in self._entries(self._root))

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below one."""
        path = self._path(prefix)
        with reported("list", path):
            return sorted(name for name, is_folder in self._entries(path) if is_folder)

    def _sweep(self, folder: str, older_than_s: float) -> int:
        removed = 0
        for name, is_folder in self._entries(folder):
            path = os.path.join(folder, name)
            if is_folder and is_key(name):
                removed += self._sweep(path, older_than_s)
                with suppress(OSError):  # not empty, or filled just now
                    self._files.remove_folder(path)
                    removed += 1
            elif is_temporary(name):
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
        with reported("read", path):
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


def _may_hold(folder: str, prefix: str, start_after: str) -> bool:
    """Return whether a key of that folder can be wanted."""
    if not (folder.startswith(prefix) or prefix.startswith(folder)):
        return False
    return folder > start_after or start_after.startswith(folder)
