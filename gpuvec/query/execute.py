"""From a plan to rows: each node takes the parts of its inputs and yields parts of its own.

Nodes that can, stream: scan, filter, projections, limit, concat, search (tile by tile). The others
gather their input first, but columns are still read only when something asks for them.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any, Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.expr.bind import bind_filter
from gpuvec.expr.prune import can_match
from gpuvec.expr.tree import col
from gpuvec.query import plan as p
from gpuvec.query.aggregate import (
    describe_part,
    distinct_part,
    group_part,
    head_part,
    steps_of,
)
from gpuvec.query.evaluate import evaluate_part, keep_part
from gpuvec.query.fragment import branches, scan_of, spread_of
from gpuvec.query.join import join_parts
from gpuvec.query.measurements import Measurements
from gpuvec.query.part import (
    Column,
    Part,
    computed_part,
    concat_parts,
    gather,
    null_column,
    segment_part,
)
from gpuvec.query.partial import Groups, grouped_alike, groups_of, logged_after
from gpuvec.query.planned import Planned
from gpuvec.query.remote_groups import remote_groups, remote_heads
from gpuvec.query.remote_parts import FragmentRead
from gpuvec.query.searches import run_search, run_spread_search
from gpuvec.query.session import Session
from gpuvec.query.spread import Spread
from gpuvec.query.stored import StoredColumns
from gpuvec.segment.view import Snapshot


class Run:
    """One execution: every source is read at one version, held until the run is closed."""

    def __init__(self, session: Session, *, for_search: bool = False) -> None:
        self.session = session
        self.for_search = for_search  # filters may copy to the device what they need there
        self.metrics = Measurements()
        self._stack = ExitStack()
        self._snapshots: dict[int, Snapshot] = {}
        self._plans: dict[tuple[Any, ...], Planned] = {}
        self._reads: dict[int, tuple[p.Plan, FragmentRead]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: Any) -> None:
        self._stack.close()

    def snapshot(self, source: p.Source) -> Snapshot:
        """Return the source at the version of this run."""
        if id(source) not in self._snapshots:
            with self.metrics.stage("snapshot"):
                self._snapshots[id(source)] = self._stack.enter_context(source.snapshot())
        return self._snapshots[id(source)]

    def parts(self, node: p.Plan) -> Iterator[Part]:
        """Yield the rows of a node."""
        read = self.fragment(node)
        return _RUNNERS[type(node)](self, node) if read is None else read.parts()

    def searched(self, node: p.Plan) -> list[Part]:
        """Return the rows of a node, which a search goes through."""
        before, self.for_search = self.for_search, True
        try:
            return list(self.parts(node))
        finally:
            self.for_search = before

    def first(self, node: p.Plan, count: int) -> Iterator[Part]:
        """Yield the rows of a node, of which no more than the first `count` will be asked for."""
        read = self.fragment(node)
        return self.parts(node) if read is None else read.first(count)

    def fragment(self, node: p.Plan) -> FragmentRead | None:
        """Return what asks nodes for the rows of a plan; None: this process reads them."""
        spread = spread_of(node)
        if spread is None:
            return None
        if id(node) not in self._reads:
            read = FragmentRead(spread, self.planned(spread), node, self.metrics)
            self._reads[id(node)] = (node, read)  # which keeps the node, and so its id
        return self._reads[id(node)][1]

    def planned(self, spread: Spread) -> Planned:
        """Return what nodes have of a source, at the version of this run."""
        key = (id(spread.nodes), spread.collection_id, spread.version)
        if key not in self._plans:
            self._plans[key] = Planned(spread, self.metrics)
        return self._plans[key]

    def whole(self, node: p.Plan) -> Part:
        """Return all rows of a node as one part."""
        read = self.fragment(node)
        if read is not None:
            return read.whole()
        found = [part for part in self.parts(node) if part.num_rows]
        return concat_parts(found) if found else empty_part(node.columns)


class LocalRun(Run):
    """A run that reads everything in this process, also what nodes could."""

    def fragment(self, node: p.Plan) -> None:
        """See `Run.fragment`."""
        return


def empty_part(columns: p.Columns) -> Part:
    """Return no rows with the columns of a plan."""
    return computed_part(0, {name: null_column(kind, 0) for name, kind in columns.fields.items()})


def _scan(run: Run, node: p.Scan) -> Iterator[Part]:
    start = 0
    snapshot = run.snapshot(node.source)
    now, fields = snapshot.schema.fields, node.columns.fields
    if now != fields:  # some may have been dropped since the plan was made
        hidden = node.columns.hidden
        fields = {n: kind for n, kind in fields.items() if n in hidden or now.get(n) == kind}
    for view in snapshot:
        if view.num_rows:
            stored = StoredColumns(view, run.session, fields, node.columns.where)
            part = segment_part(view, start, stored.read, stored.load, stored.batch)
            run.metrics.segments += 1
            run.metrics.rows += part.num_rows
            start += view.num_rows
            yield part


def _filter(run: Run, node: p.Filter) -> Iterator[Part]:
    for part in run.parts(node.input):
        origin = part.origin
        if origin is not None and not can_match(node.predicate, origin.statistics):
            run.metrics.segments_pruned += 1
            continue
        with run.metrics.stage("filter"):
            kept = keep_part(
                node.predicate, part, run.session.cache,
                session=run.session, for_search=run.for_search, owner=node.columns.name,
            )  # fmt: skip
        if kept.num_rows:
            yield kept


def _get(run: Run, node: p.Get) -> Iterator[Part]:
    read = run.fragment(node.input)
    if read is not None:
        if (found := read.get(node.ids)).num_rows:
            yield found
        return
    key = str(node.input.columns.primary_key)
    wanted = node.ids.unique()
    parts: list[Part] = []
    places, whose, rows = [], [], []
    for part in run.parts(node.input):
        place = pc.index_in(part.column(key), value_set=wanted)
        hit = np.flatnonzero(np.asarray(place.is_valid()))
        if len(hit):
            places.append(np.asarray(place.drop_null()).astype(np.int64))
            whose.append(np.full(len(hit), len(parts)))
            rows.append(hit)
            parts.append(part)
    if not parts:
        return
    where = np.full(len(wanted), -1)
    where[np.concatenate(places)] = np.arange(sum(map(len, rows)))
    order = where[np.asarray(pc.index_in(node.ids, value_set=wanted))]
    order = order[order >= 0]
    yield gather(parts, np.concatenate(whose)[order], np.concatenate(rows)[order])


def _project(run: Run, node: p.Project) -> Iterator[Part]:
    return run.parts(node.input)


def _with_columns(run: Run, node: p.WithColumns) -> Iterator[Part]:
    def make(part: Part, name: str) -> Column:
        return evaluate_part(node.computed[name], part)

    for part in run.parts(node.input):
        yield part.derive(node.computed, make)


def _sort(run: Run, node: p.Sort) -> Iterator[Part]:
    part = run.whole(node.input)
    table = part.table([name for name, _ in node.keys])
    keys = [(name, "descending" if down else "ascending") for name, down in node.keys]
    table = table.append_column("_gv_row", pa.array(np.arange(part.num_rows)))
    order = pc.sort_indices(table, sort_keys=[*keys, ("_gv_row", "ascending")])
    yield part.take(np.asarray(order).astype(np.int64))


def _limit(run: Run, node: p.Limit) -> Iterator[Part]:
    left = node.count
    if not left:
        return
    for part in run.first(node.input, left):
        yield part.slice(0, min(left, part.num_rows))
        left -= part.num_rows
        if left <= 0:
            return


def _slice(run: Run, node: p.Slice) -> Iterator[Part]:
    before = 0
    for part in run.first(node.input, node.stop):
        start, stop = max(node.start - before, 0), min(node.stop - before, part.num_rows)
        if start < stop:
            yield part.slice(start, stop)
        before += part.num_rows
        if before >= node.stop:
            return


def _sample(run: Run, node: p.Sample) -> Iterator[Part]:
    part = run.whole(node.input)
    if node.count >= part.num_rows:
        yield part
        return
    chosen = np.random.default_rng(node.seed).choice(part.num_rows, node.count, replace=False)
    yield part.take(np.sort(chosen))


def _join(run: Run, node: p.Join) -> Iterator[Part]:
    yield join_parts(node, run.whole(node.left), run.whole(node.right))


def _concat(run: Run, node: p.Concat) -> Iterator[Part]:
    for part in node.parts:
        yield from run.parts(part)


def _distinct(run: Run, node: p.Distinct) -> Iterator[Part]:
    read = run.fragment(node.input)
    if read is not None:
        yield remote_heads(read, node.names, 1)
    else:
        yield distinct_part(run.whole(node.input), node.names)


def _group(run: Run, node: p.Group) -> Iterator[Part]:
    yield group_part(_groups(run, node), node.keys, node.aggregates)


def _groups(run: Run, node: p.Group) -> list[Groups]:
    keys, steps = node.keys, steps_of(node.aggregates)
    read = run.fragment(node.input)
    if read is not None:
        found = remote_groups(read, keys, steps)
    elif (scan := scan_of(node.input)) is not None:
        parts = (
            (part.origin.view.segment_id, part)
            for part in run.parts(node.input)
            if part.origin is not None
        )
        after = logged_after(run.snapshot(scan.source))
        found = [groups_of(part, keys, steps) for _, part in grouped_alike(parts, after)]
    else:
        found = [groups_of(run.whole(node.input), keys, steps)]
    return found or [groups_of(empty_part(node.input.columns), keys, steps)]


def _group_head(run: Run, node: p.GroupHead) -> Iterator[Part]:
    read = run.fragment(node.input)
    if read is not None:
        yield remote_heads(read, node.keys, node.count)
    else:
        yield head_part(run.whole(node.input), node.keys, node.count)


def _describe(run: Run, node: p.Describe) -> Iterator[Part]:
    far = run.fragment(node.input) is not None
    nulls = {name: _nulls(run, node.input, name) for name in node.input.columns.vectors if far}
    yield describe_part(node, run.whole(node.input), nulls)


def _nulls(run: Run, node: p.Plan, name: str) -> int:
    """Return how many rows have no vector; none is read."""
    if not getattr(node.columns.fields[name], "nullable", False):
        return 0
    predicate = bind_filter(col(name).is_null(), node.columns.fields)
    missing = p.Filter(columns=node.columns, input=node, predicate=predicate)
    return sum(part.num_rows for part in run.parts(missing))


def _search(run: Run, node: p.Search) -> Iterator[Part]:
    def query_parts() -> Iterator[Part]:
        assert isinstance(node.queries, p.QueryFrame)
        return run.parts(node.queries.plan)

    frames = list(branches(node.input))
    reads = [run.fragment(frame) for frame in frames]
    if not any(reads):
        parts = run.searched(node.input)
        return run_search(node, parts, query_parts, run.session, run.metrics)
    found: list[FragmentRead | list[Part]] = [
        read or run.searched(frame) for frame, read in zip(frames, reads, strict=True)
    ]
    return run_spread_search(node, found, query_parts, run.session, run.metrics)


_RUNNERS: dict[type[p.Plan], Callable[[Run, Any], Iterator[Part]]] = {
    p.Scan: _scan,
    p.Filter: _filter,
    p.Get: _get,
    p.Project: _project,
    p.WithColumns: _with_columns,
    p.Sort: _sort,
    p.Limit: _limit,
    p.Slice: _slice,
    p.Sample: _sample,
    p.Join: _join,
    p.Concat: _concat,
    p.Distinct: _distinct,
    p.Group: _group,
    p.GroupHead: _group_head,
    p.Describe: _describe,
    p.Search: _search,
}
