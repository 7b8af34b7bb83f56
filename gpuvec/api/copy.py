"""Copies one version of collections to another store: a backup that opens as a database.

1. The version is read, and kept while the copy runs.
2. The destination is locked: it is empty, or holds a copy that was cut, or an older one that nobody
   wrote to. `copy.json` says so.
3. Files go over, each compared with its checksum before and after; what is there stays.
4. One entry per collection says what it holds.
5. One entry of the database names the collections.
6. The format file makes it a database.

| died after | left behind | cured by |
|---|---|---|
| 2, 3 | files; the place opens as what it was: as nothing, or as the older copy | the next copy |
| 4 | of an older copy, some collections are newer; each is whole | the next copy |
| 5 | a new copy does not open yet | the next copy |

Rows that are in no file of the source, and lists of deleted rows that hold later ones, are written
anew; those of a copy that was cut are collected later, when somebody writes to the copy.

Of an external collection the list of its files and its indexes go over. Its rows stay in those
files, and what was decoded of them is decoded again when the copy is first searched.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from typing import Any

from gpuvec import errors
from gpuvec.api.collection import Collection
from gpuvec.api.copy_state import Copying, files_of
from gpuvec.api.database import connect
from gpuvec.api.location import check_database, check_format, create_format
from gpuvec.clock import SystemClock
from gpuvec.meta.catalog import CollectionState, DatabaseState
from gpuvec.meta.changes import (
    Change,
    CreateCollection,
    DropCollection,
    RenameCollection,
    SetAlias,
    TakeGeneration,
)
from gpuvec.meta.changes_versions import AdoptState
from gpuvec.meta.manifest import ManifestLog
from gpuvec.meta.retention import created_at
from gpuvec.storage import keys
from gpuvec.storage.object_store import ObjectStore, run
from gpuvec.storage.open import Store, open_store
from gpuvec.storage.records import FileRecord
from gpuvec.storage.verified import load_from_store, load_verified
from gpuvec.types import Version

_THREADS = 4
_MARK = {"format": 1, "made_by": "gpuvec copy"}
_COMMITTER = "copy"


@dataclass(frozen=True, slots=True, kw_only=True)
class CopiedCollection:
    """What was done for one collection.

    Attributes:
        files: that it has now; `copied` of them were not there before, of so many bytes.
        external: whether the rows stay in files of others, which the copy names as the source does.
    """

    name: str
    version: Version
    rows: int
    files: int
    copied: int
    bytes_copied: int
    external: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyReport:
    """What a copy did."""

    source: str
    destination: str
    collections: tuple[CopiedCollection, ...] = field(default=())

    def to_json(self) -> dict[str, Any]:
        """Return it as plain values."""
        return asdict(self)


def copy_database(
    source: str,
    destination: str,
    *,
    version: int | None = None,
    tag: str | None = None,
    collections: Sequence[str] = (),
    source_options: Mapping[str, Any] | None = None,
    storage_options: Mapping[str, Any] | None = None,
    advance: Callable[[int], None] = lambda _: None,
) -> CopyReport:
    """Copy collections at a version; done again, it copies only what is new.

    Args:
        source: of the database; it may be written to meanwhile.
        destination: an empty place, or one that holds an older copy, or a part of one.
        version: of all collections that were there then; by default each at its newest.
        tag: instead: only collections that have it, each at its version.
        collections: names; by default all.
        source_options: `storage_options` of the source.
        storage_options: of the destination.
        advance: is told of bytes that are there.

    Raises:
        NotFoundError: `GV-703`, no database is there; `GV-150`, `GV-641`, `GV-642`, no such
            collection, version or tag.
        SnapshotExpiredError: `GV-640`, the version was forgotten.
        ConflictError: `GV-648`, the destination holds something else, was written to since, or lies
            in the source.
        CorruptError: `GV-501` to `GV-503`, a file of the source is damaged; `GV-649`, one that was
            copied.

    Memory: of a bucket's files, four at a time; nothing of local ones.
    """
    check_database(source, source_options)
    _check_apart(source, source_options, destination, storage_options)
    with connect(source, storage_options=source_options) as db:
        found = [db[name] for name in (collections or db.collections())]
        chosen = _chosen(found, version, tag, named=bool(collections))
        store = open_store(destination, storage_options)
        try:
            done = copy_to(store, destination, chosen, db.aliases(), advance)
        finally:
            store.close()
    return CopyReport(source=source, destination=destination, collections=done)


def copy_to(
    store: Store,
    where: str,
    chosen: Sequence[tuple[Collection, Version]],
    aliases: Mapping[str, str],
    advance: Callable[[int], None] = lambda _: None,
) -> tuple[CopiedCollection, ...]:
    """Copy collections at versions to a store; see `copy_database`."""
    _check_destination(store, where)
    with _locked(store, where):  # 2
        _check_destination(store, where)
        store.put_if_absent(keys.COPY, json.dumps(_MARK).encode() + b"\n")
        before = {items._id: _read(store, items._id) for items, _ in chosen}
        for items, _ in chosen:
            _check_unwritten(before[items._id], items.name, where)
        done: list[tuple[CopiedCollection, CollectionState]] = []
        for items, version in chosen:
            with Copying(items, version, store) as copying:  # 1
                known = {record.key: record for record in _records(before[items._id])}
                copied = _copy_files(copying, store, known, advance)  # 3
                done.append((_told(items.name, version, copying, copied), copying.state()))
        for _, state in done:
            _adopt(store, state)  # 4
        names = {told.name: state.collection_id for told, state in done}
        _name(store, names, aliases)  # 5
        create_format(store)  # 6
    return tuple(told for told, _ in done)


def _check_apart(
    source: str,
    source_options: Mapping[str, Any] | None,
    destination: str,
    storage_options: Mapping[str, Any] | None,
) -> None:
    """Refuse to copy a database onto itself, or into one of its folders."""
    places = (source, source_options), (destination, storage_options)
    stores = [open_store(path, options) for path, options in places]
    try:
        (server, here), (other, there) = [_place(store) for store in stores]
    finally:
        for store in stores:
            store.close()
    if server == other and there.startswith(here):
        is_same = there == here
        raise errors.copy_elsewhere(
            destination, "it is the source" if is_same else f"it lies inside the source, {source}"
        )


def _place(store: Store) -> tuple[str, str]:
    """Return a store's server, "" for the usual one, and its folder."""
    if "://" not in store.identity:
        return "", f"{store.identity.rstrip('/')}/"
    folder, _, server = store.identity.partition(" ")
    return server, f"{folder.rstrip('/')}/"


