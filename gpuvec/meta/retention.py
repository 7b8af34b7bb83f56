"""Which versions are needed, and so which rows: what compaction may forget."""

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter

import numpy as np
from numpy.typing import NDArray

from gpuvec.clock import LOGICAL_BITS, pack_timestamp
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes_versions import Forget
from gpuvec.storage import keys
from gpuvec.types import RowMask, Timestamp

ALIVE = 2**63 - 1  # when a row was deleted that was not


@dataclass(frozen=True, slots=True)
class Needed:
    """The versions that reads may still ask for.

    Attributes:
        since: every version from here on; never above the newest one.
        points: older single versions: tags and living pins; rising.
        outlived: rows whose time to live ended by then are needed by `points` alone.
        time_ms: when that was decided.
    """

    since: Timestamp
    points: tuple[Timestamp, ...] = ()
    outlived: Timestamp = 0
    time_ms: int = 0

    def keeps(self, inserted: NDArray[np.int64], deleted: NDArray[np.int64]) -> RowMask:
        """Return which rows some needed version sees.

        Args:
            inserted: (rows,) when each was inserted.
            deleted: (rows,) from when on each is gone: see `ends`; `ALIVE` where it is not.

        Cost: one pass, and a binary search of the points for rows that are gone.
        """
        keep = deleted > np.maximum(inserted, self.since)
        if self.points and not keep.all():
            gone = np.flatnonzero(~keep)
            points = np.append(np.asarray(self.points, np.int64), ALIVE)
            first = points[np.searchsorted(points[:-1], inserted[gone])]
            keep[gone] = first < deleted[gone]
        return keep

    def covers(self, version: Timestamp) -> bool:
        """Return whether a version can be read."""
        return version >= self.since or version in self.points

    def forget(self) -> Forget:
        """Return the change that must stand before one that drops what is not kept."""
        return Forget(since=self.since, points=self.points, time_ms=self.time_ms)


def needed(state: CollectionState, now_ms: int, *, retention_s: float) -> Needed:
    """Return the versions of a collection that reads may still ask for.

    Args:
        state: the newest one.
        now_ms: the time.
        retention_s: what holds for collections that set none of their own.
    """
    kept_s = retention_s if state.retention_s is None else state.retention_s
    outlived = pack_timestamp(max(0, now_ms - int(kept_s * 1000)))
    before = bisect_right(state.history, outlived, key=attrgetter("ts"))
    begun = [write.ts for write in state.history[:before][-1:]]  # it held then
    if not begun and outlived < created_at(state):
        begun = [0]
    since = max(min(*begun, outlived, newest_version(state)), state.past.forgotten)
    pins = {pin.version for pin in state.pins.values() if pin.expires_ms > now_ms}
    points = {version for version in pins.union(state.tags.values()) if version < since}
    return Needed(since, tuple(sorted(points)), outlived, now_ms)


def created_at(state: CollectionState) -> Timestamp:
    """Return when a collection was made, as its id tells; 0 for ids of other kinds."""
    ulid = state.collection_id.rpartition("-")[2]
    return pack_timestamp(keys.ulid_time_ms(ulid)) if keys.is_ulid(ulid) else 0


def newest_version(state: CollectionState) -> Timestamp:
    """Return the newest timestamp that a manifest speaks of."""
    return max(
        *(channel.flushed_ts for channel in state.channels.values()),
        state.truncated_ts,
        state.changed_ts,
        *state.dropped_partitions.values(),
        *state.partitions.values(),
    )


def readable(state: CollectionState, version: Timestamp) -> bool:
    """Return whether nothing was forgotten that a version needs."""
    if state.external is not None and version < state.external.since:
        return False  # not even a tag keeps the files of others
    past = state.past.forgotten
    points = {*state.tags.values(), *(pin.version for pin in state.pins.values())}
    return version >= past or version in points


def ends(
    state: CollectionState,
    need: Needed,
    partition: str,
    inserted: NDArray[np.int64],
    rows: NDArray[np.int64],
    timestamps: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Return from when on each row of a segment is gone, whatever took it; `ALIVE` where nothing.

    Args:
        state: the newest one: truncations, dropped partitions, time to live.
        need: what it needs.
        partition: of the segment.
        inserted: (n,) when each row was inserted.
        rows: (deletes,) positions of deleted rows, as in the deletion file.
        timestamps: (deletes,) when, rising.
    """
    gone = np.full(len(inserted), ALIVE, np.int64)
    gone[rows[::-1]] = timestamps[::-1]  # the first of several counts
    hidden = np.array([*cuts(state, partition), ALIVE], np.int64)
    np.minimum(gone, hidden[np.searchsorted(hidden[:-1], inserted)], out=gone)
    ttl_s = _longest_ttl(state)
    if ttl_s is not None:
        lived = ((inserted >> LOGICAL_BITS) + int(ttl_s * 1000) + 1) << LOGICAL_BITS
        over = lived <= need.outlived
        gone[over] = np.minimum(gone, np.minimum(lived, need.since))[over]
    return gone


def cuts(state: CollectionState, partition: str) -> Sequence[Timestamp]:
    """Return when all rows of a partition were hidden, rising."""
    found = {
        *state.past.truncations,
        state.truncated_ts,
        state.dropped_partitions.get(partition, 0),
    }
    found |= {gone.until for gone in state.past.partitions if gone.name == partition}
    return sorted(found - {0})


def _longest_ttl(state: CollectionState) -> float | None:
    lives = [state.ttl_s, *(definition.ttl_s for definition in state.past.definitions)]
    return None if None in lives else max(life for life in lives if life is not None)
