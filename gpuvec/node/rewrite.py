"""Rows of some segments, sorted into the files of others: live rows, and those of old versions."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.errors import device_memory_exceeded
from gpuvec.meta.changes import SegmentRecord
from gpuvec.meta.retention import ALIVE
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import BinaryVector, SparseVector, Vector
from gpuvec.segment.keys import one_array, sort_by_key
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.visible import Layout, VisibleSegment
from gpuvec.storage.object_store import Procedure, Put
from gpuvec.storage.segment_files import write_segment
from gpuvec.types import RowMask, SegmentId

_KEYED_PARTS = 16  # segments that rows with a partition key become, at most
_FAN_IN = 4  # and each at least so many times as large as those that they come from
_MEMORY_SHARE = 8  # an output and its sorted copy take this part of the memory


@dataclass(frozen=True, slots=True)
class Source:
    """A segment as it was when the work began.

    Attributes:
        inserted: (rows,) when each row was inserted.
        gone: (rows,) when each was gone, `ALIVE` where it is not.
        keep: (rows,) which rows some version needs.
    """

    segment: SealedSegment
    record: SegmentRecord
    inserted: NDArray[np.int64]
    gone: NDArray[np.int64]
    keep: RowMask


@dataclass(slots=True)
class Part:
    """A new segment: row `row[i]` of source `source[i]` at position i.

    Attributes:
        gone: (rows,) when each row was gone; None where all rows are live.
        record: once it is written.
    """

    segment_id: SegmentId
    source: NDArray[np.int32]
    row: NDArray[np.int64]
    gone: NDArray[np.int64] | None
    record: SegmentRecord | None = field(default=None)

    def __len__(self) -> int:
        return len(self.row)


@dataclass(frozen=True, slots=True, kw_only=True)
class Room:
    """How large parts may be.

    Attributes:
        size_bytes: of the files of one.
        rows: in one.
        memory_bytes: that the work may take.
    """

    size_bytes: int
    rows: int
    memory_bytes: int


def divide(
    sources: Sequence[Source], layout: Layout, room: Room, mint: Callable[[], SegmentId]
) -> list[Part]:
    """Return the parts that the rows of some segments become, by primary key.

    Raises:
        DeviceMemoryError: `GV-400`, there is not the memory to make fewer segments than there are.

    Cost: reads the keys; 12 bytes a row, and a key.
    """
    parts = []
    for history in (False, True):
        masks = [source.keep & ((source.gone < ALIVE) == history) for source in sources]
        picks = [np.flatnonzero(mask) for mask in masks]
        count = sum(map(len, picks))
        if not count:
            continue
        size = sum(
            s.record.size_bytes * len(pick) // max(1, s.record.row_count)
            for s, pick in zip(sources, picks, strict=True)
        )
        number = max(-(-size // room.size_bytes), -(-count // room.rows))
        least = -(-size * 2 * _MEMORY_SHARE // room.memory_bytes)
        if least > max(number, len(sources) - 1, 1):
            raise device_memory_exceeded(
                "compaction",
                needed=size * 2 // max(1, len(sources) - 1),
                free=room.memory_bytes // _MEMORY_SHARE,
                where="host",
            )
        number = max(number, least)
        source = np.repeat(np.arange(len(picks), dtype=np.int32), [len(pick) for pick in picks])
        row = np.concatenate(picks)
        for order in _orders(sources, picks, layout, number, size):
            where, at = source[order], row[order]
            parts.append(Part(mint(), where, at, _pick(sources, where, at) if history else None))
    return parts


def _pick(
    sources: Sequence[Source], where: NDArray[np.int32], row: NDArray[np.int64]
) -> NDArray[np.int64]:
    found = np.empty(len(row), np.int64)
    for number in np.unique(where):
        here = where == number
        found[here] = sources[number].gone[row[here]]
    return found


def _orders(
    sources: Sequence[Source],
    picks: Sequence[NDArray[np.int64]],
    layout: Layout,
    number: int,
    size_bytes: int,
) -> Iterator[NDArray[np.int64]]:
    """Yield, per part, the positions of its rows among those picked, by primary key."""
    key = layout.schema.primary_key
    order = sort_by_key(_column(sources, picks, layout, key))
    if order is None:
        order = np.arange(sum(map(len, picks)))
    grouping = layout.schema.partition_key
    if grouping is not None:
        largest = max(source.record.size_bytes for source in sources)
        number = max(number, min(_KEYED_PARTS, size_bytes // max(1, _FAN_IN * largest)))
    if grouping is None or number < 2:
        yield from np.array_split(order, number)
        return
    values = pc.rank(_column(sources, picks, layout, grouping), tiebreaker="dense").to_numpy()
    counts = np.bincount(values)
    part_of_value = (np.cumsum(counts) - counts) * number // len(order)
    part = part_of_value[values][order]
    for which in np.unique(part):
        rows = order[part == which]
        yield from np.array_split(rows, -(-len(rows) * number // (2 * len(order))))


def _column(
    sources: Sequence[Source], picks: Sequence[NDArray[np.int64]], layout: Layout, name: str
) -> pa.Array:
    return pa.concat_arrays(
        [
            one_array(_view(source, layout).scalars([name])[0].take(pa.array(pick)))
            for source, pick in zip(sources, picks, strict=True)
            if len(pick)
        ]
    )


def _view(source: Source, layout: Layout) -> VisibleSegment:
    return source.segment.view(layout, 0)


def write_part(
    part: Part, sources: Sequence[Source], layout: Layout, prefix: str
) -> Procedure[None]:
    """Write the files of a part, and note their record in it.

    Cost: reads the rows of this part; holds them once, scalars twice.
    """
    rows, timestamps = _gather(part, sources, layout)
    files, written = write_segment(prefix, part.segment_id, layout.schema, rows, timestamps)
    for key, parts in files:
        yield Put(key, parts)
    first = sources[0].record
    part.record = SegmentRecord(
        segment_id=part.segment_id,
        channel=first.channel,
        partition=first.partition,
        schema_version=layout.version,
        row_count=len(part),
        size_bytes=written.size_bytes,
        first_ts=int(timestamps.min()),
        last_ts=int(timestamps.max()),
        files=written.to_json(),
    )


def _gather(
    part: Part, sources: Sequence[Source], layout: Layout
) -> tuple[Rows, NDArray[np.int64]]:
    """Return the rows of a part and when each was inserted."""
    picked = [
        (at, part.row[at], sources[number])
        for number in np.unique(part.source)
        for at in [np.flatnonzero(part.source == number)]
    ]
    timestamps = np.empty(len(part), np.int64)
    position = np.empty(len(part), np.int64)  # of each row among the tables, one after the other
    position[np.concatenate([at for at, _, _ in picked])] = np.arange(len(part))
    tables = []
    for at, rows, source in picked:
        timestamps[at] = source.inserted[rows]
        scalars = _view(source, layout).scalars(layout.scalar_names)
        tables.append(scalars.take(pa.array(rows)))
    table = pa.concat_tables(tables)
    if len(picked) > 1:
        table = table.take(pa.array(position))
    vectors: dict[str, VectorColumn] = {}
    for name, kind in layout.schema.vector_fields.items():
        columns = [(at, rows, _view(source, layout).vectors(name)) for at, rows, source in picked]
        if isinstance(kind, SparseVector):
            taken = [column.take(rows) for _, rows, column in columns]
            sparse = [column for column in taken if isinstance(column, SparseVectors)]
            vectors[name] = SparseVectors.concat(sparse).take(position)
        else:
            vectors[name] = _dense(kind, columns, len(part))
    return Rows(table, vectors), timestamps


def _dense(
    kind: object,
    columns: Sequence[tuple[NDArray[np.int64], NDArray[np.int64], VectorColumn]],
    count: int,
) -> DenseVectors:
    """Return one array, filled from the segments without a copy in between."""
    assert isinstance(kind, Vector | BinaryVector)
    values = np.empty((count, kind.width), kind.numpy_dtype)
    valid = np.ones(count, bool)
    for at, rows, column in columns:
        assert isinstance(column, DenseVectors)
        values[at] = column.values[rows]
        if column.valid is not None:
            valid[at] = column.valid[rows]
    return DenseVectors(values, None if valid.all() else valid)