def _chosen(
    found: Iterable[Collection], version: int | None, tag: str | None, *, named: bool
) -> list[tuple[Collection, Version]]:
    """Return which collections to copy, and which version of each.

    Raises:
        NotFoundError: `GV-641`, no collection has come so far, or one that is `named` was not there
            yet; `GV-642`, none has the tag.
    """
    listed = list(found)
    if tag is not None:
        tagged = [(items, items.tags[tag]) for items in listed if tag in items.tags]
        if not tagged:
            known = {name for items in listed for name in items.tags}
            raise errors.no_such_tag(", ".join(items.name for items in listed), tag, known)
        return tagged
    newest = {items.name: items.version for items in listed}
    if version is None:
        return [(items, newest[items.name]) for items in listed]
    created = {items.name: created_at(items._state) for items in listed}
    late = [items for items in listed if created[items.name] > version]
    if late and (named or len(late) == len(listed)):
        name = late[0].name
        raise errors.before_creation(name, version, created=created[name])
    if version > max(newest.values(), default=0):
        name = ", ".join(newest)
        raise errors.no_such_version(name, version, newest=max(newest.values(), default=0))
    return [
        (items, items.at(version=min(version, newest[items.name])).version)
        for items in listed
        if items not in late
    ]


@contextmanager
def _locked(store: Store, where: str) -> Iterator[None]:
    held = store.lock(keys.LOCK)
    try:
        held.__enter__()
    except errors.UnavailableError as error:
        raise errors.copy_elsewhere(where, "another process is writing to it") from error
    try:
        yield
    finally:
        held.__exit__(None, None, None)


