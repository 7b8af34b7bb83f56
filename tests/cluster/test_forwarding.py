"""What a client's collection does at its owner, and what comes back."""

import inspect
import pickle
import threading

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.api.collection import Collection
from gpuvec.api.external import ExternalCollection
from gpuvec.api.frame import Frame
from gpuvec.api.job_host import LocalJobs
from gpuvec.api.past import READS
from gpuvec.cluster.at_owner import JOBS, METHODS, SETTINGS
from gpuvec.cluster.forwarding import ClusterCollection, ClusterExternalCollection
from gpuvec.settings import DEFAULTS, config
from gpuvec.testing.roles import cut_off_owner, owner_of

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(8), "n": gv.Int64()}, primary_key="id")
WRITES = {"insert", "upsert", "update", "delete"}  # the proxy brings them to the owner
EVERYWHERE = {"load", "release"}  # every node is asked


def rows(count, *, start=0, seed=0):
    rng = np.random.default_rng(seed)
    return {
        "id": np.arange(start, start + count),
        "v": rng.standard_normal((count, 8)).astype(np.float32),
        "n": np.arange(start, start + count) % 7,
    }


def methods_of(kind):
    """What a collection has that a frame has not, and that changes something."""
    classes = kind.__mro__[: kind.__mro__.index(Frame)]
    return {
        name
        for part in classes
        for name, value in vars(part).items()
        if inspect.isfunction(value) and not name.startswith("_") and name not in READS | EVERYWHERE
    }


def test_every_method_that_changes_something_runs_at_the_owner():
    wanted = methods_of(Collection) - WRITES
    assert wanted == set(METHODS) - {"refresh"} | set(JOBS)
    for name in wanted:
        assert getattr(ClusterCollection, name) is not getattr(Collection, name), name


def test_of_an_external_collection_those_run_there_that_are_not_refused():
    refused = {
        name for name in methods_of(ExternalCollection)
        if (getattr(ExternalCollection, name).__doc__ or "").startswith("Refuse:")
    }  # fmt: skip
    for name in methods_of(ExternalCollection):
        own = getattr(ClusterExternalCollection, name) is not getattr(ExternalCollection, name)
        assert own == (name not in refused), name


@pytest.mark.parametrize("name", sorted({*METHODS, *JOBS} - {"refresh"}))
def test_arguments_are_those_of_the_collection(name):
    wanted = inspect.signature(getattr(Collection, name)).parameters
    found = inspect.signature(getattr(ClusterCollection, name)).parameters
    assert list(found) == list(wanted)
    assert [p.default for p in found.values()] == [p.default for p in wanted.values()]


def test_a_method_that_is_none_of_the_list_is_refused_by_the_owner(db, items):
    with pytest.raises(errors.UnsupportedError) as caught:
        db._engine.call_owner(items._id, "_change")
    assert caught.value.code == "GV-746"


def test_an_index_is_built_by_the_owner_and_reported_here(db):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(6000))
    report = items.create_index("v", gv.index.IVFFlat(n_lists=16))
    assert report.rows_covered == 6000
    assert items.stats()["indexes"] == {"v": report.chosen}
    pickle.loads(pickle.dumps(report))
    tuning = items.tune("v", k=10)
    assert tuning.table.count() > 0


def test_a_job_is_watched_and_cancelled_from_here(db):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(6000))
    job = items.create_index("v", gv.index.IVFFlat(n_lists=16), wait=False)
    assert job.wait(60).field == "v"
    assert (job.status, job.progress, job.eta) == ("done", 1.0, 0.0)
    job.cancel()  # nothing happens
    assert items.stats()["indexes"]


def test_a_job_whose_node_is_gone_says_so(db, roles):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(10))
    with pytest.raises(errors.JobError) as caught:
        db._engine.call_owner(items._id, "job", "no such job", "look")
    assert caught.value.code == "GV-747"


