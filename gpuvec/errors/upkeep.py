"""63x: compaction and collection on demand."""

from gpuvec.errors.base import QueryError


def bad_age(value: object) -> QueryError:
    """Return the error for an age that is none."""
    return QueryError(
        "GV-630",
        f"older_than must be seconds, a timedelta or a text such as '7d', '12h', '0s'; "
        f"got {value!r}",
        hint="vacuum() alone forgets what the retention does not keep",
        details={"value": repr(value)},
    )


def read_only_files(what: str, name: str) -> QueryError:
    """Return the error for upkeep of a collection whose rows lie in files that are not its own."""
    return QueryError(
        "GV-631",
        f'"{name}" reads files in place, which {what} must not touch',
        hint="insert its rows into a collection of their own",
        details={"collection": name},
    )
