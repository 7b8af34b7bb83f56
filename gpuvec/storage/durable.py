"""Files that appear whole, and logs, on a local disk: what was acknowledged survives a power cut.

A file appears whole or not at all:

1. make the folder, and sync the folders above it (once in a process);
2. write a temporary file in the same folder;
3. sync the file;
4. give it its name: `link` where it must be new, `rename` where it may replace;
5. remove the temporary name (after `link`);
6. sync the folder.

| died after step | left behind | what a reader sees |
|---|---|---|
| 1 | an empty folder | nothing new |
| 2, 3 | a temporary file, which no listing shows and a sweep removes | nothing new |
| 4, 5 | the file, perhaps not yet durable; perhaps its temporary name | all of the file |
| 6 | nothing | the file, for good: only now the call returns |

A log grows by one write and one sync of data for each `append`. A log on which either failed is
never appended to again: what the disk holds of it is unknown, and a second sync may claim success
for lost pages.
"""

import errno
import os
import re
import secrets
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

from gpuvec import errors
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.object_store import Buffer
from gpuvec.storage.system import System

_TEMPORARY = re.compile(r"\.[0-9a-f]{16}\.tmp")
_WRITE_BYTES = 64 << 20  # one call; Linux ends at 2 GiB
_TRIES = 10  # to write into a folder that a sweep may remove at the same time
_NOT_FOR_US = (errno.EACCES, errno.EPERM, errno.EINVAL, errno.EROFS)  # to sync, above the root


def is_temporary(name: str) -> bool:
    """Return whether a file is a temporary one, by its name."""
    return _TEMPORARY.fullmatch(name) is not None


class DurableFolder:
    """Writes files below one folder. Paths are absolute; `OSError`s leave as they come.

    Args:
        root: made, with what is missing above it, by the first write; never again by a later one,
            which would begin an empty store where the other was moved away.
        durable: False leaves out every sync.
        system: see `System`.
    """

    def __init__(self, root: str, *, durable: bool, system: System) -> None:
        self._root = root
        self._durable = durable
        self._system = system
        self._made: set[str] = set()  # folders whose names are known to be durable
        self._rooted = False  # whether the root was there

    def replace(self, path: str, parts: Sequence[Buffer]) -> None:
        """Write a file, in the place of any other of that name."""
        with self._temporary(path, parts) as temporary:
            self._system.rename(temporary, path)  # 4
            self.sync_folder(os.path.dirname(path))  # 6

    def create(self, path: str, data: Buffer) -> bool:
        """Write a file if none has that name; when False, the other is durable."""
        with self._temporary(path, [data]) as temporary:
            try:
                self._system.link(temporary, path)  # 4
            except FileExistsError:
                created = False
            else:
                created = True
            self._system.unlink(temporary)  # 5
            self.sync_folder(os.path.dirname(path))  # 6
        return created

    def log(self, path: str) -> "DurableLog":
        """Return a log that does not yet touch its file."""
        return DurableLog(self, path, self._system)

    @contextmanager
    def _temporary(self, path: str, parts: Sequence[Buffer]) -> Iterator[str]:
        """Steps 1 to 3; a temporary file that was not given a name is gone afterwards."""
        folder = os.path.dirname(path)
        temporary = os.path.join(folder, f".{secrets.token_hex(8)}.tmp")
        fd = self.open_new(temporary, os.O_EXCL)
        try:
            try:
                self.write(fd, parts)  # 2
                if self._durable:
                    self._system.fsync(fd)  # 3
            finally:
                self._system.close(fd)
            yield temporary
        except BaseException:
            with suppress(OSError):
                self._system.unlink(temporary)
            raise

    def open_new(self, path: str, flags: int) -> int:
        """Open a file for writing, made together with its folder."""
        flags |= os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
        folder = os.path.dirname(path)
        for attempt in range(_TRIES):
            try:
                self.make_folder(folder)  # 1
                return self._system.open(path, flags, 0o666)
            except FileNotFoundError:  # swept away in between
                self._made.clear()
                if attempt == _TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    def write(self, fd: int, parts: Sequence[Buffer]) -> None:
        """Write all parts, in as many calls as it takes."""
        for part in parts:
            rest = as_bytes(part)
            while rest:
                rest = rest[self._system.write(fd, rest[:_WRITE_BYTES]) :]

    def remove_folder(self, folder: str) -> None:
        """Remove an empty folder; the next write makes it again."""
        self._made.discard(folder)
        self._system.rmdir(folder)

    def make_folder(self, folder: str) -> None:
        """Make a folder, and make its name and those above durable, whoever made them."""
        parent = os.path.dirname(folder)
        if folder in self._made or folder == parent:
            return
        if self._rooted and len(folder) <= len(self._root):
            return
        self.make_folder(parent)
        is_new = True
        try:
            self._system.mkdir(folder)
        except FileExistsError:
            is_new = False
        try:
            self.sync_folder(parent)
        except OSError as error:
            is_ours = is_new or folder.startswith(os.path.join(self._root, ""))
            if is_ours or error.errno not in _NOT_FOR_US:
                raise
        self._made.add(folder)
        self._rooted = self._rooted or folder == self._root

    def sync_data(self, fd: int) -> None:
        """Make the bytes of an open file durable."""
        if self._durable:
            self._system.fdatasync(fd)

    def sync_folder(self, folder: str) -> None:
        """Make the names in a folder durable."""
        if not self._durable:
            return
        fd = self._system.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._system.fsync(fd)
        finally:
            self._system.close(fd)


class DurableLog:
    """A file that grows at its end. Safe for use by several threads.

    After a failed append, no other is possible.
    """

    def __init__(self, folder: DurableFolder, path: str, system: System) -> None:
        self._folder = folder
        self._path = path
        self._system = system
        self._lock = threading.Lock()
        self._fd = -1
        self._failed = False

    def append(self, data: Buffer) -> None:
        """Write at the end; durable on return. `StorageError` GV-507 after a failure."""
        with self._lock:
            if self._failed:
                raise errors.log_failed_before(self._path)
            try:
                self._append(data)
            except BaseException:
                self._failed = True
                raise

    def close(self) -> None:
        """Close the file; the next append opens it again."""
        with self._lock:
            if self._fd >= 0:
                self._system.close(self._fd)
            self._fd = -1

    def _append(self, data: Buffer) -> None:
        is_new = self._fd < 0
        if is_new:
            self._fd = self._folder.open_new(self._path, os.O_APPEND)
        self._folder.write(self._fd, [data])
        self._folder.sync_data(self._fd)
        if is_new:
            self._folder.sync_folder(os.path.dirname(self._path))


@contextmanager
def reported(action: str, path: str) -> Iterator[None]:
    """Turn the system's refusals into `StorageError`s that say what was tried on which path."""
    try:
        yield
    except errors.StorageError:
        raise
    except OSError as error:
        if error.errno == errno.EISDIR:
            raise errors.missing_object(path) from error
        raise errors.storage_failed(action, path, error) from error
