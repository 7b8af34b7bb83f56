"""What compaction does to a collection's state; see `gpuvec.meta.steps`."""

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gpuvec.errors import manifest_conflict
from gpuvec.meta.changes import Change, SegmentRecord
from gpuvec.meta.changes_compaction import ForgetDead, ReplaceSegments
from gpuvec.meta.files import file_ulids
from gpuvec.types import SegmentId

if TYPE_CHECKING:
    from gpuvec.meta.catalog import CollectionState

_Changed = dict[str, Any]


def _replace_segments(state: "CollectionState", change: ReplaceSegments) -> _Changed:
    for segment_id, seen in change.inputs.items():
        segment = state.segments.get(segment_id)
        if segment is None:
            raise manifest_conflict(f"segment {segment_id} is gone")
        if (None if segment.deletes is None else segment.deletes["key"]) != seen:
            raise manifest_conflict(f"rows of segment {segment_id} were deleted meanwhile")
    for output in change.outputs:
        if output.segment_id in state.segments:
            raise manifest_conflict(f"segment {output.segment_id} exists")
        if state.dead.keys() & file_ulids(output):
            raise manifest_conflict("files of this compaction were collected as orphans")
    segments: dict[SegmentId, SegmentRecord] = {}
    waiting = [_with_wanted_indexes(state, output) for output in change.outputs]
    for segment_id, segment in state.segments.items():
        if segment_id not in change.inputs:
            segments[segment_id] = segment
            continue
        segments.update((output.segment_id, output) for output in waiting)
        waiting = []
    highest = [_highest_key(state, state.segments[name]) for name in change.inputs]
    return {"segments": segments, "last_id": max([state.last_id, *highest])}


def _highest_key(state: "CollectionState", segment: SegmentRecord) -> int:
    """Return the highest integer key of a segment: automatic ones are never used again."""
    bounds = segment.files.get("statistics", {}).get(state.schema.primary_key, {})
    high = bounds.get("high")
    return high if type(high) is int else -1


def _with_wanted_indexes(state: "CollectionState", segment: SegmentRecord) -> SegmentRecord:
    wanted = {
        name: record
        for name, record in segment.indexes.items()
        if name in state.indexes and state.indexes[name].index_id == record.definition_id
    }
    return replace(segment, indexes=wanted)


def _forget_dead(state: "CollectionState", change: ForgetDead) -> _Changed:
    gone = set(change.ids)
    return {"dead": {ulid: ms for ulid, ms in state.dead.items() if ulid not in gone}}


STEPS: dict[type[Change], Callable[["CollectionState", Any], _Changed]] = {
    ReplaceSegments: _replace_segments,
    ForgetDead: _forget_dead,
}
