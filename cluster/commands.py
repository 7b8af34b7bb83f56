"""What `gpuvec cluster …` does: starts the processes of a cluster, and asks one how it is."""

import json
import os
import signal
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dask
from dask.system import CPU_COUNT
from distributed.security import Security

from gpuvec import errors
from gpuvec.cluster import cards, launch, view
from gpuvec.cluster.certs import tls_settings

PORT = 8786
DASHBOARD = ":8787"
_ENVIRONMENT = "DASK_INTERNAL_INHERIT_CONFIG"  # settings of a process for those that it starts
_LOOK_S = 10.0
_WATCH_S = 1.0
_NEVER = "365 days"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """How the processes of a cluster are started.

    Attributes:
        databases: held open whether or not a client asks.
        storage_options: of their store.
        replicas: nodes that hold each segment.
        host: address that processes listen on.
        port: of the scheduler.
        dashboard: address of the HTTP pages.
        tls: folder of certificates; None: connections are plain.
        retire_api: whether the HTTP pages let anybody retire workers, as Kubernetes' operator does.
    """

    databases: tuple[str, ...] = ()
    storage_options: Mapping[str, Any] | None = None
    replicas: int = 1
    host: str = "127.0.0.1"
    port: int = PORT
    dashboard: str = DASHBOARD
    tls: Path | None = None
    retire_api: bool = False

    def settings(self) -> dict[str, Any]:
        """Return the settings of Dask that say all that."""
        found = dict(launch.SETTINGS)
        found["gpuvec.databases"] = [_absolute(url) for url in self.databases]
        found["gpuvec.replicas"] = self.replicas
        if self.storage_options:
            found["gpuvec.storage-options"] = dict(self.storage_options)
        if self.tls is not None:
            found |= tls_settings(self.tls)
        if self.retire_api:
            routes = dask.config.get("distributed.scheduler.http.routes")
            found["distributed.scheduler.http.routes"] = [*routes, "distributed.http.scheduler.api"]
        return found


def run_here(start: Start, workers: int | None, tell: Any) -> None:
    """Run a scheduler and workers on this machine until SIGINT or SIGTERM.

    Args:
        start: how.
        workers: None: one per GPU or core.
        tell: called with the cluster once it runs.

    Raises:
        UnavailableError: `GV-755`, it could not be started: the port is taken, for instance;
            `GV-758`, its scheduler ended, or the last worker did and could not be started again.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    kept = {"distributed.deploy.lost-worker-timeout": _NEVER}  # nannies are not given up
    with dask.config.set({**start.settings(), **kept}):
        cluster = launch.local(
            workers,
            host=start.host,
            scheduler_port=start.port,
            dashboard_address=start.dashboard,
            security=Security() if start.tls is not None else None,
        )
        try:
            dask.config.set({"gpuvec.workers": len(cluster.workers)})
            tell(cluster)
            while not ended.wait(_WATCH_S):
                launch.check(cluster)
        finally:
            cluster.close()


def scheduler_command(start: Start) -> list[str]:
    """Return the command that runs a scheduler, to be run with `environment`."""
    return [
        sys.executable, "-m", "distributed.cli.dask_scheduler", "--preload", launch.PRELOAD,
        "--host", _uri(start), "--port", str(start.port), "--dashboard-address", start.dashboard,
    ]  # fmt: skip


def worker_command(start: Start, scheduler: str, workers: int | None, name: str) -> list[str]:
    """Return the command that runs workers of a scheduler, to be run with `environment`.

    Args:
        start: how.
        scheduler: its address.
        workers: None: one per GPU or core.
        name: kept when they are started again, by which they find what they held.
    """
    common = [scheduler, "--host", start.host, "--worker-class", launch.WORKER]
    common += ["--name", name] if name else []
    if cards.visible_cards():
        return [sys.executable, "-m", "dask_cuda.cli", *common, *cards.worker_options()]
    count = workers or CPU_COUNT
    threads = max(1, CPU_COUNT // count)
    counts = ["--nworkers", str(count), "--nthreads", str(threads)]
    return [sys.executable, "-m", "distributed.cli.dask_worker", *common, *counts]


def retire(address: str, names: Sequence[str]) -> list[str]:
    """Have workers hand over what they own and hold, then end; return those that did.

    Raises:
        UnavailableError: as `status`.
    """
    link = launch.attach(address)
    try:
        done = link.client.retire_workers(names=list(names), close_workers=True)
    finally:
        link.release()
    return [str(about["name"]) for about in done.values()]


def environment(start: Start) -> dict[str, str]:
    """Return the environment in which those commands know how they are started."""
    with dask.config.set(start.settings()):
        return {**os.environ, _ENVIRONMENT: dask.config.serialize(dask.config.global_config)}


def become(command: Sequence[str], variables: Mapping[str, str]) -> None:
    """Run a command in the place of this process."""
    sys.stdout.flush()
    os.execve(command[0], list(command), dict(variables))


def status(address: str) -> view.State:
    """Return what the coordinator of a cluster knows; see `gpuvec.cluster.view`.

    Args:
        address: of the scheduler, or of its HTTP pages.

    Raises:
        UnavailableError: `GV-743` no coordinator, `GV-744` nobody there, `GV-798` no HTTP pages.
    """
    pages = address
    if not address.startswith(("http://", "https://")):
        link = launch.attach(address)
        try:
            pages = link.dashboard
        finally:
            link.release()
    url = pages.rstrip("/").removesuffix("/status").removesuffix("/gpuvec") + "/gpuvec/state"
    try:
        with urllib.request.urlopen(url, timeout=_LOOK_S) as answer:
            found: dict[str, Any] = json.load(answer)
    except (OSError, ValueError) as error:  # HTTP's errors are OSErrors
        raise errors.no_status_page(address, str(error)) from None
    return found


def _uri(start: Start) -> str:
    return f"{'tls' if start.tls is not None else 'tcp'}://{start.host}"


def _absolute(url: str) -> str:
    return url if "://" in url else os.path.abspath(url)
