"""Rows that are in the log but not yet in files: appended in memory, read once published."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import BinaryVector, Vector
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.keys import KeyIndex, Positions
from gpuvec.segment.view import FieldStatistics
from gpuvec.segment.visible import NEWEST, Layout, VisibleSegment
from gpuvec.types import SegmentId, Timestamp

_MERGED_ROWS = 1 << 16  # blocks of this length are left alone
_FIRST_ROWS = 1024


class _Buffer:
    """An array that grows at its end. What lies below an index once published never changes.

    Beyond `_FIRST_ROWS` rows it takes room for `capacity` at once: untouched pages cost nothing,
    and nothing is copied.
    """

    def __init__(self, width: int | None, dtype: np.dtype[np.generic], capacity: int) -> None:
        self._tail = () if width is None else (width,)
        self._capacity = capacity
        self.array = np.empty((0, *self._tail), dtype)
        self.size = 0

    def extend(self, values: NDArray[np.generic] | int | bool, count: int) -> None:
        need = self.size + count
        if need > len(self.array):
            small = need <= _FIRST_ROWS
            room = _FIRST_ROWS if small else max(self._capacity, 2 * len(self.array), need)
            grown = np.empty((room, *self._tail), self.array.dtype)
            grown[: self.size] = self.array[: self.size]
            self.array = grown
        self.array[self.size : need] = values
        self.size = need


class _Dense:
    """One array; columns wait until `settle` copies them into it."""

    def __init__(self, kind: Vector | BinaryVector, capacity: int) -> None:
        self._values = _Buffer(kind.width, kind.numpy_dtype, capacity)
        self._valid = _Buffer(None, np.dtype(bool), capacity) if kind.nullable else None
        self._waiting: list[DenseVectors] = []

    def extend(self, column: VectorColumn) -> None:
        assert isinstance(column, DenseVectors)
        self._waiting.append(column)

    def settle(self) -> None:
        waiting, self._waiting = self._waiting, []
        for column in waiting:
            self._values.extend(column.values, len(column))
            if self._valid is not None:
                self._valid.extend(True if column.valid is None else column.valid, len(column))

    def read(self, count: int) -> VectorColumn:
        if count > self._values.size:
            self.settle()
        valid = None if self._valid is None else self._valid.array[:count]
        if valid is not None and valid.all():
            valid = None
        return DenseVectors(self._values.array[:count], valid)


class _Sparse:
    def __init__(self) -> None:
        self._blocks: tuple[SparseVectors, ...] = ()

    def extend(self, column: VectorColumn) -> None:
        assert isinstance(column, SparseVectors)
        blocks = [*self._blocks, column]
        while len(blocks) > 1 and len(blocks[-2]) < 2 * len(blocks[-1]):
            blocks[-2:] = [SparseVectors.concat(blocks[-2:])]
        self._blocks = tuple(blocks)

    def settle(self) -> None:
        pass

    def read(self, count: int) -> VectorColumn:
        return SparseVectors.concat(self._blocks).slice(0, count)


class _Table:
    """Scalar columns in blocks; small neighbours are merged, so that few remain."""

    def __init__(self, empty: pa.Table) -> None:
        self._blocks: tuple[pa.Table, ...] = (empty,)

    def extend(self, table: pa.Table) -> None:
        blocks = [*self._blocks, table.combine_chunks()]
        while len(blocks) > 1 and len(blocks[-2]) < min(2 * len(blocks[-1]), _MERGED_ROWS):
            blocks[-2:] = [pa.concat_tables(blocks[-2:]).combine_chunks()]
        self._blocks = tuple(blocks)

    def read(self, names: Sequence[str], count: int) -> pa.Table:
        return pa.concat_tables([block.select(names) for block in self._blocks]).slice(0, count)


class GrowingSegment:
    """The rows of one partition since the last flush, in log order.

    One thread writes (`append`, `delete`, `publish`); views may be used by any. Rows and deletes
    become visible to new views with `publish`, all at once.

    Args:
        segment_id: also the name of the sealed segment it will become.
        partition: the partition of all its rows.
        layout: the schema at the time; a change of schema begins a new segment.
        capacity_rows: room to take once the segment is no longer tiny.
    """

    def __init__(
        self, segment_id: SegmentId, partition: str, layout: Layout, *, capacity_rows: int
    ) -> None:
        self.segment_id = segment_id
        self.partition = partition
        self.layout = layout
        self.deletes = DeleteLog()
        self.size_bytes = 0
        self._keys = KeyIndex()
        schema = layout.schema.arrow_schema()
        if layout.schema.dynamic:
            schema = schema.append(pa.field(DYNAMIC_COLUMN, pa.string()))
        self._table = _Table(schema.empty_table())
        self._schema = schema
        self._timestamps = _Buffer(None, np.dtype(np.int64), capacity_rows)
        self._vectors: dict[str, _Dense | _Sparse] = {}
        for name, kind in layout.schema.vector_fields.items():
            if isinstance(kind, Vector | BinaryVector):
                self._vectors[name] = _Dense(kind, capacity_rows)
            else:
                self._vectors[name] = _Sparse()
        self._shown = (0, 0)

    def __len__(self) -> int:
        return self._timestamps.size

    @property
    def first_ts(self) -> Timestamp:
        """When the first row was inserted; 0 when there is none."""
        return int(self._timestamps.array[0]) if len(self) else 0

    @property
    def last_ts(self) -> Timestamp:
        """When the last row was inserted; 0 when there is none."""
        return int(self._timestamps.array[len(self) - 1]) if len(self) else 0

    def append(self, rows: Rows, timestamp: Timestamp | NDArray[np.int64]) -> int:
        """Add validated rows, whose keys no visible row has; return their bytes.

        Args:
            rows: their vectors must not change before `settle` has copied them.
            timestamp: of all, or one per row.
        """
        columns = [rows.table[name] for name in self._schema.names]
        table = pa.Table.from_arrays(columns, schema=self._schema)
        self._table.extend(table)
        for name, buffer in self._vectors.items():
            buffer.extend(rows.vectors[name])
        self._keys.add(table[self.layout.schema.primary_key])
        self._timestamps.extend(timestamp, len(rows))
        size = int(table.nbytes) + sum(column.nbytes for column in rows.vectors.values())
        self.size_bytes += size
        return size

    def find(self, keys: pa.Array, hidden_until: Timestamp = 0) -> Positions:
        """Return the row of each key, -1 where there is none that is neither deleted nor hidden."""
        rows = self._keys.find(keys)
        hit = np.flatnonzero(rows >= 0)
        gone = self.deletes.is_dead(rows[hit])
        gone |= self._timestamps.array[rows[hit]] <= hidden_until
        rows[hit[gone]] = -1
        return rows

    def inserted_at(self, rows: Positions) -> NDArray[np.int64]:
        """Return when the given rows were inserted."""
        return np.asarray(self._timestamps.array[rows])

    def delete(self, rows: Positions, timestamp: Timestamp) -> None:
        """Hide rows from `timestamp` on."""
        self.deletes.add(rows, timestamp)

    def settle(self) -> None:
        """Copy vectors that wait for it. Costs much: do it beside the log's write."""
        for buffer in self._vectors.values():
            buffer.settle()

    def publish(self) -> None:
        """Let new views see all that was written."""
        self.settle()
        self._shown = (len(self), len(self.deletes))

    def view(
        self,
        layout: Layout,
        hidden_until: Timestamp,
        *,
        working: bool = False,
        version: Timestamp = NEWEST,
    ) -> VisibleSegment:
        """Return the published rows; see `SealedSegment.view`."""
        rows, deleted = (len(self), len(self.deletes)) if working else self._shown
        if version < NEWEST:
            rows = int(np.searchsorted(self.timestamps(rows), version, side="right"))
            deleted = min(deleted, self.deletes.count_until(version))
        return VisibleSegment(
            segment_id=self.segment_id,
            partition=self.partition,
            generation=(layout.version << 40) + rows,
            num_rows=rows,
            columns=_GrowingColumns(self, rows),
            layout=layout,
            deletes=self.deletes,
            delete_count=deleted,
            first_ts=self.first_ts,
            hidden_until=hidden_until,
        )

    def rows(self, count: int) -> Rows:
        """Return the first `count` rows, with the hidden column of a dynamic schema."""
        vectors = {name: buffer.read(count) for name, buffer in self._vectors.items()}
        return Rows(self.table(self._schema.names, count), vectors)

    def table(self, names: Sequence[str], count: int) -> pa.Table:
        """Return scalar columns of the first `count` rows."""
        return self._table.read(names, count)

    def vector(self, name: str, count: int) -> VectorColumn:
        """Return a vector column of the first `count` rows."""
        return self._vectors[name].read(count)

    def timestamps(self, count: int) -> NDArray[np.int64]:
        """Return when each of the first `count` rows was inserted; rising."""
        return np.asarray(self._timestamps.array[:count])


@dataclass(frozen=True, slots=True)
class _GrowingColumns:
    """See `Columns`: the first `count` rows of a growing segment."""

    segment: GrowingSegment
    count: int

    @property
    def layout_version(self) -> int:
        return self.segment.layout.version

    def table(self, names: Sequence[str]) -> pa.Table:
        return self.segment.table(names, self.count)

    def vector(self, name: str) -> VectorColumn:
        return self.segment.vector(name, self.count)

    def timestamps(self) -> NDArray[np.int64]:
        return self.segment.timestamps(self.count)

    def statistics(self, name: str) -> FieldStatistics | None:
        return None
