"""What a run measured about itself."""

import time
from collections import Counter
from dataclasses import dataclass, field

from gpuvec.index.base import SearchStats
from gpuvec.query.kinds import LEAST, Live
from gpuvec.query.strategy import Way


class _Stage:
    """Takes the time of a block: a class, since a generator costs every query microseconds."""

    __slots__ = ("_name", "_stages", "_start")

    def __init__(self, stages: Counter[str], name: str) -> None:
        self._stages = stages
        self._name = name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        self._stages[self._name] += time.perf_counter() - self._start  # type: ignore[assignment]


@dataclass(slots=True)
class NodeWork:
    """What one node did for a run.

    Attributes:
        calls: questions it answered.
        segments: that it answered for, the most in one call.
        size_bytes: of its answers, about.
        seconds: from questions to answers, all together.
        worked_s: of them, those of its work.
    """

    calls: int = 0
    segments: int = 0
    size_bytes: int = 0
    seconds: float = 0.0
    worked_s: float = 0.0


@dataclass(slots=True)
class Measurements:
    """Counts and times of one run; `Result.metrics` shows them.

    Attributes:
        seconds: wall time of the whole run.
        stages: seconds by stage: `snapshot`, `filter`, `search`, `fetch`.
        segments: segments that were looked at.
        segments_pruned: segments that statistics proved empty of matches, of which nothing was
            read.
        rows: visible rows of the segments that were looked at.
        rows_passed: those that the prefilters left.
        queries: queries answered.
        strategies: how often each way of searching a segment was taken: an index with its knobs, or
            `exact scan` and how.
        candidates: pairs of query and row that were measured a second time, in float32.
        rescanned: queries whose bound did not prove the candidates complete, scanned again in
            float32.
        completed: queries for which an index found too few rows, answered again by a scan.
        checked: queries that a scan answered too, to check an index.
        live_recall: of those checks, now and before, for the settings that were used: the lowest
            mean; None when there were none.
        output_rows: rows of the answer.
        output_bytes: their size in memory; a guess for a few rows.
        recall: expected, of the setting with the least; 1.0 when every search was exact; None when
            nothing was searched, or with knobs that were never measured.
        unmeasured: how often such knobs were used.
        nodes: by name, what each node of a cluster did; `stages` are this process's.
        begun: how often the run began anew, or planned its version again, since segments were
            rewritten meanwhile.
    """

    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    segments: int = 0
    segments_pruned: int = 0
    rows: int = 0
    rows_passed: int = 0
    queries: int = 0
    strategies: Counter[str] = field(default_factory=Counter)
    candidates: int = 0
    rescanned: int = 0
    completed: int = 0
    checked: int = 0
    live_recall: float | None = None
    output_rows: int = 0
    output_bytes: int = 0
    recall: float | None = None
    unmeasured: int = 0
    nodes: dict[str, NodeWork] = field(default_factory=dict)
    begun: int = 0

    def stage(self, name: str) -> "_Stage":
        """Add the time of a `with` block to a stage."""
        return _Stage(self.stages, name)

    def note_search(self) -> None:
        """Say that something is searched: exactly, until an index is used."""
        if self.recall is None and not self.unmeasured:
            self.recall = 1.0

    def note_scan(self, stats: SearchStats | None, name: str | None = None) -> None:
        """Add what an index says of its last search; `name` of the way, a scan's by default."""
        if stats is None:
            return
        self.strategies[name or f"exact scan ({stats.strategy.removesuffix(' scan')})"] += 1
        self.candidates += stats.candidates
        self.rescanned += stats.rescanned

    def note_way(self, way: Way, live: Live | None) -> None:
        """Add how one segment is searched, and what real queries have shown of that setting."""
        if way.recall is None:
            self.unmeasured += 1
        if self.unmeasured or way.recall is None:
            self.recall = None
            return
        found = way.recall
        if live is not None and live.count >= LEAST:
            found = live.mean
            self.live_recall = min(found, 1.0 if self.live_recall is None else self.live_recall)
        self.recall = found if self.recall is None else min(self.recall, found)

    def note_node(
        self, node: str, *, segments: int, size_bytes: int, seconds: float, worked_s: float
    ) -> None:
        """Add one answer of a node; see `NodeWork`."""
        work = self.nodes.setdefault(node, NodeWork())
        work.calls += 1
        work.segments = max(work.segments, segments)
        work.size_bytes += size_bytes
        work.seconds += seconds
        work.worked_s += worked_s

    def add(self, other: "Measurements", *, first: bool, first_search: bool) -> None:
        """Add what a node measured for one question.

        Args:
            other: of the node.
            first: whether it is the first question about these rows: they are counted once.
            first_search: whether it is the first search of them.
        """
        if first:
            self.segments += other.segments
            self.segments_pruned += other.segments_pruned
            self.rows += other.rows
        if first_search:
            self.rows_passed += other.rows_passed
        self.strategies.update(other.strategies)
        for name in ("candidates", "rescanned", "completed", "checked", "unmeasured"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        self.recall = None if self.unmeasured else _least(self.recall, other.recall)
        self.live_recall = _least(self.live_recall, other.live_recall)


def _least(one: float | None, other: float | None) -> float | None:
    known = [value for value in (one, other) if value is not None]
    return min(known, default=None)
