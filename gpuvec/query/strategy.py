"""Which way one segment is searched: an index with some setting, or the exact scan. No I/O.

Costs and recalls come from the curve that was measured when the index was built; see `index.curve`
for what a target holds a setting to. Settings that failed on real queries are left out (`Failed`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from gpuvec.index.base import Params
from gpuvec.index.curve import Cell, RecallCurve, Setting, params_key
from gpuvec.index.spec import IndexSpec

# Says why a setting is out, by the cell that was measured; None if it is not.
Failed = Callable[[Setting, Cell], str | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """What is asked of one segment.

    Attributes:
        rows: of the segment, hidden and null ones too.
        passing: rows that may be found.
        queries: asked at once.
        k: neighbours of each, at least 1.
        target: recall to reach; None: what the index was made for.
        params: knobs to use whatever was measured; None: choose.
        exact: whether only the true answer will do.
    """

    rows: int
    passing: int
    queries: int
    k: int
    target: float | None = None
    params: Params | None = None
    exact: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class IndexInfo:
    """What is known of an index without opening it.

    Attributes:
        spec: what was built.
        target: the recall it was made for; None: none was named.
        curve: what was measured; None: nothing.
    """

    spec: IndexSpec
    target: float | None
    curve: RecallCurve | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a segment is searched.

    Attributes:
        kind: of the way.
        params: knobs of the index; None for the exact scan.
        k: neighbours to ask for, at least those wanted; the answer is cut afterwards.
        recall: expected mean; None where nothing was measured.
        low: lower end of its 95 % interval; None where nothing was measured.
        seconds: expected for all queries; None where nothing was measured.
        reason: why this way, for `explain`.
        cell: what was measured, on which it rests; None where nothing was.
        setting: of the cell; None where none was chosen.
    """

    kind: Literal["exact", "index"]
    params: Params | None = None
    k: int
    recall: float | None = 1.0
    low: float | None = 1.0
    seconds: float | None = None
    reason: str
    cell: Cell | None = None
    setting: Setting | None = None


def choose_way(ask: Ask, info: IndexInfo | None, failed: Failed | None = None) -> Way:
    """Return the cheapest way that reaches the target, by what was measured.

    Args:
        ask: what is wanted.
        info: of the index over the field's vectors; None: there is none.
        failed: settings that real queries showed to fall short.
    """
    if ask.exact:
        return _exact(ask, "exact answer asked for")
    if info is None:
        return _exact(ask, "no index on these rows")
    if ask.params is not None:
        return _as_told(ask, info, ask.params)
    target = info.target if ask.target is None else ask.target
    if target is None or target >= 1.0:
        return _exact(ask, "recall 1 asked for" if target else "no recall to reach")
    share = ask.passing / max(1, ask.rows)
    cell = None if info.curve is None else info.curve.at(ask.k, share)
    if cell is None:
        return _exact(ask, _unmeasured(ask, info, share))
    return _cheapest(ask, cell, target, share, failed)


def _cheapest(ask: Ask, cell: Cell, target: float, share: float, failed: Failed | None) -> Way:
    exact_s = None if cell.exact is None else cell.exact.seconds(ask.queries)
    why_not = ""
    best: Setting | None = None
    for setting in cell.choices:  # none takes longer than a later one
        if setting.point.low < target:
            continue
        out = None if failed is None else failed(setting, cell)
        if out is None:
            best = setting
            break
        why_not = out
    if best is None:
        at = "" if share >= 1.0 else f" at selectivity {share:.2g}"
        reason = f"no setting reaches {target:g}{at}: exact scan"
        reason += f"; {why_not}" if why_not else ""
        return _exact(ask, reason, exact_s, cell)
    point, best_s = best.point, best.point.seconds(ask.queries)
    if exact_s is not None and exact_s <= best_s:
        return _exact(ask, _faster(ask, share), exact_s, cell)
    less = f"; with less effort {why_not}" if why_not else ""
    at = "" if cell.selectivity == 1.0 else f" at selectivity {cell.selectivity:g} and above"
    return Way(
        kind="index",
        params=point.params,
        k=min(max(ask.k, cell.k), max(ask.k, ask.passing)),
        recall=point.recall,
        low=point.low,
        seconds=best_s,
        reason=f"curve: recall {point.recall:.3f} [{point.low:.3f}]{at}{less}",
        cell=cell,
        setting=best,
    )


def _as_told(ask: Ask, info: IndexInfo, params: Params) -> Way:
    """Return the index with the caller's knobs, and what was measured of these, if it was."""
    cell = info.curve and info.curve.at(ask.k, ask.passing / max(1, ask.rows))
    points = {} if not cell else {params_key(p.params): p for p in cell.settings if p.params}
    point = points.get(params_key(params))
    return Way(
        kind="index",
        params=params,
        k=ask.k,
        recall=None if point is None else point.recall,
        low=None if point is None else point.low,
        seconds=None if point is None else point.seconds(ask.queries),
        reason="params as given",
    )


def _exact(ask: Ask, reason: str, seconds: float | None = None, cell: Cell | None = None) -> Way:
    return Way(kind="exact", k=ask.k, seconds=seconds, reason=reason, cell=cell)


def _faster(ask: Ask, share: float) -> str:
    if share < 1.0:
        return f"only {ask.passing:,} rows pass: exact scan is faster"
    return f"exact scan is faster for {ask.queries:,} queries"


def _unmeasured(ask: Ask, info: IndexInfo, share: float) -> str:
    if info.curve is None or not info.curve.points:
        return "index without a measured curve: exact scan"
    if info.curve.measured_k(ask.k) is None:
        return f"k={ask.k:,} is larger than any measured: exact scan"
    return f"only {ask.passing:,} rows pass, fewer than were measured: exact scan"
