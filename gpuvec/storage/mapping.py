"""Files mapped into memory without keeping them open.

Python's `mmap` holds a descriptor for as long as the map lives, so that a collection of many
segments would use them up; the system itself needs none.
"""

import ctypes
import functools
import mmap
import os
import weakref
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_FAILED = ctypes.c_void_p(-1).value
_mapped: weakref.WeakValueDictionary[int, Any] = weakref.WeakValueDictionary()  # by address
_paths: dict[int, str] = {}  # of those, by address


@functools.cache
def _system() -> ctypes.CDLL:
    library = ctypes.CDLL(None, use_errno=True)
    library.mmap.restype = ctypes.c_void_p
    library.mmap.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    library.munmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
    library.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return library


def map_file(path: Path) -> NDArray[np.uint8]:
    """Return a file's bytes, (length,) uint8, read-only; unmapped with the last view of them.

    Raises:
        OSError: the file cannot be opened or mapped.
    """
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return map_open(descriptor, str(path))
    finally:
        os.close(descriptor)


def map_open(descriptor: int, where: str) -> NDArray[np.uint8]:
    """Do the same with an open file, which may then be closed; `where` is for messages."""
    length = os.fstat(descriptor).st_size
    if length == 0:
        return np.zeros(0, np.uint8)
    system = _system()
    start = system.mmap(None, length, mmap.PROT_READ, mmap.MAP_SHARED, descriptor, 0)
    if start == _FAILED:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code), where)
    memory: Any = (ctypes.c_uint8 * length).from_address(start)
    _mapped[start], _paths[start] = memory, where
    weakref.finalize(memory, _unmap, start, length).atexit = False
    mapped: NDArray[np.uint8] = np.frombuffer(memory, np.uint8)
    mapped.flags.writeable = False
    return mapped


def _unmap(start: int, length: int) -> None:
    _paths.pop(start, None)  # before another file may get the address
    _system().munmap(start, length)


def place_of(array: NDArray[Any]) -> tuple[str, int] | None:
    """Return the path of the file that a contiguous array is mapped from, and where it begins.

    None for other arrays. The file may have been deleted since.
    """
    memory = memory_of(array)
    if memory is None or not array.flags.c_contiguous:
        return None
    start = ctypes.addressof(memory)
    path = _paths.get(start)
    return None if path is None else (path, array.ctypes.data - start)


def release(array: NDArray[Any]) -> None:
    """Take an array of a mapped file out of this process's memory; leave other arrays alone.

    Its bytes stay in the system's cache of files, and come back when they are read again: about
    40 µs a megabyte.
    """
    if memory_of(array) is None:
        return
    start = -(-array.ctypes.data // mmap.PAGESIZE) * mmap.PAGESIZE
    length = array.ctypes.data + array.nbytes - start
    if length > 0:
        _system().madvise(start, length, mmap.MADV_DONTNEED)


def memory_of(array: NDArray[Any]) -> Any:
    """Return what lives as long as the map that an array lies in; None for other arrays.

    It can be referred to weakly.
    """
    base: Any = array
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    is_ours = isinstance(base, ctypes.Array) and _mapped.get(ctypes.addressof(base)) is base
    return base if is_ours else None
