"""What is known of a segment without its rows, and the life it may lead."""

from dataclasses import dataclass, replace
from typing import Self

from gpuvec.types import SegmentId, SegmentState, Timestamp

TRANSITIONS: dict[SegmentState, frozenset[SegmentState]] = {
    SegmentState.GROWING: frozenset({SegmentState.SEALED, SegmentState.DROPPED}),
    SegmentState.SEALED: frozenset({SegmentState.FLUSHED, SegmentState.DROPPED}),
    SegmentState.FLUSHED: frozenset({SegmentState.INDEXED, SegmentState.DROPPED}),
    SegmentState.INDEXED: frozenset({SegmentState.DROPPED}),
    SegmentState.DROPPED: frozenset(),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """What the catalog knows of one segment; the rows are in its files, or growing in memory."""

    segment_id: SegmentId
    state: SegmentState
    partition: str
    row_count: int  # deleted rows count until compaction
    deleted_count: int
    size_bytes: int
    first_ts: Timestamp  # of the oldest row
    last_ts: Timestamp  # of the newest row

    def moved_to(self, state: SegmentState) -> Self:
        """Return the segment in its next state; a step that `TRANSITIONS` lacks is a bug."""
        if state not in TRANSITIONS[self.state]:
            raise AssertionError(
                f"segment {self.segment_id} is {self.state}, cannot become {state}"
            )
        return replace(self, state=state)
