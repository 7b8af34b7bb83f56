"""Starts clusters on this machine, and attaches to those that run."""

import contextlib
import multiprocessing
import os
import threading
from functools import partial
from typing import Any

from dask.system import CPU_COUNT
from distributed import Client, LocalCluster

from gpuvec import errors
from gpuvec.cluster import cards
from gpuvec.cluster.client_database import ClusterDatabase, open_database
from gpuvec.cluster.client_engine import ClusterEngine
from gpuvec.cluster.grace_worker import GraceNanny
from gpuvec.cluster.internals import before_pools_end, has_ended
from gpuvec.cluster.link import Link
from gpuvec.settings import config

PRELOAD = "gpuvec.cluster.preload"
WORKER = "gpuvec.cluster.grace_worker.GraceWorker"
SETTINGS: dict[str, Any] = {
    "distributed.scheduler.allowed-failures": 1,  # a task that kills its worker ends no others
    "distributed.scheduler.worker-ttl": "60s",
    "distributed.worker.memory.target": False,  # segments, which Dask cannot spill, are most of it
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": 0.9,
    "distributed.worker.memory.terminate": 0.97,
    "distributed.comm.timeouts.connect": "10s",
}

_CLOSE_S = 60.0

_links: dict[str, Link] = {}  # of this process, by what was asked for
_lock = threading.RLock()


def local(
    n_workers: int | None = None, *, threads_per_worker: int | None = None, **options: Any
) -> Any:
    """Start a cluster of processes on this machine: a worker per GPU, or per core.

    Args:
        n_workers: None: the setting `cluster.workers`, else one per GPU or core.
        threads_per_worker: None: the cores of this process, shared among the workers.
        options: of Dask's `LocalCluster` or `LocalCUDACluster`.

    Returns:
        Dask's cluster object; `close()` ends its processes.

    Raises:
        UnavailableError: `GV-755`, the workers did not come up; `GV-756`, a worker that imports
            the script started a cluster.
    """
    import dask

    if getattr(multiprocessing.current_process(), "_inheriting", False):
        raise errors.started_in_worker()
    wanted = n_workers or config["cluster.workers"] or None
    kind: Any = LocalCluster
    if found := cards.visible_cards():
        kind, chosen = cards.cluster_of(found, wanted, threads_per_worker)
    else:
        wanted = wanted or CPU_COUNT
        threads = threads_per_worker or max(1, CPU_COUNT // wanted)
        chosen = {"worker_class": GraceNanny, "processes": True}
        chosen |= {"n_workers": wanted, "threads_per_worker": threads}
    chosen.update({"host": "127.0.0.1", "dashboard_address": "127.0.0.1:0"})
    preloads = {"preload": [PRELOAD], "preload_argv": []}
    try:
        with dask.config.set(SETTINGS):
            return kind(scheduler_kwargs=preloads, **{**chosen, **options})
    except RuntimeError as error:
        cause = error.__cause__ or error
        raise errors.cluster_not_started(str(cause)) from error


def check(cluster: Any) -> None:
    """Raise if a cluster of this machine has ended, though nobody ended it.

    Raises:
        UnavailableError: `GV-758`, its scheduler ended, or all workers, whose nannies start them
            again unless they cannot.
    """
    if has_ended(cluster.scheduler):
        raise errors.cluster_ended("its scheduler ended; the log says why")
    if cluster.workers and all(map(has_ended, cluster.workers.values())):
        raise errors.cluster_ended("no worker is left, and none could be started again")


def attach(cluster: Any) -> Link:
    """Return a link to a cluster, to be released once; users of one cluster share it.

    Args:
        cluster: `"local"` starts one for this process; else the address of a scheduler, a
            `distributed.Client`, or a cluster object.

    Raises:
        QueryError: `GV-742`, something else.
        UnavailableError: `GV-743`, it runs without gpuvec's coordinator; `GV-744`, nobody answers;
            `GV-755`, it could not be started.
    """
    with _lock:
        if isinstance(cluster, str) and cluster == "local":
            known = _links.get("local")
            if known is None or not known.usable:
                made = local()
                known = _links["local"] = Link(made.scheduler_address, then=partial(_end, made))
            return known.use()
        address, security = _address(cluster)
        known = _links.get(address)
        if known is None or not known.usable:
            known = _links[address] = Link(address, security=security)
        return known.use()


def _end(cluster: Any) -> None:
    """End a cluster of this process; workers save what they own first, on a busy machine slowly."""
    with contextlib.suppress(TimeoutError):  # what did not end in time was killed: nothing is lost
        cluster.close(timeout=_CLOSE_S)


def _address(cluster: Any) -> tuple[str, Any]:
    if isinstance(cluster, str):
        if "://" not in cluster:
            raise errors.bad_cluster(cluster)
        return cluster, None
    if isinstance(cluster, Client):
        scheduler = cluster.scheduler
        if scheduler is None:
            raise errors.no_scheduler(repr(cluster), "the client is closed")
        return str(scheduler.address), cluster.security
    address = getattr(cluster, "scheduler_address", None)
    if not isinstance(address, str):
        raise errors.bad_cluster(cluster)
    return address, getattr(cluster, "security", None)


def open_on(cluster: Any, path: str | os.PathLike[str], **options: Any) -> ClusterDatabase:
    """Open a database on a cluster; `close` lets go of both.

    Args:
        cluster: see `attach`.
        path: of the database.
        options: see `client_database.open_database`.
    """
    link = attach(cluster)
    engines: list[ClusterEngine] = []

    def end() -> None:
        for engine in engines:
            link.forget(engine)
        link.release()

    database = open_database(path, transport=link.transport, on_close=end, **options)
    engines.append(database._engine)
    link.keep(database._engine)
    database.show_dashboard(link.dashboard)
    return database


def _close_all() -> None:
    """End the cluster that this process started, while its scheduler still has threads."""
    with _lock:
        links = list(_links.values())
        _links.clear()
    for link in links:
        with contextlib.suppress(errors.GpuvecError):
            link.end()


before_pools_end(_close_all)
