"""Connections to Dask servers that calls share: one attempt each, and none is left open."""

import asyncio
from collections.abc import Mapping
from typing import Any

from distributed.comm.core import Comm

from gpuvec.cluster.internals import open_connection

MAX_IDLE = 64  # kept per address; a burst of calls leaves no more behind


class Connections:
    """The connections of one event loop; used on it only.

    Args:
        arguments: of the cluster's security, as Dask hands them to its own connections.
        connect_s: for an address to answer at all, dead ones do not.
    """

    def __init__(self, arguments: Mapping[str, Any], *, connect_s: float) -> None:
        self._arguments = dict(arguments)
        self._connect_s = connect_s
        self._idle: dict[str, list[Comm]] = {}
        self._busy: set[Comm] = set()
        self._connecting: set[asyncio.Task[Any]] = set()
        self._closed = False

    async def take(self, address: str, timeout_s: float) -> Comm:
        """Return a connection that nobody else uses.

        Args:
            address: of a scheduler or worker.
            timeout_s: for both to agree how they talk; a busy process needs longer for that.

        Raises:
            OSError: there is none to have.
            ValueError: that is no address.
        """
        if self._closed:
            raise OSError("these connections were closed")
        idle = self._idle.get(address, [])
        comm = idle.pop() if idle else None
        while comm is not None and comm.closed():
            comm = idle.pop() if idle else None
        if comm is None:
            comm = await self._open(address, timeout_s)
        self._busy.add(comm)
        return comm

    async def _open(self, address: str, timeout_s: float) -> Comm:
        task = asyncio.current_task()
        assert task is not None
        self._connecting.add(task)
        try:
            return await open_connection(
                address, self._arguments, connect_s=self._connect_s, timeout_s=timeout_s
            )
        except asyncio.CancelledError:
            if not self._closed:
                raise
            task.uncancel()
            raise OSError("these connections were closed") from None
        finally:
            self._connecting.discard(task)

    def give(self, address: str, comm: Comm) -> None:
        """Let others use a connection again, unless it is closed or there are enough."""
        self._busy.discard(comm)
        idle = self._idle.setdefault(address, [])
        if self._closed or len(idle) >= MAX_IDLE:
            comm.abort()
        elif not comm.closed():
            idle.append(comm)

    async def close(self) -> None:
        """Close all, and break off attempts to connect: what uses them gets an `OSError`."""
        self._closed = True
        for task in list(self._connecting):
            task.cancel()
        opened = [comm for comms in self._idle.values() for comm in comms]
        opened += self._busy
        self._idle.clear()
        await asyncio.gather(*(comm.close() for comm in opened))
