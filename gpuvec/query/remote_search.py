"""A search whose rows lie at nodes: each finds the nearest of its own, and they are merged here.

The rows may be those of several frames, one after the other, some of them in this process. Ties are
broken as within one process: by primary key, or by place where there is none.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.index.base import Queries
from gpuvec.kernels.neighbors import Neighbors, RangeNeighbors
from gpuvec.query import questions as q
from gpuvec.query.batch import host_queries
from gpuvec.query.codes import row_codes
from gpuvec.query.fragment import NO_FRAGMENT, pack_search
from gpuvec.query.groups import first_groups
from gpuvec.query.part import Column, Part, concat_columns, gather, numpy_numbers, take_column
from gpuvec.query.plan import Search
from gpuvec.query.reduce import Hits, IntArray, TopK, add_neighbors, merge_ranges, sort_hits
from gpuvec.query.remote_parts import FragmentRead, named
from gpuvec.query.session import Session
from gpuvec.query.target import text_ranks
from gpuvec.types import SegmentId

T = TypeVar("T")


@dataclass(frozen=True, slots=True, eq=False)
class Placed:
    """Hits of several branches side by side.

    Attributes:
        branch: (n,) which branch each is of.
        piece: (n,) which of the branch's pieces.
        row: (n,) its number there.
        keys: (n,) primary keys; None: there are none.
        groups: (n,) values of the group column; None: there is none.
    """

    branch: IntArray
    piece: IntArray
    row: IntArray
    keys: Any
    groups: Column

    def __len__(self) -> int:
        return len(self.row)


class Branch(Protocol):
    """Rows of one frame that is searched."""

    @property
    def total(self) -> int:
        """Rows that can be found, at most."""

    def ask(self, question: q.SearchRows) -> list[tuple[q.RowsFound, IntArray]]:
        """Return what was found, and the number of the piece of each hit."""

    def rows(self, piece: IntArray, row: IntArray, keys: Any) -> Part:
        """Return hits as rows; `keys` are their primary keys, where these are known."""

    def starts(self) -> IntArray:
        """Return, by piece, how many rows of the frame come before it, hidden ones too."""

    def ordered(self, piece: IntArray) -> IntArray:
        """Return the place of pieces among those of the branch."""


class RemoteBranch:
    """The rows of a fragment that nodes serve; see `Branch`."""

    def __init__(self, read: FragmentRead) -> None:
        self._read = read
        self._numbers: dict[SegmentId, int] = {}
        self._pieces: list[q.Piece] = []

    @property
    def total(self) -> int:
        """See `Branch.total`."""
        return self._read.most_rows

    def ask(self, question: q.SearchRows) -> list[tuple[q.RowsFound, IntArray]]:
        """See `Branch.ask`."""
        own = replace(question, fragment=self._read.fragment)
        queries = len(question.queries)
        return [(found, self._numbered(found)) for found in self._read.ask(own, queries=queries)]

    def _numbered(self, found: q.RowsFound) -> IntArray:
        for piece in named(found.segments, found.growing):
            if piece.segment_id not in self._numbers:
                self._numbers[piece.segment_id] = len(self._pieces)
                self._pieces.append(piece)
        numbers = [self._numbers[segment] for segment in found.segments]
        return np.array(numbers, np.int64)[found.hits.part]

    def rows(self, piece: IntArray, row: IntArray, keys: Any) -> Part:
        """See `Branch.rows`."""
        key = self._read.columns.primary_key
        given = {} if keys is None or key is None else {key: keys}
        return self._read.picked(self._pieces, piece, row, given=given)

    def starts(self) -> IntArray:
        """See `Branch.starts`."""
        pieces = self._read.pieces()
        before = np.cumsum([0, *(piece.num_rows for piece in pieces)])
        found = {piece.segment_id: start for piece, start in zip(pieces, before, strict=False)}
        return np.array([found[piece.segment_id] for piece in self._pieces], np.int64)

    def ordered(self, piece: IntArray) -> IntArray:
        """See `Branch.ordered`."""
        order = np.argsort(np.argsort(self.starts(), kind="stable"), kind="stable")
        found: IntArray = order[piece]
        return found


class SpreadSearcher:
    """Answers tiles of queries over rows of nodes and of this process; see `Searcher`."""

    def __init__(self, node: Search, branches: Sequence[Branch], session: Session) -> None:
        self.node = node
        self.session = session
        self._branches = branches
        self._search = pack_search(node)
        self._placed: Placed | None = None

    @property
    def total(self) -> int:
        """Rows that may be found, at most; of the newest plan, before the first answer a guess."""
        return sum(branch.total for branch in self._branches)

    def ask(self, vectors: Queries, work: Callable[[Queries], T]) -> T:
        """See `Searcher.ask`; the queries are on the host."""
        return work(host_queries(vectors, self.node.input.columns.fields[self.node.field]))

    def hits(self, queries: Queries, own_keys: pa.Array | None, k: int | None) -> Hits:
        """See `Searcher.hits`. `Hits.row` counts what `found` and `places` know, of these hits."""
        answers = self._ask(q.SearchRows, queries, own_keys, k)
        placed = self._placed = self._place(answers)
        return self._merged([found.hits for _, found, _ in answers], placed, len(queries), k)

    def grouped(self, queries: Queries, own_keys: pa.Array | None) -> Hits:
        """Return, per query, `group_size` rows of each of the k nearest groups."""
        node = self.node
        whole = node.k is None or node.low is not None
        kind = q.SearchRows if whole else q.SearchGroups
        answers = self._ask(kind, queries, own_keys, None, group=node.group_by)
        placed = self._placed = self._place(answers)
        hits = self._merged([found.hits for _, found, _ in answers], placed, len(queries), None)
        if not len(hits):
            return hits
        codes = row_codes([placed.groups], [str(node.group_by)])
        hits = hits.where(first_groups(hits, codes[hits.row], node.k, node.group_size))
        if whole or node.group_size == 1 or len(answers) == 1:
            return hits
        return self._filled(hits, codes, queries, own_keys)

    def _filled(
        self, hits: Hits, codes: IntArray, queries: Queries, own_keys: pa.Array | None
    ) -> Hits:
        """Return the nearest rows of the groups that hits are in, of all that there are."""
        assert self._placed is not None
        width = int(codes.max()) + 1
        pairs, first = np.unique(hits.query * width + codes[hits.row], return_index=True)
        _, at, number = np.unique(pairs % width, return_index=True, return_inverse=True)
        pair_query = pairs // width
        answers = self._ask(
            q.FillGroups, queries, own_keys, self.node.k, group=self.node.group_by,
            values=take_column(self._placed.groups, hits.row[first[at]]),
            pair_query=pair_query, pair_group=number.ravel(),
        )  # fmt: skip
        placed = self._placed = self._place(answers)
        every = self._merged([f.hits for _, f, _ in answers], placed, len(pairs), None)
        every = every.nearest(self.node.group_size)
        query, row = pair_query[every.query], every.row
        rank = self._ranks(placed)(np.zeros(len(row), np.int64), row)
        return sort_hits(query, every.part, row, every.distance, rank, len(queries))

    def found(self, hits: Hits) -> Part:
        """Return the hits that were asked for last as rows."""
        placed = self._placed
        assert placed is not None
        parts: list[Part] = []
        which, place = np.empty(len(hits), np.int64), np.empty(len(hits), np.int64)
        for number, branch in enumerate(self._branches):
            here = np.flatnonzero(placed.branch[hits.row] == number)
            if not len(here):
                continue
            rows = hits.row[here]
            keys = None if placed.keys is None else take_column(placed.keys, rows)
            which[here], place[here] = len(parts), np.arange(len(here))
            parts.append(branch.rows(placed.piece[rows], placed.row[rows], keys))
        if len(parts) == 1:
            return parts[0]
        return gather(parts, which, place)

    def places(self, hits: Hits) -> IntArray:
        """See `Searcher.places`."""
        placed = self._placed
        assert placed is not None
        found = placed.row[hits.row].copy()
        for number, branch in enumerate(self._branches):
            here = placed.branch[hits.row] == number
            if here.any():
                found[here] += branch.starts()[placed.piece[hits.row[here]]]
        return found

    def _ask(
        self, kind: type[q.SearchRows], queries: Queries, own_keys: Any, k: int | None, **more: Any
    ) -> list[tuple[int, q.RowsFound, IntArray]]:
        question = kind(
            fragment=NO_FRAGMENT, search=self._search, queries=queries, own_keys=own_keys, k=k,
            with_keys=self.node.input.columns.primary_key is not None, **more,
        )  # fmt: skip
        answers = [
            (number, found, piece)
            for number, branch in enumerate(self._branches)
            for found, piece in branch.ask(question)
        ]
        return [answer for answer in answers if len(answer[1].hits)]

    def _place(self, answers: Sequence[tuple[int, q.RowsFound, IntArray]]) -> Placed:
        founds = [found for _, found, _ in answers]
        numbers = [np.full(len(f.hits), n, np.int64) for n, f, _ in answers]
        with_keys = founds and self.node.input.columns.primary_key is not None
        with_groups = founds and founds[0].groups is not None
        return Placed(
            _joined(numbers),
            _joined([piece for _, _, piece in answers]),
            _joined([found.hits.row for found in founds]),
            concat_columns([found.keys for found in founds]) if with_keys else None,
            concat_columns([found.groups for found in founds]) if with_groups else None,
        )

    def _merged(
        self, found: Sequence[Hits], placed: Placed, num_queries: int, k: int | None
    ) -> Hits:
        """Return the hits of all answers as one; `Hits.row` counts those of `placed`."""
        starts = np.cumsum([0, *map(len, found)])
        rows = [
            np.arange(start, start + len(hits)) for hits, start in zip(found, starts, strict=False)
        ]
        ranks = self._ranks(placed)
        if k is None:
            ranges = [
                (0, RangeNeighbors(hits.offsets, row, hits.distance))
                for hits, row in zip(found, rows, strict=True)
            ]
            return merge_ranges(ranges, num_queries, ranks)
        best: TopK | None = None
        for hits, row in zip(found, rows, strict=True):
            near = _padded(hits, row)
            best = add_neighbors(best, near, np.zeros(near.rows.shape, np.int64), k, ranks)
        return Hits.empty(num_queries) if best is None else best.hits()

    def _ranks(self, placed: Placed) -> Any:
        def ranks(_: IntArray, row: IntArray) -> IntArray:
            if placed.keys is None:
                return self._order(placed, row)
            keys = take_column(placed.keys, row)
            if pa.types.is_integer(keys.type):
                return numpy_numbers(keys).astype(np.int64, copy=False)
            return text_ranks(keys)

        return ranks

    def _order(self, placed: Placed, row: IntArray) -> IntArray:
        """Return (n,) int64 that orders hits by place."""
        number = np.empty(len(row), np.int64)
        before = 0
        for place, branch in enumerate(self._branches):
            here = placed.branch[row] == place
            if here.any():
                number[here] = before + branch.ordered(placed.piece[row[here]])
            before += 1 << 20
        found: IntArray = number * (1 << 40) + placed.row[row]
        return found


def _padded(hits: Hits, rows: IntArray) -> Neighbors:
    """Return ragged hits as a matrix; row -1 at +inf where there are no more."""
    counts = np.diff(hits.offsets)
    width = int(counts.max(initial=0))
    if (counts == width).all():
        shape = (hits.num_queries, width)
        return Neighbors(rows.reshape(shape), hits.distance.reshape(shape))
    found = np.full((hits.num_queries, width), -1, np.int64)
    distances: NDArray[np.float32] = np.full(found.shape, np.inf, np.float32)
    there = np.arange(width) < counts[:, None]
    found[there], distances[there] = rows, hits.distance
    return Neighbors(found, distances)


def _joined(arrays: Sequence[IntArray]) -> IntArray:
    return np.concatenate([np.empty(0, np.int64), *arrays])
