"""What all tests share: slow tests on request, GPU tests where there is a device, an S3 server."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from gpuvec import telemetry
from gpuvec.testing import rehearsal
from gpuvec.testing.ceph import ceph_server, missing_programs
from gpuvec.testing.rehearsed_card import Card
from gpuvec.testing.servers import Server, moto_server, sftp_server

STORES = ("local", "memory", "s3", "sftp")
CLUSTERS = ("inprocess", "local")
DEVICES = ("rehearsed", "checked", "gpu")  # checked: rehearsed, under AddressSanitizer
REHEARSED = ("rehearsed", "checked")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")
    parser.addoption("--store", choices=STORES, default="local", help="where databases lie")
    parser.addoption("--cluster", choices=CLUSTERS, help="let nodes of a cluster serve databases")
    parser.addoption("--device", choices=DEVICES, help="let databases search on a device")
    parser.addoption("--soak-minutes", type=float, help="let each slow soak take so long")
    parser.addoption("--ceph", action="store_true", help="let the S3 server be Ceph, not moto")


def pytest_configure(config: pytest.Config) -> None:
    """Keep what tests cache of buckets out of the user's folder, in their processes too."""
    made = tempfile.mkdtemp(prefix="gpuvec-tests-")
    os.environ["XDG_CACHE_HOME"] = made
    config.add_cleanup(lambda: shutil.rmtree(made, ignore_errors=True))
    # what a card leaves to the host is the matter of tests of its own
    config.addinivalue_line("filterwarnings", "ignore::gpuvec.FallbackWarning")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="slow: run with --run-slow (make slow)")
    embedded = pytest.mark.skip(reason="embedded: about what one process does for itself")
    one_process = pytest.mark.skip(reason="one_process: looks into the process that serves")
    on_cpu = pytest.mark.skip(reason="cpu: about indexes that only the CPU searches")
    why = "" if config.getoption("--device") in REHEARSED else no_device()
    if why and config.getoption("--device") == "gpu":
        raise pytest.UsageError(f"--device=gpu: {why}")
    skip_gpu = pytest.mark.skip(reason=why) if why else None
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(skip_slow)
        if "embedded" in item.keywords and config.getoption("--cluster"):
            item.add_marker(embedded)
        if "one_process" in item.keywords and config.getoption("--cluster") == "local":
            item.add_marker(one_process)
        if "cpu" in item.keywords and config.getoption("--device"):
            item.add_marker(on_cpu)
        if "gpu" in item.keywords and skip_gpu is not None:
            item.add_marker(skip_gpu)


def no_device() -> str:
    """Return why tests cannot run on a device, nothing if they can."""
    try:
        import cupy
    except ImportError:
        return "no CuPy: install an extra such as gpu-cu13"
    return "" if cupy.is_available() else "no CUDA device"


@pytest.fixture(autouse=True)
def no_events_of_other_tests() -> None:
    """Forget what tests before noted in this process."""
    telemetry.EVENTS.clear()


@pytest.fixture(scope="session", autouse=True)
def device_of_the_session(request: pytest.FixtureRequest) -> Iterator[None]:
    """Let the whole session believe in a device, with `--device=rehearsed`."""
    device = request.config.getoption("--device")
    if device not in REHEARSED:
        yield
        return
    if why := rehearsal.why_not():
        pytest.fail(why)
    with rehearsal.rehearsal(checked=device == "checked"):
        yield


@pytest.fixture
def rehearsed() -> Iterator[Card]:
    """Let a test believe in a device of its own; skips where a real one is."""
    if why := rehearsal.why_not():
        pytest.skip(why)
    with rehearsal.rehearsal() as card:
        yield card


@pytest.fixture(scope="session")
def s3(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    """An S3 server of this session: moto, or with `--ceph` Ceph."""
    if not request.config.getoption("--ceph"):
        with moto_server() as server:
            yield server
        return
    if missing := missing_programs():
        pytest.fail(f"not installed: {', '.join(missing)}; see gpuvec/testing/ceph.py")
    with ceph_server(tmp_path_factory.mktemp("ceph")) as server:
        yield server


@pytest.fixture(scope="session")
def sftp(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, dict[str, Any]]]:
    """An SFTP server of this session: the URL of a folder, and options."""
    with sftp_server(tmp_path_factory.mktemp("sftp")) as found:
        yield found


Where = Callable[[Path], dict[str, Any]]


@pytest.fixture(scope="session")
def where(request: pytest.FixtureRequest) -> Where:
    """Return what `gv.connect` takes for a database that stands for a path, as `--store` says."""
    store = request.config.getoption("--store")
    if store == "local":
        return lambda path: {"path": path}
    if store == "memory":
        return lambda path: {"path": f"memory://{path}"}
    if store == "sftp":
        url, options = request.getfixturevalue("sftp")
        return lambda path: {"path": f"{url}/dbs{path}", "storage_options": options}
    server: Server = request.getfixturevalue("s3")
    place = server.new_url()
    return lambda path: {"path": f"{place}{path}", "storage_options": server.options}
