"""Runs a plan to its end, or piece by piece."""

import time
from collections.abc import Iterator
from typing import Any

import numpy as np

from gpuvec import telemetry
from gpuvec.errors import result_too_large
from gpuvec.query import plan as p
from gpuvec.query.estimate import check_fits, row_bytes
from gpuvec.query.execute import Run, empty_part
from gpuvec.query.measurements import Measurements
from gpuvec.query.optimize import optimize, source_scans
from gpuvec.query.part import Part, concat_parts
from gpuvec.query.session import Session
from gpuvec.rows import Rows
from gpuvec.segment.view import Snapshot

FEW_ROWS = 4096


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
    start = time.perf_counter()
    plan = optimize(node)
    names, vectors = plan.columns.visible, plan.columns.vectors
    with telemetry.span("query"), _CountedRun(session, "read") as run:
        check_fits(plan, source_rows(run, plan), session.memory_limit)
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
    """
    plan = optimize(node)
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
    with telemetry.span("count"), _CountedRun(session, "count") as run:
        return sum(part.num_rows for part in run.parts(optimize(node)))


def visible_rows(snapshot: Snapshot) -> int:
    """Return the rows of a snapshot that a read sees."""
    total = 0
    for view in snapshot:
        keep = view.keep()
        total += view.num_rows if keep is None else int(np.count_nonzero(keep))
    return total


def source_rows(run: Run, plan: p.Plan) -> dict[int, int]:
    """Return the visible rows of every source of a plan, by `id(source)`."""
    return {key: visible_rows(run.snapshot(s)) for key, s in source_scans(plan).items()}
