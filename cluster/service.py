"""Answers calls in a Dask process: a table from message class to function, run on threads.

Mounted alike on schedulers and workers. Their event loop, which also keeps heartbeats alive, never
runs a function; each lane has threads of its own, so that neither a compaction nor a burst of
searches holds up a lease.
"""

import asyncio
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from enum import StrEnum
from typing import Any

from gpuvec import errors, telemetry
from gpuvec.cluster.internals import install_handler
from gpuvec.cluster.wire import alone, pack, unpack
from gpuvec.types import NodeId

OP = "gpuvec"
Function = Callable[[Any, float], Any]  # (message, seconds left) to reply

_logger = logging.getLogger("gpuvec.cluster")


class Lane(StrEnum):
    """What calls of one kind wait for only among themselves."""

    CONTROL = "control"  # quick: leases, routes, names
    PLAN = "plan"  # looks at manifests
    READ = "read"
    WRITE = "write"
    WORK = "work"  # minutes: flush, build, compaction, hand-over


THREADS = {Lane.CONTROL: 4, Lane.PLAN: 8, Lane.READ: 4, Lane.WRITE: 16, Lane.WORK: 8}
MAX_WAITING = 1024  # calls of one lane that wait or run


class Service:
    """The functions of one host, by the class of the message that they answer.

    Args:
        name: what callers mean; a call meant for another is refused, so that an address which went
            to another process does no harm.
        threads: of each lane, where they differ from `THREADS`.

    Attributes:
        limit: calls of one lane that wait or run; more are refused.
    """

    def __init__(self, name: NodeId, *, threads: Mapping[Lane, int] | None = None) -> None:
        self.name = name
        self.limit = MAX_WAITING
        self._functions: dict[str, tuple[Function, Lane]] = {}  # by the name of the class
        self._waiting = dict.fromkeys(Lane, 0)
        self._threads = {**THREADS, **(threads or {})}
        self._pools = {
            lane: ThreadPoolExecutor(count, thread_name_prefix=f"gpuvec-{lane}")
            for lane, count in self._threads.items()
        }

    def serve(self, table: Mapping[type, Function], *, lane: Lane = Lane.CONTROL) -> None:
        """Answer messages of these classes with these functions, which keep the deadline."""
        self._functions.update({k.__name__: (function, lane) for k, function in table.items()})

    def mount(self, server: Any) -> None:
        """Answer the calls that reach a scheduler or a worker."""
        install_handler(server, OP, self.answer)

    def threads(self, lane: Lane) -> int:
        """Return on how many threads the calls of a lane run."""
        return self._threads[lane]

    def waiting(self, lane: Lane) -> int:
        """Return how many calls of a lane wait or run."""
        return self._waiting[lane]

    async def answer(self, **call: Any) -> dict[str, Any]:
        """Answer one call; every error of a function travels back to the caller."""
        deadline = time.monotonic() + call["deadline_s"]
        if call["to"] != self.name:
            return _failed(errors.no_such_node(call["to"]))
        known = self._functions.get(call["kind"])
        if known is None:
            return _failed(errors.not_served(self.name, call["kind"]))
        function, lane = known
        if self._waiting[lane] >= self.limit:
            telemetry.QUOTA_REFUSALS.add()
            return _failed(errors.too_busy(self.name, self._waiting[lane]))
        self._waiting[lane] += 1
        try:
            loop = asyncio.get_running_loop()
            try:
                running = loop.run_in_executor(
                    self._pools[lane], self._run, function, call, deadline
                )
            except RuntimeError:  # closed: the process is about to end
                return _failed(errors.no_such_node(self.name))
            return await running
        finally:
            self._waiting[lane] -= 1

    def close(self) -> None:
        """Begin no more calls; those under way end on their own."""
        for pool in self._pools.values():
            pool.shutdown(wait=False, cancel_futures=True)

    def _run(self, function: Function, call: Mapping[str, Any], deadline: float) -> dict[str, Any]:
        left_s = deadline - time.monotonic()
        if left_s <= 0:  # it waited too long: its caller is gone
            return _failed(errors.deadline_passed(f"a thread of {self.name}", call["deadline_s"]))
        try:
            with telemetry.continued(call.get("trace")):
                return {"ok": True, **pack(function(unpack(call), left_s))}
        except errors.GpuvecError as error:
            return _failed(error)
        except Exception as error:
            _logger.exception("%s failed at %s", call["kind"], self.name)
            return _failed(error)


def _failed(error: Exception) -> dict[str, Any]:
    try:
        return {"ok": False, **pack(alone(error))}
    except Exception:  # it holds what does not pickle
        return {"ok": False, **pack(RuntimeError(f"{type(error).__name__}: {error}"))}
