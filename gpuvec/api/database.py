"""`Database`: a directory of collections, and how it is opened in this process."""

import atexit
import html
import os
import threading
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gpuvec import errors
from gpuvec.api.access import Quotas, Roles, Users
from gpuvec.api.collection import Collection
from gpuvec.api.display import SHOWN_ROWS, database_html
from gpuvec.api.engine import Engine
from gpuvec.api.inputs import readable_twice
from gpuvec.api.opening import add_caches, checked_limit, engine_sizes, session_beside, store_at
from gpuvec.api.source import CollectionSource
from gpuvec.events import Event
from gpuvec.node.shards import check_channel_count
from gpuvec.query.build import whole_number
from gpuvec.schema import Schema

if TYPE_CHECKING:
    from gpuvec.api.job import Job

_engines: dict[
    str, tuple[Engine, list[int]]
] = {}  # open local databases, and how many handles each
_engines_lock = threading.RLock()


def connect(
    path: str | os.PathLike[str],
    *,
    storage_options: Mapping[str, Any] | None = None,
    device: str = "auto",
    memory_limit: int | str | None = None,
    durability: str | None = None,
) -> "Database":
    """Open a database in this process; see `gpuvec.connect`."""
    from gpuvec.settings import config

    limit = checked_limit(device, memory_limit)
    chosen = config["durability"] if durability is None else durability
    key, engine = _engine(path, storage_options, chosen)
    if limit is not None:
        engine.builds.memory_limit = limit
    session = session_beside(engine, limit, device)
    engine.builds.device = session.device
    return Database(key, engine, session)


def _engine(
    path: str | os.PathLike[str], storage_options: Mapping[str, Any] | None, durability: str
) -> tuple[str, Engine]:
    from gpuvec.storage.local import LocalStore

    text = os.fspath(path)
    store = store_at(path, storage_options, durability)
    key = store.identity
    with _engines_lock:
        known = _engines.get(key)
        if known is not None and known[0].usable:
            if known[0].durability != durability and isinstance(store, LocalStore):
                raise errors.opened_otherwise(text, known[0].durability)
            known[1][0] += 1
            return key, known[0]
        if known is not None:
            known[0].close()  # its directory was moved or removed
        add_caches(store)
        engine = Engine(store, text, durability=durability, **engine_sizes())
        engine.storage_options = storage_options
        _engines[key] = (engine, [1])
        return key, engine


def _release(key: str, engine: Engine) -> None:
    with _engines_lock:
        known = _engines.get(key)
        if known is None or known[0] is not engine:
            return
        known[1][0] -= 1
        if known[1][0]:
            return
        del _engines[key]
    engine.close()


@atexit.register
def _close_all() -> None:
    with _engines_lock:
        engines = [engine for engine, _ in _engines.values()]
        _engines.clear()
    for engine in engines:
        engine.close()


def _abandon_all() -> None:
    """Run in a forked child, where no thread of the parent goes on."""
    global _engines_lock
    _engines_lock = threading.RLock()
    for engine, _ in _engines.values():
        engine.abandon()
    _engines.clear()


os.register_at_fork(after_in_child=_abandon_all)


