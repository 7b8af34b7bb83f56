"""Which collections there are and what they are called, as the database's log says.

A process that writes knows what the log holds, until a commit of its own ends in doubt; any other
looks for news at each read.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gpuvec import errors
from gpuvec.api.writership import View
from gpuvec.coord.root_coord import RootCoord
from gpuvec.meta.catalog import DatabaseState
from gpuvec.meta.changes import Change
from gpuvec.meta.manifest import ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.open import Store
from gpuvec.storage.stamps import LastRead


class Names:
    """The names of one database's collections. The engine's lock is held where they change.

    Args:
        store: of the database.
        where: its path, for messages.
        run: runs procedures on the store.

    Attributes:
        log: of the database.
        view: what `log` held when it was last read; None: it was not read yet.
        root: decides about names; it knows `view`.
        stale: whether the log may hold more than `view` although this process writes.
    """

    def __init__(self, store: Store, where: str, run: Callable[[Any], Any]) -> None:
        self.log = ManifestLog(keys.CATALOG, DatabaseState())
        self.view: View | None = None
        self.root = RootCoord(where)
        self.stale = False
        self._run = run
        self._read = LastRead(store, keys.manifest_folder(keys.CATALOG))
        self._filling: dict[str, str] = {}  # collections without a name yet, and theirs to be
        self._last: dict[str, str] = {}  # for messages about collections that are gone

    def follow(self) -> None:
        """Read what the log got since it was last read."""
        stamp = self._read.stamp()
        if self.stale or not self._read.is_at(stamp):
            self.note(self._run(self.log.read(self.view)))
            self._read.note(stamp)

    def note(self, view: View) -> None:
        """Note what the log holds now."""
        self.view = view
        self.root.note(view.state)
        self.stale = False

    def commit(self, *changes: Change, **signed: Any) -> None:
        """Commit changes of the database's log, all in one entry.

        Args:
            changes: as `root` decided.
            signed: see `ManifestLog.commit`.
        """
        assert self.view is not None
        self.stale = True  # until it is known what became of it
        self.note(self._run(self.log.commit(self.view, changes, **signed)))

    def name_of(self, collection_id: str) -> str:
        """Return the name of a collection as of the last look.

        Raises:
            NotFoundError: `GV-608`, it was dropped.
        """
        name = self.root.name_of(collection_id)
        if name is not None:
            self._filling.pop(collection_id, None)
        else:
            name = self._filling.get(collection_id)
        if name is None:
            raise errors.collection_gone(self._last.get(collection_id, collection_id))
        self._last[collection_id] = name
        return name

    @contextmanager
    def filling(self, collection_id: str, name: str) -> Iterator[None]:
        """Let this process, and nobody else, know a collection before it has its name."""
        self.expect(collection_id, name)
        try:
            yield
        finally:
            self._filling.pop(collection_id, None)

    def expect(self, collection_id: str, name: str) -> None:
        """Note a collection that another process fills before it has its name."""
        self._filling[collection_id] = name

    def filled(self, collection_id: str) -> str | None:
        """Return the name that a collection will have which is being filled."""
        return self._filling.get(collection_id)

    def forget(self, collection_id: str) -> None:
        """Note that nobody fills a collection any more."""
        self._filling.pop(collection_id, None)
