"""Files as the manifest knows them: mapped or read, and compared with length and checksum."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.mapping import map_file
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.records import FileRecord
from gpuvec.storage.remote_files import RemoteFiles


def files_of(store: ObjectStore) -> RemoteFiles | None:
    """Return what reads a store's files through caches; None where they are mapped or in memory."""
    found: RemoteFiles | None = getattr(store, "files", None)
    return found


def load_verified(store: ObjectStore, record: FileRecord) -> NDArray[np.uint8]:
    """Return a file's bytes, (length,) uint8: mapped where the store is local, else read.

    Raises:
        CorruptError: `GV-501` missing, `GV-502` of another length, `GV-503` changed.
        DeviceMemoryError: `GV-561`, a bucket's file for which there is no room.
    """
    files = files_of(store)
    return load_from_store(store, record) if files is None else files.whole(record)


def load_from_store(store: ObjectStore, record: FileRecord) -> NDArray[np.uint8]:
    """Do the same without caches: what lies in the store itself is read and compared."""
    data, where = _read(store, record)
    found = crc32c([data])
    if found != record.crc32c:
        raise errors.wrong_checksum(where, wanted=record.crc32c, got=found)
    return data


def _read(store: ObjectStore, record: FileRecord) -> tuple[NDArray[np.uint8], str]:
    """Return a file's bytes and its name for messages, with no more than its length compared."""
    path = store.local_path(record.key)
    where = record.key if path is None else str(path)
    size = store.size(record.key)
    if size is None:
        raise errors.missing_object(where)
    if size != record.length:
        raise errors.object_too_short(where, wanted=record.length, got=size)
    data = _map_file(path) if path else np.frombuffer(store.get(record.key), np.uint8)
    if data.size != record.length:  # changed since
        raise errors.object_too_short(where, wanted=record.length, got=data.size)
    return data, where


def _map_file(path: Path) -> NDArray[np.uint8]:
    try:
        return map_file(path)
    except FileNotFoundError:  # since its size was asked
        raise errors.missing_object(str(path)) from None
    except OSError as error:
        raise errors.storage_failed("map", str(path), error) from error
