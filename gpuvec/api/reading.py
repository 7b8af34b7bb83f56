"""How an engine reads: collections at one version, their manifests, names."""

import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from gpuvec import errors
from gpuvec.api.channels import OpenChannels
from gpuvec.api.dropped import DroppedFiles
from gpuvec.api.glance import glance
from gpuvec.api.leases import Leases, told_expired
from gpuvec.api.names import Names
from gpuvec.api.writership import Writership
from gpuvec.coord.root_coord import RootCoord
from gpuvec.meta.catalog import CollectionState
from gpuvec.node.shards import Channels
from gpuvec.query.spread import Nodes
from gpuvec.segment.view import Snapshot
from gpuvec.storage.open import Store
from gpuvec.types import Timestamp


class Reading(ABC):
    """The part of `Engine` that reads."""

    names: Names
    channels: OpenChannels
    dropped: DroppedFiles
    leases: Leases
    _store: Store
    _writer: Writership
    _lock: threading.RLock

    @abstractmethod
    def _check_usable(self) -> None:
        """Raise where nothing can be read any more."""

    @abstractmethod
    def now_ms(self) -> int:
        """Return the time."""

    def snapshot(self, collection_id: str) -> Snapshot:
        """Return a collection at its newest version."""
        with self.glance(collection_id):
            name = self.name_of(collection_id)
            return self.channel(collection_id).snapshot(name, self.now_ms())

    def glance(self, collection_id: str, *, rows: bool = True) -> AbstractContextManager[None]:
        """Return a block in which a bucket is asked for news once; see `gpuvec.api.glance`."""
        catalog = self._writer.generation == 0 or self.names.stale
        channel = self.channels.peek(collection_id)
        return glance(self._store, channel, catalog=catalog, rows=rows)

    @contextmanager
    def reading(self, collection_id: str) -> Iterator[Snapshot]:
        """Yield a collection at its newest version; its files stay meanwhile, even if dropped.

        Raises:
            NotFoundError: `GV-608`, it was dropped, perhaps by another process while it was read.
            SnapshotExpiredError: `GV-640`, files that it needs are no longer kept.
        """
        with self.kept(collection_id):
            yield self.snapshot(collection_id)

    @contextmanager
    def reading_at(
        self, collection_id: str, versions: Sequence[Timestamp]
    ) -> Iterator[list[Snapshot]]:
        """Yield a collection at some versions, as views of the same segments; else as `reading`."""
        with self.kept(collection_id):
            name = self.name_of(collection_id)
            yield self.channel(collection_id).snapshots_at(name, *versions)

    @contextmanager
    def kept(self, collection_id: str) -> Iterator[None]:
        """Keep the files that a read of a collection may use; tell of those that are gone."""
        with self.dropped.kept(collection_id), self.leases.reading(collection_id):
            try:
                yield
            except errors.CorruptError as error:
                name = self.name_of(collection_id)  # a collection that is gone is not damaged
                raise told_expired(error, self.state(collection_id), name) from error

    def spread(self) -> Nodes | None:
        """Return the nodes that a read is spread over; None: it runs here."""
        return None

    def state(self, collection_id: str) -> CollectionState:
        """Return the newest manifest of a collection."""
        channel = self.channel(collection_id)
        channel.look()
        return channel.state

    def channel(self, collection_id: str) -> Channels:
        """Return the channels of a collection, following their logs."""
        self._check_usable()
        return self.channels.of(collection_id)

    def root(self) -> RootCoord:
        """Return the root coordinator, told of what other processes did."""
        self._check_usable()
        if self._writer.generation == 0 or self.names.stale:
            with self._lock:
                self.names.follow()
        return self.names.root

    def name_of(self, collection_id: str) -> str:
        """Return the present name of a collection.

        Raises:
            NotFoundError: `GV-608`, it was dropped.
        """
        self.root()
        return self.names.name_of(collection_id)
