"""One run of a batch job: claims it, decides its parts, has them made, and says how it ended."""

import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from gpuvec import errors, telemetry
from gpuvec.api.batch_job import BatchJob, PartFailed, Runner, Tell
from gpuvec.api.job import Status
from gpuvec.meta.batch_jobs import (
    Claim,
    JobPlan,
    JobSpec,
    JobState,
    Receipt,
    claim_run,
    decide_plan,
    end_run,
    finish_job,
    is_stopped,
    read_receipts,
    read_state,
    write_beat,
)
from gpuvec.meta.changes_versions import DropPin, Pin

BEAT_S = 2.0
DEAD_S = 20.0  # without a sign of life
PIN_MS = 7 * 24 * 3600 * 1000  # that a job which nobody works on keeps its versions
_PIN_EVERY_S = 3600.0


class Ended(BaseException):
    """The run shall not go on: the database closes, or somebody else ended or replaced it.

    No error of the work, which is why nothing that catches those catches it.
    """


class LocalRunner:
    """Makes parts in this process, one at a time: a search takes all cores."""

    def cut_up(self, job: BatchJob) -> JobPlan:
        """See `Runner.cut_up`."""
        return job.cut_up(width=1)

    def receipts(self, job: BatchJob, parts: list[int], tell: Tell) -> Iterator[Receipt]:
        """See `Runner.receipts`."""
        plan = job.engine.run(read_state(job.spec.job_id)).plan
        assert plan is not None
        for part in parts:
            yield job.make_surely(plan, part, worker_name(), tell)


class JobRun:
    """One run; `work` does it on the calling thread.

    Args:
        job: what to do.
        runner: where parts are made.

    Attributes:
        ended: set when `work` has returned.
    """

    def __init__(self, job: BatchJob, runner: Runner) -> None:
        self._job = job
        self._spec: JobSpec = job.spec
        self._engine = job.engine
        self._runner = runner
        self._number = 0
        self._closing = False
        self._stop = threading.Event()
        self.ended = threading.Event()
        self.cause: BaseException | None = None
        self._plan: JobPlan | None = None
        self._done: set[int] = set()
        self._before = 0  # rows that runs before did
        self._begun_s = time.monotonic()

    def claim(self) -> bool:
        """Claim the job; False: it is done, or somebody else was faster.

        Raises:
            SnapshotExpiredError: `GV-640`, a version that it reads is no longer kept.
        """
        state = self._engine.run(read_state(self._spec.job_id))
        if state.done:
            return False
        self._number = state.run + 1
        claim = Claim(
            worker=f"{worker_name()}-{secrets.token_hex(4)}",
            host=socket.gethostname(),
            process=process_id(),
            begun_ms=self._engine.now_ms(),
            done_rows=state.rows_done,
        )
        return self._engine.run(claim_run(self._spec.job_id, self._number, claim))

    def work(self) -> None:
        """Do what is missing of a job that is claimed."""
        beats = threading.Thread(target=self._beat, name="gpuvec-job-beat", daemon=True)
        beats.start()
        telemetry.note("job", id=self._spec.job_id, status="running")
        try:
            self._work()
        except Ended:
            if self._closing:
                self._say("stopped", {})
        except Exception as error:  # told to whoever waits, here and elsewhere
            self.cause = error.cause if isinstance(error, PartFailed) else error
            self._say("failed", _facts(error))
            telemetry.note("job", id=self._spec.job_id, status="failed")
        finally:
            self._stop.set()
            beats.join()
            self._job.close()
            self.ended.set()

    def _work(self) -> None:
        job_id, job = self._spec.job_id, self._job
        self._tell()
        pin(self._engine, self._spec)
        state: JobState = self._engine.run(read_state(job_id))
        plan: JobPlan | None = state.plan
        if plan is None:
            plan = self._engine.run(decide_plan(job_id, self._runner.cut_up(job)))
        missing = [part for part in range(len(plan.parts)) if part not in state.parts]
        self._plan, self._done, self._before = plan, set(state.parts), state.rows_done
        for receipt in self._runner.receipts(job, missing, self._tell):
            self._done.add(receipt.part)
            self._tell()
        receipts = self._engine.run(read_receipts(job_id))
        facts = {
            "rows": sum(receipt.rows for receipt in receipts),
            "size_bytes": sum(receipt.size_bytes for receipt in receipts),
            "at_ms": self._engine.now_ms(),
        }
        job.output.tidy()
        self._engine.run(finish_job(job_id, facts))
        unpin(self._engine, self._spec)
        telemetry.note("job", id=job_id, status="done", rows=facts["rows"])

    def line(self) -> dict[str, Any]:
        """Return how far it is, from memory, for people."""
        plan = self._plan
        parts = () if plan is None else plan.parts
        total, done = sum(part.rows for part in parts), sum(parts[n].rows for n in self._done)
        made, taken_s = done - self._before, time.monotonic() - self._begun_s
        return {
            "id": self._spec.job_id,
            "what": self._spec.title,
            "status": "running",
            "progress": done / total if total else 0.0,
            "eta_s": taken_s * (total - done) / made if made else None,
            "parts": len(parts),
            "parts_done": len(self._done),
        }

    def close(self) -> None:
        """End the run at the next piece of work, to be resumed by anybody; wait for that."""
        self._closing = True
        self._stop.set()
        self.ended.wait()

    def look(self) -> bool:
        """Return whether the run goes on; it stops if somebody else ended or replaced it."""
        if self._engine.run(is_stopped(self._spec.job_id, self._number)):
            self._stop.set()
        return not self._stop.is_set()

    def _tell(self) -> None:
        if self._stop.is_set():
            raise Ended

    def _say(self, ending: str, facts: dict[str, Any]) -> None:
        with suppress(errors.StorageError):  # the sign of life stops, which says it too
            self._engine.run(end_run(self._spec.job_id, self._number, ending, facts))

    def _beat(self) -> None:
        since_pin_s = 0.0
        while not self._stop.wait(BEAT_S):
            with suppress(errors.StorageError):  # the next one may pass; without, others take over
                now_ms = self._engine.now_ms()
                self._engine.run(write_beat(self._spec.job_id, self._number, now_ms))
                self.look()
            since_pin_s += BEAT_S
            if since_pin_s >= _PIN_EVERY_S:
                since_pin_s = 0.0
                with suppress(errors.GpuvecError):  # a part that needs the version says so
                    pin(self._engine, self._spec)


