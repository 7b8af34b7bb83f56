"""Pages of gpuvec on Dask's dashboard: collections, segments, nodes, jobs, recall, memory.

Each is a line about the cluster, a chart of the largest, and a table of all.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from gpuvec.cluster import view
from gpuvec.cluster.charts import Bar, Bars, RecallPlot
from gpuvec.cluster.dashboard_internals import add_pages, show
from gpuvec.cluster.memory_view import MEMORY, memory_bars, memory_lines

NAV = "gpuvec"  # in the bar at the top; leads to the first page
PERIOD_MS = 1000
_ROW_PX = 25
_SCRIPTS = {  # from a number to what people read, in the browser
    "recall": "value.toFixed(4)",
    "seconds": (
        "value < 1 ? (1000 * value).toPrecision(3) + ' ms' : value < 120 ? value.toPrecision(3) +"
        " ' s' : value < 7200 ? (value / 60).toFixed(0) + ' min' : value < 172800 ?"
        " (value / 3600).toFixed(0) + ' h' : (value / 86400).toFixed(0) + ' days'"
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class PageSpec:
    """What a page shows.

    Attributes:
        name: with `gpuvec-` before it, its path.
        lines: of the table, from the scheduler.
        chart: makes what stands above the table; it has `root` and `update(scheduler)`.
        empty: what is said when there are no lines.
    """

    name: str
    columns: tuple[view.Column, ...]
    lines: Callable[[Any], list[view.Line]]
    chart: Callable[[], Any]
    empty: str


def _of_state(read: Callable[[view.State], Any]) -> Callable[[Any], Any]:
    return lambda scheduler: read(view.state_of(scheduler))


def _collection_bars(state: view.State) -> list[Bar]:
    return [Bar(line["collection"], line["bytes"]) for line in view.collection_lines(state)]


def _segment_bars(state: view.State) -> list[Bar]:
    return [Bar(node, size) for node, size in sorted(view.held_bytes(state).items())]


def _node_bars(state: view.State) -> list[Bar]:
    lines = view.node_lines(state)
    return [Bar(line["node"], line["memory_used"], line["memory_bytes"]) for line in lines]


def _job_bars(state: view.State) -> list[Bar]:
    return [Bar(line["id"], line["progress"], 1.0) for line in view.job_lines(state)]


PAGES = (
    PageSpec(
        name="collections",
        columns=view.COLLECTIONS,
        lines=_of_state(view.collection_lines),
        chart=lambda: Bars("Size of segment files", "bytes", _of_state(_collection_bars)),
        empty="No collection is open on this cluster.",
    ),
    PageSpec(
        name="segments",
        columns=view.SEGMENTS,
        lines=_of_state(view.segment_lines),
        chart=lambda: Bars("Segments held by each node", "bytes", _of_state(_segment_bars)),
        empty="No segment is in files yet: rows are flushed from the log after a while.",
    ),
    PageSpec(
        name="nodes",
        columns=view.NODES,
        lines=_of_state(view.node_lines),
        chart=lambda: Bars("Memory of segments, and its limit", "bytes", _of_state(_node_bars)),
        empty="No node has reported yet.",
    ),
    PageSpec(
        name="jobs",
        columns=view.JOBS,
        lines=_of_state(view.job_lines),
        chart=lambda: Bars("Done", "share", _of_state(_job_bars)),
        empty="No batch job runs now; <code>db.jobs()</code> lists those that ended.",
    ),
    PageSpec(
        name="recall",
        columns=view.RECALL,
        lines=_of_state(view.recall_lines),
        chart=lambda: RecallPlot(_of_state(view.recall_lines)),
        empty="No collection has an index: every search is exact.",
    ),
    PageSpec(
        name="device-memory",
        columns=MEMORY,
        lines=memory_lines,
        chart=lambda: Bars("Memory in use", "bytes", memory_bars),
        empty="No worker has reported yet.",
    ),
)


class PageContent:
    """The content of one page, for one visitor; brought up to date by `update`.

    Args:
        scheduler: of the cluster.
        spec: what is shown.
    """

    def __init__(self, scheduler: Any, spec: PageSpec) -> None:
        from bokeh.layouts import column
        from bokeh.models import ColumnDataSource
        from bokeh.models.widgets import DataTable, Div

        self._scheduler = scheduler
        self._spec = spec
        self._heading = Div(sizing_mode="stretch_width")
        links = Div(text=_links(spec.name), sizing_mode="stretch_width")
        self._chart = spec.chart()
        self._source = ColumnDataSource({c.key: [] for c in spec.columns})
        self._table = DataTable(
            source=self._source,
            columns=[_table_column(c) for c in spec.columns],
            index_position=None,
            reorderable=False,  # would need jQuery UI, which Dask does not serve
            row_height=_ROW_PX,
            sizing_mode="stretch_width",
            height=100,
        )
        self.root = column(
            links, self._heading, self._chart.root, self._table, sizing_mode="stretch_width"
        )

    def update(self) -> None:
        """Show what there is now; nothing is sent to the browser where nothing changed."""
        lines = self._spec.lines(self._scheduler)
        shown = lines[: view.MOST_LINES]
        text = view.summary(view.state_of(self._scheduler))
        if not lines:
            text += f"<br>{self._spec.empty}"
        elif len(lines) > len(shown):
            text += f"<br>The first {len(shown):,} of {len(lines):,} are shown."
        _set(self._heading, text=text)
        data: dict[str, Any] = {c.key: [line[c.key] for line in shown] for c in self._spec.columns}
        if data != self._source.data:
            self._source.data = data
        _set(self._table, height=_ROW_PX * (2 + min(20, len(shown))), visible=bool(shown))
        self._chart.update(self._scheduler)
        _set(self._chart.root, visible=bool(lines))


def _links(here: str) -> str:
    """Return links to all pages; the bar at the top has room for one."""
    names = {spec.name: spec.name.replace("-", " ") for spec in PAGES}
    links = [
        f"<b>{text}</b>" if name == here else f'<a href="{_path(name)}">{text}</a>'
        for name, text in names.items()
    ]
    return '<div style="font-size:1.2em">' + " &ensp; ".join(links) + "</div>"


def _path(name: str) -> str:
    return f"gpuvec-{name}"


def _set(model: Any, **values: Any) -> None:
    for name, value in values.items():
        if getattr(model, name) != value:
            setattr(model, name, value)


def _table_column(column: view.Column) -> Any:
    from bokeh.models.widgets import (
        HTMLTemplateFormatter,
        NumberFormatter,
        StringFormatter,
        TableColumn,
    )

    formats = {"count": "0,0", "bytes": "0.0 b", "share": "0 %"}
    formatter: Any
    if column.kind in formats:
        formatter = NumberFormatter(format=formats[column.kind], text_align="right")
    elif column.kind in _SCRIPTS:
        shown = f"<%= value === null ? '' : {_SCRIPTS[column.kind]} %>"
        formatter = HTMLTemplateFormatter(template=f'<div style="text-align:right">{shown}</div>')
    else:
        formatter = StringFormatter()
    return TableColumn(
        field=column.key, title=column.heading, width=column.width, formatter=formatter
    )


def _page(spec: PageSpec, scheduler: Any, values: Mapping[str, Any], document: Any) -> None:
    content = PageContent(scheduler, spec)
    title = f"gpuvec: {spec.name}"
    show(document, content, title=title, values=values, period_ms=PERIOD_MS)


def install(pages: Sequence[PageSpec] = PAGES) -> None:
    """Give schedulers that start later in this process the pages, and one entry in the bar.

    Raises:
        ImportError: Bokeh is missing or another release than Dask needs.
    """
    made = {f"/{_path(spec.name)}": partial(_page, spec) for spec in pages}
    made |= {f"/individual-{_path(spec.name)}": partial(_page, spec) for spec in pages}
    add_pages({f"/{NAV}": partial(_page, pages[0]), **made}, [NAV])
