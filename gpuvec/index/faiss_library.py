"""FAISS, imported when first needed and run on threads of our own choice.

Its OpenMP teams are used for building graphs only. Searches and assignments run as parts on the
pool of `kernels.parallel`, each with one OpenMP thread: nobody spins, and a part that waits for a
busy core holds up no other.
"""

import ctypes
import importlib
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.errors import damaged_index_file, index_library_missing

CORETYPE = "OPENBLAS_CORETYPE"
_BLAS_FROM = 2048  # queries x width from which distances go through BLAS; FAISS waits till 128,000
_WRITE_BYTES = 1 << 20  # of one call while an index is written
HEADER_BYTES = 1 << 16  # more than the small fields of an index file take

_import_lock = threading.Lock()
_faiss: Any = None


def faiss_library() -> Any:
    """Import FAISS once, on the fastest BLAS kernels that the processor supports; return it.

    The OpenBLAS in its wheels takes processors newer than itself for old ones and then runs at a
    tenth of their speed. Its choice is made at import and can only be made for it from outside; one
    that the user has made stands.

    Raises:
        UnsupportedError: `GV-320`, it is not installed.
    """
    global _faiss
    if _faiss is None:
        with _import_lock:
            if _faiss is None:
                _faiss = _imported()
    return _faiss


def _imported() -> Any:
    best = None if CORETYPE in os.environ else _best_kernels()
    if best is not None:
        os.environ[CORETYPE] = best
    try:
        faiss = importlib.import_module("faiss")
    except ImportError as error:
        raise index_library_missing("faiss", extra="cpu") from error
    finally:
        if best is not None:
            os.environ.pop(CORETYPE, None)
    faiss.cvar.distance_compute_blas_threshold = _BLAS_FROM
    return faiss


def _best_kernels() -> str | None:
    """Return OpenBLAS' name for the widest kernels this x86 processor can run, if any."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return None
    has = next((set(line.split()) for line in lines if line.startswith("flags")), set())
    if {"avx512f", "avx512bw", "avx512vl"} <= has:
        return "SkylakeX"
    return "Haswell" if {"avx2", "fma"} <= has else None


@contextmanager
def openmp_threads(count: int) -> Iterator[Any]:
    """Give FAISS calls of this thread so many OpenMP threads; yields the library."""
    faiss = faiss_library()
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(count)
    try:
        yield faiss
    finally:
        faiss.omp_set_num_threads(before)


def written(index: Any, size_bytes: int, *, binary: bool = False, flags: int = 0) -> Any:
    """Return the bytes of an index file, (size,) uint8, read only, copied once.

    Args:
        index: of FAISS.
        size_bytes: what is expected; a little more is set aside.
        binary: whether it is one of FAISS's binary indexes.
        flags: `IO_FLAG_*` of FAISS.
    """
    faiss = faiss_library()
    data = np.empty(size_bytes + HEADER_BYTES, np.uint8)
    size = 0

    def take(part: bytes) -> int:
        nonlocal data, size
        end = size + len(part)
        if end > len(data):
            data = np.concatenate([data, np.empty(end - len(data) + len(data) // 4, np.uint8)])
        data[size:end] = np.frombuffer(part, np.uint8)
        size = end
        return len(part)

    writer = faiss.PyCallbackIOWriter(take, _WRITE_BYTES)
    if binary:
        faiss.write_index_binary(index, writer)
    else:
        faiss.write_index(index, writer, flags)
    found = data[:size]
    found.flags.writeable = False
    return found


def opened(data: NDArray[np.uint8], *, binary: bool = False, flags: int = 0) -> Any:
    """Return the index of a file's bytes, which it looks at in place: keep them.

    Args:
        data: (size,) uint8, C-contiguous; memory mapped or not.
        binary: whether it is one of FAISS's binary indexes.
        flags: more `IO_FLAG_*` of FAISS.

    Raises:
        CorruptError: `GV-331`, FAISS cannot read it.
    """
    faiss = faiss_library()
    reader = faiss.ZeroCopyIOReader(faiss.swig_ptr(data), data.nbytes)
    read = faiss.read_index_binary if binary else faiss.read_index
    try:
        return read(reader, faiss.IO_FLAG_MMAP_IFC | flags)
    except RuntimeError as error:
        raise damaged_index_file(f"FAISS says {error}") from error


def view_of(values: NDArray[Any]) -> Any:
    """Return FAISS's vector of bytes over the memory of an array, which must be kept."""
    if not values.flags.c_contiguous:
        raise AssertionError("only rows that lie one after the other can be read in place")
    faiss = faiss_library()
    octets = values.reshape(-1).view(np.uint8)
    vector = faiss.MaybeOwnedVectorUInt8
    nobody = vector().owner  # FAISS's way to say that it need not keep the memory
    return vector.create_view(faiss.swig_ptr(octets), octets.nbytes, nobody)


def view_of_numbers(values: NDArray[np.int32]) -> Any:
    """Return FAISS's vector of int32 over the memory of an array, which must be kept."""
    if not values.flags.c_contiguous:
        raise AssertionError("only numbers that lie one after the other can be read in place")
    faiss = faiss_library()
    vector = faiss.MaybeOwnedVectorInt32
    return vector.create_view(faiss.swig_ptr(values.reshape(-1)), values.size, vector().owner)


def give_back() -> None:
    """Give memory that FAISS has freed back to the system, which the allocator would keep.

    Lists and graphs are freed in pieces that others lie between: after a build the process would
    stay twice as large as it need be.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # of glibc only
    if trim is not None:
        trim(0)
