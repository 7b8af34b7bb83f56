"""Files of a bucket on the local disk: each whole, verified, and within a budget of bytes.

    <folder>/<2 digits>/<32 digits>           a file; the name stands for what is in it
    <folder>/<2 digits>/<32 digits>.part      one being filled, locked by who fills it
    <folder>/quarantine/<32 digits>           one whose bytes changed on this disk

Filling, by one thread of one process for each name:

1. make room: delete the files that were used longest ago, but none that this process has mapped;
   what another has mapped stays readable, and takes room until it lets go
2. open the part, lock it; it must still be the file of that name: who waited may find it done
3. write the part; compare length and checksum
4. rename it

| died after | left behind | cured by |
|---|---|---|
| 2, 3 | a part that nobody locks | the next filling of that name; the next scan deletes it |
| 4 | nothing | |

Nothing is synced: after a power cut a file may hold anything, and so its checksum is compared at
its first use in each process. One that differs is put aside, counted, and fetched again. A disk
that is full or cannot be written is no error: files are then read without it, with one warning.
"""

import fcntl
import os
import threading
import time
import warnings
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec import telemetry
from gpuvec.errors import CacheWarning, StorageError, cache_unusable
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.mapping import map_file, map_open, memory_of

DEFAULT_SHARE = 0.1  # of what is free on the disk, and what the cache holds of it
MOST_BYTES = 100 << 30  # by default
RESERVE_BYTES = 256 << 20  # of the disk that stay free
_PART = ".part"
_QUARANTINE = "quarantine"
_SCAN_SHARE = 16  # a scan follows when so small a part of the budget was filled: others fill too
_TOUCH_S = 60.0  # the time of last use is kept to this

Write = Callable[[int, Any], None]  # offset, bytes
Fetch = Callable[[Write], None]  # writes the whole file, in parts, perhaps by several threads


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheCounts:
    """What a cache did in this process.

    Attributes:
        hits: files found, whole.
        misses: files that were fetched.
        fetched_bytes: of them.
        evictions: files deleted to make room.
        quarantined: files whose bytes had changed on this disk.
        refused: files that were not kept: too large, or the disk full or not writable.
    """

    hits: int = 0
    misses: int = 0
    fetched_bytes: int = 0
    evictions: int = 0
    quarantined: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class _Found:
    """A file seen by a scan; those that sort first are deleted first."""

    is_wanted: bool  # False: put aside
    used_ns: int
    path: str
    size: int


