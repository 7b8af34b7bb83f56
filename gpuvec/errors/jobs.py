"""77x: batch jobs."""

from typing import Any

from gpuvec.errors.base import (
    ConflictError,
    JobError,
    NotFoundError,
    QueryError,
    UnsupportedError,
    did_you_mean,
)


def job_failed(job_id: str, problem: str, *, missing: int, details: dict[str, Any]) -> JobError:
    """Return the error for waiting for a job one of whose parts failed."""
    parts = "one part is" if missing == 1 else f"{missing:,} parts are"
    return JobError(
        "GV-770",
        f"job {job_id} failed: {problem}",
        hint=f'{parts} missing; db.job("{job_id}").resume() does only those, '
        "once the cause is gone",
        details={"job": job_id, "missing": missing, **details},
    )


def job_refused(why: str, *, hint: str) -> UnsupportedError:
    """Return the error for a frame that cannot become a job."""
    return UnsupportedError("GV-771", f"this frame cannot be submitted: {why}", hint=hint)


def job_interrupted(job_id: str, *, missing: int | None) -> JobError:
    """Return the error for waiting for a job that nobody works on."""
    left = "" if missing is None else f" {missing:,} parts are missing;"
    return JobError(
        "GV-772",
        f"nobody works on job {job_id}: the process that did has ended, or closed the database",
        hint=f'{left} db.job("{job_id}").resume() goes on here'.strip(),
        details={"job": job_id, "missing": missing},
    )


def job_input_changed(job_id: str, path: str, what: str) -> ConflictError:
    """Return the error for a file that a job reads and that is not what it was."""
    return ConflictError(
        "GV-773",
        f"job {job_id} cannot go on: {path} {what} since the job was submitted",
        hint="put the file back as it was, or submit the frame again",
        details={"job": job_id, "path": path},
    )


def no_such_job(job_id: str, known: list[str]) -> NotFoundError:
    """Return the error for a job that the database has not."""
    near = did_you_mean(job_id, known)
    return NotFoundError(
        "GV-774",
        f'no job "{job_id}".{near}',
        hint="db.jobs() lists them" if known else "the database has no jobs",
        details={"job": job_id},
    )


def job_cancelled_here(job_id: str, *, missing: int | None) -> JobError:
    """Return the error for waiting for a batch job that was cancelled."""
    left = "" if missing is None else f", {missing:,} parts of which are missing"
    return JobError(
        "GV-775",
        f"job {job_id}{left}, was cancelled",
        hint=f'db.job("{job_id}").resume() goes on where it was',
        details={"job": job_id, "missing": missing},
    )


def bad_job_file(path: str, line: int | None, field: str, problem: str) -> QueryError:
    """Return the error for a description of a job that says something else than was wanted."""
    place = path if line is None else f"{path}, line {line}"
    return QueryError(
        "GV-776",
        f"{place}: {field + ': ' if field else ''}{problem}",
        hint="`gpuvec job run --help` names the fields",
        details={"path": path, "line": line, "field": field},
    )


def newer_job(job_id: str, version: object) -> UnsupportedError:
    """Return the error for a job that a later gpuvec wrote."""
    return UnsupportedError(
        "GV-777",
        f"job {job_id} was written by a later gpuvec (version {version} of its form)",
        hint="upgrade gpuvec",
        details={"job": job_id, "version": version},
    )


def job_is_running(job_id: str) -> ConflictError:
    """Return the error for forgetting a job under way."""
    return ConflictError(
        "GV-778",
        f"job {job_id} is running",
        hint="cancel it first",
        details={"job": job_id, "retryable": True},
    )


def no_batch_job(what: str) -> UnsupportedError:
    """Return the error for forgetting a job of which the database keeps nothing."""
    return UnsupportedError(
        "GV-779",
        f"{what} is no batch job: the database keeps nothing of it that could be forgotten",
        hint="db.jobs() lists the jobs that frame.submit() made",
        details={"job": what},
    )


def cannot_cancel(what: str, kind: str) -> UnsupportedError:
    """Return the error for ending work that only its own way ends."""
    return UnsupportedError(
        "GV-626",
        f"{what} cannot be cancelled: it goes on for a wish that was made before",
        hint='drop_index("field") takes the wish for an index back'
        if kind == "index"
        else "wait for its end",
        details={"job": what, "kind": kind},
    )


def work_failed(what: str, problem: str) -> JobError:
    """Return the error for waiting for heavy work that failed, or of which nobody tells."""
    said = f"failed: {problem}" if problem else "is not told of any more: its process ended"
    return JobError(
        "GV-627",
        f"{what} {said}",
        hint="what is due is tried again by itself; indexes() and stats() tell what there is",
        details={"job": what, "problem": problem},
    )
