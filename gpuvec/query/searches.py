"""A search node at work: tiles of queries against all parts, each tile's answer as one part."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec import telemetry
from gpuvec.query.batch import Tile, array_blocks, frame_blocks, tile_size, tiles
from gpuvec.query.estimate import row_bytes
from gpuvec.query.groups import Groups, grouped_hits, make_groups
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import Column, Part, arrow_numbers, gather, take_column
from gpuvec.query.plan import QueryArray, Search
from gpuvec.query.reduce import Hits
from gpuvec.query.search import Searcher
from gpuvec.query.session import Session
from gpuvec.query.target import make_targets

FIRST_DEPTH = 4096  # of an endless search; eight times as deep each time more is read


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
    groups = None
    if node.group_by is not None and searcher.total:
        groups = make_groups(searcher, node.group_by)
    for number, tile in enumerate(_tiles(searcher, query_parts)):
        metrics.queries += len(tile)
        if number:
            telemetry.TILE_SPLITS.add()
        yield from _answer(searcher, groups, tile, metrics)


def _tiles(searcher: Searcher, query_parts: Callable[[], Iterator[Part]]) -> Iterator[Tile]:
    node = searcher.node
    if isinstance(node.queries, QueryArray):
        blocks = array_blocks(node.queries)
        if len(node.queries) == 1:
            return blocks
    else:
        blocks = frame_blocks(node.queries, query_parts(), with_keys=node.exclude_self)
    k = None if node.k is None else node.k * node.group_size
    limit = searcher.session.memory_limit
    size = tile_size(k, row_bytes(node.columns), searcher.total, limit)
    return tiles(blocks, size)


def _answer(
    searcher: Searcher, groups: Groups | None, tile: Tile, metrics: Measurements
) -> Iterator[Part]:
    node = searcher.node
    if groups is None and node.k is None and node.high is None:
        yield from _endless(searcher, tile)
        return
    queries: Any = searcher.queries(tile.vectors)
    with metrics.stage("search"):
        if groups is None:
            hits = searcher.hits(queries, tile.keys, node.k)
        else:
            hits = grouped_hits(searcher, groups, queries, tile.keys)
    if len(hits):
        yield output_part(searcher, tile, hits)


def _endless(searcher: Searcher, tile: Tile) -> Iterator[Part]:
    """Yield all rows in order of distance, query by query, searching deeper only when read on."""
    for number in range(len(tile)):
        one = tile.slice(number, number + 1)
        query = searcher.queries(one.vectors)
        seen, depth = 0, FIRST_DEPTH
        while seen < searcher.total:
            depth = min(depth, searcher.total + 1)
            hits = searcher.hits(query, one.keys, depth)
            if len(hits) <= seen:
                break
            fresh = hits.where(np.arange(len(hits)) >= seen)
            yield output_part(searcher, one, fresh, before=seen)
            seen, depth = len(hits), depth * 8


def output_part(searcher: Searcher, tile: Tile, hits: Hits, *, before: int = 0) -> Part:
    """Return hits as rows: `query_id, rank, primary key, distance`, then the other fields.

    Args:
        searcher: whose hits they are.
        tile: the queries.
        hits: their answers.
        before: hits of the only query that went before these.
    """
    renamed = searcher.node.renamed
    found = gather([target.base for target in searcher.targets], hits.part, hits.row)
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
