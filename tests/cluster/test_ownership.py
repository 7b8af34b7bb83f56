"""Owners that change: no row is lost, none is written twice, no read is stale."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.data_messages import Write
from gpuvec.messages import DeleteRows, WriteRequest
from gpuvec.testing.roles import Roles, cut_off_owner, owner_of, wait_for
from gpuvec.types import RequestId

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")


def rows(*ids):
    return {"id": np.array(ids, np.int64), "v": np.ones((len(ids), 4), np.float32)}


def ids_of(items):
    return sorted(items.select("id").to_arrow()["id"].to_pylist())


def epoch(engine, items):
    return max(channel.epoch for channel in engine.state(items._id).channels.values())


def a_write(items, key, *, term, identity):
    change = DeleteRows(keys=items._keys([key]))
    request = WriteRequest(
        collection_id=items._id, request_id=RequestId("r-1"), operation="delete", change=change
    )
    return Write(identity=identity, request=request, term=term)


@pytest.mark.parametrize("channels", [1, 3])
def test_a_new_owner_has_all_rows_of_the_one_before(short, channels):
    roles, db = short
    items = db.create_collection("items", SCHEMA, channels=channels)
    items.insert(rows(*range(10)))
    cut_off_owner(roles, items)
    items.insert(rows(*range(10, 20)))
    items.delete(ids=[3])
    assert ids_of(items) == [n for n in range(20) if n != 3]


@pytest.mark.parametrize("channels", [1, 3])
def test_who_was_cut_off_does_not_take_the_collection_back(short, channels):
    roles, db = short
    items = db.create_collection("items", SCHEMA, channels=channels)
    items.insert(rows(1, 2))
    zombie = cut_off_owner(roles, items)
    items.insert(rows(3))
    before = epoch(db._engine, items)
    late = a_write(items, 1, term=0, identity=roles.ref.identity)
    with pytest.raises(errors.UnavailableError) as caught:
        zombie.handle(late, 5.0)
    assert caught.value.code == "GV-741"
    assert epoch(db._engine, items) == before
    assert ids_of(items) == [1, 2, 3]


@pytest.mark.parametrize("channels", [1, 3])
def test_an_owner_without_a_lease_looks_before_it_answers(short, channels):
    roles, db = short
    items = db.create_collection("items", SCHEMA, channels=channels)
    items.insert(rows(1))
    zombie = cut_off_owner(roles, items)
    assert zombie.channels.peek(items._id).owned, "it has not heard of the end"
    items.insert(rows(2))
    with zombie.reading(items._id) as found:
        assert found.num_rows == 2
    assert not zombie.channels.peek(items._id).owned


def test_an_owner_whose_lease_ran_out_may_write_until_another_is_there(short):
    roles, db = short
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(1, 2))
    owner = owner_of(roles, items)
    engine = roles.nodes[owner.node]
    roles.pause()
    wait_for(lambda: not engine.grants.is_sure(items._id), "the lease does not end")
    engine.handle(a_write(items, 1, term=owner.term, identity=roles.ref.identity), 5.0)
    assert ids_of(items) == [2]


def test_a_node_that_is_no_owner_refuses_to_write(roles, items):
    items.insert(rows(1))
    owner = owner_of(roles, items)
    other = next(engine for name, engine in roles.nodes.items() if name != owner.node)
    with pytest.raises(errors.UnavailableError) as caught:
        other.handle(a_write(items, 1, term=owner.term, identity=roles.ref.identity), 5.0)
    assert caught.value.code == "GV-741"


def test_a_change_by_an_owner_who_was_replaced_is_not_committed(short):
    roles, db = short
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(1))
    zombie = cut_off_owner(roles, items)
    items.insert(rows(2))
    with pytest.raises(errors.UnavailableError) as caught:
        zombie.flush(items._id)
    assert caught.value.code == "GV-741"
    items.add_field("x", gv.Int32(nullable=True))
    assert ids_of(items) == [1, 2]


def test_a_retry_of_a_write_at_the_next_owner_is_not_done_twice(short):
    roles, db = short
    items = db.create_collection("items", SCHEMA)
    items.insert(rows(1, 2))
    owner = owner_of(roles, items)
    write = a_write(items, 1, term=owner.term, identity=roles.ref.identity)
    first = roles.nodes[owner.node].handle(write, 5.0)
    cut_off_owner(roles, items)
    now = owner_of(roles, items)
    wait_for(lambda: roles.nodes[now.node].grants.is_sure(items._id), "no lease")
    again = roles.nodes[now.node].handle(
        a_write(items, 1, term=now.term, identity=roles.ref.identity), 5.0
    )
    assert (again.version, again.deleted) == (first.version, 1)


def test_nodes_let_go_of_dropped_collections(roles, db, items):
    items.insert(rows(1))
    owner = owner_of(roles, items)
    db.drop_collection("items")
    assert (
        roles.nodes[owner.node].channels.peek(items._id) is None
        or not roles.nodes[owner.node].channels.peek(items._id).owned
    )
    assert items._id not in roles.nodes[owner.node].grants
    with pytest.raises(errors.NotFoundError):
        items.insert(rows(2))
    with pytest.raises(errors.NotFoundError):
        items.count()


def test_a_second_coordinator_is_kept_off_a_directory(roles):
    with pytest.raises(errors.ConflictError, match="GV-602"):
        Roles(roles.ref)


def test_a_process_beside_the_cluster_reads_and_does_not_write(roles, items):
    items.insert(rows(1))
    with gv.connect(roles.ref.url) as alone:
        assert ids_of(alone["items"]) == [1]
        with pytest.raises(errors.ConflictError, match="GV-602"):
            alone["items"].insert(rows(2))


def test_what_one_client_does_the_next_read_of_another_sees(open_client):
    one, two = open_client(), open_client()
    items = one.create_collection("items", SCHEMA)
    for key in range(5):
        items.insert(rows(key))
        assert two["items"].count() == key + 1
    two["items"].add_field("x", gv.Int32(nullable=True))
    assert "x" in items.schema.fields
    two.rename("items", "things")
    assert one.collections() == ["things"]
    assert items.name == "things"


def test_a_collection_has_no_name_before_it_is_filled(roles, open_client):
    one, two = open_client(), open_client()
    with pytest.raises(errors.SchemaError, match="both have 1"):
        one.create_collection("items", SCHEMA, data={"id": [1, 1], "v": np.ones((2, 4), "f4")})
    assert two.collections() == []
    assert roles.coordinator.ids() == {}
    one.create_collection("items", SCHEMA, data=rows(1, 2))
    assert ids_of(two["items"]) == [1, 2]
