"""An index that some GPU library searches: masks, limits and final distances are seen to here.

An engine finds nodes; these become rows of the segment, are measured again from the rows
themselves, and come in final order. What the engine cannot do is answered by the exact scan: more
neighbours than it returns, masks that leave too few rows, a card without room for it.
"""

import itertools
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.device.arrays import array_namespace, to_device
from gpuvec.device.rows import DeviceRows, HeldRows, device_rows
from gpuvec.errors import wrong_length
from gpuvec.index.base import Neighbors, Params, Queries, SearchStats
from gpuvec.index.device_engine import Engine, Finder, Nodes
from gpuvec.index.device_space import device_space
from gpuvec.index.flat import FlatIndex
from gpuvec.index.keep import Keep, as_bits
from gpuvec.index.spec import IndexSpec, check_params
from gpuvec.kernels.bitset import BitSet, both, count, pack, unpack
from gpuvec.kernels.merge_k import merge_k
from gpuvec.kernels.pairwise import check_pair, paired_distances
from gpuvec.kernels.select_k import check_k, check_lengths
from gpuvec.once import cached_property
from gpuvec.rows import DenseVectors
from gpuvec.storage.object_store import Buffer
from gpuvec.types import Array, Metric

_MORE = 1.25  # candidates beyond the share that a mask is expected to leave
_BESIDE = 8  # the same, whatever that share is
_CANDIDATE_BYTES = 64  # of scratch: row, distance, and what the final order makes of them
_TILE = 1 << 14  # queries
_MOST_PASSES = 0.1  # an engine that sees no masks is asked where at least this share passes
_names = itertools.count(1)