class Database:
    """Collections in one place. Made by `gv.connect`; `with` closes it."""

    def __init__(self, key: str, engine: Engine, session: Any) -> None:
        self._key = key
        self._engine = engine
        self._session = session
        self._closed = False

    @property
    def path(self) -> str:
        """Where it lies."""
        return self._engine.where

    def __getitem__(self, name: str) -> Collection:
        """Return a collection by name or alias.

        Raises:
            NotFoundError: `GV-150`, with the nearest name.
        """
        self._check_open()
        _, collection_id = self._engine.root().resolve(name)
        return self._collection(collection_id)

    def __contains__(self, name: object) -> bool:
        self._check_open()
        return isinstance(name, str) and self._engine.root().id_of(name) is not None

    def __iter__(self) -> Iterator[str]:
        return iter(self.collections())

    def collections(self) -> list[str]:
        """Return the names of all collections, sorted."""
        self._check_open()
        return self._engine.root().names()

    def aliases(self) -> dict[str, str]:
        """Return alias to collection name."""
        self._check_open()
        return self._engine.root().aliases()

    def create_collection(
        self,
        name: str,
        schema: Schema | None = None,
        *,
        data: Any = None,
        external: str | os.PathLike[str] | None = None,
        primary_key: str | None = None,
        exist_ok: bool = False,
        channels: int = 1,
    ) -> Collection:
        """Create a collection, from a schema, or from data that tell it and become its first rows.

        Args:
            name: 1 to 255 characters, no `/`.
            schema: the fields; inferred from `data` if not given.
            data: rows to insert; not written if the collection exists.
            external: Parquet files to read in place, a path, URL or glob; with `primary_key`.
                `refresh()` follows the files, writes are refused.
            primary_key: the key's field, where the schema is inferred.
            exist_ok: return a collection of that name, if its schema is this one or none is given.
            channels: logs that the rows are spread over by their keys, for good, 1 to 64. Each
                write is still one atomic version. In one process one channel is fastest.

        Raises:
            QueryError: `GV-651` a number of channels that cannot be; `GV-653` `exist_ok`, and the
                collection has another number.
            AlreadyExistsError: `GV-151` the name is taken, `GV-162` by one with another schema.
            SchemaError: rows that do not fit; the collection is not created then.
        """
        self._check_open()
        check_channel_count(channels)
        if external is not None:
            if channels > 1:
                raise errors.not_with_channels("external", channels)
            try:
                pattern = os.fspath(external)
            except TypeError:
                raise errors.bad_external(external) from None
            return self._create_external(name, pattern, schema, data, primary_key, exist_ok)
        if exist_ok and (known := self._engine.root().id_of(name)) is not None:
            found = self[name]
            if schema is not None and schema != found.schema:
                raise errors.another_schema(name)
            there = len(self._engine.state(known).channels)
            if channels not in (1, there):
                raise errors.another_channel_count(name, wanted=channels, got=there)
            return found
        made = schema
        if made is None:
            if data is None or primary_key is None:
                raise errors.schema_or_data_needed()
            from gpuvec.api.interop import infer_schema

            data = readable_twice(data)
            made = infer_schema(data, primary_key)
        elif primary_key is not None and primary_key != made.primary_key:
            raise errors.two_primary_keys(made.primary_key, primary_key)
        if data is None:
            return self._collection(self._engine.collections.create(name, made, channels=channels))
        with self._engine.collections.creating(name, made, channels=channels) as collection_id:
            collection = self._collection(collection_id)
            collection.insert(data)
        return collection

    def _create_external(
        self, name: str, pattern: str, schema: Any, data: Any, key: str | None, exist_ok: bool
    ) -> Collection:
        from gpuvec.api.external import create_external

        given = [n for n, value in {"schema": schema, "data": data}.items() if value is not None]
        if given or key is None:
            raise errors.external_options(given)
        if exist_ok and self._engine.root().id_of(name) is not None:
            return self[name]
        return self._collection(create_external(self._engine, name, pattern, key))

    def drop_collection(self, name: str) -> None:
        """Delete a collection with its rows and its aliases."""
        self._check_open()
        self._engine.collections.drop(name)

    def alias(self, name: str, collection: str | Collection | None) -> None:
        """Let `name` stand for a collection, whatever it stood for; None forgets it."""
        self._check_open()
        target = collection.name if isinstance(collection, Collection) else collection
        self._engine.collections.alias(name, target)

    def rename(self, old: str, new: str) -> None:
        """Give a collection another name; aliases follow."""
        self._check_open()
        self._engine.collections.rename(old, new)

    @property
    def users(self) -> Users:
        """The users that clusters and servers let in, by name; see `Users`."""
        self._check_open()
        return Users(self._engine)

    @property
    def roles(self) -> Roles:
        """What users may do, by the names of roles; see `Roles`."""
        self._check_open()
        return Roles(self._engine)

    @property
    def quotas(self) -> Quotas:
        """How much there may be, and be asked, by collection; see `Quotas`."""
        self._check_open()
        return Quotas(self._engine)

    def jobs(self) -> "list[Job[Any]]":
        """Return heavy work that runs or ended of late, then batch jobs; each the newest first.

        Heavy work are indexes, compactions and imports, of this process, or of the cluster's nodes;
        what ended is told of for 10 minutes, as long as its process lives. Batch jobs are those
        that `Frame.submit` made. `Job.kind` tells them apart.
        """
        from gpuvec.api.jobs import all_jobs

        self._check_open()
        return all_jobs(self._engine, self._session)

    def job(self, job_id: str) -> "Job[Any]":
        """Return one of `jobs`, whichever process began it.

        Raises:
            NotFoundError: `GV-774`, there is no such job.
        """
        from gpuvec.api.jobs import one_job

        self._check_open()
        return one_job(self._engine, self._session, job_id)

    def stats(self) -> dict[str, Any]:
        """Return path, number of collections, and for a bucket what was read of its files.

        `files` counts since the database was opened: requests and bytes fetched, bytes in memory
        and their peak. `disk` of it is the disk cache, for all databases of this process: folder,
        limit and bytes held; hits, misses, evictions, files put aside because their bytes had
        changed, and files that it could not keep. None where there is no such thing.
        """
        self._check_open()
        files = self._engine.files
        return {
            "path": self.path,
            "collections": len(self.collections()),
            "files": None if files is None else files.stats(),
        }

    def events(self, limit: int = 100) -> list[Event]:
        """Return what happened to the database of late, oldest first.

        Flushes, index builds and compactions of this process; of a cluster those of all its nodes,
        and nodes that came and went. The newest thousand are kept, in memory.

        Args:
            limit: so many of the newest.

        Raises:
            QueryError: `GV-354`, not a whole number, or below 0.
        """
        self._check_open()
        return self._engine.events(whole_number("limit", limit, least=0))

    @property
    def dashboard(self) -> str | None:
        """The address of the cluster's dashboard; None where there is no cluster, or none shown."""
        return None

    def close(self) -> None:
        """Finish writes, save what is large enough for a file, let other processes write.

        May be called again. Acknowledged rows are durable without it.
        """
        if not self._closed:
            self._closed = True
            _release(self._key, self._engine)
            if self._session.device_store is not None:
                self._session.device_store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._closed:
            return f'Database("{self.path}", closed)'
        return f'Database("{self.path}", collections: {", ".join(self.collections()) or "none"})'

    def _repr_html_(self) -> str:
        try:
            return self._html()
        except errors.GpuvecError:  # closed, out of reach: a repr says so
            return f"<p>{html.escape(repr(self))}</p>"

    def _html(self) -> str:
        self._check_open()
        root = self._engine.root()
        names = root.names()
        states = {name: self._engine.state(root.resolve(name)[1]) for name in names[:SHOWN_ROWS]}
        nodes = self._engine.node_names()
        return database_html(self.path, states, len(names), nodes, self.dashboard)

    def _collection(self, collection_id: str) -> Collection:
        return open_collection(self._engine, collection_id, self._session)

    def _check_open(self) -> None:
        if self._closed:
            raise errors.database_closed(self.path)


def open_collection(engine: Engine, collection_id: str, session: Any) -> Collection:
    """Return a collection of an engine, as its users have it."""
    if engine.state(collection_id).external is None:
        return Collection(CollectionSource(engine, collection_id), session)
    from gpuvec.api.external import ExternalCollection, ExternalSource

    return ExternalCollection(ExternalSource(engine, collection_id), session)
