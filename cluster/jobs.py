"""Batch jobs on a Dask cluster: parts are tasks, submitted from the scheduler's process.

The client of whoever submitted a job may end; so may workers, whose tasks run elsewhere then. When
the scheduler ends, its successor takes jobs up from what the store says.
"""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager
from typing import Any, TypeVar

import dask
from dask.utils import parse_bytes
from distributed import Client, Future, KilledWorker
from distributed.comm.core import CommClosedError

from gpuvec import errors
from gpuvec.api.batch_job import TRIES, BatchJob, PartFailed, Tell
from gpuvec.api.job_run import worker_name
from gpuvec.cluster.client_engine import ClusterEngine
from gpuvec.cluster.node_engine import NodeEngine
from gpuvec.cluster.segment_host import engine_of, node_here
from gpuvec.meta.batch_jobs import JobPlan, JobSpec, Receipt, is_stopped, read_spec, read_state
from gpuvec.once import cached_property

T = TypeVar("T")
_AHEAD = 2  # parts per worker that are under way or wait there
_LOOK_S = 0.2
_STOPPED_S = 2.0  # between looks of a long part whether it is still wanted
_LOST = (KilledWorker, CancelledError, CommClosedError, errors.UnavailableError)

_KEEP_S = 30.0  # that a worker holds a job open after the last part

_opened: "dict[tuple[str, str], _Opened]" = {}  # of this worker process
_opened_lock = threading.Lock()


class Tasks:
    """Has functions run on workers; the one way from a coordinator's process to Dask's tasks.

    Args:
        address: of the scheduler.
        security: of its connections.
    """

    def __init__(self, address: str, security: Any = None) -> None:
        self._address = address
        self._security = security
        self._client: Client | None = None
        self._lock = threading.Lock()

    @property
    def client(self) -> Client:
        """Dask's client of this process; connected at its first use, never from an event loop."""
        with self._lock:
            if self._client is None:
                self._client = Client(
                    self._address,
                    security=self._security,
                    set_as_default=False,
                    name="gpuvec-jobs",
                )
            return self._client

    def width(self) -> int:
        """Return how many workers there are."""
        return max(1, len(self.client.scheduler_info(n_workers=-1)["workers"]))

    def submit(self, work: Callable[..., Any], *arguments: Any) -> Future[Any]:
        """Begin a function on any worker; again elsewhere when that worker is lost."""
        return self.client.submit(work, *arguments, pure=False, retries=0)

    def call(self, work: Callable[..., Any], *arguments: Any, tell: Tell) -> Any:
        """Return what a function returns on a worker; `tell` is called meanwhile."""
        future = self.submit(work, *arguments)
        try:
            while not future.done():
                tell()
                time.sleep(_LOOK_S)
            return future.result()
        finally:
            future.cancel()

    def close(self) -> None:
        """Disconnect."""
        with self._lock:
            if self._client is not None:
                self._client.close()
                self._client = None


class TaskRunner:
    """Makes the parts of jobs as tasks; see `gpuvec.api.batch_job.Runner`.

    Args:
        tasks: see `Tasks`.
        identity: of the database.
    """

    def __init__(self, tasks: Tasks, identity: str) -> None:
        self._tasks = tasks
        self._identity = identity

    def cut_up(self, job: BatchJob) -> JobPlan:
        """See `Runner.cut_up`."""
        width = self._tasks.width()
        found: JobPlan = self._tasks.call(
            _cut_up, self._identity, job.spec.job_id, width, tell=lambda: None
        )
        return found

    def receipts(self, job: BatchJob, parts: list[int], tell: Tell) -> Iterator[Receipt]:
        """See `Runner.receipts`."""
        waiting, tries = list(reversed(parts)), dict.fromkeys(parts, 0)
        running: dict[Future[Receipt], int] = {}
        try:
            while waiting or running:
                most = _AHEAD * self._tasks.width()
                while waiting and len(running) < most:
                    part = waiting.pop()
                    tries[part] += 1
                    running[self._begin(job, part)] = part
                for future in self._ended(running, tell):
                    part = running.pop(future)
                    try:
                        yield future.result()
                    except _LOST as error:
                        if tries[part] == TRIES:
                            raise PartFailed(part, TRIES, error) from error
                        waiting.append(part)
        finally:
            self._tasks.client.cancel(list(running))

    def _begin(self, job: BatchJob, part: int) -> Future[Receipt]:
        return self._tasks.submit(_make, self._identity, job.spec.job_id, part)

    def _ended(self, running: dict[Future[Receipt], int], tell: Tell) -> list[Future[Receipt]]:
        """Return futures that have ended, at least one."""
        while True:
            tell()
            found = [future for future in running if future.done()]
            if found:
                return found
            time.sleep(_LOOK_S / 10)


