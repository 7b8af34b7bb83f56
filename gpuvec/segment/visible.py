"""A segment as a read sees it: which rows are visible, and columns under today's schema."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.rows import DenseVectors, SparseVectors, VectorColumn
from gpuvec.schema import BinaryVector, FieldType, Schema, SparseVector, String, Vector
from gpuvec.segment.deletes import DeleteLog
from gpuvec.segment.view import FieldStatistics
from gpuvec.types import RowMask, SegmentId, Timestamp

DYNAMIC = "_gv_dynamic"  # the hidden column of a dynamic schema: JSON text


@dataclass(frozen=True, slots=True)
class Layout:
    """A schema and when each field came into being.

    Rows written before `since[name]` do not have the field, even where an older field had the same name.

    Attributes:
        schema: the fields that exist.
        since: field to the timestamp of the entry that added it; 0, if absent: from the start.
        changed_ts: the timestamp of the last change; 0 when there was none.
    """

    schema: Schema
    since: Mapping[str, Timestamp] = field(default_factory=dict)
    changed_ts: Timestamp = 0

    def has(self, name: str, written_ts: Timestamp) -> bool:
        """Return whether rows laid out at `written_ts` have this field."""
        return self.since.get(name, 0) <= written_ts


class Columns(Protocol):
    """What a segment holds, as it was written. Nothing returned may be changed."""

    @property
    def layout_ts(self) -> Timestamp:
        """`Layout.changed_ts` of the schema under which the rows were laid out."""

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
    generation: int
    num_rows: int
    columns: Columns
    layout: Layout
    deletes: DeleteLog
    delete_count: int  # the deletes up to this version
    hidden_until: Timestamp  # rows inserted up to here were truncated, dropped or outlived; 0: none
    first_ts: Timestamp  # no row was inserted earlier

    def keep(self) -> RowMask | None:
        """See `SegmentView.keep`."""
        return self._keep

    @cached_property
    def _keep(self) -> RowMask | None:
        cut = self.hidden_until >= self.first_ts
        if not cut and not self.delete_count:
            return None
        if cut:
            keep = np.asarray(self.columns.timestamps()[: self.num_rows] > self.hidden_until)
        else:
            keep = np.ones(self.num_rows, bool)
        self.deletes.hide(keep, self.delete_count)
        keep.setflags(write=False)
        return keep

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """See `SegmentView.scalars`."""
        own = [name for name in names if self._has(name)]
        table = self.columns.table(own)
        if len(own) == len(names):
            return table
        columns = {
            name: table[name] if name in own else default_column(self._kind(name), self.num_rows)
            for name in names
        }
        return pa.table(columns)

    def vectors(self, name: str) -> VectorColumn:
        """See `SegmentView.vectors`."""
        if self._has(name):
            return self.columns.vector(name)
        return null_vectors(self.layout.schema[name], self.num_rows)

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `SegmentView.statistics`."""
        if self._has(name):
            return self.columns.statistics(name)
        value = getattr(self._kind(name), "default", None)
        nulls = self.num_rows if value is None else 0
        return FieldStatistics(low=value, high=value, null_count=nulls, row_count=self.num_rows)

    def _has(self, name: str) -> bool:
        return self.layout.has(name, self.columns.layout_ts)

    def _kind(self, name: str) -> FieldType:
        return String(nullable=True) if name == DYNAMIC else self.layout.schema[name]


def default_column(kind: FieldType, count: int) -> pa.Array:
    """Return a scalar field's default, or null, `count` times."""
    value: Any = getattr(kind, "default", None)
    if value is None:
        return pa.nulls(count, kind.arrow_type())
    if kind.KIND == "json" and not isinstance(value, str):
        value = json.dumps(value)
    return pa.repeat(pa.scalar(value, kind.arrow_type()), count)


def null_vectors(kind: FieldType, count: int) -> VectorColumn:
    """Return `count` null vectors."""
    valid = np.zeros(count, bool)
    if isinstance(kind, SparseVector):
        offsets = np.zeros(count + 1, np.int64)
        return SparseVectors(offsets, np.empty(0, np.uint32), np.empty(0, np.float32), valid)
    assert isinstance(kind, Vector | BinaryVector)
    return DenseVectors(np.zeros((count, kind.width), kind.numpy_dtype), valid)
