"""CUDA sources: read, compiled for the card, kept; the one place that loads a module."""

import re
import threading
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuvec.device.arrays import cupy_module

SOURCES = Path(__file__).parent
OPTIONS = ("-std=c++17",)
THREADS = 256
_PLAIN_SHARED = 48 << 10  # bytes of shared memory that a block has without asking for more
_asking = threading.Lock()


_INCLUDE = re.compile(r'^#include "(\w+\.cuh)"\n', re.MULTILINE)


def source_of(file: str) -> str:
    """Return a CUDA source as it is compiled: what all share, then the file's own text.

    A line `#include "NAME.cuh"` is replaced by that file, so that no compiler needs a path.
    """
    text = (SOURCES / file).read_text()
    text = _INCLUDE.sub(lambda found: (SOURCES / found[1]).read_text(), text)
    return (SOURCES / "common.cuh").read_text() + text


@dataclass(frozen=True, slots=True)
class Kernel:
    """One function of a compiled source, on the device that was current when it was asked for."""

    function: Any

    def launch(
        self,
        grid: tuple[int, ...],
        block: tuple[int, ...],
        *arguments: Any,
        shared_bytes: int = 0,
    ) -> None:
        """Start it on the current stream; a grid of no blocks starts nothing.

        Args:
            grid: blocks, up to three numbers.
            block: threads, up to three numbers.
            arguments: C-contiguous device arrays, and NumPy scalars of the size the source says.
            shared_bytes: of dynamic shared memory (`DYNAMIC_SHARED` in the source).
        """
        if not all(grid):
            return
        if not all(x.flags.c_contiguous for x in arguments if hasattr(x, "flags")):
            raise AssertionError("kernels read whole arrays")
        if shared_bytes > _PLAIN_SHARED:
            with _asking:  # never less: another thread may be about to launch with what it asked
                if self.function.max_dynamic_shared_size_bytes < shared_bytes:
                    self.function.max_dynamic_shared_size_bytes = shared_bytes
        self.function(grid, block, arguments, shared_mem=shared_bytes)

    def over(self, count: int, *arguments: Any) -> None:
        """Start one thread for each of `count` items."""
        self.launch((-(-count // THREADS),), (THREADS,), *arguments)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What a card has of what kernels ask for.

    Attributes:
        compute: its capability: 90 is 9.0.
        shared_bytes: of dynamic shared memory that a block may ask for.
        multiprocessors: that it has.
    """

    compute: int
    shared_bytes: int
    multiprocessors: int

    @property
    def has_tiles(self) -> bool:
        """Whether it runs `scan_tile.cuh`, its copies and products of 8 and 16 bits."""
        return self.compute >= 80


def card_limits() -> Limits:
    """Return the limits of the current card."""
    return _limits(int(cupy_module().cuda.runtime.getDevice()))


@cache
def _limits(device: int) -> Limits:
    card = cupy_module().cuda.Device(device)
    attributes = card.attributes
    return Limits(
        compute=int(card.compute_capability),
        shared_bytes=int(attributes["MaxSharedMemoryPerBlockOptin"]),
        multiprocessors=int(attributes["MultiProcessorCount"]),
    )


def kernel_of(file: str, name: str) -> Kernel:
    """Return a kernel, compiled at its first use in this process (and cached on disk by CuPy).

    Args:
        file: a source beside this module.
        name: of an `extern "C"` function in it.

    Raises:
        UnsupportedError: `GV-901`, CuPy is missing.
    """
    device = int(cupy_module().cuda.runtime.getDevice())
    return _loaded(file, name, device)


@cache
def _module(file: str, device: int) -> Any:
    return cupy_module().RawModule(code=source_of(file), options=OPTIONS)


@cache
def _loaded(file: str, name: str, device: int) -> Kernel:
    return Kernel(_module(file, device).get_function(name))


def forget() -> None:
    """Drop every compiled kernel, as a process must whose CuPy is replaced."""
    _limits.cache_clear()
    _loaded.cache_clear()
    _module.cache_clear()


def whole(value: int) -> np.int64:
    """Return a number as the 64-bit scalar that kernels take."""
    return np.int64(value)
