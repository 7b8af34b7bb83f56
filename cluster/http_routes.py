"""HTTP pages of the coordinator for machines: is it healthy, is it ready, what does it know.

Beside Dask's own `/health`, which says that the scheduler's process answers, and no more.
"""

import json
from collections.abc import Callable
from typing import Any

from tornado import web

from gpuvec import telemetry
from gpuvec.cluster import view

_MOST_EVENTS = 1000
_PREFIX = r"(?:/.*)?/gpuvec"  # whatever prefix the dashboard has


def routes(scheduler: Any) -> list[tuple[str, type[web.RequestHandler], dict[str, Any]]]:
    """Return the routes of a scheduler, for its HTTP application."""
    ask: dict[str, Callable[[], view.State]] = {"ask": lambda: view.state_of(scheduler)}
    return [
        (_PREFIX + "/health", _Health, ask),
        (_PREFIX + "/ready", _Ready, ask),
        (_PREFIX + "/state", _State, ask),
        (_PREFIX + "/events", _Events, ask),
    ]


class _Page(web.RequestHandler):
    def initialize(self, ask: Callable[[], view.State]) -> None:
        self.ask = ask

    def tell(self, values: Any, *, works: bool = True) -> None:
        """Answer with JSON; 503 asks load balancers and Kubernetes to look again later."""
        self.set_status(200 if works else 503)
        self.set_header("Content-Type", "application/json; charset=utf-8")
        self.set_header("Cache-Control", "no-store")
        self.write(json.dumps(values, default=str))


class _Health(_Page):
    """200 as long as the coordinator answers at all."""

    def get(self) -> None:
        state = self.ask()
        self.tell({"coordinator": bool(state)}, works=bool(state))


class _Ready(_Page):
    """200 once databases are recovered and a node has reported."""

    def get(self) -> None:
        state = self.ask()
        ready = bool(state.get("ready"))
        reason = "" if ready else state.get("reason") or "the coordinator has not started"
        generations = {
            identity: known.get("generation")
            for identity, known in (state.get("databases") or {}).items()
        }
        nodes = len(state.get("nodes") or {})
        self.tell(
            {"ready": ready, "reason": reason, "nodes": nodes, "generations": generations},
            works=ready,
        )


class _State(_Page):
    """Everything that the dashboard shows."""

    def get(self) -> None:
        self.tell(self.ask())


class _Events(_Page):
    """The newest events of the cluster, oldest first; `?limit=100`."""

    def get(self) -> None:
        text = self.get_query_argument("limit", "100")
        if not text.isdigit() or int(text) > _MOST_EVENTS:
            self.set_status(400)
            self.finish({"error": f"limit must be a number up to {_MOST_EVENTS}, got {text!r}"})
            return
        self.tell([event.to_dict() for event in telemetry.EVENTS.newest(int(text))])
