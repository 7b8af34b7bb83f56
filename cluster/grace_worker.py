"""A Dask worker that goes on answering while its scheduler is away, and joins the next one.

A stock worker ends as soon as the connection to its scheduler breaks, so all would start anew at
once, and nobody would answer meanwhile. This one stops its heartbeats and keeps serving direct
calls until a scheduler accepts connections again, which it joins as it is, with all it holds. Only
if tasks of the former one do not end, or after `gpuvec.grace` of Dask's configuration, 5 minutes,
it ends, and its nanny starts a fresh one. A scheduler that closes in order tells its workers to
end, and they do.
"""

import asyncio
import logging
import random
import time
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Nanny, Worker

from gpuvec.cluster.internals import can_connect, is_closing, register_again, stop_heartbeats

_LOOK_S = 0.5
_TASKS_S = 30.0  # for tasks of the former scheduler to end
_SPREAD_S = 20.0  # so that workers which must start anew do not do so at once
_GRACE = "5 minutes"

_logger = logging.getLogger("gpuvec.cluster")


class GraceWorker(Worker):
    """See the module; for `dask worker --worker-class` and for `GraceNanny`."""

    _joins_again = False

    async def handle_scheduler(self, comm: Any) -> None:
        """Serve the scheduler, then outlive it; see `distributed.Worker`."""
        joined = False
        try:
            await self.handle_stream(comm)
        finally:
            if not is_closing(self):
                joined = await self._outlive()
            if not joined:
                await self.close(nanny=False, reason="gpuvec-grace-over")

    async def plugin_add(
        self, plugin: Any, name: str | None = None, catch_errors: bool = True
    ) -> Any:
        """Start a plugin; what runs already goes on when another scheduler is joined."""
        if self._joins_again and name in self.plugins:
            return {"status": "OK"}
        return await super().plugin_add(plugin, name, catch_errors)

    async def _outlive(self) -> bool:
        """Wait for the next scheduler; return whether it was joined."""
        stop_heartbeats(self)
        grace_s = parse_timedelta(dask.config.get("gpuvec.grace", _GRACE))
        until_s = time.monotonic() + grace_s
        while time.monotonic() < until_s and not is_closing(self):
            await asyncio.sleep(_LOOK_S)
            if await can_connect(self):
                return await self._join()
        return False

    async def _join(self) -> bool:
        until_s = time.monotonic() + _TASKS_S
        self._joins_again = True
        try:
            while not is_closing(self):
                if await register_again(self):
                    return True
                if time.monotonic() > until_s:
                    _logger.warning("tasks of the former scheduler do not end: starting anew")
                    break
                await asyncio.sleep(_LOOK_S)
        except ValueError as error:
            _logger.warning("the scheduler does not take this worker: %s", error)
        finally:
            self._joins_again = False
        await asyncio.sleep(random.uniform(0, _SPREAD_S))
        return False


class GraceNanny(Nanny):
    """A nanny of a `GraceWorker`, for cluster objects that take a class of workers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["worker_class"] = GraceWorker
        super().__init__(*args, **options)
