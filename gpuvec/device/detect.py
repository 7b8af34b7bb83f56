"""Is there a GPU: asked of the CUDA driver itself, in milliseconds, without any GPU package."""

import ctypes
import os
from functools import cache

from gpuvec.device.arrays import cupy_module
from gpuvec.errors import no_gpu, unknown_device

DEVICES = ("auto", "cpu", "gpu")
_DRIVERS = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")


@cache
def _ask_driver(visible: str | None) -> tuple[int, str]:
    """Return how many GPUs the driver shows, and why none; `visible` only keys the cache."""
    for name in _DRIVERS:
        try:
            driver = ctypes.CDLL(name)
            break
        except OSError:
            continue
    else:
        return 0, "there is no NVIDIA driver (libcuda) on this machine"
    status = driver.cuInit(0)
    if status != 0:
        return 0, f"the NVIDIA driver cannot start (cuInit gave {status})"
    count = ctypes.c_int(0)
    status = driver.cuDeviceGetCount(ctypes.byref(count))
    if status != 0:
        return 0, f"the NVIDIA driver does not tell its devices (status {status})"
    if count.value == 0:
        shown = "" if visible is None else f" (CUDA_VISIBLE_DEVICES is {visible!r})"
        return 0, f"the NVIDIA driver shows no device{shown}"
    return count.value, ""


def device_count() -> int:
    """Return how many GPUs this process may use; honours CUDA_VISIBLE_DEVICES.

    Initialises the driver, which does not survive a fork: ask in the process that will use it.
    """
    return _ask_driver(os.environ.get("CUDA_VISIBLE_DEVICES"))[0]


def resolve_device(wanted: str = "auto") -> str:
    """Return "cpu" or "gpu": what a wish stands for here.

    Args:
        wanted: "auto" takes a GPU if there is one and CuPy is installed, silently.

    Raises:
        UnsupportedError: `GV-900` "gpu" without a usable GPU, `GV-901` "gpu" without CuPy.
        QueryError: `GV-902`, no such device.
    """
    if wanted not in DEVICES:
        raise unknown_device(wanted)
    if wanted == "cpu":
        return "cpu"
    count, reason = _ask_driver(os.environ.get("CUDA_VISIBLE_DEVICES"))
    if wanted == "auto":
        from importlib.util import find_spec

        return "gpu" if count and find_spec("cupy") is not None else "cpu"
    if not count:
        raise no_gpu(reason)
    cupy_module()
    return "gpu"
