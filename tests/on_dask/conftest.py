"""Clusters of real processes for the tests of this folder."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest

import gpuvec as gv
from gpuvec.cluster import launch


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of four processes that all tests share; each opens databases of its own."""
    made = launch.local(4, threads_per_worker=1)
    yield made
    made.close()


@pytest.fixture
def connect(tmp_path, cluster) -> Iterator[Callable[..., gv.Database]]:
    """Return what opens the test's database on the shared cluster."""
    opened: list[gv.Database] = []

    def connect(path: Any = tmp_path, **options: Any) -> gv.Database:
        opened.append(gv.connect(path, **{"cluster": cluster, **options}))
        return opened[-1]

    yield connect
    for database in opened:
        database.close()


@pytest.fixture
def db(connect) -> gv.Database:
    """A database on the shared cluster."""
    return connect()
