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


def routes_of(db, items):
    """Return, by segment of a collection, the nodes that this client knows to serve it."""
    routes = db._engine.router.directory.table.routes
    return dict(routes.segments.get(items._source.collection_id, {}))


def wait_for(what, why):
    until_s = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < until_s, why
        time.sleep(0.1)


@pytest.fixture
def processes(tmp_path):
    """Return `processes(workers)`: another cluster of this test."""
    made = []

    def processes(workers, **options):
        folder = tmp_path / f"cluster-{len(made)}"
        folder.mkdir()
        made.append(Processes(folder, workers=workers, **{"settings": {}, **options}))
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


def test_a_replica_answers_at_once_when_the_worker_of_the_other_one_is_killed(processes, tmp_path):
    cluster = processes(3, settings={"DASK_GPUVEC__REPLICAS": "2"})
    with gv.connect(tmp_path / "db", cluster=cluster.address) as db:
        items = tried(
            lambda: db.create_collection(
                "items", data=rows(0, 1000), primary_key="id", exist_ok=True
            )
        )
        tried(items.flush)
        wait_for(
            lambda: (found := routes_of(db, items)) and all(len(n) == 2 for n in found.values()),
            "there is no second copy",
        )
        query = np.full(4, 0.5, np.float32)
        true = items.search(query, k=10, exact=True).to_arrow()
        owner = db._engine.router.directory.table.owner(items._source.collection_id).node
        (holders,) = routes_of(db, items).values()
        cluster.restarting = False
        cluster.kill_worker(next(node for node in holders if node != owner))
        begun_s = time.monotonic()
        assert items.search(query, k=10, exact=True).to_arrow().equals(true)
        assert time.monotonic() - begun_s < 2.0, "nobody waits for a lease or for a restart"
        wait_for(
            lambda: all(len(nodes) == 2 for nodes in routes_of(db, items).values()),
            "the copy that was lost is not made again",
        )


def test_a_collection_stays_within_its_resource_groups(processes, tmp_path):
    groups = {"items": ["gold"]}
    cluster = processes(
        3, settings={"DASK_GPUVEC__GROUPS": repr(groups)}, groups=["gold", "gold", "other"]
    )
    with gv.connect(tmp_path / "db", cluster=cluster.address) as db:
        made = {}
        for name in ("items", "free"):
            made[name] = tried(
                lambda name=name: db.create_collection(
                    name, data=rows(0, 100), primary_key="id", exist_ok=True
                )
            )
            for start in range(100, 600, 100):
                tried(lambda name=name, start=start: made[name].upsert(rows(start, start + 100)))
                tried(made[name].flush)
        items = made["items"]
        wait_for(lambda: any(routes_of(db, items).values()), "nothing was placed")
        assert {n for nodes in routes_of(db, items).values() for n in nodes} <= {"w0", "w1"}
        cluster.restarting = False
        cluster.kill_worker("w0")
        assert tried(items.count) == 600
        wait_for(
            lambda: {n for ns in routes_of(db, items).values() for n in ns} == {"w1"},
            "the group's other worker did not take over",
        )
        cluster.kill_worker("w1")
        assert tried(items.count) == 600, "any node answers, though it keeps nothing"
        wait_for(
            lambda: not any(routes_of(db, items).values()), "routes lead to workers that are gone"
        )
        assert tried(items.count) == 600
