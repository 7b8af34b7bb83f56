"""Runs a plan to its end, or piece by piece."""

import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

import numpy as np

from gpuvec import telemetry
from gpuvec.errors import ResultTooLargeError, read_cut_short, read_never_settled, result_too_large
from gpuvec.query import plan as p
from gpuvec.query.estimate import check_fits, row_bytes
from gpuvec.query.execute import Run, empty_part
from gpuvec.query.measurements import Measurements
from gpuvec.query.optimize import optimize, source_scans
from gpuvec.query.part import Part, concat_parts
from gpuvec.query.session import Session
from gpuvec.query.spread import Replan
from gpuvec.rows import Rows
from gpuvec.segment.view import Snapshot

T = TypeVar("T")
FEW_ROWS = 4096
MOST_BEGUN = 8  # times that a read begins


class _CountedRun(Run):
    """A run that a user asked for. What became of it is counted when it ends."""

    def __init__(self, session: Session, operation: str) -> None:
        super().__init__(session)
        self._operation = operation
        self._began_s = time.perf_counter()

    def __exit__(self, kind: Any = None, error: Any = None, trace: Any = None) -> None:
        super().__exit__(kind, error, trace)
        measured = self.metrics
        searched = measured.recall is not None or measured.unmeasured > 0
        outcome = "error" if isinstance(error, Exception) else "ok"
        telemetry.QUERIES.add(1, "search" if searched else self._operation, outcome)
        telemetry.SCANNED_ROWS.add(measured.rows)
        if measured.segments_pruned:
            telemetry.PRUNED_SEGMENTS.add(measured.segments_pruned)
        if searched:
            telemetry.QUERY_VECTORS.add(measured.queries)
            telemetry.SEARCH_SECONDS.observe(time.perf_counter() - self._began_s)


def collect_rows(node: p.Plan, session: Session) -> tuple[Rows, Measurements]:
    """Return all visible columns of all rows, and what the run measured.

    Raises:
        ResultTooLargeError: `GV-420`, the answer is larger than the session's memory; before work
            starts where its size is known, else as soon as it is.
    """
    plan = optimize(node)
    return _begun_again(plan, lambda begun: _collect(plan, session, begun))


def _begun_again(plan: p.Plan, work: Callable[[int], T]) -> T:
    """Do work that reads; where a node's segments are others than planned, do it anew.

    Raises:
        UnavailableError: `GV-761`, they were each time.
    """
    for begun in range(MOST_BEGUN):
        try:
            return work(begun)
        except Replan:
            continue
    raise read_never_settled(plan.columns.name, MOST_BEGUN)


def _collect(plan: p.Plan, session: Session, begun: int) -> tuple[Rows, Measurements]:
    start = time.perf_counter()
    names, vectors = plan.columns.visible, plan.columns.vectors
    with telemetry.span("query"), _CountedRun(session, "read") as run:
        run.metrics.begun = begun
        _check_fits(run, plan)
        found: list[Rows] = []
        held, width = 0, row_bytes(plan.columns)
        for part in run.parts(plan):
            with run.metrics.stage("fetch"):
                found.append(part.to_rows(names, vectors))
            held += size_of(found[-1], width)
            if held > session.memory_limit:
                raise result_too_large(sum(map(len, found)), held, session.memory_limit)
        rows = Rows.concat(found) if found else empty_part(plan.columns).to_rows(names, vectors)
        run.metrics.seconds = time.perf_counter() - start
        run.metrics.output_rows, run.metrics.output_bytes = len(rows), held
        if run.metrics.recall is not None:
            telemetry.RECALL_ESTIMATE.set(run.metrics.recall, plan.columns.name)
        return rows, run.metrics


def size_of(rows: Rows, width: int) -> int:
    """Return the bytes of rows; of a few, a guess from the width of one, which is faster."""
    return rows.nbytes if len(rows) > FEW_ROWS else len(rows) * width


def stream_rows(node: p.Plan, session: Session, batch_rows: int | None) -> Iterator[Rows]:
    """Yield all visible columns of the rows, in order, in bounded memory where the plan can stream.

    Args:
        node: the plan.
        session: memory, threads and caches.
        batch_rows: rows of a piece (the last may be shorter); None: as they come.

    Raises:
        UnavailableError: `GV-760`, a node's segments are others than planned, after rows were
            yielded; `GV-761`, they were each time that the read began.
    """
    plan = optimize(node)
    for _ in range(MOST_BEGUN):
        yielded = False
        try:
            for rows in _stream(plan, session, batch_rows):
                yielded = True
                yield rows
        except Replan:
            if yielded:
                raise read_cut_short(plan.columns.name) from None
        else:
            return
    raise read_never_settled(plan.columns.name, MOST_BEGUN)


def _stream(plan: p.Plan, session: Session, batch_rows: int | None) -> Iterator[Rows]:
    names, vectors = plan.columns.visible, plan.columns.vectors
    with _CountedRun(session, "read") as run:
        pieces = run.parts(plan)
        if batch_rows is not None:
            pieces = _cut(pieces, batch_rows)
        for part in pieces:
            yield part.to_rows(names, vectors)


def _cut(parts: Iterator[Part], size: int) -> Iterator[Part]:
    waiting: list[Part] = []
    count = 0
    for part in parts:
        start = 0
        while part.num_rows - start >= size - count:
            stop = start + size - count
            yield concat_parts([*waiting, part.slice(start, stop)])
            waiting, count, start = [], 0, stop
        if start < part.num_rows:
            waiting.append(part.slice(start, part.num_rows))
            count += part.num_rows - start
    if waiting:
        yield concat_parts(waiting)


def count_rows(node: p.Plan, session: Session) -> int:
    """Return how many rows there are; columns that do not decide it are not read."""
    plan = optimize(node)

    def count(_: int) -> int:
        with telemetry.span("count"), _CountedRun(session, "count") as run:
            return sum(part.num_rows for part in run.parts(plan))

    return _begun_again(plan, count)


def visible_rows(snapshot: Snapshot) -> int:
    """Return the rows of a snapshot that a read sees."""
    total = 0
    for view in snapshot:
        keep = view.keep()
        total += view.num_rows if keep is None else int(np.count_nonzero(keep))
    return total


def source_rows(run: Run, plan: p.Plan, *, counted: bool = True) -> dict[int, int]:
    """Return the visible rows of every source of a plan, by `id(source)`.

    Args:
        run: that reads them.
        plan: whose sources.
        counted: False: of sources that nodes read, hidden rows may be among them.
    """
    return {key: _rows_of(run, source, counted) for key, source in source_scans(plan).items()}


def _rows_of(run: Run, source: p.Source, counted: bool) -> int:
    read = run.fragment(p.Scan(columns=p.Columns({}), source=source))
    if read is None:
        return visible_rows(run.snapshot(source))
    return read.whole().num_rows if counted else read.most_rows


def _check_fits(run: Run, plan: p.Plan) -> None:
    """See `check_fits`. Rows at nodes are counted only where the answer might be too large."""
    limit = run.session.memory_limit
    try:
        check_fits(plan, source_rows(run, plan, counted=False), limit)
    except ResultTooLargeError:
        check_fits(plan, source_rows(run, plan), limit)
