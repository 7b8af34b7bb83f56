"""`gpuvec cluster …`, run as users run it: in processes of their own."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gpuvec as gv
from gpuvec.cluster import view
from gpuvec.cluster.certs import make_certificates
from gpuvec.errors import AlreadyExistsError, NotFoundError

STARTED_S = 90.0
SEARCH = """
import sys, gpuvec as gv
with gv.connect("shop", cluster=sys.argv[1]) as db:
    print(db["items"].search([[1.0, 0.0]], k=2).collect()["id"].tolist())
"""


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gpuvec.cli", "cluster", *words]


def run(*words: str, cwd: Path, code: int = 0, **variables: str) -> str:
    done = subprocess.run(
        command(*words), cwd=cwd, capture_output=True, text=True, timeout=120,
        env={**os.environ, "COLUMNS": "200", **variables},
    )  # fmt: skip
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    return done.stdout if code in (0, 1) and done.stdout else done.stderr


@contextmanager
def running(*words: str, cwd: Path, says: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Run a command until the end of the block; yield it, and what it said up to `says`."""
    log = cwd / f"{abs(hash(words))}.log"
    with log.open("w") as file:
        process = subprocess.Popen(
            command("start", *words), cwd=cwd, stdout=file, stderr=subprocess.STDOUT, text=True
        )
    try:
        end = time.monotonic() + STARTED_S
        while not re.search(says, text := log.read_text()):
            assert process.poll() is None, text
            assert time.monotonic() < end, text
            time.sleep(0.2)
        yield process, text
    finally:
        children = (
            psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        )
        process.terminate()
        assert process.wait(60) == 0 or words[0].startswith("--"), log.read_text()
        _, left = psutil.wait_procs(children, timeout=30)
        assert left == [], "processes were left behind"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with an embedded database in it."""
    with gv.connect(tmp_path / "shop") as db:
        rows = [{"id": n, "v": [float(n), 1.0]} for n in range(5)]
        schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, primary_key="id")
        db.create_collection("items", schema, data=rows)
    return tmp_path


def test_a_database_of_one_process_is_served_by_a_cluster_as_it_is(folder):
    here = ("./shop", "--workers", "2", "--port", "0", "--dashboard", "127.0.0.1:0")
    with running(*here, cwd=folder, says="dashboard http") as (_, text):
        address = re.search(r"tcp://[\d.:]+", text)[0]
        done = subprocess.run(
            [sys.executable, "-c", SEARCH, address], cwd=folder, capture_output=True, text=True
        )
        assert done.stdout.strip() == "[4, 3]", done.stderr
        told = json.loads(run("status", address, "--json", cwd=folder))
        assert len(told["nodes"]) == 2
        [database] = told["databases"].values()
        assert [about["name"] for about in database["collections"].values()] == ["items"]
        shown = run("status", re.search(r"http://[\d.:]+", text)[0], cwd=folder)
        assert "2 nodes · 1 open database · 1 collection" in shown


def workers_of(process: subprocess.Popen[str]) -> set[psutil.Process]:
    found = set()
    for child in psutil.Process(process.pid).children():
        with suppress(psutil.NoSuchProcess):
            if "spawn_main" in " ".join(child.cmdline()):
                found.add(child)
    return found


@pytest.mark.slow
def test_a_worker_that_is_killed_again_while_it_starts_comes_back(folder, monkeypatch):
    monkeypatch.setenv("DASK_DISTRIBUTED__DEPLOY__LOST_WORKER_TIMEOUT", "1s")
    here = ("./shop", "--workers", "2", "--port", "0", "--dashboard", "127.0.0.1:0")
    with running(*here, cwd=folder, says="dashboard http") as (start, text):
        pages = re.search(r"http://[\d.:]+", text)[0]

        def told():
            with urllib.request.urlopen(f"{pages}/gpuvec/state") as answer:
                return view.summary(json.load(answer))

        before = workers_of(start)
        killed, end = next(iter(before)), time.monotonic() + STARTED_S
        for _ in range(2):
            killed.kill()
            while "1 of 2 nodes" not in told() or not (fresh := workers_of(start) - before):
                assert time.monotonic() < end, told()
                time.sleep(0.05)
            before |= fresh
            killed = fresh.pop()
            time.sleep(1.0)  # it has begun, and works not yet
        while "2 nodes" not in (last := told()) or "of" in last:
            assert time.monotonic() < end, last
            time.sleep(0.1)


@pytest.mark.slow
def test_scheduler_and_workers_run_apart(folder):
    alone = ("--scheduler", "--port", "0", "--dashboard", "127.0.0.1:0")
    with running(*alone, cwd=folder, says=r"dashboard at:\s+http") as (_, text):
        address = re.search(r"tcp://[\d.:]+", text)[0]
        worker = ("--worker", address, "--workers", "2", "--name", "here")
        with running(*worker, cwd=folder, says="Registered to"):
            end = time.monotonic() + STARTED_S
            while True:
                told = subprocess.run(
                    command("status", address, "--json"), cwd=folder, capture_output=True, text=True
                )
                if told.returncode == 0 and len(json.loads(told.stdout)["nodes"]) == 2:
                    break
                assert time.monotonic() < end, told
            assert sorted(json.loads(told.stdout)["nodes"]) == ["here-0", "here-1"]


@pytest.mark.slow
def test_with_certificates_only_those_who_hold_one_are_let_in(folder):
    run("certs", "tls", cwd=folder)
    here = ("./shop", "--workers", "1", "--port", "0", "--dashboard", "127.0.0.1:0", "--tls", "tls")
    with running(*here, cwd=folder, says="dashboard http") as (_, text):
        address = re.search(r"tls://[\d.:]+", text)[0]
        search = [sys.executable, "-c", SEARCH, address]
        with_one = {**os.environ, "DASK_CONFIG": str(folder / "tls")}
        done = subprocess.run(search, cwd=folder, capture_output=True, text=True, env=with_one)
        assert done.stdout.strip() == "[4, 3]", done.stderr
        run("certs", "stranger", cwd=folder)
        stranger = {**os.environ, "DASK_CONFIG": str(folder / "stranger")}
        stranger["DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT"] = "3s"
        done = subprocess.run(search, cwd=folder, capture_output=True, text=True, env=stranger)
        assert done.returncode != 0
        assert "GV-744" in done.stderr


def test_certificates_are_made_once_and_keys_are_the_owners(tmp_path):
    files = make_certificates(tmp_path / "tls")
    keys = [file for file in files if file.name.endswith("-key.pem")]
    assert len(keys) == 3
    assert {file.stat().st_mode & 0o777 for file in keys} == {0o600}
    with pytest.raises(AlreadyExistsError, match="GV-795"):
        make_certificates(tmp_path / "tls")


def test_a_folder_without_certificates_is_named(folder):
    from gpuvec.cluster.certs import tls_settings

    with pytest.raises(NotFoundError, match="GV-796"):
        tls_settings(folder)
    assert "GV-796" in run("start", "--tls", str(folder), cwd=folder, code=1)


def test_nobody_at_the_address_is_said_so(tmp_path):
    variables = {"DASK_DISTRIBUTED__COMM__TIMEOUTS__CONNECT": "1s"}
    assert "GV-744" in run("status", "tcp://127.0.0.1:1", cwd=tmp_path, code=1, **variables)
    assert "GV-798" in run("status", "http://127.0.0.1:1", cwd=tmp_path, code=1)


def test_wrong_use_is_told_without_starting_anything(tmp_path):
    said = run("start", "--scheduler", "--worker", "tcp://x:1", cwd=tmp_path, code=2)
    assert "start one of them" in said
    assert "is no JSON" in run("start", "--storage-options", "{", cwd=tmp_path, code=2)


@pytest.mark.slow
def test_the_readmes_three_commands_lead_from_a_file_to_a_cluster(tmp_path):
    text = (Path(__file__).resolve().parents[2] / "README.md").read_text()
    [lines] = re.findall(r"## From a directory to a cluster.*?```sh\n(.*?)```", text, re.DOTALL)
    first, start, ask = lines.strip().splitlines()
    pq.write_table(pa.table({"id": [1, 2, 3, 4]}), tmp_path / "rows.parquet")
    bin_folder = Path(sys.executable).parent
    variables = {**os.environ, "PATH": f"{bin_folder}:{os.environ['PATH']}"}
    done = subprocess.run(first, shell=True, cwd=tmp_path, env=variables, capture_output=True)
    assert done.returncode == 0, done.stderr
    words = start.removeprefix("gpuvec cluster start ").removesuffix(" &").split()
    anywhere = ("--port", "0", "--dashboard", "127.0.0.1:0")
    with running(*words, *anywhere, cwd=tmp_path, says="dashboard http") as (_, said):
        address = re.search(r"tcp://[\d.:]+", said)[0]
        done = subprocess.run(
            ask.replace("tcp://127.0.0.1:8786", address),
            shell=True, cwd=tmp_path, env=variables, capture_output=True, text=True,
        )  # fmt: skip
        assert "Result 3 rows" in done.stdout, done.stderr
