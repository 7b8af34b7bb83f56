"""The data coordinator: what to flush, to build, to compact and to collect.

It notes reports, and decides in one pure step.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from gpuvec.coord.compaction import Wanted, plan_compaction, pressure
from gpuvec.messages import ChannelStatus, SegmentWeight
from gpuvec.meta.catalog import CollectionState, IndexDefinition, SegmentRecord
from gpuvec.types import SegmentId

AUTO_LEAST_ROWS = 5000  # an index that nobody asked for by name does not pay below

_MANY_WRITES = 20_000  # in the log: more would make opening slow
_MANY_DELETES = 1_000_000
_TINY_BYTES = 4 << 20  # the log replays so much in milliseconds: no reason for a small segment
_RETRY_S = 10.0  # after a job's first failure; twice as long after each further one
_LONGEST_RETRY_S = 3600.0
_COLLECT_S = 600.0  # from one look for unused files to the next, if anything was committed
_COLLECT_SOON_S = 60.0  # where much was replaced since
_FIRST_COLLECT_S = 10.0  # after the first report: what processes left that died


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


@dataclass(frozen=True, slots=True, order=True)
class CompactSegments:
    """Put other segments in the place of some.

    Attributes:
        bytes: that are written.
    """

    collection_id: str
    segments: tuple[SegmentId, ...]
    bytes: int


@dataclass(frozen=True, slots=True)
class CollectFiles:
    """Mark files that no entry names, and delete those that were marked long ago."""

    collection_id: str


HeavyJob = BuildIndex | CompactSegments
Command = FlushChannel | CollectFiles | HeavyJob


@dataclass(frozen=True, slots=True)
class Failure:
    """A job that did not come to its end, and when it is due again (monotonic seconds)."""

    error: Exception
    times: int
    retry_at_s: float


@dataclass(slots=True)
class _Files:
    """What is known of the unused files of a collection."""

    due_s: float  # when to look next
    state: CollectionState | None = None  # at the last look
    waiting: bool = False  # whether some could not be deleted yet
    replaced_bytes: int = 0  # since then


class DataCoord:
    """Keeps logs short, segments large and few, indexes built, and the store free of unused files.

    Owns no thread or clock.

    Args:
        flush_bytes: flush a channel that holds so much.
        age_s: flush one whose oldest write is so old, unless what it holds is tiny.
        wanted: how large segments shall be.
    """

    def __init__(self, *, flush_bytes: int, age_s: float, wanted: Wanted | None = None) -> None:
        self._flush_bytes = flush_bytes
        self._age_s = age_s
        self.wanted = wanted or Wanted(size_bytes=1 << 30)
        self._seen: dict[str, tuple[ChannelStatus, float]] = {}
        self._states: dict[str, CollectionState] = {}
        self._unbuilt: dict[str, tuple[BuildIndex, ...]] = {}
        self._failures: dict[BuildIndex, Failure] = {}
        self._weights: dict[str, tuple[SegmentWeight, ...]] = {}
        self._uncompacted: dict[str, Failure] = {}
        self._files: dict[str, _Files] = {}
        self._jobs: set[HeavyJob] = set()  # under way
        self._compacted_last = False

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

    def note_weights(self, collection_id: str, weights: Sequence[SegmentWeight]) -> None:
        """Note what segments hold, and how much of it is needed."""
        self._weights[collection_id] = tuple(weights)

    def note_begun(self, job: HeavyJob) -> None:
        """Note that a job is under way."""
        self._jobs.add(job)
        self._compacted_last = isinstance(job, CompactSegments)

    def note_ended(self, job: HeavyJob, error: Exception | None, now_s: float) -> None:
        """Note that a job is no longer under way, and why it failed if it did."""
        self._jobs.discard(job)
        name = job.collection_id
        if isinstance(job, CompactSegments):
            gone = set(job.segments)
            left = [w for w in self._weights.get(name, ()) if w.segment_id not in gone]
            self._weights[name] = tuple(left)  # until the next report
            self._note_failure(self._uncompacted, name, error, now_s)
            if name in self._files:
                self._files[name].replaced_bytes += job.bytes
        elif job in self._unbuilt.get(name, ()):
            self._note_failure(self._failures, job, error, now_s)
        else:
            self._failures.pop(job, None)

    def _note_failure(
        self, failures: dict[Any, Failure], job: Any, error: Exception | None, now_s: float
    ) -> None:
        before = failures.pop(job, None)
        if error is not None:
            times = 1 + (before.times if before else 0)
            pause_s = min(_RETRY_S * 2 ** (times - 1), _LONGEST_RETRY_S)
            failures[job] = Failure(error, times, now_s + pause_s)

    def note_collected(self, collection_id: str, waiting: bool, now_s: float) -> None:
        """Note that unused files were looked for, and whether some wait to be deleted."""
        state = self._states.get(collection_id)
        self._files[collection_id] = _Files(now_s + _COLLECT_S, state, waiting)

    def forget(self, collection_id: str) -> None:
        """Note that a channel is gone."""
        self._seen.pop(collection_id, None)
        self._states.pop(collection_id, None)
        self._unbuilt.pop(collection_id, None)
        self._weights.pop(collection_id, None)
        self._uncompacted.pop(collection_id, None)
        self._files.pop(collection_id, None)
        gone = [build for build in self._failures if build.collection_id == collection_id]
        for build in gone:
            del self._failures[build]

    def waiting(self, collection_id: str) -> dict[BuildIndex, Failure | None]:
        """Return the builds that a collection waits for, with the last failure of each."""
        builds = self._unbuilt.get(collection_id, ())
        return {build: self._failures.get(build) for build in builds}

    def retry(self, collection_id: str) -> None:
        """Let failed builds of a collection be due at once."""
        for build in self.waiting(collection_id):
            self._failures.pop(build, None)

    def pressure(self, collection_id: str) -> float:
        """Return how far compaction is behind; see `gpuvec.coord.compaction`."""
        return pressure(self._weights.get(collection_id, ()), self.wanted)

    def compaction_failure(self, collection_id: str) -> Failure | None:
        """Return why compaction of a collection failed last, None if it did not."""
        return self._uncompacted.get(collection_id)

    def reconcile(self, now_s: float, *, room: int = 1) -> list[Command]:
        """Return the flushes and collections that are due, then at most one heavy job.

        Args:
            now_s: monotonic seconds.
            room: for so many heavy jobs at once, of which one is a compaction.
        """
        flushes = [
            FlushChannel(name)
            for name, (status, since_s) in sorted(self._seen.items())
            if self._is_large(status)
            or (now_s - since_s >= self._age_s and is_worth_a_segment(status))
        ]
        collections = [CollectFiles(name) for name in self._uncollected(now_s)]
        return [*flushes, *collections, *self._next_job(now_s, room)]

    def _uncollected(self, now_s: float) -> Iterator[str]:
        for name, state in sorted(self._states.items()):
            files = self._files.setdefault(name, _Files(now_s + _FIRST_COLLECT_S))
            soon = files.replaced_bytes >= self.wanted.size_bytes
            due_s = files.due_s - (_COLLECT_S - _COLLECT_SOON_S if soon else 0)
            if now_s >= due_s and (files.waiting or files.state is not state):
                yield name

    def _next_job(self, now_s: float, room: int) -> list[HeavyJob]:
        """Return what to begin, if there is room: compactions and builds take turns."""
        if len(self._jobs) >= room:
            return []
        compacting = [job for job in self._jobs if isinstance(job, CompactSegments)]
        building = {job.segment_id for job in self._jobs if isinstance(job, BuildIndex)}
        due = [] if compacting else self._compactions(now_s)
        compactions = [job for job in due if not building.intersection(job.segments)]
        leaving = {name for job in (*due, *compacting) for name in job.segments}
        builds = [job for job in self._builds(leaving, now_s) if job not in self._jobs]
        jobs: list[HeavyJob] = [*compactions, *builds]
        if self._compacted_last:
            jobs = [*builds, *compactions]
        return jobs[:1]

    def _compactions(self, now_s: float) -> list[CompactSegments]:
        """Return what is due, of the collection that needs it most first."""
        found: list[CompactSegments] = []
        for name in sorted(self._weights, key=lambda name: (-self.pressure(name), name)):
            failure = self._uncompacted.get(name)
            if failure is None or now_s >= failure.retry_at_s:
                found += [
                    CompactSegments(name, plan.inputs, plan.reads_bytes)
                    for plan in plan_compaction(self._weights[name], self.wanted)
                ]
        return found

    def _builds(self, leaving: set[SegmentId], now_s: float) -> list[BuildIndex]:
        """Return the builds that are due, the largest segment first; not of segments that leave."""
        waiting = [build for builds in list(self._unbuilt.values()) for build in builds]
        due = [b for b in waiting if self._is_due(b, now_s) and b.segment_id not in leaving]
        return sorted(due, key=lambda build: (-build.rows, build))

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
