"""From the catalog's record of a segment to one that can be read; files open at their first use."""

import threading
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.meta.catalog import SegmentRecord
from gpuvec.rows import VectorColumn
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.keys import KeyIndex
from gpuvec.segment.sealed import SealedRows, SealedSegment
from gpuvec.segment.view import FieldStatistics
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.segment_files import (
    FileRecord,
    SegmentFiles,
    SegmentReader,
    read_deletes,
)
from gpuvec.types import SegmentId


class Loader:
    """Opens the segments of one collection. What is open stays so until `keep_only` lets go of it.

    Safe for use by several threads.
    """

    def __init__(self, store: ObjectStore, primary_key: str) -> None:
        self._store = store
        self._primary_key = primary_key
        self._open: dict[SegmentId, SealedRows] = {}
        self._deletes: dict[str, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self._lock = threading.Lock()

    def load(self, record: SegmentRecord) -> SealedSegment:
        """Return a segment with the deletes that its record names. Reads no rows."""
        with self._lock:
            rows = self._open.get(record.segment_id)
            if rows is None:
                rows = self._open[record.segment_id] = self._rows(record)
        return SealedSegment(rows, DeleteLog(*self._deleted(record.deletes)))

    def keep_only(self, segments: set[SegmentId]) -> None:
        """Let go of all other segments; reads that still use them go on."""
        with self._lock:
            self._open = {name: rows for name, rows in self._open.items() if name in segments}

    def _rows(self, record: SegmentRecord) -> SealedRows:
        reader = SegmentReader(self._store, SegmentFiles.from_json(record.files))
        return SealedRows(
            segment_id=record.segment_id,
            partition=record.partition,
            layout_version=record.schema_version,
            row_count=record.row_count,
            size_bytes=record.size_bytes,
            first_ts=record.first_ts,
            last_ts=record.last_ts,
            primary_key=self._primary_key,
            files=_Files(reader),
            keys=KeyIndex(),
        )

    def _deleted(
        self, record: Mapping[str, Any] | None
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if record is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        key = str(record["key"])
        if key not in self._deletes:
            rows, timestamps = read_deletes(self._store, FileRecord.from_json(record))
            self._deletes[key] = rows.astype(np.int64), timestamps
        return self._deletes[key]


class _Files:
    """See `SegmentFiles` in `gpuvec.segment.sealed`."""

    def __init__(self, reader: SegmentReader) -> None:
        self._reader = reader

    def scalars(self, names: Sequence[str]) -> pa.Table:
        return self._reader.scalars(names)

    def vectors(self, name: str) -> VectorColumn:
        return self._reader.vectors(name)

    def timestamps(self) -> NDArray[np.int64]:
        return self._reader.timestamps()

    def primary_keys(self) -> pa.Array | pa.ChunkedArray:
        return self._reader.primary_keys()

    def statistics(self, name: str) -> FieldStatistics | None:
        found = self._reader.statistics(name)
        if found is None:
            return None
        return FieldStatistics(
            low=found.low, high=found.high, null_count=found.null_count, row_count=found.row_count
        )
