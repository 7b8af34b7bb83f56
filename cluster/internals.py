"""All of distributed that its documentation does not promise. Each use has a contract test.

Nothing else in gpuvec reaches below the documented interface of Dask, so an upgrade that breaks
something breaks `tests/on_dask/test_internals.py`.
"""

import asyncio
import os
import pickle
import socket
import ssl
import threading
import time
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any

from distributed.batched import BatchedSend
from distributed.comm import registry
from distributed.comm.addressing import parse_address
from distributed.comm.core import Comm, connect
from distributed.core import Status, send_recv
from distributed.protocol.serialize import ToPickle
from distributed.worker_state_machine import FreeKeysEvent
from tornado.iostream import IOStream, SSLIOStream

Rpc = Callable[..., Awaitable[Any]]


def install_handler(server: Any, op: str, answer: Rpc) -> None:
    """Let a scheduler or worker answer calls for `op`; the keys of a call are its arguments.

    `answer` must be a coroutine function that returns a dict: anything else breaks the connection.
    """
    server.handlers[op] = answer


def beside_message(buffers: Sequence[Any]) -> Any:
    """Wrap arrays of bytes so that they travel as frames of their own, without being copied.

    Schedulers, which unpack nothing else, unpack these too.
    """
    return ToPickle(tuple(pickle.PickleBuffer(buffer) for buffer in buffers))


class _OneStream:
    """Stands in for the TCP client of a connector of Dask; knows the socket from its beginning.

    Tornado's own loses a stream that is ready in the moment in which its caller gives up.
    """

    stream: IOStream | None = None

    async def connect(
        self,
        host: str,
        port: int,
        *,
        max_buffer_size: int,
        ssl_options: ssl.SSLContext | None = None,
    ) -> IOStream:
        found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
        family, *_, where = found[0]
        opened = socket.socket(family)
        if ssl_options is None:
            self.stream = IOStream(opened, max_buffer_size=max_buffer_size)
            return await self.stream.connect(where)
        stream = SSLIOStream(opened, ssl_options=ssl_options, max_buffer_size=max_buffer_size)
        self.stream = stream
        return await stream.connect(where, server_hostname=host)

    def close(self) -> None:
        if self.stream is not None:
            self.stream.close()


async def open_connection(
    address: str, arguments: Mapping[str, Any], *, connect_s: float, timeout_s: float
) -> Comm:
    """Connect to a scheduler or worker in one attempt; whatever fails leaves no socket open.

    Dask's own tries again and again until its time is over, and drops attempts without closing
    them.

    Args:
        address: where.
        arguments: of the connector.
        connect_s: for the address to answer at all.
        timeout_s: for that and the exchange of what both sides can do.

    Raises:
        OSError: nobody answers there, or not in time.
        ValueError: that is no address.
    """
    scheme, place = parse_address(address)
    connector: Any = registry.get_backend(scheme).get_connector()
    client = _OneStream()
    if hasattr(connector, "client"):
        connector.client = client
    comm: Comm | None = None
    try:
        async with asyncio.timeout(timeout_s):
            async with asyncio.timeout(connect_s):
                comm = await connector.connect(place, deserialize=True, **arguments)
                assert isinstance(comm, Comm)
            await _shake_hands(comm)
            return comm
    except BaseException:
        if comm is not None:
            comm.abort()
        client.close()
        raise


async def _shake_hands(comm: Any) -> None:
    comm.local_info = {**comm.handshake_info(), "address": comm.local_address}
    await comm.write(comm.handshake_info())
    comm.remote_info = {**(await comm.read()), "address": comm.peer_address}
    comm.handshake_options = comm.handshake_configuration(comm.local_info, comm.remote_info)


async def exchange(comm: Comm, op: str, message: Mapping[str, Any]) -> Any:
    """Send a call and return the answer; None from a server that has no handler for `op`.

    A call that is cancelled closes its connection.
    """
    return await send_recv(comm, op=op, **message)


def is_closing(server: Any) -> bool:
    """Return whether a scheduler or worker is on its way out."""
    return server.status in (Status.closing, Status.closed, Status.failed, Status.stopping)


def has_ended(server: Any) -> bool:
    """Return whether a scheduler, worker or nanny will not come back."""
    return server.status in (Status.closed, Status.failed)


def run_beside(work: Callable[[], Awaitable[None]]) -> "asyncio.Task[None]":
    """Start a coroutine on the running loop; the caller keeps the task, or it may be collected."""

    async def _run() -> None:
        await work()

    return asyncio.get_running_loop().create_task(_run())


