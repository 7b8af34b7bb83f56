"""Whether this process writes to the database: its lock, its generation, and who replaced it.

A local directory has a lock, so a second process is refused. A bucket has none: whoever writes
there last takes over, by a generation above all others in the database's log. From then on the one
before can commit nothing; what it acknowledged lies in the logs of its channels, which the new one
claims and replays.

Taking over: 1. lock, where there is one; 2. try out whether the store keeps writers apart; 3. list
the collections' folders; 4. create the format file; 5. commit the next generation.

| died after | left behind | cured by |
|---|---|---|
| 2 | a probe's objects | a later probe |
| 4 | an empty database | being one |
| 5 | a generation that nobody uses | the next one |

A collection whose folder was listed in 3 and that has no name after 5 never gets one: who was
creating it has a lower generation. Its files can be deleted.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from typing import Any

from gpuvec import errors
from gpuvec.api.location import create_format
from gpuvec.meta.catalog import DatabaseState
from gpuvec.meta.changes import TakeGeneration
from gpuvec.meta.manifest import LogView, ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.network import NetworkStore
from gpuvec.storage.open import Store
from gpuvec.storage.probe import probe

Catalog = ManifestLog[DatabaseState]
View = LogView[DatabaseState]

_LOOK_S = 10.0  # how long a writer may take to notice that it was replaced


class Writership:
    """The right to write of one process. Calls come one at a time.

    Args:
        store: of the database.
        where: its path, for messages.
        catalog: its log.
        run: runs procedures on the store.

    Attributes:
        generation: of this process; 0: it does not write.
        replaced: whether another process took over; then this one never writes again.
    """

    def __init__(
        self, store: Store, where: str, catalog: Catalog, run: Callable[[Any], Any]
    ) -> None:
        self.generation = 0
        self.replaced = False
        self._store = store
        self._where = where
        self._catalog = catalog
        self._run = run
        self._looked_s = -_LOOK_S
        self._held: AbstractContextManager[None] | None = None

    def take(self, view: View | None, committer: str) -> tuple[View, Sequence[str]]:
        """Become the writer; return the log's newest view, and the ids of folders from before.

        Raises:
            ConflictError: `GV-602` another process holds the lock, `GV-538` one took over before.
            StorageError: the store cannot be written, or not safely: `GV-531`.
        """
        if self.replaced:
            raise errors.writer_replaced(self._where, None)
        held = self._store.lock(keys.LOCK)  # 1
        try:
            held.__enter__()
        except errors.UnavailableError as error:
            owner = error.details.get("pid")
            name = "another process" if owner is None else f"process {owner}"
            raise errors.written_elsewhere(self._where, name) from None
        try:
            if isinstance(self._store, NetworkStore):
                probe(self._store, self._where)  # 2
            found = self._store.folders(keys.COLLECTIONS)  # 3
            create_format(self._store)  # 4
            before = self._run(self._catalog.read(view))
            generation = before.generation + 1
            commit = self._catalog.commit(
                before, [TakeGeneration()], generation=generation, committer=committer
            )
            after: View = self._run(commit)  # 5
        except BaseException:
            held.__exit__(None, None, None)
            raise
        self._held = held
        self.generation = generation
        return after, found

    def is_look_due(self, now_s: float) -> bool:
        """Return whether it is time to look again; where a lock holds others off, it never is."""
        if not isinstance(self._store, NetworkStore) or now_s < self._looked_s + _LOOK_S:
            return False
        self._looked_s = now_s
        return True

    def look(self, view: View | None) -> bool:
        """Return whether another process took over; no, as long as the log cannot be read."""
        with suppress(errors.StorageError):
            newest: View = self._run(self._catalog.read(view))
            if 0 < self.generation < newest.generation:
                self.replaced = True
                self.generation = 0
                self.release()
        return self.replaced

    def release(self) -> None:
        """Let go of the lock; a forked child's came along, and shall end with the parent."""
        if self._held is not None:
            self._held.__exit__(None, None, None)
            self._held = None
