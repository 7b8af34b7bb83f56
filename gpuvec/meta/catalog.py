"""What exists: the states that the manifest logs fold into.

A state is a value: `apply` returns the next one and leaves the old. It is a pure function of the
log, so every process that reads the same entries holds the same state, and a checkpoint can be
compared with a replay.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Self

from gpuvec.errors import manifest_conflict
from gpuvec.meta.changes import Change, SegmentRecord, WriteSummary
from gpuvec.meta.channel_state import ChannelState
from gpuvec.meta.database_state import DatabaseState
from gpuvec.meta.external import External
from gpuvec.meta.files import file_ulids, key_ulid
from gpuvec.meta.indexes import IndexDefinition, IndexRecord
from gpuvec.meta.past import Past, PinRecord
from gpuvec.meta.steps import FIRST, HISTORY_LINES, STEPS
from gpuvec.schema import Int64, Schema
from gpuvec.types import ChannelName, SegmentId, Timestamp

__all__ = [
    "HISTORY_LINES",
    "ChannelState",
    "CollectionState",
    "DatabaseState",
    "IndexDefinition",
    "IndexRecord",
    "SegmentRecord",
    "WriteSummary",
    "file_ulids",
    "key_ulid",
]

_NO_SCHEMA = Schema({"id": Int64()}, "id")  # until `InitCollection`


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectionState:
    """One collection: schema, partitions, flushed segments, and the writes that they came from.

    A column `f` of a segment is the present field `f` only if the segment's `schema_version` is at
    least `field_versions[f]`: a field dropped and added again is a new one.
    """

    collection_id: str = ""  # "" before `InitCollection`
    schema: Schema = _NO_SCHEMA
    schema_version: int = 0
    field_versions: Mapping[str, int] = field(default_factory=dict)
    partitions: Mapping[str, Timestamp] = field(default_factory=dict)  # name to when it came
    dropped_partitions: Mapping[str, Timestamp] = field(default_factory=dict)
    truncated_ts: Timestamp = 0
    ttl_s: float | None = None
    channels: Mapping[ChannelName, ChannelState] = field(default_factory=dict)
    segments: Mapping[SegmentId, SegmentRecord] = field(default_factory=dict)
    indexes: Mapping[str, IndexDefinition] = field(default_factory=dict)  # by field
    history: tuple[WriteSummary, ...] = ()  # the newest flushed writes, by timestamp
    dead: Mapping[str, int] = field(default_factory=dict)  # ULIDs no entry may name: since when
    last_id: int = -1  # the highest integer key among rows that compaction removed
    changed_ts: Timestamp = 0  # of the newest change of schema or time to live
    past: Past = field(default_factory=Past)
    tags: Mapping[str, Timestamp] = field(default_factory=dict)  # name to version
    pins: Mapping[str, PinRecord] = field(default_factory=dict)
    retention_s: float | None = None  # None: what the settings say
    external: External | None = None  # of a collection that reads files of others

    def apply(self, change: Change) -> Self:
        """Return the state after a change; `ConflictError` GV-525 when it cannot be."""
        if not self.collection_id and not isinstance(change, FIRST):
            raise manifest_conflict("the collection was not created")
        step = STEPS.get(type(change))
        if step is None:
            raise AssertionError(f"a collection cannot apply {type(change).__name__}")
        return replace(self, **step(self, change))

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal state."""
        return {
            "collection_id": self.collection_id,
            "schema": self.schema.to_json(),
            "schema_version": self.schema_version,
            "field_versions": dict(self.field_versions),
            "partitions": dict(self.partitions),
            "dropped_partitions": dict(self.dropped_partitions),
            "truncated_ts": self.truncated_ts,
            "ttl_s": self.ttl_s,
            "channels": {name: channel.to_json() for name, channel in self.channels.items()},
            "segments": [segment.to_json() for segment in self.segments.values()],
            "indexes": [definition.to_json() for definition in self.indexes.values()],
            "history": [write.to_json() for write in self.history],
            "dead": dict(self.dead),
            "last_id": self.last_id,
            "changed_ts": self.changed_ts,
            "past": self.past.to_json(),
            "tags": dict(self.tags),
            "pins": {name: asdict(pin) for name, pin in self.pins.items()},
            "retention_s": self.retention_s,
            **({} if self.external is None else {"external": asdict(self.external)}),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state that `to_json` wrote, also before there were indexes, tags and pins."""
        past = Past.from_json(data["past"]) if "past" in data else Past()
        dead = data["dead"]  # a list, before there were times
        segments = [SegmentRecord.from_json(item) for item in data["segments"]]
        indexes = [IndexDefinition.from_json(item) for item in data.get("indexes", ())]
        return cls(
            **{
                **data,
                "schema": Schema.from_json(data["schema"]),
                "channels": {n: ChannelState.from_json(c) for n, c in data["channels"].items()},
                "segments": {segment.segment_id: segment for segment in segments},
                "indexes": {definition.field: definition for definition in indexes},
                "history": tuple(WriteSummary.from_json(item) for item in data["history"]),
                "dead": dead if isinstance(dead, Mapping) else dict.fromkeys(dead, 0),
                "past": past,
                "external": External(**data["external"]) if "external" in data else None,
                "pins": {name: PinRecord(**pin) for name, pin in data.get("pins", {}).items()},
            }
        )
