"""Workers leave while reads and writes go on: whoever asks for it, others take over first."""

import json
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

import dask
import numpy as np
import pytest
from distributed import Client

import gpuvec as gv
from gpuvec.cluster import launch

ROWS, DIM = 3000, 8
LEFT_S = 150.0
VECTORS = np.random.default_rng(1).normal(size=(ROWS, DIM)).astype("float32")

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    """Six workers; each test lets one or two of them go."""
    routes = dask.config.get("distributed.scheduler.http.routes")
    with dask.config.set(
        {"distributed.scheduler.http.routes": [*routes, "distributed.http.scheduler.api"]}
    ):
        made = launch.local(6, threads_per_worker=1)
        yield made
        made.close()


@pytest.fixture
def items(cluster, tmp_path) -> Iterator[gv.Collection]:
    """A collection in several segments, one of them still in the log."""
    with gv.connect(tmp_path / "shop", cluster=cluster) as db:
        schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(DIM)}, primary_key="id")
        items = db.create_collection("items", schema)
        for first in range(0, ROWS, 1000):
            rows = slice(first, first + 1000)
            items.insert({"id": np.arange(first, first + 1000), "v": VECTORS[rows]})
            if first < 2000:
                items.flush()
        yield items


@contextmanager
def under_load(items: gv.Collection) -> Iterator[list[int]]:
    """Search and write all the time; afterwards all went well. Yields the keys written."""
    expected = items.search(VECTORS[:4], k=3).collect()["id"].tolist()
    written: list[int] = []
    failed: list[BaseException] = []
    ending = threading.Event()

    def work(step: Callable[[], None]) -> None:
        while not ending.is_set():
            try:
                step()
            except BaseException as error:
                failed.append(error)
                return

    def search() -> None:
        assert items.search(VECTORS[:4], k=3).collect()["id"].tolist() == expected

    def write() -> None:
        key = 10_000 + len(written)
        items.insert({"id": [key], "v": [[1000.0] * DIM]})  # far from all others by cosine too
        written.append(key)
        time.sleep(0.02)

    threads = [threading.Thread(target=work, args=(step,)) for step in (search, write)]
    for thread in threads:
        thread.start()
    try:
        yield written
    finally:
        ending.set()
        for thread in threads:
            thread.join(60)
    assert failed == []
    assert items.count() == ROWS + len(written)


def state(cluster: Any) -> dict[str, Any]:
    with urllib.request.urlopen(urljoin(cluster.dashboard_link, "gpuvec/state")) as answer:
        found: dict[str, Any] = json.load(answer)
    return found


def owner_of(cluster: Any, items: gv.Collection) -> str:
    for database in state(cluster)["databases"].values():
        for about in database["collections"].values():
            if about["name"] == items.name and about["owner"] is not None:
                return str(about["owner"])
    raise AssertionError("nobody owns it")


def gone(cluster: Any, name: str) -> None:
    """Wait until a node has left."""
    end = time.monotonic() + LEFT_S
    while name in state(cluster)["nodes"]:
        assert time.monotonic() < end, f"{name} is still there"
        time.sleep(0.1)


def dask_name(worker: str) -> Any:
    """Return the name that Dask knows a node by: local clusters number their workers."""
    return int(worker) if worker.isdigit() else worker


def test_by_a_client_the_owner_leaves_and_nothing_fails(cluster, items):
    owner = owner_of(cluster, items)
    with under_load(items), Client(cluster, set_as_default=False) as client:
        client.retire_workers(names=[dask_name(owner)], close_workers=True)
        gone(cluster, owner)
    assert owner_of(cluster, items) != owner


def test_by_http_as_kubernetes_operator_does(cluster, items):
    owner = owner_of(cluster, items)
    [address] = [a["address"] for n, a in state(cluster)["nodes"].items() if n == owner]
    body = json.dumps({"workers": [address]}).encode()
    request = urllib.request.Request(
        urljoin(cluster.dashboard_link, "api/v1/retire_workers"), body,
        {"Content-Type": "application/json"},
    )  # fmt: skip
    with under_load(items):
        with urllib.request.urlopen(request, timeout=LEFT_S) as answer:
            assert answer.status == 200
        gone(cluster, owner)
    assert owner_of(cluster, items) != owner


def test_by_the_command_line(cluster, items):
    owner = owner_of(cluster, items)
    line = ["cluster", "retire", owner, "--cluster", cluster.scheduler_address]
    with under_load(items):
        done = subprocess.run(
            [sys.executable, "-m", "gpuvec.cli", *line], capture_output=True, text=True
        )
        assert done.stdout.strip() == f"retired: {owner}", done.stderr
        gone(cluster, owner)


def test_at_the_end_of_its_lifetime(cluster, items):
    command = [
        sys.executable, "-m", "distributed.cli.dask_worker", cluster.scheduler_address,
        "--worker-class", launch.WORKER, "--nthreads", "1", "--name", "brief",
        "--lifetime", "45s",
    ]  # fmt: skip
    with under_load(items):
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            end = time.monotonic() + LEFT_S
            while "brief" not in state(cluster)["nodes"]:
                assert time.monotonic() < end
                time.sleep(0.1)
            gone(cluster, "brief")
        finally:
            process.terminate()
            process.wait(30)


def test_by_adaptive_scaling(cluster, items):
    before = len(state(cluster)["nodes"])
    with under_load(items):
        adaptive = cluster.adapt(minimum=1, maximum=before - 1, interval="200ms", wait_count=1)
        try:
            end = time.monotonic() + LEFT_S
            while len(state(cluster)["nodes"]) >= before:
                assert time.monotonic() < end
                time.sleep(0.1)
        finally:
            adaptive.stop()
