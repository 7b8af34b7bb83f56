"""Which library searches which index on a device, by what is installed and can do it."""

from collections.abc import Callable, Mapping

from gpuvec.index.spec import CAGRA, IVFPQ, IVFSQ8, Flat, IndexSpec, IVFFlat
from gpuvec.kernels.pairwise import is_binary
from gpuvec.types import Metric

# For each kind, names of engines in the order in which they are taken before any was measured.
ENGINES: dict[str, tuple[str, ...]] = {
    Flat.KIND: ("cuvs",),
    CAGRA.KIND: ("cuvs",),  # FAISS's own is cuVS's, of the version that its wheel is pinned to
    IVFFlat.KIND: ("cuvs", "faiss"),
    IVFSQ8.KIND: ("cuvs", "faiss"),
    IVFPQ.KIND: ("cuvs", "faiss"),
}
_NAMES = {"cuvs": "cuVS", "faiss": "FAISS for GPUs"}
_CUVS_MODULES = {
    Flat.KIND: "brute_force",
    CAGRA.KIND: "cagra",
    IVFFlat.KIND: "ivf_flat",
    IVFSQ8.KIND: "ivf_sq",
    IVFPQ.KIND: "ivf_pq",
}


def installed_engines(spec: IndexSpec) -> list[str]:
    """Return the engines that can search an index on a GPU with what is installed."""
    can: Mapping[str, Callable[[IndexSpec], bool]] = {"cuvs": _cuvs_can, "faiss": _faiss_can}
    return [name for name in ENGINES.get(spec.KIND, ()) if can[name](spec)]


def why_not_on_device(spec: IndexSpec, metric: Metric | None = None) -> str:
    """Return why an index cannot be searched on a GPU; nothing if it can.

    Args:
        spec: of the index.
        metric: of its field; None: a dense one.
    """
    name = type(spec).__name__
    if metric is not None and is_binary(metric):
        return f"{name} of packed bits is searched on the CPU only"
    if spec.KIND not in ENGINES:
        return f"{name} is searched on the CPU only"
    if not installed_engines(spec):
        wanted = " or ".join(_NAMES[engine] for engine in ENGINES[spec.KIND])
        return f"{name} is searched on a GPU by {wanted}, which is not installed"
    return ""


def _cuvs_can(spec: IndexSpec) -> bool:
    from gpuvec.index.cuvs_library import has_cuvs

    return has_cuvs(_CUVS_MODULES[spec.KIND])


def _faiss_can(spec: IndexSpec) -> bool:
    from gpuvec.index.faiss_gpu import has_faiss_gpu

    if not has_faiss_gpu():
        return False
    if isinstance(spec, IVFPQ):  # fast scan's form is the CPU's own
        return spec.pq_bits != 4
    return True
