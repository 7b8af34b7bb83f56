"""How an object is written through fsspec, so that it appears whole, and is created only once.

fsspec promises neither: its own `mode="create"` looks whether there is a file, and then writes.
Only what is listed here is known to be one step; through any other nothing is written.

| file system | an object is created by |
|---|---|
| memory | `pipe_file`, one at a time: nobody outside this process can write there |
| sftp | a file of another name, renamed; servers refuse to rename onto a file that exists |

SFTP's rename is one step in OpenSSH (a hard link), and replaces the other file in some servers:
`gpuvec.storage.probe` finds these out.
"""

import posixpath
import secrets
import threading
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, Protocol

from gpuvec.storage.object_store import Buffer

NEW = ".new"  # the folder of files that have no name yet
_in_memory = threading.Lock()  # of all that create in fsspec's memory


class Writing(Protocol):
    """Writes through one kind of file system; its errors are those of the file system."""

    def create(self, system: Any, root: str, path: str, data: bytes) -> bool:
        """Write a file in one step; False, and no change, if there is one."""

    def replace(self, system: Any, root: str, path: str, parts: Sequence[Buffer]) -> None:
        """Write a file in one step, in the place of any other."""


class MemoryWriting:
    """See `Writing`."""

    def create(self, system: Any, root: str, path: str, data: bytes) -> bool:
        """See `Writing.create`."""
        with _in_memory:
            if system.exists(path):
                return False
            system.pipe_file(path, data)
            return True

    def replace(self, system: Any, root: str, path: str, parts: Sequence[Buffer]) -> None:
        """See `Writing.replace`."""
        data = b"".join(parts)
        with _in_memory:
            system.pipe_file(path, data)


class SftpWriting:
    """See `Writing`. A writer that dies leaves its file in the folder `NEW`."""

    def create(self, system: Any, root: str, path: str, data: bytes) -> bool:
        """See `Writing.create`."""
        made = self._write(system, root, path, [data])
        try:
            system.ftp.rename(made, path)
        except OSError:  # the protocol has one answer for "exists" and for most else
            with suppress(OSError):
                system.ftp.remove(made)
            if not system.exists(path):
                raise
            return False
        return True

    def replace(self, system: Any, root: str, path: str, parts: Sequence[Buffer]) -> None:
        """See `Writing.replace`."""
        made = self._write(system, root, path, parts)
        system.ftp.posix_rename(made, path)

    def _write(self, system: Any, root: str, path: str, parts: Sequence[Buffer]) -> str:
        """Write a file of a name that nobody knows; return its path."""
        folder = posixpath.join(root, NEW)
        made = posixpath.join(folder, secrets.token_hex(16))
        for needed in (folder, posixpath.dirname(path)):
            make_folder(system, needed)
        with system.ftp.open(made, "wb") as file:
            file.set_pipelined(True)  # answers are checked when it is closed
            for part in parts:
                file.write(part)
        wanted, got = sum(map(len, parts)), int(system.info(made)["size"])
        if got != wanted:
            raise OSError(f"the server holds {got:,} bytes of {wanted:,}")
        return made


WRITINGS: dict[str, Writing] = {
    "memory": MemoryWriting(),
    "sftp": SftpWriting(),
    "ssh": SftpWriting(),
}


def make_folder(system: Any, path: str) -> None:
    """Make a folder and those above it; others may be at it too."""
    if system.isdir(path):
        return
    above = posixpath.dirname(path)
    if above != path:
        make_folder(system, above)
    try:
        system.mkdir(path, create_parents=False)
    except OSError:
        if not system.isdir(path):
            raise
