"""Is there a GPU: asked of the CUDA driver itself, in milliseconds, without any GPU package."""

import contextlib
import ctypes
import os
from dataclasses import dataclass
from functools import cache

from gpuvec.device.arrays import cupy_module
from gpuvec.errors import no_gpu, unknown_device

DEVICES = ("auto", "cpu", "gpu")
_DRIVERS = ("libcuda.so.1", "libcuda.so", "nvcuda.dll")


_COMPUTE = (75, 76)  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True, slots=True, kw_only=True)
class Card:
    """A GPU as its driver tells it.

    Attributes:
        name: of the product.
        size_bytes: of its memory; 0: not told.
        compute: its capability, such as "90"; empty: not told.
    """

    name: str
    size_bytes: int = 0
    compute: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """The CUDA driver.

    Attributes:
        cards: those that this process may use.
        cuda: the newest CUDA that it runs, major and minor.
        reason: why there are no cards; empty if there are.
    """

    cards: tuple[Card, ...] = ()
    cuda: tuple[int, int] = (0, 0)
    reason: str = ""


def ask_cards() -> Driver:
    """Return the driver and its cards, asked without any GPU package."""
    count, reason = _ask_driver(os.environ.get("CUDA_VISIBLE_DEVICES"))
    driver = _load_driver()
    if not count or driver is None:
        return Driver(reason=reason)
    number = ctypes.c_int(0)
    driver.cuDriverGetVersion(ctypes.byref(number))
    cards = tuple(_card(driver, at) for at in range(count))
    return Driver(cards=cards, cuda=(number.value // 1000, number.value % 1000 // 10))


def _card(driver: ctypes.CDLL, number: int) -> Card:
    device, name = ctypes.c_int(0), ctypes.create_string_buffer(128)
    driver.cuDeviceGet(ctypes.byref(device), number)
    driver.cuDeviceGetName(name, len(name), device)
    size, version = ctypes.c_size_t(0), [ctypes.c_int(0), ctypes.c_int(0)]
    with contextlib.suppress(AttributeError):  # a driver without such a function
        driver.cuDeviceTotalMem_v2(ctypes.byref(size), device)
        for value, attribute in zip(version, _COMPUTE, strict=True):
            driver.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
    compute = f"{version[0].value}{version[1].value}" if version[0].value else ""
    return Card(name=name.value.decode(), size_bytes=size.value, compute=compute)


def _load_driver() -> ctypes.CDLL | None:
    for name in _DRIVERS:
        with contextlib.suppress(OSError):
            return ctypes.CDLL(name)
    return None


@cache
def _ask_driver(visible: str | None) -> tuple[int, str]:
    """Return how many GPUs the driver shows, and why none; `visible` only keys the cache."""
    driver = _load_driver()
    if driver is None:
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
