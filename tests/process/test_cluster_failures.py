"""What clients are told when a cluster has no workers, and when two of them hold one database."""

import time

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.testing.chaos_processes import Apart, Processes

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

PATIENCE_S = 180.0


def rows(start, stop):
    vectors = np.random.default_rng(start).random((stop - start, 4), np.float32)
    return {"id": np.arange(start, stop), "v": vectors}


def tried(work):
    """Do something until the cluster is up for it."""
    until_s = time.monotonic() + PATIENCE_S
    while True:
        try:
            return work()
        except gv.UnavailableError:
            if time.monotonic() > until_s:
                raise


@pytest.fixture
def processes(tmp_path):
    """Return `processes(workers)`: another cluster of this test."""
    made = []

    def processes(workers, **options):
        folder = tmp_path / f"cluster-{len(made)}"
        folder.mkdir()
        made.append(Processes(folder, workers=workers, settings={}, **options))
        return made[-1]

    yield processes
    for each in made:
        each.close()


def test_a_cluster_without_workers_says_so_and_comes_back_by_itself(processes, tmp_path):
    cluster = processes(2)
    with gv.connect(tmp_path / "db", cluster=cluster.address) as db:
        items = tried(
            lambda: db.create_collection(
                "items", data=rows(0, 100), primary_key="id", exist_ok=True
            )
        )
        assert items.count() == 100
        cluster.restarting = False
        for name in cluster.names:
            cluster.kill_worker(name)
        with gv.config.set(cluster__wait_s=2.0):
            with pytest.raises(gv.UnavailableError) as read:
                items.count()
            with pytest.raises(gv.UnavailableError) as write:
                items.insert(rows(100, 110))
        assert read.value.code == "GV-767"
        assert write.value.code == "GV-766"
        assert write.value.details["retryable"]
        came = 110 if write.value.details["outcome"] == "unknown" else 100
        cluster.restarting = True
        assert tried(items.count) in (100, came)
        tried(lambda: items.upsert(rows(100, 110)))
        assert items.count() == 110


def test_a_coordinator_that_was_replaced_while_it_hung_does_no_harm(processes, s3):
    one, two = processes(1), processes(1)
    place = {"path": s3.new_url(), "storage_options": s3.options}
    with gv.connect(**place, cluster=one.address) as first:
        items = tried(
            lambda: first.create_collection(
                "items", data=rows(0, 100), primary_key="id", exist_ok=True
            )
        )
        tried(lambda: items.upsert(rows(0, 100)))
        acknowledged = 100
        one.stop_scheduler()
        with gv.connect(**place, cluster=two.address) as second:
            others = tried(lambda: second["items"])
            tried(lambda: others.upsert(rows(1000, 1100)))
            one.continue_scheduler()
            refused = None
            for number in range(100, 160, 10):
                try:
                    with gv.config.set(cluster__wait_s=5.0):
                        items.insert(rows(number, number + 10))
                    acknowledged += 10
                except gv.GpuvecError as error:
                    refused = error
                tried(lambda: others.upsert(rows(1100, 1110)))
            assert refused is not None
            found = others.select("id").to_arrow().column("id").to_pylist()
    assert len(found) == len(set(found))
    assert {*range(100), *range(1000, 1110)} <= set(found)
    extra = [i for i in found if 100 <= i < 1000]
    assert len(extra) >= acknowledged - 100


@pytest.fixture
def apart():
    """A network of its own for one worker."""
    try:
        made = Apart()
    except OSError as error:
        pytest.skip(f"no network namespaces here: {error}")
    yield made
    made.close()


def test_an_owner_behind_a_cut_cable_is_replaced_and_comes_back(apart, processes, tmp_path):
    cluster = processes(2, host=apart.outside, apart=apart)
    behind = cluster.names[-1]
    with gv.connect(tmp_path / "db", cluster=cluster.address) as db:
        table = db._engine.router.directory.table
        for number in range(20):
            name = f"items{number}"
            items = tried(
                lambda name=name: db.create_collection(
                    name, data=rows(0, 100), primary_key="id", exist_ok=True
                )
            )
            tried(lambda items=items: items.upsert(rows(0, 100)))
            collection_id = items._source.collection_id
            if table.owner(collection_id).node == behind:
                break
        else:
            pytest.fail("the worker behind the cable never owned a collection")
        apart.cut()
        tried(lambda: items.upsert(rows(100, 110)))
        assert table.owner(collection_id).node != behind
        assert tried(items.count) == 110
        apart.mend()
        for number in range(110, 130, 10):
            tried(lambda number=number: items.upsert(rows(number, number + 10)))
            assert tried(items.count) == number + 10
    with gv.connect(tmp_path / "db") as alone:
        assert alone[name].count() == 130
