"""The device path without a card: the product's own code, NumPy beneath, our kernels through g++.

Inside `rehearsal()` the process believes in one GPU with CuPy: the driver shows a device, `cupy` is
`rehearsed_cupy`, and `gv.connect(device="auto")` takes it. It stands for CuPy alone: cuDF, cuVS and
FAISS for GPUs are never imitated. It shows what is wrong in indices, masks, copies, waits, memory
and calls of CuPy; it shows neither speed nor what only hardware rounds or orders.
"""

import contextlib
import ctypes
import os
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from gpuvec.device.detect import device_count
from gpuvec.testing import rehearsed_arrays, rehearsed_cupy, shim
from gpuvec.testing.rehearsed_card import Card

_SHOWN = "GPU-rehearsed"
_DRIVER = """
#include <stdlib.h>
#include <string.h>
int cuInit(unsigned flags) {
    const char* shown = getenv("CUDA_VISIBLE_DEVICES");
    return shown && !strcmp(shown, "GPU-rehearsed") ? 0 : 100;  // CUDA_ERROR_NO_DEVICE
}
int cuDeviceGetCount(int* count) { *count = 1; return 0; }
int cuDriverGetVersion(int* version) { *version = 13000; return 0; }
int cuDeviceGet(int* device, int number) { *device = number; return number ? 101 : 0; }
int cuDeviceGetName(char* name, int length, int device) {
    const char* own = "rehearsed";
    for (int at = 0; at < length && (name[at] = own[at]); at++) {}
    return 0;
}
"""
GIB = 1 << 30


def why_not() -> str:
    """Return why this machine cannot rehearse, nothing if it can."""
    if not shim.has_compiler():
        return "no g++ to compile kernels for the CPU"
    real = device_count() and not rehearsed_arrays.CARD
    return "this machine has a GPU; on a card nothing is rehearsed" if real else ""


@contextlib.contextmanager
def rehearsal(
    *,
    card_bytes: int = 4 * GIB,
    compute: int = 90,
    order: int = 1,
    change: Callable[[str], str] | None = None,
    checked: bool | None = None,
) -> Iterator[Card]:
    """Let this process believe in a GPU, for the block.

    Args:
        card_bytes: memory of the card.
        compute: its capability.
        order: in which a kernel's threads take turns; another number, another order.
        change: what to do to CUDA sources, to see that tests notice it.
        checked: compile kernels with AddressSanitizer, see `shim.build`; None: as the rehearsal
            around this one, if any.

    Yields:
        The card: its memory in use, its copies, and a way to let others take of it.

    Raises:
        AssertionError: a real driver is there: on a card nothing is rehearsed.
    """
    found = Card(card_bytes, compute=compute)
    with contextlib.ExitStack() as stack:
        if not rehearsed_arrays.CARD:
            stack.enter_context(_driver())
            stack.enter_context(_modules())
        rehearsed_arrays.CARD.append(found)
        stack.callback(rehearsed_arrays.CARD.remove, found)
        _forget()
        stack.callback(_forget)
        stack.enter_context(rehearsed_cupy.compiled(order, change, checked))
        yield found


def _forget() -> None:
    """Drop what the product keeps for a process and that a card belongs to."""
    from gpuvec.device import residency
    from gpuvec.kernels import launch
    from gpuvec.query.session import default_session

    residency.forget_cards()
    launch.forget()
    default_session.cache_clear()


@contextlib.contextmanager
def _modules() -> Iterator[None]:
    made = rehearsed_cupy.modules()
    before = {name: module for name, module in sys.modules.items() if _is_cupys(name)}
    for name in before:
        del sys.modules[name]
    sys.modules.update(made)
    try:
        yield
    finally:
        for name in [name for name in sys.modules if _is_cupys(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _is_cupys(name: str) -> bool:
    return name.split(".")[0] in ("cupy", "cupyx")


@contextlib.contextmanager
def _driver() -> Iterator[None]:
    """Load a driver by the name of the real one, which whoever asks for it then finds.

    It stays loaded, and shows no device outside of a rehearsal.
    """
    if device_count():
        raise AssertionError("this machine has a GPU; on a card nothing is rehearsed")
    ctypes.CDLL(str(_built_driver("libcuda.so.1")))
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = _SHOWN
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


@cache
def _built_driver(name: str) -> Path:
    library = shim.cache_folder() / f"driver-{zlib.crc32(_DRIVER.encode()):08x}.so"
    if not library.exists():
        new = library.with_suffix(f".{os.getpid()}")
        command = ["g++", "-x", "c", "-shared", "-fPIC", f"-Wl,-soname,{name}", "-o", str(new), "-"]
        subprocess.run(command, input=_DRIVER, text=True, check=True)
        new.replace(library)
    return library
