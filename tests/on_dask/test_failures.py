"""What happens to a database when processes of its cluster die, hang or leave."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pyarrow as pa
import pytest
from distributed import Client

import gpuvec as gv
from gpuvec.cluster import launch

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

DIM = 8


def rows(start, stop):
    vectors = np.random.default_rng([7, start]).random((stop - start, DIM), np.float32)
    flat = pa.array(vectors.ravel())
    return pa.table(
        {"id": np.arange(start, stop), "v": pa.FixedSizeListArray.from_arrays(flat, DIM)}
    )


@pytest.fixture
def own():
    """A cluster of three workers for one test, which may break it."""
    made = launch.local(3, threads_per_worker=1)
    yield made
    made.close()


@pytest.fixture
def db(own, tmp_path):
    with gv.connect(tmp_path / "db", cluster=own) as made:
        yield made


def pids(cluster):
    """Return process ids of the workers, by node."""
    with Client(cluster, set_as_default=False) as client:
        found = client.run(lambda dask_worker: (str(dask_worker.name), os.getpid()))
    return dict(found.values())


def coordinator_of(cluster):
    return cluster.scheduler.plugins["gpuvec-coordinator"].coordinator


def owner(cluster, name):
    """Return the node that owns a collection, as the coordinator knows."""
    for database in coordinator_of(cluster).state()["databases"].values():
        for collection in database["collections"].values():
            if collection["name"] == name:
                return collection["owner"]
    return None


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come"
        time.sleep(0.05)


@contextmanager
def load(items, first):
    """Write and search all the while; what was acknowledged is counted."""
    stop, acknowledged, failures = threading.Event(), [], []

    def write():
        number = first
        while not stop.is_set():
            try:
                items.insert(rows(number, number + 5), on_conflict="skip")
                acknowledged.append(number)
            except Exception as error:
                failures.append(error)
            number += 5
            time.sleep(0.02)

    def search():
        query = np.zeros((1, DIM), np.float32)
        while not stop.is_set():
            try:
                assert len(items.search(query, k=3).to_arrow()) == 3
            except Exception as error:
                failures.append(error)
            time.sleep(0.02)

    threads = [threading.Thread(target=write), threading.Thread(target=search)]
    for thread in threads:
        thread.start()
    try:
        yield acknowledged, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def check(items, acknowledged):
    """Every acknowledged row is there, and each once."""
    found = items.to_arrow().column("id").to_pylist()
    assert len(found) == len(set(found))
    wanted = {i for number in acknowledged for i in range(number, number + 5)}
    assert wanted <= set(found)


def test_a_killed_owner_loses_no_acknowledged_row_and_stops_nobody(own, db):
    items = db.create_collection("items", data=rows(0, 100), primary_key="id")
    with load(items, 1000) as (acknowledged, failures):
        wait_for(lambda: len(acknowledged) > 5)
        killed = owner(own, "items")
        os.kill(pids(own)[killed], signal.SIGKILL)
        before = len(acknowledged)
        wait_for(lambda: len(acknowledged) > before + 10)
    assert failures == []
    check(items, acknowledged)
    wait_for(lambda: len(coordinator_of(own).state()["nodes"]) == 3)  # its nanny starts it anew


def test_a_hung_owner_is_replaced_and_does_no_harm_when_it_wakes(own, db):
    items = db.create_collection("items", data=rows(0, 100), primary_key="id")
    hung = owner(own, "items")
    pid = pids(own)[hung]
    os.kill(pid, signal.SIGSTOP)
    try:
        started = time.monotonic()
        items.insert(rows(100, 110))
        assert time.monotonic() - started < 60
        assert owner(own, "items") != hung
        assert items.count() == 110
    finally:
        os.kill(pid, signal.SIGCONT)
    items.insert(rows(110, 120))
    assert items.count() == 120


def test_a_retired_worker_hands_over_first(own, db):
    items = db.create_collection("items", data=rows(0, 100), primary_key="id")
    items.flush()
    with load(items, 1000) as (acknowledged, failures):
        wait_for(lambda: len(acknowledged) > 5)
        left = owner(own, "items")
        with Client(own, set_as_default=False) as client:
            client.retire_workers(names=[int(left)], close_workers=True)
        before = len(acknowledged)
        wait_for(lambda: len(acknowledged) > before + 10)
        assert owner(own, "items") != left
    assert failures == []
    check(items, acknowledged)


def test_workers_that_come_take_part(own, db):
    items = db.create_collection("items", data=rows(0, 100), primary_key="id")
    own.scale(5)
    wait_for(lambda: len(coordinator_of(own).state()["nodes"]) == 5)
    assert items.count() == 100
