"""7xx: rights, quotas, settings and the command line."""

from collections.abc import Iterable

from gpuvec.errors.base import CorruptError, NotFoundError, QueryError, did_you_mean


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


def no_database(path: str, full: str, *, nor: str = "") -> NotFoundError:
    """Return the error for a place that should hold a database and holds none."""
    return NotFoundError(
        "GV-703",
        f"no database at {path}" + (f", nor at {nor}" if nor else ""),
        hint=f"looked for {full}/gpuvec.json; gpuvec import or create_collection makes one",
        details={"path": path, "full_path": full},
    )


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


def no_key_given(name: str, columns: Iterable[str]) -> QueryError:
    """Return the error for importing into a new collection without naming its key."""
    return QueryError(
        "GV-706",
        f'collection "{name}" does not exist yet, and no primary key was named',
        hint=f"--primary-key COLUMN, one of: {', '.join(columns)}",
        details={"collection": name},
    )


def bad_rename(text: str) -> QueryError:
    """Return the error for a rename that is no pair of names."""
    return QueryError(
        "GV-707",
        f'cannot read the rename "{text}"',
        hint="--columns wants pairs: 'emb=embedding,t=title'",
    )


def no_such_column(name: str, known: Iterable[str]) -> NotFoundError:
    """Return the error for renaming a column that the files do not have."""
    names = list(known)
    return NotFoundError(
        "GV-708",
        f'the files have no column "{name}".{did_you_mean(name, names)}',
        hint=f"columns: {', '.join(names)}",
    )


def unreadable_source(path: str, why: object) -> CorruptError:
    """Return the error for a file whose content is not what its ending says."""
    return CorruptError(
        "GV-709", f"cannot read {path}: {why}", hint="write the file again", details={"path": path}
    )


def bad_recall_list(text: str) -> QueryError:
    """Return the error for a list of recall targets that is none."""
    return QueryError(
        "GV-711",
        f'cannot read the recall targets "{text}"',
        hint="wanted: numbers above 0 and at most 1, with commas: 0.9,0.95,0.99",
        details={"got": text},
    )


def nothing_to_bench(what: str) -> QueryError:
    """Return the error for a measurement without rows, or without queries."""
    return QueryError("GV-710", f"there are no {what} to measure with")
