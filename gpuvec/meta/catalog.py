"""What exists: the states that the manifest logs fold into.

A state is a value: `apply` returns the next one and leaves the old. It is a pure function of the
log, so every process that reads the same entries holds the same state, and a checkpoint can be
compared with a replay.
"""

from bisect import bisect_left
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from operator import attrgetter
from typing import Any, Self

from gpuvec.clock import pack_timestamp, unpack_timestamp
from gpuvec.errors import manifest_conflict
from gpuvec.meta import changes
from gpuvec.meta.changes import Change, SegmentRecord, WriteSummary
from gpuvec.meta.indexes import IndexDefinition, IndexRecord
from gpuvec.schema import Int64, Schema
from gpuvec.storage import keys
from gpuvec.types import ChannelName, SegmentId, Timestamp

__all__ = [
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

HISTORY_MS = 24 * 3600 * 1000  # how long a flushed write is listed
HISTORY_LINES = 100_000  # and how many at most

_NO_SCHEMA = Schema({"id": Int64()}, "id")  # until `InitCollection`


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseState:
    """The collections of a database, by name."""

    collections: Mapping[str, str] = field(default_factory=dict)  # name to collection id
    aliases: Mapping[str, str] = field(default_factory=dict)  # alias to name

    def resolve(self, name: str) -> str | None:
        """Return the id of the collection that a name or an alias stands for."""
        return self.collections.get(self.aliases.get(name, name))

    def apply(self, change: Change) -> Self:
        """Return the state after a change; `ConflictError` GV-525 when it cannot be."""
        collections, aliases = dict(self.collections), dict(self.aliases)
        match change:
            case changes.TakeGeneration():
                return self
            case changes.CreateCollection():
                self._check_free(change.name)
                collections[change.name] = change.collection_id
            case changes.DropCollection():
                self._check_known(change.name)
                del collections[change.name]
                aliases = {alias: name for alias, name in aliases.items() if name != change.name}
            case changes.RenameCollection():
                self._check_known(change.old)
                self._check_free(change.new)
                collections[change.new] = collections.pop(change.old)
                renamed = {change.old: change.new}
                aliases = {alias: renamed.get(name, name) for alias, name in aliases.items()}
            case changes.SetAlias():
                self._check_known(change.name)
                if change.alias in collections:
                    raise manifest_conflict(f'"{change.alias}" is the name of a collection')
                aliases[change.alias] = change.name
            case changes.DropAlias():
                if aliases.pop(change.alias, None) is None:
                    raise manifest_conflict(f'there is no alias "{change.alias}"')
            case _:
                raise AssertionError(f"a database cannot apply {type(change).__name__}")
        return replace(self, collections=collections, aliases=aliases)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal state."""
        return {"collections": dict(self.collections), "aliases": dict(self.aliases)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state that `to_json` wrote."""
        return cls(**data)

    def _check_free(self, name: str) -> None:
        if name in self.collections or name in self.aliases:
            raise manifest_conflict(f'the name "{name}" is taken')

    def _check_known(self, name: str) -> None:
        if name not in self.collections:
            raise manifest_conflict(f'there is no collection "{name}"')


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelState:
    """How far a channel's log is in files, and who owns it."""

    epoch: int = 0
    flushed_lsn: int = 0  # every log position up to here is in files; 0: none
    flushed_ts: Timestamp = 0
    fences: tuple[int, ...] = ()  # flushed positions that hold fences

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state from its fields."""
        return cls(**{**data, "fences": tuple(data["fences"])})


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
    dead: frozenset[str] = frozenset()  # ULIDs of files that no entry may name any more

    def apply(self, change: Change) -> Self:
        """Return the state after a change; `ConflictError` GV-525 when it cannot be."""
        if not self.collection_id and not isinstance(change, changes.InitCollection):
            raise manifest_conflict("the collection was not created")
        step = _STEPS.get(type(change))
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
            "channels": {
                name: {
                    "epoch": channel.epoch,
                    "flushed_lsn": channel.flushed_lsn,
                    "flushed_ts": channel.flushed_ts,
                    "fences": list(channel.fences),
                }
                for name, channel in self.channels.items()
            },
            "segments": [segment.to_json() for segment in self.segments.values()],
            "indexes": [definition.to_json() for definition in self.indexes.values()],
            "history": [write.to_json() for write in self.history],
            "dead": sorted(self.dead),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the state that `to_json` wrote, also before there were indexes."""
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
                "dead": frozenset(data["dead"]),
            }
        )


