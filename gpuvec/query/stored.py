"""Columns of a segment, read when asked for and kept for the next query."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from gpuvec.errors import unknown_field
from gpuvec.query.cache import Key
from gpuvec.query.part import Column
from gpuvec.query.session import Session
from gpuvec.schema import FieldType
from gpuvec.segment.view import SegmentView

MOST_JOINED_BYTES = 1 << 30  # of a column's chunks: texts in one array end at 2 GiB
_BATCH_BYTES = 256  # of a batch beside its columns, for each of them


class StoredColumns:
    """Reads the columns of one segment for one run.

    Args:
        view: the segment. One with `transient` set has nothing of it kept beyond the run.
        session: whose cache keeps scalar columns; vectors are the view's own.
        fields: the types of the columns that there are.
        where: the place that messages name.
    """

    def __init__(
        self, view: SegmentView, session: Session, fields: Mapping[str, FieldType], where: str
    ) -> None:
        self._view = view
        self._cache = session.cache
        self._fields = fields
        self._where = where
        self._kept = not getattr(view, "transient", False)
        self._loaded: dict[str, Column] = {}

    def read(self, name: str) -> Column:
        """Return one column of all rows.

        Raises:
            NotFoundError: `GV-104`, a field that was dropped, or made anew with another type.
        """
        if self._kind(name).is_vector:
            return self._view.vectors(name)
        if name in self._loaded:
            return self._loaded[name]
        if not self._kept:
            return _joined(self._view.scalars([name]).column(0))
        return self._keep(name, lambda: _joined(self._view.scalars([name]).column(0)))

    def load(self, names: Iterable[str]) -> None:
        """Read several scalar columns at once, which takes less time than one after the other."""
        wanted = [
            name
            for name in names
            if name not in self._loaded
            and not self._kind(name).is_vector
            and not (self._kept and self._cache.has(self._key(name)))
        ]
        if len(wanted) < 2:
            return
        for name, column in zip(wanted, self._view.scalars(wanted).columns, strict=True):
            self._loaded[name] = _joined(column)
            if self._kept:
                self._keep(name, lambda name=name: self._loaded[name])

    def batch(self, names: Sequence[str]) -> pa.RecordBatch | None:
        """Return the scalar ones of some columns side by side, of all rows.

        None where a column is in several chunks, or there is none.
        """
        if not self._kept or not self._fields.keys() >= set(names):
            return None
        key = (self._view.segment_id, self._view.generation, "batch", *names)
        found: pa.RecordBatch | None = self._cache.get(
            key,
            lambda: self._side_by_side(names),
            lambda _: _BATCH_BYTES * len(names),
            self._keys_of,
        )
        return found

    def _side_by_side(self, names: Sequence[str]) -> pa.RecordBatch | None:
        scalars = [name for name in names if not self._kind(name).is_vector]
        self.load(scalars)
        columns = [self.read(name) for name in scalars]
        if not columns or any(isinstance(column, pa.ChunkedArray) for column in columns):
            return None
        return pa.RecordBatch.from_arrays(columns, names=scalars)

    def _keys_of(self, batch: pa.RecordBatch | None) -> list[Key]:
        return [] if batch is None else [self._key(name) for name in batch.schema.names]

    def _kind(self, name: str) -> FieldType:
        if name not in self._fields:
            raise unknown_field(name, self._fields, where=self._where)
        return self._fields[name]

    def _keep(self, name: str, make: Any) -> Column:
        return self._cache.get(self._key(name), make, lambda column: column.nbytes)

    def _key(self, name: str) -> Key:
        return (self._view.segment_id, self._view.generation, "column", name)


def _joined(column: pa.ChunkedArray) -> pa.Array | pa.ChunkedArray:
    if column.num_chunks == 1:
        return column.chunk(0)
    return column if column.nbytes > MOST_JOINED_BYTES else column.combine_chunks()
