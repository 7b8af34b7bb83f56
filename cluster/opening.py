"""From a `DatabaseRef` to the engine of a role; each process opens the store for itself."""

import os
from collections.abc import Callable, Mapping
from typing import Any

from gpuvec import errors
from gpuvec.api.opening import add_caches, engine_sizes, store_at
from gpuvec.cluster.client_engine import ClusterEngine, Credentials, Reach
from gpuvec.cluster.coordinator_engine import CoordinatorEngine
from gpuvec.cluster.node_engine import NodeEngine
from gpuvec.cluster_messages import DatabaseRef
from gpuvec.rpc import Transport
from gpuvec.settings import config
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.open import Store
from gpuvec.storage.outside import kind_of_place
from gpuvec.types import NodeId


def reference(
    path: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    durability: str | None = None,
) -> DatabaseRef:
    """Return how every process of a cluster opens a database.

    Args:
        path: as `gpuvec.connect` takes it; one of this machine must be the same on all.
        storage_options: of a bucket's store.
        durability: None: the setting.

    Raises:
        QueryError: `GV-514`, an empty path.
        UnsupportedError: `GV-740`, a store in the memory of this process; see also `open_store`.
    """
    text = os.fspath(path)
    chosen = config["durability"] if durability is None else durability
    store = store_at(path, storage_options, chosen)
    try:
        if isinstance(store, MemoryStore):
            raise errors.not_shared(text)
        identity = store.identity
    finally:
        store.close()
    options = None if storage_options is None else dict(storage_options)
    if kind_of_place(text) == "file":
        text = identity  # other processes have other working directories
    return DatabaseRef(identity=identity, url=text, storage_options=options, durability=str(chosen))


def open_coordinator(ref: DatabaseRef, *, disown: Callable[[str], None]) -> CoordinatorEngine:
    """Return the coordinator's engine, which does not rule yet; see `CoordinatorEngine.rule`."""
    engine = CoordinatorEngine(
        _store(ref), ref.url, disown=disown, durability=ref.durability, **engine_sizes()
    )
    engine.storage_options = ref.storage_options
    return engine


def open_node(ref: DatabaseRef, *, node: NodeId, transport: Transport) -> NodeEngine:
    """Return a node's engine, which owns nothing yet; `transport` reaches the coordinator."""
    engine = NodeEngine(
        _store(ref),
        ref.url,
        node=node,
        transport=transport,
        durability=ref.durability,
        **engine_sizes(),
    )
    engine.storage_options = ref.storage_options
    return engine


def open_client(
    ref: DatabaseRef,
    *,
    transport: Reach,
    user: str | None = None,
    password: str | None = None,
    node: str = "",
) -> ClusterEngine:
    """Return a client's engine; the coordinator holds the database until it is closed.

    Args:
        ref: of the database.
        transport: reaches coordinator and nodes.
        user: for whom, where the database has users.
        password: of the user.
        node: of the cluster, that works for users who were let in already.

    Raises:
        AccessDeniedError: `GV-720`.
        UnavailableError: no coordinator answers.
        GpuvecError: why the coordinator cannot hold the database.
    """
    engine = ClusterEngine(
        _store(ref),
        ref,
        transport=transport,
        credentials=Credentials(user=user or "", password=password or "", node=node),
        **engine_sizes(),
    )
    try:
        engine.open()
    except BaseException:
        engine.close()
        raise
    return engine


def _store(ref: DatabaseRef) -> Store:
    store = store_at(ref.url, ref.storage_options, ref.durability)
    add_caches(store)
    return store
