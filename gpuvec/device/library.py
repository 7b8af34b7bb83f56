"""CuPy, imported only once somebody wants a device or brings an array of one."""

import sys
from typing import Any

from gpuvec.errors import gpu_package_missing


def cupy_module() -> Any:
    """Import and return CuPy.

    Raises:
        UnsupportedError: `GV-901`, it is not installed.
    """
    try:
        import cupy
    except ImportError as error:
        raise gpu_package_missing("cupy") from error
    return cupy


def is_device_array(x: Any) -> bool:
    """Return whether `x` is a CuPy array; never imports CuPy."""
    cupy = sys.modules.get("cupy")
    return cupy is not None and isinstance(x, cupy.ndarray)


def is_bfloat16(x: Any) -> bool:
    """Return whether `x` holds bfloat16, whatever library defined it."""
    return bool(x.dtype.type.__name__ == "bfloat16")  # `dtype.name` takes microseconds


def out_of_memory(error: BaseException) -> bool:
    """Return whether a library means that the card has no memory left.

    CuPy and RMM raise `MemoryError`; FAISS and cuVS say it in a `RuntimeError` of their own.
    """
    if isinstance(error, MemoryError):
        return True
    text = str(error).lower().replace("_", " ")
    told = ("out of memory", "bad alloc", "cudaerrormemoryallocation")
    return isinstance(error, RuntimeError) and any(words in text for words in told)
