"""How a database is opened, by whatever process: what is checked first, its store, its settings."""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from gpuvec import errors

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine
    from gpuvec.query.session import Session
    from gpuvec.storage.open import Store


def checked_limit(device: str, memory_limit: int | str | None) -> float | None:
    """Return a memory limit as a number, before anything is opened.

    Raises:
        QueryError: `GV-702`, a memory limit that is none.
        GpuvecError: a device that is not there, or none.
    """
    from gpuvec.device.detect import resolve_device
    from gpuvec.settings import parse_memory

    resolve_device(device)
    try:
        return parse_memory(memory_limit)
    except ValueError as error:
        raise errors.bad_setting(
            "memory_limit", memory_limit, str(error), where="connect"
        ) from None


def store_at(
    path: str | os.PathLike[str], options: Mapping[str, Any] | None, durability: str
) -> "Store":
    """Return the store of a path that a user gave, without caches.

    Raises:
        QueryError: `GV-514`, an empty path.
    """
    from gpuvec.storage.open import open_store

    text = os.fspath(path)
    if not text.strip():
        raise errors.empty_path()
    return open_store(text, options, durability=durability)


def add_caches(store: "Store") -> None:
    """Let the files of a bucket be read through memory and disk."""
    from gpuvec.storage.disk_cache import disk_cache
    from gpuvec.storage.network import NetworkStore
    from gpuvec.storage.remote_files import RemoteFiles

    if isinstance(store, NetworkStore):
        store.files = RemoteFiles(store, disk_cache())


def engine_sizes() -> dict[str, Any]:
    """Return the arguments of an engine that are settings."""
    from gpuvec.settings import config

    return {
        "flush_bytes": int(config["flush.size_bytes"]),
        "age_s": float(config["flush.age_s"]),
        "segment_bytes": int(config["compact.size_bytes"]),
    }


def session_beside(engine: "Engine", memory_limit: float | None, device: str) -> "Session":
    """Return a session that leaves its share of memory to what an engine holds of files."""
    from gpuvec.query.session import new_session, share_memory

    session = new_session(memory_limit, device=device)
    return session if engine.files is None else share_memory(session, engine.files.resident)