def file_ulids(segment: SegmentRecord) -> set[str]:
    """Return the ULIDs under which a segment's files, deletion file and indexes lie."""
    found: set[str] = {segment.segment_id}
    if segment.deletes is not None:
        found.add(key_ulid(segment.deletes["key"]))
    return found.union(*map(index_ulids, segment.indexes.values()))


def index_ulids(record: IndexRecord) -> set[str]:
    """Return the ULIDs under which an index's files lie."""
    found = (keys.parse_index(file["key"]) for file in record.files.values())
    return {ulid for ulid in found if ulid is not None}


def key_ulid(key: str) -> str:
    """Return the ULID of a deletion file's key."""
    return key.rpartition("/")[2].partition(".")[0]


_Changed = dict[str, Any]  # the fields of a `CollectionState` that a change replaces


def _init(state: CollectionState, change: changes.InitCollection) -> _Changed:
    if state.collection_id:
        raise manifest_conflict("the collection exists")
    return {
        "collection_id": change.collection_id,
        "schema": change.schema,
        "schema_version": 1,
        "field_versions": dict.fromkeys(change.schema.fields, 1),
        "channels": {name: ChannelState() for name in change.channels},
    }


def _add_field(state: CollectionState, change: changes.AddField) -> _Changed:
    if change.name in state.schema.fields:
        raise manifest_conflict(f'the field "{change.name}" exists')
    version = state.schema_version + 1
    return {
        "schema": state.schema.with_field(change.name, change.field_type),
        "schema_version": version,
        "field_versions": {**state.field_versions, change.name: version},
    }


def _drop_field(state: CollectionState, change: changes.DropField) -> _Changed:
    if change.name not in state.schema.fields:
        raise manifest_conflict(f'there is no field "{change.name}"')
    return {
        "schema": state.schema.without_field(change.name),
        "schema_version": state.schema_version + 1,
        "field_versions": {n: v for n, v in state.field_versions.items() if n != change.name},
        **_without_index(state, change.name),
    }


def _without_index(state: CollectionState, name: str) -> _Changed:
    """Return definitions and segments without any index of a field."""
    return {
        "indexes": {n: definition for n, definition in state.indexes.items() if n != name},
        "segments": {
            segment_id: replace(segment, indexes=_without(segment.indexes, name))
            if name in segment.indexes
            else segment
            for segment_id, segment in state.segments.items()
        },
    }


def _without(indexes: Mapping[str, IndexRecord], name: str) -> Mapping[str, IndexRecord]:
    return {field: record for field, record in indexes.items() if field != name}


def _set_index(state: CollectionState, change: changes.SetIndex) -> _Changed:
    definition = change.definition
    if definition.field not in state.schema.fields:
        raise manifest_conflict(f'there is no field "{definition.field}"')
    if change.keeps:
        return {"indexes": {**state.indexes, definition.field: definition}}
    changed = _without_index(state, definition.field)
    return {**changed, "indexes": {**changed["indexes"], definition.field: definition}}


def _drop_index(state: CollectionState, change: changes.DropIndex) -> _Changed:
    if change.field not in state.indexes:
        raise manifest_conflict(f'the field "{change.field}" has no index')
    return _without_index(state, change.field)


def _add_index(state: CollectionState, change: changes.AddIndex) -> _Changed:
    record = change.record
    segment = state.segments.get(change.segment_id)
    if segment is None or segment.schema_version < state.field_versions.get(record.field, 0):
        raise manifest_conflict(f'no segment {change.segment_id} has a field "{record.field}"')
    definition = state.indexes.get(record.field)
    if definition is None or definition.index_id != record.definition_id:
        raise manifest_conflict(f'another index of the field "{record.field}" is wanted')
    if state.dead & index_ulids(record):
        raise manifest_conflict("files of this index were collected as orphans")
    indexed = replace(segment, indexes={**segment.indexes, record.field: record})
    return {"segments": {**state.segments, change.segment_id: indexed}}


