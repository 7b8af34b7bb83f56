"""64x: versions, tags, and copies of a version."""

import datetime
import difflib
from collections.abc import Iterable, Mapping

from gpuvec.errors.base import (
    AlreadyExistsError,
    ConflictError,
    CorruptError,
    NotFoundError,
    QueryError,
    SchemaError,
    SnapshotExpiredError,
    StorageError,
)

_LOGICAL_BITS = 18


def version_expired(
    name: str, version: int, *, oldest: int, tags: Mapping[str, int]
) -> SnapshotExpiredError:
    """Return the error for a version whose rows are gone."""
    tagged = ", ".join(f'"{tag}"' for tag in sorted(tags)) or "none"
    return SnapshotExpiredError(
        "GV-640",
        f'version {version} of "{name}" ({time_text(version)}) is older than what is kept',
        hint=f"the oldest version left is {oldest} ({time_text(oldest)}); tags: {tagged}. "
        "A tagged version is kept for ever; set_retention() keeps all of them longer",
        details={"version": version, "oldest": oldest, "tags": dict(tags)},
    )


def read_outlived(name: str, path: str) -> SnapshotExpiredError:
    """Return the error for a read whose files were collected while it ran, or before."""
    return SnapshotExpiredError(
        "GV-640",
        f'"{name}" changed, and {path}, which this read needs, is no longer kept',
        hint="read again: a new read sees the newest version",
        details={"path": path},
    )


def no_such_version(name: str, version: int, *, newest: int) -> NotFoundError:
    """Return the error for a version that does not exist yet."""
    return NotFoundError(
        "GV-641",
        f'"{name}" has no version {version} ({time_text(version)}) yet',
        hint=f"the newest is {newest} ({time_text(newest)}); versions() lists all",
        details={"version": version, "newest": newest},
    )


def before_creation(name: str, version: int, *, created: int) -> NotFoundError:
    """Return the error for a version from before the collection was made."""
    return NotFoundError(
        "GV-641",
        f'"{name}" was not there yet at version {version} ({time_text(version)})',
        hint=f"it was created at {time_text(created)}; versions() lists what came since",
        details={"version": version, "created": created},
    )


def no_such_tag(name: str, tag: object, tags: Iterable[str]) -> NotFoundError:
    """Return the error for a tag that does not exist."""
    known = sorted(tags)
    near = difflib.get_close_matches(str(tag), known, 1)
    return NotFoundError(
        "GV-642",
        f'"{name}" has no tag "{tag}".' + (f' Did you mean "{near[0]}"?' if near else ""),
        hint=f"tags: {', '.join(known) or 'none'}",
        details={"tag": tag, "tags": known},
    )


def tag_taken(name: str, tag: str, *, version: int) -> AlreadyExistsError:
    """Return the error for a tag that another version has."""
    return AlreadyExistsError(
        "GV-643",
        f'the tag "{tag}" of "{name}" names version {version} ({time_text(version)})',
        hint=f'untag("{tag}") first, or choose another name',
        details={"tag": tag, "version": version},
    )


def which_version(wanted: str, got: object) -> QueryError:
    """Return the error for a version that cannot be told from the arguments."""
    return QueryError(
        "GV-644",
        f"wanted {wanted}; got {got}",
        hint='at(version=items.version), at(time="2026-11-01T00:00Z") or at(tag="train-07")',
        details={"got": str(got)},
    )


def read_only_version(name: str, operation: str, version: int) -> QueryError:
    """Return the error for a write to an older version."""
    return QueryError(
        "GV-645",
        f'{operation}() would change "{name}" at version {version}, which is read-only',
        hint="write to the collection itself; restore(version=...) makes an old version the newest",
        details={"operation": operation, "version": version},
    )


def bad_tag(tag: object) -> QueryError:
    """Return the error for a name that no tag can have."""
    return QueryError(
        "GV-646",
        f"a tag is text of 1 to 255 characters without control characters; got {tag!r}",
        details={"tag": ascii(tag)},
    )


def bad_retention(got: object) -> QueryError:
    """Return the error for a retention that is no time."""
    return QueryError(
        "GV-646",
        f"a retention is seconds, a timedelta, or text such as 7d, 12h, 30m; got {got!r}",
        hint='set_retention("7d"), "0s" for the newest version alone, None for the setting',
        details={"got": str(got)},
    )


def restore_loses(name: str, version: int, fields: Iterable[str]) -> SchemaError:
    """Return the error for an old version with fields that the collection has no more."""
    lost = sorted(fields)
    return SchemaError(
        "GV-647",
        f'version {version} of "{name}" has fields that it lacks now, or has with another type: '
        f"{', '.join(lost)}",
        hint="add_field() them with their old types, then restore; or read them with at()",
        details={"version": version, "fields": lost},
    )


def copy_elsewhere(where: str, why: str) -> ConflictError:
    """Return the error for a copy whose destination holds something else."""
    return ConflictError(
        "GV-648",
        f"cannot copy to {where}: {why}",
        hint="copy to an empty place, or to one that holds an older copy of the same database",
        details={"path": where, "retryable": False},
    )


def copy_unfinished(where: str) -> StorageError:
    """Return the error for opening a copy that was cut."""
    return StorageError(
        "GV-648",
        f"{where} is a copy that was not completed",
        hint="run the same gpuvec copy again: it goes on where it was cut",
        details={"path": where},
    )


def copy_differs(key: str, where: str) -> CorruptError:
    """Return the error for a file that a copy found changed."""
    return CorruptError(
        "GV-649",
        f"{key} does not have the length and checksum that {where} says it has",
        hint="the copy was not completed; gpuvec verify names all damaged files of a database",
        details={"key": key, "path": where},
    )


def time_text(version: int) -> str:
    """Return the time of a version, to the millisecond."""
    seconds = (version >> _LOGICAL_BITS) / 1000
    try:
        found = datetime.datetime.fromtimestamp(seconds, datetime.UTC)
    except (OverflowError, ValueError, OSError):
        return "no time"
    return found.isoformat(timespec="milliseconds").replace("+00:00", "Z")
