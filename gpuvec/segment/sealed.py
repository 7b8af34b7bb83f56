"""Rows in immutable files, with the deletes that came later."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.rows import VectorColumn
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.keys import KeyIndex, Positions, one_array
from gpuvec.segment.view import FieldStatistics, SegmentIndex
from gpuvec.segment.visible import NEWEST, Layout, VisibleSegment
from gpuvec.types import SegmentId, Timestamp


class SegmentFiles(Protocol):
    """Reads the files of one segment; each is opened and verified at its first use."""

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """Return scalar columns."""

    def vectors(self, name: str) -> VectorColumn:
        """Return a vector column, memory mapped where the store allows it."""

    def timestamps(self) -> NDArray[np.int64]:
        """Return when each row was inserted."""

    def primary_keys(self) -> pa.Array | pa.ChunkedArray:
        """Return the primary keys, in row order: sorted."""

    def statistics(self, name: str) -> FieldStatistics | None:
        """Return the bounds of a scalar field."""


@dataclass(frozen=True, slots=True)
class SealedRows:
    """The immutable part of a segment: shared by all versions, and by reopened handles.

    Args:
        layout_version: `Layout.version` under which the rows were laid out.
        primary_key: the key's field.
        first_ts: no row was inserted earlier; `last_ts`: none later.
    """

    segment_id: SegmentId
    partition: str
    layout_version: int
    row_count: int
    size_bytes: int
    first_ts: Timestamp
    last_ts: Timestamp
    primary_key: str
    files: SegmentFiles
    keys: KeyIndex  # filled at the first look-up

    def find(self, keys: pa.Array) -> Positions:
        """Return the newest row of each key, -1 where there is none."""
        if not len(keys) or not self._may_hold(keys):
            return np.full(len(keys), -1, np.int64)
        if not len(self.keys) and self.row_count:
            self.keys.add(self.files.primary_keys())
        return self.keys.find(keys)

    def _may_hold(self, keys: pa.Array) -> bool:
        bounds = self.files.statistics(self.primary_key)
        if bounds is None or bounds.low is None:
            return True
        span = pc.min_max(one_array(keys))
        return bool(span["min"].as_py() <= bounds.high and span["max"].as_py() >= bounds.low)

    def table(self, names: Sequence[str]) -> pa.Table:
        """See `Columns.table`."""
        return self.files.scalars(names)

    def vector(self, name: str) -> VectorColumn:
        """See `Columns.vector`."""
        return self.files.vectors(name)

    def timestamps(self) -> NDArray[np.int64]:
        """See `Columns.timestamps`."""
        return self.files.timestamps()

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `Columns.statistics`."""
        return self.files.statistics(name)


class SealedSegment:
    """Immutable rows, their growing list of deletes, and the indexes that were built of them.

    One thread writes (`delete`, `index`, `publish`); views may be used by any.

    Args:
        rows: what is in the files.
        deletes: what is in the deletion file.
    """

    def __init__(self, rows: SealedRows, deletes: DeleteLog) -> None:
        self.rows = rows
        self.deletes = deletes
        self.saved_deletes = len(deletes)  # so many are in a file
        self._shown = len(deletes)
        self.indexes: Mapping[str, SegmentIndex] = {}
        self._shown_indexes: Mapping[str, SegmentIndex] = self.indexes

    def __len__(self) -> int:
        return self.rows.row_count

    @property
    def segment_id(self) -> SegmentId:
        """The segment's name."""
        return self.rows.segment_id

    @property
    def partition(self) -> str:
        """The partition of all its rows."""
        return self.rows.partition

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""
        return self.rows.size_bytes

    @property
    def first_ts(self) -> Timestamp:
        """No row was inserted earlier."""
        return self.rows.first_ts

    @property
    def last_ts(self) -> Timestamp:
        """When the last row was inserted."""
        return self.rows.last_ts

    def find(self, keys: pa.Array, hidden_until: Timestamp = 0) -> Positions:
        """Return the row of each key, -1 where there is none that is neither deleted nor hidden."""
        if self.rows.last_ts <= hidden_until:
            return np.full(len(keys), -1, np.int64)
        rows = self.rows.find(keys)
        hit = np.flatnonzero(rows >= 0)
        if not len(hit):
            return rows
        gone = self.deletes.is_dead(rows[hit])
        if hidden_until >= self.rows.first_ts:
            gone |= self.rows.timestamps()[rows[hit]] <= hidden_until
        rows[hit[gone]] = -1
        return rows

    def inserted_at(self, rows: Positions) -> NDArray[np.int64]:
        """Return when the given rows were inserted."""
        return np.asarray(self.rows.timestamps()[rows])

    def delete(self, rows: Positions, timestamp: Timestamp) -> None:
        """Hide rows from `timestamp` on."""
        self.deletes.add(rows, timestamp)

    def index(self, indexes: Mapping[str, SegmentIndex]) -> None:
        """Have these indexes, by field, from `publish` on."""
        self.indexes = indexes

    def publish(self) -> None:
        """Let new views see all deletes and the present indexes."""
        self._shown = len(self.deletes)
        self._shown_indexes = self.indexes

    def view(
        self,
        layout: Layout,
        hidden_until: Timestamp,
        *,
        working: bool = False,
        version: Timestamp = NEWEST,
    ) -> VisibleSegment:
        """Return the published rows; with `working`, also what was not published yet.

        Args:
            layout: what columns look like.
            hidden_until: rows inserted up to here are hidden.
            working: see above.
            version: rows inserted later are hidden, deletes made later count not.
        """
        deleted = len(self.deletes) if working else self._shown
        if version < NEWEST:
            deleted = min(deleted, self.deletes.count_until(version))
        return VisibleSegment(
            segment_id=self.rows.segment_id,
            partition=self.rows.partition,
            generation=layout.version << 40,  # a field may be dropped, and come again
            num_rows=self.rows.row_count,
            columns=self.rows,
            layout=layout,
            deletes=self.deletes,
            delete_count=deleted,
            hidden_until=hidden_until,
            first_ts=self.rows.first_ts,
            last_ts=self.rows.last_ts,
            shown_until=version,
            indexes=self._shown_indexes,
        )
