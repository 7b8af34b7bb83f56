"""Cuts a plan into blocks that are answered one by one, and together give the rows of the whole.

A plan can be cut where every row of its answer comes from one row of one input, its *driver*: the
queries of a search, or the rows of a scan that only filters and columns stand above. Blocks are
positions among the driver's rows; of a collection, whose rows may be laid out anew between two
blocks, ranges of the primary key. The blocks' answers in order are the plan's answer; for a
collection as driver in the order of its keys.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.expr.bind import bind_filter
from gpuvec.expr.tree import Expr, col, combine
from gpuvec.query import plan as p
from gpuvec.query.collect import count_rows, stream_rows
from gpuvec.query.optimize import source_scans
from gpuvec.query.plan import Plan
from gpuvec.query.session import Session

_ROWWISE = (p.Filter, p.Project, p.WithColumns)


@dataclass(frozen=True, slots=True, kw_only=True)
class Block:
    """A share of a driver's rows.

    Attributes:
        start, stop: positions; of a range of keys the first key and that after the last, None at
            the ends.
        by_key: which of both.
        first: the number of the first query, where queries are named by their numbers.
    """

    start: Any
    stop: Any
    by_key: bool = False
    first: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Driver:
    """Where a plan can be cut.

    Attributes:
        rows: the plan that is cut: a scan, or all queries of a search; None: vectors in memory.
        count: of the vectors in memory.
        key: the primary key by whose ranges a collection is cut.
        numbered: whether queries are named by their numbers, and fewer than the driver's rows may
            be queries, so that the first of a block is to be counted.
    """

    rows: Plan | None
    count: int = 0
    key: str | None = None
    numbered: bool = False


def driver_of(node: Plan, is_collection: Callable[[p.Source], bool]) -> Driver | None:
    """Return where a plan can be cut; None: nowhere.

    Args:
        node: the plan.
        is_collection: tells collections from sources whose rows keep their places.
    """
    if isinstance(node, p.Group | p.GroupHead):
        search = _below(node.input)
        within = isinstance(search, p.Search) and "query_id" in node.keys
        if not within or not _own_ids(search, is_collection):  # type: ignore[arg-type]
            return None
        return driver_of(node.input, is_collection)
    if isinstance(node, p.Search):
        return _of_queries(node, is_collection)
    if isinstance(node, _ROWWISE):
        return driver_of(node.input, is_collection)
    return _of_scan(node, is_collection) if isinstance(node, p.Scan) else None


def _of_queries(node: p.Search, is_collection: Callable[[p.Source], bool]) -> Driver | None:
    if isinstance(node.queries, p.QueryArray):
        return Driver(rows=None, count=len(node.queries))
    queries = node.queries
    scan = _below(queries.plan)
    if not isinstance(scan, p.Scan):
        moving = any(map(is_collection, source_scans(scan).values()))
        return None if moving and not isinstance(scan, p.Get) else Driver(rows=queries.plan)
    if is_collection(scan.source):
        if queries.query_id is None:
            return None  # numbered by a place that the next compaction changes
        return _of_scan(scan, is_collection)
    numbered = queries.query_id is None and _is_filtered(queries.plan)
    return Driver(rows=scan, numbered=numbered)


def _of_scan(node: p.Scan, is_collection: Callable[[p.Source], bool]) -> Driver:
    return Driver(rows=node, key=node.columns.primary_key if is_collection(node.source) else None)


def _below(node: Plan) -> Plan:
    while isinstance(node, _ROWWISE):
        node = node.input
    return node


def _is_filtered(node: Plan) -> bool:
    return isinstance(node, p.Filter) or (
        isinstance(node, _ROWWISE) and any(map(_is_filtered, node.inputs))
    )


def _own_ids(node: p.Search, is_collection: Callable[[p.Source], bool]) -> bool:
    """Return whether each query has a name of its own, so that no group spans two blocks."""
    if isinstance(node.queries, p.QueryArray) or node.queries.query_id is None:
        return True
    scan = _below(node.queries.plan)
    keyed = isinstance(scan, p.Scan) and is_collection(scan.source)
    return keyed and node.queries.query_id == node.queries.key


def cut(node: Plan, block: Block) -> Plan:
    """Return the plan of one block's rows; `driver_of` has told that it can be cut."""
    if isinstance(node, p.Scan):
        return _cut_scan(node, block)
    if isinstance(node, p.Search):
        return replace(node, queries=_cut_queries(node.queries, block))
    return replace(node, input=cut(node.input, block))  # type: ignore[attr-defined,call-arg]


def _cut_queries(queries: p.QueryArray | p.QueryFrame, block: Block) -> p.QueryArray | p.QueryFrame:
    if isinstance(queries, p.QueryArray):
        vectors = queries.vectors.slice(block.start, block.stop)
        return replace(queries, vectors=vectors, first=queries.first + block.start)
    inner, first = queries.plan, queries.first + block.first
    if isinstance(_below(inner), p.Scan):
        return replace(queries, plan=cut(inner, block), first=first)
    return replace(queries, plan=_sliced(inner, block), first=first)


def _cut_scan(node: p.Scan, block: Block) -> Plan:
    if not block.by_key:
        return _sliced(node, block)
    key = col(str(node.columns.primary_key))
    ends: list[Expr] = [] if block.start is None else [key >= block.start]
    ends += [] if block.stop is None else [key < block.stop]
    if not ends:
        return node
    both = ends[0] if len(ends) == 1 else combine("and", *ends)
    return p.Filter(
        columns=node.columns, input=node, predicate=bind_filter(both, node.columns.named)
    )


def _sliced(node: Plan, block: Block) -> p.Slice:
    return p.Slice(columns=node.columns, input=node, start=block.start, stop=block.stop)


def driver_rows(driver: Driver, session: Session) -> int:
    """Return how many rows a driver has; of files it reads what their ends tell."""
    return driver.count if driver.rows is None else count_rows(driver.rows, session)


def key_bounds(driver: Driver, session: Session, size: int) -> list[Any]:
    """Return the keys at which a collection is cut into ranges of `size` rows, rising.

    Cost: all keys are read and sorted.
    """
    assert driver.rows is not None
    assert driver.key is not None
    names = p.Columns({driver.key: driver.rows.columns.fields[driver.key]}, driver.key)
    only = p.Project(columns=names, input=driver.rows)
    parts = [rows.table.column(driver.key) for rows in stream_rows(only, session, None)]
    if not parts:
        return []
    keys = pa.chunked_array([chunk for part in parts for chunk in part.chunks])
    order = pc.sort_indices(keys)
    places = np.arange(size, len(keys), size)
    found: list[Any] = keys.take(order.take(pa.array(places))).to_pylist()
    return found


def first_numbers(node: Plan, blocks: Sequence[Block], session: Session) -> list[int]:
    """Return how many queries come before each block, by counting those of the blocks."""
    search = node
    while not isinstance(search, p.Search):
        search = search.input  # type: ignore[attr-defined]
    queries = search.queries
    assert isinstance(queries, p.QueryFrame)
    counts = [count_rows(cut(queries.plan, block), session) for block in blocks]
    return [0, *np.cumsum(counts)[:-1].tolist()]
