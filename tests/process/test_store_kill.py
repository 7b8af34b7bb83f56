"""Real processes on a real disk: killed at every system call, failed by the kernel."""

import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

from gpuvec.storage.local import LocalStore
from gpuvec.testing.history import EXAMPLE_STEPS, StoreHistory

WORKER = Path(__file__).with_name("store_worker.py")
CALLS = ("mkdir", "write", "fsync", "fdatasync", "link", "rename", "unlink")
needs_strace = pytest.mark.skipif(
    shutil.which("strace") is None, reason="strace is missing: apt-get install strace"
)

ignore_fork = pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")


def traced(folder, *options):
    """Run the worker under strace; return what the store answered and what failed."""
    command = ["strace", "-f", "--seccomp-bpf", "-qq", *options, sys.executable, str(WORKER)]
    done = subprocess.run(
        [*command, str(folder / "db")],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=60,
        check=False,
    )
    lines = [line.split() for line in done.stdout.splitlines()]
    return done, {int(number): bool(int(answer)) for number, answer in lines}


@pytest.fixture(scope="module")
def points(tmp_path_factory):
    """Every call that changes the disk, as (name, how many-th of that name)."""
    folder = tmp_path_factory.mktemp("trace")
    log = folder / "strace.log"
    done, answers = traced(folder, "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    if not log.exists() or not log.read_text():
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()}")
    assert len(answers) == len(EXAMPLE_STEPS), done.stderr
    names = [line.split()[1].partition("(")[0] for line in log.read_text().splitlines()]
    counts = Counter(name for name in names if name in CALLS)
    assert set(counts) == set(CALLS)
    return [(name, n) for name in CALLS for n in range(1, counts[name] + 1)]


def kill_at(folder, name, number):
    options = ("-o", "/dev/null", "-e", f"inject={name}:signal=SIGKILL:when={number}")
    done, answers = traced(folder, *options)
    assert done.returncode == -signal.SIGKILL
    assert len(answers) < len(EXAMPLE_STEPS)
    check(folder, answers, f"killed at {name} {number}")


def fail_at(folder, name, number, error):
    options = ("-o", "/dev/null", "-e", f"inject={name}:error={error}:when={number}")
    done, answers = traced(folder, *options)
    assert done.returncode == 0, done.stderr
    check(folder, answers, f"{error} at {name} {number}")
    for line in done.stderr.splitlines():
        if "[GV-" in line:
            assert any(code in line for code in ("GV-504", "GV-505", "GV-507")), line
            assert str(folder) in line


def check(folder, answers, what):
    """Compare what is there, and show that the next process can go on."""
    store = LocalStore(folder / "db")
    history = StoreHistory.of(EXAMPLE_STEPS, answers)
    try:
        history.check(store)
    except AssertionError as error:
        error.add_note(what)
        raise
    store.sweep(float("inf"))
    assert not list(folder.rglob(".*")), what
    history.check(store)
    assert store.put_if_absent("next", b"goes on") is True


@needs_strace
def test_a_kill_at_some_system_calls_loses_nothing_acknowledged(points, tmp_path):
    for name, number in random.Random(7).sample(points, 8):
        kill_at(tmp_path / f"{name}-{number}", name, number)


@needs_strace
@pytest.mark.slow
def test_a_kill_at_every_system_call_loses_nothing_acknowledged(points, tmp_path):
    for name, number in points:
        kill_at(tmp_path / f"{name}-{number}", name, number)


@needs_strace
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_some_failing_system_calls_lose_nothing_acknowledged(points, tmp_path, error):
    for name, number in random.Random(8).sample(points, 4):
        fail_at(tmp_path / f"{name}-{number}", name, number, error)


@needs_strace
@pytest.mark.slow
@pytest.mark.parametrize("error", ["EIO", "ENOSPC"])
def test_every_failing_system_call_loses_nothing_acknowledged(points, tmp_path, error):
    for name, number in points:
        fail_at(tmp_path / f"{name}-{number}", name, number, error)


def write_until_killed(root, pipe):
    """Put, create and append numbered objects; tell the parent after each."""
    store = LocalStore(root)
    number = 0
    while True:
        number += 1
        body = f"{number:08d}".encode() * 400
        store.append("wal/s000/e1.log", body)
        store.put(f"seg/{number:08d}/vec-e.arrow", [body, body])
        assert store.put_if_absent(f"manifest/{number:08d}.json", body)
        os.write(pipe, number.to_bytes(4, "little"))


def kill_round(folder, seed):
    """Kill a writer at a random moment; return how many rounds it had acknowledged."""
    reading, writing = os.pipe()
    context = multiprocessing.get_context("fork")
    process = context.Process(target=write_until_killed, args=(folder / "db", writing))
    process.start()
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        told = pipe.read(4) if seed % 2 else b""  # else it may die before its first answer
        process.join(random.Random(seed).uniform(0.005, 0.06))
        process.kill()
        process.join()
        told += pipe.read()
    process.close()
    acknowledged = len(told) // 4
    store = LocalStore(folder / "db")
    bodies = [f"{n:08d}".encode() * 400 for n in range(1, acknowledged + 2)]
    log = store.get("wal/s000/e1.log") if acknowledged else b""
    assert log.startswith(b"".join(bodies[:-1]))
    for number, body in enumerate(bodies, start=1):
        entry, vectors = f"manifest/{number:08d}.json", f"seg/{number:08d}/vec-e.arrow"
        if number <= acknowledged or store.size(entry) is not None:
            assert store.get(entry) == body
        if number <= acknowledged or store.size(vectors) is not None:
            assert store.get(vectors) == body + body
    assert len(store.list("manifest/")) in (acknowledged, acknowledged + 1)
    return acknowledged


@ignore_fork
def test_a_writer_killed_at_any_moment_loses_nothing_acknowledged(tmp_path):
    assert sum(kill_round(tmp_path / f"{seed}", seed) for seed in range(10)) > 0


@ignore_fork
@pytest.mark.slow
def test_two_hundred_killed_writers_lose_nothing_acknowledged(tmp_path):
    assert sum(kill_round(tmp_path / f"{seed}", seed) for seed in range(100, 300)) > 0
