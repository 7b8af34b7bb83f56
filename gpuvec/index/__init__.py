"""`gv.index`: what an index shall be. Adapters are imported when one is built or searched."""

from typing import TYPE_CHECKING, NoReturn

from gpuvec.index.spec import (
    CAGRA,
    HNSW,
    IVFPQ,
    IVFSQ8,
    Bitmap,
    Flat,
    IndexSpec,
    IVFFlat,
    IVFInt8,
    IVFRaBitQ,
    Sorted,
)

__all__ = [
    "CAGRA",
    "HNSW",
    "IVFPQ",
    "IVFSQ8",
    "Bitmap",
    "Flat",
    "IVFFlat",
    "IVFInt8",
    "IVFRaBitQ",
    "IndexSpec",
    "Sorted",
]

if not TYPE_CHECKING:  # a type checker knows the names itself

    def __getattr__(name: str) -> NoReturn:
        known = ", ".join(name for name in __all__ if name != "IndexSpec")
        raise AttributeError(f"gpuvec.index has no {name}; it has {known}", name=name)
