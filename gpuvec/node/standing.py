"""Where a collection stands as this process knows it: its segments at one version of one entry.

What a plan of a read names is found again at other nodes: segments in files by their ids, rows that
are only in the log by their number, since all nodes read the same log.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from gpuvec.data_messages import ReadPart, ReadPlan
from gpuvec.node.delegator import Segment
from gpuvec.node.shards import Channels
from gpuvec.segment.growing import GrowingSegment
from gpuvec.segment.sealed import SealedSegment
from gpuvec.segment.view import Snapshot
from gpuvec.types import SegmentId, Timestamp, Version

_TRIES = 3


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Standing:
    """A collection at one version.

    Attributes:
        entry_id: of the manifest.
        snapshot: its segments, growing ones too.
        growing: which of them are only in the log.
        growing_rows: rows that are only in the log, also of segments of which no row is seen.
        now_ms: see `ReadPlan`.
    """

    entry_id: int
    snapshot: Snapshot
    growing: frozenset[SegmentId]
    growing_rows: int
    now_ms: int

    @property
    def version(self) -> Version:
        """That it is at."""
        return self.snapshot.version

    def plan(self, collection_id: str) -> ReadPlan:
        """Return what readers are told of it."""
        return ReadPlan(
            collection_id=collection_id,
            entry_id=self.entry_id,
            version=self.version,
            segments=tuple(
                (view.segment_id, view.num_rows)
                for view in self.snapshot
                if view.segment_id not in self.growing
            ),
            growing_rows=self.growing_rows,
            now_ms=self.now_ms,
        )

    def answers(self, part: ReadPart) -> bool:
        """Return whether all rows that are asked about are here."""
        if part.growing and part.growing_rows != self.growing_rows:
            return False
        return {view.segment_id for view in self.snapshot}.issuperset(part.segments)

    def of(self, part: ReadPart) -> Snapshot:
        """Return the segments that are asked about, in their order."""
        wanted = {*part.segments, *(self.growing if part.growing else ())}
        segments = tuple(view for view in self.snapshot if view.segment_id in wanted)
        return replace(self.snapshot, segments=segments)

    def after(self) -> dict[SegmentId, str]:
        """Return, for each growing segment, the one in files that comes before it."""
        found: dict[SegmentId, str] = {}
        last = ""
        for view in self.snapshot:
            if view.segment_id in self.growing:
                found[view.segment_id] = last
            else:
                last = view.segment_id
        return found


def newest(channels: Channels, name: str, now_ms: int) -> Standing:
    """Return the newest version that this process knows; asks the store nothing.

    Args:
        channels: of the collection.
        name: of the collection, for messages.
        now_ms: decides what has outlived its time, if rows ever do.
    """
    at_ms = 0 if channels.state.ttl_s is None else now_ms
    return _standing(channels, lambda: channels.seen(name, now_ms), at_ms)


def at_version(
    channels: Channels, name: str, version: Version, now_ms: int | None = None
) -> Standing:
    """Return an older version, as far as this process knows; asks the store nothing.

    Args:
        channels: of the collection.
        name: of the collection, for messages.
        version: see above.
        now_ms: decides what has outlived its time; None: the version's time does.

    Raises:
        NotFoundError: `GV-641`, there is no such version yet.
        SnapshotExpiredError: `GV-640`, it was forgotten.
    """
    return _standing(
        channels, lambda: channels.seen_at(name, version, now_ms=now_ms)[0], now_ms or 0
    )


def find(channels: Channels, name: str, part: ReadPart) -> Standing | None:
    """Return the version of a plan, as far as this process knows it; None: it cannot be made."""
    now = newest(channels, name, part.now_ms)
    if part.version > now.version:
        return None
    if now.version != part.version or now.now_ms != part.now_ms:
        now = at_version(channels, name, part.version, part.now_ms or None)
    return now if now.answers(part) else None


def is_of(part: ReadPart, plan: ReadPlan) -> bool:
    """Return whether a part that was guessed is one of a plan."""
    guessed = (part.entry_id, part.version, part.growing_rows, part.now_ms)
    return guessed == (plan.entry_id, plan.version, plan.growing_rows, plan.now_ms)


def whole_of(part: ReadPart, plan: ReadPlan) -> ReadPart:
    """Return the same question about all of a plan."""
    return replace(
        part,
        entry_id=plan.entry_id,
        version=plan.version,
        now_ms=plan.now_ms,
        segments=tuple(segment for segment, _ in plan.segments),
        growing=plan.growing_rows > 0,
        growing_rows=plan.growing_rows,
    )


def _standing(channels: Channels, look: Callable[[], Snapshot], now_ms: int) -> Standing:
    """Look between two changes: entry, segments and snapshot shall belong together."""
    for _ in range(_TRIES):
        entry_id, state, segments = channels.shown_entry, channels.state, _published(channels)
        snapshot = look()
        sealed = {s.segment_id for s in segments if isinstance(s, SealedSegment)}
        if (
            sealed == state.segments.keys()
            and channels.shown_entry == entry_id
            and _published(channels) == segments
        ):
            return _at(entry_id, segments, snapshot, now_ms)
    with channels.channels[0].steady():  # a flush ends, or the manifest was looked at alone
        return _at(channels.shown_entry, _published(channels), look(), now_ms)


def _at(entry_id: int, segments: tuple[Segment, ...], snapshot: Snapshot, now_ms: int) -> Standing:
    growing = [segment for segment in segments if isinstance(segment, GrowingSegment)]
    return Standing(
        entry_id=entry_id,
        snapshot=snapshot,
        growing=frozenset(segment.segment_id for segment in growing),
        growing_rows=sum(_rows_until(segment, snapshot.version) for segment in growing),
        now_ms=now_ms,
    )


def _rows_until(segment: GrowingSegment, version: Timestamp) -> int:
    inserted = segment.timestamps(len(segment))
    return int(np.searchsorted(inserted, version, side="right"))


def _published(channels: Channels) -> tuple[Segment, ...]:
    found = (channel.shard.published() for channel in channels.channels)
    return tuple(segment for segments in found for segment in segments)
