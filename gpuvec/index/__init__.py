"""`gv.index`: what an index shall be. Adapters are imported when one is built or searched."""

from gpuvec.index.spec import HNSW, IVFSQ8, Bitmap, Flat, IndexSpec, IVFFlat, IVFInt8, Sorted

__all__ = ["HNSW", "IVFSQ8", "Bitmap", "Flat", "IVFFlat", "IVFInt8", "IndexSpec", "Sorted"]
