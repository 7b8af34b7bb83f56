"""Whether a place is a database, may become one, or is something else. Looking changes nothing."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuvec import errors
from gpuvec.storage import keys
from gpuvec.storage.durable import reported
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.open import Store, open_store

FORMAT_VERSION = 1
_TRIES = 3


def holds_database(path: str | os.PathLike[str]) -> bool:
    """Return whether a path or URL is that of a database."""
    store = open_store(path)
    try:
        return store.size(keys.FORMAT) is not None
    finally:
        store.close()


def check_database(
    path: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    nor: str = "",
) -> None:
    """Refuse a place without a database, where `connect` would make one.

    Args:
        path: as `connect` takes it.
        storage_options: of a bucket's store.
        nor: another place that is none either, for the message.

    Raises:
        NotFoundError: `GV-703`, none is there.
        StorageError: `GV-648`, a copy that was cut.
    """
    where = os.fspath(path)
    store = open_store(where, storage_options)
    try:
        if store.size(keys.FORMAT) is None:
            if store.size(keys.COPY) is not None:
                raise errors.copy_unfinished(where)
            full = where if "://" in where else os.path.abspath(os.path.expanduser(where))
            raise errors.no_database(where, full.rstrip("/"), nor=nor)
    finally:
        store.close()


def check_location(store: Store, where: str) -> None:
    """Refuse a place that is neither a database nor empty.

    Raises:
        StorageError: `GV-605` a directory with other things, `GV-607` a file.
        UnsupportedError: `GV-606`, a later gpuvec wrote it.
        CorruptError: `GV-609`, its format file cannot be read.
    """
    marker = store.local_path(keys.FORMAT)
    with reported("look at", where):
        _check_location(store, where, marker)


def _check_location(store: Store, where: str, marker: Path | None) -> None:
    if marker is not None and marker.parent.exists() and not marker.parent.is_dir():
        raise errors.not_a_directory(where)
    if store.size(keys.FORMAT) is not None:
        check_format(store.get(keys.FORMAT), where)
        return
    if marker is not None:
        found = [p.name for p in marker.parent.iterdir()] if marker.parent.exists() else []
    else:
        found = list(store.peek())
    if keys.COPY in found:
        raise errors.copy_unfinished(where)
    ours = (keys.LOCK, keys.PROBES)  # of one who began and died
    foreign = [name for name in found if name not in ours and not name.startswith(".")]
    if foreign:
        raise errors.not_a_database(where, foreign)


class Place:
    """Whether an open database is still where it was opened; moved, it must not be written to.

    Told by the identity of its format file, which is created once. A store in memory stays.
    """

    def __init__(self, store: ObjectStore, where: str) -> None:
        marker = store.local_path(keys.FORMAT)
        self._marker = None if marker is None else str(marker)
        self._where = where
        self._seen = self._identity()

    @property
    def kept(self) -> bool:
        """Whether it is there; true also of a place that is no database yet."""
        if self._seen is None:
            self._seen = self._identity()
            return True
        return self._identity() == self._seen

    def check(self) -> None:
        """Raise `StorageError` GV-613 unless it is there."""
        if not self.kept:
            raise errors.moved_away(self._where)

    def _identity(self) -> tuple[int, int, int] | None:
        try:
            found = None if self._marker is None else os.stat(self._marker)
        except OSError:
            return None
        return None if found is None else (found.st_dev, found.st_ino, found.st_mtime_ns)


def create_format(store: ObjectStore) -> None:
    """Make an empty place a database; one that is stays as it is.

    Raises:
        StorageError: `GV-532`, the store says that the file exists, and it does not.
    """
    data = json.dumps({"format": FORMAT_VERSION, "made_by": "gpuvec"}).encode()
    for _ in range(_TRIES):
        if store.put_if_absent(keys.FORMAT, data + b"\n") or store.size(keys.FORMAT) is not None:
            return
    raise errors.create_undecided(keys.FORMAT, "it is said to exist, and does not")


def check_format(data: bytes, where: str) -> None:
    """Refuse a format file that a later gpuvec wrote, GV-606, or that cannot be read, GV-609."""
    try:
        found = json.loads(data)["format"]
    except (ValueError, KeyError, TypeError) as error:
        raise errors.damaged_format(where) from error
    if not isinstance(found, int) or found > FORMAT_VERSION:
        raise errors.newer_format(where, found, FORMAT_VERSION)
