"""7xx: rights, quotas, settings and the command line."""

from collections.abc import Iterable

from gpuvec.errors.base import NotFoundError, QueryError, did_you_mean


def unknown_setting(key: str, known: Iterable[str], *, where: str = "") -> NotFoundError:
    """Return the error for a setting that does not exist, with the nearest name."""
    names = sorted(known)
    place = f" (in {where})" if where else ""
    return NotFoundError(
        "GV-701",
        f'no setting "{key}"{place}.{did_you_mean(key, names)}',
        hint=f"settings: {', '.join(names)}",
        details={"setting": key, "known": names},
    )


def bad_setting(key: str, got: object, wanted: str, *, where: str) -> QueryError:
    """Return the error for a setting whose value is of the wrong kind."""
    return QueryError(
        "GV-702",
        f'setting "{key}" cannot be {got!r}: {wanted}',
        hint=f"it came from {where}",
        details={"setting": key, "got": got},
    )


def no_such_file(path: str, *, what: str) -> NotFoundError:
    """Return the error for a file, glob or database that is not there."""
    return NotFoundError("GV-703", f"no {what} at {path}", details={"path": path})


def not_a_collection_path(target: str) -> QueryError:
    """Return the error for a command-line target that names no collection."""
    return QueryError(
        "GV-704",
        f'"{target}" names no collection',
        hint="wanted: database path, slash, collection: ./shop/items",
    )


def unknown_file_kind(path: str, known: Iterable[str]) -> QueryError:
    """Return the error for a file whose ending is not understood."""
    return QueryError("GV-705", f"cannot read {path}", hint=f"endings: {', '.join(known)}")
