"""Rows of this process among those that are searched; what a search question asks of a searcher."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.query import questions as q
from gpuvec.query.groups import grouped_hits, groups_with, make_groups, some_groups
from gpuvec.query.part import Column, Part, concat_columns, gather, take_column
from gpuvec.query.reduce import Hits, IntArray
from gpuvec.query.search import Searcher

_MOST_JOINED_BYTES = 1 << 30
_SMALL_BYTES = 4096


def found_by(searcher: Searcher, question: q.SearchRows) -> q.RowsFound:
    """Return the answer to a search; `Hits.part` and the answer's segments are those of targets."""
    find = _HITS[type(question)]
    hits = searcher.ask(question.queries, lambda queries: find(searcher, question, queries))
    rows = searcher.found(hits)
    key, there = searcher.node.input.columns.primary_key, bool(len(hits))
    keys = joined([rows.column(str(key))]) if question.with_keys and there else None
    groups = None if question.group is None or not there else rows.column(question.group)
    return q.RowsFound(segments=(), growing=(), hits=hits, keys=keys, groups=groups)


def joined(columns: Sequence[Column]) -> Column:
    """Return columns one after the other, in memory, none of them a file's or another's slice."""
    whole = concat_columns(columns)
    if not isinstance(whole, pa.Array | pa.ChunkedArray):
        return whole.loaded()
    if isinstance(whole, pa.ChunkedArray) and whole.nbytes < _MOST_JOINED_BYTES:
        whole = whole.combine_chunks()
    if whole.get_total_buffer_size() > 2 * whole.nbytes + _SMALL_BYTES:  # it would travel whole
        return take_column(whole, np.arange(len(whole)))
    return whole


class LocalBranch:
    """Parts that this process reads; see `remote_search.Branch`."""

    def __init__(self, searcher: Searcher) -> None:
        self._searcher = searcher

    @property
    def total(self) -> int:
        """See `Branch.total`."""
        return self._searcher.total

    def ask(self, question: q.SearchRows) -> list[tuple[q.RowsFound, IntArray]]:
        """See `Branch.ask`."""
        found = found_by(self._searcher, question)
        return [(found, found.hits.part)]

    def rows(self, piece: IntArray, row: IntArray, keys: Any) -> Part:
        """See `Branch.rows`."""
        return gather([target.base for target in self._searcher.targets], piece, row)

    def starts(self) -> IntArray:
        """See `Branch.starts`."""
        return np.array([target.start for target in self._searcher.targets], np.int64)

    def ordered(self, piece: IntArray) -> IntArray:
        """See `Branch.ordered`."""
        return piece


def _rows(searcher: Searcher, question: q.SearchRows, queries: Any) -> Hits:
    return searcher.hits(queries, question.own_keys, question.k)


def _groups(searcher: Searcher, question: q.SearchGroups, queries: Any) -> Hits:
    if not searcher.total:
        return Hits.empty(len(queries))
    groups = make_groups(searcher, str(question.group))
    return grouped_hits(searcher, groups, queries, question.own_keys)


def _more_of_groups(searcher: Searcher, question: q.FillGroups, queries: Any) -> Hits:
    if not searcher.total:
        return Hits.empty(len(question.pair_query))
    groups, values = groups_with(searcher, str(question.group), question.values)
    pairs = (question.pair_query, values[question.pair_group])
    return some_groups(searcher, groups, pairs, queries, question.own_keys)


_HITS: dict[type[q.SearchRows], Callable[[Searcher, Any, Any], Hits]] = {
    q.SearchRows: _rows,
    q.SearchGroups: _groups,
    q.FillGroups: _more_of_groups,
}
