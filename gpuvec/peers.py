"""Other engines as fairly as they can be compared with: at their best on this machine."""

from typing import Any

from gpuvec.index.faiss_library import faiss_library


def import_faiss() -> Any:
    """Import FAISS on the fastest BLAS kernels that the processor supports, used for every batch.

    Raises:
        UnsupportedError: `GV-320`, it is not installed.
    """
    faiss = faiss_library()
    faiss.cvar.distance_compute_blas_threshold = 20  # 32 to 256 queries run ten times faster so
    return faiss


def faiss_kernels() -> str:
    """Return the name of the BLAS kernels that FAISS, which is imported, runs on."""
    from threadpoolctl import threadpool_info

    found = [
        str(library.get("architecture") or library["internal_api"])
        for library in threadpool_info()
        if library["user_api"] == "blas" and "faiss" in library["filepath"]
    ]
    return found[0] if found else "unknown"
