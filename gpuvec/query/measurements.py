"""What a run measured about itself."""

import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field


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
        strategies: how often each way of scanning was taken.
        rescanned: queries whose bound did not prove the candidates complete, scanned again in
            float32.
        output_rows: rows of the answer.
        output_bytes: their size in memory; a guess for a few rows.
        recall: 1.0 when every search was exact; None when nothing was searched.
    """

    seconds: float = 0.0
    stages: Counter[str] = field(default_factory=Counter)
    segments: int = 0
    segments_pruned: int = 0
    rows: int = 0
    rows_passed: int = 0
    queries: int = 0
    strategies: Counter[str] = field(default_factory=Counter)
    rescanned: int = 0
    output_rows: int = 0
    output_bytes: int = 0
    recall: float | None = None

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Add the time of a block to a stage."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.stages[name] += time.perf_counter() - start  # type: ignore[assignment]

    def note_scan(self, stats: object) -> None:
        """Add what an index says of its last search; None says nothing."""
        if stats is None:
            return
        self.strategies[str(getattr(stats, "strategy", "scan"))] += 1
        self.rescanned += int(getattr(stats, "rescanned", 0))
