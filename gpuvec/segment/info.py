"""What is known of a segment without its rows."""

from dataclasses import dataclass

from gpuvec.types import ChannelName, SegmentId, SegmentState, Timestamp


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentInfo:
    """What the catalog knows of one segment; the rows are in its files, or growing in memory."""

    segment_id: SegmentId
    state: SegmentState
    channel: ChannelName
    partition: str
    row_count: int  # deleted rows count until compaction
    deleted_count: int
    size_bytes: int
    first_ts: Timestamp  # of the oldest row
    last_ts: Timestamp  # of the newest row
    indexes: tuple[str, ...] = ()  # fields that have one
