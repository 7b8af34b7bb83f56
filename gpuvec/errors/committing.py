"""79x: entries that a cluster's coordinator commits, and heavy work that its workers do."""

from gpuvec.errors.base import GpuvecError, JobError, UnavailableError


def no_committer(collection: str, cause: str) -> UnavailableError:
    """Return the error for a commit while no coordinator answers."""
    return UnavailableError(
        "GV-790",
        f'nothing was committed to "{collection}": no coordinator answers ({cause})',
        hint="writes of rows go on; flushes and changes of the schema wait for the coordinator",
        details={"collection": collection, "retryable": True, "outcome": "none"},
    )


def commit_refused(collection: str, term: int) -> UnavailableError:
    """Return the error for a commit by a node that the coordinator does not know as the owner."""
    return UnavailableError(
        "GV-791",
        f'nothing was committed to "{collection}": the coordinator knows another owner, or this '
        f"one not yet (term {term})",
        hint="a retry is safe",
        details={"collection": collection, "term": term, "retryable": True, "outcome": "none"},
    )


def is_not_committed(error: BaseException) -> bool:
    """Return whether an error says that a commit was not even tried, so nothing changed."""
    return isinstance(error, GpuvecError) and error.code in ("GV-790", "GV-791")


def work_lost(what: str, times: int, cause: BaseException) -> UnavailableError:
    """Return the error for work whose workers were lost again and again."""
    return UnavailableError(
        "GV-792",
        f"{what}: {times} workers that did it were lost, the last by {type(cause).__name__}",
        hint="it is begun again later; if workers have too little memory for it, give them more",
        details={"what": what, "times": times, "retryable": True, "outcome": "none"},
    )


def work_unwanted(job_id: str) -> JobError:
    """Return the error for work that nobody waits for any more."""
    return JobError(
        "GV-793",
        f"nobody wants {job_id} any more",
        details={"job": job_id},
    )
