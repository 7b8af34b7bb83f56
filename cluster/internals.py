"""All of distributed that its documentation does not promise. Each use has a contract test.

Nothing else in gpuvec reaches below the documented interface of Dask, so an upgrade that breaks
something breaks `tests/on_dask/test_internals.py`.
"""

import asyncio
import pickle
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from distributed.comm import Comm
from distributed.core import ConnectionPool, Status, send_recv
from distributed.protocol.serialize import ToPickle

Rpc = Callable[..., Awaitable[Any]]


def install_handler(server: Any, op: str, answer: Rpc) -> None:
    """Let a scheduler or worker answer calls for `op`; the keys of a call are its arguments.

    `answer` must be a coroutine function that returns a dict: anything else breaks the connection.
    """
    server.handlers[op] = answer


def beside_message(buffers: Sequence[memoryview]) -> Any:
    """Wrap buffers so that they travel as frames of their own, without being copied.

    Schedulers, which unpack nothing else, unpack these too.
    """
    return ToPickle(tuple(pickle.PickleBuffer(buffer) for buffer in buffers))


def new_pool(connection_args: Mapping[str, Any], *, connect_s: float) -> ConnectionPool:
    """Return connections that give up on a dead address after `connect_s`, not 30 s.

    Made and used in a running event loop; `await pool.start()` first.
    """
    return ConnectionPool(connection_args=dict(connection_args), timeout=connect_s)


async def take_connection(pool: ConnectionPool, address: str) -> Comm:
    """Return a connection that nobody else uses; `OSError` if there is none to have."""
    return await pool.connect(address)


def give_connection(pool: ConnectionPool, address: str, comm: Comm) -> None:
    """Let others use the connection again."""
    pool.reuse(address, comm)


async def exchange(comm: Comm, op: str, message: Mapping[str, Any]) -> Any:
    """Send a call and return the answer; None from a server that has no handler for `op`.

    A call that is cancelled closes its connection.
    """
    return await send_recv(comm, op=op, **message)


def is_closing(server: Any) -> bool:
    """Return whether a scheduler or worker is on its way out."""
    return server.status in (Status.closing, Status.closed, Status.failed, Status.stopping)


def run_beside(work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    """Start a coroutine on the running loop; the caller keeps the task, or it may be collected."""

    async def _run() -> None:
        await work()

    return asyncio.get_running_loop().create_task(_run())
