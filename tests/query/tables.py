"""Random tables in several segments, with hidden rows, nulls and ties; the slow, obvious answer."""

import itertools
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gpuvec.api.frame import Frame
from gpuvec.device.residency import device_store
from gpuvec.query import build
from gpuvec.query.cache import DerivedCache
from gpuvec.query.memory_source import MemorySource, MemoryView, new_segment_id
from gpuvec.query.plan import Columns
from gpuvec.query.reference import distances64
from gpuvec.query.session import Session
from gpuvec.rows import DenseVectors, Rows, SparseVectors
from gpuvec.schema import BinaryVector, Float32, Int64, SparseVector, String, Vector
from gpuvec.types import Metric

DIM = 8
BRANDS = ["acme", "zeta", "ohm", None]


@dataclass
class Table:
    """A frame, and its visible rows in plain lists and arrays for the oracle."""

    frame: Frame
    keys: list
    price: list
    brand: list
    vectors: object
    valid: np.ndarray
    metric: Metric

    def __len__(self):
        return len(self.keys)


def session(memory_limit=1 << 30, device="cpu"):
    store = device_store() if device == "gpu" else None
    return Session(
        memory_limit=memory_limit, threads=1, cache=DerivedCache(1 << 28), device=device,
        device_store=store,
    )  # fmt: skip


def make_table(
    seed, *, rows=200, segments=3, text_keys=False, metric="sqeuclidean", dtype="float32",
    memory_limit=1 << 30, brands=None, device="cpu", hidden=True, nulls=True, values=None,
):  # fmt: skip
    """Return a table whose vectors have few distinct values, so that ties abound."""
    rng = np.random.default_rng(seed)
    metric = Metric(metric)
    numbers = rng.permutation(rows * 3)[:rows]
    keys = [f"k{number:04}" for number in numbers] if text_keys else numbers.tolist()
    price = [None if rng.random() < 0.1 else float(np.float32(rng.random())) for _ in keys]
    names = BRANDS if brands is None else [f"b{number}" for number in range(brands)]
    brand = [names[place] for place in rng.integers(0, len(names), rows)]
    made, kind = _vectors(rng, rows, metric, dtype)
    values = made if values is None else values
    valid = rng.random(rows) > (0.05 if nulls else -1)
    visible = rng.random(rows) > (0.1 if hidden else -1)
    fields = {
        "id": String() if text_keys else Int64(),
        "price": Float32(nullable=True),
        "brand": String(nullable=True),
        "embedding": kind,
    }
    cuts = [0, *np.sort(rng.integers(0, rows, segments - 1)).tolist(), rows]
    views = []
    for start, stop in itertools.pairwise(cuts):
        table = pa.table(
            {
                "id": pa.array(keys[start:stop], fields["id"].arrow_type()),
                "price": pa.array(price[start:stop], pa.float32()),
                "brand": pa.array(brand[start:stop], pa.string()),
            }
        )
        vectors = _slice(values, start, stop, valid)
        rows_in = Rows(table, {"embedding": vectors}, tuple(fields))
        views.append(MemoryView(new_segment_id(), rows_in, visible[start:stop]))
    source = MemorySource(Columns(fields, "id", "items"), *views)
    alive = np.flatnonzero(visible)

    def of(values_):
        return [values_[row] for row in alive]

    return Table(
        Frame(build.scan(source), session(memory_limit, device)), of(keys), of(price), of(brand),
        _take(values, alive), valid[alive], metric,
    )  # fmt: skip


def _vectors(rng, rows, metric, dtype):
    if metric in (Metric.HAMMING, Metric.JACCARD):
        return rng.integers(0, 256, (rows, 2)).astype(np.uint8), BinaryVector(
            16, metric=metric, nullable=True
        )
    if dtype == "sparse":
        lengths = rng.integers(0, 5, rows)
        indices = [np.sort(rng.choice(30, count, replace=False)) for count in lengths]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        flat = np.concatenate(indices).astype(np.uint32)
        weights = rng.integers(1, 4, len(flat)).astype(np.float32)
        return SparseVectors(offsets, flat, weights), SparseVector(metric=metric, nullable=True)
    kind = Vector(DIM, dtype=dtype, metric=metric, nullable=True)
    low = 0 if dtype == "uint8" else -2
    return rng.integers(low, 3, (rows, DIM)).astype(kind.numpy_dtype), kind


def make_queries(seed, count, metric="sqeuclidean", dtype="float32"):
    values, _ = _vectors(np.random.default_rng(seed), count, Metric(metric), dtype)
    return values if isinstance(values, SparseVectors) else _plain(values, metric)


def _plain(values, metric):
    return (
        values if Metric(metric) in (Metric.HAMMING, Metric.JACCARD) else values.astype(np.float32)
    )


def _slice(values, start, stop, valid):
    if isinstance(values, SparseVectors):
        part = values.slice(start, stop)
        return SparseVectors(part.offsets, part.indices, part.values, valid[start:stop])
    return DenseVectors(np.ascontiguousarray(values[start:stop]), valid[start:stop])


def _take(values, rows):
    return values.take(rows) if isinstance(values, SparseVectors) else values[rows]


def expected_search(
    table, queries, *, k=None, low=None, high=None, keep=None, own=None, group=None, group_size=1
):
    """Return `(query, rank, key, distance)` of every answer, by sorting everything for each query.

    Args:
        table: what is searched.
        queries: dense, packed or sparse.
        k: rows, or groups, per query; None: all.
        low, high: the range, open below.
        keep: rows that the prefilter leaves.
        own: per query, a key that must not answer.
        group: per row, its group.
        group_size: rows of each.
    """
    distances = distances64(queries, table.vectors, table.metric).astype(np.float32)
    found = []
    for query, line in enumerate(distances):
        allowed = [
            (float(line[row]), table.keys[row], row)
            for row in range(len(table))
            if table.valid[row]
            and (keep is None or keep[row])
            and (own is None or table.keys[row] != own[query])
            and (low is None or line[row] > np.float32(low))
            and (high is None or line[row] <= np.float32(high))
        ]
        for rank, (distance, key, _) in enumerate(
            _chosen(sorted(allowed), k, group, group_size), 1
        ):
            found.append((query, rank, key, distance))
    return found


def _chosen(ordered, k, group, group_size):
    if group is None:
        return ordered[:k]
    counts, chosen = {}, []
    for item in ordered:
        name = group[item[2]]
        if name not in counts and k is not None and len(counts) == k:
            continue
        counts[name] = counts.get(name, 0) + 1
        if counts[name] <= group_size:
            chosen.append(item)
    return chosen


def answers(frame):
    """Return `(query_id, rank, id, distance)` of a frame's rows."""
    found = frame.select("query_id", "rank", "id", "distance").to_arrow().to_pydict()
    return list(zip(*found.values(), strict=True))
