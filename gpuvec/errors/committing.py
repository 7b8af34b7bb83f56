"""79x: entries that a cluster's coordinator commits, and heavy work that its workers do."""

from gpuvec.errors.base import GpuvecError, UnavailableError


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
