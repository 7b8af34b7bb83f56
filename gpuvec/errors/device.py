"""90x: memory of a GPU, and where things are on it."""

from collections.abc import Mapping

from gpuvec.errors.base import DeviceMemoryError, QueryError, UnsupportedError
from gpuvec.errors.memory import _size

_REMEDIES = (
    "raise device.memory_limit or free the card (`nvidia-smi` tells who uses it); ask for fewer "
    "neighbours or queries at once; or store the field as float16 or int8"
)


def device_budget_exceeded(
    what: str, *, needed: int, limit: int, parts: Mapping[str, int]
) -> DeviceMemoryError:
    """Return the error for work of which not even a part fits into the budget of device memory.

    Args:
        what: the work.
        needed: bytes that it needs at once.
        limit: bytes of the whole budget.
        parts: bytes that are in use and cannot be let go, by what they hold.
    """
    free = max(0, limit - sum(parts.values()))
    used = ", ".join(f"{part} {_size(size)}" for part, size in parts.items() if size)
    return DeviceMemoryError(
        "GV-903",
        f"{what} needs {_size(needed)} of device memory; {_size(free)} of the budget of "
        f"{_size(limit)} are free" + (f" (in use: {used})" if used else ""),
        hint=_REMEDIES,
        details={"what": what, "needed": needed, "free": free, "limit": limit, "parts": {**parts}},
    )


def device_ran_out(
    what: str, cause: object, *, free: int, total: int, parts: Mapping[str, int]
) -> DeviceMemoryError:
    """Return the error for a card that ran out of memory although the budget was kept.

    Args:
        what: the work.
        cause: what the library said.
        free: bytes of the card that nobody uses, after everything was let go.
        total: bytes of the card.
        parts: bytes in use by this process, by what they hold.
    """
    return DeviceMemoryError(
        "GV-904",
        f"the card has no memory left for {what}: {_size(free)} of its {_size(total)} are "
        f"free after gpuvec let go of all it could; others hold the rest ({cause})",
        hint=_REMEDIES,
        details={"what": what, "free": free, "total": total, "parts": {**parts}},
    )


def not_on_this_device(wanted: str, *, session: str) -> QueryError:
    """Return the error for loading onto a device where the database does not search."""
    return QueryError(
        "GV-905",
        f'the database was opened with device="{session}" and searches there; it cannot load a '
        f'collection onto "{wanted}"',
        hint=f'open it with gv.connect(path, device="{wanted}"), or leave out device',
        details={"wanted": wanted, "session": session},
    )


def too_many_list_values(name: str, *, rows: int, width: int, most: int) -> UnsupportedError:
    """Return the error for a vector column that cuDF cannot hold as lists."""
    return UnsupportedError(
        "GV-910",
        f'column "{name}" has {rows:,} vectors of {width} values; a list column of cuDF holds '
        f"{most:,} values",
        hint=f"take {most // width:,} rows at a time with to_batches(), or the vectors as an array "
        "with to_numpy() or to_torch()",
        details={"column": name, "rows": rows, "width": width, "most": most},
    )


def no_engine_for_index(kind: str, why: str) -> UnsupportedError:
    """Return the error for an index that nothing installed can search on a GPU."""
    return UnsupportedError(
        "GV-915",
        f"{kind} cannot be searched on the GPU: {why}",
        hint='"gpuvec doctor" tells what is missing; without an index every row is measured, and '
        'a database opened with device="cpu" searches this one on the CPU',
        details={"kind": kind, "why": why},
    )
