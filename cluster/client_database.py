"""`ClusterDatabase`: a database that a cluster serves, as its clients have it."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from gpuvec.api.collection import Collection
from gpuvec.api.database import Database
from gpuvec.api.external import ExternalSource
from gpuvec.api.opening import checked_limit, session_beside
from gpuvec.api.source import CollectionSource
from gpuvec.cluster.client_engine import ClusterEngine, Reach
from gpuvec.cluster.forwarding import ClusterCollection, ClusterExternalCollection
from gpuvec.cluster.opening import open_client, reference
from gpuvec.query.session import Session


class ClusterDatabase(Database):
    """See `Database`. Made by `gpuvec.connect`; closing it leaves the cluster as it is.

    Args:
        engine: of this client.
        session: of this client's part of queries.
        path: as the user wrote it.
        on_close: called when it has been closed.
    """

    _engine: ClusterEngine

    def __init__(
        self,
        engine: ClusterEngine,
        session: Session,
        path: str,
        on_close: Callable[[], None] = lambda: None,
    ) -> None:
        super().__init__(engine.reference.identity, engine, session)
        self._path = path
        self._on_close = on_close
        self._dashboard = ""

    @property
    def path(self) -> str:
        """Where it lies."""
        return self._path

    @property
    def dashboard(self) -> str | None:
        """See `Database.dashboard`."""
        return self._dashboard or None

    def show_dashboard(self, address: str) -> None:
        """Note where Dask's dashboard is, of which gpuvec has some pages; empty: there is none."""
        self._dashboard = address.removesuffix("/status") + "/gpuvec" if address else ""

    def close(self) -> None:
        """Let go of the database; the cluster goes on serving it to others. May be called again."""
        if not self._closed:
            self._closed = True
            try:
                self._engine.close()
            finally:
                self._on_close()

    def _collection(self, collection_id: str) -> Collection:
        if self._engine.state(collection_id).external is None:
            source = CollectionSource(self._engine, collection_id)
            return ClusterCollection(source, self._session)
        return ClusterExternalCollection(ExternalSource(self._engine, collection_id), self._session)


def open_database(
    path: str | os.PathLike[str],
    *,
    transport: Reach,
    storage_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    durability: str | None = None,
    user: str | None = None,
    password: str | None = None,
    on_close: Callable[[], None] = lambda: None,
) -> ClusterDatabase:
    """Open a database on the cluster that a transport reaches; see `gpuvec.connect`.

    Args:
        path: of the database.
        transport: reaches coordinator and nodes.
        storage_options: of a bucket's store.
        device: of this process.
        memory_limit: of this process.
        durability: of all processes.
        user: for whom, where the database has users.
        password: of the user.
        on_close: called when the database has been closed, or could not be opened.
    """
    try:
        limit = checked_limit(device, memory_limit)
        ref = reference(path, storage_options, durability)
        engine = open_client(ref, transport=transport, user=user, password=password)
    except BaseException:
        on_close()
        raise
    session = session_beside(engine, limit, device)
    return ClusterDatabase(engine, session, os.fspath(path), on_close)
