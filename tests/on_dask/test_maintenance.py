"""Builds, compactions and imports as tasks on worker processes, which may be killed meanwhile."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from distributed import Client

import gpuvec as gv
from gpuvec.cluster import launch, view

DIM = 16
WAIT_S = 180


def rows(start, stop):
    vectors = np.random.default_rng(start).standard_normal((stop - start, DIM)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    return pa.table({"id": np.arange(start, stop), "v": flat})


@pytest.fixture(autouse=True)
def all_is_worth_the_way(monkeypatch):
    monkeypatch.setenv("GPUVEC_CLUSTER__TASK_BYTES", "0")


@pytest.fixture
def own():
    """A cluster of three processes for one test, which may kill them."""
    made = launch.local(3, threads_per_worker=1)
    yield made
    made.close()


@pytest.fixture
def db(own, tmp_path):
    with gv.connect(tmp_path / "db", cluster=own) as made:
        yield made


def until(holds):
    deadline = time.monotonic() + WAIT_S
    while not (found := holds()):
        assert time.monotonic() < deadline, "it did not come"
        time.sleep(0.01)
    return found


def orders(cluster):
    plugin = cluster.scheduler.plugins["gpuvec-coordinator"]
    return list(plugin.coordinator._workshop._orders.values())


def worker_of_task(cluster):
    """Return the node that does a work now, None while nobody does."""
    for order in orders(cluster):
        task = cluster.scheduler.tasks.get(order.task.key)
        if task is not None and task.processing_on is not None:
            return str(task.processing_on.name)
    return None


def pids(cluster):
    with Client(cluster, set_as_default=False) as client:
        found = client.run(lambda dask_worker: (str(dask_worker.name), os.getpid()))
    return dict(found.values())


def owner(cluster, name):
    for database in (
        cluster.scheduler.plugins["gpuvec-coordinator"].coordinator.state()["databases"].values()
    ):
        for collection in database["collections"].values():
            if collection["name"] == name:
                return collection["owner"]
    return None


def filled(db, *sizes):
    items, start = None, 0
    for size in sizes:
        table = rows(start, start + size)
        if items is None:
            items = db.create_collection("items", data=table, primary_key="id")
        else:
            items.insert(table)
        items.flush()
        start += size
    return items


def indexed(items):
    return [len(segment.indexes) for segment in items._engine.state(items._id).segments.values()]


def check(items, count):
    assert items.count() == count
    query = rows(0, 20)["v"].combine_chunks().flatten().to_numpy().reshape(-1, DIM)
    found = items.search(query, k=1, exact=True).to_arrow()["id"].to_pylist()
    assert found == list(range(20))


def test_indexes_compactions_and_imports_are_tasks_of_workers(own, db, tmp_path):
    items = filled(db, 300, 300)
    items.create_index("id", gv.index.Sorted())
    assert indexed(items) == [1, 1]
    assert "perform" in own.scheduler.task_prefixes  # of `work_tasks`
    items.delete(ids=[0])
    items.compact()
    assert items.count() == 599
    pq.write_table(rows(600, 700), tmp_path / "more.parquet")
    assert items.bulk_import(tmp_path / "more.parquet").inserted == 100
    assert items.count() == 699


def test_what_is_worth_a_segment_is_saved_when_the_last_client_leaves(cluster, tmp_path):
    with gv.connect(tmp_path / "db", cluster=cluster) as db:
        items = db.create_collection("items", data=rows(0, 10), primary_key="id")
        items.insert(rows(10, 70_000))
    with gv.connect(tmp_path / "db") as db:
        items = db["items"]
        segments = items._engine.state(items._id).segments.values()
        assert sum(segment.row_count for segment in segments) == 70_000


@pytest.mark.slow
def test_a_worker_that_is_killed_while_it_builds_costs_nothing_but_time(own, db):
    items = filled(db, 15_000, 15_000)
    job = items.create_index("v", gv.index.HNSW(m=16, ef_construction=200), wait=False)
    held = owner(own, "items")
    until(lambda: worker_of_task(own))
    shown = own.scheduler.plugins["gpuvec-coordinator"].coordinator.state()
    lines = view.job_lines(shown)
    assert {line["what"] for line in lines} == {"index of v, 15,000 rows"}
    assert {line["status"] for line in lines} == {"running"}
    victim = until(lambda: (found := worker_of_task(own)) and found != held and found)
    os.kill(pids(own)[victim], signal.SIGKILL)
    job.wait(WAIT_S)
    assert indexed(items) == [1, 1]
    check(items, 30_000)


@pytest.mark.slow
def test_an_owner_that_is_killed_before_it_installs_is_made_good(own, db):
    items = filled(db, 15_000)
    items.create_index("v", gv.index.HNSW(m=16, ef_construction=100), wait=False)
    until(lambda: any(order.task.done() for order in orders(own)) or indexed(items) == [1])
    os.kill(pids(own)[owner(own, "items")], signal.SIGKILL)
    items.insert(rows(15_000, 15_010))  # has a next owner named, which builds what is wanted
    until(lambda: indexed(items) == [1])
    check(items, 15_010)


@pytest.mark.slow
def test_a_compaction_whose_worker_is_killed_is_done_once(own, db):
    items = filled(db, *[4000] * 3)
    items.delete(ids=list(range(6000, 12_000, 2)))
    before = items.count()
    done = threading.Thread(target=items.compact)
    done.start()
    victim = until(lambda: worker_of_task(own) or not done.is_alive())
    if victim is not True and victim != owner(own, "items"):
        os.kill(pids(own)[victim], signal.SIGKILL)
    done.join()
    assert items.count() == before
    ids = items.select("id").to_arrow()["id"].to_pylist()
    assert len(ids) == len(set(ids)) == before


class Processes:
    """A scheduler and two workers, as an operator starts them."""

    def __init__(self, folder):
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self.started = []
        self.start_scheduler()
        for name in ("w1", "w2"):
            self._start(
                name, "worker", self.address, "--name", name, "--nthreads", "1", "--no-dashboard",
                "--worker-class", "gpuvec.cluster.grace_worker.GraceWorker",
                "--local-directory", str(folder),
            )  # fmt: skip

    def start_scheduler(self):
        self.scheduler = self._start(
            "scheduler", "scheduler", "--host", "127.0.0.1", "--port", str(self.port),
            "--no-dashboard", "--preload", "gpuvec.cluster.preload",
        )  # fmt: skip

    def _start(self, name, *arguments):
        with open(self.folder / f"{name}.log", "ab") as log:
            made = subprocess.Popen(
                [sys.executable, "-m", "dask", *arguments],
                stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        self.started.append(made)
        return made

    def end(self):
        for process in self.started:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_a_scheduler_that_is_killed_while_indexes_are_built_is_waited_for(tmp_path):
    processes = Processes(tmp_path)
    try:
        db = until(lambda: connected(processes, tmp_path / "db"))
        items = filled(db, 15_000, 15_000)
        items.create_index("v", gv.index.HNSW(m=16, ef_construction=100), wait=False)
        time.sleep(1.0)
        os.kill(processes.scheduler.pid, signal.SIGKILL)
        processes.scheduler.wait()
        items.insert(rows(30_000, 30_010))  # the log needs no coordinator
        time.sleep(2.0)
        processes.start_scheduler()
        items.insert(rows(30_010, 30_020))  # has an owner named, if the one before is gone
        until(lambda: indexed(items)[:2] == [1, 1])
        check(items, 30_020)
        db.close()
    finally:
        processes.end()


def connected(processes, path):
    try:
        return gv.connect(path, cluster=processes.address)
    except gv.UnavailableError:
        return None
