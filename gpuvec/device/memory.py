"""How much memory there is, and work cut to fit into it before it starts."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpuvec.device.library import cupy_module
from gpuvec.errors import device_memory_exceeded
from gpuvec.settings import config

HOST_SHARE = 0.75  # of what the machine lets this process have
_CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes of a memory: all that this process may have, and those that are free."""

    total: int
    free: int


def host_memory() -> Memory:
    """Return host memory: the machine's, or the container's where that is less."""
    machine = _machine_memory()
    for limit_file, used_file in (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    ):
        limit, used = _number(_CGROUP / limit_file), _number(_CGROUP / used_file)
        if limit is not None and limit < machine.total:
            free = max(0, limit - (used or 0))
            return Memory(total=limit, free=min(free, machine.free))
    return machine


def _machine_memory() -> Memory:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        import os

        pages, size = os.sysconf("SC_PHYS_PAGES"), os.sysconf("SC_PAGE_SIZE")
        return Memory(total=pages * size, free=pages * size)
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines if ":" in line}
    return Memory(total=sizes["MemTotal"], free=sizes.get("MemAvailable", sizes["MemFree"]))


def _number(file: Path) -> int | None:
    try:
        text = file.read_text().strip()
    except OSError:
        return None
    return int(text) if text.isdigit() else None


@cache
def host_limit_bytes() -> int:
    """Return the host memory that gpuvec may plan with, as found when first asked."""
    return int(host_memory().total * HOST_SHARE)


def limited(memory: Memory, limit: float | None) -> Memory:
    """Return what may be used under a limit: bytes (int), a share of all (float), or None."""
    if limit is None:
        return memory
    most = limit if isinstance(limit, int) else int(limit * memory.total)
    used = memory.total - memory.free
    return Memory(total=min(memory.total, most), free=max(0, min(memory.free, most - used)))


def card_memory() -> Memory:
    """Return the memory of the current GPU, whoever uses it.

    Raises:
        UnsupportedError: `GV-901`, CuPy is missing.
    """
    free, total = cupy_module().cuda.runtime.memGetInfo()
    return Memory(total=int(total), free=int(free))


def device_memory() -> Memory:
    """Return the memory of the current GPU, as far as `device.memory_limit` allows it.

    Raises:
        UnsupportedError: `GV-901`, CuPy is missing.
    """
    return limited(card_memory(), config["device.memory_limit"])


def tiles(
    count: int, item_bytes: int, limit_bytes: int, *, what: str, where: str = "host", most: int = 0
) -> list[tuple[int, int]]:
    """Cut `count` items into ranges of which each fits into a number of bytes.

    Args:
        count: items in all.
        item_bytes: of one.
        limit_bytes: for one range.
        what: for the message.
        where: "host" or "gpu", for the message.
        most: items in a range at most; 0: no such limit.

    Raises:
        DeviceMemoryError: `GV-400`, not even one item fits.
    """
    size = limit_bytes // max(1, item_bytes)
    if size < 1 and count:
        raise device_memory_exceeded(what, needed=item_bytes, free=limit_bytes, where=where)
    size = max(1, min(size, most) if most else size)
    return [(start, min(count, start + size)) for start in range(0, count, size)]
