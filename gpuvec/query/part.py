"""Parts: rows on their way through a plan, whose columns are read only when asked for."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.query.row_set import RowSet, name_of
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import BinaryVector, FieldType, SparseVector, Vector
from gpuvec.segment.view import FieldStatistics, SegmentView
from gpuvec.types import RowMask

Column = Any  # pa.Array, pa.ChunkedArray, DenseVectors or SparseVectors
ReadColumn = Callable[[str], Column]
LoadColumns = Callable[[Sequence[str]], None]
ReadBatch = Callable[[Sequence[str]], pa.RecordBatch | None]
IntArray = NDArray[np.int64]
ListRows = Callable[[], IntArray]


@dataclass(eq=False, slots=True)
class Part:
    """Some rows. Columns are read once, when first asked for.

    Attributes:
        num_rows: how many.
        read: gives a column of all these rows by name.
        load: reads several columns together, which is faster; None: there is no such way.
        origin: set when the rows are those of one segment that a mask keeps, in row order.
        batch: gives the scalar ones of several columns side by side, from which rows are taken in
            one call; None, or an answer of None: there is no such way.
    """

    num_rows: int
    read: ReadColumn
    load: LoadColumns | None = None
    origin: "Origin | None" = None
    batch: ReadBatch | None = None
    _taken: "tuple[Part, ListRows] | None" = None  # rows of another part, when it is only that
    _seen: dict[str, Column] = field(default_factory=dict, repr=False)

    def column(self, name: str) -> Column:
        """Return a column of all rows."""
        found = self._seen.get(name)
        if found is None:
            found = self._seen[name] = self.read(name)
        return found

    def prepare(self, names: Sequence[str]) -> None:
        """Read columns that will be asked for."""
        missing = [name for name in names if name not in self._seen] if self._seen else names
        found = None if self.batch is None or len(missing) < 2 else self.batch(missing)
        if found is not None:
            self._seen.update(zip(found.schema.names, found.columns, strict=True))
        elif self.load is not None:
            self.load(missing)

    def table(self, names: Sequence[str]) -> pa.Table:
        """Return scalar columns; a table without columns still has the number of rows."""
        self.prepare(names)
        found = {name: self.column(name) for name in names}
        if not found:
            return pa.table({"_gv_row": pa.nulls(self.num_rows)})
        return pa.table(found)

    def take(self, rows: IntArray) -> "Part":
        """Return the given rows, in that order. Columns are read when needed."""
        if self._taken is not None:
            base, own = self._taken
            return base.take(own()[rows])
        return _taken_part(self, len(rows), lambda: rows, None)

    def slice(self, start: int, stop: int) -> "Part":
        """Return rows `start` to `stop`, without copying."""
        if start == 0 and stop >= self.num_rows:
            return self
        if self._taken is not None:
            base, own = self._taken
            return base.take(own()[start:stop])
        return Part(
            stop - start, lambda name: slice_column(self.column(name), start, stop), self.prepare
        )

    def keep(self, mask: RowMask) -> "Part":
        """Return the rows whose bit is set; `mask` counts the rows of this part."""
        if self.origin is None:
            return self.take(np.flatnonzero(mask))
        whole = mask if self.origin.rows is None else self.origin.scatter(mask)
        return self.origin.part(RowSet(whole))

    def derive(self, names: Iterable[str], make: Callable[["Part", str], Column]) -> "Part":
        """Return the same rows with columns that `make(part, name)` computes when asked for."""
        own = frozenset(names)
        plain = self
        if self.origin is not None:
            plain = Part(self.num_rows, self.column, self.prepare, batch=self.batch)

        def read(name: str) -> Column:
            return make(plain, name) if name in own else self.column(name)

        def load(names: Sequence[str]) -> None:
            self.prepare([name for name in names if name not in own])

        def batch(names: Sequence[str]) -> pa.RecordBatch | None:
            return self.batch and self.batch([name for name in names if name not in own])

        origin = None if self.origin is None else self.origin.derive(own, make)
        return Part(self.num_rows, read, load, origin, batch)

    def to_rows(self, names: Sequence[str], vectors: Iterable[str]) -> Rows:
        """Read columns and return them; `vectors` names those that are vector columns."""
        outside = frozenset(vectors)
        if self.batch is not None and not self._seen and outside.isdisjoint(names):
            found = self.batch(names)
            if found is not None and found.num_columns == len(names):
                return Rows(pa.Table.from_batches([found]), {}, tuple(names))
        self.prepare(names)
        table = pa.table({name: self.column(name) for name in names if name not in outside})
        held = {name: self.column(name).loaded() for name in names if name in outside}
        return Rows(table, held, tuple(names))


@dataclass(frozen=True, slots=True, eq=False)
class Origin:
    """The segment behind a part: `base` holds all its rows, `rows` those in the part (None: all).

    Attributes:
        start: rows of the source before this segment.
        computed: columns that are not the segment's own.
    """

    view: SegmentView
    base: Part
    rows: RowSet | None
    start: int = 0
    computed: frozenset[str] = frozenset()

    def statistics(self, name: str) -> FieldStatistics | None:
        """Return what is known of a column without reading it."""
        return None if name in self.computed else self.view.statistics(name)

    @property
    def keep(self) -> RowMask | None:
        """The rows in the part as a mask on the host."""
        return None if self.rows is None else self.rows.mask

    def part(self, rows: RowSet | None) -> Part:
        """Return the part of the same segment with other rows."""
        origin = Origin(self.view, self.base, rows, self.start, self.computed)
        base = self.base
        if rows is None:
            return Part(base.num_rows, base.column, base.prepare, origin, base.batch)
        listed = cache(lambda: np.flatnonzero(rows.mask))  # a search never asks
        return _taken_part(base, rows.count, listed, origin)

    def scatter(self, mask: RowMask) -> RowMask:
        """Return a mask over all rows from a mask over the kept ones."""
        assert self.rows is not None
        whole = np.zeros(self.base.num_rows, bool)
        whole[self.keep] = mask
        return whole

    def derive(self, names: frozenset[str], make: Callable[[Part, str], Column]) -> "Origin":
        """See `Part.derive`."""
        base = self.base.derive(names, make)
        return Origin(self.view, base, self.rows, self.start, self.computed | names)


def _taken_part(base: Part, count: int, rows: ListRows, origin: Origin | None) -> Part:
    """Return so many rows of another part."""

    def read(name: str) -> Column:
        return take_column(base.column(name), rows())

    def batch(names: Sequence[str]) -> pa.RecordBatch | None:
        whole = base.batch and base.batch(names)
        return None if whole is None else whole.take(arrow_numbers(rows()))

    return Part(count, read, base.prepare, origin, batch, (base, rows))


def segment_part(
    view: SegmentView,
    start: int,
    read: ReadColumn,
    load: LoadColumns,
    batch: ReadBatch | None = None,
) -> Part:
    """Return the visible rows of a segment; see `Part` for what gives its columns of all rows."""
    base = Part(view.num_rows, read, load, batch=batch)
    keep = view.keep()
    rows = None if keep is None else RowSet(keep, lambda: name_of(view))
    return Origin(view, base, None, start).part(rows)


def computed_part(num_rows: int, columns: Mapping[str, Column]) -> Part:
    """Return columns in memory as a part."""
    return Part(num_rows, columns.__getitem__)


def gather(parts: Sequence[Part], part_index: IntArray, rows: IntArray) -> Part:
    """Return rows picked from several parts.

    Args:
        parts: where the rows are.
        part_index: (n,) which part each row comes from.
        rows: (n,) its position there.
    """
    if len(parts) == 1:
        return parts[0].take(rows)
    counts = np.bincount(part_index, minlength=len(parts))
    used = np.flatnonzero(counts).tolist()
    if len(used) == 1:
        return parts[used[0]].take(rows)
    order = np.argsort(part_index, kind="stable")
    back = np.empty_like(order)
    back[order] = np.arange(len(order))
    pieces = np.split(rows[order], np.cumsum(counts)[:-1])

    def read(name: str) -> Column:
        taken = [take_column(parts[p].column(name), pieces[p]) for p in used]
        return take_column(concat_columns(taken), back)

    def load(names: Sequence[str]) -> None:
        for number in used:
            parts[number].prepare(names)

    def batch(names: Sequence[str]) -> pa.RecordBatch | None:
        found: list[pa.RecordBatch] = []
        for number in used:
            piece = parts[number].take(pieces[number])
            taken = piece.batch and piece.batch(names)
            if taken is None or (found and taken.schema != found[0].schema):
                return None
            found.append(taken)
        return pa.concat_batches(found).take(arrow_numbers(back))

    return Part(len(rows), read, load, batch=batch)


def concat_parts(parts: Sequence[Part]) -> Part:
    """Return the rows of all parts, in order, as one part; there must be at least one part."""
    if len(parts) == 1:
        return parts[0]

    def load(names: Sequence[str]) -> None:
        for part in parts:
            part.prepare(names)

    total = sum(part.num_rows for part in parts)
    return Part(total, lambda name: concat_columns([part.column(name) for part in parts]), load)


def arrow_numbers(values: NDArray[Any]) -> pa.Array:
    """Return numbers as Arrow holds them, without copying; `pa.array` would import pandas."""
    kind = _ARROW_TYPES.get(values.dtype.char)
    if kind is None:
        return pa.array(values)
    plain = np.ascontiguousarray(values)
    return pa.Array.from_buffers(kind, len(plain), [None, pa.py_buffer(plain)])


def numpy_numbers(column: pa.Array | pa.ChunkedArray) -> NDArray[Any]:
    """Return a column of numbers without nulls as NumPy holds them, without copying one chunk.

    `np.asarray` would import pandas.
    """
    parts = [np.from_dlpack(chunk) for chunk in chunks_of(column)]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


_ARROW_TYPES = {
    np.dtype(name).char: kind
    for name, kind in [("i4", pa.int32()), ("i8", pa.int64()), ("f4", pa.float32())]
}


def take_column(column: Column, rows: IntArray) -> Column:
    """Return the given rows of a column."""
    if isinstance(column, DenseVectors | SparseVectors):
        return column.take(rows)
    return column.take(arrow_numbers(rows))


def take_or_null(column: Column, rows: IntArray) -> Column:
    """Return the given rows of a column; row -1 gives null."""
    missing = rows < 0
    if not missing.any():
        return take_column(column, rows)
    if not isinstance(column, DenseVectors | SparseVectors):
        return column.take(pa.array(rows, mask=missing))
    return _vectors_or_null(column, rows, missing)


def _vectors_or_null(column: VectorColumn, rows: IntArray, missing: RowMask) -> VectorColumn:
    if len(column) == 0:
        return null_vectors(column, len(rows))
    found = column.take(np.where(missing, 0, rows))
    valid = ~missing if found.valid is None else found.valid & ~missing
    if isinstance(found, DenseVectors):
        values = found.values
        values[missing] = 0
        return DenseVectors(values, valid)
    lengths = np.where(missing, 0, np.diff(found.offsets))
    entries = np.repeat(~missing, np.diff(found.offsets))
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    return SparseVectors(offsets, found.indices[entries], found.values[entries], valid)


def null_vectors(like: VectorColumn, count: int) -> VectorColumn:
    """Return `count` null vectors of the kind of another column."""
    none = np.zeros(count, bool)
    if isinstance(like, DenseVectors):
        return DenseVectors(np.zeros((count, like.values.shape[1]), like.values.dtype), none)
    empty = np.zeros(count + 1, np.int64)
    return SparseVectors(empty, like.indices[:0], like.values[:0], none)


def null_column(kind: FieldType, count: int) -> Column:
    """Return `count` nulls of a field type."""
    if isinstance(kind, Vector | BinaryVector):
        return DenseVectors(np.zeros((count, kind.width), kind.numpy_dtype), np.zeros(count, bool))
    if isinstance(kind, SparseVector):
        empty = np.zeros(count + 1, np.int64)
        none: tuple[Any, Any] = (np.empty(0, np.uint32), np.empty(0, np.float32))
        return SparseVectors(empty, *none, np.zeros(count, bool))
    return pa.nulls(count, kind.arrow_type())


def slice_column(column: Column, start: int, stop: int) -> Column:
    """Return rows `start` to `stop` of a column."""
    if isinstance(column, DenseVectors | SparseVectors):
        return column.slice(start, stop)
    return column.slice(start, stop - start)


def concat_columns(columns: Sequence[Column]) -> Column:
    """Return columns of one type, one after the other."""
    if len(columns) == 1:
        return columns[0]
    first: Any = columns[0]
    if isinstance(first, DenseVectors | SparseVectors):
        return type(first).concat(columns)
    chunks = [chunk for column in columns for chunk in chunks_of(column)]
    return pa.chunked_array(chunks, type=first.type)


def chunks_of(column: pa.Array | pa.ChunkedArray) -> list[pa.Array]:
    """Return the chunks of a scalar column."""
    return list(column.chunks) if isinstance(column, pa.ChunkedArray) else [column]