# On workers


def _cut_up(identity: str, job_id: str, width: int) -> JobPlan:
    with _open(identity, job_id) as opened:
        return opened.job.cut_up(width)


def _make(identity: str, job_id: str, part: int) -> Receipt:
    with _open(identity, job_id) as opened:
        return opened.job.make_surely(opened.plan, part, worker_name(), _Watch(opened.job))


class _Opened:
    """A job on this worker, whose parts share caches and the versions that it holds.

    Collections that the worker has room for are read here. Of larger ones every node searches the
    segments that it holds, and this worker merges, as for any client.
    """

    def __init__(self, engine: NodeEngine, spec: JobSpec) -> None:
        self._client: ClusterEngine | None = None
        if _size_bytes(engine, spec) > _room_bytes():
            self._client = node_here().client_of(str(engine.store.identity))
        self.engine = engine
        self.job = BatchJob(self._client or engine, engine.session, spec)
        self.users = 0
        self.used_s = 0.0

    def close(self) -> None:
        """Let go of what the job reads."""
        self.job.close()
        if self._client is not None:
            self._client.close()

    @cached_property
    def plan(self) -> JobPlan:
        found = self.job.engine.run(read_state(self.job.spec.job_id)).plan
        assert found is not None  # parts are made when it is decided
        return found


@contextmanager
def _open(identity: str, job_id: str) -> Iterator[_Opened]:
    """Yield a job; it is let go when no part of it was made for a while."""
    engine = engine_of(identity)
    key = (identity, job_id)
    with _opened_lock:
        found = _opened.get(key)
        if found is None or found.engine is not engine:
            found = _opened[key] = _Opened(engine, engine.run(read_spec(job_id)))
        found.users += 1
    try:
        yield found
    finally:
        with _opened_lock:
            found.users -= 1
            found.used_s = time.monotonic()
        later = threading.Timer(_KEEP_S, _let_go)
        later.daemon = True
        later.start()


def _let_go() -> None:
    with _opened_lock:
        before_s = time.monotonic() - 0.9 * _KEEP_S
        late = [k for k, job in _opened.items() if not job.users and job.used_s < before_s]
        gone = [_opened.pop(key) for key in late]
    for opened in gone:
        opened.close()


def _size_bytes(engine: NodeEngine, spec: JobSpec) -> int:
    """Return the bytes of the collections that a job reads."""
    total = 0
    for collection_id in {collection_id for collection_id, _ in spec.versions}:
        engine.name_of(collection_id)
        segments = engine.state(collection_id).segments.values()
        total += sum(segment.size_bytes for segment in segments)
    return total


def _room_bytes() -> int:
    """Return how much of collections a job may read on one worker."""
    chosen = dask.config.get("gpuvec.job-memory", None)
    return node_here().hello.memory_bytes if chosen is None else int(parse_bytes(chosen))


class _Watch:
    """Ends a part that nobody wants any more."""

    def __init__(self, job: BatchJob) -> None:
        self._job = job
        self._run = job.engine.run(read_state(job.spec.job_id)).run
        self._looked_s = time.monotonic()

    def __call__(self) -> None:
        now_s = time.monotonic()
        if now_s < self._looked_s + _STOPPED_S:
            return
        self._looked_s = now_s
        if self._job.engine.run(is_stopped(self._job.spec.job_id, self._run)):
            raise errors.job_cancelled_here(self._job.spec.job_id, missing=None)
