"""Other engines as fairly as they can be compared with: at their best on this machine."""

import importlib
import os
from typing import Any

CORETYPE = "OPENBLAS_CORETYPE"


def import_faiss() -> Any:
    """Import FAISS so that its BLAS takes the fastest kernels that the processor supports.

    The OpenBLAS that FAISS brings takes processors newer than itself for old ones and then runs at
    a tenth of their speed. Its choice is made at import and can only be made for it from outside.
    A choice that the user has made stands.
    """
    best = None if CORETYPE in os.environ else _best_kernels()
    if best is None:
        return importlib.import_module("faiss")
    os.environ[CORETYPE] = best
    try:
        return importlib.import_module("faiss")
    finally:
        del os.environ[CORETYPE]


def faiss_kernels() -> str:
    """Return the name of the BLAS kernels that FAISS, which is imported, runs on."""
    from threadpoolctl import threadpool_info

    found = [
        str(library.get("architecture") or library["internal_api"])
        for library in threadpool_info()
        if library["user_api"] == "blas" and "faiss" in library["filepath"]
    ]
    return found[0] if found else "unknown"


def _best_kernels() -> str | None:
    """Return OpenBLAS' name for the widest kernels this x86 processor can run, if any."""
    import llvmlite.binding as llvm

    has = llvm.get_host_cpu_features()
    if has.get("avx512f") and has.get("avx512bw") and has.get("avx512vl"):
        return "SkylakeX"
    return "Haswell" if has.get("avx2") and has.get("fma") else None
