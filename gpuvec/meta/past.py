"""What a collection was before: schemas, partitions and truncations, as far back as a read may go.

Rows carry the times of their insertion and deletion themselves. What hides rows or gives them their
shape without touching them is kept here, so that the newest state serves every version that is
still needed: `state_at` returns it as it was.
"""

from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import TYPE_CHECKING, Any, Self

from gpuvec.schema import Schema
from gpuvec.types import Timestamp

_NEVER = 2**63 - 1

if TYPE_CHECKING:
    from gpuvec.meta.catalog import CollectionState


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """Schema and time to live of the versions below `until`, down to the definition before."""

    until: Timestamp
    schema: Schema
    schema_version: int
    field_versions: Mapping[str, int]
    ttl_s: float | None

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal definition."""
        return {
            "until": self.until,
            "schema": self.schema.to_json(),
            "schema_version": self.schema_version,
            "field_versions": dict(self.field_versions),
            "ttl_s": self.ttl_s,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the definition that `to_json` wrote."""
        return cls(**{**data, "schema": Schema.from_json(data["schema"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class PastPartition:
    """A partition that was there from `since` until it was dropped, at `until`."""

    name: str
    since: Timestamp
    until: Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class PinRecord:
    """A version that a running read needs.

    Attributes:
        version: its rows are kept.
        since_ms: files that were in use then are kept.
        expires_ms: from then on it counts no more, unless it is renewed.
    """

    version: Timestamp
    since_ms: int
    expires_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """See the module. All tuples rise with time.

    Attributes:
        forgotten: versions below it are gone, but for the points that were kept then.
    """

    forgotten: Timestamp = 0
    definitions: tuple[Definition, ...] = ()
    partitions: tuple[PastPartition, ...] = field(default=())
    truncations: tuple[Timestamp, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal past."""
        return {
            "forgotten": self.forgotten,
            "definitions": [definition.to_json() for definition in self.definitions],
            "partitions": [asdict(partition) for partition in self.partitions],
            "truncations": list(self.truncations),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the past that `to_json` wrote."""
        return cls(
            forgotten=data["forgotten"],
            definitions=tuple(Definition.from_json(item) for item in data["definitions"]),
            partitions=tuple(PastPartition(**item) for item in data["partitions"]),
            truncations=tuple(data["truncations"]),
        )

    def definition_at(self, version: Timestamp) -> Definition | None:
        """Return the definition of a version; None when it is the present one."""
        return next((d for d in self.definitions if d.until > version), None)

    def without(self, since: Timestamp, points: Iterable[Timestamp]) -> "Past":
        """Return what versions from `since` on and the older `points` need."""
        marks = sorted({*points, since})
        shapes = {id(self.definition_at(mark)) for mark in marks}
        by_name: dict[str, list[Timestamp]] = {}
        for partition in self.partitions:
            by_name.setdefault(partition.name, []).append(partition.until)
        cuts = {name: _needed_cuts(until, marks) for name, until in by_name.items()}
        truncations = _needed_cuts(self.truncations, marks)
        return Past(
            forgotten=max(since, self.forgotten),
            definitions=tuple(d for d in self.definitions if d.until > since or id(d) in shapes),
            partitions=tuple(
                p
                for p in self.partitions
                if p.until in cuts[p.name] or any(p.since <= m < p.until for m in marks)
            ),
            truncations=tuple(ts for ts in self.truncations if ts in truncations),
        )


def state_at(state: "CollectionState", version: Timestamp) -> "CollectionState":
    """Return a state as it was at a version: schema, partitions, what hides rows, and history.

    Segments, deletes and indexes are those of now: their rows are to be masked by time.
    """
    past = state.past
    shape = past.definition_at(version)
    dropped = {name: ts for name, ts in state.dropped_partitions.items() if ts <= version}
    for gone in past.partitions:
        if gone.until <= version:
            dropped[gone.name] = max(gone.until, dropped.get(gone.name, 0))
    partitions = {name: ts for name, ts in state.partitions.items() if ts <= version}
    partitions |= {p.name: p.since for p in past.partitions if p.since <= version < p.until}
    cuts = (*past.truncations, state.truncated_ts)
    found = replace(
        state,
        partitions=partitions,
        dropped_partitions=dropped,
        truncated_ts=max((ts for ts in cuts if ts <= version), default=0),
        history=tuple(write for write in state.history if write.ts <= version),
    )
    if shape is None:
        return found
    return replace(
        found,
        schema=shape.schema,
        schema_version=shape.schema_version,
        field_versions=shape.field_versions,
        ttl_s=shape.ttl_s,
        indexes={
            name: definition
            for name, definition in state.indexes.items()
            if shape.field_versions.get(name) == state.field_versions.get(name)
        },
    )


def definition_now(state: "CollectionState") -> Definition:
    """Return the present schema and time to live."""
    return Definition(
        until=_NEVER,
        schema=state.schema,
        schema_version=state.schema_version,
        field_versions=state.field_versions,
        ttl_s=state.ttl_s,
    )


def definition_for_rows(state: "CollectionState", schema_version: int) -> Definition:
    """Return the newest schema that loses no value of rows laid out under an older one.

    A dropped field is lost, unless a version that can still be read has it: rows count as having
    every field as old as their schema, those too that came after them and got the default. Rows of
    two segments may be written together where the answer has the same `schema_version`.
    """
    later = [d for d in state.past.definitions if d.schema_version >= schema_version]
    wanted = {item for definition in later for item in definition.field_versions.items()}
    choices = [*later, definition_now(state)]
    return next(
        choice
        for choice in reversed(choices)
        if {item for item in wanted if item[1] <= choice.schema_version}
        <= choice.field_versions.items()
    )


def _needed_cuts(cuts: Iterable[Timestamp], marks: list[Timestamp]) -> set[Timestamp]:
    """Return those of rising cuts that some version sees as the newest one.

    Args:
        cuts: when rows were hidden.
        marks: single versions, rising; the last stands for all after it too.
    """
    known = sorted(cuts)
    seen = {bisect_right(known, mark) - 1 for mark in marks}
    return {ts for i, ts in enumerate(known) if i in seen or ts > marks[-1]}
