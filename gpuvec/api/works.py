"""Which heavy work runs in this process, or ended of late: indexes, compactions, imports.

Whoever does such work says here when it begins, how far it is and how it ended; `db.jobs()` tells
of it beside batch jobs. Nothing of it is kept in the store.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from gpuvec import errors
from gpuvec.api.heavy import Stopped
from gpuvec.clock import Clock
from gpuvec.messages import WorkLine, WorkStatus

KEPT_S = 600.0  # that ended work is told of
_KEPT = 100  # of ended work, at most
_LEAST_SHARE = 0.02  # below which nothing is said of the time that is left
_TOLD = 200  # letters of why it failed


class WorkList(Protocol):
    """What knows the heavy work of a database: this process, or the cluster."""

    def lines(self) -> list[WorkLine]:
        """Return what runs, and what ended of late."""

    def cancel(self, line: WorkLine) -> None:
        """End a work that can be cancelled."""


class Entry:
    """One work. Safe for use by several threads.

    Args:
        line: how it begins.
        now_s: monotonic seconds.
        cancel: ends it; None: whoever tells how far it is, is told to end.
    """

    def __init__(
        self, line: WorkLine, now_s: Callable[[], float], cancel: Callable[[], None] | None
    ) -> None:
        self._line = line
        self._now_s = now_s
        self._cancel = cancel
        self._begun_s = now_s()
        self._is_wanted = True
        self.share = 0.0
        self.status: WorkStatus = "running"
        self.problem = ""
        self.ended_s: float | None = None

    def tell(self, share: float) -> None:
        """Note how far it is.

        Raises:
            JobError: `GV-622`, it was cancelled.
        """
        self.share = share
        if not self._is_wanted:
            raise errors.job_cancelled(self._line.what)

    def end(self, status: WorkStatus, problem: str = "") -> None:
        """Note how it ended; what has ended stays as it is."""
        if self.ended_s is None:
            self.share = 1.0 if status == "done" else self.share
            self.problem = problem[:_TOLD]
            self.status, self.ended_s = status, self._now_s()

    def cancels(self, cancel: Callable[[], None]) -> None:
        """Note what ends it."""
        self._cancel = cancel
        self._line = replace(self._line, can_cancel=True)

    def cancel(self) -> None:
        """Have it end; returns at once unless it has a way of its own."""
        self._is_wanted = False
        if self._cancel is not None:
            self._cancel()

    @property
    def line(self) -> WorkLine:
        """How it stands now."""
        running, share = self.ended_s is None, self.share
        until_s = self._now_s() if self.ended_s is None else self.ended_s
        taken_s = until_s - self._begun_s
        knows = running and share > _LEAST_SHARE
        return replace(
            self._line,
            can_cancel=self._line.can_cancel and running,
            status=self.status,
            share=share,
            taken_s=taken_s,
            eta_s=max(0.0, taken_s * (1 - share) / share) if knows else None if running else 0.0,
            problem=self.problem,
        )


class Works:
    """See the module, and `WorkList`. Safe for use by several threads.

    Args:
        clock: where time comes from.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._entries: OrderedDict[str, Entry] = OrderedDict()
        self._ways: OrderedDict[str, Callable[[], None]] = OrderedDict()  # to cancel, by job
        self._lock = threading.Lock()

    def begin(
        self,
        kind: str,
        collection_id: str,
        what: str,
        *,
        job_id: str,
        cancel: Callable[[], None] | None = None,
        can_cancel: bool = True,
    ) -> Entry:
        """Note that a work begins; one of that name that runs is returned as it is.

        Args:
            kind: `index`, `compaction` or `import`.
            collection_id: of which collection.
            what: the work, for people.
            job_id: its name.
            cancel: ends it; None: see `Entry.tell`.
            can_cancel: False: only where `cancels` gave a way.
        """
        with self._lock:
            known = self._entries.get(job_id)
            if known is not None and known.ended_s is None:
                return known
            way = cancel or self._ways.get(job_id)
            line = WorkLine(
                job_id=job_id,
                kind=kind,
                collection_id=collection_id,
                what=what,
                begun_ms=self._clock.now_ms(),
                can_cancel=can_cancel or way is not None,
            )
            entry = self._entries[job_id] = Entry(line, self._clock.monotonic_s, way)
            self._entries.move_to_end(job_id)
            self._sweep()
            return entry

    def cancels(self, job_id: str, cancel: Callable[[], None]) -> None:
        """Note what ends a work of that name, whether it has begun or will."""
        with self._lock:
            self._ways[job_id] = cancel
            if job_id in self._entries:
                self._entries[job_id].cancels(cancel)
            while len(self._ways) > _KEPT:
                self._ways.popitem(last=False)

    @contextmanager
    def doing(self, kind: str, collection_id: str, what: str, *, job_id: str) -> Iterator[Entry]:
        """Yield a work that ends with the block, by what the block raises."""
        entry = self.begin(kind, collection_id, what, job_id=job_id)
        try:
            yield entry
        except BaseException as error:
            gave_up = isinstance(error, Stopped) or is_cancelled(error)
            entry.end("cancelled" if gave_up else "failed", "" if gave_up else said_of(error))
            raise
        entry.end("done")

    def lines(self) -> list[WorkLine]:
        """See `WorkList.lines`."""
        with self._lock:
            self._sweep()
            return [entry.line for entry in self._entries.values()]

    def cancel(self, line: WorkLine) -> None:
        """See `WorkList.cancel`; what has ended or is not known here stays as it is.

        Raises:
            UnsupportedError: `GV-626`, there is no way to.
        """
        entry = self._entries.get(line.job_id)
        if entry is None or entry.ended_s is not None:
            return
        if not entry.line.can_cancel:
            raise errors.cannot_cancel(line.what, line.kind)
        entry.cancel()

    def forget(self, job_id: str) -> None:
        """Tell no more of a work: another process goes on with it."""
        with self._lock:
            self._entries.pop(job_id, None)

    def _sweep(self) -> None:
        """Forget what ended long ago; under the lock."""
        before_s = self._clock.monotonic_s() - KEPT_S
        ended = [(n, e.ended_s) for n, e in self._entries.items() if e.ended_s is not None]
        for place, (name, ended_s) in enumerate(ended):
            if ended_s < before_s or place < len(ended) - _KEPT:
                del self._entries[name]


def said_of(error: BaseException) -> str:
    """Return why a work failed, in a line."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def is_cancelled(error: BaseException) -> bool:
    """Return whether an error says that somebody cancelled the work."""
    return isinstance(error, errors.JobError) and error.code == "GV-622"
