"""One search over the parts of its input: mask, scan, top-k, and the merge of parts."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.device.arrays import to_device, to_host
from gpuvec.index import registry
from gpuvec.index.base import Queries, VectorIndex
from gpuvec.kernels.neighbors import RangeNeighbors
from gpuvec.query.batch import as_queries
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import Part, arrow_numbers, gather, numpy_numbers, take_column
from gpuvec.query.plan import Search
from gpuvec.query.reduce import Hits, IntArray, TopK, add_neighbors, merge_ranges
from gpuvec.query.session import Session
from gpuvec.rows import DenseVectors, SparseVectors
from gpuvec.types import Metric, RowMask


@dataclass(frozen=True, eq=False)
class Target:
    """One part to be searched, numbered as `base` is.

    Attributes:
        base: all rows, also those that the mask hides.
        keep: the rows that may be found; None: all.
        start: rows of the input before these, hidden ones too.
        count: how many they are.
        cache_key: segment id and generation; None when nothing outlives the query.
    """

    base: Part
    keep: RowMask | None
    start: int
    count: int
    field: str
    metric: Metric
    primary_key: str | None
    session: Session
    cache_key: tuple[Any, ...] | None

    def _cached(self, what: tuple[Any, ...], make: Any, size: Any) -> Any:
        if self.cache_key is None:
            return make()
        return self.session.cache.get((*self.cache_key, *what), make, size)

    @cached_property
    def index(self) -> VectorIndex:
        """The exact index over the part's vectors."""
        copied = 0

        def make() -> VectorIndex:
            nonlocal copied
            column = self.base.column(self.field)
            if self.session.device == "gpu" and not isinstance(column, SparseVectors):
                column = DenseVectors(to_device(column.values), column.valid)
                copied = column.values.nbytes
            return registry.exact(column, self.metric)

        def size(index: VectorIndex) -> int:
            return int(index.nbytes + copied)

        index: VectorIndex = self._cached(("index", self.field, self.metric), make, size)
        return index

    @cached_property
    def keys(self) -> IntArray | None:
        """(rows,) int64 primary keys; None when there is none or it is text."""
        if self.primary_key is None:
            return None

        def make() -> IntArray | None:
            column = self.base.column(str(self.primary_key))
            if not pa.types.is_integer(column.type):
                return None
            return numpy_numbers(column).astype(np.int64, copy=False)

        found: IntArray | None = self._cached(("keys", self.primary_key), make, _array_bytes)
        return found

    @cached_property
    def tie_rank(self) -> IntArray | None:
        """(rows,) order of the rows by primary key; None when that is row order."""
        if self.primary_key is None:
            return None

        def make() -> IntArray | None:
            values: Any = self.keys
            if values is None:
                column = self.base.column(str(self.primary_key))
                values = _text_ranks(column)
            if bool((values[1:] >= values[:-1]).all()):
                return None
            return np.asarray(values)

        found: IntArray | None = self._cached(("ties", self.primary_key), make, _array_bytes)
        return found


def make_targets(parts: Iterable[Part], node: Search, session: Session) -> list[Target]:
    """Return parts as what a search goes through."""
    found, start = [], 0
    for part in parts:
        found.append(_make_target(part, node, session, start))
        start = found[-1].start + found[-1].base.num_rows
    return found


def _make_target(part: Part, node: Search, session: Session, start: int) -> Target:
    origin = part.origin
    pk = node.input.columns.primary_key
    if origin is None:
        return Target(part, None, start, part.num_rows, node.field, node.metric, pk, session, None)
    key = None
    kept = not getattr(origin.view, "transient", False)
    if kept and origin.computed.isdisjoint((node.field, pk)):
        key = (origin.view.segment_id, origin.view.generation)
    return Target(
        origin.base, origin.keep, origin.start, part.num_rows,
        node.field, node.metric, pk, session, key,
    )  # fmt: skip