def _check_destination(store: Store, where: str) -> None:
    """Refuse a place that holds anything but a copy."""
    marked = store.size(keys.COPY) is not None
    if store.size(keys.FORMAT) is not None:
        check_format(store.get(keys.FORMAT), where)
        if not marked:
            raise errors.copy_elsewhere(where, "it holds a database that is no copy")
        return
    others = [key for key in store.list("") if key not in (keys.LOCK, keys.COPY)]
    if others and not marked:
        raise errors.copy_elsewhere(where, f"it holds {others[0]}")


def _read(store: ObjectStore, collection_id: str) -> CollectionState:
    log = ManifestLog(keys.collection(collection_id), CollectionState())
    return run(log.read(), store, SystemClock()).state


def _check_unwritten(state: CollectionState, name: str, where: str) -> None:
    if any(channel.epoch for channel in state.channels.values()):
        raise errors.copy_elsewhere(where, f'its "{name}" was written to since it was copied')


def _records(state: CollectionState) -> Iterator[FileRecord]:
    """Yield the files that a copy has."""
    for segment in state.segments.values():
        yield from files_of(segment)


@dataclass(frozen=True, slots=True)
class _Copied:
    files: int
    copied: int
    size_bytes: int


def _copy_files(
    copying: Copying,
    store: Store,
    known: Mapping[str, FileRecord],
    advance: Callable[[int], None],
) -> _Copied:
    """Do step 3."""

    def copy(record: FileRecord) -> int:
        found = 0 if _is_there(store, record, known.get(record.key)) else record.length
        if found:
            _copy_file(copying.store, store, record)
        advance(record.length)
        return found

    files = copying.files()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="gpuvec-copy") as pool:
        sizes = list(pool.map(copy, files))
    written = copying.write()
    sizes += written
    return _Copied(len(sizes), sum(1 for size in sizes if size), sum(sizes))


def _is_there(store: Store, record: FileRecord, known: FileRecord | None) -> bool:
    """Return whether a file was copied before: a former copy names it, or its bytes say so."""
    if store.size(record.key) != record.length:
        return False
    if known is not None and known.crc32c == record.crc32c:
        return True
    try:
        load_from_store(store, record)
    except errors.CorruptError:
        return False
    return True


def _copy_file(source: ObjectStore, store: Store, record: FileRecord) -> None:
    data = load_verified(source, record)
    store.put(record.key, [data])
    try:
        load_from_store(store, record)
    except errors.CorruptError as error:
        raise errors.copy_differs(record.key, record.key) from error


def _told(name: str, version: Version, copying: Copying, copied: _Copied) -> CopiedCollection:
    return CopiedCollection(
        name=name,
        version=version,
        rows=copying.num_rows,
        files=copied.files,
        copied=copied.copied,
        bytes_copied=copied.size_bytes,
        external=copying.external,
    )


def _adopt(store: Store, state: CollectionState) -> None:
    log = ManifestLog(keys.collection(state.collection_id), CollectionState())
    view = run(log.read(), store, SystemClock())
    if view.state.to_json() == state.to_json():
        return
    change = AdoptState(state=state.to_json())
    commit = log.commit(view, [change], generation=view.generation + 1, committer=_COMMITTER)
    run(commit, store, SystemClock())


def _name(store: Store, names: Mapping[str, str], aliases: Mapping[str, str]) -> None:
    """Do step 5: every copied collection has its name, and its aliases."""
    log = ManifestLog(keys.CATALOG, DatabaseState())
    view = run(log.read(), store, SystemClock())
    have = dict(view.state.collections)
    changes: list[Change] = []
    for name, collection_id in names.items():
        if have.get(name) == collection_id:
            continue
        if name in have:
            changes.append(DropCollection(name=name))
            del have[name]
        old = next((known for known, other in have.items() if other == collection_id), None)
        if old is None:
            changes.append(CreateCollection(name=name, collection_id=collection_id))
        else:
            changes.append(RenameCollection(old=old, new=name))
            del have[old]
        have[name] = collection_id
    changes += [
        SetAlias(alias=alias, name=name)
        for alias, name in aliases.items()
        if name in names and view.state.aliases.get(alias) != name
    ]
    if changes:
        generation = view.generation + 1
        commit = log.commit(
            view, [TakeGeneration(), *changes], generation=generation, committer=_COMMITTER
        )
        run(commit, store, SystemClock())
