"""Logical plans: what was asked, not how it runs.

A plan is a tree of frozen nodes; each knows its output columns. Nodes are made by
`gpuvec.query.build`, which checks names, types and options, so that a plan that exists can run.
"""

import dataclasses
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from gpuvec.expr.bind import Bound
from gpuvec.once import cached_property
from gpuvec.rows import VectorColumn
from gpuvec.schema import FieldType
from gpuvec.segment.view import Snapshot
from gpuvec.types import Metric


class Fields(Protocol):
    """Named field types and which of them is the primary key; `Schema` is one."""

    @property
    def fields(self) -> dict[str, FieldType]:
        """Name to type, in order."""

    @property
    def primary_key(self) -> str | None:
        """The primary key, if there is one."""


class Source(Protocol):
    """Where rows come from: a collection, a table in memory, Parquet files."""

    @property
    def name(self) -> str:
        """For messages; "" for a table in memory."""

    @property
    def schema(self) -> Fields:
        """The fields at the time of asking."""

    def snapshot(self) -> AbstractContextManager[Snapshot]:
        """Return the source at its newest version, held until the context ends."""


@dataclass(frozen=True, eq=False)
class Columns:
    """The output columns of a plan. What follows from them is found once, at its first use.

    Attributes:
        fields: every column that can be named, in order.
        primary_key: the column whose values are unique and not null, if it is known.
        name: of the collection, for messages.
        hidden: columns that leave only when selected: vectors of search results.
        inner: those of them that cannot be named any more, but that a later search may use.
    """

    fields: dict[str, FieldType]
    primary_key: str | None = None
    name: str = ""
    hidden: frozenset[str] = frozenset()
    inner: frozenset[str] = frozenset()

    @cached_property
    def named(self) -> dict[str, FieldType]:
        """The columns that expressions may name."""
        if not self.inner:
            return self.fields
        return {name: kind for name, kind in self.fields.items() if name not in self.inner}

    @cached_property
    def visible(self) -> tuple[str, ...]:
        """Names of the columns that leave, in order."""
        return tuple(name for name in self.fields if name not in self.hidden)

    @cached_property
    def where(self) -> str:
        """How messages name the place: `collection "items"` or `this frame`."""
        return f'collection "{self.name}"' if self.name else "this frame"

    @cached_property
    def vectors(self) -> dict[str, FieldType]:
        """The vector columns, hidden ones too."""
        return {name: kind for name, kind in self.fields.items() if kind.is_vector}

    @cached_property
    def leaving(self) -> "Columns":
        """The columns that leave, as a schema."""
        fields = {name: self.fields[name] for name in self.visible}
        key = self.primary_key if self.primary_key in fields else None
        return Columns(fields, key, self.name)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Plan:
    """A node; subclasses name what is done."""

    columns: Columns

    @property
    def inputs(self) -> tuple["Plan", ...]:
        """The nodes this one reads, first the one whose rows it passes on."""
        found = [getattr(self, name, None) for name in ("input", "left", "right")]
        return tuple(plan for plan in found if isinstance(plan, Plan))


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Scan(Plan):
    """All rows of a source."""

    source: Source


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Filter(Plan):
    """The rows for which the predicate is true."""

    input: Plan
    predicate: Bound


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Get(Plan):
    """The rows with the given primary keys, in the order of `ids`, without keys of no row."""

    input: Plan
    ids: pa.Array


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Project(Plan):
    """Other columns in another order: `columns` alone tells which."""

    input: Plan


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class WithColumns(Plan):
    """More columns, or columns replaced, computed from the others."""

    input: Plan
    computed: Mapping[str, Bound]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sort(Plan):
    """Rows ordered by columns; stable, nulls last."""

    input: Plan
    keys: tuple[tuple[str, bool], ...]  # name, descending


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Limit(Plan):
    """The first `count` rows."""

    input: Plan
    count: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Slice(Plan):
    """Rows `start` to `stop` of the input, in its order; made by `gpuvec.query.cut` alone."""

    input: Plan
    start: int
    stop: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Sample(Plan):
    """`count` rows drawn without replacement, in the order of the input."""

    input: Plan
    count: int
    seed: int | None


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Join(Plan):
    """Equality join. `renamed` maps output names to the right frame's."""

    left: Plan
    right: Plan
    left_on: tuple[str, ...]
    right_on: tuple[str, ...]
    how: str
    renamed: Mapping[str, str]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Concat(Plan):
    """The rows of several frames with the same columns, one after the other."""

    parts: tuple[Plan, ...]

    @property
    def inputs(self) -> tuple[Plan, ...]:
        """See `Plan.inputs`."""
        return self.parts


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Distinct(Plan):
    """The first row of each combination of values."""

    input: Plan
    names: tuple[str, ...]


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Group(Plan):
    """One row per combination of the keys, in order of first appearance, with aggregates."""

    input: Plan
    keys: tuple[str, ...]
    aggregates: Mapping[str, Any]  # name to `gpuvec.query.aggregate.Aggregate`


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class GroupHead(Plan):
    """The first `count` rows of each combination of the keys, in the order of the input."""

    input: Plan
    keys: tuple[str, ...]
    count: int


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Describe(Plan):
    """One row per column of the input, with what its values are like."""

    input: Plan


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QueryArray:
    """Queries in memory; their ids are row numbers from `first`."""

    vectors: VectorColumn
    first: int = 0

    def __len__(self) -> int:
        return len(self.vectors)


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class QueryFrame:
    """Queries that are rows of another plan; rows with a null vector get no answers.

    Attributes:
        plan: the query frame.
        vector: its vector column.
        query_id: the column that names a query; None: the row number, from `first`.
        key: its primary key, for `exclude_self`.
    """

    plan: Plan
    vector: str
    query_id: str | None
    key: str | None
    first: int = 0


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Search(Plan):
    """The nearest rows of the input for each query.

    Attributes:
        k: neighbours (or groups) per query; None: all of them.
        low, high: only distances in (low, high]; None: no limit.
        group_by, group_size: with a column, `k` counts groups and each gives `group_size` rows.
        exclude_self: leave out the row that has the query's own primary key.
        recall: the target; None: that of each index.
        exact: no index may be used.
        params: knobs for the indexes that have them; None: those that reach the target.
        renamed: output names to names of the input, where they differ.
        place: output column with the row number, for an input without primary key.
    """

    input: Plan
    queries: QueryArray | QueryFrame
    field: str
    metric: Metric
    k: int | None
    low: float | None = None
    high: float | None = None
    group_by: str | None = None
    group_size: int = 1
    exclude_self: bool = False
    recall: float | None = None
    exact: bool = False
    params: Mapping[str, float] | None = None
    renamed: Mapping[str, str] = dataclasses.field(default_factory=dict)
    place: str | None = None

    @property
    def inputs(self) -> tuple[Plan, ...]:
        """See `Plan.inputs`."""
        if isinstance(self.queries, QueryFrame):
            return (self.input, self.queries.plan)
        return (self.input,)
