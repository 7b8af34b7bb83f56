"""The coordinator and nodes over real connections, without a Dask cluster around them."""

import logging
import threading
import time

import pytest

import gpuvec as gv
from gpuvec import errors, telemetry
from gpuvec.clock import pack_timestamp
from gpuvec.cluster.client_database import open_database
from gpuvec.cluster.coordinator import Coordinator
from gpuvec.cluster.fuse import Fuse
from gpuvec.cluster.node_host import NodeHost
from gpuvec.cluster.opening import reference
from gpuvec.cluster.transport import DaskTransport
from gpuvec.cluster_messages import (
    COORDINATOR,
    CloseDatabase,
    FindOwner,
    Hello,
    NodeReport,
    OpenDatabase,
)
from gpuvec.testing.dask_hosts import host
from gpuvec.types import NodeId

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, primary_key="id")


def hello(name="n1", address="tcp://127.0.0.1:1", **fields):
    fields = {"incarnation": "1", "host": "here", "memory_bytes": 1 << 30, "threads": 1, **fields}
    return Hello(node=NodeId(name), address=address, **fields)


@pytest.fixture
def there():
    """Where the coordinator answers."""
    with host(COORDINATOR, deserialize=False) as made:
        yield made


@pytest.fixture
def pushed():
    return []


@pytest.fixture
def coordinator(there, pushed):
    transport = DaskTransport(there.address)
    made = Coordinator(transport, pushed.append)
    made.serve(there.service)
    yield made
    made.close()
    transport.close()


@pytest.fixture
def ask(there, coordinator):
    """Send a message to the coordinator as others do."""
    transport = DaskTransport(there.address)
    yield lambda message, deadline_s=5: transport.call(COORDINATOR, message, deadline_s=deadline_s)
    transport.close()


@pytest.fixture
def node(there, coordinator):
    """A node that works."""
    with host("n1") as place:
        transport = DaskTransport(there.address)
        made = NodeHost(hello(address=place.address), transport, place.service)
        made.start()
        yield made
        made.stop()


@pytest.fixture
def db(there, node, tmp_path):
    transport = DaskTransport(there.address)
    made = open_database(tmp_path, transport=transport)
    yield made
    made.close()
    transport.close()


def test_rows_are_written_and_read_through_a_node(db, node):
    items = db.create_collection("items", SCHEMA)
    items.insert({"id": [1, 2], "v": [[0, 1], [1, 0]]})
    assert items.search([[0, 1]], k=1).to_arrow().column("id").to_pylist() == [1]
    assert node.engine_of(db._engine.reference.identity).grants.terms() != {}


def test_clients_are_told_of_nodes_and_owners(db, pushed):
    db.create_collection("items", SCHEMA).insert({"id": [1], "v": [[0, 1]]})
    assert {line.node for delta in pushed for line in delta.nodes} == {"n1"}
    assert {owner.node for delta in pushed for owner in delta.owners.values()} == {"n1"}
    epochs = [delta.epoch for delta in pushed]
    assert epochs == sorted(set(epochs))


def test_a_node_of_another_protocol_is_listed_and_gets_no_work(ask, coordinator, tmp_path):
    assert not ask(hello("old", protocol=0)).usable
    ask(OpenDatabase(database=reference(tmp_path), client="c"))
    assert coordinator.state()["nodes"]["old"]["usable"] is False
    assert coordinator.state()["ready"] is False
    assert not ask(NodeReport(node=NodeId("old"), incarnation="1")).known


def test_a_report_of_an_unknown_start_asks_for_a_hello(ask):
    assert not ask(NodeReport(node=NodeId("n1"), incarnation="1")).known
    ask(hello())
    assert ask(NodeReport(node=NodeId("n1"), incarnation="1")).known
    assert not ask(NodeReport(node=NodeId("n1"), incarnation="2")).known


def test_a_node_whose_connection_broke_is_gone(ask, coordinator):
    ask(hello())
    coordinator.lost("tcp://127.0.0.1:1")
    assert coordinator.state()["nodes"] == {}
    assert not ask(NodeReport(node=NodeId("n1"), incarnation="1")).known


def test_what_is_not_open_is_unavailable_for_now(ask):
    with pytest.raises(errors.UnavailableError, match="GV-754") as caught:
        ask(FindOwner(identity="nothing", collection_id="c"))
    assert caught.value.details["retryable"]


def test_an_open_that_comes_after_its_close_opens_nothing(ask, coordinator, tmp_path):
    ref = reference(tmp_path)
    opened = OpenDatabase(database=ref, client="c")
    ask(opened)
    ask(CloseDatabase(identity=ref.identity, client="c"))
    with pytest.raises(errors.UnavailableError, match="GV-754"):
        ask(opened)
    assert coordinator.state()["databases"] == {}


