"""The libraries that GPU rows are compared with, called as their own documentation does.

Each returns a function to be timed, which leaves its answer on the card, or raises `ImportError`.
"""

from collections.abc import Callable
from typing import Any

Search = Callable[[], tuple[Any, Any]]  # distances and rows, on the card


def cuvs_brute_force(rows: Any, queries: Any, k: int, metric: str) -> Search:
    """Return cuVS's exact search; `metric` as cuVS names it."""
    import cupy
    from cuvs.common import Resources
    from cuvs.neighbors import brute_force

    resources = Resources()
    index = brute_force.build(rows, metric=metric, resources=resources)
    found = cupy.empty((len(queries), k), cupy.int64), cupy.empty((len(queries), k), cupy.float32)

    def search() -> tuple[Any, Any]:
        brute_force.search(
            index, queries, k, neighbors=found[0], distances=found[1], resources=resources
        )
        resources.sync()
        return found[1], found[0]

    return search


def cuvs_prefiltered(rows: Any, queries: Any, k: int, metric: str, words: Any) -> Search:
    """Return cuVS's exact search of the rows whose bit is set in (rows / 32,) uint32 words."""
    from cuvs.common import Resources
    from cuvs.neighbors import brute_force, filters

    resources = Resources()
    index = brute_force.build(rows, metric=metric, resources=resources)
    passing = filters.from_bitset(words)

    def search() -> tuple[Any, Any]:
        found = brute_force.search(index, queries, k, prefilter=passing, resources=resources)
        resources.sync()
        return found

    return search


def faiss_flat(rows: Any, queries: Any, k: int, metric: str) -> Search:
    """Return FAISS's exact search of host arrays in float32; `metric` is "l2" or "ip"."""
    import cupy
    import faiss

    if not hasattr(faiss, "StandardGpuResources"):
        raise ImportError("this FAISS has no GPU part")
    resources = faiss.StandardGpuResources()
    kind = faiss.GpuIndexFlatL2 if metric == "l2" else faiss.GpuIndexFlatIP
    index = kind(resources, rows.shape[1])
    index.add(cupy.asnumpy(rows))
    asked = cupy.asnumpy(queries)

    def search() -> tuple[Any, Any]:
        return index.search(asked, k)  # type: ignore[no-any-return]

    return search


def cuvs_cagra(rows: Any, queries: Any, k: int, metric: str, itopk: int) -> Search:
    """Return a graph search of cuVS, its graph built with cuVS's defaults."""
    from cuvs.common import Resources
    from cuvs.neighbors import cagra

    resources = Resources()
    index = cagra.build(cagra.IndexParams(metric=metric), rows, resources=resources)
    params = cagra.SearchParams(itopk_size=itopk)

    def search() -> tuple[Any, Any]:
        found = cagra.search(params, index, queries, k, resources=resources)
        resources.sync()
        return found

    return search
