"""Recall, measured: a search against an independent exact answer on a sample of its queries.

Recall is the share of the true k nearest, among the rows the prefilter leaves, that were returned;
a row tied with the k-th counts. With a radius it is the share of true pairs, with groups the share
of true rows.
"""

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.errors import nothing_to_evaluate
from gpuvec.index.base import Queries
from gpuvec.index.curve import TIE, interval
from gpuvec.query import plan as p
from gpuvec.query.batch import Tile, array_blocks, frame_blocks, host_queries, take_queries, tiles
from gpuvec.query.build import whole_number
from gpuvec.query.codes import places_within
from gpuvec.query.execute import LocalRun, Run
from gpuvec.query.groups import Groups, grouped_hits, make_groups
from gpuvec.query.optimize import optimize
from gpuvec.query.reduce import Hits
from gpuvec.query.reference import Float64s, distances64
from gpuvec.query.search import Searcher
from gpuvec.query.session import Session
from gpuvec.query.target import make_targets
from gpuvec.rows import SparseVectors, VectorColumn
from gpuvec.types import Metric

BLOCK_BYTES = 256 << 20  # of the reference's distances
BLOCK_ROWS = 1 << 14


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """What a sample of queries showed.

    Attributes:
        recall: mean over the queries.
        ci95: its 95 % interval, of Wilson's kind with queries as trials.
        worst: the lowest of one query.
        queries_per_second: of the search alone, the sample as one batch, run a second time: the
            first opens indexes and checks them.
        per_query: `query_id`, `recall`, `found`, `wanted`, `last_distance`.
        target: the recall that was asked for, or that the indexes were made for; None: neither.
    """

    recall: float
    ci95: tuple[float, float]
    worst: float
    queries_per_second: float
    per_query: pa.Table
    target: float | None


def measure(node: p.Plan, session: Session, sample: int, seed: int) -> Measured:
    """Measure the topmost search of a plan.

    Raises:
        QueryError: `GV-362`, there is none.
    """
    size = whole_number("sample", sample, least=1)
    search = find_search(optimize(node))
    with LocalRun(session) as run:
        targets = make_targets(run.parts(search.input), search, session)
        searcher = Searcher(search, targets, session, run.metrics)
        tile = _draw(run, search, size, seed)
        groups = None
        if search.group_by is not None and searcher.total:
            groups = make_groups(searcher, search.group_by)
        _answer(searcher, groups, tile)
        start = time.perf_counter()
        hits = _answer(searcher, groups, tile)
        seconds = time.perf_counter() - start
        found, wanted = _compare(searcher, groups, tile, hits)
    recalls = np.divide(found, wanted, out=np.ones(len(tile)), where=wanted > 0)
    last = np.full(len(tile), np.nan, np.float32)
    full = np.diff(hits.offsets) > 0
    last[full] = hits.distance[hits.offsets[1:][full] - 1]
    table = pa.table(
        {
            "query_id": tile.ids,
            "recall": recalls,
            "found": found.astype(np.int64),
            "wanted": wanted.astype(np.int64),
            "last_distance": pa.array(last, mask=~full),
        }
    )
    mean = float(recalls.mean()) if len(recalls) else 1.0
    rate = len(tile) / seconds if seconds else math.inf
    worst = float(recalls.min(initial=1.0))
    return Measured(mean, interval(recalls), worst, rate, table, searcher.target_recall)


def find_search(node: p.Plan) -> p.Search:
    """Return the topmost search below a node."""
    while not isinstance(node, p.Search):
        if not node.inputs:
            raise nothing_to_evaluate()
        node = node.inputs[0]
    return node


def _draw(run: Run, search: p.Search, size: int, seed: int) -> Tile:
    if isinstance(search.queries, p.QueryArray):
        blocks = array_blocks(search.queries)
    else:
        parts = run.parts(search.queries.plan)
        blocks = frame_blocks(search.queries, parts, with_keys=search.exclude_self)
    every = list(tiles(blocks, 1 << 62))
    if not every:
        return Tile(np.empty((0, 1), np.float32), pa.array([], pa.int64()), None)
    whole = every[0]
    if len(whole) <= size:
        return whole
    rows = np.sort(np.random.default_rng(seed).choice(len(whole), size, replace=False))
    chosen = pa.array(rows)
    vectors = take_queries(whole.vectors, rows)
    keys = None if whole.keys is None else whole.keys.take(chosen)
    return Tile(vectors, whole.ids.take(chosen), keys)


def _answer(searcher: Searcher, groups: Groups | None, tile: Tile) -> Hits:
    if not len(tile):
        return Hits.empty(0)

    def find(queries: Queries) -> Hits:
        if groups is not None:
            return grouped_hits(searcher, groups, queries, tile.keys)
        return searcher.hits(queries, tile.keys, searcher.node.k)

    return searcher.ask(tile.vectors, find)


