"""74x: who owns a collection in a cluster, and calls to the owner."""

from gpuvec.errors.base import JobError, UnavailableError, UnsupportedError


def not_owner(collection: str, node: str, *, outcome: str = "none") -> UnavailableError:
    """Return the error for a write to a node that does not own the collection, or no longer."""
    return UnavailableError(
        "GV-741",
        f'node "{node}" does not own "{collection}", or no longer does',
        hint="another node does, or will soon; a retry with the same request id is safe",
        details={"collection": collection, "node": node, "retryable": True, "outcome": outcome},
    )


def older_generation(*, got: int, newest: int) -> UnavailableError:
    """Return the error for an order of a coordinator that was replaced."""
    return UnavailableError(
        "GV-745",
        f"the order is of generation {got}; a coordinator of generation {newest} rules",
        hint="nothing was changed",
        details={"got": got, "newest": newest, "retryable": False, "outcome": "none"},
    )


def not_from_here(what: str) -> UnsupportedError:
    """Return the error for work that only the owner of a collection can do."""
    return UnsupportedError(
        "GV-746",
        f"{what} is done by the node that owns the collection, not by a client",
        hint="call the method of the collection that a connection with cluster= gives",
        details={"what": what},
    )


def job_lost(what: str, job_id: str) -> JobError:
    """Return the error for a job whose node is gone."""
    return JobError(
        "GV-747",
        f"the node that did the {what} is gone",
        hint="the same call begins again, with what was done and noted before",
        details={"job": job_id, "what": what},
    )


def creation_cut(name: str) -> UnavailableError:
    """Return the error for a collection whose creation another coordinator began."""
    return UnavailableError(
        "GV-748",
        f'the coordinator was replaced while "{name}" was being filled; it was not created',
        hint="create it again",
        details={"collection": name, "retryable": True, "outcome": "none"},
    )


def no_timestamps(until_ms: int) -> UnavailableError:
    """Return the error for a write beyond what the coordinator reserved of time."""
    return UnavailableError(
        "GV-749",
        "no timestamp is left below the bound that the coordinator committed",
        hint="a retry finds one as soon as the coordinator answers",
        details={"until_ms": until_ms, "retryable": True, "outcome": "none"},
    )
