"""Puts a node into a Dask worker. The scheduler registers it, so every worker has it.

`setup` must neither fail nor wait: Dask would count the worker as running all the same. It installs
handlers and starts a thread; whether the node can work is what its own `Hello` tells.
"""

import asyncio
import socket
import threading
import warnings
from typing import Any

import dask
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.worker import get_worker

from gpuvec import errors
from gpuvec.cluster import observe
from gpuvec.cluster.internals import incarnation_of, memory_limit_of, threads_of
from gpuvec.cluster.node_engine import NodeEngine
from gpuvec.cluster.node_host import NodeHost
from gpuvec.cluster.service import Lane, Service
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import Hello
from gpuvec.settings import config
from gpuvec.types import NodeId

NAME = "gpuvec-node"
_SHARE = 0.6  # of a worker's memory that segments may take; tasks have the rest
_MEMORY = 4 << 30  # of a worker without a limit
_WARNINGS = (
    errors.RecallWarning, errors.CastWarning, errors.CacheWarning, errors.FallbackWarning
)  # fmt: skip

_hosts: dict[str, NodeHost] = {}  # of the workers of this process, by their ids
_hosts_lock = threading.Lock()


class SegmentHost(WorkerPlugin):
    """The node of one worker."""

    name = NAME

    def setup(self, worker: Any) -> None:
        """Answer the cluster's messages from now on."""
        for kind in _WARNINGS:  # given anew at each call: they travel to the caller
            warnings.simplefilter("always", kind)
        threads = threads_of(worker)
        if not worker.address.startswith("inproc") and config.origin("threads") == "default":
            config.set(threads=threads)  # the other cores are other workers'
        node = NodeId(str(worker.name))
        service = Service(node, threads={Lane.READ: max(2, threads)})
        hello = Hello(
            node=node,
            incarnation=incarnation_of(worker),
            address=worker.address,
            host=socket.gethostname(),
            memory_bytes=int(_SHARE * (memory_limit_of(worker) or _MEMORY)),
            threads=threads,
            group=dask.config.get("gpuvec.group", ""),
        )
        security = worker.security.get_connection_args("worker")
        transport = DaskTransport(worker.scheduler.address, connection_args=security)
        self.host = NodeHost(hello, transport, service)
        service.mount(worker)
        with _hosts_lock:
            _hosts[worker.id] = self.host
        self._watch = observe.watch_worker(worker)
        self.host.start()

    async def teardown(self, worker: Any) -> None:
        """Hand over what is owned here, then end."""
        self._watch.close()
        await asyncio.to_thread(self.host.leave)
        with _hosts_lock:
            _hosts.pop(worker.id, None)


def node_here() -> NodeHost:
    """Return the node of the worker that runs the calling task.

    Raises:
        UnavailableError: `GV-750`, the worker is no node of gpuvec.
    """
    worker = get_worker()
    host = _hosts.get(worker.id)
    if host is None:
        raise errors.no_service(str(worker.name), worker.address)
    return host


def engine_of(identity: str) -> NodeEngine:
    """Return the engine of a database on the worker that runs the calling task.

    Raises:
        UnavailableError: `GV-750`, the worker is no node of gpuvec; `GV-754`, the database is not
            open.
    """
    return node_here().engine_of(identity)
