"""A scheduler that dies and comes back, with processes started from the command line."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client

import gpuvec as gv

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]

DIM = 8


def rows(start, stop):
    vectors = np.random.default_rng([9, start]).random((stop - start, DIM), np.float32)
    flat = pa.array(vectors.ravel())
    return pa.table(
        {"id": np.arange(start, stop), "v": pa.FixedSizeListArray.from_arrays(flat, DIM)}
    )


class Processes:
    """A scheduler and two workers, as an operator starts them."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.started = []
        self.scheduler = self.start_scheduler()
        self.workers = [self._start_worker(name) for name in ("w1", "w2")]

    def _start(self, name, *arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(self.folder / f"{name}.log", "ab") as log:
            made = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                stdout=log, stderr=log, env=environment, start_new_session=True,
            )  # fmt: skip
        self.started.append(made)
        return made

    def start_scheduler(self):
        self.scheduler = self._start(
            "scheduler", "scheduler", "--host", "127.0.0.1", "--port", str(self.port),
            "--no-dashboard", "--preload", "gpuvec.cluster.preload",
        )  # fmt: skip
        return self.scheduler

    def _start_worker(self, name):
        return self._start(
            name, "worker", self.address, "--name", name, "--nthreads", "1", "--no-dashboard",
            "--worker-class", "gpuvec.cluster.grace_worker.GraceWorker",
            "--local-directory", str(self.folder),
        )  # fmt: skip

    def end(self):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGTERM)
        for process in self.started:
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()

    def logs(self):
        return {path.name: path.read_text()[-3000:] for path in self.folder.glob("*.log")}


@pytest.fixture
def processes(tmp_path):
    made = Processes(tmp_path)
    try:
        yield made
    finally:
        made.end()


def connect(processes, path, seconds=60):
    """Open a database as soon as there is a scheduler."""
    until = time.monotonic() + seconds
    while True:
        try:
            return gv.connect(path, cluster=processes.address)
        except gv.UnavailableError:
            assert time.monotonic() < until, processes.logs()
            time.sleep(0.5)


def nodes_of(dask_scheduler):
    return len(dask_scheduler.plugins["gpuvec-coordinator"].coordinator.state()["nodes"])


def wait_for_nodes(processes, count, seconds=120):
    until = time.monotonic() + seconds
    with Client(processes.address, set_as_default=False) as client:
        while client.run_on_scheduler(nodes_of) < count:
            assert time.monotonic() < until, processes.logs()
            time.sleep(0.2)


def test_reads_and_writes_go_on_while_the_scheduler_is_away_and_after_it_came_back(
    processes, tmp_path
):
    db = connect(processes, tmp_path / "db")
    wait_for_nodes(processes, 2)
    items = db.create_collection("items", data=rows(0, 100), primary_key="id")
    items.flush()
    items.insert(rows(100, 110))
    os.kill(processes.scheduler.pid, signal.SIGKILL)
    processes.scheduler.wait()
    query = np.zeros((1, DIM), np.float32)
    for _ in range(20):  # by routes that were known
        assert len(items.search(query, k=3).to_arrow()) == 3
        time.sleep(0.05)
    items.insert(rows(110, 120))  # the owner is known, and fenced by the log alone
    assert items.count() == 120
    processes.start_scheduler()
    done = threading.Event()

    def write():
        items.insert(rows(120, 130))
        done.set()

    threading.Thread(target=write, daemon=True).start()
    assert done.wait(120), processes.logs()
    assert items.count() == 130
    assert len(items.search(query, k=3).to_arrow()) == 3
    other = db.create_collection("others", data=rows(0, 10), primary_key="id")
    assert other.count() == 10
    db.close()
