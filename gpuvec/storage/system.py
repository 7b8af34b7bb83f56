"""The calls that a local store makes of the operating system; the module `os` is one on Linux.

A test passes another: a model of a disk that loses power, or that fails on schedule.
"""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Any, Protocol, cast


class Entry(Protocol):
    """A name in a folder, as `os.scandir` yields it."""

    @property
    def name(self) -> str:
        """The last component of the path."""

    def is_dir(self) -> bool:
        """Return whether it is a folder."""


class System(Protocol):
    """A part of `os`: same names, arguments, results and `OSError`s."""

    def open(self, path: str, flags: int, mode: int = ...) -> int:
        """See `os.open`."""

    def close(self, fd: int) -> None:
        """See `os.close`."""

    def write(self, fd: int, data: Any) -> int:
        """See `os.write`."""

    def pread(self, fd: int, length: int, offset: int) -> bytes:
        """See `os.pread`."""

    def fstat(self, fd: int) -> Any:
        """See `os.fstat`; `st_size` is used."""

    def fsync(self, fd: int) -> None:
        """See `os.fsync`."""

    def fdatasync(self, fd: int) -> None:
        """See `os.fdatasync`."""

    def link(self, source: str, target: str) -> None:
        """See `os.link`."""

    def rename(self, source: str, target: str) -> None:
        """See `os.rename`."""

    def unlink(self, path: str) -> None:
        """See `os.unlink`."""

    def mkdir(self, path: str) -> None:
        """See `os.mkdir`."""

    def rmdir(self, path: str) -> None:
        """See `os.rmdir`."""

    def stat(self, path: str) -> Any:
        """See `os.stat`; `st_mode`, `st_size` and `st_mtime` are used."""

    def scandir(self, path: str) -> AbstractContextManager[Iterator[Entry]]:
        """See `os.scandir`."""


class FullSync:
    """`os` for macOS, which has no `fdatasync`, and whose `fsync` leaves data in the disk's cache.

    The rest is looked up in `os`.
    """

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        """Empty the disk's cache too, where the file system can ask for it."""
        try:
            fcntl.fcntl(fd, getattr(fcntl, "F_FULLFSYNC"))  # noqa: B009 - only macOS has the name
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.EINVAL, errno.ENOTTY):
                raise
            os.fsync(fd)

    def fdatasync(self, fd: int) -> None:
        """Do what `fsync` does."""
        self.fsync(fd)


HOST: System = os if hasattr(os, "fdatasync") else cast(System, FullSync())
