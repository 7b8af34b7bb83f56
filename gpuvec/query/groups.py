"""Search with `group_by`: the k nearest groups of a query, the nearest rows of each, exactly."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.index.base import Queries
from gpuvec.index.flat import FlatIndex
from gpuvec.query.batch import take_queries
from gpuvec.query.codes import places_within, row_codes
from gpuvec.query.part import Column, concat_columns, take_column
from gpuvec.query.reduce import Hits, IntArray, TopK, sort_hits
from gpuvec.query.search import Searcher
from gpuvec.rows import SparseVectors

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
    return _numbered(searcher, name, [])[0]


def groups_with(searcher: Searcher, name: str, values: Column) -> tuple[Groups, IntArray]:
    """Return the groups of a column, and the numbers that these values have among them."""
    return _numbered(searcher, name, [values])


def _numbered(searcher: Searcher, name: str, more: list[Column]) -> tuple[Groups, IntArray]:
    bases = [target.base for target in searcher.targets]
    codes = row_codes([concat_columns([*(base.column(name) for base in bases), *more])], [name])
    *split, others = np.split(codes, np.cumsum([base.num_rows for base in bases]))
    counts = np.zeros(int(codes.max(initial=-1)) + 1, np.int64)
    for target, part in zip(searcher.targets, split, strict=True):
        kept = part if target.keep is None else part[target.keep]
        counts += np.bincount(kept, minlength=len(counts))
    return Groups(split, counts), others


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
        first_groups(hits, groups.of(hits), searcher.node.k, searcher.node.group_size)
    )


def _every_group(
    searcher: Searcher,
    groups: Groups,
    alive: IntArray,
    queries: Queries,
    own_keys: pa.Array | None,
) -> Hits:
    """Search every group: on a device in one pass, on the host each for itself."""
    node = searcher.node
    if searcher.session.device == "gpu" and not isinstance(queries, SparseVectors):
        found = _all_groups(searcher, groups, alive, queries, own_keys)
    else:
        found = [_one_group(searcher, groups, int(group), queries, own_keys) for group in alive]
    part, row = (np.concatenate([getattr(h, name) for h in found]) for name in ("part", "row"))
    distance = np.concatenate([hits.distance for hits in found])
    query = np.concatenate([hits.query for hits in found])
    rank = searcher.ranks(part, row)
    hits = sort_hits(query, part, row, distance, rank, len(queries))
    return hits.where(first_groups(hits, groups.of(hits), node.k, node.group_size))


def _all_groups(
    searcher: Searcher,
    groups: Groups,
    alive: IntArray,
    queries: Queries,
    own_keys: pa.Array | None,
) -> list[Hits]:
    """Return the nearest rows of all groups, of each target."""
    size = searcher.node.group_size + (own_keys is not None)
    number = np.full(len(groups.counts), -1, np.int32)
    number[alive] = np.arange(len(alive))
    found = []
    for place, (target, codes) in enumerate(zip(searcher.targets, groups.codes, strict=True)):
        if not target.count:
            continue
        index = target.exact
        assert isinstance(index, FlatIndex)
        near = index.search_groups(
            queries, number[codes], len(alive), size, keep=target.selection, tie_rank=target.ties
        ).to_host()
        target.let_go()
        part = np.full(near.rows.shape, place)
        found.append(_in_range(searcher, TopK(part, near.rows, near.distances).hits(), own_keys))
    return found


def _by_widening(
    searcher: Searcher, groups: Groups, queries: Queries, own_keys: pa.Array | None
) -> Hits:
    """Search deeper and deeper until each query knows its groups, then fill the groups."""
    node = searcher.node
    assert node.k is not None
    found: list[_Found] = []
    waiting = np.arange(len(queries))
    depth = 4 * node.group_size * node.k
    while len(waiting):
        depth = min(depth, searcher.total)
        block = take_queries(queries, waiting)
        keys = None if own_keys is None else take_column(own_keys, waiting)
        top = searcher.top(block, depth, node.high).hits()
        seen_all = (np.diff(top.offsets) < depth) | (depth == searcher.total)
        hits = _in_range(searcher, top, keys)
        if node.high is not None:
            seen_all |= np.diff(hits.offsets) < np.diff(top.offsets) - (keys is not None)
        codes = groups.of(hits)
        keep = first_groups(hits, codes, node.k, node.group_size)
        known = seen_all | _has_groups(hits, codes, node.k)
        keep &= known[hits.query]
        query = hits.query[keep]
        found.append(
            _Found(
                waiting[query], codes[keep], hits.part[keep], hits.row[keep], hits.distance[keep],
                seen_all[query],
            )
        )  # fmt: skip
        waiting = waiting[~known]
        depth *= 8
    return _filled(searcher, groups, queries, own_keys, found)


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """Hits of queries that know their groups, not all of which are full; one entry per hit."""

    query: IntArray
    code: IntArray
    part: IntArray
    row: IntArray
    distance: NDArray[np.float32]
    complete: NDArray[np.bool_]  # the query has seen every row in range

    def where(self, keep: NDArray[np.bool_]) -> "_Found":
        """Return the hits whose bit is set."""
        return _Found(*(getattr(self, name)[keep] for name in self.__slots__))

    @classmethod
    def concat(cls, parts: Sequence["_Found"]) -> "_Found":
        """Return all hits."""
        return cls(*(np.concatenate([getattr(p, n) for p in parts]) for n in cls.__slots__))


def _filled(
    searcher: Searcher,
    groups: Groups,
    queries: Queries,
    own_keys: pa.Array | None,
    found: Sequence[_Found],
) -> Hits:
    """Search the groups of which a query has too few rows for themselves, each once."""
    node = searcher.node
    hits = _Found.concat(found)
    width = len(groups.counts)
    pair = hits.query * width + hits.code
    unique, inverse, counts = np.unique(pair, return_inverse=True, return_counts=True)
    enough = counts >= np.minimum(groups.counts[unique % width], node.group_size)
    full = enough[inverse.ravel()] | hits.complete
    short = unique[np.bincount(inverse.ravel(), weights=~full, minlength=len(unique)) > 0]
    parts = [hits.where(full)]
    for group in np.unique(short % width):
        whose = short[short % width == group] // width
        keys = None if own_keys is None else take_column(own_keys, whose)
        more = _one_group(searcher, groups, int(group), take_queries(queries, whose), keys)
        more = more.nearest(node.group_size)
        parts.append(
            _Found(
                whose[more.query], np.full(len(more), group), more.part, more.row, more.distance,
                np.ones(len(more), bool),
            )
        )  # fmt: skip
    every = _Found.concat(parts)
    rank = searcher.ranks(every.part, every.row)
    return sort_hits(every.query, every.part, every.row, every.distance, rank, len(queries))


def some_groups(
    searcher: Searcher,
    groups: Groups,
    pairs: tuple[IntArray, IntArray],
    queries: Queries,
    own_keys: pa.Array | None,
) -> Hits:
    """Return the nearest `group_size` rows of some groups.

    Args:
        searcher: what is searched.
        groups: its rows are in.
        pairs: which query, and which group: the answer has hits for each of them.
        queries: as `VectorIndex.search` takes them.
        own_keys: see `Searcher.hits`.
    """
    query, code = pairs
    size = searcher.node.group_size
    found = []
    for group in np.unique(code):
        if not groups.counts[group]:
            continue
        which = np.flatnonzero(code == group)
        keys = None if own_keys is None else take_column(own_keys, query[which])
        few = take_queries(queries, query[which])
        more = _one_group(searcher, groups, int(group), few, keys).nearest(size)
        found.append((which[more.query], more))
    if not found:
        return Hits.empty(len(query))
    part, row = (np.concatenate([getattr(h, name) for _, h in found]) for name in ("part", "row"))
    distance = np.concatenate([hits.distance for _, hits in found])
    pair = np.concatenate([which for which, _ in found])
    return sort_hits(pair, part, row, distance, searcher.ranks(part, row), len(query))


def _one_group(
    searcher: Searcher, groups: Groups, group: int, queries: Queries, own_keys: pa.Array | None
) -> Hits:
    """Return the nearest rows of one group."""
    masks: list[NDArray[np.bool_] | None] = []
    for target, codes in zip(searcher.targets, groups.codes, strict=True):
        here = codes == group
        masks.append(here if target.keep is None else here & target.keep)
    size = searcher.node.group_size + (own_keys is not None)
    top = searcher.top(queries, size, searcher.node.high, masks)
    return _in_range(searcher, top.hits(), own_keys)


def first_groups(hits: Hits, codes: IntArray, k: int | None, size: int) -> NDArray[np.bool_]:
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


def _has_groups(hits: Hits, codes: IntArray, k: int) -> NDArray[np.bool_]:
    """Tell which queries have met k groups."""
    width = int(codes.max(initial=0)) + 1
    pairs = np.unique(hits.query * width + codes)
    met: NDArray[np.bool_] = np.bincount(pairs // width, minlength=hits.num_queries) >= k
    return met
