"""Search with `group_by`: the k nearest groups of a query, the nearest rows of each, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.index.base import Queries
from gpuvec.query.batch import take_queries
from gpuvec.query.codes import places_within, row_codes
from gpuvec.query.part import concat_columns
from gpuvec.query.reduce import Hits, IntArray, sort_hits
from gpuvec.query.search import Searcher

FEW_GROUPS = 64  # up to here every group is searched for itself: one pass over the rows in all


@dataclass(frozen=True, slots=True, eq=False)
class Groups:
    """Which group each row of each target is in.

    Attributes:
        codes: per target, (rows,) int64.
        counts: (groups,) rows that may be found.
    """

    codes: Sequence[IntArray]
    counts: IntArray

    def of(self, hits: Hits) -> IntArray:
        """Return the group of each hit."""
        found = np.empty(len(hits), np.int64)
        for number, codes in enumerate(self.codes):
            here = hits.part == number
            found[here] = codes[hits.row[here]]
        return found


def make_groups(searcher: Searcher, name: str) -> Groups:
    """Read the column and number its values; nulls are one group."""
    bases = [target.base for target in searcher.targets]
    codes = row_codes([concat_columns([base.column(name) for base in bases])], [name])
    split = np.split(codes, np.cumsum([base.num_rows for base in bases])[:-1])
    counts = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    for target, part in zip(searcher.targets, split, strict=True):
        kept = part if target.keep is None else part[target.keep]
        counts += np.bincount(kept, minlength=len(counts))
    return Groups(split, counts)


def grouped_hits(
    searcher: Searcher, groups: Groups, queries: Queries, own_keys: pa.Array | None
) -> Hits:
    """Return, per query, `group_size` rows of each of the k nearest groups, nearest row first."""
    if not searcher.total:
        return Hits.empty(len(queries))
    alive = np.flatnonzero(groups.counts)
    if searcher.node.k is None or searcher.node.low is not None:
        return _from_whole_range(searcher, groups, queries, own_keys)
    if len(alive) <= FEW_GROUPS:
        return _every_group(searcher, groups, alive, queries, own_keys)
    return _by_widening(searcher, groups, queries, own_keys)


def _in_range(searcher: Searcher, hits: Hits, own_keys: pa.Array | None) -> Hits:
    node = searcher.node
    if node.high is not None:
        hits = hits.where(hits.distance <= np.float32(node.high))
    return hits if own_keys is None else searcher.without_own(hits, own_keys)


def _from_whole_range(
    searcher: Searcher, groups: Groups, queries: Queries, own_keys: pa.Array | None
) -> Hits:
    hits = searcher.hits(queries, own_keys, None)
    return hits.where(
        _first_groups(hits, groups.of(hits), searcher.node.k, searcher.node.group_size)
    )


def _every_group(
    searcher: Searcher,
    groups: Groups,
    alive: IntArray,
    queries: Queries,
    own_keys: pa.Array | None,
) -> Hits:
    """Search each group for itself."""
    node = searcher.node
    size = node.group_size + (own_keys is not None)
    found = []
    for group in alive:
        masks: list[NDArray[np.bool_] | None] = []
        for target, codes in zip(searcher.targets, groups.codes, strict=True):
            here = codes == group
            masks.append(here if target.keep is None else here & target.keep)
        found.append(
            _in_range(searcher, searcher.top(queries, size, node.high, masks).hits(), own_keys)
        )
    part, row = (np.concatenate([getattr(h, name) for h in found]) for name in ("part", "row"))
    distance = np.concatenate([hits.distance for hits in found])
    query = np.concatenate([hits.query for hits in found])
    rank = searcher.ranks(part, row)
    hits = sort_hits(query, part, row, distance, rank, len(queries))
    return hits.where(_first_groups(hits, groups.of(hits), node.k, node.group_size))


def _by_widening(
    searcher: Searcher, groups: Groups, queries: Queries, own_keys: pa.Array | None
) -> Hits:
    """Search deeper and deeper until each query has its groups full, or has seen every row."""
    node = searcher.node
    assert node.k is not None
    done: list[tuple[IntArray, Hits]] = []
    waiting = np.arange(len(queries))
    depth = 4 * node.group_size * node.k
    while len(waiting):
        depth = min(depth, searcher.total)
        block = take_queries(queries, waiting)
        keys = None if own_keys is None else own_keys.take(pa.array(waiting))
        top = searcher.top(block, depth, node.high).hits()
        seen_all = np.diff(top.offsets) < depth
        hits = _in_range(searcher, top, keys)
        if node.high is not None:
            seen_all |= np.diff(hits.offsets) < np.diff(top.offsets) - (keys is not None)
        codes = groups.of(hits)
        keep = _first_groups(hits, codes, node.k, node.group_size)
        full = seen_all | _is_full(hits, codes, keep, groups, node) | (depth == searcher.total)
        ready = full[hits.query]
        done.append((waiting[full], _only(hits.where(keep & ready), full)))
        waiting = waiting[~full]
        depth *= 8
    return _in_query_order(done, len(queries))


def _first_groups(hits: Hits, codes: IntArray, k: int | None, size: int) -> NDArray[np.bool_]:
    """Mark the first `size` hits of the first `k` groups of each query."""
    if not len(hits):
        return np.zeros(0, bool)
    width = int(codes.max()) + 1
    pair = hits.query * width + codes
    unique, first, inverse = np.unique(pair, return_index=True, return_inverse=True)
    order = np.argsort(first)
    place = np.empty(len(unique), np.int64)
    place[order] = places_within(unique[order] // width)
    keep: NDArray[np.bool_] = places_within(pair) < size
    return keep if k is None else keep & (place[inverse.ravel()] < k)


def _is_full(
    hits: Hits, codes: IntArray, keep: NDArray[np.bool_], groups: Groups, node: Any
) -> NDArray[np.bool_]:
    """Tell which queries have k groups, and of each as many rows as it can give."""
    query, code = hits.query[keep], codes[keep]
    width = len(groups.counts)
    pairs, counts = np.unique(query * width + code, return_counts=True)
    enough = counts >= np.minimum(groups.counts[pairs % width], node.group_size)
    full = np.bincount(pairs // width, weights=enough, minlength=hits.num_queries)
    enough_groups: NDArray[np.bool_] = full >= min(node.k, np.count_nonzero(groups.counts))
    return enough_groups


def _only(hits: Hits, queries: NDArray[np.bool_]) -> Hits:
    """Drop queries that own no hits from the numbering."""
    counts = np.diff(hits.offsets)[queries]
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    return Hits(offsets, hits.part, hits.row, hits.distance)


def _in_query_order(done: Sequence[tuple[IntArray, Hits]], num_queries: int) -> Hits:
    query = np.concatenate([whose[hits.query] for whose, hits in done])
    order = np.argsort(query, kind="stable")
    counts = np.bincount(query, minlength=num_queries)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    part, row = (np.concatenate([getattr(h, n) for _, h in done])[order] for n in ("part", "row"))
    distance = np.concatenate([hits.distance for _, hits in done])[order]
    return Hits(offsets, part, row, distance)
