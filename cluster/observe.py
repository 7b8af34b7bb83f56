"""Ties dashboard, metrics, health pages and events to Dask's processes, and unties them again."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

from distributed.diagnostics.plugin import SchedulerPlugin

from gpuvec import telemetry
from gpuvec.cluster import dashboard_internals, http_routes, metrics, view
from gpuvec.events import Event, event_of

TOPIC = "gpuvec"  # of events, for `client.get_events` and `subscribe_topic`

_log = logging.getLogger("gpuvec.cluster")
_schedulers: set[str] = set()  # ids of those that this process has


def prepare() -> None:
    """Give schedulers that start later in this process gpuvec's pages. May be called again.

    Without Bokeh there is no dashboard at all; Dask says so itself.
    """
    try:
        from gpuvec.cluster import dashboard

        dashboard.install()
    except ImportError as error:
        _log.info("no dashboard: %s", error)


class Watch:
    """What was tied; `close` unties it. May be called again."""

    def __init__(self, *ends: Callable[[], None]) -> None:
        self._ends = list(ends)

    def close(self) -> None:
        """Untie it all."""
        while self._ends:
            self._ends.pop()()


def watch_scheduler(scheduler: Any, state: Callable[[], view.State]) -> Watch:
    """Show the coordinator of a scheduler; called on its event loop.

    Args:
        scheduler: of Dask.
        state: see `gpuvec.cluster.view`; called on the event loop, so it must be quick.
    """
    view.tell_state(scheduler, state)
    dashboard_internals.add_routes(scheduler, http_routes.routes(scheduler))
    _schedulers.add(str(scheduler.id))
    plugin = _EventPlugin()
    scheduler.add_plugin(plugin, name=plugin.name)

    def forward(event: Event) -> None:
        if not event.node:
            message = _message(event, "")
            scheduler.loop.add_callback(scheduler.log_event, TOPIC, message)

    def untie() -> None:
        view.tell_state(scheduler, None)
        _schedulers.discard(str(scheduler.id))
        if plugin.name in scheduler.plugins:
            scheduler.remove_plugin(name=plugin.name)

    return Watch(
        untie,
        telemetry.EVENTS.listen(forward),
        metrics.watch_scheduler(scheduler, lambda: view.state_of(scheduler)),
    )


def watch_worker(worker: Any) -> Watch:
    """Send what a worker counts and what happens there to its scheduler."""

    def forward(event: Event) -> None:
        if not event.node and not _schedulers:  # a scheduler in this process hears it itself
            worker.log_event(TOPIC, _message(event, str(worker.name)))

    return Watch(telemetry.EVENTS.listen(forward), metrics.watch_worker(worker))


class _EventPlugin(SchedulerPlugin):
    """Keeps the workers' events where the coordinator's own are."""

    name = "gpuvec-events"

    def log_event(self, topic: Any, msg: Any) -> None:
        """See `SchedulerPlugin.log_event`."""
        if topic == TOPIC and isinstance(msg, Mapping) and msg.get("process") != metrics.PROCESS:
            telemetry.EVENTS.take(event_of(msg["event"]))


def _message(event: Event, node: str) -> dict[str, Any]:
    """Return an event as values that every serializer takes."""
    values = event.to_dict()
    values["node"] = node
    values["details"] = {name: _plain(value) for name, value in event.details.items()}
    return {"process": metrics.PROCESS, "event": values}


def _plain(value: Any) -> Any:
    if value is None or type(value) in (bool, int, float, str):
        return value
    return value.item() if hasattr(value, "item") else str(value)
