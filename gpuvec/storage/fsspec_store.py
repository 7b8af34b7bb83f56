"""Objects as files of any file system that fsspec knows and obstore does not serve.

Reading needs `info`, `ls` and `cat_file` alone. Writing needs more than fsspec promises, and goes
through the few kinds in `gpuvec.storage.fsspec_writes`; any other is read, and never written to.

What an error means differs by file system. So it is not taken from its class alone: whether a file
is there is asked anew. A request that fails for another reason is sent again through a new
connection, `TRIES` times in all, with growing pauses. It may then meet its own first try: what a
key holds is only known by reading it, as the procedures do.

File systems are not safe for several threads, and connections break: each request takes one of a
few, and gives it back if it answered.
"""

import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

from gpuvec import errors
from gpuvec.storage.cache import Write
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.fsspec_writes import NEW, Writing
from gpuvec.storage.keys import check_key, check_prefix, is_key
from gpuvec.storage.network import NetworkStore
from gpuvec.storage.object_store import Buffer

CONNECTIONS = 4
TRIES = 4
_PAUSE_S = 0.2
_PART_BYTES = 16 << 20
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)
_DENIED = ("PermissionError", "AuthenticationException", "BadAuthenticationType")
_FINAL = (PermissionError, NotImplementedError, TypeError, ImportError)
_NEVER = (AssertionError, MemoryError, errors.GpuvecError)

T = TypeVar("T")


