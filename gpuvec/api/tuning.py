"""`Tuning`: an index measured again, segment by segment, and what searches make of it."""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gpuvec import errors
from gpuvec.api.builds import Builds
from gpuvec.api.engine import Engine
from gpuvec.api.inputs import query_set
from gpuvec.api.progress import progress
from gpuvec.index.base import Queries
from gpuvec.index.curve import RecallCurve
from gpuvec.node import remeasure
from gpuvec.node.build import adding, metric_of
from gpuvec.query.batch import array_blocks, host_queries
from gpuvec.query.plan import Columns, QueryArray
from gpuvec.storage import keys
from gpuvec.types import Metric

if TYPE_CHECKING:
    from gpuvec.api.frame import Frame

FEW_QUERIES = 50  # fewer leave an interval that hardly any setting passes
_SHARES = 100  # in which progress is told
_POINTS = pa.schema(
    [
        ("segment_id", pa.string()),
        ("rows", pa.int64()),
        ("k", pa.int64()),
        ("selectivity", pa.float64()),
        ("case", pa.string()),
        ("params", pa.string()),
        ("recall", pa.float64()),
        ("low", pa.float64()),
        ("high", pa.float64()),
        ("queries", pa.int64()),
        ("queries_per_second", pa.float64()),
        ("milliseconds", pa.float64()),
    ]
)
_TABLE = pa.schema(
    [
        ("segment_id", pa.string()),
        ("rows", pa.int64()),
        ("k", pa.int64()),
        ("target", pa.float64()),
        ("params", pa.string()),
        ("recall", pa.float64()),
        ("low", pa.float64()),
        ("queries_per_second", pa.float64()),
        ("exact_queries_per_second", pa.float64()),
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tuning:
    """What measuring an index again showed.

    Attributes:
        field: that is indexed.
        source: of the queries: "given queries", "held-out rows" that the index was never given, or
            "rows hidden from the answers".
        table: one row per segment, `k` and target: the setting that searches will use; without
            `params` where they scan exactly.
        points: one row per measurement; without `params` those of the exact scan.
    """

    field: str
    source: str
    table: "Frame"
    points: "Frame"

    def __repr__(self) -> str:
        return f'"{self.field}" measured again, with {self.source}\n{self.table.collect()!r}'

    def plot(self, ax: Any = None) -> Any:
        """Draw recall against queries per second, unfiltered; return the Matplotlib axes.

        Raises:
            UnsupportedError: `GV-930`, Matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise errors.package_missing("matplotlib", "plot()") from None
        if ax is None:
            _, ax = plt.subplots()
        rows = self.points.filter("selectivity == 1").to_arrow().to_pylist()
        lines: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for row in rows:
            lines.setdefault((row["segment_id"], row["k"]), []).append(row)
        for (segment_id, k), points in lines.items():
            measured = sorted((p for p in points if p["params"]), key=lambda p: p["recall"])
            name = f"k={k}" if len({s for s, _ in lines}) == 1 else f"k={k}, {segment_id[-6:]}"
            recall, rate = ([p[n] for p in measured] for n in ("recall", "queries_per_second"))
            (line,) = ax.plot(recall, rate, marker="o", label=name)
            exact = [p["queries_per_second"] for p in points if not p["params"]]
            if exact:
                ax.axhline(exact[0], color=line.get_color(), linestyle="--")
        ax.set(xlabel="recall", ylabel="queries per second", yscale="log",
               title=f"{self.field} (dashed: exact scan)")  # fmt: skip
        ax.legend()
        return ax


def tune(
    engine: Engine,
    collection_id: str,
    field: str,
    *,
    recall: Sequence[float],
    ks: Sequence[int],
    queries: Any,
) -> Tuning:
    """Measure every segment's index of a field, and keep the curves; see `Indexed.tune`."""
    engine.snapshot(collection_id)  # follows another process's log
    state = engine.channel(collection_id).state
    where = f'collection "{engine.name_of(collection_id)}"'
    if field not in state.schema.fields:
        raise errors.unknown_field(field, state.schema.fields, where=where)
    if field not in state.indexes:
        raise errors.no_such_index(field, state.indexes)
    metric = metric_of(state.schema[field])
    if metric is None:
        raise errors.no_index_to_tune(field, "an index of a scalar field is exact")
    segments = remeasure.indexed_segments(state, engine.channel(collection_id).shard, field)
    if not segments:
        raise errors.no_index_to_tune(field, "no segment has an index; all are scanned exactly")
    columns = Columns(dict(state.schema.fields), state.schema.primary_key)
    asked = None if queries is None else _queries(queries, columns, field)
    keep = asked is None or len(asked) >= FEW_QUERIES
    if asked is not None and not keep:
        warnings.warn(_few(len(asked)), errors.RecallWarning, stacklevel=3)
    wanted = tuple(dict.fromkeys([state.indexes[field].k, *ks, 10, 100]))
    curves = []
    with progress(f'measuring "{field}"', len(segments) * _SHARES, "steps") as tell:
        for one in segments:
            curve = _measure(one, metric, wanted, asked, tell, engine.builds)
            if keep:
                with engine.at_work():
                    name = engine.mint()
                    record = remeasure.write(one, curve, keys.collection(collection_id), name)
                    engine.change(collection_id, adding(one.segment_id, engine.run(record)))
            curves.append((one, curve))
    return _tuning(field, curves, recall, ks)


def _measure(
    one: remeasure.Indexed,
    metric: Metric,
    ks: tuple[int, ...],
    queries: Queries | None,
    tell: Callable[[int], None],
    builds: Builds,
) -> RecallCurve:
    shown = 0

    def advance(share: float) -> None:
        nonlocal shown
        more = int(share * _SHARES) - shown
        if more > 0:
            tell(more)
            shown += more

    session = builds.session()
    return remeasure.measure(
        one,
        metric,
        ks=ks,
        queries=queries,
        threads=session.threads,
        memory_limit=session.memory_limit // 2,
        progress=advance,
        device=builds.device,
    )


def _few(count: int) -> str:
    return (
        f"{count} queries are too few to go by: searches go on as measured before. Give at least "
        f"{FEW_QUERIES}, better 1,000"
    )


def _queries(queries: Any, columns: Columns, field: str) -> Queries:
    """Return queries as an index takes them."""
    found = query_set(queries, columns, field, None, None)
    if not isinstance(found, QueryArray):
        from gpuvec.api.frame import frame

        rows = frame(queries).select(found.vector).collect().rows
        found = QueryArray(vectors=rows.vectors[found.vector])
    (tile,) = array_blocks(found)
    if len(tile.vectors) == 0:
        raise errors.no_queries_to_tune(field)
    return host_queries(tile.vectors, columns.fields[field])


def _tuning(
    field: str,
    curves: Sequence[tuple[remeasure.Indexed, RecallCurve]],
    recall: Sequence[float],
    ks: Sequence[int],
) -> Tuning:
    from gpuvec.api.frame import frame

    points = [
        {
            "segment_id": one.segment_id,
            "rows": one.rows.row_count,
            "k": point.k,
            "selectivity": point.selectivity,
            "case": point.case,
            "params": _text(point.params),
            "recall": point.recall,
            "low": point.low,
            "high": point.high,
            "queries": point.queries,
            "queries_per_second": 1 / point.batch_s,
            "milliseconds": 1000 * point.single_s,
        }
        for one, curve in curves
        for point in curve.points
    ]
    lines = [_line(one, curve, target, k) for one, curve in curves for k in ks for target in recall]
    return Tuning(
        field=field,
        source=curves[0][1].source,
        table=frame(pa.Table.from_pylist(lines, schema=_TABLE)),
        points=frame(pa.Table.from_pylist(points, schema=_POINTS)),
    )


def _line(one: remeasure.Indexed, curve: RecallCurve, target: float, k: int) -> dict[str, Any]:
    """Return the setting for a target; where none reaches it, or none is faster, no setting."""
    best, cell = curve.best(k, target), curve.at(k, 1.0)
    exact = None if cell is None else cell.exact
    if best is not None and exact is not None and exact.batch_s <= best.batch_s:
        best = None
    return {
        "segment_id": one.segment_id,
        "rows": one.rows.row_count,
        "k": k,
        "target": target,
        "params": None if best is None else _text(best.params),
        "recall": 1.0 if best is None else best.recall,
        "low": 1.0 if best is None else best.low,
        "queries_per_second": None if best is None else 1 / best.batch_s,
        "exact_queries_per_second": None if exact is None else 1 / exact.batch_s,
    }


def _text(params: Any) -> str | None:
    return None if params is None else ", ".join(f"{n}={v:g}" for n, v in params.items())