def _compare(
    searcher: Searcher, groups: Groups | None, tile: Tile, hits: Hits
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return, per query, how many true rows were found, and how many there are to find."""
    found, wanted = np.zeros(len(tile)), np.zeros(len(tile))
    codes = None if groups is None else np.concatenate(groups.codes)
    starts = np.cumsum([0, *(target.base.num_rows for target in searcher.targets)])
    place = starts[hits.part] + hits.row if len(hits) else hits.row
    for start, block in _truth(searcher, tile):
        for number, truth in enumerate(block, start):
            mine = place[hits.offsets[number] : hits.offsets[number + 1]]
            if codes is None:
                found[number], wanted[number] = _score(searcher.node, truth, truth[mine])
            else:
                found[number], wanted[number] = _score_groups(searcher.node, truth, mine, codes)
    return found, wanted


def _truth(searcher: Searcher, tile: Tile) -> Iterator[tuple[int, Float64s]]:
    """Yield blocks of (queries, all rows) distances; +inf where a row may not be found."""
    node = searcher.node
    rows = sum(target.base.num_rows for target in searcher.targets)
    size = max(1, BLOCK_BYTES // (8 * max(1, rows)))
    for start in range(0, len(tile), size):
        few = tile.slice(start, min(start + size, len(tile)))
        queries = host_queries(few.vectors, node.input.columns.fields[node.field])
        parts = [np.empty((len(few), 0))]
        for target in searcher.targets:
            column = target.base.column(node.field)
            found = _distances(queries, column, node.metric)
            for mask in (target.keep, column.valid):
                if mask is not None:
                    found[:, ~mask] = np.inf
            if few.keys is not None:
                keys = _flat(target.base.column(str(target.primary_key)))
                live = np.arange(len(keys)) if target.keep is None else np.flatnonzero(target.keep)
                own = pc.index_in(few.keys, value_set=keys.take(pa.array(live)))  # not older ones
                hit = np.asarray(own.is_valid())
                found[np.flatnonzero(hit), live[np.asarray(own.drop_null())]] = np.inf
            parts.append(found)
        yield start, np.concatenate(parts, axis=1)


def _distances(queries: Queries, column: VectorColumn, metric: Metric) -> Float64s:
    """Return (queries, rows) distances, some rows at a time."""
    blocks = [np.empty((len(queries), 0))]
    for start in range(0, len(column), BLOCK_ROWS):
        part = column.slice(start, min(start + BLOCK_ROWS, len(column)))
        rows = part if isinstance(part, SparseVectors) else part.values
        blocks.append(distances64(queries, rows, metric))
    return np.concatenate(blocks, axis=1)


def _flat(column: pa.Array | pa.ChunkedArray) -> pa.Array:
    return column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column


def _sure_rows(node: p.Search, truth: Float64s) -> tuple[NDArray[np.int64], float, float]:
    """Return the rows that are in range beyond doubt, and the range widened by what is in doubt."""
    low = -np.inf if node.low is None else node.low
    high = np.inf if node.high is None else node.high
    slack = TIE * (1 + abs(high) if math.isfinite(high) else 1)
    sure = np.isfinite(truth) & (truth > low + slack) & (truth <= high - slack)
    return np.flatnonzero(sure), low - slack, high + slack


def _score(node: p.Search, truth: Float64s, mine: Float64s) -> tuple[int, int]:
    """Return true rows among those found, and true rows in all, for one query.

    Args:
        node: the search.
        truth: (rows,) its distances.
        mine: distances of the rows it returned.
    """
    sure, low, high = _sure_rows(node, truth)
    good = mine[(mine > low) & (mine <= high) & np.isfinite(mine)]
    if node.k is None:
        return len(good), max(len(sure), len(good))
    count = min(node.k, len(sure))
    if not count:
        return 0, 0
    last = float(np.partition(truth[sure], count - 1)[count - 1])
    near = good <= last + TIE * (1 + abs(last))
    return min(int(np.count_nonzero(near)), count), count


def _score_groups(
    node: p.Search, truth: Float64s, mine: NDArray[np.int64], codes: NDArray[np.int64]
) -> tuple[int, int]:
    """Return the same for a search by groups.

    Args:
        node: the search.
        truth: (rows,) its distances.
        mine: the rows it returned.
        codes: (rows,) the group of each row.
    """
    sure, low, high = _sure_rows(node, truth)
    returned = np.zeros(len(truth), bool)
    returned[mine] = True
    unknown = ~returned[sure]  # of rows at one distance, those that were returned come first
    order = sure[np.lexsort((unknown, truth[sure].astype(np.float32)))]
    groups = codes[order]
    _, first = np.unique(groups, return_index=True)
    nearest = groups[np.sort(first)[: node.k]]
    keep = np.isin(groups, nearest) & (places_within(groups) < node.group_size)
    wanted = truth[order[keep]]
    good = np.sort(truth[mine][(truth[mine] > low) & (truth[mine] <= high)])[: len(wanted)]
    near = np.abs(good - wanted[: len(good)]) <= TIE * (1 + np.abs(good))
    return int(np.count_nonzero(near)), len(wanted)
