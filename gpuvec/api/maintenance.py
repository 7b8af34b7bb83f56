"""What an embedded database does by itself: flush, build, compact, collect; and the same on demand.

What is due is the data coordinator's decision. Flushes and collections of files run on the
maintenance thread, builds and compactions one at a time on the builder's. Writers wait where memory
fills faster than it is flushed, or segments die faster than they are compacted: a little, at each
group of writes, until both have caught up.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from gpuvec import telemetry
from gpuvec.api.builds import Builds, Host
from gpuvec.api.heavy import Compacting, Stopped, indexing
from gpuvec.api.leases import Leases
from gpuvec.clock import Clock
from gpuvec.coord.compaction import Rewrite, Wanted, plan_compaction
from gpuvec.coord.data_coord import (
    CollectFiles,
    CompactSegments,
    DataCoord,
    FlushChannel,
)
from gpuvec.errors import ConflictError, database_closed
from gpuvec.messages import SegmentWeight
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import Change
from gpuvec.meta.collect import Collected, Limits
from gpuvec.meta.retention import Needed, needed
from gpuvec.node.compact import Compacted, compact
from gpuvec.node.rewrite import Room
from gpuvec.node.rewriting import Rewriting, Written
from gpuvec.node.shards import Channels
from gpuvec.node.weigh import weigh
from gpuvec.settings import config
from gpuvec.storage.object_store import Procedure, Size
from gpuvec.types import SegmentId, Timestamp

GROWING_SHARE = 3  # of the size at which rows are flushed: so many are held, and no more
_LONGEST_WAIT_S = 1.0  # that a group of writes waits for compaction
_STEP_S = 0.02
_PIN_RACES = 10  # lost to readers before a vacuum gives up
_CLOSE_BYTES = 32 << 20  # compacted when a database is closed, at most


class MaintainedHost(Host, Protocol):
    """What maintenance needs of the engine."""

    where: str

    def generation_of(self, collection_id: str) -> int:
        """Return the generation under which this process writes to a collection."""

    def now_ms(self) -> int:
        """Return the time."""


class Maintenance:
    """Keeps one database in shape. Safe for use by several threads.

    Args:
        data: decides.
        host: see `MaintainedHost`.
        clock: monotonic time.
        leases: knows which reads run in this process.

    Attributes:
        builds: the thread of heavy jobs.
        counters: writers that waited and how long, compactions and what they did.
    """

    def __init__(self, data: DataCoord, host: MaintainedHost, clock: Clock, leases: Leases) -> None:
        self._data = data
        self._host = host
        self._clock = clock
        self._leases = leases
        self.builds = Builds(data, host, clock, self._compact_job)
        self._compacting = threading.Lock()  # by the coordinator's decision, or a user's
        self._work: dict[object, int] = {}  # since when somebody writes files, in milliseconds
        self._lock = threading.Lock()  # of what follows
        self.counters: dict[str, float] = dict.fromkeys(
            ("waits", "waited_s", "compactions", "read_bytes", "written_bytes", "removed_rows"), 0
        )

    # By itself

    def tend(self) -> None:
        """Do what is due; begin heavy jobs. Called about every second."""
        for channel in self._host.writable():
            if channel.owned:
                self.note(channel)
        for command in self._data.reconcile(self._clock.monotonic_s()):
            found = self._channel(command.collection_id)
            if found is not None and isinstance(command, FlushChannel):
                found.flush(self._host.generation_of(found.collection_id))
                self.note(found)
            elif found is not None and isinstance(command, CollectFiles):
                done = self.collect(found, config["store.grace_s"])
                now_s = self._clock.monotonic_s()
                self._data.note_collected(found.collection_id, bool(done.waiting), now_s)
        self.builds.tend()

    def note(self, channel: Channels) -> None:
        """Tell the coordinator what a channel holds."""
        self._data.note(channel.status(), self._clock.monotonic_s())
        self._data.note_weights(channel.collection_id, self.weights(channel))

    def weights(
        self, channel: Channels, retention_s: float | None = None
    ) -> tuple[SegmentWeight, ...]:
        """Return what a channel's segments hold; see `needed` for `retention_s`."""
        state = channel.state
        return weigh(state, channel.shard, self._need(state, retention_s))

    def _need(self, state: CollectionState, retention_s: float | None = None) -> Needed:
        default_s = config["store.retention_s"]
        if retention_s is not None:
            kept_s = default_s if state.retention_s is None else state.retention_s
            state = replace(state, retention_s=min(retention_s, kept_s))
        return needed(state, self._host.now_ms(), retention_s=default_s)

    def admit(self, channel: Channels, flush_bytes: int) -> None:
        """Let a group of writes wait where need be, so that memory and segments stay bounded.

        Growing rows are flushed first where they are too many; while compaction is far behind, the
        group waits for a second at most.
        """
        if channel.status().growing_bytes > GROWING_SHARE * flush_bytes:
            start_s = self._clock.monotonic_s()
            channel.flush(self._host.generation_of(channel.collection_id))
            self.count(waits=1, waited_s=self._clock.monotonic_s() - start_s)
        behind = self._data.pressure(channel.collection_id)
        if behind < 1 or self._data.compaction_failure(channel.collection_id) is not None:
            return
        start_s = self._clock.monotonic_s()
        until_s = start_s + min(_LONGEST_WAIT_S, _STEP_S * behind**3)
        while self._clock.monotonic_s() < until_s and behind >= 1 and not self.builds.stopping:
            self._clock.sleep(_STEP_S)
            behind = self._data.pressure(channel.collection_id)
        self.count(waits=1, waited_s=self._clock.monotonic_s() - start_s)

    def count(self, **more: float) -> None:
        """Add to the counters."""
        with self._lock:
            for name, number in more.items():
                self.counters[name] += number

    # Compaction

    def _compact_job(self, job: CompactSegments) -> None:
        channel = self._channel(job.collection_id)
        if channel is not None:
            with self._compacting:
                self._told(channel, job.segments, None)

    def compact(
        self,
        channel: Channels,
        plan: Callable[[Sequence[SegmentWeight]], list[Rewrite]],
        retention_s: float | None = None,
    ) -> Compacted:
        """Rewrite what a plan names, one after the other, on this thread; return what was done."""
        total = Compacted()
        with self._compacting:
            for rewrite in plan(self.weights(channel, retention_s)):
                try:
                    total += self._told(channel, rewrite.inputs, retention_s)
                except Stopped:
                    raise database_closed(self._host.where) from None
        return total

    def _told(
        self, channel: Channels, inputs: Sequence[SegmentId], retention_s: float | None
    ) -> Compacted:
        """Rewrite segments, as a work that is told of and can be cancelled."""
        what = f"compaction of {len(inputs):,} segment{'' if len(inputs) == 1 else 's'}"
        works, job_id = self._host.own_works, self._host.mint()
        with works.doing("compaction", channel.collection_id, what, job_id=job_id) as entry:

            def progress(share: float) -> None:
                self._go_on(share)
                entry.tell(share)

            return self._rewrite(channel, inputs, retention_s, progress)

    def _rewrite(
        self,
        channel: Channels,
        inputs: Sequence[SegmentId],
        retention_s: float | None,
        progress: Callable[[float], None],
    ) -> Compacted:
        session, wanted = self.builds.session(), self._data.wanted
        failed = self._data.compaction_failure(channel.collection_id) is not None
        index = None if failed else indexing(self._host, session, progress)  # which may be why

        def elsewhere(order: Rewriting) -> Written | None:
            work, workplace = Compacting(order=order, indexed=not failed), self._host.workplace
            if workplace is None or not workplace.takes(work):
                return None
            found: Written = workplace.do(work, progress)
            return found

        since = self._need(channel.state, retention_s).since
        if self._leases.holds_before(channel.collection_id, since):
            self._leases.tend(at_once=True)  # this process's `at` handles stay readable
        began_s = self._clock.monotonic_s()
        with self.at_work(), telemetry.span("compaction", collection=channel.collection_id):
            done = compact(
                channel.holding(inputs[0]),
                inputs,
                need=lambda state: self._need(state, retention_s),
                room=Room(
                    size_bytes=wanted.size_bytes,
                    rows=wanted.rows,
                    memory_bytes=session.memory_limit,
                ),
                host=self._host,
                generation=self._host.generation_of(channel.collection_id),
                index=index,
                progress=progress,
                elsewhere=elsewhere,
            )
        self.note(channel)
        if done is None:
            return Compacted()
        done.tell(channel.collection_id, self._clock.monotonic_s() - began_s)
        self.count(
            compactions=1,
            read_bytes=done.read_bytes,
            written_bytes=done.written_bytes,
            removed_rows=done.removed_rows,
        )
        return done

    def _go_on(self, _: float) -> None:
        if self.builds.stopping:
            raise Stopped

    # Files

    @contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep files that are born meanwhile from being taken for those of work that died."""
        token = object()
        with self._lock:
            self._work[token] = self._host.now_ms()
        try:
            yield
        finally:
            with self._lock:
                del self._work[token]

    def collect(self, channel: Channels, grace_s: float, *, dry_run: bool = False) -> Collected:
        """Mark files that no entry names, and delete those that were marked so long ago."""
        with self._lock:
            work_ms = min(self._work.values(), default=None)
        limits = Limits(
            grace_ms=int(grace_s * 1000),
            work_ms=work_ms,
            read_ms=self._leases.oldest_read_ms(channel.collection_id),
        )
        generation = self._host.generation_of(channel.collection_id)
        return channel.collect(generation, limits, dry_run=dry_run)

    def forget_versions(self, channel: Channels, retention_s: float | None) -> None:
        """Commit that versions which need not be kept cannot be read any more."""

        def decide(state: CollectionState, _: Timestamp) -> list[Change]:
            need = self._need(state, retention_s)
            return [need.forget()] if need.since > state.past.forgotten else []

        generation = self._host.generation_of(channel.collection_id)
        for left in reversed(range(_PIN_RACES)):
            try:
                return channel.change(decide, generation)
            except ConflictError:  # a reader pinned a version meanwhile: it is kept then
                if not left:
                    raise

    def sizes(self, files: Sequence[str]) -> dict[str, int]:
        """Return the bytes of files that are there, by key."""
        return self._host.run(_sizes(files))

    def pause(self, seconds: float) -> None:
        """Wait."""
        self._clock.sleep(seconds)

    def finish(self, channel: Channels) -> None:
        """Do what is due and costs little, before a database is closed."""
        left = _CLOSE_BYTES
        for rewrite in plan_compaction(self.weights(channel), self._data.wanted):
            if rewrite.reads_bytes > left:
                break
            left -= rewrite.reads_bytes
            self._rewrite(channel, rewrite.inputs, None, lambda _: None)
        self.collect(channel, config["store.grace_s"])

    def forget(self, collection_id: str) -> None:
        """Note that a collection was dropped."""
        self.builds.forget(collection_id)

    def figures(self, collection_id: str) -> dict[str, float]:
        """Return the counters, and how far compaction of a collection is behind: from 1 on, it is.

        Counters are those of the whole database since it was opened in this process.
        """
        with self._lock:
            return {**self.counters, "behind": round(self._data.pressure(collection_id), 3)}

    @property
    def wanted(self) -> Wanted:
        """How large segments shall be."""
        return self._data.wanted

    def _channel(self, collection_id: str) -> Channels | None:
        return next((c for c in self._host.writable() if c.collection_id == collection_id), None)


def _sizes(files: Sequence[str]) -> Procedure[dict[str, int]]:
    found = {}
    for key in files:
        size = yield Size(key)
        found[key] = size or 0
    return found
