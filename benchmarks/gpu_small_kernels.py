"""Rows of the small kernels: selection, merge, packed bits, ranges, each beside the copy bandwidth.

Their roof is bytes: what a kernel has to read once, over the card's measured rate of reading. A
copy reads and writes, so its measured rate counts both.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np

from benchmarks.gpu_ceilings import seconds
from benchmarks.gpu_report import Ceilings, Row, Sections
from gpuvec.device.arrays import to_device
from gpuvec.kernels.bits_topk import bits_topk
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.kernels.range_pairs import Doubt, range_pairs
from gpuvec.kernels.select_k import select_k
from gpuvec.types import Metric

LARGE: dict[str, Any] = {
    "selections": {"queries": 1024, "columns": 262_144, "ks": (1, 10, 100, 128, 1000)},
    "merges": {"queries": 10_000, "segments": 64, "k": 10},
    "packed_bits": {"rows": 10_000_000, "width": 96, "batches": (1, 64, 1024)},
    "ranges": {"queries": 1024, "columns": 262_144},
}
SMALL: dict[str, Any] = {
    "selections": {"queries": 3, "columns": 3000, "ks": (1, 10, 200)},
    "merges": {"queries": 20, "segments": 4, "k": 5},
    "packed_bits": {"rows": 3000, "width": 16, "batches": (1, 9)},
    "ranges": {"queries": 3, "columns": 3000},
}


def _roof(card: Ceilings, taken: float, read_bytes: int) -> Row:
    rate = read_bytes / taken / 1e9
    return {"s": taken, "GB/s": rate, "share of copy": rate / card["copy GB/s"]}


def selections(card: Ceilings, queries: int, columns: int, ks: tuple[int, ...]) -> Iterator[Row]:
    """Yield the k smallest of each row, beside CuPy's own partition and sort."""
    rng = np.random.default_rng(0)
    distances = to_device(rng.random((queries, columns), np.float32))
    sort = seconds(lambda: distances.argsort(axis=1)[:, : max(ks)])
    for k in ks:
        taken = seconds(lambda k=k: select_k(distances, k))
        partition = seconds(lambda k=k: distances.argpartition(k - 1, axis=1)[:, :k])
        yield {
            "row": "row-wise top-k", "queries": queries, "columns": columns, "k": k,
            **_roof(card, taken, distances.nbytes), "CuPy sort, ours faster by": sort / taken,
            "CuPy partition, ours faster by": partition / taken, "goal": "3-20 x CuPy's sort",
        }  # fmt: skip


def merges(card: Ceilings, queries: int, segments: int, k: int) -> Iterator[Row]:
    """Yield the merge of the answers of many segments, with ranks."""
    rng = np.random.default_rng(0)
    shape = (segments, queries, k)
    distances = to_device(np.sort(rng.random(shape, np.float32), axis=2))
    rows = to_device(rng.integers(0, 1 << 40, shape))
    parts = [Neighbors(rows[s], distances[s]) for s in range(segments)]
    ranks = [rows[s] for s in range(segments)]
    taken = seconds(lambda: merge_k(parts, k, ranks=ranks))
    yield {
        "row": "merge", "queries": queries, "segments": segments, "k": k,
        **_roof(card, taken, 2 * rows.nbytes + distances.nbytes),
        "goal": "< 5 % of the search of as many segments",
    }  # fmt: skip


def packed_bits(card: Ceilings, rows: int, width: int, batches: tuple[int, ...]) -> Iterator[Row]:
    """Yield the nearest of packed bits; bytes of the rows are counted once a batch."""
    rng = np.random.default_rng(0)
    data = to_device(rng.integers(0, 256, (rows, width), np.uint8))
    asked = to_device(rng.integers(0, 256, (max(batches), width), np.uint8))
    for metric in (Metric.HAMMING, Metric.JACCARD):
        for count in batches:
            taken = seconds(lambda m=metric, c=count: bits_topk(asked[:c], data, 10, m))
            yield {
                "row": "packed bits", "metric": str(metric), "rows": rows, "bits": 8 * width,
                "queries": count, **_roof(card, taken, data.nbytes),
                "pairs/s": rows * count / taken,
                "goal": ">= 0.8 of the copy bandwidth for few queries",
            }  # fmt: skip


def ranges(card: Ceilings, queries: int, columns: int) -> Iterator[Row]:
    """Yield the pairs of a range in a tile of distances, of which one in a thousand is inside."""
    rng = np.random.default_rng(0)
    distances = to_device(rng.random((queries, columns), np.float32))
    high = to_device(np.full(queries, 0.001, np.float32))
    taken = seconds(lambda: range_pairs(distances, None, high, Doubt(share=1e-6)))
    yield {
        "row": "pairs of a range", "queries": queries, "columns": columns,
        **_roof(card, taken, 2 * distances.nbytes), "goal": ">= 0.5 of the copy bandwidth",
    }  # fmt: skip


SECTIONS: Sections = {
    "selections": selections, "merges": merges, "packed_bits": packed_bits, "ranges": ranges,
}  # fmt: skip
