"""The engine killed at system calls: what was acknowledged is there, the rest whole or absent."""

import importlib.util
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

import gpuvec as gv

WORKER = Path(__file__).with_name("engine_worker.py")
CALLS = ("mkdir", "write", "pwrite64", "fsync", "fdatasync", "link", "rename", "unlink")

pytestmark = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is missing: apt-get install strace"
)


def load_steps():
    spec = importlib.util.spec_from_file_location("engine_worker", WORKER)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.STEPS


STEPS = load_steps()


def traced(folder, *options):
    """Run the worker under strace; return it and how many steps were acknowledged."""
    command = ["strace", "-f", "--seccomp-bpf", "-qq", *options, sys.executable, str(WORKER)]
    done = subprocess.run(
        [*command, str(folder / "db")],
        capture_output=True, text=True, timeout=120, check=False,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )  # fmt: skip
    return done, len(done.stdout.splitlines())


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Every call that changes the disk, as (name, how many-th of that name)."""
    folder = tmp_path_factory.mktemp("trace")
    log = folder / "strace.log"
    done, steps = traced(folder, "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    if not log.exists() or not log.read_text():
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    assert steps == len(STEPS), done.stderr
    names = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines()]
    counts = Counter(name for name in names if name in CALLS)
    return [(name, n) for name in CALLS for n in range(1, counts[name] + 1)]


def kill_at(folder, name, number):
    options = ("-o", "/dev/null", "-e", f"inject={name}:signal=SIGKILL:when={number}")
    done, acknowledged = traced(folder, *options)
    try:
        assert done.returncode in (-signal.SIGKILL, 0)  # threads may order calls in another way
        check(folder, acknowledged)
    except BaseException as error:
        error.add_note(f"killed at {name} {number} after {acknowledged} steps")
        raise


def check(folder, acknowledged):
    ids = set()
    for _, effect in STEPS[:acknowledged]:
        ids = effect(ids)
    possible = [ids]
    if acknowledged < len(STEPS):
        possible.append(STEPS[acknowledged][1](ids))
    with gv.connect(folder / "db") as db:
        if "items" not in db:
            assert acknowledged == 0
            STEPS[0][0](db)
        items = db["items"]
        assert set(items.to_arrow()["id"].to_pylist()) in possible
        items.insert({"id": [99], "v": [[99.0] * 4]})  # the next process goes on
        items.flush()
    with gv.connect(folder / "db") as db:
        table = db["items"].to_arrow()
        assert set(table["id"].to_pylist()) - {99} in possible
        for key, vector in zip(table["id"].to_pylist(), table["v"].to_pylist(), strict=True):
            assert vector == [key] * 4


def test_a_kill_at_some_system_calls_loses_nothing_acknowledged(points, tmp_path):
    for name, number in random.Random(3).sample(points, 3):
        kill_at(tmp_path / f"{name}-{number}", name, number)


@pytest.mark.slow
def test_a_kill_at_every_system_call_loses_nothing_acknowledged(points, tmp_path):
    for name, number in points:
        kill_at(tmp_path / f"{name}-{number}", name, number)
