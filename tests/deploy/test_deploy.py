"""What `cluster/deploy/` says can be done: its documents fit their schemas, its commands run.

There is no Docker, Kubernetes, Slurm or second machine here; each file's head says so. What is run
is every command in them, with `ssh` and `srun` that run their command on this machine.
"""

import copy
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import venv
from pathlib import Path

import click
import jsonschema
import psutil
import pytest
import typer
import yaml

import gpuvec as gv
from gpuvec.cli import app

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "cluster" / "deploy"
SCHEMAS = json.loads((Path(__file__).parent / "operator_schema.json").read_text())["schemas"]
KUBERNETES = {d["kind"]: d for d in yaml.safe_load_all((DEPLOY / "kubernetes.yaml").read_text())}
COMPOSE = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]


def commands_in(text: str) -> list[list[str]]:
    """Return the words of each `gpuvec …` in a shell line, some number for what is put in there."""
    text = re.sub(r"\$\([^)]*\)", "8", text.replace("$$", "$").replace("\\", ""))
    text = re.sub(r"\$\w+", "8", text)
    return [shlex.split(line)[1:] for line in re.findall(r"gpuvec cluster [^|&;']*", text)]


def all_commands() -> list[list[str]]:
    """Return the arguments of every call of gpuvec in the files."""
    found = []
    for service in COMPOSE.values():
        words = service["command"]
        found += [words[1:]] if words[0] == "gpuvec" else commands_in(words[-1])
    spec = KUBERNETES["DaskCluster"]["spec"]
    [scheduler] = spec["scheduler"]["spec"]["containers"]
    [worker] = spec["worker"]["spec"]["containers"]
    found += [scheduler["args"][1:], worker["args"][1:]]
    found += commands_in(worker["lifecycle"]["preStop"]["exec"]["command"][-1])
    [cmd] = re.findall(r"^CMD (.*)$", (DEPLOY / "Dockerfile").read_text(), re.MULTILINE)
    found.append(json.loads(cmd)[1:])
    for script in ("ssh.sh", "slurm.sh"):
        lines = (DEPLOY / script).read_text().splitlines()
        code = [line for line in lines if not line.startswith("#")]
        found += [words for line in code for words in commands_in(line)]
    return found


def parsed(words: list[str]) -> dict:
    """Return the parameters that the command line takes words for; `UsageError` if it does not."""
    command: click.Group = typer.main.get_command(app)
    context = click.Context(command)
    for position in range(2):
        command = command.get_command(context, words[position])
        assert command is not None, words
    return command.make_context("gpuvec", list(words[2:])).params


def test_there_are_commands_in_every_file():
    assert len(all_commands()) == 10


@pytest.mark.parametrize("words", all_commands(), ids=" ".join)
def test_every_command_is_one_that_gpuvec_takes(words):
    assert parsed(words)


@pytest.mark.parametrize("kind", sorted(SCHEMAS))
def test_documents_fit_the_schema_of_the_operator(kind):
    jsonschema.validate({"spec": KUBERNETES[kind]["spec"]}, SCHEMAS[kind])


def test_the_schema_refuses_what_the_operator_would():
    broken = copy.deepcopy(KUBERNETES["DaskCluster"])
    broken["spec"]["worker"]["spec"]["containers"][0]["arguments"] = []
    with pytest.raises(jsonschema.ValidationError, match="arguments"):
        jsonschema.validate({"spec": broken["spec"]}, SCHEMAS["DaskCluster"])
    broken = copy.deepcopy(KUBERNETES["DaskAutoscaler"])
    del broken["spec"]["maximum"]
    with pytest.raises(jsonschema.ValidationError, match="maximum"):
        jsonschema.validate({"spec": broken["spec"]}, SCHEMAS["DaskAutoscaler"])


def test_ports_probes_and_selectors_agree():
    spec = KUBERNETES["DaskCluster"]["spec"]["scheduler"]
    [container] = spec["spec"]["containers"]
    named = {port["name"]: port["containerPort"] for port in container["ports"]}
    assert {p["targetPort"]: p["port"] for p in spec["service"]["ports"]} == named
    assert parsed(container["args"][1:])["port"] == named["tcp-comm"]
    assert parsed(container["args"][1:])["dashboard"].endswith(f":{named['http-dashboard']}")
    for probe in ("readinessProbe", "livenessProbe"):
        assert container[probe]["httpGet"]["port"] in named
    name = KUBERNETES["DaskCluster"]["metadata"]["name"]
    assert spec["service"]["selector"]["dask.org/cluster-name"] == name
    assert KUBERNETES["DaskAutoscaler"]["spec"]["cluster"] == name