def is_alive(state: JobState, now_ms: int) -> bool:
    """Return whether somebody works on a job, as far as can be told from here."""
    claim = state.claim
    if claim is None or state.ending or state.done:
        return False
    if claim.host == socket.gethostname() and not _lives(claim.process):
        return False
    return now_ms - state.beat_ms < DEAD_S * 1000


def status_of(state: JobState, now_ms: int) -> Status:
    """Return how a job stands."""
    if state.done:
        return "done"
    if state.ending in ("cancelled", "failed"):
        return "cancelled" if state.ending == "cancelled" else "failed"
    if state.claim is None:
        return "waiting"
    return "running" if is_alive(state, now_ms) else "interrupted"


def pin(engine: Any, spec: JobSpec) -> None:
    """Keep the versions that a job reads, for `PIN_MS`."""
    now_ms = engine.now_ms()
    for name, (collection_id, version) in spec.pins().items():
        engine.name_of(collection_id)
        change = Pin(pin_id=name, version=version, since_ms=now_ms, expires_ms=now_ms + PIN_MS)
        engine.pin(collection_id, [change])


def unpin(engine: Any, spec: JobSpec) -> None:
    """Let the versions of a job go; those of dropped collections are gone."""
    for name, (collection_id, _) in spec.pins().items():
        with suppress(errors.NotFoundError):
            engine.name_of(collection_id)
            engine.pin(collection_id, [DropPin(pin_id=name)])


def worker_name() -> str:
    """Return this process's name, for people."""
    return f"{socket.gethostname()}:{os.getpid()}"


def process_id() -> tuple[int, int]:
    """Return this process's number and when it began, which together never come again."""
    return os.getpid(), _began(os.getpid())


def _lives(process: tuple[int, int]) -> bool:
    number, began = process
    return _began(number) == began


def _began(number: int) -> int:
    """Return when a process of this machine began, in ticks; -1: there is none, 0: unknown."""
    try:
        with open(f"/proc/{number}/stat", "rb") as file:
            fields = file.read().rpartition(b")")[2].split()
        return -1 if fields[0] in (b"Z", b"X") else int(fields[19])
    except FileNotFoundError:
        return -1 if os.path.isdir("/proc/self") else 0


def _facts(error: Exception) -> dict[str, Any]:
    """Return what is kept of a failure."""
    cause = error.cause if isinstance(error, PartFailed) else error
    facts: dict[str, Any] = {
        "kind": type(cause).__name__,
        "problem": getattr(cause, "message", str(cause)) or type(cause).__name__,
        "code": getattr(cause, "code", ""),
        "hint": getattr(cause, "hint", ""),
    }
    if isinstance(error, PartFailed):
        facts |= {"part": error.part, "tries": error.tries}
    return facts
