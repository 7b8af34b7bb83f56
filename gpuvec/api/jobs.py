"""Batch jobs of a database: submit a frame, find jobs again, watch, end and resume them."""

import datetime
import os
import secrets
import time
from collections.abc import Sequence
from typing import Any

from gpuvec import errors
from gpuvec.api.batch_job import output_options
from gpuvec.api.engine import Engine
from gpuvec.api.frame import Frame
from gpuvec.api.job import Job, Status
from gpuvec.api.job_output import Output
from gpuvec.api.job_run import is_alive, pin, status_of, unpin
from gpuvec.api.job_sources import JobSources, engine_of
from gpuvec.api.listed_work import ListedWork, listed
from gpuvec.meta.batch_jobs import (
    JobPlan,
    JobSpec,
    JobState,
    create_job,
    end_run,
    forget_job,
    list_jobs,
    read_spec,
    read_state,
    sweep_jobs,
)
from gpuvec.query import build
from gpuvec.query import plan as p
from gpuvec.query.plan import Plan
from gpuvec.query.plan_json import plan_to_json
from gpuvec.query.plan_text import plan_lines
from gpuvec.query.session import Session
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore

BatchJobHandle = Job[Frame]
_POLL_S = 0.2
_ADOPTED_S = 120.0  # in which a cluster takes up a job that nobody works on


def submit(
    plan: Plan, session: Session, path: str | os.PathLike[str] | None, part_rows: Any
) -> BatchJobHandle:
    """Create a job from a plan and have somebody work on it; see `Frame.submit`."""
    engine = engine_of(plan)
    rows = None if part_rows is None else build.whole_number("part_rows", part_rows, least=1)
    job_id = keys.ulid(engine.now_ms(), secrets.token_hex(16))
    url = _output(engine, job_id, path)
    output = Output(url, output_options(engine, url))
    keeper = JobSources(engine, session, job_id)
    kept = plan_to_json(_seeded(plan), keeper)
    output.take(job_id)
    spec = JobSpec(
        job_id=job_id,
        what=tuple(plan_lines(plan)),
        plan=kept,
        versions=tuple(keeper.versions),
        output=url,
        created_ms=engine.now_ms(),
        by_cluster=engine.jobs.by_cluster,
        part_rows=rows,
    )
    pin(engine, spec)
    engine.run(create_job(spec))
    engine.run(sweep_jobs(engine.now_ms()))
    engine.jobs.launch(job_id, session)
    return _handle(engine, session, spec)


def all_jobs(engine: Engine, session: Session) -> list[Job[Any]]:
    """Return the jobs of a database, heavy work that runs or ended of late first."""
    found = engine.run(list_jobs())
    batch = [_handle(engine, session, engine.run(read_spec(job_id))) for job_id in reversed(found)]
    return [*listed(engine), *batch]


def one_job(engine: Engine, session: Session, job_id: str) -> Job[Any]:
    """Return a job by name.

    Raises:
        NotFoundError: `GV-774`.
    """
    for job in listed(engine):
        if job.id == job_id:
            return job
    return _handle(engine, session, engine.run(read_spec(job_id)))


