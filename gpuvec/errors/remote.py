"""53x: stores behind a network, and who writes there."""

from collections.abc import Iterable

from gpuvec.errors.base import (
    ConflictError,
    GpuvecError,
    QueryError,
    StorageError,
    UnavailableError,
    UnsupportedError,
    did_you_mean,
)


def store_unsafe(where: str, tried: str, came: str) -> StorageError:
    """Return the error for a store that cannot keep two writers apart."""
    return StorageError(
        "GV-531",
        f"nothing is written to {where}: this store does not keep two writers apart. "
        f"Tried: {tried}. Came: {came}",
        hint="reading works. Write to a store that creates objects exclusively (S3, Google Cloud "
        "Storage, Azure, Ceph, R2) or to a local directory; a proxy in between may drop the "
        "If-None-Match header",
        details={"path": where, "tried": tried, "came": came},
    )


def store_failed(action: str, path: str, cause: str, *, attempts: int) -> StorageError:
    """Return the error for a request to a remote store that failed for good."""
    times = "" if attempts == 1 else f" {attempts} times"
    hint = "check the network and the store; what was acknowledged is safe"
    if "redirect" in cause or "region" in cause.lower():
        hint = 'give the bucket\'s region: storage_options={"region": "eu-central-1"}'
    return StorageError(
        "GV-532",
        f"cannot {action} {path}, tried{times or ' once'}: {cause}",
        hint=hint,
        details={"path": path, "attempts": attempts, "cause": cause, "missing": False},
    )


def create_undecided(path: str, cause: str) -> StorageError:
    """Return the error for a key that another was said to create, and that is not there."""
    return StorageError(
        "GV-532",
        f"cannot create {path}: the store reports a conflict, and holds nothing there: {cause}",
        hint="retry; another writer may have been at the same key",
        details={"path": path, "attempts": 1, "cause": cause, "missing": False},
    )


def store_access_denied(action: str, path: str, cause: str) -> StorageError:
    """Return the error for a store that does not let this caller do something."""
    return StorageError(
        "GV-533",
        f"may not {action} {path}: {cause}",
        hint="check key, secret, token and profile in storage_options, and the rights to get, put, "
        "list and delete; without the right to list, S3 calls missing objects forbidden",
        details={"path": path, "cause": cause},
    )


def no_store_library(url: str, extra: str) -> UnsupportedError:
    """Return the error for a URL whose library is not installed."""
    return UnsupportedError(
        "GV-534",
        f"{url} needs a library that is not installed",
        hint=f"pip install 'gpuvec[{extra}]'",
        details={"url": url, "extra": extra},
    )


def no_fsspec_library(url: str, cause: ImportError) -> UnsupportedError:
    """Return the error for a URL that fsspec knows and lacks the library for."""
    return UnsupportedError(
        "GV-534",
        f"{url} needs a library that is not installed: {cause}",
        hint="install the library that fsspec names",
        details={"url": url, "cause": str(cause)},
    )


def no_bucket(where: str, cause: str) -> StorageError:
    """Return the error for a bucket or container that is not there."""
    return StorageError(
        "GV-535",
        f"the bucket of {where} does not exist: {cause}",
        hint="create it first, or check the name and the endpoint; gpuvec creates no buckets",
        details={"path": where, "cause": cause},
    )


def unknown_storage_option(
    scheme: str, name: str, known: Iterable[str], *, inside: str = ""
) -> UnsupportedError:
    """Return the error for an option that a kind of store does not have."""
    names = sorted(known)
    place = f"storage_options{f' in {inside}' if inside else ''} of {scheme}://"
    return UnsupportedError(
        "GV-536",
        f'{place} has no "{name}".{did_you_mean(name, names)}',
        hint=f"it takes {', '.join(names)}",
        details={"option": name, "known": names},
    )


def bad_storage_options(scheme: str, cause: str) -> QueryError:
    """Return the error for option values that make no connection."""
    return QueryError(
        "GV-515",
        f"storage_options of {scheme}:// cannot be used: {cause}",
        hint="check their values; docs/stores.md lists them",
        details={"scheme": scheme, "cause": cause},
    )


def bucket_after_fork(url: str) -> UnavailableError:
    """Return the error for opening a bucket in a child of a process that used one."""
    return UnavailableError(
        "GV-516",
        f"{url} cannot be opened here: this process was forked from one that had opened a bucket, "
        "and the threads of its network client did not come along",
        hint='start processes with multiprocessing.get_context("spawn") or "forkserver"',
        details={"url": url, "retryable": False, "outcome": "none"},
    )


def profile_without_keys(name: str, cause: str) -> UnsupportedError:
    """Return the error for an AWS profile that gives no keys here."""
    return UnsupportedError(
        "GV-537",
        f'the AWS profile "{name}" has no keys in ~/.aws/credentials, and {cause}',
        hint="single sign-on and roles need pip install 'gpuvec[s3]'; or give key and secret",
        details={"profile": name, "cause": cause},
    )


def writer_replaced(where: str, cause: GpuvecError | None) -> ConflictError:
    """Return the error for writing after another process took over.

    Args:
        where: the database.
        cause: how it was noticed; tells what became of this write.
    """
    return ConflictError(
        "GV-538",
        f"another process took over writing to the database {where}",
        hint="reading works here. To write, close this database and connect again, which takes it "
        "over in turn",
        details={
            "path": where,
            "retryable": False,
            "outcome": "none" if cause is None else cause.details.get("outcome", "none"),
        },
    )


def told_replaced(where: str, answer: object) -> object:
    """Return an answer to a write; `writer_replaced` for one that could not be made durable."""
    return writer_replaced(where, answer) if isinstance(answer, UnavailableError) else answer
