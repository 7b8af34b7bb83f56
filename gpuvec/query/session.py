"""Where a query runs: its memory, threads and caches."""

from dataclasses import dataclass, field, replace
from functools import cache

from gpuvec.device.residency import DeviceStore, device_store
from gpuvec.query.cache import DerivedCache
from gpuvec.storage.resident import Resident


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Session:
    """What queries of one database share.

    Attributes:
        memory_limit: bytes that one query may hold for results and temporary data, beside the
            caches.
        threads: of the host; 0: all cores this process may use.
        device: `cpu` or `gpu`: where dense and binary vectors are searched.
        cache: what is derived from segments: columns, key orders, packed vectors.
        device_store: what the database has on the card; None where `device` is `cpu`.
    """

    memory_limit: int
    threads: int = 0
    device: str = "cpu"
    cache: DerivedCache = field(default_factory=lambda: DerivedCache(1 << 30))
    device_store: DeviceStore | None = None


def new_session(
    memory_limit: float | None = None, threads: int | None = None, device: str = "auto"
) -> Session:
    """Return a session within a budget of host memory; a third of it is for caches.

    Args:
        memory_limit: bytes, or up to 1 a share of what the machine lets this process have; None:
            the setting `memory_limit`, or all of that.
        threads: None: the setting `threads`.
        device: `auto` takes a GPU if there is one.
    """
    from gpuvec.device.detect import resolve_device
    from gpuvec.device.memory import host_limit_bytes
    from gpuvec.settings import config

    limit = config["memory_limit"] if memory_limit is None else memory_limit
    total = host_limit_bytes() if limit is None else limit
    if total <= 1:
        total = total * host_limit_bytes()
    cache_bytes = int(total) // 3
    found = resolve_device(device)
    return Session(
        memory_limit=int(total) - cache_bytes,
        threads=int(config["threads"]) if threads is None else threads,
        device=found,
        cache=DerivedCache(cache_bytes),
        device_store=device_store() if found == "gpu" else None,
    )


def share_memory(session: Session, resident: Resident) -> Session:
    """Return a session that leaves a quarter of its memory to what is held of a bucket's files."""
    share = session.memory_limit // 4
    resident.limit(share, most_bytes=session.memory_limit // 2)
    return replace(session, memory_limit=session.memory_limit - share)


@cache
def default_session() -> Session:
    """Return the session of frames that belong to no database."""
    return new_session()
