"""The charts of gpuvec's dashboard pages."""

from collections.abc import Callable
from typing import Any, NamedTuple

from gpuvec.cluster.view import Line

MOST_BARS = 25
_BAR_PX = 24
_FRAME_PX = 90
_COLOURS = {"value": "#2c7fb8", "of": "#dfe7ee", "low": "#7a8794", "target": "#d95f0e"}
_NUMBERS = {"bytes": "0.0 b", "share": "0 %", "count": "0,0"}


class Bar(NamedTuple):
    """A labelled value, perhaps of a whole that is drawn behind it."""

    label: str
    value: float
    of: float = 0.0


class Bars:
    """Horizontal bars, as many as fit on a page; those that come first win.

    Args:
        title: above.
        unit: `bytes`, `share` or `count`.
        read: from the scheduler to bars.
    """

    def __init__(self, title: str, unit: str, read: Callable[[Any], list[Bar]]) -> None:
        from bokeh.models import (
            AdaptiveTicker,
            ColumnDataSource,
            FactorRange,
            HoverTool,
            NumeralTickFormatter,
        )
        from bokeh.plotting import figure

        self._title = title
        self._read = read
        self._source = ColumnDataSource({"label": [], "value": [], "of": []})
        self._range = FactorRange(factors=[])
        numbers = _NUMBERS[unit]
        self.root: Any = figure(
            title=title, y_range=self._range, height=_FRAME_PX, sizing_mode="stretch_width",
            toolbar_location=None, tools="",
        )  # fmt: skip
        for name in ("of", "value"):
            self.root.hbar(
                y="label", right=name, height=0.7, source=self._source, color=_COLOURS[name]
            )
        self.root.add_tools(HoverTool(tooltips=[("", "@label"), (title, f"@value{{{numbers}}}")]))
        x_range: Any = self.root.x_range
        x_range.start = 0
        if unit == "bytes":
            powers = [2**n for n in range(10)]
            self.root.xaxis.ticker = AdaptiveTicker(base=1024, mantissas=powers)
        self.root.xaxis.formatter = NumeralTickFormatter(format=numbers)
        self.root.ygrid.visible = False
        self.root.xaxis.minor_tick_line_color = None

    def update(self, scheduler: Any) -> None:
        """Show what there is now."""
        found = self._read(scheduler)
        bars = found[:MOST_BARS]
        labels = [bar.label for bar in bars]
        data: dict[str, Any] = {
            "label": labels,
            "value": [bar.value for bar in bars],
            "of": [bar.of for bar in bars],
        }
        if data == self._source.data:
            return
        more = f" (the first {MOST_BARS} of {len(found):,})" if len(found) > len(bars) else ""
        self.root.title.text = self._title + more
        unique = list(dict.fromkeys(labels))
        self._range.factors = unique[::-1]
        self.root.height = _FRAME_PX + _BAR_PX * len(unique)
        self._source.data = data


class RecallPlot:
    """The recall of each index: what was measured, the end of its interval, what is wanted.

    Args:
        read: from the scheduler to lines of `gpuvec.cluster.view.recall_lines`.
    """

    def __init__(self, read: Callable[[Any], list[Line]]) -> None:
        from bokeh.models import ColumnDataSource, FactorRange
        from bokeh.plotting import figure

        self._read = read
        keys = ("index", "recall", "low", "target")
        self._source = ColumnDataSource({key: [] for key in keys})
        self._range = FactorRange(factors=[])
        self.root: Any = figure(
            title="Measured recall", y_range=self._range, height=_FRAME_PX,
            sizing_mode="stretch_width", toolbar_location=None, tools="",
        )  # fmt: skip
        source = self._source
        self.root.segment(
            x0="low", x1="recall", y0="index", y1="index", source=source,
            line_width=3, color=_COLOURS["low"], legend_label="down to the lower end (95 %)",
        )  # fmt: skip
        self.root.scatter(
            x="recall", y="index", source=source, size=11, color=_COLOURS["value"],
            legend_label="measured",
        )  # fmt: skip
        self.root.scatter(
            x="target", y="index", source=source, size=16, marker="dash", angle=1.5708,
            line_width=3, color=_COLOURS["target"], legend_label="wanted",
        )  # fmt: skip
        self.root.ygrid.visible = False
        self.root.add_layout(self.root.legend[0], "right")

    def update(self, scheduler: Any) -> None:
        """Show what there is now."""
        lines = [line for line in self._read(scheduler) if line["recall"] is not None][:MOST_BARS]
        data: dict[str, Any] = {
            "index": [line["index"] for line in lines],
            "recall": [line["recall"] for line in lines],
            "low": [_or(line["low"], line["recall"]) for line in lines],
            "target": [_or(line["target"], float("nan")) for line in lines],
        }
        if data["index"] == self._source.data["index"] and str(data) == str(self._source.data):
            return
        self._range.factors = list(dict.fromkeys(data["index"]))[::-1]
        self.root.height = max(160, _FRAME_PX + _BAR_PX * len(self._range.factors))
        self.root.x_range.start = min([0.9, *data["low"]]) - 0.02
        self.root.x_range.end = 1.01
        self._source.data = data


def _or(value: float | None, other: float) -> float:
    return other if value is None else value
