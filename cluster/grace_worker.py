"""A Dask worker that goes on answering while its scheduler is away.

A stock worker ends as soon as the connection to its scheduler breaks. This one stops its heartbeats
and keeps serving direct calls until a scheduler accepts connections again, or `gpuvec.grace` of
Dask's configuration, 5 minutes, is over; then it ends, and its nanny starts a fresh one. A
scheduler that closes in order tells its workers to end, and they do.
"""

import asyncio
import random
import time
from typing import Any

import dask
from dask.utils import parse_timedelta
from distributed import Nanny, Worker

from gpuvec.cluster.internals import can_connect, is_closing, stop_heartbeats

_LOOK_S = 0.5
_SPREAD_S = 1.0  # so that not all workers start anew at once
_GRACE = "5 minutes"


class GraceWorker(Worker):
    """See the module; for `dask worker --worker-class` and for `GraceNanny`."""

    async def handle_scheduler(self, comm: Any) -> None:
        """Serve the scheduler, then outlive it; see `distributed.Worker`."""
        try:
            await self.handle_stream(comm)
        finally:
            if not is_closing(self):
                await self._outlive()
            await self.close(nanny=False, reason="gpuvec-grace-over")

    async def _outlive(self) -> None:
        stop_heartbeats(self)
        grace = parse_timedelta(dask.config.get("gpuvec.grace", _GRACE))
        until_s = time.monotonic() + grace
        while time.monotonic() < until_s and not is_closing(self):
            await asyncio.sleep(_LOOK_S)
            if await can_connect(self):
                await asyncio.sleep(random.uniform(0, _SPREAD_S))
                return


class GraceNanny(Nanny):
    """A nanny of a `GraceWorker`, for cluster objects that take a class of workers."""

    def __init__(self, *args: Any, **options: Any) -> None:
        options["worker_class"] = GraceWorker
        super().__init__(*args, **options)