class DeviceIndex:
    """Near rows by an engine of a GPU library.

    Args:
        spec: every parameter decided.
        vectors: of the segment; `values` are `DeviceRows` or an array on the device.
        metric: a dense one.
        engine: finds candidates.
        late: rising rows that are not found yet.
        plan: from `k` and the knobs of a search to all knobs and the candidates wanted.
        settings: see `ApproximateIndex.settings`.
        complete: called by `complete`; returns the engine of all rows.
        files: called by `files`.
        nbytes: of those files.
    """

    def __init__(
        self,
        spec: IndexSpec,
        vectors: DenseVectors,
        metric: Metric,
        engine: Engine,
        *,
        late: NDArray[np.int64] | None = None,
        plan: Callable[[int, Params], tuple[dict[str, float], int]],
        settings: Callable[[int], Sequence[Params]],
        complete: Callable[[], Engine] | None = None,
        files: Callable[[], Mapping[str, Sequence[Buffer]]],
        nbytes: int,
    ) -> None:
        self.spec = spec
        self.metric = metric
        self.num_rows = len(vectors)
        self.nbytes = nbytes
        self.settings = settings
        self.engine = engine
        self._rows: DeviceRows = device_rows(vectors.values)
        self._vectors = vectors
        self._plan, self._complete, self._files = plan, complete, files
        self._local = threading.local()
        self._take(late)

    def _take(self, late: NDArray[np.int64] | None) -> None:
        """Note which rows are nodes, under a name that no older finder has."""
        wanted = _wanted(self._vectors, late)
        self._places = None if wanted is None else np.flatnonzero(wanted)
        self._nodes = self.num_rows if self._places is None else len(self._places)
        self._found = wanted
        self._name = f"{self.spec.KIND} {next(_names)}"
        self.__dict__.pop("_exact", None)
        self.__dict__.pop("_found_bits", None)

    @property
    def device_bytes(self) -> int:
        """Bytes on the device while it is searched, beside the rows."""
        return self.engine.size_bytes(self._nodes, self._rows.shape[1])

    @property
    def last_stats(self) -> SearchStats | None:
        """See `ApproximateIndex.last_stats`."""
        found: SearchStats | None = getattr(self._local, "stats", None)
        return found

    def complete(self) -> None:
        """See `ApproximateIndex.complete`."""
        if self._complete is not None:
            self.engine, self._complete = self._complete(), None
            self._take(None)

    def files(self) -> Mapping[str, Sequence[Buffer]]:
        """See `ApproximateIndex.files`."""
        if self._complete is not None:
            raise AssertionError("an index has no files before it is complete")
        return self._files()

    def search(
        self,
        queries: Queries,
        k: int,
        *,
        params: Params | None = None,
        keep: Keep | None = None,
        tie_rank: Array | None = None,
        bound: Array | None = None,
        threads: int = 0,
        memory_limit: int | None = None,
    ) -> Neighbors:
        """See `ApproximateIndex.search`."""
        del threads
        start = time.perf_counter()
        check_k(k)
        check_pair(queries, self._rows.like, self.metric)
        knobs, wanted = self._plan(int(k), check_params(self.spec, params or {}))
        check_lengths(self.num_rows, len(queries), keep=keep, tie_rank=tie_rank, bound=bound)
        asked_bits = as_bits(keep)
        if asked_bits is not None and asked_bits.num_rows != self.num_rows:
            raise wrong_length("keep", wanted=self.num_rows, got=asked_bits.num_rows)
        bits = self._kept(asked_bits)
        passing = self._nodes if bits is None else count(bits)
        if not passing or not len(queries):
            found, strategy = Neighbors.empty(len(queries), k, like=self._rows.like), self._strategy
        else:
            asked = self._candidates_of(wanted, passing)
            answer = None
            if asked:
                answer = self._answer(queries, k, knobs, asked, bits, tie_rank, bound)
            if answer is None:
                found, strategy = self._scan(queries, k, bits, tie_rank, bound, memory_limit)
            else:
                found, strategy = answer, self._strategy
        self._local.stats = SearchStats(
            strategy=strategy,
            queries=len(queries),
            candidates=len(queries) * min(wanted, passing),
            seconds=time.perf_counter() - start,
        )
        return found

    @property
    def _strategy(self) -> str:
        return f"{self.spec.KIND} by {self.engine.name}"

    def _kept(self, keep: BitSet | None) -> BitSet | None:
        """Return the rows that may be found, on the device; None: all rows."""
        if self._found_bits is None or keep is None:
            return self._found_bits if keep is None else keep
        return both(keep, self._found_bits)

    @cached_property
    def _found_bits(self) -> BitSet | None:
        return as_bits(self._found)

    def _candidates_of(self, wanted: int, passing: int) -> int:
        """Return how many nodes to ask an engine for; 0: the scan shall answer."""
        if self._nodes < self.engine.least_nodes:
            return 0
        asked = min(wanted, passing)
        if passing < self._nodes and not self.engine.sees_masks:
            if passing < _MOST_PASSES * self._nodes:
                return 0
            asked = math.ceil(_MORE * asked * self._nodes / passing) + _BESIDE
        asked = min(asked, self._nodes)
        return asked if asked <= self.engine.most else 0

    def _answer(
        self,
        queries: Queries,
        k: int,
        knobs: Mapping[str, float],
        asked: int,
        bits: BitSet | None,
        tie_rank: Any,
        bound: Array | None,
    ) -> Neighbors | None:
        """Return what the engine finds, in final order; None where it has no room."""
        parts = []
        with (
            self._rows.held() as held,
            self._rows.derived(self._name, self.device_bytes, lambda: self._made(held)) as finder,
        ):
            if finder is None:
                return None
            places = None if self.engine.by_rows else self._on_device(self._places)
            seen = self._node_bits(bits, places) if self.engine.sees_masks else None
            one = asked * (_CANDIDATE_BYTES + held.row_scratch)
            what = f"candidates of a search by {self._strategy}"
            with self._rows.scratch(one, one * len(queries), what=what) as room:
                step = max(1, min(_TILE, room // one))
                for start in range(0, len(queries), step):
                    some = queries[start : start + step]
                    nodes = finder.find(some, asked, knobs, seen)
                    rows = self._rows_of(nodes, places, bits)
                    limit = None if bound is None else bound[start : start + step]
                    parts.append(nearest_rows(some, rows, held, k, self.metric, tie_rank, limit))
        return Neighbors.concat(parts)

    def _made(self, held: HeldRows) -> Finder:
        size = self.engine.making_bytes(self._nodes, self._rows.shape[1])
        with self._rows.scratch(size, size, what=f"making {self._strategy}"):
            space = device_space(held, self._rows.like, self.metric)
            places = self._on_device(self._places)
            nodes = Nodes(held=held, places=places, count=self._nodes, space=space)
            return self.engine.make(nodes)

    def _on_device(self, values: NDArray[Any] | None) -> Array | None:
        return None if values is None else to_device(values, "index")

    def _node_bits(self, bits: BitSet | None, places: Array | None) -> BitSet | None:
        """Return the bits of the nodes; None: all."""
        if bits is None or bits is self._found_bits:
            return None
        if places is None:
            return bits
        return pack(unpack(bits)[places])

    def _rows_of(self, nodes: Array, places: Array | None, bits: BitSet | None) -> Array:
        """Return the rows of nodes, -1 where there is none or a mask hides it."""
        xp = array_namespace(nodes)
        there = nodes >= 0
        rows = xp.maximum(nodes, 0)
        rows = rows if places is None else places[rows]
        if bits is not None:
            there &= (bits.words[rows >> 5] >> (rows & 31).astype(xp.uint32)) & 1 == 1
        return xp.where(there, rows, -1)

    def _scan(
        self,
        queries: Queries,
        k: int,
        bits: BitSet | None,
        tie_rank: Any,
        bound: Array | None,
        memory_limit: int | None,
    ) -> tuple[Neighbors, str]:
        found = self._exact.search(
            queries, k, keep=bits, tie_rank=tie_rank, bound=bound, memory_limit=memory_limit
        )
        stats = self._exact.last_stats
        if found.k < k:
            gaps = Neighbors.empty(len(queries), k - found.k, like=found.rows)
            xp = array_namespace(found.rows)
            found = Neighbors(
                xp.concatenate([found.rows, gaps.rows], axis=1),
                xp.concatenate([found.distances, gaps.distances], axis=1),
            )
        return found, "" if stats is None else stats.strategy

    @cached_property
    def _exact(self) -> FlatIndex:
        return FlatIndex(self._vectors.values, self.metric, valid=self._found)


def nearest_rows(
    queries: Array,
    rows: Array,
    held: HeldRows,
    k: int,
    metric: Metric,
    tie_rank: Any = None,
    bound: Array | None = None,
) -> Neighbors:
    """Measure candidates on the device and keep the nearest of each query, in final order.

    Args:
        queries: (m, dim) float32.
        rows: (m, c) int64 candidates, -1 for none; none twice in a query.
        held: the rows.
        k: at least 1.
        metric: what to measure.
        tie_rank: (n,) int64 of either side or `DeviceRows`, order of rows at equal distance; None:
            row order.
        bound: (m,) float32, farther rows are not wanted; None: no bound.
    """
    xp = array_namespace(queries)
    m, wide = rows.shape
    there = rows >= 0
    flat = xp.maximum(rows, 0).ravel()
    values, at = held.array, flat
    if values is None:
        listed, at = xp.unique(flat, return_inverse=True)
        values = held.take(listed)
    owner = xp.repeat(xp.arange(m), wide)
    measured = paired_distances(queries, values, owner, at, metric).reshape(m, wide)
    if bound is not None:
        there &= measured <= bound[:, None]
    order = flat if tie_rank is None else _ranks(tie_rank, flat)
    found = Neighbors(xp.where(there, rows, -1), xp.where(there, measured, xp.float32(xp.inf)))
    return merge_k([found], k, ranks=[order.reshape(m, wide)])


def _ranks(tie_rank: Any, rows: Array) -> Array:
    ranks = tie_rank if isinstance(tie_rank, DeviceRows) else to_device(tie_rank, "vectors")
    with device_rows(ranks).held() as held:
        return held.take(rows)


def _wanted(vectors: DenseVectors, late: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
    """Return which rows are nodes; None: all."""
    if (vectors.valid is None or bool(vectors.valid.all())) and (late is None or not len(late)):
        return None
    wanted = np.ones(len(vectors), np.bool_) if vectors.valid is None else vectors.valid.copy()
    if late is not None:
        wanted[late] = False
    return wanted
