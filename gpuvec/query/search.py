"""One search over the parts of its input: mask, scan, top-k, and the merge of parts."""

from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.device.arrays import is_device_array, to_device, to_host
from gpuvec.index.base import Queries
from gpuvec.index.keep import Keep
from gpuvec.kernels.neighbors import RangeNeighbors
from gpuvec.once import cached_property
from gpuvec.query.batch import as_queries, host_queries
from gpuvec.query.measurements import Measurements
from gpuvec.query.nearest import Nearest
from gpuvec.query.part import Part, arrow_numbers, gather, take_column
from gpuvec.query.plan import Search
from gpuvec.query.reduce import Hits, IntArray, TopK, merge_ranges
from gpuvec.query.session import Session
from gpuvec.query.target import Target, text_ranks
from gpuvec.query.together import Asked
from gpuvec.query.ways import Ways
from gpuvec.rows import SparseVectors

T = TypeVar("T")


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
        self._ways = Ways(node, session, metrics)

    @property
    def target_recall(self) -> float | None:
        """The recall wanted, of the search or of its indexes; None where scans are exact."""
        if self.node.exact or self.node.params is not None:
            return None
        if self.node.recall is not None:
            return self.node.recall
        found = [t.indexed.target for t in self.targets if t.indexed is not None]
        return max((target for target in found if target is not None), default=None)

    def ask(self, vectors: Queries, work: Callable[[Queries], T]) -> T:
        """Do work with queries in the dtype and on the device of the rows.

        Args:
            vectors: of a tile.
            work: brings its answer to the host; may be done twice, see `DeviceStore.run`.
        """
        kind = self.node.input.columns.fields[self.node.field]
        store = self.session.device_store
        if store is None or isinstance(vectors, SparseVectors):
            return work(host_queries(vectors, kind))
        plain, budget = as_queries(vectors, kind), store.budget

        def on_device() -> T:
            size = 0 if is_device_array(plain) else plain.nbytes
            with budget.scratch(size, size, what=f"{len(plain):,} queries"):
                return work(to_device(plain, "queries"))

        return store.run(on_device, what=f"a search of {self.node.input.columns.name or 'rows'}")

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
            if own_keys is None:
                return found
        if own_keys is not None:
            found = self.without_own(found, own_keys)
        return found.nearest(k)

    def top(
        self,
        queries: Queries,
        k: int,
        high: float | None = None,
        masks: Sequence[Keep | None] | None = None,
    ) -> TopK:
        """Return the k nearest over all targets.

        Args:
            queries: as `VectorIndex.search` takes them.
            k: at least 1; the answer may be narrower when there are fewer rows.
            high: rows farther than this are not wanted; a few may still come.
            masks: per target, instead of its own `keep`.
        """
        kept = [target.selection for target in self.targets] if masks is None else masks
        return self._nearest.top(
            Asked(queries=queries, k=k, high=high, kept=kept, counted=masks is None)
        )

    @cached_property
    def _nearest(self) -> Nearest:
        return Nearest(self.targets, self._ways, self._metrics, self.ranks)

    def _range(self, queries: Queries) -> Hits:
        node = self.node
        found = []
        for number, target in enumerate(self.targets):
            if not target.count:
                continue
            answer = target.exact.range_search(
                queries,
                None if node.low is None else np.float32(node.low),
                np.float32(np.inf if node.high is None else node.high),
                keep=target.selection,
                tie_rank=target.ties,
                threads=self.session.threads,
                memory_limit=self._scratch_bytes,
            )
            target.let_go()
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
        return text_ranks(self._key_column(part, row)) if keys is None else keys

    def found(self, hits: Hits) -> Part:
        """Return hits as rows; columns are read when needed."""
        return gather([target.base for target in self.targets], hits.part, hits.row)

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
