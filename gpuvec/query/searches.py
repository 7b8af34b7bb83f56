"""A search node at work: tiles of queries against all parts, each tile's answer as one part."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Protocol, TypeVar

import numpy as np
import pyarrow as pa

from gpuvec import telemetry
from gpuvec.index.admission import check_search_memory
from gpuvec.index.base import Queries
from gpuvec.query.batch import (
    HIT_BYTES,
    HIT_COPIES,
    Tile,
    array_blocks,
    frame_blocks,
    tile_size,
    tiles,
)
from gpuvec.query.branch import LocalBranch
from gpuvec.query.estimate import row_bytes
from gpuvec.query.groups import grouped_hits, make_groups
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import Column, Part, arrow_numbers, take_column
from gpuvec.query.plan import QueryArray, Search
from gpuvec.query.reduce import Hits, IntArray
from gpuvec.query.remote_parts import FragmentRead
from gpuvec.query.remote_search import Branch, RemoteBranch, SpreadSearcher
from gpuvec.query.search import Searcher
from gpuvec.query.session import Session
from gpuvec.query.target import make_targets

DEVICE_SHARE = 8  # of device memory, for a tile's queries and hits
FIRST_DEPTH = 4096  # of an endless search; eight times as deep each time more is read

T = TypeVar("T")
Grouped = Callable[[Queries, pa.Array | None], Hits]  # queries and their own keys to hits


class Answering(Protocol):
    """What finds the nearest rows of one search; `Searcher` is one."""

    @property
    def node(self) -> Search:
        """The search."""

    @property
    def session(self) -> Session:
        """Where it runs."""

    @property
    def total(self) -> int:
        """Rows that may be found, at most."""

    def ask(self, vectors: Queries, work: Callable[[Queries], T]) -> T:
        """See `Searcher.ask`."""

    def hits(self, queries: Queries, own_keys: pa.Array | None, k: int | None) -> Hits:
        """See `Searcher.hits`."""

    def places(self, hits: Hits) -> IntArray:
        """See `Searcher.places`; of the hits asked for last."""

    def found(self, hits: Hits) -> Part:
        """Return hits as rows; of those asked for last."""


def run_search(
    node: Search,
    parts: Sequence[Part],
    query_parts: Callable[[], Iterator[Part]],
    session: Session,
    metrics: Measurements,
) -> Iterator[Part]:
    """Yield the answers, in query order.

    Args:
        node: what to search.
        parts: the rows of its input.
        query_parts: gives the rows of the query frame.
        session: memory, threads and caches.
        metrics: where counts go.
    """
    searcher = Searcher(node, make_targets(parts, node, session), session, metrics)
    metrics.rows_passed += searcher.total
    metrics.note_search()
    grouped: Grouped | None = None
    if node.group_by is not None and searcher.total:
        grouped = partial(grouped_hits, searcher, make_groups(searcher, node.group_by))
    yield from _answers(searcher, grouped, query_parts, metrics)


def run_spread_search(
    node: Search,
    frames: Sequence[FragmentRead | Sequence[Part]],
    query_parts: Callable[[], Iterator[Part]],
    session: Session,
    metrics: Measurements,
) -> Iterator[Part]:
    """Yield the answers, in query order, some rows being at nodes; see `run_search`.

    Args:
        node: what to search.
        frames: whose rows, one after the other, are those of its input.
        query_parts: see `run_search`.
        session: see `run_search`.
        metrics: see `run_search`.
    """
    found: list[Branch] = []
    for rows in frames:
        if isinstance(rows, FragmentRead):
            found.append(RemoteBranch(rows))
            continue
        local = Searcher(node, make_targets(rows, node, session), session, metrics)
        metrics.rows_passed += local.total
        found.append(LocalBranch(local))
    metrics.note_search()
    searcher = SpreadSearcher(node, found, session)
    grouped = None if node.group_by is None else searcher.grouped
    yield from _answers(searcher, grouped, query_parts, metrics)


def _answers(
    searcher: Answering,
    grouped: Grouped | None,
    query_parts: Callable[[], Iterator[Part]],
    metrics: Measurements,
) -> Iterator[Part]:
    for number, tile in enumerate(_tiles(searcher, query_parts)):
        metrics.queries += len(tile)
        if number:
            telemetry.TILE_SPLITS.add(1, "queries")
        yield from _answer(searcher, grouped, tile, metrics)


def _tiles(searcher: Answering, query_parts: Callable[[], Iterator[Part]]) -> Iterator[Tile]:
    node = searcher.node
    _check_hits(searcher)
    if isinstance(node.queries, QueryArray):
        blocks = array_blocks(node.queries)
        if len(node.queries) == 1:
            return blocks
    else:
        blocks = frame_blocks(node.queries, query_parts(), with_keys=node.exclude_self)
    k = None if node.k is None else node.k * node.group_size
    session, kind = searcher.session, node.input.columns.fields[node.field]
    store = session.device_store
    size = tile_size(
        k, row_bytes(node.columns), searcher.total, session.memory_limit,
        device_limit=None if store is None else store.budget.limit_bytes // DEVICE_SHARE,
        query_bytes=4 * getattr(kind, "dim", 0),
    )  # fmt: skip
    return tiles(blocks, size)


def _check_hits(searcher: Answering) -> None:
    """Refuse a search whose memory does not hold what one query finds."""
    node = searcher.node
    found = 1 if node.k is None else min(node.k * node.group_size, max(1, searcher.total))
    parts = {
        "hits of a query": found * HIT_BYTES * HIT_COPIES,
        "their rows": found * row_bytes(node.columns),
    }
    check_search_memory("a search", parts, searcher.session.memory_limit)


def _answer(
    searcher: Answering, grouped: Grouped | None, tile: Tile, metrics: Measurements
) -> Iterator[Part]:
    node = searcher.node
    if grouped is None and node.k is None and node.high is None:
        yield from _endless(searcher, tile)
        return

    def find(queries: Queries) -> Hits:
        if grouped is None:
            return searcher.hits(queries, tile.keys, node.k)
        return grouped(queries, tile.keys)

    with metrics.stage("search"):
        hits = searcher.ask(tile.vectors, find)
    if len(hits):
        yield output_part(searcher, tile, hits)


def _endless(searcher: Answering, tile: Tile) -> Iterator[Part]:
    """Yield all rows in order of distance, query by query, searching deeper only when read on."""
    for number in range(len(tile)):
        one = tile.slice(number, number + 1)
        seen, depth = 0, FIRST_DEPTH
        while seen < searcher.total:
            depth = min(depth, searcher.total + 1)
            hits = searcher.ask(one.vectors, partial(searcher.hits, own_keys=one.keys, k=depth))
            if len(hits) <= seen:
                break
            fresh = hits.where(np.arange(len(hits)) >= seen)
            yield output_part(searcher, one, fresh, before=seen)
            seen, depth = len(hits), depth * 8


def output_part(searcher: Answering, tile: Tile, hits: Hits, *, before: int = 0) -> Part:
    """Return hits as rows: `query_id, rank, primary key, distance`, then the other fields.

    Args:
        searcher: whose hits they are.
        tile: the queries.
        hits: their answers.
        before: hits of the only query that went before these.
    """
    renamed = searcher.node.renamed
    found = searcher.found(hits)
    own: dict[str | None, Callable[[], Column]] = {
        "query_id": lambda: take_column(tile.ids, hits.query),
        "rank": lambda: arrow_numbers((hits.rank + (before + 1)).astype(np.int32)),
        "distance": lambda: arrow_numbers(hits.distance),
        searcher.node.place: lambda: arrow_numbers(searcher.places(hits)),
    }

    def read(name: str) -> Column:
        return own[name]() if name in own else found.column(renamed.get(name, name))

    def batch(names: Sequence[str]) -> pa.RecordBatch | None:
        taken = found.batch and found.batch(stored(names))
        if taken is None:
            return None
        columns = dict(zip(taken.schema.names, taken.columns, strict=True))
        columns = {name: columns.get(renamed.get(name, name)) for name in names}
        columns |= {name: own[name]() for name in names if name in own}
        given = {name: column for name, column in columns.items() if column is not None}
        return pa.RecordBatch.from_arrays(list(given.values()), names=list(given))

    def stored(names: Sequence[str]) -> list[str]:
        return [renamed.get(name, name) for name in names if name not in own]

    return Part(len(hits), read, lambda names: found.prepare(stored(names)), batch=batch)
