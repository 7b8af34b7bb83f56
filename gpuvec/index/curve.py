"""What an index was measured to reach: recall and time by setting, `k` and selectivity."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

from gpuvec.index.base import Params


@dataclass(frozen=True, slots=True, kw_only=True)
class CurvePoint:
    """One setting, measured in one case.

    Attributes:
        params: knobs of the index; None: the exact scan, measured beside it.
        k: neighbours asked for.
        selectivity: share of the rows that passed the filter.
        case: which rows those were: "all", "random", or "clustered" (correlated with the queries).
        recall: mean over the queries.
        low: lower end of its 95 % interval.
        high: upper end.
        queries: that were asked.
        batch_s: seconds per query, asked all at once.
        single_s: seconds per query, asked one by one.
    """

    params: Params | None
    k: int
    selectivity: float
    case: str
    recall: float
    low: float
    high: float
    queries: int
    batch_s: float
    single_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RecallCurve:
    """All points of one index over one segment.

    Attributes:
        source: where the queries came from: "held-out rows" or "given queries".
        points: in no order.
    """

    source: str
    points: tuple[CurvePoint, ...]

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal curve."""
        return {"source": self.source, "points": [asdict(point) for point in self.points]}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the curve that `to_json` wrote."""
        points = tuple(CurvePoint(**point) for point in data["points"])
        return cls(source=data["source"], points=points)
