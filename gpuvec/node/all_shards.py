"""What a collection's channels hold and did, looked at together."""

from collections.abc import Sequence
from dataclasses import replace

from gpuvec.meta.changes import WriteSummary
from gpuvec.node.channel import Channel
from gpuvec.node.delegator import Visibility
from gpuvec.segment.info import SegmentInfo
from gpuvec.segment.sealed import SealedSegment
from gpuvec.types import Timestamp


class AllShards:
    """The open segments of several channels, to look at."""

    def __init__(self, channels: Sequence[Channel]) -> None:
        self._channels = channels

    @property
    def version(self) -> Timestamp:
        """The timestamp of the newest visible write."""
        return max(channel.shard.version for channel in self._channels)

    @property
    def visibility(self) -> Visibility:
        """See `ShardDelegator.visibility`: the same in all channels."""
        return self._channels[0].shard.visibility

    def sealed(self) -> tuple[SealedSegment, ...]:
        """See `ShardDelegator.sealed`."""
        return tuple(segment for channel in self._channels for segment in channel.shard.sealed())

    def infos(self) -> list[SegmentInfo]:
        """See `ShardDelegator.infos`."""
        return [info for channel in self._channels for info in channel.shard.infos()]


def merged(lines: Sequence[WriteSummary]) -> list[WriteSummary]:
    """Return one line per write, by timestamp; the parts of a write have one request's name."""
    found: dict[object, WriteSummary] = {}
    for line in lines:
        name = line.request_id or line.ts
        known = found.get(name)
        found[name] = line if known is None else _sum(known, line)
    return sorted(found.values(), key=lambda line: line.ts)


def _sum(one: WriteSummary, other: WriteSummary) -> WriteSummary:
    return replace(
        one,
        ts=max(one.ts, other.ts),
        inserted=one.inserted + other.inserted,
        updated=one.updated + other.updated,
        deleted=one.deleted + other.deleted,
        size_bytes=one.size_bytes + other.size_bytes,
    )
