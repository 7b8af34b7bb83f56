"""What all tests share: slow tests on request, GPU tests where there is a device, an S3 server."""

from collections.abc import Iterator

import pytest

from gpuvec.testing.servers import Server, moto_server


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--run-slow", action="store_true", help="also run tests marked slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    skip_slow = pytest.mark.skip(reason="slow: run with --run-slow (make slow)")
    skip_gpu = pytest.mark.skip(reason=why) if (why := no_device()) else None
    for item in items:
        if "slow" in item.keywords and not config.getoption("--run-slow"):
            item.add_marker(skip_slow)
        if "gpu" in item.keywords and skip_gpu is not None:
            item.add_marker(skip_gpu)


def no_device() -> str:
    """Return why tests cannot run on a device, nothing if they can."""
    try:
        import cupy
    except ImportError:
        return "no CuPy: install an extra such as gpu-cu13"
    return "" if cupy.is_available() else "no CUDA device"


@pytest.fixture(scope="session")
def s3() -> Iterator[Server]:
    """An S3 server of this session: moto."""
    with moto_server() as server:
        yield server