class DirectoryCache:
    """Safe for use by several threads and processes.

    Args:
        folder: made when it is first needed.
        size_bytes: of all files together, for all processes that name the same; each process
            checks it after its own fillings, so that n of them may exceed it by n / 16.
    """

    def __init__(self, folder: Path, size_bytes: int) -> None:
        self.folder = str(folder)
        self.size_bytes = size_bytes
        self._lock = threading.Lock()  # guards what follows
        self._counts = CacheCounts()
        self._held = 0  # as of the last scan, and since
        self._unscanned: int | None = None  # filled since the last scan; None: none was made
        self._verified: dict[str, int] = {}  # name: inode
        self._touched: dict[str, float] = {}  # name: when its time of use was written
        self._mapped: weakref.WeakValueDictionary[str, Any] = weakref.WeakValueDictionary()
        self._has_warned = False
        telemetry.METERS.watch(self, lambda c: [telemetry.MEMORY_BYTES.at(c._held, "disk")])

    @property
    def counts(self) -> CacheCounts:
        """What happened so far."""
        return self._counts

    @property
    def held_bytes(self) -> int:
        """Bytes of all files, as far as this process knows."""
        with self._lock:
            self._scan_once()
            return self._held

    def find(self, name: str, length: int, checksum: int) -> NDArray[np.uint8] | None:
        """Return a file that is there, mapped, (length,) uint8; None when it is not.

        Args:
            name: letters and digits that stand for the content.
            length: of the content, at least 1.
            checksum: its CRC-32C, compared at the first use in this process.
        """
        path = self._path(name)
        memory = self._mapped.get(name)
        if memory is not None and name in self._verified:
            found = np.frombuffer(memory, np.uint8)
            found.flags.writeable = False
        else:
            opened = self._open(name, path, length, checksum)
            if opened is None:
                return None
            found = opened
        now = time.monotonic()
        if now - self._touched.get(name, -_TOUCH_S) >= _TOUCH_S:
            self._touched[name] = now
            with suppress(OSError):
                os.utime(path)
        self._count(hits=1)
        return found

    def _open(self, name: str, path: str, length: int, checksum: int) -> NDArray[np.uint8] | None:
        """Map a file, and compare it at its first use."""
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return None
        try:
            inode = os.fstat(descriptor).st_ino
            found = map_open(descriptor, path)
        except OSError:
            return None
        finally:
            os.close(descriptor)
        if self._verified.get(name) != inode or found.size != length:
            if found.size != length or crc32c([found]) != checksum:
                self._put_aside(name, path)
                return None
            self._verified[name] = inode
        self._mapped[name] = memory_of(found)
        return found

    def fill(self, name: str, length: int, checksum: int, fetch: Fetch) -> NDArray[np.uint8] | None:
        """Return a file, fetched if it is not there; None when it cannot be kept.

        Raises:
            ChangedError: what `fetch` wrote has another checksum.
        """
        found = self.find(name, length, checksum)
        if found is not None:
            return found
        with self._lock:
            refusal = self._make_room(length)  # 1
        if refusal:
            self._refuse(refusal)
            return None
        try:
            with self._part(name) as part:  # 2
                found = self.find(name, length, checksum)
                if found is not None:
                    return found
                self._write(part, name, length, checksum, fetch)  # 3, 4
        except StorageError:
            raise
        except OSError as error:
            self._refuse(error.strerror or str(error))
            return None
        self._count(misses=1, fetched_bytes=length)
        return self.find(name, length, checksum)

    def _write(self, part: int, name: str, length: int, checksum: int, fetch: Fetch) -> None:
        os.ftruncate(part, length)

        def write(offset: int, data: Any) -> None:
            view = memoryview(data).cast("B")
            while len(view):
                done = os.pwrite(part, view, offset)
                view, offset = view[done:], offset + done

        fetch(write)
        path = self._path(name)
        mapped = map_file(Path(path + _PART))
        got = crc32c([mapped])
        if mapped.size != length or got != checksum:
            raise ChangedError(got)
        os.rename(path + _PART, path)
        with self._lock:
            self._held += length
            self._unscanned = (self._unscanned or 0) + length

    @contextmanager
    def _part(self, name: str) -> Iterator[int]:
        """Yield a locked, empty part of a file; it is deleted at the end, unless it was renamed."""
        path = self._path(name) + _PART
        os.makedirs(os.path.dirname(path), exist_ok=True)
        while True:
            part = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(part, fcntl.LOCK_EX)
                if _is_file(part, path):
                    break
            except BaseException:
                os.close(part)
                raise
            os.close(part)  # whoever held it is done
        try:
            os.ftruncate(part, 0)
            yield part
        finally:
            if _is_file(part, path):
                with suppress(OSError):
                    os.unlink(path)
            os.close(part)

    def _path(self, name: str) -> str:
        return os.path.join(self.folder, name[:2], name)

    def _put_aside(self, name: str, path: str) -> None:
        self._verified.pop(name, None)
        folder = os.path.join(self.folder, _QUARANTINE)
        with suppress(OSError):
            os.makedirs(folder, exist_ok=True)
            os.rename(path, os.path.join(folder, name))
        self._count(quarantined=1)

    # Room; under the lock

    def _make_room(self, length: int) -> str:
        """Delete files until another fits; return why it does not, "" if it does."""
        if length > self.size_bytes:
            return f"a file of {length:,} bytes is larger than all of it, {self.size_bytes:,} bytes"
        self._scan_once()
        if (self._unscanned or 0) * _SCAN_SHARE > self.size_bytes or not self._fits(length):
            for file in sorted(self._scan(), key=_first_to_go):
                if self._fits(length):
                    break
                self._evict(file)
        if not self._fits(length):
            return f"{self._held:,} of its {self.size_bytes:,} bytes are in use"
        return "" if self._disk_has(length) else "the disk is full"

    def _fits(self, length: int) -> bool:
        return self._held + length <= self.size_bytes

    def _evict(self, file: _Found) -> None:
        """Delete a file, unless this process has it mapped: that would free nothing."""
        name = os.path.basename(file.path)
        if file.is_wanted and name in self._mapped:
            return
        with suppress(FileNotFoundError):
            os.unlink(file.path)
        self._verified.pop(name, None)
        self._touched.pop(name, None)
        self._held -= file.size
        if file.is_wanted:
            self._counts = replace(self._counts, evictions=self._counts.evictions + 1)

    def _scan_once(self) -> None:
        if self._unscanned is None:
            self._scan()

    def _scan(self) -> list[_Found]:
        """Return all files, and delete the parts of processes that died."""
        found = []
        for folder in _entries(self.folder):
            if not folder.is_dir():
                continue
            is_wanted = folder.name != _QUARANTINE
            for entry in _entries(folder.path):
                if entry.name.endswith(_PART):
                    _remove_dead(entry.path)
                    continue
                with suppress(OSError):  # another process deleted it
                    known = entry.stat()
                    found.append(_Found(is_wanted, known.st_mtime_ns, entry.path, known.st_size))
        self._held = sum(file.size for file in found)
        self._unscanned = 0
        return found

    def _disk_has(self, length: int) -> bool:
        here = self.folder
        while not os.path.exists(here) and os.path.dirname(here) != here:
            here = os.path.dirname(here)
        return free_bytes(here) - length >= RESERVE_BYTES

    # What happened

    def _count(self, **more: int) -> None:
        with self._lock:
            now = {name: getattr(self._counts, name) + number for name, number in more.items()}
            self._counts = replace(self._counts, **now)

    def _refuse(self, cause: str) -> None:
        self._count(refused=1)
        with self._lock:
            is_first, self._has_warned = not self._has_warned, True
        if is_first:
            warnings.warn(cache_unusable(self.folder, cause), CacheWarning, stacklevel=2)


class ChangedError(Exception):
    """What was fetched has another checksum than its file should have."""

    def __init__(self, got: int) -> None:
        super().__init__(f"{got:08x}")
        self.got = got


def free_bytes(folder: str) -> int:
    """Return the bytes that this user may still write to a folder's disk."""
    disk = os.statvfs(folder)
    return disk.f_bavail * disk.f_frsize


def _first_to_go(file: _Found) -> tuple[bool, int]:
    return file.is_wanted, file.used_ns


def _is_file(descriptor: int, path: str) -> bool:
    """Return whether a path still names an open file."""
    try:
        named = os.stat(path)
    except OSError:
        return False
    opened = os.fstat(descriptor)
    return (named.st_ino, named.st_dev) == (opened.st_ino, opened.st_dev)


def _remove_dead(path: str) -> None:
    """Delete a part that nobody is filling."""
    with suppress(OSError):
        part = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            fcntl.flock(part, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if _is_file(part, path):
                os.unlink(path)
        finally:
            os.close(part)


def _entries(folder: str) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError:
        return []
