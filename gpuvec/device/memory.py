"""Memory is admitted before work starts: budgets, and work cut to fit them."""

import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from gpuvec.device.arrays import cupy_module
from gpuvec.errors import device_memory_exceeded

HOST_SHARE = 0.75  # of what the machine lets this process have
DEVICE_SHARE = 0.80  # the rest is for libraries' own buffers
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


def device_memory() -> Memory:
    """Return the memory of the current GPU.

    Raises:
        UnsupportedError: `GV-901`, CuPy is missing.
    """
    free, total = cupy_module().cuda.runtime.memGetInfo()
    return Memory(total=int(total), free=int(free))


class MemoryBudget:
    """A number of bytes, lent in named parts. Safe for use by several threads.

    It counts; it does not allocate. Whoever allocates reserves first, so that what does not fit is
    tiled or refused before it starts.

    Args:
        limit_bytes: what may be lent in all.
        where: "host" or "gpu", for messages.
    """

    def __init__(self, limit_bytes: int, *, where: str = "host") -> None:
        self.limit_bytes = limit_bytes
        self.where = where
        self._parts: Counter[str] = Counter()
        self._lock = threading.Lock()

    @property
    def free_bytes(self) -> int:
        """Bytes not lent."""
        with self._lock:
            return self.limit_bytes - self._parts.total()

    @property
    def parts(self) -> dict[str, int]:
        """Bytes lent, by what they are for, largest first."""
        with self._lock:
            return dict(self._parts.most_common())

    def take(self, nbytes: int, what: str) -> None:
        """Lend bytes until `give_back`.

        Raises:
            DeviceMemoryError: `GV-400`, they are not there; says who holds what.
        """
        with self._lock:
            free = self.limit_bytes - self._parts.total()
            if nbytes > free:
                raise device_memory_exceeded(
                    what,
                    needed=nbytes,
                    free=free,
                    parts=dict(self._parts.most_common()),
                    where=self.where,
                )
            self._parts[what] += nbytes

    def give_back(self, nbytes: int, what: str) -> None:
        """End a loan, or a part of one."""
        with self._lock:
            left = self._parts[what] - nbytes
            if left < 0:
                raise AssertionError(f"{what} gives back {-left} bytes more than it took")
            self._parts[what] = left
            if left == 0:
                del self._parts[what]

    @contextmanager
    def reserve(self, nbytes: int, what: str) -> Iterator[None]:
        """Lend bytes for the length of a block.

        Args:
            nbytes: how many.
            what: what they are for, as a user reads it: "distances of 1,024 queries".

        Raises:
            DeviceMemoryError: `GV-400`, they are not there; says who holds what.
        """
        self.take(nbytes, what)
        try:
            yield
        finally:
            self.give_back(nbytes, what)


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
        raise device_memory_exceeded(
            what, needed=item_bytes, free=limit_bytes, parts={}, where=where
        )
    size = max(1, min(size, most) if most else size)
    return [(start, min(count, start + size)) for start in range(0, count, size)]
