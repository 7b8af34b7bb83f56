"""Where queries run."""

import pytest

from gpuvec.device.memory import host_limit_bytes
from gpuvec.errors import QueryError
from gpuvec.query.session import new_session
from gpuvec.settings import config


def test_a_third_of_the_memory_is_for_caches():
    session = new_session(900, threads=2, device="cpu")
    assert session.cache.budget_bytes == 300
    assert session.memory_limit == 600
    assert session.threads == 2


def test_a_limit_may_be_a_share_and_may_come_from_the_settings():
    half = new_session(0.5, device="cpu")
    assert half.memory_limit + half.cache.budget_bytes == int(host_limit_bytes() * 0.5)
    with config.set(memory_limit="3GiB", threads=3):
        session = new_session(device="cpu")
    assert session.memory_limit + session.cache.budget_bytes == 3 << 30
    assert session.threads == 3
    whole = new_session(device="cpu")
    assert whole.memory_limit + whole.cache.budget_bytes == host_limit_bytes()


def test_an_unknown_device_is_refused():
    with pytest.raises(QueryError):
        new_session(device="tpu")
