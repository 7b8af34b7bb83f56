"""Batch jobs on a cluster of processes: clients, workers and schedulers may end in the middle."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress

import dask
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv

DIM = 8
WAIT_S = 180


def rows(count, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, DIM)).astype(np.float32)
    flat = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), DIM)
    return pa.table({"id": np.arange(count), "v": flat})


def filled(db, count=3000):
    items = db.create_collection("items", data=rows(count), primary_key="id")
    items.flush()
    items.insert({"id": [count, count + 1], "v": np.zeros((2, DIM), np.float32)})  # in the log only
    return items


def receipts(place, job):
    found = sorted((place / "job-work" / job.id).glob("part-*.json"))
    return [json.loads(path.read_bytes()) for path in found]


def until(holds):
    deadline = time.monotonic() + WAIT_S
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_job_gives_the_rows_of_collect_and_all_workers_make_parts(db, tmp_path):
    items = filled(db)
    frame = items.filter("id % 7 != 0").search(rows(800, seed=1), k=5)
    job = frame.submit(tmp_path / "out", part_rows=20)
    assert job.wait(WAIT_S).to_arrow().equals(frame.collect().to_arrow())
    assert len(receipts(tmp_path, job)) == 40
    assert len({receipt["worker"] for receipt in receipts(tmp_path, job)}) > 1


def test_without_a_wanted_size_a_worker_measures(db, tmp_path):
    frame = filled(db).search(rows(5000, seed=2), k=2)
    job = frame.submit(tmp_path / "out")
    assert job.wait(WAIT_S).to_arrow().equals(frame.collect().to_arrow())
    assert len(receipts(tmp_path, job)) >= 2


@pytest.mark.slow
def test_a_job_goes_on_when_the_client_that_submitted_it_is_killed(cluster, connect, tmp_path):
    items = filled(connect())
    pq.write_table(rows(900, seed=3), tmp_path / "q.parquet", row_group_size=100)
    code = (
        "import sys, os, gpuvec as gv\n"
        "db = gv.connect(sys.argv[1], cluster=sys.argv[2])\n"
        "job = db['items'].search(sys.argv[1] + '/q.parquet', k=3, query_id='id')"
        ".submit(sys.argv[1] + '/out', part_rows=15)\n"
        "print(job.id, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    words = [sys.executable, "-c", code, str(tmp_path), cluster.scheduler_address]
    told = subprocess.run(words, capture_output=True, text=True, check=False)
    assert told.stdout, told.stderr
    job = connect().job(told.stdout.strip())
    wanted = items.search(str(tmp_path / "q.parquet"), k=3, query_id="id").collect()
    assert job.wait(WAIT_S).to_arrow().equals(wanted.to_arrow())


@pytest.mark.slow
def test_cancel_and_resume_reach_the_cluster(db, connect, tmp_path):
    frame = filled(db).search(rows(600, seed=4), k=3)
    job = frame.submit(tmp_path / "out", part_rows=3)
    until(lambda: job.progress > 0)
    connect().job(job.id).cancel()
    with pytest.raises(gv.JobError, match="GV-775"):
        job.wait(WAIT_S)
    assert job.progress < 1
    job.resume()
    assert job.wait(WAIT_S).to_arrow().equals(frame.collect().to_arrow())


def test_a_failing_part_is_told_to_the_client(db, tmp_path):
    pq.write_table(rows(100, seed=5), tmp_path / "q.parquet")
    frame = filled(db).search(str(tmp_path / "q.parquet"), k=3, query_id="id")
    (tmp_path / "out").mkdir()
    job = frame.submit(tmp_path / "out" / "inner", part_rows=10)
    job.cancel()
    pq.write_table(rows(101, seed=5), tmp_path / "q.parquet")
    job.resume()
    with pytest.raises(gv.JobError, match="GV-773"):
        job.wait(WAIT_S)


@pytest.mark.slow
def test_collections_without_room_on_one_worker_are_searched_by_all(tmp_path):
    from gpuvec.cluster import launch

    with dask.config.set({"gpuvec.job-memory": 1000}):
        made = launch.local(2, threads_per_worker=1)
    try:
        with gv.connect(tmp_path, cluster=made) as db:
            items = filled(db)
            frame = items.filter("id % 5 != 1").search(rows(300, seed=8), k=4)
            job = frame.submit(tmp_path / "out", part_rows=30)
            assert job.wait(WAIT_S).to_arrow().equals(frame.collect().to_arrow())
    finally:
        made.close()


@pytest.fixture
def own(tmp_path):
    """A cluster of this test alone, whose processes it may kill."""
    from gpuvec.cluster import launch

    made = launch.local(2, threads_per_worker=1)
    yield made
    made.close()


@pytest.mark.slow
def test_a_killed_worker_costs_no_part(own, tmp_path):
    with gv.connect(tmp_path, cluster=own) as db:
        frame = filled(db).search(rows(900, seed=6), k=3)
        job = frame.submit(tmp_path / "out", part_rows=10)
        until(lambda: receipts(tmp_path, job))
        victim = next(iter(own.workers.values()))
        os.kill(victim.pid, signal.SIGKILL)
        assert job.wait(WAIT_S).to_arrow().equals(frame.collect().to_arrow())
        assert len(receipts(tmp_path, job)) == 90


class Processes:
    """A scheduler and two workers as processes of their own, on a port that stays."""

    def __init__(self, place):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.address = f"tcp://127.0.0.1:{self.port}"
        self._env = {**os.environ, "DASK_GPUVEC__DATABASES": json.dumps([str(place)])}
        self.scheduler = self.begin_scheduler()
        self._workers = [self._begin("worker", self.address, *WORKER) for _ in range(2)]

    def begin_scheduler(self):
        words = ["--host", "127.0.0.1", "--port", str(self.port), "--no-dashboard"]
        return self._begin("scheduler", *words, "--preload", "gpuvec.cluster.preload")

    def _begin(self, *words):
        command = [sys.executable, "-m", "dask", *words]
        return subprocess.Popen(command, env=self._env, start_new_session=True)

    def close(self):
        for process in [self.scheduler, *self._workers]:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # nannies have processes of their own
            process.wait()


def answers(port):
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


WORKER = (
    "--no-dashboard", "--nthreads", "1", "--worker-class",
    "gpuvec.cluster.grace_worker.GraceWorker",
)  # fmt: skip


@pytest.mark.slow
def test_a_job_goes_on_after_its_scheduler_was_killed_with_nobody_connected(tmp_path):
    processes = Processes(tmp_path)
    try:
        until(lambda: answers(processes.port))
        with gv.connect(tmp_path, cluster=processes.address) as db:
            frame = filled(db).search(rows(900, seed=7), k=3)
            job = frame.submit(tmp_path / "out", part_rows=10)
            until(lambda: receipts(tmp_path, job))
            wanted = frame.collect().to_arrow()
        processes.scheduler.kill()
        processes.scheduler.wait()
        done = {receipt["part"]: receipt for receipt in receipts(tmp_path, job)}
        assert len(done) < 90
        processes.scheduler = processes.begin_scheduler()
        until(lambda: len(receipts(tmp_path, job)) == 90)
        until(lambda: (tmp_path / "job-work" / job.id / "done.json").exists())
        found = gv.frame(str(tmp_path / "out" / "part-*.parquet")).collect().to_arrow()
        assert found.equals(wanted)
        again = {receipt["part"]: receipt for receipt in receipts(tmp_path, job)}
        assert {part: again[part] for part in done} == done
    finally:
        processes.close()
