"""From a URL of a bucket to a store."""

import os
from collections.abc import Mapping
from typing import Any, cast

from gpuvec import errors
from gpuvec.storage.remote import RETRY, RemoteStore
from gpuvec.storage.remote_options import (
    Connection,
    azure_connection,
    gcs_connection,
    s3_connection,
)

SCHEMES = {
    "s3": "s3",
    "s3a": "s3",
    "gs": "gs",
    "gcs": "gs",
    "az": "az",
    "abfs": "az",
    "abfss": "az",
}
_opened_by: set[int] = set()  # processes; the children of these cannot use obstore
_EXTRAS = {"s3": "s3", "gs": "gcs", "az": "azure"}


def open_remote(url: str, scheme: str, rest: str, options: Mapping[str, Any] | None) -> RemoteStore:
    """Return the store of a bucket, or of a folder in it. Nothing is asked of the server yet.

    Arguments and errors are those of `open_backend`.
    """
    backend, where, endpoint = open_backend(url, scheme, rest, options)
    return RemoteStore(backend, where, identity=f"{where} {endpoint}".rstrip())


def open_backend(
    url: str, scheme: str, rest: str, options: Mapping[str, Any] | None
) -> tuple[Any, str, str]:
    """Return obstore's store of a bucket or of a folder in it, its URL, and its endpoint.

    Args:
        url: as the user wrote it, for messages.
        scheme: one of `SCHEMES`.
        rest: what follows `://`.
        options: see `gpuvec.storage.remote_options`.

    Raises:
        UnsupportedError: `GV-508` no bucket in the URL, `GV-534` obstore is not installed, `GV-536`
            an unknown option, `GV-537` a profile without keys.
        QueryError: `GV-515`, a value that obstore refuses.
        UnavailableError: `GV-516`, in a child that was forked after a bucket was opened: obstore's
            threads did not come along, and every request would wait for ever.
    """
    if _opened_by - {os.getpid()}:
        raise errors.bucket_after_fork(url)
    kind = SCHEMES[scheme]
    bucket, _, path = rest.partition("/")
    prefix = "/".join(part for part in path.split("/") if part)
    given = dict(options or {})
    if kind == "az" and "@" in bucket:
        bucket, _, host = bucket.partition("@")
        given.setdefault("account_name", host.partition(".")[0])
    if not bucket:
        raise errors.unknown_store(url, scheme)
    translate = {"s3": s3_connection, "gs": gcs_connection, "az": azure_connection}[kind]
    connection = translate(given)
    try:
        backend = _backend(kind, bucket, prefix, connection)
    except ImportError:
        raise errors.no_store_library(url, _EXTRAS[kind]) from None
    _opened_by.add(os.getpid())
    where = "/".join(part for part in (f"{kind}://{bucket}", prefix) if part)
    endpoint = connection.config.get("endpoint") or connection.config.get("account_name") or ""
    return backend, where, str(endpoint)


def _backend(kind: str, bucket: str, prefix: str, connection: Connection) -> Any:
    from obstore import exceptions, store

    maker = {"s3": store.S3Store, "gs": store.GCSStore, "az": store.AzureStore}[kind]
    more: dict[str, Any] = {}
    if connection.credentials is not None:
        more["credential_provider"] = connection.credentials
    try:
        return cast("Any", maker)(
            bucket,
            prefix=prefix or None,
            config=connection.config,
            client_options=connection.client,
            retry_config={**RETRY, **connection.retry},
            **more,
        )
    except (exceptions.BaseError, ValueError, TypeError) as error:
        raise errors.bad_storage_options(kind, str(error).partition("\n\n")[0]) from error
