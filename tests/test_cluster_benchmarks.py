"""The benchmarks of a cluster run from data to verdict, on few rows."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def figures(module, line):
    told = [sys.executable, "-m", f"benchmarks.{module}", *line.split()]
    done = subprocess.run(told, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_what_a_search_costs_on_a_cluster_is_measured_beside_the_same_answers():
    found = figures("cluster", "--rows 4000 --rounds 1 --queries 1 20 --workers 2")
    lines = [line for name, line in found.items() if name.startswith("exact search")]
    assert len(lines) == 3
    assert all(line["same answer"] for line in lines)
    assert all(line["nodes' work ms"] > 0 for line in lines)


@pytest.mark.slow
def test_what_a_job_costs_is_measured_on_one_worker_and_on_several():
    found = figures("cluster_job", "--rows 4000 --queries 1500 --workers 2")
    runs = [run for name, runs in found.items() if "worker" in name for run in runs]
    assert len(runs) == 6
    assert {run["answers"] for run in runs} == {15_000}
    assert all(run["CPU s"] > 0 for run in runs)
