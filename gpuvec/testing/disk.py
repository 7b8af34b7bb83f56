"""A disk that loses power: a model of POSIX on which the real `LocalStore` runs.

What no sync has made durable may survive or not. For a file: all, none or a part of the bytes
written since its last sync, or their length with zeros in them. For a folder: any part of the names
given and taken since its last sync. A file's sync does not save its name; a folder's does not save
what its files hold. After a failed sync the bytes are lost for good, and the next sync claims
success, as Linux does.
"""

import errno
import os
import random
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any


class PowerCut(BaseException):
    """The machine is off; nothing of the process may run on."""


@dataclass(eq=False, slots=True)
class _File:
    """`pending` are the writes since the last sync; `durable` is what surely survives."""

    live: bytearray = field(default_factory=bytearray)
    durable: bytearray = field(default_factory=bytearray)
    pending: list[tuple[int, bytes]] = field(default_factory=list)

    def write(self, data: bytes) -> None:
        self.pending.append((len(self.live), data))
        self.live += data

    def sync(self) -> None:
        self._apply(self.durable, self.pending)
        self.pending.clear()

    def lose_pending(self) -> None:
        self.pending.clear()

    def survive(self, mode: str, chance: random.Random) -> None:
        kept = []
        for at, data in self.pending:
            how = chance.choice(("all", "none", "half", "zeros")) if mode == "random" else mode
            if how != "none":
                part = data[: len(data) // 2] if how == "half" else data
                kept.append((at, bytes(len(part)) if how == "zeros" else part))
        self._apply(self.durable, kept)
        self.pending.clear()
        self.live = bytearray(self.durable)

    @staticmethod
    def _apply(content: bytearray, writes: Iterable[tuple[int, bytes]]) -> None:
        for at, data in writes:
            content.extend(bytes(max(0, at + len(data) - len(content))))
            content[at : at + len(data)] = data


@dataclass(eq=False, slots=True)
class _Folder:
    """`pending` are the changes of names since the last sync; None takes a name away."""

    live: dict[str, "_File | _Folder"] = field(default_factory=dict)
    durable: dict[str, "_File | _Folder"] = field(default_factory=dict)
    pending: list[dict[str, "_File | _Folder | None"]] = field(default_factory=list)

    def change(self, names: dict[str, "_File | _Folder | None"]) -> None:
        self.pending.append(names)
        self._apply(self.live, [names])

    def sync(self) -> None:
        self.durable = dict(self.live)
        self.pending.clear()

    def survive(self, mode: str, chance: random.Random) -> None:
        kept = self.pending
        if mode == "random":
            kept = [change for change in kept if chance.random() < 0.5]
        elif mode == "none":
            kept = []
        self._apply(self.durable, kept)
        self.pending = []
        self.live = dict(self.durable)

    @staticmethod
    def _apply(
        names: dict[str, "_File | _Folder"],
        changes: Iterable[dict[str, "_File | _Folder | None"]],
    ) -> None:
        for change in changes:
            for name, node in change.items():
                if node is None:
                    names.pop(name, None)
                else:
                    names[name] = node


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    folder: bool

    def is_dir(self) -> bool:
        return self.folder


@dataclass(frozen=True, slots=True)
class _Status:
    st_mode: int
    st_size: int
    st_mtime: float = 0.0


class ModelDisk:
    """A `gpuvec.storage.system.System` over a disk in memory. For one thread.

    Args:
        cut_at: power is lost before the call of that number (from 0) that changes something.
        failures: the error number with which the call of that number fails.
        write_bytes: the most that one write takes, so that long writes have a middle.
        ignored: names of calls that claim success and do nothing: a disk that lies.

    Attributes:
        calls: the calls so far that change something or sync.
    """

    def __init__(
        self,
        *,
        cut_at: int | None = None,
        failures: Mapping[int, int] | None = None,
        write_bytes: int = 1 << 30,
        ignored: Iterable[str] = (),
    ) -> None:
        self._root = _Folder()
        self._cut_at = cut_at
        self._failures = dict(failures or {})
        self._write_bytes = write_bytes
        self._ignored = frozenset(ignored)
        self._open: dict[int, _File | _Folder] = {}
        self._next_fd = 100
        self.calls: list[str] = []

    def after_power_cut(self, names: str, bytes_: str, seed: int = 0) -> "ModelDisk":
        """Return a disk as the machine may find it afterwards.

        Args:
            names: what survives of unsynced names: "all", "none" or "random".
            bytes_: of unsynced bytes: "all", "none", "half", "zeros" or "random".
            seed: of what is random.
        """
        chance = random.Random(seed)
        disk = ModelDisk()
        disk._root = deepcopy(self._root)
        pending: list[_File | _Folder] = [disk._root]
        seen: set[int] = set()
        while pending:
            node = pending.pop()
            if id(node) in seen:
                continue
            seen.add(id(node))
            if isinstance(node, _Folder):
                node.survive(names, chance)
                pending += node.live.values()
            else:
                node.survive(bytes_, chance)
        return disk

    def after_kill(self, cut_at: int | None = None) -> "ModelDisk":
        """Return the disk as the next process finds it when only this one died.

        Nothing is lost, nothing became durable. The two disks share what they hold.
        """
        disk = ModelDisk(cut_at=cut_at, write_bytes=self._write_bytes, ignored=self._ignored)
        disk._root = self._root
        return disk

    def open(self, path: str, flags: int, mode: int = 0o777) -> int:
        """See `os.open`."""
        del mode
        self._check_power()
        folder, name = self._parent(path)
        node: _File | _Folder | None = folder if not name else folder.live.get(name)
        if node is None:
            if not flags & os.O_CREAT:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            node = _File()
            self._step("create", lambda: folder.change({name: node}))
        elif flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        if flags & os.O_DIRECTORY and isinstance(node, _File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        self._next_fd += 1
        self._open[self._next_fd] = node
        return self._next_fd

    def close(self, fd: int) -> None:
        """See `os.close`."""
        self._check_power()
        del self._open[fd]

    def write(self, fd: int, data: Any) -> int:
        """See `os.write`; always at the end of the file."""
        file = self._file(fd)
        piece = bytes(data[: self._write_bytes])
        self._step("write", lambda: file.write(piece))
        return len(piece)

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See `os.pread`."""
        return bytes(self._file(fd).live[offset : offset + length])

    def fstat(self, fd: int) -> _Status:
        """See `os.fstat`."""
        return _status(self._open[fd])

    def fsync(self, fd: int) -> None:
        """See `os.fsync`."""
        node = self._open[fd]
        is_folder = isinstance(node, _Folder)
        failed = node.lose_pending if isinstance(node, _File) else lambda: None
        self._step("fsync folder" if is_folder else "fsync", node.sync, failed)

    def fdatasync(self, fd: int) -> None:
        """See `os.fdatasync`."""
        file = self._file(fd)
        self._step("fdatasync", file.sync, file.lose_pending)

    def link(self, source: str, target: str) -> None:
        """See `os.link`."""
        node = self._node(source)
        folder, name = self._parent(target)
        if name in folder.live:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), target)
        self._step("link", lambda: folder.change({name: node}))

    def rename(self, source: str, target: str) -> None:
        """See `os.rename`; within one folder."""
        node = self._node(source)
        folder, old = self._parent(source)
        new = self._parent(target)[1]
        self._step("rename", lambda: folder.change({old: None, new: node}))

    def unlink(self, path: str) -> None:
        """See `os.unlink`."""
        self._node(path)
        folder, name = self._parent(path)
        self._step("unlink", lambda: folder.change({name: None}))

    def mkdir(self, path: str) -> None:
        """See `os.mkdir`."""
        self._check_power()
        folder, name = self._parent(path)
        if name in folder.live:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), path)
        self._step("mkdir", lambda: folder.change({name: _Folder()}))

    def rmdir(self, path: str) -> None:
        """See `os.rmdir`."""
        node = self._node(path)
        if isinstance(node, _File) or node.live:
            raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY), path)
        folder, name = self._parent(path)
        self._step("rmdir", lambda: folder.change({name: None}))

    def stat(self, path: str) -> _Status:
        """See `os.stat`."""
        return _status(self._node(path))

    @contextmanager
    def scandir(self, path: str) -> Iterator[Iterator[_Entry]]:
        """See `os.scandir`."""
        node = self._node(path)
        if isinstance(node, _File):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
        yield iter([_Entry(name, isinstance(n, _Folder)) for name, n in node.live.items()])

    def _check_power(self) -> None:
        if self._cut_at is not None and len(self.calls) > self._cut_at:
            raise PowerCut

    def _step(
        self, name: str, effect: Callable[[], None], failed: Callable[[], None] = lambda: None
    ) -> None:
        number = len(self.calls)
        self.calls.append(name)
        if self._cut_at is not None and number >= self._cut_at:
            raise PowerCut
        if number in self._failures:
            failed()
            raise OSError(self._failures[number], os.strerror(self._failures[number]))
        if name not in self._ignored:
            effect()

    def _parent(self, path: str) -> tuple[_Folder, str]:
        *folders, name = [part for part in path.split("/") if part] or [""]
        node = self._root
        for part in folders:
            child = node.live.get(part)
            if child is None:
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
            if isinstance(child, _File):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), path)
            node = child
        return node, name

    def _node(self, path: str) -> _File | _Folder:
        self._check_power()
        folder, name = self._parent(path)
        node = folder.live.get(name) if name else folder
        if node is None:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path)
        return node

    def _file(self, fd: int) -> _File:
        self._check_power()
        node = self._open[fd]
        if isinstance(node, _Folder):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        return node


def _status(node: _File | _Folder) -> _Status:
    if isinstance(node, _Folder):
        return _Status(stat.S_IFDIR, 0)
    return _Status(stat.S_IFREG, len(node.live))
