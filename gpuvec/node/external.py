"""A segment whose rows lie in a file of others: scalars are read there, vectors are decoded once.

A vector column is decoded at its first use, by whichever process comes first, and put beside the
segments of the collection, in the same form as theirs; from then on it is mapped:

1. `seg/<segment>/vec-<field>.arrow`, and `.valid` where some are null;
2. `seg/<segment>/vec-<field>.json`: their lengths and checksums.

| died after | left behind | cured by |
|---|---|---|
| 1 | files that nobody reads | the next use writes the same again |
| 2 | nothing | |

Where the store cannot be written, the vectors stay in memory for as long as the segment is open.
"""

import json
import threading
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.errors import CorruptError, StorageError
from gpuvec.meta.changes import SegmentRecord
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.segment.view import FieldStatistics
from gpuvec.storage import keys
from gpuvec.storage.arrow_files import map_arrays, vector_file
from gpuvec.storage.blocks import sum_blocks
from gpuvec.storage.object_store import Buffer, ObjectStore
from gpuvec.storage.records import ColumnStatistics, FileRecord
from gpuvec.storage.verified import load_verified

EXTERNAL = "external"  # the entry of `SegmentRecord.files` that says where the rows are


class FilesOfOthers(Protocol):
    """Reads rows where they lie. Safe for use by several threads."""

    def read(self, part: Mapping[str, Any], names: Sequence[str]) -> Rows:
        """Return fields of a part of a file, as the collection's schema wants them.

        Raises:
            ConflictError: `GV-671`, the file was written again.
            StorageError: `GV-672`, it is gone.
            CorruptError: `GV-709`, it is unreadable.
            SchemaError: values that do not fit, with file and row.
        """

    def check(self, part: Mapping[str, Any]) -> None:
        """Raise if the file of a part is not what it was, where that costs no request."""


class ExternalReader:
    """See `gpuvec.segment.sealed.SegmentFiles`. Safe for use by several threads.

    Args:
        store: of the database, for decoded vectors.
        prefix: of the collection.
        record: of the segment.
        files: reads the file.
    """

    def __init__(
        self, store: ObjectStore, prefix: str, record: SegmentRecord, files: FilesOfOthers
    ) -> None:
        self._store = store
        self._prefix = prefix
        self._record = record
        self._files = files
        self._part: Mapping[str, Any] = record.files[EXTERNAL]
        self._vectors: dict[str, VectorColumn] = {}
        self._lock = threading.Lock()  # one decodes, others wait

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """See `SegmentFiles.scalars`."""
        if not names:
            return pa.table({}).select([])
        return self._files.read(self._part, names).table.select(list(names))

    def vectors(self, name: str) -> VectorColumn:
        """See `SegmentFiles.vectors`."""
        self._files.check(self._part)
        with self._lock:
            if name not in self._vectors:
                self._vectors[name] = self._stored(name) or self._decode(name)
            return self._vectors[name]

    def timestamps(self) -> NDArray[np.int64]:
        """See `SegmentFiles.timestamps`."""
        return np.full(self._record.row_count, self._record.ts, np.int64)

    def primary_keys(self) -> pa.ChunkedArray:
        """See `SegmentFiles.primary_keys`; not sorted."""
        return self.scalars([self._part["primary_key"]])[0]

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `SegmentFiles.statistics`."""
        found = self._part["statistics"].get(name)
        if found is None:
            return None
        known = ColumnStatistics.from_json(found)
        return FieldStatistics(
            low=known.low, high=known.high, null_count=known.null_count, row_count=known.row_count
        )

    def _stored(self, name: str) -> VectorColumn | None:
        """Return the vectors that were decoded before; None where none were, or not wholly."""
        vector_key, _, note_key = _keys(self._prefix, self._record, name)
        try:
            note = json.loads(self._store.get(note_key))
        except CorruptError as error:
            if error.details.get("missing"):
                return None
            raise
        record = FileRecord.from_json(note["vectors"])
        assert record.key == vector_key, f"{note_key} names {record.key}"
        column = map_arrays(load_verified(self._store, record), record.arrays)
        if "valid" not in note:
            return column
        valid = load_verified(self._store, FileRecord.from_json(note["valid"])).view(bool)
        if isinstance(column, SparseVectors):
            return SparseVectors(column.offsets, column.indices, column.values, valid)
        return DenseVectors(column.values, valid)

    def _decode(self, name: str) -> VectorColumn:
        column = self._files.read(self._part, [name]).vectors[name]
        try:
            self._put(name, column)
        except StorageError:  # a reader may have no right to write, or no room
            return column
        return self._stored(name) or column

    def _put(self, name: str, column: VectorColumn) -> None:
        vector_key, valid_key, note_key = _keys(self._prefix, self._record, name)
        parts, arrays = vector_file(name, column, {"gpuvec.field": name})
        note = {"vectors": self._put_file(vector_key, parts, arrays=arrays)}
        if column.valid is not None and not column.valid.all():
            note["valid"] = self._put_file(valid_key, [column.valid.view(np.uint8)])  # 1
        self._store.put(note_key, [json.dumps(note).encode()])  # 2

    def _put_file(self, key: str, parts: list[Buffer], **more: Any) -> dict[str, Any]:
        length = sum(len(memoryview(part)) for part in parts)
        checksum, blocks = sum_blocks(parts, length)
        self._store.put(key, parts)
        record = FileRecord(key=key, length=length, crc32c=checksum, blocks=blocks, **more)
        return record.to_json()


def _keys(prefix: str, record: SegmentRecord, name: str) -> tuple[str, str, str]:
    """Return the keys of a field's vectors, of which are valid, and of what is known of both."""
    key = keys.vector_file(prefix, record.segment_id, name)
    stem = key.removesuffix(".arrow")
    return key, f"{stem}.valid", f"{stem}.json"