class FsspecStore(NetworkStore):
    """See `NetworkStore`.

    Args:
        connect: makes a file system, each with a connection of its own.
        root: path of the database in it; "" for paths that begin with no slash.
        where: its URL, for messages, without secrets.
        writing: how to write; None: this file system is only read.
    """

    def __init__(
        self, connect: Callable[[], Any], root: str, where: str, *, writing: Writing | None
    ) -> None:
        super().__init__(where, identity=where)
        self._connect = connect
        self._root = root.rstrip("/") or root
        self._at = f"{root.rstrip('/')}/" if root else ""
        self._writing = writing
        self._free: list[Any] = []  # file systems that nobody uses now
        self._room = threading.Semaphore(CONNECTIONS)

    def close(self) -> None:
        """Let go of connections that are not used now."""
        self._free.clear()

    def fetch(self, key: str, length: int, write: Write) -> None:
        """See `Fetching.fetch`: one part after the other."""
        self._check_length(check_key(key), length)
        for start in range(0, length, _PART_BYTES):
            write(start, self.get_range(key, start, min(_PART_BYTES, length - start)))

    def _whole(self, key: str) -> bytes:
        found = self._ask("read", key, lambda system: _read(system, self._at + key))
        if found is None:
            raise errors.missing_object(self._path(key))
        return found

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`. A range that came in another length is looked into."""
        check_key(key)
        end = start + length

        path = self._at + key
        found = self._ask("read", key, lambda s: _read(s, path, start, end)) if length else b""
        if not length or found is None or len(found) != length:
            self._check_length(key, end)
        if found is None or len(found) != length:
            cause = f"{length:,} bytes were asked for, {len(found or b''):,} came"
            raise errors.store_failed("read", self._path(key), cause, attempts=1)
        return found

    def size(self, key: str) -> int | None:
        """See `ObjectStore.size`."""
        path = self._at + check_key(key)
        return self._ask("look at", key, lambda system: _size(system, path))

    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`.

        Raises:
            StorageError: `GV-531`, this file system is only read; `GV-532`, `GV-533`.
        """
        self._ahead.forget()
        path, writing = self._at + check_key(key), self._writable()
        views = [as_bytes(part) for part in parts]

        def write(system: Any) -> bool:
            writing.replace(system, self._root, path, views)
            return True

        if not self._ask("write", key, write):
            raise self._no_folder("write", key)

    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`.

        Raises:
            StorageError: `GV-531`, this file system is only read; `GV-532`, `GV-533`.
        """
        if not data:
            raise AssertionError(f"{key}: an empty object cannot be created")
        self._ahead.forget()
        path, writing = self._at + check_key(key), self._writable()
        made = self._ask(
            "create", key, lambda system: writing.create(system, self._root, path, data)
        )
        if made is None:
            raise self._no_folder("create", key)
        return made

    def _listed(self, prefix: str, start_after: str) -> list[str]:
        folder = check_prefix(prefix).rpartition("/")[0]
        found = self._ask(
            "list", prefix, lambda system: list(self._below(system, folder, prefix, start_after))
        )
        return sorted(found or [])

    def _below(self, system: Any, folder: str, prefix: str, start_after: str) -> Iterator[str]:
        """Yield keys of a folder and of those below it, but for folders without a wanted key."""
        before = f"{folder}/" if folder else ""
        for name, is_folder in self._entries(system, folder):
            key = before + name
            if not is_key(key):
                continue
            if not is_folder:
                if key.startswith(prefix) and key > start_after:
                    yield key
                continue
            inside = f"{key}/"
            if not (inside.startswith(prefix) or prefix.startswith(inside)):
                continue
            if inside > start_after or start_after.startswith(inside):
                yield from self._below(system, key, prefix, start_after)

    def _entries(self, system: Any, folder: str) -> list[tuple[str, bool]]:
        """Return the names in a folder, and whether they are folders; none where it is missing."""
        path = f"{self._at}{folder}" if folder else self._root
        system.invalidate_cache()
        try:
            entries = system.ls(path, detail=True)
        except _MISSING:
            return []
        own = path.strip("/")
        return [
            (str(entry["name"]).rstrip("/").rpartition("/")[2], entry["type"] == "directory")
            for entry in entries
            if str(entry["name"]).strip("/") != own
        ]

    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""
        self._ahead.forget()
        wanted = sorted({check_key(key) for key in keys})
        if wanted:
            self._writable()
        for key in wanted:
            self._ask("delete", key, partial(_delete, path=self._at + key))

    def peek(self) -> Sequence[str]:
        """Return the names at the top, whoever wrote them."""
        found = self._ask("list", "", lambda system: self._entries(system, ""))
        return sorted(name for name, _ in found or [])

    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below one."""
        folder = check_key(prefix)
        found = self._ask("list", prefix, lambda system: self._entries(system, folder))
        return sorted(name for name, is_folder in found or [] if is_folder)

    def sweep(self, older_than_s: float) -> int:
        """Remove what writers that died left in the folder `NEW`; return how many.

        Call it only where others write for less than an hour at one object. `older_than_s` counts
        seconds since 1970, by the clock of the server.
        """

        def remove(system: Any) -> int:
            if not system.isdir(folder):
                return 0
            known = [entry for entry in system.ls(folder, detail=True) if "mtime" in entry]
            old = [e["name"] for e in known if e["mtime"].timestamp() < older_than_s]
            for path in old:
                _delete(system, path)
            return len(old)

        folder = self._at + NEW
        return (self._ask("sweep", NEW, remove) or 0) if self._writing is not None else 0

    def _writable(self) -> Writing:
        if self._writing is None:
            tried = "to find a way to create a file in one step, through this fsspec file system"
            raise errors.store_unsafe(self._where, tried, "none that gpuvec knows")
        return self._writing

    def _no_folder(self, action: str, key: str) -> errors.StorageError:
        cause = "a folder on the way is missing, or is a file"
        return errors.store_failed(action, self._path(key), cause, attempts=1)

    def _check_length(self, key: str, wanted: int) -> None:
        size = self.size(key)
        if size is None:
            raise errors.missing_object(self._path(key))
        if size < wanted:
            raise errors.object_too_short(self._path(key), wanted=wanted, got=size)

    def _ask(self, action: str, key: str, request: Callable[[Any], T]) -> T | None:
        """Return what a file system answers to a request; None: there is no such file."""
        path = self._path(key)
        for attempt in range(1, TRIES + 1):
            try:
                return self._answer(request)
            except _NEVER:
                raise
            except _MISSING:
                return None
            except Exception as error:  # each file system has classes of its own
                cause = f"{type(error).__name__}: {error}"[:500]
                if any(kind.__name__ in _DENIED for kind in type(error).__mro__):
                    raise errors.store_access_denied(action, path, cause) from error
                if attempt == TRIES or isinstance(error, _FINAL):
                    raise errors.store_failed(action, path, cause, attempts=attempt) from error
            time.sleep(_PAUSE_S * 3 ** (attempt - 1) * random.uniform(0.5, 1.0))
        raise AssertionError("the last attempt returns or raises")

    def _answer(self, request: Callable[[Any], T]) -> T:
        with self._room:
            try:
                system = self._free.pop()
            except IndexError:
                system = self._connected()
            try:
                found = request(system)
            except (*_NEVER, *_MISSING):
                self._free.append(system)
                raise
            self._free.append(system)
            return found

    def _connected(self) -> Any:
        try:
            return self._connect()
        except _MISSING as error:  # a file with keys, say, and no object
            raise ConnectionError(str(error)) from error


def _size(system: Any, path: str) -> int | None:
    """Return the length of a file; None: there is none."""
    try:
        found = system.info(path)
    except _MISSING:
        return None
    return None if found["type"] == "directory" else int(found["size"])


def _read(system: Any, path: str, start: int = 0, end: int | None = None) -> bytes | None:
    """Return the bytes of a file; None: there are none at that place."""
    try:
        part = {} if end is None else {"start": start, "end": end}
        return bytes(system.cat_file(path, **part))
    except Exception:  # whatever the file system says of a file or a range that is not there
        size = _size(system, path)
        if size is None or size < (end or 0):
            return None
        raise


def _delete(system: Any, path: str) -> None:
    """Delete a file, if there is one."""
    try:
        system.rm_file(path)
    except Exception:  # whatever the file system says of a file that is not there
        if _size(system, path) is not None:
            raise
