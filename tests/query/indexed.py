"""Tables whose segments have real indexes, with curves written down instead of measured."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from gpuvec.api.frame import Frame
from gpuvec.index import registry
from gpuvec.index.base import IndexFile
from gpuvec.index.curve import CurvePoint, RecallCurve
from gpuvec.query import build
from gpuvec.query.memory_source import MemorySource, MemoryView, new_segment_id
from gpuvec.query.plan import Columns
from gpuvec.rows import DenseVectors, Rows
from gpuvec.schema import BinaryVector, Float32, Int64, Vector
from gpuvec.types import Metric
from tests.query.tables import session

DIM = 16
SELECTIVITIES = (1.0, 0.5, 0.1, 0.01)


@dataclass
class BuiltIndex:
    """See `SegmentIndex`; `opened` counts how often its files were asked for."""

    index_id: str
    spec: object
    target: float | None
    held: RecallCurve | None
    buffers: dict
    opened: int = 0

    @property
    def size_bytes(self):
        return sum(len(data) for data in self.buffers.values())

    def curve(self, device="cpu"):
        return self.held if self.held is None or self.held.device == device else None

    def files(self):
        self.opened += 1
        return {
            name: IndexFile(data=np.frombuffer(data, np.uint8), path=None)
            for name, data in self.buffers.items()
        }


@dataclass(frozen=True, slots=True, eq=False)
class IndexedView(MemoryView):
    """A segment in memory with indexes."""

    built: dict = field(default_factory=dict)

    def index(self, name):
        return self.built.get(name)


def point(params, recall, *, k=10, selectivity=1.0, case="all", low=None, seconds=1e-6):
    return CurvePoint(
        params=params, k=k, selectivity=selectivity, case=case, recall=recall,
        low=recall - 0.002 if low is None else low, high=min(1.0, recall + 0.002), queries=1000,
        batch_s=seconds, single_s=seconds,
    )  # fmt: skip


def flat_curve(settings, *, ks=(10, 100), scan_s=1.0, source="held-out rows"):
    """Return a curve of (knobs, recall) that holds at every selectivity, beside a slow scan."""
    points = []
    for k in ks:
        for share in SELECTIVITIES:
            for case in ("all",) if share == 1.0 else ("random", "clustered"):
                where = {"k": k, "selectivity": share, "case": case}
                points += [
                    point(knobs, recall, seconds=(number + 1) * 1e-6, **where)
                    for number, (knobs, recall) in enumerate(settings)
                ]
                points.append(point(None, 1.0, low=1.0, seconds=scan_s, **where))
    return RecallCurve(source=source, points=tuple(points))


@dataclass
class Indexed:
    """A table, its rows in plain arrays, and its indexes."""

    frame: Frame
    keys: np.ndarray
    price: np.ndarray
    vectors: np.ndarray
    visible: np.ndarray
    valid: np.ndarray
    metric: Metric
    indexes: list

    def truth(self, queries, k, keep=None):
        """Return (query, rank, key) of the nearest visible rows, by sorting everything."""
        from gpuvec.query.reference import distances64

        found = []
        ok = self.visible & self.valid
        ok = ok if keep is None else ok & keep
        distances = distances64(queries, self.vectors, self.metric).astype(np.float32)
        for query, line in enumerate(distances):
            order = np.lexsort((self.keys, line))
            order = order[ok[order]][:k]
            found += [(query, rank, int(self.keys[row])) for rank, row in enumerate(order, 1)]
        return found


def indexed_table(
    spec, curve, *, sizes=((2000, True),), seed=0, target=0.95, metric="l2", nulls=0.0,
    hidden=0.0, clusters=20, dim=DIM, options=None, generation=0, without=(),
):  # fmt: skip
    """Return a table of segments with (rows, whether indexed); the keys are not in row order."""
    rng = np.random.default_rng(seed)
    rows = sum(size for size, _ in sizes)
    metric = Metric(metric)
    if metric in (Metric.HAMMING, Metric.JACCARD):
        vectors = rng.integers(0, 256, (rows, dim)).astype(np.uint8)
        kind = BinaryVector(8 * dim, metric=metric, nullable=True)
    else:
        centers = rng.standard_normal((clusters, dim))
        vectors = centers[rng.integers(0, clusters, rows)] + 0.4 * rng.standard_normal((rows, dim))
        vectors = vectors.astype(np.float32)
        kind = Vector(dim, metric=metric, nullable=True)
    keys, price = rng.permutation(rows), rng.random(rows).astype(np.float32)
    valid, visible = rng.random(rows) >= nulls, rng.random(rows) >= hidden
    fields = {"id": Int64(), "price": Float32(), "embedding": kind}
    views, indexes, start = [], [], 0
    for number, (size, with_index) in enumerate(sizes):
        at = slice(start, start + size)
        start += size
        column = DenseVectors(np.ascontiguousarray(vectors[at]), valid[at])
        held = Rows(
            pa.table({"id": keys[at], "price": price[at]}), {"embedding": column}, tuple(fields)
        )
        built = {}
        if with_index:
            index = registry.build(spec, column, metric, threads=1, **(options or {}))
            buffers = {
                name: b"".join(bytes(part) for part in parts)
                for name, parts in index.files().items()
            }
            built["embedding"] = BuiltIndex(f"i{seed}-{number}", index.spec, target, curve, buffers)
            indexes.append(built["embedding"])
        views.append(IndexedView(new_segment_id(), held, visible[at], 0, built))
    source = MemorySource(Columns(fields, "id", "items"), *views)
    return Indexed(
        Frame(build.scan(source), session()), keys, price, vectors, visible, valid, metric, indexes
    )


def hits(frame):
    """Return (query, rank, key) of a frame's answers."""
    found = frame.select("query_id", "rank", "id").to_arrow().to_pydict()
    return list(zip(*found.values(), strict=True))


def shared(found, wanted):
    """Return the share of wanted (query, key) pairs that were found."""
    mine = {(query, key) for query, _, key in found}
    return sum((query, key) in mine for query, _, key in wanted) / max(1, len(wanted))
