import time

import pytest

from gpuvec.device import detect
from gpuvec.errors import QueryError, UnsupportedError


@pytest.fixture
def no_driver(monkeypatch):
    monkeypatch.setattr(detect, "_DRIVERS", ("libno-such-driver.so",))
    detect._ask_driver.cache_clear()
    yield
    detect._ask_driver.cache_clear()


def test_the_cpu_can_always_be_had():
    assert detect.resolve_device("cpu") == "cpu"


@pytest.mark.usefixtures("no_driver")
def test_auto_takes_the_cpu_where_there_is_no_gpu():
    assert detect.device_count() == 0
    assert detect.resolve_device("auto") == "cpu"


@pytest.mark.usefixtures("no_driver")
def test_a_gpu_that_is_not_there_raises_and_says_what_to_do():
    with pytest.raises(UnsupportedError, match="no NVIDIA driver") as error:
        detect.resolve_device("gpu")
    assert error.value.code == "GV-900"
    assert 'device="auto"' in error.value.hint


def test_an_unknown_device_is_refused():
    with pytest.raises(QueryError, match="tpu"):
        detect.resolve_device("tpu")


def test_asking_again_costs_nothing():
    detect.device_count()
    start = time.perf_counter()
    for _ in range(100):
        detect.device_count()
    assert time.perf_counter() - start < 0.1


@pytest.mark.gpu
def test_a_gpu_is_found():
    assert detect.device_count() >= 1
    assert detect.resolve_device("auto") == detect.resolve_device("gpu") == "gpu"
