"""Dropped collections, whose files stay for as long as this process reads them."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from gpuvec.storage import keys
from gpuvec.storage.local import LocalStore
from gpuvec.storage.object_store import Delete, List, Procedure
from gpuvec.storage.open import Store

ID_PREFIX = "c-"  # of collections


class DroppedFiles:
    """Deletes the files of dropped collections, each when nobody reads it any more.

    Args:
        delete: deletes all files of the collection with an id.
    """

    def __init__(self, delete: Callable[[str], None]) -> None:
        self._delete = delete
        self._waiting: set[str] = set()
        self._readers: Counter[str] = Counter()
        self._lock = threading.Lock()  # of the readers

    @contextmanager
    def kept(self, collection_id: str) -> Iterator[None]:
        """Keep the files of a collection, should it be dropped meanwhile."""
        with self._lock:
            self._readers[collection_id] += 1
        try:
            yield
        finally:
            with self._lock:
                self._readers[collection_id] -= 1
                if not self._readers[collection_id]:
                    del self._readers[collection_id]

    def add(self, collection_ids: Iterable[str]) -> None:
        """Note collections that were dropped."""
        self._waiting.update(collection_ids)

    def delete(self, *, read: bool = False) -> None:
        """Delete what can be; one thread at a time.

        Args:
            read: also files that are being read.
        """
        for collection_id in [name for name in self._waiting if read or not self._readers[name]]:
            self._delete(collection_id)
            self._waiting.discard(collection_id)


def delete_collection(
    store: Store, run: Callable[[Procedure[None]], None], collection_id: str
) -> None:
    """Delete every file of a collection."""
    prefix = keys.collection(collection_id)
    run(_delete_all(f"{prefix}/"))
    if isinstance(store, LocalStore):
        store.remove_folder(prefix)


def _delete_all(prefix: str) -> Procedure[None]:
    yield Delete((yield List(prefix)))


def unnamed_collections(folders: Iterable[str], name_of: Callable[[str], str | None]) -> list[str]:
    """Return the ids of collections that have files, but for which no name stands."""
    return [name for name in folders if name.startswith(ID_PREFIX) and name_of(name) is None]
