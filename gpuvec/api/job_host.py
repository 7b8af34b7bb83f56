"""Where an engine's batch jobs run: in this process, each on a thread of its own."""

import threading
from typing import TYPE_CHECKING, Protocol

from gpuvec.query.session import Session

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine
    from gpuvec.api.job_run import JobRun


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
    """See `JobHost`. Safe for use by several threads."""

    by_cluster = False

    def __init__(self, engine: "Engine") -> None:
        self._engine = engine
        self._runs: dict[str, JobRun] = {}
        self._lock = threading.Lock()

    def launch(self, job_id: str, session: Session) -> None:
        """See `JobHost.launch`."""
        from gpuvec.api.batch_job import BatchJob
        from gpuvec.api.job_run import JobRun, LocalRunner
        from gpuvec.meta.batch_jobs import read_spec

        spec = self._engine.run(read_spec(job_id))
        run = JobRun(BatchJob(self._engine, session, spec), LocalRunner())
        with self._lock:
            before = self._runs.get(job_id)
            if (before is not None and not before.ended.is_set()) or not run.claim():
                return
            self._runs[job_id] = run
        threading.Thread(target=run.work, name=f"gpuvec-job-{job_id}", daemon=True).start()

    def run_of(self, job_id: str) -> "JobRun | None":
        """See `JobHost.run_of`."""
        return self._runs.get(job_id)

    def stop(self) -> None:
        """See `JobHost.stop`."""
        for run in list(self._runs.values()):
            run.close()
