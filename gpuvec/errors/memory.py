"""4xx: memory of host and device."""

from collections.abc import Mapping

from gpuvec.errors.base import DeviceMemoryError, ResultTooLargeError


def device_memory_exceeded(what: str, *, needed: int, free: int, where: str) -> DeviceMemoryError:
    """Return the error for work of which not even a part fits into a memory budget."""
    return DeviceMemoryError(
        "GV-400",
        f"{what} needs {_size(needed)} of {where} memory; {_size(free)} of the budget are free",
        hint="raise the memory limit, close other databases or results, search fewer queries at "
        "once, or choose float16 or int8 vectors",
        details={"what": what, "needed": needed, "free": free},
    )


def index_memory_exceeded(what: str, parts: Mapping[str, int], limit: int) -> DeviceMemoryError:
    """Return the error for an index whose build does not fit into its memory; names the parts."""
    needed = sum(parts.values())
    listed = ", ".join(f"{part} {_size(size)}" for part, size in parts.items())
    return DeviceMemoryError(
        "GV-401",
        f"{what} needs {_size(needed)} of memory ({listed}); {_size(limit)} are allowed",
        hint="raise max_memory, choose an index that keeps fewer bytes a row (IVFPQ, IVFSQ8), "
        "or store the field as float16 or int8",
        details={"what": what, "parts": dict(parts), "needed": needed, "limit": limit},
    )


def no_index_fits(
    parts: Mapping[str, Mapping[str, int]], limits: Mapping[str, int]
) -> DeviceMemoryError:
    """Return the error for `index="auto"` with a budget too small for any index.

    Args:
        parts: of each candidate, part to bytes; "index" is what stays, the others are temporary.
        limits: bytes allowed, by "index" and "build".
    """
    listed = "; ".join(
        f"{name}: " + ", ".join(f"{part} {_size(size)}" for part, size in sizes.items())
        for name, sizes in parts.items()
    )
    allowed = " and ".join(f"{_size(size)} for the {name}" for name, size in limits.items())
    return DeviceMemoryError(
        "GV-402",
        f"no index fits: {allowed} are allowed; {listed}",
        hint="raise max_memory, store the field as float16 or int8, or make no index: a search "
        "without one scans exactly",
        details={"parts": {name: dict(sizes) for name, sizes in parts.items()}, **limits},
    )


def search_memory_exceeded(what: str, parts: Mapping[str, int], limit: int) -> DeviceMemoryError:
    """Return the error for a search whose least parts do not fit into host memory."""
    needed = sum(parts.values())
    listed = ", ".join(f"{part} {_size(size)}" for part, size in parts.items() if size)
    return DeviceMemoryError(
        "GV-403",
        f"{what} needs at least {_size(needed)} of host memory ({listed}); {_size(limit)} of the "
        "memory limit are for that",
        hint="raise memory_limit (a third of it is for caches, a third for what is found), give "
        "less k, or search fewer queries at once",
        details={"what": what, "parts": dict(parts), "needed": needed, "limit": limit},
    )


def result_too_large(rows: int, size_bytes: int, limit_bytes: int) -> ResultTooLargeError:
    """Return the error for an answer that host memory cannot hold."""
    return ResultTooLargeError(
        "GV-420",
        f"the answer has about {rows:,} rows and {_size(size_bytes)}; {_size(limit_bytes)} of "
        "memory may be used",
        hint="write it with to_parquet(path), read it with to_batches(n), select fewer columns, "
        "or give less k",
        details={"rows": rows, "size_bytes": size_bytes, "limit_bytes": limit_bytes},
    )


def _size(count: int) -> str:
    """Return bytes as text, in a unit that shows them."""
    if count >= 1 << 20:
        return f"{count / 2**20:,.1f} MiB"
    return f"{count / 2**10:,.1f} KiB" if count >= 1 << 10 else f"{count} bytes"
