"""From a user's URL to a store."""

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gpuvec import errors
from gpuvec.storage.fsspec_open import open_fsspec
from gpuvec.storage.fsspec_store import FsspecStore
from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.remote import RemoteStore
from gpuvec.storage.remote_open import SCHEMES, open_remote

Store = LocalStore | MemoryStore | RemoteStore | FsspecStore

_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+._-]*(?:::.*)?)://(.*)", re.DOTALL)
_named: dict[str, MemoryStore] = {}


def open_store(
    url: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    durability: str = "fsync",
) -> Store:
    """Return the store of a path or URL. Nothing is read or written yet.

    Args:
        url: a path, in which `~` is the home; `file://` and a path; `memory://` for a new store in
            memory; `memory://name` for one that this process keeps under that name; `s3://`,
            `gs://` or `az://`, a bucket and perhaps a folder in it; `sftp://`; any other that
            fsspec knows, for reading.
        storage_options: those of s3fs, gcsfs, adlfs, or of the fsspec file system; paths and
            memory have none.
        durability: see `LocalStore`; other stores know no difference.

    Raises:
        UnsupportedError: `GV-508`, another kind of store; `GV-511` and `GV-536`, an option that it
            lacks; see also `open_remote` and `open_fsspec`.
        QueryError: `GV-512`, another durability.
    """
    text = os.fspath(url)
    found = _URL.match(text)
    scheme, rest = (found[1].lower(), found[2]) if found else ("file", text)
    if scheme in SCHEMES:
        return open_remote(text, scheme, rest, storage_options)
    if scheme not in ("file", "memory"):
        return open_fsspec(text, scheme, rest, storage_options)
    if storage_options:
        raise errors.unknown_storage_options(scheme, storage_options)
    if scheme == "file":
        if not rest:
            raise errors.unknown_store(text, scheme)
        return LocalStore(Path(rest).expanduser(), durability=durability)
    return _named.setdefault(rest, MemoryStore()) if rest else MemoryStore()