def test_a_database_stays_open_as_long_as_one_client_wants_it(ask, coordinator, tmp_path):
    ref = reference(tmp_path)
    first = ask(OpenDatabase(database=ref, client="one"))
    assert ask(OpenDatabase(database=ref, client="two")) == first
    ask(CloseDatabase(identity=ref.identity, client="one"))
    assert set(coordinator.state()["databases"]) == {ref.identity}
    ask(CloseDatabase(identity=ref.identity, client="two"))
    assert coordinator.state()["databases"] == {}
    later = ask(OpenDatabase(database=ref, client="three"))
    assert later.generation > first.generation


def test_a_closed_database_leaves_no_lease_for_the_next_to_wait_for(db, coordinator, tmp_path):
    db.create_collection("items", SCHEMA).insert({"id": [1], "v": [[0, 1]]})
    db.close()
    with gv.connect(tmp_path) as alone:
        assert alone._engine.root() is not None
        assert alone._engine.names.view.state.lease_s == 0
        alone["items"].insert({"id": [2], "v": [[0, 1]]})
        assert alone["items"].count() == 2


def test_a_database_whose_timestamps_are_ahead_of_the_clock_moves_no_other_in_time(ask, tmp_path):
    ask(hello())
    one, other = (reference(tmp_path / name) for name in ("one", "other"))
    for ref in (one, other):
        ask(OpenDatabase(database=ref, client="c"))
    ahead_ms = int(time.time() * 1000) + 15_000
    newest = {one.identity: pack_timestamp(ahead_ms)}
    told = ask(NodeReport(node=NodeId("n1"), incarnation="1", newest=newest)).now_ms
    assert told[one.identity] == ahead_ms
    assert told[other.identity] <= time.time() * 1000


def test_without_nodes_an_owner_is_waited_for_until_the_deadline(ask, tmp_path):
    with gv.connect(tmp_path) as alone:
        alone.create_collection("items", SCHEMA)
        collection_id = alone._engine.root().id_of("items")
    ref = reference(tmp_path)
    ask(OpenDatabase(database=ref, client="c"))
    started = time.monotonic()
    with pytest.raises(errors.UnavailableError, match=r"GV-759.*no workers"):
        ask(FindOwner(identity=ref.identity, collection_id=collection_id), deadline_s=1.0)
    assert 0.6 < time.monotonic() - started < 5


def test_a_database_that_is_always_open_is_tried_until_it_opens(there, pushed, tmp_path):
    ref = reference(tmp_path)
    with gv.connect(tmp_path) as writer:
        writer.create_collection("items", SCHEMA)
        transport = DaskTransport(there.address)
        coordinator = Coordinator(transport, pushed.append, databases=[ref])
        until = time.monotonic() + 20
        while "GV-602" not in coordinator.state()["reason"]:
            assert time.monotonic() < until
            time.sleep(0.05)
    while not coordinator.state()["databases"]:
        assert time.monotonic() < until
        time.sleep(0.05)
    coordinator.close()
    transport.close()


def test_an_error_that_escapes_what_decides_ends_the_scheduler(there, tmp_path, caplog):
    """Nobody would decide any more, while handlers went on answering."""
    ended = threading.Event()

    def push(delta):
        raise AssertionError("routes that cannot be")

    transport = DaskTransport(there.address)
    coordinator = Coordinator(transport, push, databases=[reference(tmp_path)], end=ended.set)
    coordinator.serve(there.service)
    with caplog.at_level(logging.CRITICAL):
        transport.call(COORDINATOR, hello(), deadline_s=5)
        assert ended.wait(20)
    coordinator.close()
    transport.close()
    assert "routes that cannot be" in caplog.text  # with the traceback


def test_work_on_threads_ends_the_coordinator_unless_a_store_failed(caplog):
    ended = []
    fuse = Fuse(lambda: ended.append(1), 1)

    def fail(error):
        raise error

    fuse.submit(fail, errors.collection_gone("c")).result()
    fuse.submit(fail, OSError("disk")).result()
    assert ended == []
    with caplog.at_level(logging.CRITICAL):
        fuse.submit(fail, KeyError("planted")).result()
        fuse.submit(fail, KeyError("again")).result()
    assert ended == [1]
    fuse.shutdown()
    assert "planted" in caplog.text


def test_a_node_that_joins_is_an_event(ask):
    for incarnation in ("1", "1", "2"):  # said twice it is one start
        ask(hello("fresh", incarnation=incarnation))
    joined = [e.details["peer"] for e in telemetry.EVENTS.newest() if e.kind == "node_joined"]
    assert joined == ["fresh", "fresh"]
