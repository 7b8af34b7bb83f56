"""All that gpuvec uses of Dask's dashboard beside its documented interface.

Each use has a contract test in `tests/on_dask/test_dashboard_internals.py`.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import wraps
from typing import Any

Document = Any  # a Bokeh document
Page = Callable[[Any, Mapping[str, Any], Document], None]  # (scheduler, template values, document)

_nav: list[str] = []  # pages in the bar at the top, behind Dask's own


def add_pages(pages: Mapping[str, Page], nav: Sequence[str]) -> None:
    """Give schedulers that start later in this process these pages, and entries in the bar.

    Args:
        pages: by path: `/collections`. One below `/individual-` is listed in JupyterLab too.
        nav: names of pages for the bar, which are their paths without the slash.

    Raises:
        ImportError: the dashboard cannot be shown: Bokeh is missing or another release.
    """
    from distributed.dashboard import scheduler as dashboard

    dashboard.applications.update(pages)
    _nav.extend(name for name in nav if name not in _nav)
    if not hasattr(dashboard.template_variables, "with_gpuvec"):
        dashboard.template_variables = _with_nav(dashboard.template_variables)


def _with_nav(original: Callable[[Any], dict[str, Any]]) -> Callable[[Any], dict[str, Any]]:
    @wraps(original)
    def template_variables(scheduler: Any) -> dict[str, Any]:
        found = original(scheduler)
        return {**found, "pages": [*found["pages"], *(p for p in _nav if p not in found["pages"])]}

    template_variables.with_gpuvec = True  # type: ignore[attr-defined]
    return template_variables


def show(
    document: Document,
    component: Any,
    *,
    title: str,
    values: Mapping[str, Any],
    period_ms: int,
) -> None:
    """Make a component with `root` and `update()` the content of a page in Dask's frame."""
    from distributed.dashboard import components
    from distributed.dashboard.components.scheduler import BOKEH_THEME, env

    component.update()
    again: Any = components.add_periodic_callback
    again(document, component, period_ms)
    document.title = title
    document.add_root(component.root)
    document.template = env.get_template("simple.html")
    document.template_variables.update(values)
    document.theme = BOKEH_THEME


def add_routes(server: Any, routes: Sequence[tuple[str, type, Mapping[str, Any]]]) -> None:
    """Let a scheduler's HTTP server answer more paths."""
    server.http_application.add_handlers(r".*", list(routes))


def dashboard_port(server: Any) -> int | None:
    """Return the port of a scheduler's HTTP server; None while it has none."""
    return getattr(server.http_server, "port", None) if hasattr(server, "http_server") else None
