"""68x: verification of databases."""

from gpuvec.errors.base import NotFoundError, UnavailableError


def no_database_here(where: str) -> NotFoundError:
    """Return the error for verifying a place without a database."""
    return NotFoundError(
        "GV-680",
        f"there is no database at {where}: neither gpuvec.json nor a catalog",
        hint="give the path or URL that gv.connect takes",
        details={"path": where},
    )


def repair_beside_writer(where: str, owner: str) -> UnavailableError:
    """Return the error for repairing a database that another process is writing to."""
    return UnavailableError(
        "GV-681",
        f"{owner} is writing to {where}: nothing was repaired",
        hint="close the database there and run it again; without --repair it looks at any time",
        details={"path": where, "owner": owner, "retryable": True, "outcome": "none"},
    )
