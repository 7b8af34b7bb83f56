"""From the catalog's record of a segment to one that can be read; files open at their first use."""

import json
import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.index.base import IndexFile
from gpuvec.index.curve import RecallCurve
from gpuvec.index.spec import Flat, IndexSpec, spec_from_json
from gpuvec.meta.catalog import IndexDefinition, IndexRecord, SegmentRecord
from gpuvec.node.external import EXTERNAL, ExternalReader, FilesOfOthers
from gpuvec.once import cached_property
from gpuvec.rows import VectorColumn
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.keys import KeyIndex
from gpuvec.segment.sealed import SealedRows, SealedSegment
from gpuvec.segment.view import FieldStatistics
from gpuvec.storage.index_files import IndexFiles
from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.read_ahead import Neighbours
from gpuvec.storage.segment_files import (
    FileRecord,
    SegmentFiles,
    SegmentReader,
    read_deletes,
)
from gpuvec.storage.verified import files_of
from gpuvec.types import SegmentId, Timestamp

AUTO = "auto"  # the kind of a definition that leaves the choice to each build
CURVE_FILE = "curve.json"  # beside the index's own files, as measured on the CPU
CURVE_FILES = {"cpu": CURVE_FILE, "gpu": "curve.gpu.json"}


class Loader:
    """Opens the segments of one collection. What is open stays so until `keep_only` lets go of it.

    Safe for use by several threads.
    """

    def __init__(
        self,
        store: ObjectStore,
        primary_key: str,
        *,
        prefix: str = "",
        outside: FilesOfOthers | None = None,
    ) -> None:
        self._store = store
        self._primary_key = primary_key
        self._prefix = prefix  # of the collection, and what reads files of others for it
        self._outside = outside
        self._files = files_of(store)
        self._neighbours = Neighbours(self._files)
        self._open: dict[SegmentId, SealedRows] = {}
        self._deletes: dict[SegmentId, tuple[str, NDArray[np.int64], NDArray[np.int64]]] = {}
        self._indexes: dict[SegmentId, dict[str, StoredIndex]] = {}
        self._lock = threading.Lock()

    def expect(self, records: Iterable[SegmentRecord]) -> None:
        """Note the segments that will be loaded; a bucket's deletion files are fetched at once."""
        if self._files is None:
            return
        known = list(records)
        inside = [SegmentFiles.from_json(r.files) for r in known if "scalar" in r.files]
        self._neighbours.put(inside)
        held = {deletes[0] for deletes in self._deletes.values()}
        deletes = [r.deletes for r in known if r.deletes and r.deletes["key"] not in held]
        self._files.ahead([FileRecord.from_json(record) for record in deletes], len(deletes))

    def load(self, record: SegmentRecord) -> SealedSegment:
        """Return a segment with the deletes that its record names. Reads no rows."""
        with self._lock:
            rows = self._open.get(record.segment_id)
            if rows is None:
                rows = self._open[record.segment_id] = self._rows(record)
        return SealedSegment(rows, DeleteLog(*self._deleted(record)))

    def indexes(
        self, record: SegmentRecord, wanted: Mapping[str, IndexDefinition]
    ) -> "dict[str, StoredIndex]":
        """Return the indexes of a segment by field; those opened before are the same objects.

        Args:
            record: of the segment.
            wanted: the definitions of now, by field.
        """
        known = self._indexes.get(record.segment_id, {})
        found = {}
        for name, index in record.indexes.items():
            old, definition = known.get(name), wanted.get(name)
            if definition is None or index.spec["kind"] == Flat.KIND:
                continue
            names = (index.index_id, definition.recall)
            is_old = old is not None and (old.index_id, old.target) == names
            found[name] = old if old and is_old else StoredIndex(self._store, index, definition)
        if found or known:
            self._indexes[record.segment_id] = found
        return found

    def keep_only(self, segments: set[SegmentId]) -> None:
        """Let go of all other segments; reads that still use them go on."""
        with self._lock:
            self._open = {name: rows for name, rows in self._open.items() if name in segments}
            self._indexes = {n: found for n, found in self._indexes.items() if n in segments}
            self._deletes = {n: found for n, found in self._deletes.items() if n in segments}

    def _rows(self, record: SegmentRecord) -> SealedRows:
        files: _Files | ExternalReader
        if EXTERNAL in record.files:
            assert self._outside is not None, "this loader reads no files of others"
            files = ExternalReader(self._store, self._prefix, record, self._outside)
        else:
            known = SegmentFiles.from_json(record.files)
            files = _Files(SegmentReader(self._store, known, self._neighbours), record.ts)
        return SealedRows(
            segment_id=record.segment_id,
            partition=record.partition,
            layout_version=record.schema_version,
            row_count=record.row_count,
            size_bytes=record.size_bytes,
            first_ts=record.first_ts,
            last_ts=record.last_ts,
            primary_key=self._primary_key,
            files=files,
            keys=KeyIndex(),
        )

    def _deleted(self, record: SegmentRecord) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        if record.deletes is None:
            return np.empty(0, np.int64), np.empty(0, np.int64)
        key = str(record.deletes["key"])
        known = self._deletes.get(record.segment_id)
        if known is None or known[0] != key:
            rows, timestamps = read_deletes(self._store, FileRecord.from_json(record.deletes))
            known = self._deletes[record.segment_id] = key, rows.astype(np.int64), timestamps
        return known[1], known[2]


class StoredIndex:
    """See `SegmentIndex`. Nothing is read before it is asked for."""

    def __init__(
        self, store: ObjectStore, record: IndexRecord, definition: IndexDefinition
    ) -> None:
        self.index_id = record.index_id
        self.target = definition.recall
        self.size_bytes = record.size_bytes
        self._record = record
        self._curves: dict[str, RecallCurve | None] = {}
        self._files = IndexFiles(
            store, {name: FileRecord.from_json(file) for name, file in record.files.items()}
        )

    @cached_property
    def spec(self) -> IndexSpec:
        """See `SegmentIndex.spec`."""
        return spec_from_json(self._record.spec)

    def curve(self, device: str = "cpu") -> RecallCurve | None:
        """See `SegmentIndex.curve`."""
        name = CURVE_FILES[device]
        if name not in self._curves:
            known = name in self._files.records
            data = json.loads(self._files.read(name).tobytes()) if known else None
            self._curves[name] = None if data is None else RecallCurve.from_json(data)
        return self._curves[name]

    def files(self) -> dict[str, IndexFile]:
        """See `SegmentIndex.files`."""
        names = [name for name in self._files.records if name not in CURVE_FILES.values()]
        return {
            name: IndexFile(data=self._files.read(name), path=self._files.path(name))
            for name in names
        }


def wanted_spec(definition: IndexDefinition) -> IndexSpec | None:
    """Return what a definition asks for; None where that is chosen by segment."""
    return None if definition.spec["kind"] == AUTO else spec_from_json(definition.spec)


class _Files:
    """See `SegmentFiles` in `gpuvec.segment.sealed`."""

    def __init__(self, reader: SegmentReader, ts: Timestamp | None) -> None:
        self._reader = reader
        self._ts = ts  # of every row; None: the file tells

    def scalars(self, names: Sequence[str]) -> pa.Table:
        return self._reader.scalars(names)

    def vectors(self, name: str) -> VectorColumn:
        return self._reader.vectors(name)

    def timestamps(self) -> NDArray[np.int64]:
        if self._ts is not None:
            return np.full(self._reader.num_rows, self._ts, np.int64)
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
