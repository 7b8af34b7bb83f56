"""What is asked of nodes about some segments of a collection, and what they answer.

Rows are named by segment and number, either among all rows of the segment or among those that pass
the fragment's filters. Rows that are only in the log lie in segments too; their names mean
something at the node alone that said them.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Self

import pyarrow as pa

from gpuvec.index.base import Queries
from gpuvec.query.fragment import Fragment
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import Column
from gpuvec.query.partial import Step
from gpuvec.query.reduce import Hits, IntArray
from gpuvec.types import SegmentId

Numbers = IntArray | range


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Question:
    """About the rows of a fragment."""

    fragment: Fragment

    def only(self, segments: Collection[SegmentId], *, growing: bool) -> Self:
        """See `Question.only`."""
        return self


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CountRows(_Question):
    """How many rows pass? Answered by `Counted`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TakeRows(_Question):
    """What is in these columns of some rows? Answered by `ColumnsRead`.

    Attributes:
        sealed: numbers of rows by segment that is in files.
        growing: the same of rows that are only in the log.
        passing: whether numbers count the rows that pass, not all.
    """

    names: tuple[str, ...]
    sealed: Mapping[SegmentId, Numbers]
    growing: Mapping[SegmentId, Numbers]
    passing: bool

    def only(self, segments: Collection[SegmentId], *, growing: bool) -> Self:
        """See `Question.only`."""
        sealed = {name: self.sealed[name] for name in segments if name in self.sealed}
        return replace(self, sealed=sealed, growing=self.growing if growing else {})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FindKeys(_Question):
    """Where are the rows with these keys? Answered by `KeysFound`.

    Attributes:
        key: the column.
        wanted: distinct values.
    """

    key: str
    wanted: pa.Array


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class GroupRows(_Question):
    """Which groups are there, and what is said of each? Answered by `Grouped`.

    Attributes:
        keys: the columns.
        steps: what is to be said.
    """

    keys: tuple[str, ...]
    steps: tuple[Step, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FirstRows(_Question):
    """Which are the first `count` rows of each combination of keys? Answered by `Grouped`."""

    keys: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchRows(_Question):
    """Which rows are nearest to each query? Answered by `RowsFound`.

    Attributes:
        search: from `fragment.pack_search`.
        queries: as `VectorIndex.search` takes them.
        own_keys: (queries,) primary keys that must not answer; None: no such rule.
        k: rows per query; None: all within the range of the search.
        with_keys: whether the answer has primary keys.
        group: the column whose values the answer has too.
    """

    search: bytes
    queries: Queries
    own_keys: pa.Array | None
    k: int | None
    with_keys: bool
    group: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SearchGroups(SearchRows):
    """Which are the nearest groups, the nearest rows of each? Answered by `RowsFound`."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FillGroups(SearchRows):
    """Which are the nearest rows of some groups? Answered by `RowsFound`, a query for each pair.

    Attributes:
        values: distinct values of the column, one per group.
        pair_query: (pairs,) which query, rising.
        pair_group: (pairs,) which of `values`.
    """

    values: Column
    pair_query: IntArray
    pair_group: IntArray


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answer:
    """What every answer has.

    Attributes:
        metrics: what the node measured.
    """

    metrics: Measurements = field(default_factory=Measurements)

    @property
    def nbytes(self) -> int:
        """About the size of what travels."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """The rows of a fragment in one segment.

    Attributes:
        growing: whether the rows are only in the log.
        after: the segment in files that comes before it, for growing rows; "": none does.
        num_rows: all, hidden ones too.
        passing: those that pass the filters.
    """

    segment_id: SegmentId
    growing: bool
    after: str
    num_rows: int
    passing: int


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Counted(Answer):
    """Answers `CountRows`: pieces in order, also those of which no row passes."""

    pieces: tuple[Piece, ...]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ColumnsRead(Answer):
    """Answers `TakeRows`.

    Attributes:
        segments: in the order of the rows.
        counts: rows of each.
        columns: by name, of all these rows.
    """

    segments: tuple[SegmentId, ...]
    counts: tuple[int, ...]
    columns: Mapping[str, Column]

    @property
    def nbytes(self) -> int:
        """See `Answer.nbytes`."""
        return sum(column.nbytes for column in self.columns.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Grouped(Answer):
    """Answers `GroupRows` and `FirstRows`.

    Attributes:
        pieces: in order; rows that are grouped together with others of the log have one.
        counts: groups, or rows, of each.
        columns: by name, of all these; see `partial.Groups`.
        rows: numbers among those that pass, of `FirstRows`.
    """

    pieces: tuple[Piece, ...]
    counts: tuple[int, ...]
    columns: Mapping[str, Column]
    rows: IntArray | None = None

    @property
    def nbytes(self) -> int:
        """See `Answer.nbytes`."""
        return sum(column.nbytes for column in self.columns.values())


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KeysFound(Answer):
    """Answers `FindKeys`, one entry per row.

    Attributes:
        segments: that have such rows.
        growing: which of them are growing.
        segment: (rows,) which of `segments`.
        row: (rows,) number among all its rows.
        place: (rows,) which of the wanted keys it has.
    """

    segments: tuple[SegmentId, ...]
    growing: tuple[bool, ...]
    segment: IntArray
    row: IntArray
    place: IntArray

    @property
    def nbytes(self) -> int:
        """See `Answer.nbytes`."""
        return 3 * self.row.nbytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class RowsFound(Answer):
    """Answers a search.

    Attributes:
        segments: that have hits.
        growing: which of them are growing.
        hits: `Hits.part` counts `segments`, `Hits.row` all rows of one.
        keys: (hits,) primary keys; None: not asked for.
        groups: (hits,) values of the group column; None: not asked for.
    """

    segments: tuple[SegmentId, ...]
    growing: tuple[bool, ...]
    hits: Hits
    keys: pa.Array | None = None
    groups: Column = None

    @property
    def nbytes(self) -> int:
        """See `Answer.nbytes`."""
        keys = 0 if self.keys is None else self.keys.nbytes
        values = 0 if self.groups is None else self.groups.nbytes
        return self.hits.part.nbytes * 2 + self.hits.distance.nbytes + keys + int(values)