class BatchWork:
    """A batch job as `Job` sees it: what the store says; see `gpuvec.api.job.Work`."""

    def __init__(self, engine: Engine, session: Session, spec: JobSpec) -> None:
        self._engine = engine
        self._session = session
        self.spec = spec
        self._plan: JobPlan | None = None

    @property
    def what(self) -> str:
        """See `Work.what`."""
        return f"job {self.spec.job_id} ({self.spec.title})"

    @property
    def output(self) -> str:
        """Where the rows go."""
        return self.spec.output

    @property
    def patience_s(self) -> float:
        """How long to wait for somebody else who goes on with it."""
        return _ADOPTED_S if self.spec.by_cluster and self._engine.jobs.by_cluster else 0.0

    def state(self) -> JobState:
        """Return what the store says.

        Raises:
            NotFoundError: `GV-774`, the job was forgotten.
        """
        found = self._engine.run(read_state(self.spec.job_id, self._plan))
        if not found.run:
            self._engine.run(read_spec(self.spec.job_id))  # else it looks like one that waits
        self._plan = found.plan
        return found

    def status(self) -> Status:
        """See `Work.status`."""
        return self.status_of(self.state())

    def status_of(self, state: JobState) -> Status:
        """Return how the job stands in a state."""
        return status_of(state, self._engine.now_ms())

    def share(self) -> float:
        """See `Work.share`."""
        return self.state().share

    def eta(self) -> float | None:
        """Return seconds until it is done, by what the newest run has done; None: not known."""
        state = self.state()
        if state.done or state.plan is None or state.claim is None:
            return 0.0 if state.done else None
        total = sum(part.rows for part in state.plan.parts)
        done = state.rows_done - state.claim.done_rows
        if not done or not is_alive(state, self._engine.now_ms()):
            return None
        taken_s = (self._engine.now_ms() - state.claim.begun_ms) / 1000
        return max(0.0, taken_s * (total - state.rows_done) / done)

    def pause(self, timeout_s: float) -> None:
        """See `Work.pause`."""
        run = self._engine.jobs.run_of(self.spec.job_id)
        if run is not None and not run.ended.is_set():
            run.ended.wait(timeout_s)
        else:
            time.sleep(min(timeout_s, _POLL_S))

    def result(self) -> Frame:
        """Return the rows, which are read from the files when the frame runs."""
        state = self.state()
        job_id, missing = self.spec.job_id, state.missing
        if state.done:
            output = Output(self.spec.output, output_options(self._engine, self.spec.output))
            return output.frame(self._session)
        if state.ending == "failed":
            run = self._engine.jobs.run_of(job_id)
            cause = None if run is None else run.cause
            raise self._failure(state) from cause
        if state.ending == "cancelled":
            raise errors.job_cancelled_here(job_id, missing=missing)
        raise errors.job_interrupted(job_id, missing=missing)

    def _failure(self, state: JobState) -> errors.JobError:
        facts = dict(state.facts)
        code = f" [{facts['code']}]" if facts.get("code") else ""
        problem = f"{facts.get('kind', 'error')}{code}: {facts.get('problem', 'unknown')}"
        part = facts.get("part")
        if part is not None:
            times = "once" if facts["tries"] == 1 else f"{facts['tries']} times"
            problem = f"part {part}{_place(state, part)} failed {times}: {problem}"
        missing = 0 if state.missing is None else state.missing
        return errors.job_failed(self.spec.job_id, problem, missing=missing, details=facts)

    def cancel(self) -> None:
        """See `Work.cancel`: finished parts stay, so that the job can be resumed."""
        run = self._engine.jobs.run_of(self.spec.job_id)
        facts = {"at_ms": self._engine.now_ms()}
        self._engine.run(end_run(self.spec.job_id, self.state().run, "cancelled", facts))
        if run is not None and not run.ended.is_set():
            run.look()
            run.ended.wait()

    def resume(self) -> None:
        """Do the missing parts: in this process, or in the cluster that it is connected to."""
        self._engine.jobs.launch(self.spec.job_id, self._session)

    def forget(self) -> None:
        """Delete what the store keeps of the job, with its rows if they lie with the database.

        Raises:
            ConflictError: `GV-778`, it is running.
        """
        if self.status() == "running":
            raise errors.job_is_running(self.spec.job_id)
        unpin(self._engine, self.spec)
        self._engine.run(forget_job(self.spec.job_id))


def work_of(job: BatchJobHandle) -> BatchWork:
    """Return what stands behind a job of this module."""
    work = job._work
    assert isinstance(work, BatchWork)
    return work


def _handle(engine: Engine, session: Session, spec: JobSpec) -> BatchJobHandle:
    return Job(spec.job_id, BatchWork(engine, session, spec))


def _output(engine: Engine, job_id: str, path: str | os.PathLike[str] | None) -> str:
    if path is None:
        if isinstance(engine.store, MemoryStore):
            raise errors.job_refused(
                "its database is in memory, where no file can be",
                hint='name a folder: submit("out/")',
            )
        path = f"{engine.where.rstrip('/')}/{keys.job_rows(job_id)}"
    url = os.fspath(path)
    if not url.strip():
        raise errors.empty_path()
    if url.endswith(".parquet"):
        raise errors.job_refused(
            "a job writes a folder with a file per part, not one file",
            hint='name a folder: submit("out/")',
        )
    return url if "://" in url else os.path.abspath(os.path.expanduser(url))


def _seeded(node: Plan) -> Plan:
    """Return the plan with a seed for each sample, so that every part draws the same rows."""
    from dataclasses import replace

    from gpuvec.query.optimize import with_inputs

    node = with_inputs(node, _seeded)
    if isinstance(node, p.Sample) and node.seed is None:
        return replace(node, seed=secrets.randbits(32))
    return node


def _place(state: JobState, part: int) -> str:
    if state.plan is None or state.plan.kind == "whole":
        return ""
    block = state.plan.parts[part]
    what = "keys" if state.plan.kind == "keys" else "rows"
    start = "the first" if block.start is None else block.start
    stop = "the last" if block.stop is None else block.stop
    return f" of {len(state.plan.parts):,} ({what} {start} to {stop})"


def facts_of(jobs: Sequence[Job[Any]]) -> list[dict[str, Any]]:
    """Return a line per job, for tables."""
    names = ("id", "kind", "status", "progress", "parts", "what", "output")
    return [{name: facts[name] for name in names} for facts in map(details_of, jobs)]


def details_of(job: Job[Any]) -> dict[str, Any]:
    """Return what is known of a job, for people."""
    if isinstance(job._work, ListedWork):
        return job._work.details()
    work = work_of(job)
    spec, state = work.spec, work.state()
    parts = "?" if state.plan is None else f"{len(state.plan.parts):,}"
    made = datetime.datetime.fromtimestamp(spec.created_ms / 1000, datetime.UTC)
    return {
        "id": job.id,
        "kind": job.kind,
        "status": work.status_of(state),
        "progress": f"{state.share:.0%}",
        "parts": f"{len(state.parts):,}/{parts}",
        "what": spec.title,
        "output": spec.output,
        "made": made.isoformat(" ", timespec="seconds").replace("+00:00", "Z"),
        "eta_s": work.eta(),
        "runs": state.run,
        "worker": None if state.claim is None else state.claim.worker,
        "failure": state.facts.get("problem") if state.ending == "failed" else None,
        "plan": "\n".join(spec.what),
    }
