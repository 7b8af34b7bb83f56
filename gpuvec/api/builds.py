"""The builder of a database: threads, while there are heavy jobs.

What to build or to compact is the data coordinator's decision, how is `gpuvec.node.build` and
`gpuvec.node.compact`. One job runs at a time in this process; where others do them (`api.heavy`),
as many as there are, each waited for by a thread. Those who wait for indexes, or want to know how
far they are, are told here.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from gpuvec import telemetry
from gpuvec.api.heavy import Building, Stopped, Workplace
from gpuvec.api.told_builds import ToldBuilds
from gpuvec.api.works import Works, is_cancelled
from gpuvec.clock import Clock
from gpuvec.coord.data_coord import BuildIndex, CompactSegments, DataCoord, HeavyJob
from gpuvec.errors import index_not_built
from gpuvec.meta.catalog import IndexRecord
from gpuvec.node.build import BuildHost, BuildPlan, build_index
from gpuvec.node.shards import Channels
from gpuvec.query.session import Session, new_session
from gpuvec.types import SegmentId

T = TypeVar("T")
STOP_S = 3.0

_log = logging.getLogger("gpuvec")


class Host(BuildHost, Protocol):
    """What builds need of the engine.

    Attributes:
        workplace: where other processes do heavy work; None: nowhere.
        own_works: told of the work that runs here.
    """

    workplace: Workplace | None
    own_works: Works

    def writable(self) -> Sequence[Channels]:
        """Return the open channels of a database that this process writes to; else none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """How far the indexes of one definition are.

    Attributes:
        waiting: rows of segments that wait for their index or get it now.
        done: rows among these that are done, in parts of the segment under way.
        error: of the last failure; None: there was none since somebody asked again.
    """

    waiting: int
    done: float
    error: Exception | None