def test_warnings_that_the_owner_gives_are_given_here(db):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(6000))
    items.create_index("v", gv.index.IVFFlat(n_lists=16))
    with pytest.warns(gv.RecallWarning, match="too few"):
        items.tune("v", k=10, queries=rows(3)["v"])


def test_frames_among_arguments_are_collected_first(db):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(6000))
    items.create_index("v", gv.index.IVFFlat(n_lists=16))
    tuning = items.tune("v", k=10, queries=items.limit(100).select("v"))
    assert tuning.source == "given queries"


def test_a_partition_is_made_by_the_owner(db, items):
    items.insert({"id": [1], "v": np.ones((1, 4), "f4")}, partition="east")
    assert items.partitions == ["east"]
    with pytest.raises(errors.SchemaError):
        items.insert({"id": [2], "v": np.ones((1, 4), "f4")}, partition="a/b")
    assert items.partition("east").count() == 1


def test_what_was_flushed_by_nobody_is_flushed_by_the_next_owner(db, items):
    items.insert({"id": [1, 2], "v": np.ones((2, 4), "f4")})
    items.flush()
    states = items.segments().to_arrow()["state"].to_pylist()
    assert states == ["flushed"]


def test_a_job_goes_on_at_the_next_owner(short, tmp_path):
    roles, db = short
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(6000))
    index = items.create_index("v", gv.index.IVFFlat(n_lists=16), wait=False)
    cut_off_owner(roles, items)
    assert index.wait(60).rows_covered == 6000
    assert index.status == "done"


def test_a_job_whose_wish_was_replaced_at_another_owner_is_cancelled(short):
    roles, db = short
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(6000))
    index = items.create_index("v", gv.index.IVFFlat(n_lists=16), wait=False)
    cut_off_owner(roles, items)
    items.drop_index("v")
    with pytest.raises(errors.JobError, match="cancelled"):
        index.wait(60)
    assert items.stats()["indexes"] == {}


@pytest.mark.parametrize("method", ["flush", "compact", "vacuum"])
def test_what_does_no_harm_twice_goes_on_at_the_next_owner(short, method):
    roles, db = short
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(10))
    owner = owner_of(roles, items).node
    engine = roles.nodes[owner]

    def dies(message, deadline_s):
        """Does it, and is gone before it answers."""
        engine.handle(message, deadline_s)
        roles.transport.cut.add(owner)
        roles.lose(owner)
        raise errors.connection_lost(owner, "planted")

    roles.transport.serve(owner, dies)
    getattr(items, method)()
    assert owner_of(roles, items).node != owner
    assert items.count() == 10


def test_a_job_is_waited_for_until_the_next_coordinator_goes_on_with_it(db, roles, tmp_path):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(200))
    job = items.search(rows(200)["v"], k=2).submit(tmp_path / "out", part_rows=2)
    roles.coordinator.jobs.stop()
    assert job.status == "interrupted"

    def take_up():
        roles.coordinator.jobs = LocalJobs(roles.coordinator, by_cluster=True)
        roles.coordinator.jobs.adopt()

    later = threading.Timer(1.0, take_up)
    later.start()
    assert job.wait(60).count() == 400
    later.join()


def test_what_the_client_set_counts_for_its_own_calls_at_the_owner(db, roles):
    items = db.create_collection("items", SCHEMA)
    seen = []
    owner = roles.nodes[owner_of(roles, items).node]
    figures = owner.maintenance.figures
    owner.maintenance.figures = lambda name: seen.append(config["store.grace_s"]) or figures(name)
    server = owner.handle

    def elsewhere(message, deadline_s):
        """Answer as another process does, where nothing was set."""
        with config.lent({key: DEFAULTS[key] for key in SETTINGS}):
            return server(message, deadline_s)

    roles.transport.serve(owner.node, elsewhere)
    for value in (0.25, 0.5):
        with gv.config.set(store__grace_s=value):
            db._engine.maintenance.figures(items._id)
    db._engine.maintenance.figures(items._id)
    assert seen == [0.25, 0.5, DEFAULTS["store.grace_s"]]
