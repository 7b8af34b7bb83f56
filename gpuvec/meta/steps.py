"""What each change does to a collection's state, and what must hold for it to be done."""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from dataclasses import replace
from operator import attrgetter
from typing import TYPE_CHECKING, Any

from gpuvec.clock import pack_timestamp, unpack_timestamp
from gpuvec.errors import manifest_conflict
from gpuvec.meta import (
    changes,
    changes_import,
    steps_compaction,
    steps_import,
    steps_versions,
)
from gpuvec.meta.changes import Change, WriteSummary
from gpuvec.meta.changes_versions import AdoptState
from gpuvec.meta.channel_state import ChannelState, without_settled_commits
from gpuvec.meta.files import file_ulids, index_ulids, with_files
from gpuvec.meta.indexes import IndexRecord
from gpuvec.meta.past import PastPartition
from gpuvec.types import ChannelName

if TYPE_CHECKING:
    from gpuvec.meta.catalog import CollectionState

HISTORY_MS = 24 * 3600 * 1000  # how long a flushed write is listed
HISTORY_LINES = 100_000  # and how many at most

_Changed = dict[str, Any]  # the fields of a `CollectionState` that a change replaces


def _init(state: "CollectionState", change: changes.InitCollection) -> _Changed:
    if state.collection_id:
        raise manifest_conflict("the collection exists")
    return {
        "collection_id": change.collection_id,
        "schema": change.schema,
        "schema_version": 1,
        "field_versions": dict.fromkeys(change.schema.fields, 1),
        "channels": {name: ChannelState() for name in change.channels},
    }


def _add_field(state: "CollectionState", change: changes.AddField) -> _Changed:
    if change.name in state.schema.fields:
        raise manifest_conflict(f'the field "{change.name}" exists')
    version = state.schema_version + 1
    return {
        "schema": state.schema.with_field(change.name, change.field_type),
        "schema_version": version,
        "field_versions": {**state.field_versions, change.name: version},
        **steps_versions.redefined(state, change.ts, f"add_field {change.name}"),
    }


def _drop_field(state: "CollectionState", change: changes.DropField) -> _Changed:
    if change.name not in state.schema.fields:
        raise manifest_conflict(f'there is no field "{change.name}"')
    return {
        "schema": state.schema.without_field(change.name),
        "schema_version": state.schema_version + 1,
        "field_versions": {n: v for n, v in state.field_versions.items() if n != change.name},
        **_without_index(state, change.name),
        **steps_versions.redefined(state, change.ts, f"drop_field {change.name}"),
    }


def _without_index(state: "CollectionState", name: str) -> _Changed:
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


def _set_index(state: "CollectionState", change: changes.SetIndex) -> _Changed:
    definition = change.definition
    if definition.field not in state.schema.fields:
        raise manifest_conflict(f'there is no field "{definition.field}"')
    if change.keeps:
        return {"indexes": {**state.indexes, definition.field: definition}}
    changed = _without_index(state, definition.field)
    return {**changed, "indexes": {**changed["indexes"], definition.field: definition}}


def _drop_index(state: "CollectionState", change: changes.DropIndex) -> _Changed:
    if change.field not in state.indexes:
        raise manifest_conflict(f'the field "{change.field}" has no index')
    return _without_index(state, change.field)


def _add_index(state: "CollectionState", change: changes.AddIndex) -> _Changed:
    record = change.record
    segment = state.segments.get(change.segment_id)
    if segment is None or segment.schema_version < state.field_versions.get(record.field, 0):
        raise manifest_conflict(f'no segment {change.segment_id} has a field "{record.field}"')
    definition = state.indexes.get(record.field)
    if definition is None or definition.index_id != record.definition_id:
        raise manifest_conflict(f'another index of the field "{record.field}" is wanted')
    if state.dead.keys() & index_ulids(record):
        raise manifest_conflict("files of this index were collected as orphans")
    indexed = replace(segment, indexes={**segment.indexes, record.field: record})
    return {"segments": {**state.segments, change.segment_id: indexed}}


def _add_partition(state: "CollectionState", change: changes.AddPartition) -> _Changed:
    return {"partitions": {change.name: change.ts, **state.partitions}}


