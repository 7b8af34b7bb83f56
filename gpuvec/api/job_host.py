"""Where an engine's batch jobs are seen to: in this process, each on a thread of its own."""

import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Protocol

from gpuvec.query.session import Session, default_session

if TYPE_CHECKING:
    from gpuvec.api.batch_job import Runner
    from gpuvec.api.engine import Engine
    from gpuvec.api.job_run import JobRun


_ADOPT_S = 3.0


class JobHost(Protocol):
    """What begins jobs, here or elsewhere."""

    by_cluster: bool  # whether coordinators take jobs up by themselves

    def launch(self, job_id: str, session: Session) -> None:
        """Have somebody work on a job; nothing happens when somebody does."""

    def run_of(self, job_id: str) -> "JobRun | None":
        """Return the run of this process, if it is the newest; None when it works elsewhere."""

    def stop(self) -> None:
        """End what runs here; jobs are interrupted then, and can be resumed."""


class LocalJobs:
    """See `JobHost`. Safe for use by several threads.

    Args:
        engine: of the database.
        runner: makes what makes the parts; None: this process does.
        by_cluster: see `JobHost`.
    """

    def __init__(
        self,
        engine: "Engine",
        runner: "Callable[[], Runner] | None" = None,
        *,
        by_cluster: bool = False,
    ) -> None:
        self.by_cluster = by_cluster
        self._engine = engine
        self._runner = runner
        self._runs: dict[str, JobRun] = {}
        self._settled: set[str] = set()  # jobs that `adopt` need not look at again
        self._stopped = False
        self._adopted_s = float("-inf")
        self._lock = threading.Lock()

    def run_with(self, runner: "Callable[[], Runner]") -> None:
        """Have jobs that begin from now on run elsewhere."""
        self._runner = runner

    def launch(self, job_id: str, session: Session | None = None) -> None:
        """See `JobHost.launch`."""
        from gpuvec.api.batch_job import BatchJob
        from gpuvec.api.job_run import JobRun, LocalRunner
        from gpuvec.meta.batch_jobs import read_spec

        spec = self._engine.run(read_spec(job_id))
        job = BatchJob(self._engine, session or default_session(), spec)
        run = JobRun(job, LocalRunner() if self._runner is None else self._runner())
        before = self._runs.get(job_id)
        if before is not None and not before.ended.is_set():
            if before.look():
                return
            before.ended.wait()
        with self._lock:
            newer = self._runs.get(job_id)
            if newer is not before and newer is not None:
                return  # another thread was faster
            if self._stopped or not run.claim():
                return
            self._settled.discard(job_id)
            self._runs[job_id] = run
        threading.Thread(target=run.work, name=f"gpuvec-job-{job_id}", daemon=True).start()

    def adopt(self) -> None:
        """Take up the cluster's jobs that nobody works on; to be called now and then."""
        now_s = time.monotonic()
        if now_s < self._adopted_s + _ADOPT_S or self._stopped:
            return
        self._adopted_s = now_s
        self._adopt()

    def _adopt(self) -> None:
        from gpuvec.api.job_run import status_of
        from gpuvec.meta.batch_jobs import list_jobs, read_spec, read_state

        for job_id in self._engine.run(list_jobs()):
            run = self._runs.get(job_id)
            if job_id in self._settled or (run is not None and not run.ended.is_set()):
                continue
            state = self._engine.run(read_state(job_id))
            status = status_of(state, self._engine.now_ms())
            ours = self._engine.run(read_spec(job_id)).by_cluster
            if ours and status in ("waiting", "interrupted"):
                self.launch(job_id)
            elif not ours or status != "running":
                self._settled.add(job_id)

    def lines(self) -> list[dict[str, Any]]:
        """Return a line per job that runs here, from memory."""
        return [run.line() for run in list(self._runs.values()) if not run.ended.is_set()]

    @property
    def busy(self) -> bool:
        """Whether a job runs here."""
        return any(not run.ended.is_set() for run in list(self._runs.values()))

    def run_of(self, job_id: str) -> "JobRun | None":
        """See `JobHost.run_of`."""
        return self._runs.get(job_id)

    def stop(self) -> None:
        """See `JobHost.stop`."""
        with self._lock:
            self._stopped = True
        for run in list(self._runs.values()):
            run.close()