def incarnation_of(worker: Any) -> str:
    """Return what tells one start of a worker from the next, which has the same name."""
    return str(worker.id)


def threads_of(worker: Any) -> int:
    """Return the threads on which a worker runs tasks."""
    return int(worker.state.nthreads)


def memory_limit_of(worker: Any) -> int | None:
    """Return the bytes that a worker may use; None: it has no limit."""
    limit = worker.memory_manager.memory_limit
    return int(limit) if limit else None


async def register_on_workers(scheduler: Any, plugin: Any, name: str) -> None:
    """Have all workers, those to come too, run a plugin."""
    await scheduler.register_worker_plugin(None, pickle.dumps(plugin), name, idempotent=False)


def address_of_names(scheduler: Any, names: Collection[Any]) -> list[str]:
    """Return the addresses of the workers with these names."""
    wanted = {str(name) for name in names}
    return [ws.address for ws in scheduler.workers.values() if str(ws.name) in wanted]


def wrap_retirement(scheduler: Any, drain: Callable[[list[str]], Awaitable[None]]) -> None:
    """Await `drain` for the workers' addresses before a scheduler retires them.

    Adaptive scaling, `scale`, the command line, `--lifetime` and Kubernetes' operator all end here.
    """
    original = scheduler.retire_workers

    async def retire_workers(
        workers: list[str] | None = None, *, names: list[Any] | None = None, **options: Any
    ) -> Any:
        if names is not None and workers is not None:
            raise TypeError("names and workers are mutually exclusive")
        if names is not None:
            workers = address_of_names(scheduler, names)
        elif workers is None:
            chosen = ("memory_ratio", "n", "key", "minimum", "target", "attribute")
            choice = {key: options.pop(key) for key in chosen if key in options}
            workers = [str(w) for w in scheduler.workers_to_close(**choice)]
        await drain(list(workers))
        return await original(workers, **options)

    scheduler.retire_workers = retire_workers
    scheduler.handlers["retire_workers"] = retire_workers


def wrap_target(scheduler: Any, wanted: Callable[[], int]) -> None:
    """Let adaptive scaling want at least what `wanted` returns."""
    original = scheduler.adaptive_target

    def adaptive_target(target_duration: Any = None) -> int:
        return max(wanted(), int(original(target_duration)))

    scheduler.adaptive_target = adaptive_target
    scheduler.handlers["adaptive_target"] = adaptive_target


def push(scheduler: Any, topic: str, message: Mapping[str, Any]) -> None:
    """Send a message to all clients that listen to a topic; from any thread."""
    scheduler.loop.add_callback(scheduler.log_event, topic, message)


def stop_heartbeats(worker: Any) -> None:
    """Have a worker say nothing to its scheduler on its own."""
    for name in ("heartbeat", "keep-alive"):
        worker.periodic_callbacks[name].stop()


async def register_again(worker: Any) -> bool:
    """Let a worker that outlived its scheduler join the next one, as it is.

    Tasks of the former scheduler are forgotten. False: some still run, so it did not join.

    Raises:
        ValueError: the scheduler does not take it.
    """
    tasks = list(worker.state.tasks)
    worker.handle_stimulus(FreeKeysEvent(keys=tasks, stimulus_id=f"gpuvec-again-{time.time()}"))
    if worker.data or worker.state.tasks:
        return False
    worker.batched_stream = BatchedSend(interval="2ms", loop=worker.loop)
    await worker._register_with_scheduler()
    spans = worker.extensions.get("spans")
    if spans is not None:  # registering counts former tasks; the next heartbeat asserts none
        spans.digests_total_since_heartbeat = {}
    return True


async def can_connect(worker: Any) -> bool:
    """Return whether a worker's scheduler accepts connections."""
    security = worker.security.get_connection_args("worker")
    try:
        comm = await connect(worker.scheduler.address, timeout=1, **security)
    except OSError:
        return False
    await comm.close()
    return True


def before_pools_end(work: Callable[[], None]) -> None:
    """Have work done when the program ends, while thread pools still take work.

    When `atexit` calls, they no longer do: a scheduler in this process could not close its parts.
    A child that was forked leaves it to its parent: the threads that would do it are there.
    """
    mine = os.getpid()

    def here() -> None:
        if os.getpid() == mine:
            work()

    threading._register_atexit(here)  # type: ignore[attr-defined]
