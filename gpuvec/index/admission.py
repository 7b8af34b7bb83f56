"""How much memory searches and builds of indexes may take."""

from collections.abc import Mapping

from gpuvec.device.memory import host_limit_bytes
from gpuvec.errors import index_memory_exceeded, search_memory_exceeded
from gpuvec.index.spec import IndexSpec
from gpuvec.kernels.scan_room import few_room

_FLOAT_TILE = 32  # queries whose vectors stay in the first cache during a float32 scan
_SCRATCH_SHARE = 8  # a search takes at most this part of the process's memory for temporary data


def scratch_limit(limit: int | None) -> int:
    """Return the bytes that a search may take for temporary data, by its caller or by default."""
    return host_limit_bytes() // _SCRATCH_SHARE if limit is None else limit


def check_search_memory(what: str, parts: Mapping[str, int], limit: int) -> None:
    """Refuse a search of which even the least does not fit.

    Raises:
        DeviceMemoryError: `GV-403`, naming the parts.
    """
    if sum(parts.values()) > limit:
        raise search_memory_exceeded(what, parts, limit)


def scanned_together(
    what: str,
    shape: tuple[int, int],
    k: int,
    queries: int,
    limit: int,
    *,
    threads: int,
    masked: bool,
) -> tuple[int, bool]:
    """Return how many queries a float32 scan takes at a time, and whether it reads rows in place.

    Args:
        what: for the message.
        shape: of the rows.
        k: neighbours per query; 0: of a range.
        queries: of the call.
        limit: bytes.
        threads: 0: all cores.
        masked: whether some rows may not be found.

    Raises:
        DeviceMemoryError: `GV-403`, not even one query fits; names the parts.
    """
    tile, parts = max(1, min(_FLOAT_TILE, queries)), {}
    while tile:
        for in_place in (False, True):
            parts = few_room(shape, k, tile, threads=threads, masked=masked, in_place=in_place)
            if sum(parts.values()) <= limit:
                return tile, in_place
        tile //= 2
    raise search_memory_exceeded(what, parts, limit)


def check_build_memory(spec: IndexSpec, parts: Mapping[str, int], limit: int | None) -> None:
    """Refuse a build that does not fit.

    Raises:
        DeviceMemoryError: `GV-401`, naming the parts.
    """
    allowed = host_limit_bytes() if limit is None else limit
    if sum(parts.values()) > allowed:
        raise index_memory_exceeded(f"building {spec}", parts, allowed)
