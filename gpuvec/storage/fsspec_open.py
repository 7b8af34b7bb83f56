"""From a URL that only fsspec knows to a store."""

import re
from collections.abc import Mapping
from typing import Any

from gpuvec import errors
from gpuvec.storage.fsspec_store import FsspecStore
from gpuvec.storage.fsspec_writes import WRITINGS

# Those that cannot list what there is, that answer from copies, or that stand for another one.
REFUSED = frozenset(
    "http https data reference zip tar libarchive cached blockcache filecache simplecache "  # noqa: SIM905
    "generic dir dask local async_wrapper asyncwrapper asynclocal".split()
)
ANSWER_S = 60.0  # how long SFTP may take for one answer; it would wait for ever
_PASSWORD = re.compile(r"[^/@]*:[^/@]*@")
_COLON_IS_NO_PASSWORD = frozenset(["github"])


def open_fsspec(url: str, scheme: str, rest: str, options: Mapping[str, Any] | None) -> FsspecStore:
    """Return the store of a folder in a file system of fsspec. Nothing is asked of it yet.

    Args:
        url: as the user wrote it, for messages.
        scheme: of it.
        rest: what follows `://`.
        options: those of the file system.

    Raises:
        UnsupportedError: `GV-508`, fsspec does not know the scheme, or no database can be read
            through it; `GV-534`, its library is not installed.
        QueryError: `GV-515`, the URL holds a password.
    """
    import fsspec

    if scheme in REFUSED or "::" in url or not rest.strip("/"):
        raise errors.unknown_store(url, scheme)
    try:
        kind = fsspec.get_filesystem_class(scheme)
    except ValueError:
        raise errors.unknown_store(url, scheme) from None
    except ImportError as error:
        raise errors.no_fsspec_library(url, error) from error
    if scheme not in _COLON_IS_NO_PASSWORD and _PASSWORD.match(rest):
        cause = "the URL holds a password, which messages would show"
        raise errors.bad_storage_options(scheme, cause)
    is_sftp = scheme in ("sftp", "ssh")
    waits = {"timeout": ANSWER_S} if is_sftp else {}
    given = {**waits, **kind._get_kwargs_from_urls(url), **(options or {})}

    def connect() -> Any:
        try:
            system = kind(**given, skip_instance_cache=True)
        except TypeError as error:
            raise errors.bad_storage_options(scheme, str(error)) from error
        system.dircache.use_listings_cache = False
        if is_sftp:
            system.ftp.get_channel().settimeout(ANSWER_S)
        return system

    root = kind._strip_protocol(url)
    if scheme in WRITINGS and not root.strip("/"):
        raise errors.unknown_store(url, scheme)
    where = f"{scheme}://{rest.rstrip('/')}"
    return FsspecStore(connect, root, where, writing=WRITINGS.get(scheme))
