"""6xx: writers, versions and availability."""

from collections.abc import Iterable

from gpuvec.errors.base import (
    ConflictError,
    CorruptError,
    DeadlineError,
    GpuvecError,
    NotFoundError,
    QueryError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)


def database_closed(where: str) -> UnavailableError:
    """Return the error for using a database after `close()`."""
    return UnavailableError(
        "GV-600",
        f"the database {where} was closed",
        hint="open it again with gv.connect",
        details={"retryable": False, "outcome": "none"},
    )


def forked(where: str) -> UnavailableError:
    """Return the error for using a database in a child process made by fork."""
    return UnavailableError(
        "GV-601",
        f"the database {where} was opened before this process was forked",
        hint="call gv.connect in the child; a child reads what the parent acknowledged",
        details={"retryable": False, "outcome": "none"},
    )


def written_elsewhere(where: str, owner: str) -> ConflictError:
    """Return the error for writing to a database that another process is writing to."""
    return ConflictError(
        "GV-602",
        f"{owner} is writing to the database {where}; one process writes at a time",
        hint="nothing was written; reading works here. Write from that process, or close it there",
        details={"path": where, "owner": owner, "retryable": True},
    )


def write_outcome_unknown(where: str, cause: BaseException) -> UnavailableError:
    """Return the error for a write of which nobody can tell whether it became durable."""
    return UnavailableError(
        "GV-603",
        f'the log of "{where}" could neither be written nor read back: {_brief(cause)}',
        hint="make the store writable again; a retry tells whether the write is there",
        details={"retryable": True, "outcome": "unknown"},
    )


def _brief(cause: BaseException) -> str:
    return f"[{cause.code}] {cause.message}" if isinstance(cause, GpuvecError) else str(cause)


def write_failed(where: str, cause: BaseException) -> UnavailableError:
    """Return the error for a write that certainly did not happen."""
    return UnavailableError(
        "GV-604",
        f'nothing was written to "{where}": {_brief(cause)}',
        hint="make the store writable again and retry",
        details={"retryable": True, "outcome": "none"},
    )


def not_a_database(where: str, found: Iterable[str]) -> StorageError:
    """Return the error for a directory that holds other things."""
    names = sorted(found)
    return StorageError(
        "GV-605",
        f"{where} is not a gpuvec database: it has no gpuvec.json, but holds "
        f"{', '.join(names[:5])}{', …' if len(names) > 5 else ''}",
        hint="nothing was changed. Give an empty or a new directory",
        details={"path": where, "found": names[:100]},
    )


def newer_format(where: str, got: object, known: int) -> UnsupportedError:
    """Return the error for a database that a later gpuvec wrote."""
    return UnsupportedError(
        "GV-606",
        f"the database {where} has format {got}; this gpuvec reads up to {known}",
        hint="upgrade gpuvec. Nothing was changed",
        details={"path": where, "format": got, "known": known},
    )


def not_a_directory(where: str) -> StorageError:
    """Return the error for a database path that is a file."""
    return StorageError(
        "GV-607",
        f"{where} is a file; a database is a directory",
        hint="give a directory; gv.frame reads single files",
        details={"path": where},
    )


def moved_away(where: str) -> StorageError:
    """Return the error for a database whose directory is no longer where it was opened."""
    return StorageError(
        "GV-613",
        f"the database {where} was moved, replaced or removed while it was open",
        hint="nothing more is read or written here. Close it, and connect where it is now",
        details={"path": where},
    )


def collection_gone(name: str) -> NotFoundError:
    """Return the error for using a collection that was dropped since."""
    return NotFoundError("GV-608", f'collection "{name}" was dropped', details={"collection": name})


def damaged_format(where: str) -> CorruptError:
    """Return the error for a database whose gpuvec.json cannot be read."""
    return CorruptError(
        "GV-609",
        f"gpuvec.json of the database {where} is damaged",
        hint='if it was a database of this gpuvec, write {"format": 1} into it',
        details={"path": where},
    )


def opened_otherwise(where: str, durability: str) -> QueryError:
    """Return the error for opening a database twice in one process, with different durability."""
    return QueryError(
        "GV-612",
        f'{where} is open in this process with durability="{durability}"',
        hint="close it first, or open it the same way",
        details={"path": where, "durability": durability},
    )


def no_such_node(node: str) -> UnavailableError:
    """Return the error for a call to a node that is not there."""
    return UnavailableError(
        "GV-610",
        f'no node "{node}" answers',
        details={"node": node, "retryable": True, "outcome": "none"},
    )


def deadline_passed(what: str, seconds: float) -> DeadlineError:
    """Return the error for a call that got no answer in time."""
    return DeadlineError(
        "GV-611",
        f"no answer within {seconds:g} s from {what}",
        hint="the outcome is unknown; look before you write again",
        details={"waited_for": what, "seconds": seconds, "outcome": "unknown"},
    )
