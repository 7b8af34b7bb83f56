"""Calls to the processes of a Dask cluster: direct, pooled, each with a deadline.

Connections and the loop they live in are this transport's own, so a call works from any thread, and
neither a busy event loop of Dask nor a dead node's address holds it up.
"""

import asyncio
import threading
import time
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from distributed.comm.core import Comm

from gpuvec import errors, telemetry
from gpuvec.cluster.connections import Connections
from gpuvec.cluster.internals import exchange
from gpuvec.cluster.service import OP
from gpuvec.cluster.wire import pack, unpack
from gpuvec.cluster_messages import COORDINATOR
from gpuvec.types import NodeId

CONNECT_S = 1.2  # to a dead address; a packet that was lost is sent again after a second
_HANDSHAKE_S = 2.0


class DaskTransport:
    """Carries messages between the processes of one cluster. Safe for use by several threads.

    Args:
        scheduler: the address at which the coordinator answers.
        connection_args: of the cluster's security, as Dask hands them to its own connections.
    """

    def __init__(self, scheduler: str, *, connection_args: Mapping[str, Any] | None = None) -> None:
        self._addresses: dict[NodeId, str] = {COORDINATOR: scheduler}
        self._lock = threading.Lock()
        self._closed = False
        self._loop = asyncio.new_event_loop()
        ready: Future[None] = Future()
        self._thread = threading.Thread(
            target=self._serve, args=(dict(connection_args or {}), ready), daemon=True,
            name="gpuvec-calls",
        )  # fmt: skip
        self._thread.start()
        ready.result()

    def learn(self, node: NodeId, address: str) -> None:
        """Note where a node answers now."""
        self._addresses[node] = address

    def address_of(self, node: NodeId) -> str | None:
        """Return where a node answers, as far as it is known."""
        return self._addresses.get(node)

    def call(self, node: NodeId, message: Any, *, deadline_s: float) -> Any:
        """See `gpuvec.rpc.Transport.call`; not from a coroutine, which it would hold up.

        Raises:
            UnavailableError: `GV-610` or `GV-750` nobody there, nothing was done; `GV-751` the
                connection broke, the outcome is unknown.
            DeadlineError: `GV-611`.
        """
        return self.submit(node, message, deadline_s=deadline_s).result()

    def submit(self, node: NodeId, message: Any, *, deadline_s: float) -> Future[Any]:
        """Begin a call; the future ends as `call` would. Cancelling it closes its connection."""
        fields = {"to": node, "kind": type(message).__name__, **pack(message)}
        if headers := telemetry.carrier():
            fields["trace"] = headers
        with self._lock:
            if self._closed:
                raise errors.no_such_node(node)
            call = self._call(node, fields, time.monotonic() + deadline_s, deadline_s)
            return asyncio.run_coroutine_threadsafe(call, self._loop)

    def close(self) -> None:
        """End the calls under way, which raise `GV-751`, and close all connections."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            self._loop.call_soon_threadsafe(self._ending.set)
        self._thread.join()

    def _serve(self, connection_args: dict[str, Any], ready: "Future[None]") -> None:
        with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
            runner.run(self._main(connection_args, ready))

    async def _main(self, connection_args: dict[str, Any], ready: "Future[None]") -> None:
        self._ending = asyncio.Event()
        self._pool = Connections(connection_args, connect_s=CONNECT_S)
        ready.set_result(None)
        await self._ending.wait()
        await self._pool.close()  # which breaks off what is under way
        if under_way := asyncio.all_tasks() - {asyncio.current_task()}:
            await asyncio.wait(under_way, timeout=1)

    async def _call(
        self, node: NodeId, fields: dict[str, Any], deadline: float, deadline_s: float
    ) -> Any:
        address = self._addresses.get(node)
        if address is None:
            raise errors.no_such_node(node)
        comm = await self._connect(node, address, deadline)
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                left = max(0.0, deadline - time.monotonic())
                reply = await exchange(comm, OP, {**fields, "deadline_s": left})
        except TimeoutError:
            raise errors.deadline_passed(node, deadline_s) from None
        except OSError as error:
            raise errors.connection_lost(node, str(error)) from None
        finally:
            self._pool.give(address, comm)
        if reply is None:
            raise errors.no_service(node, address)
        value = unpack(reply)
        if reply["ok"]:
            return value
        raise value

    async def _connect(self, node: NodeId, address: str, deadline: float) -> Comm:
        limit_s = min(_HANDSHAKE_S, deadline - time.monotonic())
        try:
            return await self._pool.take(address, limit_s)
        except (OSError, ValueError) as error:  # TimeoutError is an OSError
            raise errors.no_such_node(node) from error
