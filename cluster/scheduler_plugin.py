"""Puts the coordinator into a Dask scheduler."""

import asyncio
import pickle
import time
from typing import Any

import dask
from distributed.diagnostics.plugin import SchedulerPlugin

from gpuvec.cluster import observe
from gpuvec.cluster.coordinator import Coordinator
from gpuvec.cluster.internals import (
    is_closing,
    push,
    register_on_workers,
    wrap_retirement,
    wrap_target,
)
from gpuvec.cluster.jobs import TaskRunner, Tasks
from gpuvec.cluster.opening import reference
from gpuvec.cluster.segment_host import NAME, SegmentHost
from gpuvec.cluster.service import Service
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster.work_tasks import workshop
from gpuvec.cluster_messages import COORDINATOR, RouteDelta

TOPIC = "gpuvec-route"
_DRAIN_S = 120.0  # less than what Kubernetes' operator waits for
_PUSHED_S = 0.2  # for routes without a node to reach the clients


class CoordinatorPlugin(SchedulerPlugin):
    """Tells the coordinator whose connection broke.

    Args:
        scheduler: in which it will live; `begin` comes next.
    """

    name = "gpuvec-coordinator"

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self._service = Service(COORDINATOR)
        self.coordinator: Coordinator | None = None

    async def begin(self) -> None:
        """Begin to coordinate; handlers are there before any worker is."""
        scheduler = self._scheduler
        security = scheduler.security.get_connection_args("scheduler")
        self._transport = DaskTransport(scheduler.address, connection_args=security)
        databases = [
            reference(url, dask.config.get("gpuvec.storage-options", None))
            for url in dask.config.get("gpuvec.databases", [])
        ]
        self._tasks = Tasks(scheduler.address, scheduler.security)
        self.coordinator = Coordinator(
            self._transport,
            self._tell,
            databases=databases,
            replicas=int(dask.config.get("gpuvec.replicas", 1)),
            groups=dask.config.get("gpuvec.groups", None),
            runner=lambda identity: TaskRunner(self._tasks, identity),
            workshop=workshop(self._tasks),
            end=lambda: scheduler.loop.add_callback(scheduler.close),
        )
        self.coordinator.serve(self._service)
        self._service.mount(scheduler)
        self._watch = observe.watch_scheduler(scheduler, self._state)
        wrap_retirement(scheduler, self._drain)
        wrap_target(scheduler, self.coordinator.wanted_workers)
        await register_on_workers(scheduler, SegmentHost(), NAME)

    def _tell(self, delta: RouteDelta) -> None:
        if not is_closing(self._scheduler):
            push(self._scheduler, TOPIC, {"delta": pickle.dumps(delta, protocol=5)})

    def _state(self) -> dict[str, Any]:
        coordinator = self.coordinator
        if coordinator is None:  # it ends
            return {}
        return {**coordinator.state(), "workers_wanted": dask.config.get("gpuvec.workers", 0)}

    def remove_worker(self, scheduler: Any, worker: str, **_: Any) -> None:
        """See `SchedulerPlugin.remove_worker`."""
        if self.coordinator is not None:
            self.coordinator.lost(worker)

    async def _drain(self, addresses: list[str]) -> None:
        """Have others take over what workers own and hold, before they are retired."""
        coordinator = self.coordinator
        assert coordinator is not None
        nodes = [node for a in addresses if (node := coordinator.node_at(a)) is not None]
        if not nodes:
            return
        for node in nodes:
            coordinator.drain(node)
        until_s = time.monotonic() + _DRAIN_S
        while time.monotonic() < until_s and not all(coordinator.drained(n) for n in nodes):
            await asyncio.sleep(0.05)
        await asyncio.sleep(_PUSHED_S)

    async def before_close(self) -> None:
        """Let go of the databases while the scheduler still answers."""
        await self._end()

    async def close(self) -> None:
        """See `SchedulerPlugin.close`."""
        await self._end()

    async def _end(self) -> None:
        coordinator, self.coordinator = self.coordinator, None
        if coordinator is None:
            return
        self._watch.close()
        await asyncio.to_thread(coordinator.close)
        await asyncio.to_thread(self._tasks.close)
        self._service.close()
        self._transport.close()
