"""What gpuvec relies on of Dask's dashboard, and what no documentation promises."""

import asyncio

from bokeh.document import Document
from distributed import Scheduler, Worker
from distributed.dashboard import scheduler as dashboard
from distributed.dashboard.components.scheduler import BOKEH_THEME, env

from gpuvec.cluster import dashboard_internals


class Plain:
    """Has what Dask asks a scheduler for when it makes the bar."""

    jupyter = False


def test_pages_are_looked_up_by_path_when_a_scheduler_starts():
    assert callable(dashboard.applications["/status"])
    dashboard_internals.add_pages({"/test-page": lambda *_: None}, [])
    assert "/test-page" in dashboard.applications
    del dashboard.applications["/test-page"]


def test_the_bar_is_made_of_names_that_a_function_of_the_module_returns():
    dashboard_internals.add_pages({}, ["test-page"])
    found = dashboard.template_variables(Plain())
    assert found["pages"][0] == "status"
    assert found["pages"].count("test-page") == 1
    dashboard_internals._nav.remove("test-page")
    assert "test-page" not in dashboard.template_variables(Plain())["pages"]


def test_there_are_a_frame_for_pages_and_a_theme():
    assert "plot_div" in env.loader.get_source(env, "simple.html")[0]
    assert BOKEH_THEME is not None


def test_a_component_is_asked_again_and_again():
    calls = []

    class Component:
        def __init__(self) -> None:
            from bokeh.models import Div

            self.root = Div()

        def update(self) -> None:
            calls.append(1)

    document, component = Document(), Component()
    dashboard_internals.show(document, component, title="x", values={}, period_ms=50)
    [callback] = document.session_callbacks
    assert callback.period == 50
    callback.callback()
    assert len(calls) == 2


def test_metrics_of_a_worker_arrive_as_they_were_sent():
    async def run() -> None:
        async with Scheduler(host="127.0.0.1", port=0, dashboard_address=None) as scheduler:
            worker = Worker(scheduler.address, name="w0")
            worker.metrics["gpuvec-test"] = lambda _: {"readings": [["a", ["b"], 1.5, []]]}
            async with worker:
                [state] = scheduler.workers.values()
                await worker.heartbeat()
                assert state.metrics["gpuvec-test"] == {"readings": (("a", ("b",), 1.5, ()),)}
                assert str(state.name) == "w0"
                assert state.memory_limit > 0
                assert isinstance(state.extra, dict)

    asyncio.run(run())
