"""The files of an index: whatever bytes it needs, by name, below `idx/<segment>/<ulid>/`.

Files are never changed, and written before a manifest names them. Their lengths and checksums are
in the manifest, and are compared before an index's first use in a process.
"""

import threading
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import CorruptError, StorageError, index_damaged
from gpuvec.storage import keys
from gpuvec.storage.checksum import as_bytes, crc32c
from gpuvec.storage.object_store import Buffer, Delete, ObjectStore, Procedure, Put
from gpuvec.storage.records import FileRecord
from gpuvec.storage.verified import files_of, load_verified
from gpuvec.types import SegmentId


def write_index_files(
    prefix: str, segment_id: SegmentId, ulid: str, files: Mapping[str, Sequence[Buffer]]
) -> Procedure[dict[str, FileRecord]]:
    """Write the files of an index; return what a manifest keeps of each, by name.

    Args:
        prefix: of the collection, `keys.collection(id)`.
        segment_id: whose rows are indexed.
        ulid: a name never used before.
        files: name to parts, written one after the other from where they lie.

    What a failure leaves is deleted again, as far as the store lets it be: a full disk shall not
    stay full of it.

    Cost: one read of all bytes for the checksums, one for the store.
    """
    records: dict[str, FileRecord] = {}
    try:
        for name, parts in files.items():
            key = keys.index_file(prefix, segment_id, ulid, name)
            length = sum(len(as_bytes(part)) for part in parts)
            records[name] = FileRecord(key=key, length=length, crc32c=crc32c(parts))
            yield Put(key, parts)
    except StorageError:
        with suppress(StorageError):
            yield Delete([record.key for record in records.values()])
        raise
    return records


@dataclass(frozen=True, slots=True)
class IndexFiles:
    """Reads the files of one index; each is opened and verified at its first use.

    Safe for use by several threads.

    Args:
        store: holds them.
        records: by name.
    """

    store: ObjectStore
    records: Mapping[str, FileRecord]
    _loaded: dict[str, NDArray[np.uint8]] = field(default_factory=dict, repr=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    @property
    def size_bytes(self) -> int:
        """Bytes of all files."""
        return sum(record.length for record in self.records.values())

    def read(self, name: str) -> NDArray[np.uint8]:
        """Return a file's bytes, read only; mapped where the store is local or has a disk cache.

        Raises:
            CorruptError: `GV-501` missing, `GV-502` of another length, `GV-503` changed.
        """
        with self._lock:
            if name in self._loaded:
                return self._loaded[name]
            try:
                found = load_verified(self.store, self.records[name])
            except CorruptError as error:
                raise index_damaged(error) from None
            if files_of(self.store) is None:  # else caches hold it
                self._loaded[name] = found
            return found

    def path(self, name: str) -> str | None:
        """Return where a file lies on a local disk, None where there is none."""
        path = self.store.local_path(self.records[name].key)
        return None if path is None else str(path)
