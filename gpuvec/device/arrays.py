"""Arrays on host or device behind one face: which namespace, which side, which dtype.

Device arrays are CuPy's. Nothing here imports CuPy unless an array of it, or a wish for one, came.
"""

from typing import Any

import numpy as np

from gpuvec.device.library import cupy_module as cupy_module
from gpuvec.device.library import is_bfloat16 as is_bfloat16
from gpuvec.device.library import is_device_array as is_device_array
from gpuvec.device.transfer import download, upload
from gpuvec.errors import mixed_devices
from gpuvec.types import Array


def array_namespace(*arrays: Array) -> Any:
    """Return `numpy` or `cupy`, the module whose functions take these arrays. None counts as host.

    Raises:
        QueryError: `GV-311`, arrays of both sides.
    """
    sides = {is_device_array(x) for x in arrays if x is not None}
    if len(sides) > 1:
        raise mixed_devices()
    return cupy_module() if sides == {True} else np


def to_host(x: Array, purpose: str = "results") -> Any:
    """Return `x` as a NumPy array; host arrays are returned as they are.

    Args:
        x: of either side.
        purpose: one of `transfer.PURPOSES`, for the count of copies.
    """
    return download(x, purpose) if is_device_array(x) else np.asarray(x)


def to_device(x: Array, purpose: str = "queries") -> Array:
    """Return `x` as a CuPy array on the current device; device arrays are returned as they are.

    CuPy has no bfloat16: such an array arrives as its uint16 bits (see `kernels.pairwise`).

    Args:
        x: of either side.
        purpose: one of `transfer.PURPOSES`, for the count of copies.
    """
    return x if is_device_array(x) else upload(np.asarray(x), purpose)


def as_float32(x: Array) -> Array:
    """Return float16, bfloat16, int8 or uint8 values as float32, without loss; C-contiguous."""
    xp = array_namespace(x)
    if xp is not np and x.dtype == np.uint16:  # bfloat16, see `to_device`
        return (xp.ascontiguousarray(x).astype(xp.uint32) << 16).view(xp.float32)
    return xp.ascontiguousarray(x.astype(xp.float32, copy=False))


def from_dlpack(x: Any) -> Array:
    """Take an array of any library (torch, JAX, CuPy, NumPy) without copying, on its own device.

    Raises:
        UnsupportedError: `GV-901`, it lies on a GPU and CuPy is missing.
        TypeError, BufferError: it is no DLPack exporter, or is of a dtype that DLPack lacks.
    """
    if is_device_array(x) or isinstance(x, np.ndarray):
        return x
    kind, _ = x.__dlpack_device__()
    on_host = int(kind) in _HOST_KINDS
    return np.from_dlpack(x) if on_host else cupy_module().from_dlpack(x)


_HOST_KINDS = (1, 3)  # DLPack device types: CPU, CPU memory pinned by CUDA
