"""`RecallReport`: how good a search is, with what shows it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gpuvec.errors import package_missing
from gpuvec.query.recall import Measured

if TYPE_CHECKING:
    from gpuvec.api.frame import Frame


@dataclass(frozen=True, slots=True, eq=False)
class RecallReport:
    """The measured recall of a search.

    Attributes:
        recall: mean over the sampled queries.
        ci95: its 95 % interval.
        worst: the lowest recall of one query.
        queries_per_second: of the search, the sample as one batch.
        per_query: a frame with `query_id`, `recall`, `found`, `wanted`, `last_distance`.
        target: the recall that was asked for, or that the indexes were made for; None: neither.
    """

    recall: float
    ci95: tuple[float, float]
    worst: float
    queries_per_second: float
    per_query: "Frame"
    target: float | None = None

    @classmethod
    def of(cls, measured: Measured) -> "RecallReport":
        """Return the report of a measurement."""
        from gpuvec.api.frame import frame

        return cls(
            measured.recall,
            measured.ci95,
            measured.worst,
            measured.queries_per_second,
            frame(measured.per_query),
            measured.target,
        )

    @property
    def falls_short(self) -> bool:
        """Whether the whole interval lies below the target."""
        return self.target is not None and self.ci95[1] < self.target

    def warning(self) -> str:
        """Return what to say when the recall falls short."""
        low, high = self.ci95
        return (
            f"recall {self.recall:.4f} on {self.per_query.count():,} queries (95 %: {low:.4f} to "
            f"{high:.4f}) is below the {self.target:g} wanted: the queries differ from those that "
            "the index was measured with; tune(field, queries=...) measures it with yours"
        )

    def plot(self, ax: Any = None) -> Any:
        """Draw how many queries reached which recall; return the Matplotlib axes.

        Raises:
            UnsupportedError: `GV-930`, Matplotlib is not installed.
        """
        try:
            import matplotlib.pyplot as plt
        except ImportError:
            raise package_missing("matplotlib", "plot()") from None
        if ax is None:
            _, ax = plt.subplots()
        values = self.per_query.to_numpy()["recall"]
        ax.hist(values, bins=20, range=(0.0, 1.0))
        ax.axvline(self.recall, linestyle="--", color="black")
        if self.target is not None:
            ax.axvline(self.target, linestyle=":", color="black")
        low, high = self.ci95
        ax.set(
            xlabel="recall",
            ylabel="queries",
            title=f"recall {self.recall:.4f} (95 %: {low:.4f} to {high:.4f})",
        )
        return ax

    def __repr__(self) -> str:
        low, high = self.ci95
        return (
            f"RecallReport(recall={self.recall:.4f}, ci95=({low:.4f}, {high:.4f}), "
            f"worst={self.worst:.4f}, queries_per_second={self.queries_per_second:,.0f})"
        )
