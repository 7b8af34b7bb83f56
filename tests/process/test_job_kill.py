"""A process killed in the middle of a batch job: another goes on, and each row is there once."""

import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq
import pytest

import gpuvec as gv

sys.path.insert(0, str(Path(__file__).parent))
import job_worker

WORKER = Path(job_worker.__file__)


def begin(folder, job_id=""):
    command = [sys.executable, str(WORKER), str(folder), job_id]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def receipts(folder, job_id):
    return sorted((folder / "db" / "job-work" / job_id).glob("part-*.json"))


def killed_later(worker, folder, job_id, parts):
    """Kill once `parts` more parts are done; return whether the job was done before."""
    before = len(receipts(folder, job_id))
    while worker.poll() is None and len(receipts(folder, job_id)) < before + parts:
        time.sleep(0.002)
    done = worker.poll() is not None
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    return done


def rounds(folder, seed, kills):
    rng = random.Random(seed)
    job_worker.create(str(folder))
    worker = begin(folder)
    job_id = worker.stdout.readline().strip()
    stamps = {}
    for _ in range(kills):
        if killed_later(worker, folder, job_id, rng.randint(1, 12)):
            break
        with gv.connect(folder / "db") as db:
            assert db.job(job_id).status in ("interrupted", "waiting")
        for path in receipts(folder, job_id):  # what is done is not done again
            assert stamps.setdefault(path.name, path.read_bytes()) == path.read_bytes()
        worker = begin(folder, job_id)
    worker.communicate(timeout=120)
    assert worker.returncode == 0
    with gv.connect(folder / "db") as db:
        job = db.job(job_id)
        assert job.wait(120).to_arrow().equals(job_worker.frame(db).collect().to_arrow())
        assert not list((folder / "out").glob(".*"))
    for path in receipts(folder, job_id):
        receipt = json.loads(path.read_bytes())
        file = folder / "out" / f"part-{receipt['part']:05d}.parquet"
        assert pq.read_metadata(file).num_rows == receipt["rows"]


def test_a_job_killed_again_and_again_writes_each_row_once(tmp_path):
    rounds(tmp_path, seed=1, kills=2)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(5))
def test_a_job_killed_many_times_writes_each_row_once(tmp_path, seed):
    rounds(tmp_path, seed, kills=8)