def _drop_partition(state: "CollectionState", change: changes.DropPartition) -> _Changed:
    if change.name not in state.partitions:
        raise manifest_conflict(f'there is no partition "{change.name}"')
    since = state.partitions[change.name]
    gone = PastPartition(name=change.name, since=since, until=change.ts)
    return {
        "partitions": {n: ts for n, ts in state.partitions.items() if n != change.name},
        "dropped_partitions": {**state.dropped_partitions, change.name: change.ts},
        "past": replace(state.past, partitions=(*state.past.partitions, gone)),
        "history": steps_versions.told(state, change.ts, f"drop_partition {change.name}"),
    }


def _truncate(state: "CollectionState", change: changes.Truncate) -> _Changed:
    truncations = tuple(sorted({*state.past.truncations, state.truncated_ts, change.ts} - {0}))
    return {
        "truncated_ts": truncations[-1],
        "past": replace(state.past, truncations=truncations),
        "history": steps_versions.told(state, change.ts, "truncate"),
    }


def _set_ttl(state: "CollectionState", change: changes.SetTtl) -> _Changed:
    return {"ttl_s": change.ttl_s, **steps_versions.redefined(state, change.ts, "set_ttl")}


def _set_epoch(state: "CollectionState", change: changes.SetEpoch) -> _Changed:
    channel = _channel(state, change.channel)
    if change.epoch != channel.epoch + 1:
        raise manifest_conflict(f"channel {change.channel} has a newer owner")
    return {"channels": {**state.channels, change.channel: replace(channel, epoch=change.epoch)}}


def _flush(state: "CollectionState", change: changes.Flush) -> _Changed:
    channel = _channel(state, change.channel)
    if channel.epoch != change.epoch:
        raise manifest_conflict(f"channel {change.channel} has a newer owner")
    if channel.flushed_lsn != change.from_lsn:
        raise manifest_conflict(f"channel {change.channel} is flushed to {channel.flushed_lsn}")
    segments = with_files(
        state.segments, change.segments, change.deletes, dead=state.dead, what="flush"
    )
    flushed = replace(
        channel,
        flushed_lsn=change.to_lsn,
        flushed_ts=change.last_ts,
        fences=tuple(sorted({*channel.fences, *change.fences})),
        commits=channel.commits + change.commits,
    )
    channels = without_settled_commits({**state.channels, change.channel: flushed})
    return {
        "segments": segments,
        "channels": channels,
        "history": _newest(state.history + change.writes, state),
    }


def _newest(writes: tuple[WriteSummary, ...], state: "CollectionState") -> tuple[WriteSummary, ...]:
    """Return the writes that stay listed, by timestamp: young ones, and those with a tag."""
    ordered = sorted(writes, key=_write_ts)
    newest_ms, _ = unpack_timestamp(ordered[-1].ts if ordered else 0)
    listed_ms = max(HISTORY_MS, int((state.retention_s or 0) * 1000))
    oldest = pack_timestamp(max(0, newest_ms - listed_ms))
    cut = bisect_right(ordered, oldest, key=_write_ts) - 1  # what held at that time stays too
    cut = max(cut, len(ordered) - HISTORY_LINES, 0)
    tagged = set(state.tags.values())
    return (*(write for write in ordered[:cut] if write.ts in tagged), *ordered[cut:])


_write_ts = attrgetter("ts")


def _mark_dead(state: "CollectionState", change: changes.MarkDead) -> _Changed:
    if any(file_ulids(segment).intersection(change.ids) for segment in state.segments.values()):
        raise manifest_conflict("files to be collected are in use")
    return {"dead": {**dict.fromkeys(change.ids, change.time_ms), **state.dead}}


def _channel(state: "CollectionState", name: ChannelName) -> ChannelState:
    if name not in state.channels:
        raise manifest_conflict(f"there is no channel {name}")
    return state.channels[name]


def _add_segments(state: "CollectionState", change: changes_import.AddSegments) -> _Changed:
    added = steps_import.add_segments(state, change)
    return {**added, "history": _newest((*state.history, change.write), state)}


def _follow_files(state: "CollectionState", change: changes_import.FollowFiles) -> _Changed:
    followed = steps_import.follow_files(state, change)
    return {**followed, "history": _newest((*state.history, change.write), state)}


FIRST = (changes.InitCollection, AdoptState)  # with one of these a collection's log begins

STEPS: dict[type[Change], Callable[["CollectionState", Any], _Changed]] = {
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
    changes_import.AddSegments: _add_segments,
    changes_import.FollowFiles: _follow_files,
    **steps_versions.STEPS,
    **steps_compaction.STEPS,
}