def _add_partition(state: CollectionState, change: changes.AddPartition) -> _Changed:
    return {"partitions": {change.name: change.ts, **state.partitions}}


def _drop_partition(state: CollectionState, change: changes.DropPartition) -> _Changed:
    if change.name not in state.partitions:
        raise manifest_conflict(f'there is no partition "{change.name}"')
    return {
        "partitions": {n: ts for n, ts in state.partitions.items() if n != change.name},
        "dropped_partitions": {**state.dropped_partitions, change.name: change.ts},
    }


def _truncate(state: CollectionState, change: changes.Truncate) -> _Changed:
    return {"truncated_ts": max(state.truncated_ts, change.ts)}


def _set_ttl(_: CollectionState, change: changes.SetTtl) -> _Changed:
    return {"ttl_s": change.ttl_s}


def _set_epoch(state: CollectionState, change: changes.SetEpoch) -> _Changed:
    channel = _channel(state, change.channel)
    if change.epoch != channel.epoch + 1:
        raise manifest_conflict(f"channel {change.channel} has a newer owner")
    return {"channels": {**state.channels, change.channel: replace(channel, epoch=change.epoch)}}


def _flush(state: CollectionState, change: changes.Flush) -> _Changed:
    channel = _channel(state, change.channel)
    if channel.epoch != change.epoch:
        raise manifest_conflict(f"channel {change.channel} has a newer owner")
    if channel.flushed_lsn != change.from_lsn:
        raise manifest_conflict(f"channel {change.channel} is flushed to {channel.flushed_lsn}")
    segments = dict(state.segments)
    segments.update((segment.segment_id, segment) for segment in change.segments)
    for segment_id, record in change.deletes.items():
        if segment_id not in segments:
            raise manifest_conflict(f"segment {segment_id} is gone")
        segments[segment_id] = replace(segments[segment_id], deletes=record)
    touched = {*change.deletes, *(segment.segment_id for segment in change.segments)}
    if any(state.dead & file_ulids(segments[name]) for name in touched):
        raise manifest_conflict("files of this flush were collected as orphans")
    flushed = replace(
        channel,
        flushed_lsn=change.to_lsn,
        flushed_ts=change.last_ts,
        fences=tuple(sorted({*channel.fences, *change.fences})),
    )
    return {
        "segments": segments,
        "channels": {**state.channels, change.channel: flushed},
        "history": _newest(state.history + change.writes),
    }


def _newest(writes: tuple[WriteSummary, ...]) -> tuple[WriteSummary, ...]:
    """Return the writes that stay listed, by timestamp."""
    ordered = sorted(writes, key=_write_ts)[-HISTORY_LINES:]
    newest_ms, _ = unpack_timestamp(ordered[-1].ts if ordered else 0)
    oldest = pack_timestamp(max(0, newest_ms - HISTORY_MS))
    return tuple(ordered[bisect_left(ordered, oldest, key=_write_ts) :])


_write_ts = attrgetter("ts")


def _mark_dead(state: CollectionState, change: changes.MarkDead) -> _Changed:
    if any(file_ulids(segment).intersection(change.ids) for segment in state.segments.values()):
        raise manifest_conflict("files to be collected are in use")
    return {"dead": state.dead.union(change.ids)}


def _channel(state: CollectionState, name: ChannelName) -> ChannelState:
    if name not in state.channels:
        raise manifest_conflict(f"there is no channel {name}")
    return state.channels[name]


_STEPS: dict[type[Change], Callable[[CollectionState, Any], _Changed]] = {
    changes.InitCollection: _init,
    changes.AddField: _add_field,
    changes.DropField: _drop_field,
    changes.AddPartition: _add_partition,
    changes.DropPartition: _drop_partition,
    changes.Truncate: _truncate,
    changes.SetTtl: _set_ttl,
    changes.SetEpoch: _set_epoch,
    changes.Flush: _flush,
    changes.SetIndex: _set_index,
    changes.DropIndex: _drop_index,
    changes.AddIndex: _add_index,
    changes.MarkDead: _mark_dead,
}
