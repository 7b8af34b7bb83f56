"""`gpuvec bench`: what each recall target costs and reaches on a collection's own rows and queries.

Every target is asked as users ask it; recall is taken against an exact answer computed apart, and
times in rounds that alternate with the exact search.
"""

import statistics
import time
import warnings
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

import gpuvec as gv
from gpuvec.errors import RecallWarning, nothing_to_bench, package_missing

ROUNDS = 5
SINGLE = 30  # queries asked one by one, a round


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """What searches with one target came to.

    Attributes:
        target: the recall that was asked for; None: the exact answer.
        way: most of the searching was done so: an index with its knobs, or a scan.
        recall: mean over the queries.
        low: lower end of its 95 % interval.
        high: upper end.
        batch_per_s: queries per second, all at once.
        single_ms: median milliseconds of a query asked alone.
        gain: `batch_per_s` over that of the exact search.
    """

    target: float | None
    way: str
    recall: float
    low: float
    high: float
    batch_per_s: float
    single_ms: float
    gain: float

    @property
    def short(self) -> bool:
        """Whether the recall lies below the target by its whole interval."""
        return self.target is not None and self.high < self.target


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """A whole measurement.

    Attributes:
        queries: how many were asked at once.
        source: where they came from.
        rows: that passed the filter.
        lines: the exact search, then one a target.
    """

    queries: int
    source: str
    rows: int
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object."""
        return {
            "queries": self.queries,
            "source": self.source,
            "rows": self.rows,
            "lines": [asdict(line) | {"short": line.short} for line in self.lines],
        }

    def title(self) -> str:
        """Return what was asked, as text."""
        return f"{self.queries:,} queries ({self.source}) of {self.rows:,} rows"

    def table(self) -> list[dict[str, str]]:
        """Return one row a line, for people."""
        return [
            {
                "asked": "exact" if line.target is None else f"recall {line.target:g}",
                "recall": f"{line.recall:.4f}" + (" short" if line.short else ""),
                "95 % low": f"{line.low:.4f}",
                "queries/s": f"{line.batch_per_s:,.0f}",
                "x exact": f"{line.gain:.2f}",
                "one, ms": f"{line.single_ms:.2f}",
                "way": line.way,
            }
            for line in self.lines
        ]

    def plot(self, path: Path) -> None:
        """Draw recall with its interval against queries per second.

        Raises:
            UnsupportedError: `GV-930`, Matplotlib is not installed.
        """
        try:
            from matplotlib.figure import Figure
        except ImportError:
            raise package_missing("matplotlib", "--plot") from None
        figure = Figure(figsize=(6, 4), layout="constrained")
        ax = figure.add_subplot()
        asked = [line for line in self.lines if line.target is not None]
        recalls = [line.recall for line in asked]
        below = [line.recall - line.low for line in asked]
        above = [line.high - line.recall for line in asked]
        rates = [line.batch_per_s for line in asked]
        ax.errorbar(recalls, rates, xerr=(below, above), marker="o", label="asked by recall")
        for line in asked:
            ax.annotate(f" {line.target:g}", (line.recall, line.batch_per_s))
        ax.axhline(self.lines[0].batch_per_s, linestyle="--", color="black", label="exact search")
        ax.set(xlabel="recall", ylabel=f"queries per second, {self.queries:,} at once")
        ax.set_yscale("log")
        ax.legend()
        figure.savefig(path)


def run_bench(
    items: gv.Frame,
    *,
    k: int,
    targets: Sequence[float],
    field: str | None = None,
    queries: gv.Frame | None = None,
    query_on: str | None = None,
    sample: int = 1_000,
    advance: Callable[[int], None] = lambda _: None,
) -> Bench:
    """Measure one frame of a collection.

    Args:
        items: a collection, filtered or not.
        k: neighbours of each query.
        targets: recalls to ask for, each above 0 and at most 1.
        field: the vector field; None: the only one.
        queries: real ones; None: rows of `items`, each searched without itself.
        query_on: the vector column of `queries`; None: the only one.
        sample: queries to draw.
        advance: told 1 for each of the `len(targets) + 1` searches that is measured, and for each
            round.

    Raises:
        QueryError: `GV-710`, there are no rows or no queries to search.
    """
    rows = items.count()
    key = items.plan.columns.primary_key
    own = queries is None
    asked = _sample(items, sample) if queries is None else _sample(queries, sample)
    if not rows or not asked.num_rows:
        raise nothing_to_bench("rows" if not rows else "queries")
    narrow = items.select(key) if key else items
    on_queries = field if own else query_on

    def search(part: pa.Table, target: float | None) -> gv.Frame:
        frame = gv.frame(part, primary_key=key if own else None)
        return narrow.search(
            frame, k, on=field, query_on=on_queries, exclude_self=own, recall=target,
            exact=target is None,
        )  # fmt: skip

    wanted: list[float | None] = [None, *targets]
    measured = []
    for target in wanted:
        found = search(asked, target)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", RecallWarning)  # the table says it
            measured.append((found.evaluate(sample=asked.num_rows), _way(found)))
        advance(1)
    batch, single = _time(search, asked, wanted, advance)
    lines = tuple(
        Line(
            target=target, way=way, recall=report.recall, low=report.ci95[0], high=report.ci95[1],
            batch_per_s=asked.num_rows / batch[at], single_ms=single[at] * 1e3,
            gain=batch[0] / batch[at],
        )
        for at, (target, (report, way)) in enumerate(zip(wanted, measured, strict=True))
    )  # fmt: skip
    source = "rows, each without itself" if own else "given queries"
    return Bench(queries=asked.num_rows, source=source, rows=rows, lines=lines)


def _sample(frame: gv.Frame, count: int) -> pa.Table:
    columns = frame.plan.columns
    names = [*([columns.primary_key] if columns.primary_key else []), *columns.vectors]
    return frame.select(*names).sample(count, seed=0).to_arrow()


def _way(found: gv.Frame) -> str:
    ways = found.collect().metrics.strategies.most_common(2)
    return ways[0][0] + (" and others" if len(ways) > 1 else "") if ways else "no rows"


def _time(
    search: Callable[[pa.Table, float | None], gv.Frame],
    asked: pa.Table,
    wanted: Sequence[float | None],
    advance: Callable[[int], None],
) -> tuple[list[float], list[float]]:
    """Return median seconds of the whole batch, and of single queries, by target."""
    batch: list[list[float]] = [[] for _ in wanted]
    single: list[list[float]] = [[] for _ in wanted]
    for _ in range(ROUNDS):
        for at, target in enumerate(wanted):
            batch[at].append(_seconds(search(asked, target)))
            for row in range(min(SINGLE, asked.num_rows)):
                single[at].append(_seconds(search(asked.slice(row, 1), target)))
        advance(1)
    return [statistics.median(s) for s in batch], [statistics.median(s) for s in single]


def _seconds(frame: gv.Frame) -> float:
    start = time.perf_counter()
    frame.collect()
    return time.perf_counter() - start
