"""Dropped collections, whose files stay for as long as this process reads them."""

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from gpuvec.storage.object_store import Delete, List, Procedure


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


def delete_all(prefix: str) -> Procedure[None]:
    """Delete every object whose key begins with a prefix."""
    yield Delete((yield List(prefix)))