class Builds:
    """Runs the heavy jobs that the coordinator decides on. Safe for use by several threads.

    Args:
        coord: decides.
        host: see `Host`.
        clock: monotonic time for the coordinator.
        compact: does a compaction.

    Attributes:
        stop_s: seconds that `stop` waits for a step of a build which cannot be interrupted.
        memory_limit: of the last connection that named one; see `new_session`.
        device: of the last connection, "cpu" or "gpu": where indexes are built and measured.
    """

    def __init__(
        self,
        coord: DataCoord,
        host: Host,
        clock: Clock,
        compact: Callable[[CompactSegments], None],
    ) -> None:
        self._coord = coord
        self._host = host
        self._clock = clock
        self._compact = compact
        self.stop_s = STOP_S
        self.memory_limit: float | None = None
        self.device = "cpu"
        self._threads: set[threading.Thread] = set()
        self._shares: dict[HeavyJob, float] = {}  # of jobs under way
        self._told = ToldBuilds(host.own_works)
        self._here = threading.Lock()  # one job at a time in this process
        self._stopping = False
        self._asked: set[tuple[str, str]] = set()  # collection and field of jobs
        self._changed = threading.Condition()

    def tend(self, *, retry: str | None = None) -> None:
        """Note what is wanted, and begin what is due. Called now and then, and after changes.

        Args:
            retry: id of a collection whose failed builds are due at once.
        """
        with self._changed:
            self._note()
            if retry is not None:
                self._coord.retry(retry)
            while (job := self._take()) is not None:
                thread = threading.Thread(
                    target=self._build_all, args=(job,), name="gpuvec-builder", daemon=True
                )
                self._threads.add(thread)
                thread.start()

    def waiting(self, collection_id: str, field: str) -> frozenset[SegmentId]:
        """Return the segments that lack the index of a field; whoever asks is told of failures."""
        with self._changed:
            self._note()
            self._asked.add((collection_id, field))
            builds = self._coord.waiting(collection_id)
            return frozenset(build.segment_id for build in builds if build.field == field)

    def progress(
        self, collection_id: str, field: str, segments: frozenset[SegmentId] | None = None
    ) -> Progress:
        """Return how far the indexes of a field are, in these segments or in all."""
        with self._changed:
            self._note()
            waiting, done, failed = 0, 0.0, None
            for build, failure in self._coord.waiting(collection_id).items():
                if build.field == field and (segments is None or build.segment_id in segments):
                    waiting += build.rows
                    done += self._shares.get(build, 0.0) * build.rows
                    failed = failure.error if failure is not None else failed
            return Progress(waiting=waiting, done=done, error=failed)

    def forget(self, collection_id: str) -> None:
        """Note that a collection was dropped."""
        with self._changed:
            self._coord.forget(collection_id)
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait until something may have changed."""
        with self._changed:
            self._changed.wait(timeout_s)

    def stop(self) -> None:
        """Begin no more builds, and end the one under way; its work is done again another time.

        A step of a library that cannot be interrupted is waited for some seconds, then left alone:
        what it makes is thrown away.
        """
        with self._changed:
            self._stopping = True
            threads = self._threads - {threading.current_thread()}
        until_s = time.monotonic() + self.stop_s
        for thread in threads:
            thread.join(max(0.0, until_s - time.monotonic()))

    def _note(self) -> None:
        for channel in self._host.writable():
            self._coord.note_state(channel.collection_id, channel.state)

    def session(self) -> Session:
        """Return the threads and the memory that a heavy job may take."""
        return new_session(self.memory_limit, device="cpu")

    @property
    def stopping(self) -> bool:
        """Whether jobs shall come to their end."""
        return self._stopping

    def _take(self) -> HeavyJob | None:
        """Return a job that is begun now, None where nothing is due or there is no room."""
        if self._stopping:
            return None
        room = 1 if self._host.workplace is None else self._host.workplace.width
        commands = self._coord.reconcile(self._clock.monotonic_s(), room=room)
        job = next((c for c in commands if isinstance(c, BuildIndex | CompactSegments)), None)
        if job is not None:
            self._shares[job] = 0.0
            self._coord.note_begun(job)
            if isinstance(job, BuildIndex):
                self._told.begun(job, self._coord.waiting(job.collection_id))
        return job

    def _build_all(self, job: HeavyJob | None) -> None:
        while job is not None:
            error = self._attempt(job) if isinstance(job, BuildIndex) else self._compacted(job)
            with self._changed:
                self._note()
                left = self._coord.waiting(job.collection_id)
                if error is None and isinstance(job, BuildIndex) and job in left:
                    error = index_not_built(job.field, job.segment_id)
                self._coord.note_ended(job, error, self._clock.monotonic_s())
                del self._shares[job]
                self._note()
                if isinstance(job, BuildIndex):
                    waiting, status = self._coord.waiting(job.collection_id), self._status(job)
                    self._told.ended(job, error, waiting=waiting, status=status)
                job = self._take()
                if job is None:
                    self._threads.discard(threading.current_thread())
                self._changed.notify_all()

    def _compacted(self, job: CompactSegments) -> Exception | None:
        """Compact; return why it failed. It is tried again later, and `stats()` tells of it."""
        try:
            self._compact(job)
        except Stopped:
            return None
        except Exception as error:
            if self._channel(job.collection_id) is None:
                return None  # it was dropped
            if is_cancelled(error):
                return error  # it is put off
            telemetry.COMPACTION_FAILURES.add()
            _log.warning("compaction will be tried again: %s: %s", type(error).__name__, error)
            return error
        return None

    def _attempt(self, build: BuildIndex) -> Exception | None:
        """Build; return why it failed. Whoever waits is told, and it is tried again later."""
        try:
            self._build(build)
        except Stopped:
            return None
        except Exception as error:  # a library's too: whoever asks for the index is told
            if not self._wanted(build):
                return None
            asked = (build.collection_id, build.field)
            if asked not in self._asked:
                _log.warning("no index of %s: %s: %s", build.field, build.segment_id, error)
            self._asked.discard(asked)  # of later attempts only the log tells
            telemetry.BUILD_FAILURES.add()
            return error
        return None

    def _build(self, build: BuildIndex) -> None:
        channel = self._channel(build.collection_id)
        if channel is None:
            raise Stopped
        began_s = self._clock.monotonic_s()
        with telemetry.span("build", collection=build.collection_id, field=build.field):
            done = self._make(channel, build)
        if done:
            seconds = self._clock.monotonic_s() - began_s
            telemetry.BUILD_SECONDS.observe(seconds)
            telemetry.note(
                "build",
                collection=build.collection_id,
                field=build.field,
                rows=build.rows,
                seconds=seconds,
            )

    def _make(self, channel: Channels, build: BuildIndex) -> bool:
        """Have the index made, elsewhere or here, and put it in its place; return whether."""
        session, workplace = self.session(), self._host.workplace

        def progress(share: float) -> None:
            self._tell(build, share)

        def elsewhere(plan: BuildPlan) -> IndexRecord | None:
            if workplace is None:
                return None
            work = Building(plan=plan, key=channel.state.schema.primary_key)
            if not workplace.takes(work):
                return None
            found: IndexRecord = workplace.do(work, progress)
            return found

        return build_index(
            channel,
            build.segment_id,
            build.field,
            build.definition_id,
            host=self._host,
            threads=session.threads,
            memory_limit=session.memory_limit,
            progress=progress,
            elsewhere=elsewhere,
            here=self._here,
            device=self.device,
        )

    def _tell(self, build: BuildIndex, share: float) -> None:
        """Note how far a build is; end it when nobody wants it any more."""
        with self._changed:
            self._shares[build] = share
            self._told.tell(build, share)
            self._changed.notify_all()
        if not self._wanted(build):
            raise Stopped

    def _wanted(self, build: BuildIndex) -> bool:
        channel = None if self._stopping else self._channel(build.collection_id)
        return (
            channel is not None
            and _is_wish(channel, build)
            and build.segment_id in channel.state.segments
        )

    def _status(self, build: BuildIndex) -> str:
        """Return how the wish for an index stands; see `ToldBuilds.ended`."""
        channel = None if self._stopping else self._channel(build.collection_id)
        if channel is None:
            return "elsewhere"
        return "wanted" if _is_wish(channel, build) else "unwanted"

    def _channel(self, collection_id: str) -> Channels | None:
        return next((c for c in self._host.writable() if c.collection_id == collection_id), None)


def _is_wish(channel: Channels, build: BuildIndex) -> bool:
    definition = channel.state.indexes.get(build.field)
    return definition is not None and definition.index_id == build.definition_id
