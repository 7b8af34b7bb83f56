"""The data coordinator: which channels to flush, which indexes to build.

It notes reports, and decides in one pure step.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from gpuvec.messages import ChannelStatus
from gpuvec.meta.catalog import CollectionState, IndexDefinition, SegmentRecord
from gpuvec.types import SegmentId

AUTO_LEAST_ROWS = 5000  # an index that nobody asked for by name does not pay below

_MANY_WRITES = 20_000  # in the log: more would make opening slow
_MANY_DELETES = 1_000_000
_TINY_BYTES = 4 << 20  # the log replays so much in milliseconds: no reason for a small segment
_RETRY_S = 10.0  # after a build's first failure; twice as long after each further one
_LONGEST_RETRY_S = 3600.0


@dataclass(frozen=True, slots=True)
class FlushChannel:
    """Save what a channel holds in segment files."""

    collection_id: str


@dataclass(frozen=True, slots=True, order=True)
class BuildIndex:
    """Give a segment the index that a definition wants."""

    collection_id: str
    segment_id: SegmentId
    field: str
    definition_id: str
    rows: int


@dataclass(frozen=True, slots=True)
class BuildFailure:
    """A build that did not come to its end, and when it is due again (monotonic seconds)."""

    error: Exception
    times: int
    retry_at_s: float


class DataCoord:
    """Keeps logs short, segments large, and indexes built. Owns no thread or clock.

    Args:
        flush_bytes: flush a channel that holds so much.
        age_s: flush one whose oldest write is so old, unless what it holds is tiny.
    """

    def __init__(self, *, flush_bytes: int, age_s: float) -> None:
        self._flush_bytes = flush_bytes
        self._age_s = age_s
        self._seen: dict[str, tuple[ChannelStatus, float]] = {}
        self._states: dict[str, CollectionState] = {}
        self._unbuilt: dict[str, tuple[BuildIndex, ...]] = {}
        self._failures: dict[BuildIndex, BuildFailure] = {}
        self._building: BuildIndex | None = None

    def note(self, status: ChannelStatus, now_s: float) -> None:
        """Note what a channel holds; it is as old as the first report of its oldest write."""
        known = self._seen.get(status.collection_id)
        is_same = known is not None and known[0].oldest == status.oldest
        self._seen[status.collection_id] = (status, known[1] if known and is_same else now_s)

    def note_state(self, collection_id: str, state: CollectionState) -> None:
        """Note which indexes are wanted and built."""
        if self._states.get(collection_id) is state:
            return
        self._states[collection_id] = state
        self._unbuilt[collection_id] = tuple(unbuilt(collection_id, state))
        self._failures = {
            build: failure
            for build, failure in self._failures.items()
            if build.collection_id != collection_id or build in self._unbuilt[collection_id]
        }

    def note_begun(self, build: BuildIndex) -> None:
        """Note that a build is under way; one at a time."""
        self._building = build

    def note_ended(self, build: BuildIndex, error: Exception | None, now_s: float) -> None:
        """Note that a build is no longer under way, and why it failed if it did."""
        self._building = None
        if error is None or build not in self._unbuilt.get(build.collection_id, ()):
            self._failures.pop(build, None)
            return
        times = 1 + (self._failures[build].times if build in self._failures else 0)
        pause_s = min(_RETRY_S * 2 ** (times - 1), _LONGEST_RETRY_S)
        self._failures[build] = BuildFailure(error, times, now_s + pause_s)

    def forget(self, collection_id: str) -> None:
        """Note that a channel is gone."""
        self._seen.pop(collection_id, None)
        self._states.pop(collection_id, None)
        self._unbuilt.pop(collection_id, None)
        gone = [build for build in self._failures if build.collection_id == collection_id]
        for build in gone:
            del self._failures[build]

    def waiting(self, collection_id: str) -> dict[BuildIndex, BuildFailure | None]:
        """Return the builds that a collection waits for, with the last failure of each."""
        builds = self._unbuilt.get(collection_id, ())
        return {build: self._failures.get(build) for build in builds}

    def retry(self, collection_id: str) -> None:
        """Let failed builds of a collection be due at once."""
        for build in self.waiting(collection_id):
            self._failures.pop(build, None)

    def reconcile(self, now_s: float) -> list[FlushChannel | BuildIndex]:
        """Return the flushes that are due at a monotonic time, then at most one build."""
        due = [
            FlushChannel(name)
            for name, (status, since_s) in sorted(self._seen.items())
            if self._is_large(status)
            or (now_s - since_s >= self._age_s and is_worth_a_segment(status))
        ]
        return [*due, *self._next_build(now_s)]

    def _next_build(self, now_s: float) -> list[BuildIndex]:
        """Return the largest segment's build that is due, unless one is under way."""
        if self._building is not None:
            return []
        waiting = [build for builds in list(self._unbuilt.values()) for build in builds]
        due = [build for build in waiting if self._is_due(build, now_s)]
        return sorted(due, key=lambda build: (-build.rows, build))[:1]

    def _is_due(self, build: BuildIndex, now_s: float) -> bool:
        failure = self._failures.get(build)
        return failure is None or now_s >= failure.retry_at_s

    def _is_large(self, status: ChannelStatus) -> bool:
        return (
            status.growing_bytes >= self._flush_bytes
            or status.writes >= _MANY_WRITES
            or status.deletes >= _MANY_DELETES
        )


def is_worth_a_segment(status: ChannelStatus) -> bool:
    """Return whether so much is held that reading it back from the log would be felt."""
    return status.growing_bytes >= _TINY_BYTES or status.writes >= _MANY_WRITES // 20


def unbuilt(collection_id: str, state: CollectionState) -> Iterator[BuildIndex]:
    """Yield the builds that a collection's definitions want and its segments lack."""
    for name, definition in state.indexes.items():
        for segment in state.segments.values():
            record = segment.indexes.get(name)
            built = record is not None and record.definition_id == definition.index_id
            if not built and wants_index(state, segment, name):
                yield BuildIndex(
                    collection_id, segment.segment_id, name, definition.index_id, segment.row_count
                )


def wants_index(state: CollectionState, segment: SegmentRecord, name: str) -> bool:
    """Return whether a segment shall have the index that is defined for a field.

    Not so: segments older than the field, those without a visible row, small ones where the choice
    was left to us, and all where the exact scan was asked for.
    """
    least = least_rows(state.indexes[name])
    return (
        least is not None
        and segment.row_count >= least
        and not is_hidden(state, segment)
        and segment.schema_version >= state.field_versions.get(name, 0)
    )


def is_hidden(state: CollectionState, segment: SegmentRecord) -> bool:
    """Return whether all rows of a segment went with a truncation or their partition."""
    hidden = max(state.truncated_ts, state.dropped_partitions.get(segment.partition, 0))
    return segment.last_ts <= hidden


def least_rows(definition: IndexDefinition) -> int | None:
    """Return how many rows a segment needs for an index; None when none ever gets one."""
    kind = definition.spec["kind"]
    if kind == "flat":
        return None
    return AUTO_LEAST_ROWS if kind == "auto" else 1
