"""CUDA sources: read, compiled for the card, kept; the one place that loads a module."""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from gpuvec.device.arrays import cupy_module

SOURCES = Path(__file__).parent
OPTIONS = ("-std=c++17",)
THREADS = 256


def source_of(file: str) -> str:
    """Return a CUDA source as it is compiled: what all share, then the file's own text."""
    return (SOURCES / "common.cuh").read_text() + (SOURCES / file).read_text()


@dataclass(frozen=True, slots=True)
class Kernel:
    """One function of a compiled source, on the device that was current when it was asked for."""

    function: Any

    def launch(self, grid: tuple[int, ...], block: tuple[int, ...], *arguments: Any) -> None:
        """Start it on the current stream. Scalars are NumPy scalars of the size the source says."""
        if all(grid):
            self.function(grid, block, arguments)

    def over(self, count: int, *arguments: Any) -> None:
        """Start one thread for each of `count` items."""
        self.launch((-(-count // THREADS),), (THREADS,), *arguments)


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


def whole(value: int) -> np.int64:
    """Return a number as the 64-bit scalar that kernels take."""
    return np.int64(value)
