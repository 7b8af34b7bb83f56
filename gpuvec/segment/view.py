"""What a read sees: segments as they are at one version."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import pyarrow as pa

from gpuvec.index.base import IndexFile
from gpuvec.index.curve import RecallCurve
from gpuvec.index.spec import IndexSpec
from gpuvec.rows import VectorColumn
from gpuvec.schema import Schema
from gpuvec.types import RowMask, SegmentId, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldStatistics:
    """Bounds of one scalar field over all rows of a segment, deleted ones too.

    `low` and `high` are Python values, None when every row is null. Strings may be cut: `low`
    down, `high` up.
    """

    low: Any
    high: Any
    null_count: int
    row_count: int


class SegmentIndex(Protocol):
    """An index of one field of one segment, in files. Reads nothing before it is asked to."""

    @property
    def index_id(self) -> str:
        """Its name, never reused: a key for caches of the opened index."""

    @property
    def spec(self) -> IndexSpec:
        """What was built, every parameter decided."""

    @property
    def target(self) -> float | None:
        """The recall that the index was made for; a search that names none wants this."""

    @property
    def size_bytes(self) -> int:
        """Bytes of its files."""

    def curve(self, device: str = "cpu") -> RecallCurve | None:
        """Return what was measured on a device; None: nothing, or the index is a scalar one."""

    def files(self) -> Mapping[str, IndexFile]:
        """Return its files by name, each compared with its checksum at its first use."""


class SegmentView(Protocol):
    """One segment at one version; a row has the same position in every column and mask.

    Safe for use by several threads. Nothing returned may be changed.
    """

    @property
    def segment_id(self) -> SegmentId:
        """The segment's name; with `generation`, a key for caches of derived data."""

    @property
    def generation(self) -> int:
        """Changes when rows are added (growing segments); 0 for immutable ones."""

    @property
    def num_rows(self) -> int:
        """All rows, also hidden ones."""

    def keep(self) -> RowMask | None:
        """Return the rows visible at this version, (num_rows,); None when all are."""

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """Return scalar columns of all rows, in the order of `names`."""

    def vectors(self, name: str) -> VectorColumn:
        """Return one vector column of all rows; memory mapped where the store allows it."""

    def statistics(self, name: str) -> FieldStatistics | None:
        """Return what is known of a scalar field without reading rows; None when nothing is."""

    def index(self, name: str) -> SegmentIndex | None:
        """Return the index of a field over all rows of the segment; None where there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """A collection (or an in-memory table) at one version. Held while a read runs, then closed.

    What deletes, TTL, truncation and dropped partitions hide is already out of each view's `keep`.
    `indexes` names the fields that shall have an index, also where none is built yet, and what was
    asked for: None where that is chosen by segment.
    """

    name: str  # of the collection, for messages; "" for an in-memory table
    version: Version
    schema: Schema
    segments: tuple[SegmentView, ...]
    indexes: Mapping[str, IndexSpec | None] = field(default_factory=dict)

    @property
    def num_rows(self) -> int:
        """Rows of all segments, hidden ones too."""
        return sum(segment.num_rows for segment in self.segments)

    def __iter__(self) -> Iterator[SegmentView]:
        return iter(self.segments)
