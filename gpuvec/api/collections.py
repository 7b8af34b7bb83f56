"""Creating, dropping and renaming collections.

A collection is created in two steps: 1. its own log begins, without a name; 2. the database's log
names it. Dropping: 1. the database's log forgets it; 2. its files are deleted.

| died after | left behind | cured by |
|---|---|---|
| create 1 | files without a name | the next process that writes deletes them |
| drop 1 | files without a name | the same |
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from gpuvec import errors
from gpuvec.api.dropped import ID_PREFIX
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change, InitCollection
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.shards import channel_names
from gpuvec.schema import Schema
from gpuvec.storage import keys
from gpuvec.types import Timestamp

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine

First = Callable[[Timestamp], Sequence[Change]]


class Collections:
    """What changes which collections a database has. Safe for use by several threads.

    Args:
        engine: of the database.
    """

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine

    def create(
        self, name: str, schema: Schema, more: First | None = None, *, channels: int = 1
    ) -> str:
        """Create a collection; return its id.

        Args:
            name: must be free.
            schema: the fields.
            more: further changes that it begins with, from a new timestamp.
            channels: how many.
        """
        collection_id = self._new_id()
        first = [] if more is None else more(self._engine.stamp())
        with self._engine.writing():
            self.begin(collection_id, name, schema, first, channels)
            self.name(collection_id, name)
            return collection_id

    @contextmanager
    def creating(self, name: str, schema: Schema, *, channels: int = 1) -> Iterator[str]:
        """Yield the id of a new collection, which gets its name only if the block succeeds.

        Until then nobody else can find it, and what dies before leaves files without a name, which
        the next process that writes deletes.

        Args:
            name: must be free, at the end too.
            schema: the fields.
            channels: how many.
        """
        collection_id = self._new_id()
        self.begin(collection_id, name, schema, [], channels)
        with self._engine.names.filling(collection_id, name):
            try:
                yield collection_id
                self.name(collection_id, name)
            except BaseException:
                with suppress(errors.GpuvecError):
                    self.discard(collection_id, name)
                raise

    def _new_id(self) -> str:
        return f"{ID_PREFIX}{self._engine.mint()}"

    def begin(
        self, collection_id: str, name: str, schema: Schema, then: Sequence[Change], channels: int
    ) -> None:
        """Do step 1 for a collection that shall have a name; see `create`."""
        engine = self._engine
        with engine.writing():
            engine.names.root.create(name, collection_id)  # checks the name
            log = ManifestLog(keys.collection(collection_id), CollectionState())
            first = InitCollection(
                collection_id=collection_id, schema=schema, channels=channel_names(channels)
            )
            view = engine.run(log.read())
            engine.run(log.commit(view, [first, *then], **engine.signature()))

    def name(self, collection_id: str, name: str) -> None:
        """Do step 2 for a collection that was begun."""
        with self._engine.writing():
            self._commit(self._engine.names.root.create(name, collection_id))

    def discard(self, collection_id: str, name: str) -> None:
        """Delete the files of a collection that was begun, unless it has a name."""
        with self._engine.writing():
            if self._engine.names.root.name_of(collection_id) is None:
                self._discard(collection_id, name)

    def drop(self, name: str) -> None:
        """Forget a collection, then delete its files: now, or after reads that are under way."""
        root = self._engine.names.root
        with self._engine.writing():
            _, collection_id = root.resolve(name)
            self._commit(root.drop(name))
            self._discard(collection_id, name)

    def _discard(self, collection_id: str, name: str) -> None:
        """Delete the files of a collection without a name: now, or after reads under way."""
        self._engine.channels.retire(collection_id, name)
        self._engine.builds.forget(collection_id)
        self._engine.dropped.add([collection_id])
        self._engine.dropped.delete()

    def rename(self, old: str, new: str) -> None:
        """Give a collection another name."""
        with self._engine.writing():
            self._commit(self._engine.names.root.rename(old, new))

    def alias(self, alias: str, name: str | None) -> None:
        """Point an alias to a collection, or with None forget it."""
        with self._engine.writing():
            self._commit(self._engine.names.root.alias(alias, name))

    def _commit(self, change: Change) -> None:
        self._engine.names.commit(change, **self._engine.signature())
