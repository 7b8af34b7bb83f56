"""5xx: stores, files, logs and manifests."""

import errno
from collections.abc import Iterable

from gpuvec.errors.base import (
    ConflictError,
    CorruptError,
    QueryError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)


def missing_object(where: str) -> CorruptError:
    """Return the error for a file that a manifest or a caller names and that is not there."""
    return CorruptError(
        "GV-501",
        f"{where} is missing",
        hint="files of a database are never removed by hand: restore it from a copy",
        details={"path": where, "missing": True},
    )


def object_too_short(where: str, *, wanted: int, got: int) -> CorruptError:
    """Return the error for a file that ends too early."""
    return CorruptError(
        "GV-502",
        f"{where} should have {wanted:,} bytes, it has {got:,}",
        hint="its length changed after it was written: restore it from a copy",
        details={"path": where, "wanted": wanted, "got": got, "missing": False},
    )


def wrong_checksum(where: str, *, wanted: int, got: int) -> CorruptError:
    """Return the error for a file whose bytes changed."""
    return CorruptError(
        "GV-503",
        f"{where} should have checksum {wanted:08x}, it has {got:08x}",
        hint="its bytes changed after they were written: check the disk, restore it from a copy",
        details={"path": where, "wanted": wanted, "got": got, "missing": False},
    )


def storage_failed(action: str, where: str, cause: OSError) -> StorageError:
    """Name the case by what the operating system answered."""
    code, hint = (
        "GV-504",
        "check the disk and the system's log; gpuvec acknowledged nothing of this",
    )
    if cause.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        code, hint = "GV-505", "make room on the disk and try again; what was acknowledged is safe"
    elif cause.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        code, hint = "GV-506", "give this user the right to do so, or work on a copy"
    elif cause.errno in (errno.ENFILE, errno.EMFILE):
        hint = "raise the limit of open files (ulimit -n)"
    elif cause.errno in (errno.ENOTDIR, errno.EEXIST):
        hint = "a file stands where a folder should be: choose another path"
    elif cause.errno in (errno.EOPNOTSUPP, errno.ENOSYS):
        hint = "gpuvec needs hard links and locks: choose a POSIX file system"
    return StorageError(
        code,
        f"cannot {action} {where}: {cause.strerror or cause}",
        hint=hint,
        details={"path": where, "errno": cause.errno},
    )


def log_failed_before(where: str) -> StorageError:
    """Return the error for a log whose end is unknown since an append failed."""
    return StorageError(
        "GV-507",
        f"cannot append to {where}: an earlier append failed, so its end is unknown",
        hint="reopen the database: it finds what the disk holds and goes on in a new file",
        details={"path": where},
    )


def unknown_store(url: str, scheme: str) -> UnsupportedError:
    """Return the error for a URL of a kind that gpuvec does not open."""
    return UnsupportedError(
        "GV-508",
        f'"{url}" should be a path, file:// and a path, memory://, s3://, gs:// or az:// and a '
        f"bucket, or a folder in a file system that fsspec can list; got {scheme}://",
        hint="copy the data to one of these",
        details={"url": url, "scheme": scheme},
    )


def empty_path() -> QueryError:
    """Return the error for a database path without a letter in it."""
    return QueryError(
        "GV-514",
        "the path of a database is empty",
        hint='gv.connect("."), gv.connect("./shop"), or memory:// for one that is not kept',
    )


def locked(where: str, pid: int | None) -> UnavailableError:
    """Return the error for a second process that wants to write."""
    owner = "another process" if pid is None else f"process {pid}"
    return UnavailableError(
        "GV-510",
        f"{where} is held by {owner}, which writes to this database",
        hint="one process writes, any number read: close the other one, or write through it",
        details={"path": where, "pid": pid, "retryable": True, "outcome": "none"},
    )


def unknown_storage_options(scheme: str, options: Iterable[str]) -> UnsupportedError:
    """Return the error for options that a kind of store does not have."""
    names = sorted(options)
    return UnsupportedError(
        "GV-511",
        f"{scheme}:// takes no storage_options; got {', '.join(names)}",
        hint="leave storage_options out",
        details={"options": names},
    )


def unknown_durability(got: object, known: Iterable[str]) -> QueryError:
    """Return the error for a durability that does not exist."""
    names = list(known)
    return QueryError(
        "GV-512",
        f'durability must be one of {", ".join(names)}; got "{got}"',
        hint='"fsync" survives power cuts, "os" only the death of the process',
        details={"got": got, "known": names},
    )


def unreadable_file(where: str, cause: object) -> CorruptError:
    """Return the error for an intact file that is not in the format wanted."""
    return CorruptError(
        "GV-513",
        f"{where} has the right checksum but cannot be read: {cause}",
        hint="it may come from a newer gpuvec: read it with that version",
        details={"path": where, "missing": False},
    )


