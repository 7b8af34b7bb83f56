"""Merges hits of several parts on the host: nearest first, equal distances by primary key.

`kernels.merge_k` merges answers over the rows of one index, on either device.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors

IntArray = NDArray[np.int64]
# (part, row) of hits -> (n,) int64 that orders those hits as their primary keys do
Ranks = Callable[[IntArray, IntArray], IntArray]


@dataclass(frozen=True, slots=True, eq=False)
class TopK:
    """The k nearest so far, over several parts.

    Attributes:
        part: (queries, k) int64, which part a hit is in.
        row: (queries, k) int64, its position there; -1 where there is none.
        distance: (queries, k) float32; +inf where there is none.
    """

    part: IntArray
    row: IntArray
    distance: NDArray[np.float32]

    def bound(self) -> NDArray[np.float32]:
        """Return the k-th distance of each query: nothing beyond it can enter."""
        return np.ascontiguousarray(self.distance[:, -1])

    def hits(self) -> "Hits":
        """Return the hits without padding."""
        found = self.row >= 0
        if found.all():
            queries, k = found.shape
            offsets = np.arange(0, queries * k + 1, k)
            return Hits(offsets, self.part.ravel(), self.row.ravel(), self.distance.ravel())
        counts = np.count_nonzero(found, axis=1)
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        return Hits(offsets, self.part[found], self.row[found], self.distance[found])


@dataclass(frozen=True, slots=True, eq=False)
class Hits:
    """Hits of several queries, ragged; query q owns entries `offsets[q]` to `offsets[q + 1]`.

    Attributes:
        offsets: (queries + 1,) int64.
        part, row: (hits,) int64, where each hit is.
        distance: (hits,) float32, rising within a query.
    """

    offsets: IntArray
    part: IntArray
    row: IntArray
    distance: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.row)

    @property
    def num_queries(self) -> int:
        """Queries, also those without hits."""
        return len(self.offsets) - 1

    @property
    def query(self) -> IntArray:
        """(hits,) which query each hit answers."""
        counts = np.diff(self.offsets)
        if self._even(counts):
            return np.repeat(np.arange(self.num_queries), counts[0])
        return np.repeat(np.arange(self.num_queries), counts)

    @property
    def rank(self) -> IntArray:
        """(hits,) place of each hit among those of its query, from 0."""
        counts = np.diff(self.offsets)
        if self._even(counts):
            return np.tile(np.arange(counts[0]), self.num_queries)
        return np.arange(len(self)) - np.repeat(self.offsets[:-1], counts)

    def _even(self, counts: IntArray) -> bool:
        """Return whether all queries have as many hits, which most searches find."""
        return len(counts) > 0 and bool((counts == counts[0]).all())

    def where(self, keep: NDArray[np.bool_]) -> "Hits":
        """Return the hits whose bit is set."""
        before = np.concatenate([[0], np.cumsum(keep)]).astype(np.int64)
        return Hits(before[self.offsets], self.part[keep], self.row[keep], self.distance[keep])

    def nearest(self, k: int | None) -> "Hits":
        """Return the first k hits of each query."""
        if k is None or not len(self) or np.diff(self.offsets).max() <= k:
            return self
        return self.where(self.rank < k)

    @staticmethod
    def empty(num_queries: int) -> "Hits":
        """Return no hits."""
        none = np.empty(0, np.int64)
        return Hits(np.zeros(num_queries + 1, np.int64), none, none, np.empty(0, np.float32))


def add_neighbors(
    best: TopK | None, found: Neighbors, part: IntArray, k: int, ranks: Ranks | None
) -> TopK:
    """Merge the neighbours of one more part, or of several, into the best so far.

    Args:
        best: hits of earlier parts, None at first.
        found: neighbours within these parts, at most k per query, already in tie order.
        part: (queries, k) int64, which part each of them is in.
        k: places per query in the answer.
        ranks: breaks ties between parts; None: earlier parts first.
    """
    rows = np.asarray(found.rows)
    distances = np.asarray(found.distances)
    if best is None:
        return TopK(part, rows, distances)
    part_all = np.concatenate([best.part, part], axis=1)
    row_all = np.concatenate([best.row, rows], axis=1)
    distance_all = np.concatenate([best.distance, distances], axis=1)
    order = np.argsort(distance_all, axis=1, kind="stable")
    if ranks is not None:
        _break_ties(order, part_all, row_all, distance_all, ranks)
    order = order[:, :k]
    return TopK(
        np.take_along_axis(part_all, order, 1),
        np.take_along_axis(row_all, order, 1),
        np.take_along_axis(distance_all, order, 1),
    )


def _break_ties(
    order: IntArray, part: IntArray, row: IntArray, distance: NDArray[Any], ranks: Ranks
) -> None:
    """Reorder `order` in place where distances are equal; only queries with ties are looked at."""
    ordered = np.take_along_axis(distance, order, 1)
    equal = (ordered[:, 1:] == ordered[:, :-1]) & np.isfinite(ordered[:, 1:])
    tied = np.flatnonzero(equal.any(axis=1))
    if not len(tied):
        return
    shape = (len(tied), row.shape[1])
    real = (row[tied] >= 0).ravel()
    rank = np.full(real.shape, np.iinfo(np.int64).max)
    rank[real] = ranks(part[tied].ravel()[real], row[tied].ravel()[real])
    order[tied] = np.lexsort((rank.reshape(shape), distance[tied]), axis=1)


def merge_ranges(
    found: Sequence[tuple[int, RangeNeighbors]], num_queries: int, ranks: Ranks | None
) -> Hits:
    """Merge ragged answers of several parts: nearest first per query, equal distances by rank."""
    if not found:
        return Hits.empty(num_queries)
    if len(found) == 1:
        part, only = found[0]
        return Hits(only.offsets, np.full(len(only.rows), part), only.rows, only.distances)
    query = np.concatenate([np.repeat(np.arange(num_queries), f.counts) for _, f in found])
    part_all = np.concatenate([np.full(len(f.rows), part, np.int64) for part, f in found])
    row_all = np.concatenate([f.rows for _, f in found])
    distance = np.concatenate([f.distances for _, f in found])
    rank = np.arange(len(row_all)) if ranks is None else ranks(part_all, row_all)
    return sort_hits(query, part_all, row_all, distance, rank, num_queries)


def sort_hits(
    query: IntArray,
    part: IntArray,
    row: IntArray,
    distance: NDArray[np.float32],
    rank: IntArray,
    num_queries: int,
) -> Hits:
    """Return hits in order of query, distance, rank."""
    order = np.lexsort((rank, distance, query))
    counts = np.bincount(query, minlength=num_queries)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Hits(offsets, part[order], row[order], distance[order])