def test_pods_have_longer_to_end_than_a_hand_over_may_take():
    from gpuvec.cluster.scheduler_plugin import _DRAIN_S

    pod = KUBERNETES["DaskCluster"]["spec"]["worker"]["spec"]
    assert pod["terminationGracePeriodSeconds"] > _DRAIN_S
    assert COMPOSE["worker"]["stop_grace_period"] == "3m"


@pytest.mark.parametrize("file", sorted(path.name for path in DEPLOY.iterdir()))
def test_every_file_says_on_what_it_was_never_run(file):
    head = "\n".join((DEPLOY / file).read_text().splitlines()[:10])
    assert re.search(r"# Never (built|run) ", head)


# Run


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with a database, and `gpuvec`, `ssh` and `srun` that run things on this machine."""
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "gpuvec": f'exec {shlex.quote(sys.executable)} -m gpuvec.cli "$@"',
        "ssh": "shift 2; exec $*",  # -tt and the machine
        "srun": 'exec "$@"',
    }.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:{os.environ['PATH']}")
    monkeypatch.setenv("SCHEDULER_PORT", str(free_port()))
    monkeypatch.setenv("PAGES_PORT", str(free_port()))
    monkeypatch.setenv("WAIT_S", "5")
    monkeypatch.setenv("HOST_ADDRESS", "127.0.0.1")
    with gv.connect(tmp_path / "shop") as db:
        db.create_collection("items", data=[{"id": n} for n in range(5)], primary_key="id")
    return tmp_path


@pytest.mark.slow
@pytest.mark.parametrize("line", ["ssh.sh {shop} 127.0.0.1", "slurm.sh {shop}"])
def test_scripts_start_a_cluster_that_serves_the_database(here, line):
    log = (here / "log").open("w")
    words = line.format(shop=here / "shop").split()
    process = subprocess.Popen(
        ["sh", str(DEPLOY / words[0]), *words[1:]], cwd=here, stdout=log, stderr=subprocess.STDOUT
    )
    try:
        address = f"tcp://127.0.0.1:{os.environ['SCHEDULER_PORT']}"
        end = time.monotonic() + 120
        while True:
            assert process.poll() is None, (here / "log").read_text()
            try:
                with gv.connect(here / "shop", cluster=address) as db:
                    assert db["items"].count() == 5
                    break
            except gv.UnavailableError:
                assert time.monotonic() < end, (here / "log").read_text()
                time.sleep(1)
        if words[0] == "slurm.sh":
            assert (here / "gpuvec-0.address").read_text().strip() == address
    finally:
        started = psutil.Process(process.pid).children(recursive=True)
        process.terminate()
        process.wait(90)
        _, left = psutil.wait_procs(started, timeout=60)
        log.close()
    assert left == [], "processes were left behind"


@pytest.mark.slow
def test_the_image_can_be_made_and_its_command_runs(tmp_path):
    """Run the lines of the Dockerfile in an environment that has nothing."""
    text = (DEPLOY / "Dockerfile").read_text()
    source = tmp_path / "src"
    files = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    for file in files:
        if (ROOT / file).is_file() and not file.startswith(("benchmarks/", "tests/", "notebooks/")):
            (source / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, source / file)
    venv.create(tmp_path / "venv", with_pip=True)
    variables = {**os.environ, "PATH": f"{tmp_path / 'venv' / 'bin'}:{os.environ['PATH']}"}
    variables.pop("PYTHONPATH", None)
    for line in re.findall(r"^RUN (.*)$", text, re.MULTILINE):
        done = subprocess.run(
            line.replace("/src", str(source)),
            shell=True,
            env=variables,
            capture_output=True,
            text=True,
        )
        if "No matching distribution" in done.stderr or "Connection" in done.stderr:
            pytest.skip("no package index can be reached")
        assert done.returncode == 0, done.stderr[-2000:]
    [command] = re.findall(r"^CMD (.*)$", text, re.MULTILINE)
    words = [*json.loads(command), "--workers", "1", "--port", "0"]
    words[words.index("0.0.0.0:8787")] = "127.0.0.1:0"
    process = subprocess.Popen(
        words, env=variables, cwd=tmp_path, stdout=subprocess.PIPE, text=True
    )
    try:
        assert "1 workers at tcp://" in process.stdout.readline()
    finally:
        process.terminate()
        assert process.wait(60) == 0
