"""What all stores behind a network have in common: no logs, no locks, reads that look ahead."""

import builtins
from abc import ABC, abstractmethod
from collections.abc import Hashable, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path

from gpuvec.storage.cache import Write
from gpuvec.storage.keys import check_key
from gpuvec.storage.object_store import Buffer
from gpuvec.storage.read_ahead import ReadAhead
from gpuvec.storage.remote_files import RemoteFiles
from gpuvec.storage.stamps import NewestKeys


class NetworkStore(ABC):
    """See `ObjectStore`. Safe for use by several threads.

    Any process may write to it: generations and epochs alone decide, once `probe` has shown that
    the store creates an object once.

    Args:
        where: its URL, for messages.
        identity: the same for two stores of one place, whatever they were opened with.

    Attributes:
        files: reads files that a manifest names through caches; None: there are none.
    """

    appendable = False
    files: RemoteFiles | None = None

    def __init__(self, where: str, *, identity: str) -> None:
        self._where = where
        self.identity = identity
        self._ahead = ReadAhead(self._whole)
        self._newest = NewestKeys(self._listed)

    def close(self) -> None:  # noqa: B027 - most have nothing to do
        """Let go of what can be had again: the store can still be used."""

    def get(self, key: str) -> bytes:
        """See `ObjectStore.get`. What was listed and is read in order is fetched ahead."""
        return self._ahead.get(check_key(key))

    @abstractmethod
    def _whole(self, key: str) -> bytes:
        """Fetch an object."""

    @abstractmethod
    def fetch(self, key: str, length: int, write: Write) -> None:
        """See `Fetching.fetch`."""

    @abstractmethod
    def get_range(self, key: str, start: int, length: int) -> bytes:
        """See `ObjectStore.get_range`."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """See `ObjectStore.size`."""

    @abstractmethod
    def put(self, key: str, parts: Sequence[Buffer]) -> None:
        """See `ObjectStore.put`."""

    @abstractmethod
    def put_if_absent(self, key: str, data: bytes) -> bool:
        """See `ObjectStore.put_if_absent`."""

    def append(self, key: str, data: bytes) -> None:
        """See `ObjectStore.append`: a bug here, since this store has no logs."""
        raise AssertionError(f"{key}: this store has no logs")

    def sync(self, key: str) -> None:
        """See `ObjectStore.sync`: what can be read is durable."""
        check_key(key)

    def list(self, prefix: str, start_after: str = "") -> list[str]:
        """See `ObjectStore.list`. Objects that no store could have written are passed over."""
        keys = self._listed(prefix, start_after)
        self._ahead.note(keys)
        return keys

    @abstractmethod
    def _listed(self, prefix: str, start_after: str) -> builtins.list[str]:
        """List keys."""

    @abstractmethod
    def delete(self, keys: Sequence[str]) -> None:
        """See `ObjectStore.delete`."""

    def stamp(self, folders: Sequence[str], logs: Sequence[str]) -> Hashable:
        """See `ObjectStore.stamp`: the newest numbered key of each folder; logs count for nothing.

        One short listing for each folder, all at once, or what `together` listed.
        """
        return self._newest.of(folders)

    def together(self, folders: Sequence[str]) -> AbstractContextManager[None]:
        """Take the stamps of folders now, at once, for all calls of this thread in the block."""
        return self._newest.together(folders)

    def local_path(self, key: str) -> Path | None:
        """See `ObjectStore.local_path`: always None."""
        check_key(key)
        return None

    def lock(self, key: str) -> AbstractContextManager[None]:
        """Return a lock that holds nobody off: here generations and epochs alone decide."""
        check_key(key)
        return nullcontext()

    @abstractmethod
    def peek(self) -> Sequence[str]:
        """Return some names at the top, whoever wrote them."""

    @abstractmethod
    def folders(self, prefix: str) -> Sequence[str]:
        """Return the names of the folders directly below one."""

    def _path(self, key: str) -> str:
        return f"{self._where}/{key}"
