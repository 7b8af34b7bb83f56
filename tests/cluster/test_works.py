"""Clients see the heavy work of all nodes, of what they may read, and can end it."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.cluster.client_database import open_database
from gpuvec.testing.roles import owner_of, wait_for

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(8)}, primary_key="id")


def rows(count):
    made = np.random.default_rng(0)
    return {"id": np.arange(count), "v": made.random((count, 8), np.float32)}


def kinds(db):
    return {(job.kind, job.collection, job.status) for job in db.jobs()}


def test_every_client_sees_what_owners_do(roles, open_client):
    one, other = open_client(), open_client()
    items = one.create_collection("items", SCHEMA)
    items.insert(rows(400))
    items.create_index("v", gv.index.HNSW(m=8, ef_construction=20))
    wait_for(lambda: ("index", "items", "done") in kinds(other), "work is told of")


def test_a_client_ends_the_work_of_an_owner(roles, open_client):
    one, other = open_client(), open_client()
    items = one.create_collection("items", SCHEMA)
    items.insert(rows(12_000))
    wish = items.create_index("v", gv.index.HNSW(m=64, ef_construction=1000), wait=False)
    wait_for(lambda: ("index", "items", "running") in kinds(other), "work is told of")
    (job,) = [job for job in other.jobs() if job.kind == "index"]
    job.cancel()
    wait_for(lambda: job.status == "cancelled", "work is told of")
    assert wish.status == "cancelled"


def test_a_node_that_is_lost_tells_of_nothing(roles, db):
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(400))
    items.create_index("v", gv.index.HNSW(m=8, ef_construction=20))
    wait_for(lambda: ("index", "items", "done") in kinds(db), "work is told of")
    name = owner_of(roles, items).node
    roles.transport.cut.add(name)
    roles.lose(name)
    assert ("index", "items", "done") not in kinds(db)


def test_a_user_sees_only_work_of_collections_that_it_may_read(roles, db):
    for name in ("items", "others"):
        made = db.create_collection(name, SCHEMA)
        made.insert(rows(400))
        made.create_index("v", gv.index.HNSW(m=8, ef_construction=20))
    wait_for(lambda: {name for _, name, _ in kinds(db)} == {"items", "others"}, "work is told of")
    db.users.create("root", "a long password")
    with open_database(
        roles.ref.url, transport=roles.transport, user="root", password="a long password"
    ) as root:
        root.roles.create("readers")
        root.roles.grant("readers", "read", "items")
        root.users.create("ann", "anns password", roles=["readers"])
    with open_database(
        roles.ref.url, transport=roles.transport, user="ann", password="anns password"
    ) as ann:
        (job,) = ann.jobs()
        assert job.collection == "items"
        with pytest.raises(gv.AccessDeniedError, match="GV-721"):
            job._work._engine.works.cancel(job._work._line)