class Searcher:
    """Answers tiles of queries over all targets of one search."""

    def __init__(
        self, node: Search, targets: Sequence[Target], session: Session, metrics: Measurements
    ) -> None:
        self.node = node
        self.targets = targets
        self.total = sum(target.count for target in targets)
        self.session = session
        self._metrics = metrics

    def queries(self, vectors: Queries) -> Queries:
        """Return queries in the dtype and on the device of the rows."""
        kind = self.node.input.columns.fields[self.node.field]
        return as_queries(vectors, kind, self.session.device)

    def hits(self, queries: Queries, own_keys: pa.Array | None, k: int | None) -> Hits:
        """Return the answers of a tile of queries.

        Args:
            queries: as `VectorIndex.search` takes them.
            own_keys: (queries,) primary keys that must not answer; None: no such rule.
            k: neighbours per query; None: all within the node's range.
        """
        node = self.node
        if not self.total:
            return Hits.empty(len(queries))
        if k is None or node.low is not None:
            found = self._range(queries)
        else:
            wanted = k if own_keys is None else k + 1
            found = self.top(queries, wanted, node.high).hits()
            if node.high is not None:
                found = found.where(found.distance <= np.float32(node.high))
        if own_keys is not None:
            found = self.without_own(found, own_keys)
        return found.nearest(k)

    def top(
        self,
        queries: Queries,
        k: int,
        high: float | None = None,
        masks: Sequence[RowMask | None] | None = None,
    ) -> TopK:
        """Return the k nearest over all targets.

        Args:
            queries: as `VectorIndex.search` takes them.
            k: at least 1; the answer may be narrower when there are fewer rows.
            high: rows farther than this are not wanted; a few may still come.
            masks: per target, instead of its own `keep`.
        """
        best: TopK | None = None
        many = len(self.targets) > 1
        limit = None if high is None else np.full(len(queries), high, np.float32)
        for number, target in enumerate(self.targets):
            keep = target.keep if masks is None else masks[number]
            count = target.count if masks is None or keep is None else int(np.count_nonzero(keep))
            if not count:
                continue
            bound = limit
            if best is not None and best.row.shape[1] >= k:
                reached = best.bound()
                bound = reached if limit is None else np.minimum(limit, reached)
            found = target.index.search(
                queries,
                min(k, count),
                keep=keep,
                tie_rank=target.tie_rank,
                bound=bound,
                threads=self.session.threads,
                memory_limit=self._scratch_bytes,
            )
            self._metrics.note_scan(target.index.last_stats)
            best = add_neighbors(best, found.to_host(), number, k, self.ranks if many else None)
        if best is None:
            none = np.full((len(queries), 1), -1, np.int64)
            return TopK(none, none, np.full(none.shape, np.inf, np.float32))
        return best

    def _range(self, queries: Queries) -> Hits:
        node = self.node
        found = []
        for number, target in enumerate(self.targets):
            if not target.count:
                continue
            answer = target.index.range_search(
                queries,
                None if node.low is None else np.float32(node.low),
                np.float32(np.inf if node.high is None else node.high),
                keep=target.keep,
                tie_rank=target.tie_rank,
                threads=self.session.threads,
                memory_limit=self._scratch_bytes,
            )
            parts = (answer.offsets, answer.rows, answer.distances)
            found.append((number, RangeNeighbors(*map(to_host, parts))))
        ranks = self.ranks if len(self.targets) > 1 else None
        return merge_ranges(found, len(queries), ranks)

    @property
    def _scratch_bytes(self) -> int:
        return self.session.memory_limit // 2

    def ranks(self, part: IntArray, row: IntArray) -> IntArray:
        """Return (n,) int64 that orders hits by primary key, or by place when there is none."""
        if self.node.input.columns.primary_key is None:
            return part * (1 << 40) + row
        keys = self._int_keys(part, row)
        return _text_ranks(self._key_column(part, row)) if keys is None else keys

    def places(self, hits: Hits) -> IntArray:
        """Return where each hit is in the input, counting rows that filters hide."""
        start = np.array([target.start for target in self.targets], np.int64)
        found: IntArray = start[hits.part] + hits.row
        return found

    def without_own(self, hits: Hits, own_keys: pa.Array) -> Hits:
        """Return the hits without the row that has the query's own primary key."""
        if not len(hits):
            return hits
        own = take_column(own_keys, hits.query)
        keys = self._int_keys(hits.part, hits.row)
        found = self._key_column(hits.part, hits.row) if keys is None else arrow_numbers(keys)
        same = pc.fill_null(pc.equal(found, own.cast(found.type)), False)
        return hits.where(~np.asarray(same))

    def _int_keys(self, part: IntArray, row: IntArray) -> IntArray | None:
        found = np.empty(len(row), np.int64)
        for number in np.unique(part):
            keys = self.targets[number].keys
            if keys is None:
                return None
            here = part == number
            found[here] = keys[row[here]]
        return found

    def _key_column(self, part: IntArray, row: IntArray) -> Any:
        name = str(self.node.input.columns.primary_key)
        return gather([target.base for target in self.targets], part, row).column(name)


def _text_ranks(column: Any) -> IntArray:
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    ranks: IntArray = numpy_numbers(pc.rank(column, tiebreaker="dense")).astype(np.int64)
    return ranks


def _array_bytes(value: NDArray[Any] | None) -> int:
    return 0 if value is None else value.nbytes
