"""The rows of the GPU benchmark: each measures one thing beside its ceiling and its peers.

A row is a dictionary of what was done, seconds, the share of the ceiling or the ratio to a peer,
recall beside every speed, and the goal it has to reach.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from benchmarks.gpu_ceilings import seconds
from benchmarks.gpu_peers import cuvs_brute_force, cuvs_prefiltered, faiss_flat
from benchmarks.gpu_report import Ceilings, Row
from gpuvec.device.arrays import to_host
from gpuvec.index.flat import FlatIndex
from gpuvec.kernels import bitset
from gpuvec.types import Metric

K = 10
TRUTH_QUERIES = 256


def made_up(rows: int, queries: int, dim: int, seed: int = 0) -> tuple[Any, Any]:
    """Return clustered unit vectors on the card: (rows, dim) float16, (queries, dim) float32."""
    import cupy

    rng = np.random.default_rng(seed)
    middles = rng.standard_normal((2_000, dim), np.float32)
    points = rng.standard_normal((rows + queries, dim), np.float32)
    points *= 0.8
    points += middles[rng.integers(0, len(middles), len(points))]
    points /= np.linalg.norm(points, axis=1)[:, None]
    return cupy.asarray(points[:rows].astype(np.float16)), cupy.asarray(points[rows:])


def recall(rows: Any, queries: Any, found: Any, keep: Any = None) -> float:
    """Return recall@K of (queries, K) row numbers, of the first queries, by inner products."""
    asked = to_host(queries)[:TRUTH_QUERIES].astype(np.float32)
    scores = asked @ to_host(rows).astype(np.float32).T
    if keep is not None:
        scores[:, ~to_host(keep)] = -np.inf
    kth = np.partition(scores, -K, axis=1)[:, -K]
    own = np.take_along_axis(scores, to_host(found)[: len(asked)].astype(np.int64), axis=1)
    return float((own >= kth[:, None] - 1e-6).mean())


def exact_batch(ceilings: Ceilings, rows: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield the exact batch: against the card's products, cuVS and FAISS."""
    data, asked = made_up(rows, queries, dim)
    index = FlatIndex(data, Metric.IP)
    ours = seconds(lambda: index.search(asked, K))
    stats = index.last_stats
    assert stats is not None
    operations = 2 * rows * dim * queries / 1e12
    rates = {kind: operations / ours / rate for kind, rate in ceilings["products TFLOP/s"].items()}
    row = {
        "row": "exact batch", "rows": rows, "dim": dim, "queries": queries, "s": ours,
        "way": stats.strategy, "rescanned": stats.rescanned, "TFLOP/s": operations / ours,
        "share of products": rates, "recall": recall(data, asked, index.search(asked, K).rows),
        "goal": ">= 0.6 of the scan type's products",
    }  # fmt: skip
    yield row
    half = asked.astype(np.float16)
    yield from _beside(ours, 2.0, "cuVS float16 inner product", data, asked,
                       lambda: cuvs_brute_force(data, half, K, "inner_product"))  # fmt: skip
    whole = data.astype(np.float32)
    yield from _beside(ours, 5.0, "cuVS float32 L2", data, asked,
                       lambda: cuvs_brute_force(whole, asked, K, "sqeuclidean"))  # fmt: skip
    yield from _beside(ours, 5.0, "FAISS float32 L2", data, asked,
                       lambda: faiss_flat(whole, asked, K, "l2"))  # fmt: skip


def _beside(
    ours: float, goal: float, name: str, rows: Any, queries: Any, make: Callable[[], Any]
) -> Iterator[Row]:
    try:
        search = make()
    except ImportError as error:
        yield {"row": f"exact batch beside {name}", "skipped": str(error)}
        return
    theirs = seconds(search)
    yield {
        "row": f"exact batch beside {name}", "s": theirs, "ours faster by": theirs / ours,
        "recall": recall(rows, queries, search()[1]), "goal": f">= {goal} x",
    }  # fmt: skip


def small_batches(ceilings: Ceilings, rows: int, dim: int) -> Iterator[Row]:
    """Yield batches of up to 64 queries: bytes of the rows over the copy bandwidth."""
    data, asked = made_up(rows, 64, dim)
    index = FlatIndex(data, Metric.IP)
    for count in (1, 8, 64):
        some = asked[:count]
        ours = seconds(lambda some=some: index.search(some, K))
        rate = data.nbytes / ours / 1e9
        yield {
            "row": "exact, few queries", "rows": rows, "dim": dim, "queries": count, "s": ours,
            "GB/s": rate, "share of copy": rate / ceilings["copy GB/s"],
            "recall": recall(data, some, index.search(some, K).rows),
            "goal": ">= 0.8 of the copy bandwidth",
        }  # fmt: skip


def filtered(_: Ceilings, rows: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield filtered batches against the best of: gather first, scan all, cuVS's own filter."""
    import cupy

    data, asked = made_up(rows, queries, dim)
    index = FlatIndex(data, Metric.IP)
    whole = seconds(lambda: index.search(asked, K))
    for share in (0.5, 0.1, 0.01, 0.001):
        keep = cupy.asarray(np.random.default_rng(1).random(rows) < share)
        bits = bitset.pack(keep)
        ours = seconds(lambda bits=bits: index.search(asked, K, keep=bits))

        def gathered(keep: Any = keep) -> Any:
            return FlatIndex(data[cupy.flatnonzero(keep)], Metric.IP).search(asked, K)

        ways = {"gather": seconds(gathered), "dense": whole}
        try:
            half = asked.astype(np.float16)
            ways["cuVS"] = seconds(cuvs_prefiltered(data, half, K, "inner_product", bits.words))
        except ImportError as error:
            ways["cuVS skipped"] = str(error)  # type: ignore[assignment]
        best = min(value for value in ways.values() if isinstance(value, float))
        yield {
            "row": "filtered batch", "share": share, "rows": rows, "dim": dim, "queries": queries,
            "s": ours, "ways s": ways, "of the best way": ours / best,
            "of unfiltered": whole / ours,
            "recall": recall(data, asked, index.search(asked, K, keep=bits).rows, keep),
            "goal": "<= 1.3 x the best way; at 0.5 >= 0.8 of unfiltered speed",
        }  # fmt: skip


def types_of_rows(_: Ceilings, rows: int, dim: int, queries: int) -> Iterator[Row]:
    """Yield the exact batch for each stored type."""
    data, asked = made_up(rows, queries, dim)
    whole = data.astype(np.float32)
    for stored in ("float32", "float16", "int8"):
        held = (whole * (127 / float(abs(whole).max())) if stored == "int8" else whole).astype(
            stored
        )
        index = FlatIndex(held, Metric.IP)
        ours = seconds(lambda index=index: index.search(asked, K))
        yield {
            "row": "exact batch by stored type", "type": stored, "rows": rows, "dim": dim,
            "queries": queries, "s": ours, "queries/s": queries / ours,
            "recall": recall(held, asked, index.search(asked, K).rows),
        }  # fmt: skip
