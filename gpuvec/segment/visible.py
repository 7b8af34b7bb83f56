"""A segment as a read sees it: which rows are visible, and columns under today's schema."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.columns import default_value
from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.once import cached_property
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import BinaryVector, FieldType, Schema, SparseVector, String, Vector
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.view import FieldStatistics, SegmentIndex
from gpuvec.types import RowMask, SegmentId, Timestamp

NEWEST = 2**63 - 1  # above all versions
_DYNAMIC_KIND = String(nullable=True)


@dataclass(frozen=True, slots=True)
class Layout:
    """A schema and when each field came into being.

    Rows laid out under a version below `since[name]` do not have the field, even where an older
    field had the same name.

    Attributes:
        schema: the fields that exist.
        version: counts the changes of the schema.
        since: field to the version that added it; absent: from the start.
    """

    schema: Schema
    version: int = 0
    since: Mapping[str, int] = field(default_factory=dict)

    def has(self, name: str, version: int) -> bool:
        """Return whether rows laid out under `version` have this field."""
        return self.since.get(name, 0) <= version

    @property
    def scalar_names(self) -> list[str]:
        """The scalar columns that segments keep, the hidden one of a dynamic schema last."""
        names = list(self.schema.scalar_fields)
        return [*names, DYNAMIC_COLUMN] if self.schema.dynamic else names


class Columns(Protocol):
    """What a segment holds, as it was written. Nothing returned may be changed."""

    @property
    def layout_version(self) -> int:
        """`Layout.version` under which the rows were laid out."""

    def table(self, names: Sequence[str]) -> pa.Table:
        """Return scalar columns."""

    def vector(self, name: str) -> VectorColumn:
        """Return a vector column."""

    def timestamps(self) -> NDArray[np.int64]:
        """Return when each row was inserted."""

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `SegmentView.statistics`."""


@dataclass(frozen=True, kw_only=True)
class VisibleSegment:
    """See `SegmentView`."""

    segment_id: SegmentId
    partition: str
    generation: int
    num_rows: int
    columns: Columns
    layout: Layout
    deletes: DeleteLog
    delete_count: int  # the deletes up to this version
    hidden_until: Timestamp  # rows inserted up to here were truncated, dropped or outlived; 0: none
    first_ts: Timestamp  # no row was inserted earlier
    shown_until: Timestamp = NEWEST  # rows inserted later are hidden
    last_ts: Timestamp = 0  # no row was inserted later
    indexes: Mapping[str, SegmentIndex] = field(default_factory=dict)

    def keep(self) -> RowMask | None:
        """See `SegmentView.keep`."""
        return self._keep

    @property
    def is_growing(self) -> bool:
        """Whether its rows are only in the log."""
        return self.generation % (1 << 40) > 0

    @property
    def visibility(self) -> tuple[int, int, int, int]:
        """What `keep` depends on: with segment and generation, a key for caches of masks."""
        return (
            self.deletes.number if self.delete_count else -1,
            self.delete_count,
            self.hidden_until if self._cut else 0,
            self.shown_until if self._young else 0,
        )

    @property
    def _cut(self) -> bool:
        return self.hidden_until >= self.first_ts

    @property
    def _young(self) -> bool:
        return self.last_ts > self.shown_until

    @cached_property
    def _keep(self) -> RowMask | None:
        cut, young = self._cut, self._young
        if not cut and not young and not self.delete_count:
            return None
        keep = np.ones(self.num_rows, bool)
        if cut or young:
            inserted = self.columns.timestamps()[: self.num_rows]
            keep &= inserted > self.hidden_until
            keep &= inserted <= self.shown_until
        self.deletes.hide(keep, self.delete_count)
        keep.setflags(write=False)
        return keep

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """See `SegmentView.scalars`."""
        own = [name for name in names if self._has(name)]
        table = self.columns.table(own)
        columns = [
            table[name] if name in own else default_column(name, self._kind(name), self.num_rows)
            for name in names
        ]
        return pa.Table.from_arrays(columns, names=list(names))  # all segments: one Arrow schema

    def vectors(self, name: str) -> VectorColumn:
        """See `SegmentView.vectors`."""
        if self._has(name):
            return self.columns.vector(name)
        return null_vectors(self.layout.schema[name], self.num_rows)

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `SegmentView.statistics`."""
        if self._has(name):
            return self.columns.statistics(name)
        value = default_value(name, self._kind(name)).as_py()
        nulls = self.num_rows if value is None else 0
        return FieldStatistics(low=value, high=value, null_count=nulls, row_count=self.num_rows)

    def index(self, name: str) -> SegmentIndex | None:
        """See `SegmentView.index`."""
        return self.indexes.get(name)

    def _has(self, name: str) -> bool:
        return self.layout.has(name, self.columns.layout_version)

    def _kind(self, name: str) -> FieldType:
        return field_kind(self.layout.schema, name)


def field_kind(schema: Schema, name: str) -> FieldType:
    """Return the type of a field, or of the hidden column of a dynamic schema."""
    return _DYNAMIC_KIND if name == DYNAMIC_COLUMN else schema[name]


def default_column(name: str, kind: FieldType, count: int) -> pa.Array:
    """Return a scalar field's default, or null, `count` times."""
    return pa.repeat(default_value(name, kind), count)


def null_vectors(kind: FieldType, count: int) -> VectorColumn:
    """Return `count` null vectors."""
    valid = np.zeros(count, bool)
    if isinstance(kind, SparseVector):
        offsets = np.zeros(count + 1, np.int64)
        return SparseVectors(offsets, np.empty(0, np.uint32), np.empty(0, np.float32), valid)
    assert isinstance(kind, Vector | BinaryVector)
    return DenseVectors(np.zeros((count, kind.width), kind.numpy_dtype), valid)


def fit(rows: Rows, layout: Layout, version: int) -> Rows:
    """Return rows laid out under `version` as `layout` wants them: fields filled, others gone."""
    have = [*rows.table.column_names, *rows.vectors]
    kinds = layout.schema.fields
    columns = {
        name: rows.table[name]
        if name in have and layout.has(name, version)
        else default_column(name, kinds.get(name, _DYNAMIC_KIND), len(rows))
        for name in layout.scalar_names
    }
    vectors = {
        name: rows.vectors[name]
        if name in rows.vectors and layout.has(name, version)
        else null_vectors(kind, len(rows))
        for name, kind in layout.schema.vector_fields.items()
    }
    return Rows(pa.table(columns), vectors)
