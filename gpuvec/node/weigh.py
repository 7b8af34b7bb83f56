"""What compaction weighs of the segments in memory; reads no rows."""

from dataclasses import replace

import numpy as np

from gpuvec.messages import SegmentWeight
from gpuvec.meta.catalog import CollectionState, SegmentRecord
from gpuvec.meta.past import definition_for_rows
from gpuvec.meta.retention import ALIVE, Needed, ends
from gpuvec.node.ports import Segments
from gpuvec.segment.sealed import SealedSegment


def weigh(state: CollectionState, shard: Segments, need: Needed) -> tuple[SegmentWeight, ...]:
    """Return the weights of all segments whose files are ours."""
    if state.external is not None:
        return ()
    state = remembering(state, need)
    layouts: dict[int, int] = {}
    found = []
    for segment in shard.sealed():
        record = state.segments.get(segment.segment_id)
        if record is None:
            continue
        version = record.schema_version
        if version not in layouts:
            layouts[version] = definition_for_rows(state, version).schema_version
        hidden = end_of(state, need, record) < ALIVE
        found.append(
            SegmentWeight(
                segment_id=segment.segment_id,
                channel=record.channel,
                partition=record.partition,
                layout=layouts[version],
                rows=len(segment),
                live=0 if hidden else max(0, len(segment) - len(segment.deletes)),
                kept=kept_rows(state, need, segment, record),
                size_bytes=record.size_bytes,
            )
        )
    return tuple(found)


def remembering(state: CollectionState, need: Needed) -> CollectionState:
    """Return a state that remembers of its past only what needed versions need."""
    past = replace(state.past.without(need.since, need.points), forgotten=state.past.forgotten)
    return state if past == state.past else replace(state, past=past)


def kept_rows(
    state: CollectionState, need: Needed, segment: SealedSegment, record: SegmentRecord
) -> int:
    """Return how many rows of a segment some version needs, at most; reads no rows."""
    end = end_of(state, need, record)
    first = np.array([record.first_ts])
    if end < ALIVE and not need.keeps(first, np.array([end])).any():
        return 0
    seen = [point for point in need.points if point >= record.first_ts]
    return len(segment) - segment.deletes.count_until(min([need.since, *seen[:1]]))


def end_of(state: CollectionState, need: Needed, record: SegmentRecord) -> int:
    """Return when the last row of a segment was hidden with others; `ALIVE` when it was not."""
    none = np.empty(0, np.int64)
    return int(ends(state, need, record.partition, np.array([record.last_ts]), none, none)[0])
