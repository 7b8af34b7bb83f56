"""`Job`: long work that goes on beside its caller; awaitable."""

import time
from collections.abc import Generator
from numbers import Real
from typing import Any, Generic, Literal, Protocol, TypeVar

from gpuvec import errors

R = TypeVar("R", covariant=True)
Status = Literal["waiting", "running", "interrupted", "done", "failed", "cancelled"]
_POLL_S = 0.2


class Work(Protocol[R]):
    """What a job is about."""

    @property
    def what(self) -> str:
        """The work, for people."""

    def status(self) -> Status:
        """Return how it stands; `interrupted`: nobody works on it any more."""

    def share(self) -> float:
        """Return how much is done, 0 to 1."""

    def pause(self, timeout_s: float) -> None:
        """Wait until something may have changed."""

    def result(self) -> R:
        """Return what came of it, or raise why nothing did; once it is not running any more."""

    def cancel(self) -> None:
        """End it, and undo what is half done."""


class Job(Generic[R]):
    """Long work under way; `await job` and `job.wait()` return its result.

    It goes on whether anybody waits or not, until it is done, is cancelled, or the database is
    closed; what an index lacks then is built when the collection is next written to. A batch job
    can be resumed then, from any process, and goes on by itself in a cluster.

    Args:
        job_id: its name.
        work: what it does.
    """

    def __init__(self, job_id: str, work: Work[R]) -> None:
        self.id = job_id
        self._work = work
        self._begun_s = time.monotonic()
        self._alone_s: float | None = None  # since when nobody works on it, as `wait` saw

    @property
    def status(self) -> Status:
        """`running`, `done`, `failed` or `cancelled`.

        A batch job may also be `waiting` for somebody who begins, and `interrupted`, when the
        process that worked on it has ended: `resume` goes on.
        """
        return self._work.status()

    @property
    def progress(self) -> float:
        """How much is done, 0 to 1."""
        return self._work.share()

    @property
    def eta(self) -> float | None:
        """Seconds until it is done, by what it took so far; None while nothing is known."""
        told = getattr(self._work, "eta", None)
        if told is not None:
            found: float | None = told()
            return found
        share = self.progress
        if share >= 1.0:
            return 0.0
        return (time.monotonic() - self._begun_s) * (1 - share) / share if share > 0.02 else None

    def wait(self, timeout: float | None = None) -> R:
        """Return the result when it is there.

        A batch job of a cluster whose coordinator is gone is waited for: the next one goes on with
        it. If none has for two minutes, waiting ends.

        Args:
            timeout: seconds to wait at most; None: as long as it takes.

        Raises:
            QueryError: `GV-354`, timeout is no such number.
            DeadlineError: `GV-624`, it is not done in time; it goes on.
            JobError: `GV-622`, it was cancelled. What it failed with is raised as it is; of a batch
                job `GV-770`, `GV-775` when it was cancelled, `GV-772` when nobody works on it.
            NotFoundError: `GV-774`, the batch job was forgotten.
        """
        given: Any = timeout
        number = isinstance(given, Real) and not isinstance(given, bool)
        if given is not None and not (number and float(given) >= 0):
            raise errors.bad_number("timeout", timeout, "seconds, at least 0, or None")
        deadline = None if timeout is None else time.monotonic() + timeout
        while self._goes_on():
            left = _POLL_S if deadline is None else min(_POLL_S, deadline - time.monotonic())
            if left <= 0:
                raise errors.job_not_done(self._work.what, float(timeout or 0), self.progress)
            self._work.pause(left)
        return self._work.result()

    def _goes_on(self) -> bool:
        """Return whether there is something to wait for."""
        status = self.status
        if status != "interrupted":
            self._alone_s = None
            return status in ("running", "waiting")
        now_s = time.monotonic()
        self._alone_s = now_s if self._alone_s is None else self._alone_s
        return now_s < self._alone_s + getattr(self._work, "patience_s", 0.0)

    def cancel(self) -> None:
        """End it, and undo what is half done; nothing happens when it has ended already.

        A compaction that runs by itself is put off, and tried again later.

        Raises:
            UnsupportedError: `GV-626`, work that `db.jobs()` lists and that only its own way ends.
        """
        if self.status in ("running", "waiting", "interrupted"):
            self._work.cancel()

    def resume(self) -> None:
        """Go on with what was done before; nothing happens when it is running or done.

        Raises:
            UnsupportedError: `GV-669`, the building of an index.
        """
        resume = getattr(self._work, "resume", None)
        if resume is None:
            raise errors.cannot_resume(self._work.what)
        if self.status in ("waiting", "failed", "cancelled", "interrupted"):
            resume()

    @property
    def kind(self) -> str:
        """`batch`, or of other work that `db.jobs()` lists: `index`, `compaction` or `import`."""
        return getattr(self._work, "kind", "batch")

    @property
    def collection(self) -> str | None:
        """The collection that heavy work is about; None: of a batch job, or of one that is gone."""
        return getattr(self._work, "collection", None)

    @property
    def output(self) -> str | None:
        """Where the rows of a batch job go; None for other jobs."""
        return getattr(self._work, "output", None)

    def forget(self) -> None:
        """Delete what the database keeps of a batch job; files in a folder of its own stay.

        Raises:
            ConflictError: `GV-778`, it is running.
            UnsupportedError: `GV-779`, it is no batch job.
        """
        forget = getattr(self._work, "forget", None)
        if forget is None:
            raise errors.no_batch_job(self._work.what)
        forget()

    def __await__(self) -> Generator[Any, None, R]:
        import asyncio  # whoever awaits has it; others need not wait for it

        return asyncio.to_thread(self.wait).__await__()

    def __repr__(self) -> str:
        try:
            return f"Job({self._work.what}: {self.status}, {self.progress:.0%})"
        except errors.NotFoundError:
            return f"Job({self._work.what}: forgotten)"
