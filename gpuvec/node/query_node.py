"""A node's answers to readers: about some segments of a collection, at exactly one version.

What a read has planned here, or asked about, stays for a while: its next steps see the same
segments, whatever is flushed or compacted meanwhile.
"""

import threading
from collections import OrderedDict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

from gpuvec import telemetry
from gpuvec.clock import Clock
from gpuvec.data_messages import PlannedPart, PlanRead, ReadPart, ReadPlan, Stale
from gpuvec.node.shards import Channels
from gpuvec.node.standing import Standing, at_version, find, is_of, newest, whole_of
from gpuvec.query.answering import Asked, UnknownSegmentError, answer
from gpuvec.query.session import Session

IDLE_S = 30.0  # after which a read's segments are let go
MOST_OPEN = 256

_Key = tuple[str, int, int, int]


class Host(Protocol):
    """What a query node needs of the engine that it lives in."""

    def channel(self, collection_id: str) -> Channels:
        """Return the channels of a collection, following their logs.

        Raises:
            NotFoundError: `GV-608`, it was dropped.
        """

    def name_of(self, collection_id: str) -> str:
        """Return the name of a collection, for messages."""

    def kept(self, collection_id: str) -> AbstractContextManager[None]:
        """Return a block in which the collection's files stay."""

    def now_ms(self) -> int:
        """Return the time."""


@dataclass(slots=True, eq=False)
class _Open:
    """A version that is read."""

    standing: Standing
    held: ExitStack
    used_s: float
    users: int = 0


class QueryNode:
    """Plans reads, and answers for segments. Safe for use by several threads.

    Args:
        host: the engine of this node.
        session: memory, threads and caches of its searches.
        clock: tells how long a read has been idle.
    """

    def __init__(self, host: Host, session: Session, clock: Clock) -> None:
        self._host = host
        self._session = session
        self._clock = clock
        self._names: dict[str, str] = {}  # for messages; as they were when last looked for
        self._open: OrderedDict[_Key, _Open] = OrderedDict()
        self._lock = threading.Lock()

    def plan(self, message: PlanRead) -> ReadPlan:
        """Return where a collection stands.

        Raises:
            NotFoundError: `GV-608`, it was dropped; `GV-641`, there is no such version yet.
            SnapshotExpiredError: `GV-640`, the version was forgotten.
        """
        host, collection_id = self._host, message.collection_id
        with host.kept(collection_id):
            channels = self._channels(collection_id)
            if message.looked or channels.shard.version < message.seen:
                channels.refresh()
                if not channels.owned:
                    self._names[collection_id] = host.name_of(collection_id)
            name = self._names[collection_id]
            if message.version is None:
                found = newest(channels, name, host.now_ms())
            else:
                found = at_version(channels, name, message.version)
        key = (collection_id, found.entry_id, found.version, found.now_ms)
        with self._using(key, self._known(key) or found) as standing:
            return standing.plan(collection_id)

    def answer(self, part: ReadPart) -> Any:
        """Return the answer to a question, or `Stale` where the segments are others by now.

        A part that is to be planned too is answered by a `PlannedPart`.

        Raises:
            NotFoundError: `GV-608`, the collection was dropped.
            GpuvecError: what the read itself raises.
        """
        began_s, outcome = self._clock.monotonic_s(), "error"
        try:
            with telemetry.span("part", collection=part.collection_id, segments=len(part.segments)):
                found = self._answered(part)
            stale = isinstance(found, Stale) or (
                isinstance(found, PlannedPart) and found.answer is None
            )
            outcome = "stale" if stale else "ok"
            return found
        finally:
            telemetry.PARTS.add(1, outcome)
            telemetry.PART_SECONDS.observe(self._clock.monotonic_s() - began_s)

    def _answered(self, part: ReadPart) -> Any:
        if part.plan is None:
            return self._at(part)
        plan = self.plan(part.plan)
        if part.whole:
            part = whole_of(part, plan)
        elif not is_of(part, plan):
            return PlannedPart(plan=plan)
        found = self._at(part)
        return PlannedPart(plan=plan, answer=None if isinstance(found, Stale) else found)

    def _at(self, part: ReadPart) -> Any:
        key = (part.collection_id, part.entry_id, part.version, part.now_ms)
        with self._host.kept(part.collection_id):
            standing = self._known(key)
            if standing is None or not standing.answers(part):
                standing = self._found(part)
            if standing is None:
                return Stale(entry_id=self._channels(part.collection_id).shown_entry)
            with self._using(key, standing) as held:
                try:
                    return answer(part.question, self._asked(held, part))
                except UnknownSegmentError:
                    return Stale(entry_id=held.entry_id)

    def tend(self) -> None:
        """Let go of what no read has used for a while."""
        self._purge(self._clock.monotonic_s() - IDLE_S)

    def close(self) -> None:
        """Let go of everything."""
        with self._lock:
            found, self._open = list(self._open.values()), OrderedDict()
        for entry in found:
            entry.held.close()

    def _asked(self, standing: Standing, part: ReadPart) -> Asked:
        return Asked(
            snapshot=standing.of(part),
            growing=standing.growing,
            after=standing.after(),
            session=self._session,
            version=(part.version, part.now_ms),
        )

    def _found(self, part: ReadPart) -> Standing | None:
        """Return the version of a plan, asking the store for news only where this one is older."""
        channels = self._channels(part.collection_id)
        name = self._names[part.collection_id]
        if channels.shown_entry < part.entry_id or channels.shard.version < part.version:
            channels.refresh()
        return find(channels, name, part)

    def _channels(self, collection_id: str) -> Channels:
        if collection_id not in self._names:  # asks the store who is there
            self._names[collection_id] = self._host.name_of(collection_id)
        return self._host.channel(collection_id)

    def _known(self, key: _Key) -> Standing | None:
        with self._lock:
            found = self._open.get(key)
            return None if found is None else found.standing

    @contextmanager
    def _using(self, key: _Key, standing: Standing) -> Iterator[Standing]:
        """Keep a version, and its files, until it has been idle for long."""
        with self._lock:
            entry = self._open.get(key)
            if entry is None or entry.standing is not standing:
                held = ExitStack()
                held.enter_context(self._host.kept(key[0]))
                old, entry = entry, _Open(standing, held, 0.0)
                self._open[key] = entry
            else:
                old = None
            entry.users += 1
            entry.used_s = self._clock.monotonic_s()
            self._open.move_to_end(key)
        if old is not None:
            old.held.close()
        try:
            yield entry.standing
        finally:
            with self._lock:
                entry.users -= 1
                entry.used_s = self._clock.monotonic_s()
            self.tend()

    def _purge(self, before_s: float) -> None:
        gone = []
        with self._lock:
            for key, entry in list(self._open.items()):
                if entry.used_s > before_s and len(self._open) <= MOST_OPEN:
                    break
                if not entry.users:
                    gone.append(self._open.pop(key))
        for entry in gone:
            entry.held.close()
