"""Rows in memory as a source with one segment: what `gv.frame(data)` reads."""

import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from gpuvec.query.plan import Columns
from gpuvec.rows import Rows, VectorColumn
from gpuvec.schema import Schema
from gpuvec.segment.view import FieldStatistics, Snapshot
from gpuvec.types import RowMask, SegmentId

_NUMBERS = itertools.count()


@dataclass(frozen=True, slots=True, eq=False)
class MemoryView:
    """Rows in memory as a segment; see `SegmentView`."""

    segment_id: SegmentId
    rows: Rows
    visible: RowMask | None = None
    generation: int = 0

    @property
    def num_rows(self) -> int:
        """See `SegmentView.num_rows`."""
        return len(self.rows)

    def keep(self) -> RowMask | None:
        """See `SegmentView.keep`."""
        return self.visible

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """See `SegmentView.scalars`."""
        return self.rows.table.select(list(names))

    def vectors(self, name: str) -> VectorColumn:
        """See `SegmentView.vectors`."""
        return self.rows.vectors[name]

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `SegmentView.statistics`; nothing is known."""
        return None

    def index(self, name: str) -> None:
        """See `SegmentView.index`; there is none."""


class MemorySource:
    """A table in memory. Several segments are for tests and for data that comes in chunks."""

    def __init__(self, schema: Columns | Schema, *segments: Rows | MemoryView) -> None:
        self.schema = schema
        self.name = getattr(schema, "name", "")
        self._views = tuple(
            part if isinstance(part, MemoryView) else MemoryView(new_segment_id(), part)
            for part in segments
        )

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Source.snapshot`; the rows never change."""
        schema = cast(Schema, self.schema)  # has fields and a key, which is all that plans read
        yield Snapshot(name=self.name, version=0, schema=schema, segments=cast(Any, self._views))


def new_segment_id() -> SegmentId:
    """Return a name that no other segment of this process has."""
    return SegmentId(f"memory-{next(_NUMBERS)}")
