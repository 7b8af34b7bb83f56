"""Files of vectors straight into device memory, where KvikIO is installed."""

import importlib.util
from dataclasses import dataclass
from functools import cache
from typing import Any

from gpuvec.device import transfer
from gpuvec.device.library import cupy_module
from gpuvec.types import Array

_THREADS = 8  # of KvikIO, whose default is one


@dataclass(frozen=True, slots=True)
class FilePlace:
    """Where an array begins in a file on a local disk."""

    path: str
    offset: int


def read_file(place: FilePlace, shape: tuple[int, ...], dtype: Any, purpose: str) -> Array | None:
    """Return an array that lies in a file, read by several threads or by the card itself.

    Args:
        place: of the array; its bytes were compared with their checksum before.
        shape: of it.
        dtype: of it on the device.
        purpose: see `transfer.upload`.

    Returns:
        None where KvikIO is not installed, or the file cannot be read that way.
    """
    kvikio = _kvikio()
    if kvikio is None or 0 in shape:
        return None
    cupy = cupy_module()
    out = cupy.empty(shape, dtype)
    cupy.cuda.get_current_stream().synchronize()  # its memory may still be in use on the stream
    try:
        with kvikio.CuFile(place.path, "r") as file:
            size = file.pread(out, out.nbytes, file_offset=place.offset).get()
    except (OSError, RuntimeError):  # KvikIO's own errors are of the second kind
        return None
    if size != out.nbytes:
        return None
    transfer.note(transfer.UP, purpose, out.nbytes)
    return out


@cache
def _kvikio() -> Any:
    """Return KvikIO with several threads; None where it is not installed."""
    if importlib.util.find_spec("kvikio") is None:
        return None
    import kvikio
    import kvikio.defaults

    if kvikio.defaults.get("num_threads") == 1:
        kvikio.defaults.set("num_threads", _THREADS)
    return kvikio
