"""Files as the manifest knows them: mapped or read, and compared with length and checksum."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from gpuvec import errors
from gpuvec.storage.checksum import crc32c
from gpuvec.storage.mapping import map_file
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.records import FileRecord


def load_verified(store: ObjectStore, record: FileRecord) -> NDArray[np.uint8]:
    """Return a file's bytes, (length,) uint8: mapped where the store is local, else read.

    Raises:
        CorruptError: `GV-501` missing, `GV-502` of another length, `GV-503` changed.
    """
    path = store.local_path(record.key)
    where = record.key if path is None else str(path)
    size = store.size(record.key)
    if size is None:
        raise errors.missing_object(where)
    if size != record.length:
        raise errors.object_too_short(where, wanted=record.length, got=size)
    data = _map_file(path) if path else np.frombuffer(store.get(record.key), np.uint8)
    found = crc32c([data])
    if found != record.crc32c:
        raise errors.wrong_checksum(where, wanted=record.crc32c, got=found)
    return data


def _map_file(path: Path) -> NDArray[np.uint8]:
    try:
        return map_file(path)
    except FileNotFoundError:  # since its size was asked
        raise errors.missing_object(str(path)) from None
    except OSError as error:
        raise errors.storage_failed("map", str(path), error) from error
