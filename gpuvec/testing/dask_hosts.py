"""Dask servers in a thread of the test, with a service on them."""

import asyncio
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from distributed.core import Server

from gpuvec.cluster.service import Lane, Service
from gpuvec.types import NodeId


class Host:
    """A plain Dask server in a thread of its own.

    Attributes:
        service: mounted on it.
        server: of Dask.
        address: where it answers.
    """

    service: Service

    def __init__(self, *, deserialize: bool = True) -> None:
        self._deserialize = deserialize
        self._ready = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()))
        self._thread.start()
        self._ready.wait()

    async def _main(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.stopped = asyncio.Event()
        self.server = Server({}, deserialize=self._deserialize)
        await self.server.listen("tcp://127.0.0.1:0")
        await self.server.start()
        self.address = self.server.address
        self._ready.set()
        await self.stopped.wait()
        await self.server.close()

    def stop(self) -> None:
        """End the server and its thread."""
        if self._thread.is_alive():
            self.loop.call_soon_threadsafe(self.stopped.set)
            self._thread.join()


@contextmanager
def host(
    name: str, *, deserialize: bool = True, threads: Mapping[Lane, int] | None = None
) -> Iterator[Host]:
    """Yield a server in a thread, with a service of that name; schedulers do not deserialize."""
    made = Host(deserialize=deserialize)
    made.service = service = Service(NodeId(name), threads=threads)
    service.mount(made.server)
    try:
        yield made
    finally:
        service.close()
        made.stop()