def missing_entry(where: str) -> CorruptError:
    """Return the error for a gap in a manifest log."""
    return CorruptError(
        "GV-520",
        f"{where} is missing from the history that later entries continue",
        hint="files of a database are never removed by hand: restore it from a copy",
        details={"path": where, "missing": True},
    )


def damaged_entry(where: str, why: str) -> CorruptError:
    """Return the error for a manifest entry or checkpoint whose bytes are not what was written."""
    return CorruptError(
        "GV-521",
        f"{where} is damaged: {why}",
        hint="restore this file from a copy; nothing was read past it",
        details={"path": where, "why": why},
    )


def newer_file(where: str, *, wanted: int, got: object) -> UnsupportedError:
    """Return the error for a file that a newer gpuvec wrote."""
    return UnsupportedError(
        "GV-522",
        f"{where} was written by a newer gpuvec: format {got}, this one reads up to {wanted}",
        hint="upgrade gpuvec; nothing was changed",
        details={"path": where, "wanted": wanted, "got": got},
    )


def generation_lost(*, mine: int, newest: int) -> UnavailableError:
    """Return the error for a commit by a coordinator that another has replaced."""
    return UnavailableError(
        "GV-523",
        f"another coordinator took over: this one has generation {mine}, the log has {newest}",
        hint="nothing was changed; open the database again",
        details={"mine": mine, "newest": newest, "retryable": False, "outcome": "none"},
    )


def commit_unknown(where: str) -> UnavailableError:
    """Return the error for a commit whose outcome the store would not tell."""
    return UnavailableError(
        "GV-524",
        f"the store failed while {where} was committed, and does not say whether it was",
        hint="read again once the store answers; a retry with the same request id is safe",
        details={"path": where, "retryable": True, "outcome": "unknown"},
    )


def manifest_conflict(why: str) -> ConflictError:
    """Return the error for a change that another change made impossible."""
    return ConflictError(
        "GV-525",
        f"another change came first: {why}",
        hint="nothing was changed; look again and retry",
        details={"why": why},
    )


def damaged_log(where: str, why: str) -> CorruptError:
    """Return the error for a write-ahead log whose bytes are not what was written."""
    return CorruptError(
        "GV-526",
        f"write-ahead log {where} is damaged: {why}",
        hint="restore the file from a copy; nothing was read past the damage and nothing was cut",
        details={"path": where, "why": why},
    )


def channel_fenced(channel: str, *, mine: int, newest: int, outcome: str) -> UnavailableError:
    """Return the error for a write by an owner whose channel another process took."""
    return UnavailableError(
        "GV-527",
        f"channel {channel} was taken by another writer: epoch {newest}, this one has {mine}",
        hint="open the database again to write; a retry with the same request id is safe",
        details={"mine": mine, "newest": newest, "retryable": True, "outcome": outcome},
    )


def append_unknown(channel: str, cause: object) -> UnavailableError:
    """Return the error for a write whose outcome the store would not tell."""
    return UnavailableError(
        "GV-528",
        f"the log of channel {channel} could not be written: {cause}",
        hint="the write may be in the log; a retry with the same request id is safe",
        details={"retryable": True, "outcome": "unknown"},
    )


def claim_lost(channel: str, *, mine: int, newest: int) -> UnavailableError:
    """Return the error for a claim that a later claim overtook."""
    return UnavailableError(
        "GV-529",
        f"channel {channel} was claimed with epoch {newest} while epoch {mine} was being set up",
        hint="another process writes to this database; close it there, or write there",
        details={"mine": mine, "newest": newest, "retryable": True, "outcome": "none"},
    )


def log_undecided(where: str) -> UnavailableError:
    """Return the error for a log whose next owner has begun a take-over and not finished it."""
    return UnavailableError(
        "GV-530",
        f"a writer is taking over {where}; whether its last write counts is not decided yet",
        hint="retry shortly; if it goes on, open the database for writing once",
        details={"path": where, "retryable": True, "outcome": "none"},
    )


def unknown_index_version(*, wanted: int, got: object) -> UnsupportedError:
    """Return the error for an index file in a form that this version does not know."""
    return UnsupportedError(
        "GV-330",
        f"the index file has form {got}; this version of gpuvec reads form {wanted}",
        hint="drop the index and create it again, or use the version of gpuvec that made it",
        details={"wanted": wanted, "got": got},
    )


def index_damaged(cause: CorruptError) -> CorruptError:
    """Return the error for a file of an index, told as the store did, with the way out."""
    return CorruptError(
        cause.code,
        cause.message,
        hint="it belongs to an index, rows are not affected: create_index with the arguments of "
        "then makes it anew; search(exact=True) needs no index of vectors",
        details=cause.details,
    )


def damaged_index_file(why: str) -> CorruptError:
    """Return the error for an index file that is not one, or not all of one."""
    return CorruptError(
        "GV-331",
        f"an index file is damaged: {why}",
        hint="create_index with the arguments of then makes it anew; rows are not affected",
        details={"why": why},
    )
