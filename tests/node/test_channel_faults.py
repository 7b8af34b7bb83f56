"""A channel on a store that fails or dies at any operation: nothing acknowledged is lost."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

import gpuvec as gv
from gpuvec.clock import ManualClock
from gpuvec.coord.tso import TimestampOracle
from gpuvec.errors import GpuvecError
from gpuvec.messages import DeleteRows, InsertRows, OnConflict, WriteRequest
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import AddField, AddPartition, InitCollection, Truncate
from gpuvec.meta.manifest import ManifestLog
from gpuvec.node.channel import CHANNEL, Channel
from gpuvec.rows import DenseVectors, Rows
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import run
from gpuvec.testing.faults import Crash, Fault, FaultStore

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(2)}, "id")
NAME = "items"
NUMBERS = itertools.count()  # names are never reused


def new_store(*, appendable=True):
    store, clock = MemoryStore(appendable=appendable), ManualClock()
    log = ManifestLog(keys.collection("c-1"), CollectionState())
    first = InitCollection(collection_id="c-1", schema=SCHEMA, channels=(CHANNEL,))
    run(
        log.commit(run(log.read(), store, clock), [first], generation=1, committer="t"),
        store,
        clock,
    )
    return store


def open_channel(store, clock=None):
    clock = clock or ManualClock()
    mint = lambda: keys.ulid(clock.now_ms(), f"{next(NUMBERS):020x}")  # noqa: E731

    def at_once(work):
        work()
        return lambda: None

    channel = Channel(
        "c-1", store=store, run=lambda procedure: run(procedure, store, clock),
        stamps=TimestampOracle(clock), mint=mint, flush_bytes=1 << 20, committer="t",
        beside=at_once,
    )  # fmt: skip
    channel.refresh()
    return channel


def insert(name, *ids, version=1, on_conflict=OnConflict.ERROR):
    ids = np.array(ids)
    vectors = np.repeat(ids[:, None], 2, axis=1).astype(np.float32)
    rows = Rows(pa.table({"id": ids}), {"v": DenseVectors(vectors)})
    change = InsertRows(rows=rows, schema_version=version, partition="", on_conflict=on_conflict)
    return WriteRequest(collection_id="c-1", request_id=name, operation="insert", change=change)


def delete(name, *ids):
    change = DeleteRows(keys=pa.array(ids, pa.int64()))
    return WriteRequest(collection_id="c-1", request_id=name, operation="delete", change=change)


def write(channel, *requests):
    answers = channel.write(NAME, requests, 1)
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    return answers


def flush(channel):
    channel.flush(1)


def change(*changes):
    return lambda channel: channel.change(lambda _, ts: [make(ts) for make in changes], 1)


def visible(channel):
    found = []
    for view in channel.snapshot(NAME, 0).segments:
        ids, keep = view.scalars(["id"])["id"].to_numpy(), view.keep()
        vectors = view.vectors("v").values
        assert (vectors == ids[:, None]).all(), "a vector is another row's"
        found += ids.tolist() if keep is None else ids[keep].tolist()
    assert len(set(found)) == len(found), "a key is visible twice"
    return frozenset(found)


REPLACE = OnConflict.REPLACE

# What the steps do, and what they do to the set of keys.
STEPS = [
    (lambda c: write(c, insert("1" * 32, *range(10))), lambda k: k | set(range(10))),
    (lambda c: write(c, insert("2" * 32, 10), insert("3" * 32, 11)), lambda k: k | {10, 11}),
    (lambda c: write(c, delete("4" * 32, 0, 1)), lambda k: k - {0, 1}),
    (flush, lambda k: k),
    (lambda c: write(c, insert("5" * 32, 1, 20, on_conflict=REPLACE), delete("6" * 32, 2)),
     lambda k: (k | {1, 20}) - {2}),
    (change(lambda ts: AddPartition(name="p", ts=ts)), lambda k: k),
    (change(lambda _: AddField(name="n", field_type=gv.Int32(nullable=True))), lambda k: k),
    (lambda c: write(c, delete("7" * 32, 3, 20)), lambda k: k - {3, 20}),
    (flush, lambda k: k),
    (lambda c: write(c, insert("8" * 32, 30)), lambda k: k | {30}),
    (change(lambda ts: Truncate(ts=ts)), lambda k: set()),
    (lambda c: write(c, insert("9" * 32, 40)), lambda k: k | {40}),
]  # fmt: skip


def take_steps(store):
    """Take all steps; return the sets of keys that may be there, and the channel if it lives."""
    possible, channel = {frozenset()}, None
    try:
        for action, effect in STEPS:
            after = {frozenset(effect(keys)) for keys in possible}
            try:
                channel = channel or open_channel(store)
                action(channel)
            except GpuvecError as error:
                if error.details.get("outcome") != "none":
                    possible |= after
            except Crash:
                return possible | after, None
            else:
                possible = after
    except Crash:
        return possible, None
    return possible, channel


def check(fault, number, *, appendable):
    inner = new_store(appendable=appendable)
    store = FaultStore(inner, {number: fault})
    possible, channel = take_steps(store)
    note = f"{fault.name} at {number}: {store.operations[number]}"
    try:
        found = visible(open_channel(inner))
        assert found in possible
        if channel is not None:
            assert visible(channel) == found, "what was shown is not what is there"
        again = open_channel(inner)
        write(again, insert("a" * 32, 99))
        flush(again)
        assert visible(again) == found | {99}
        assert visible(open_channel(inner)) == found | {99}
    except BaseException as error:
        error.add_note(note)
        raise


def operations(appendable):
    store = FaultStore(new_store(appendable=appendable))
    possible, channel = take_steps(store)
    assert possible == {frozenset({40})}
    assert visible(channel) == {40}
    return len(store.operations)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_some_operations_loses_nothing_acknowledged(fault, appendable):
    for number in range(list(Fault).index(fault) % 4, operations(appendable), 4):
        check(fault, number, appendable=appendable)


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_any_operation_loses_nothing_acknowledged(fault, appendable):
    for number in range(operations(appendable)):
        check(fault, number, appendable=appendable)


def test_a_retry_gets_the_first_answer():
    store = new_store()
    channel = open_channel(store)
    request = insert("1" * 32, 1, 2)
    first = write(channel, request, request)
    assert first[0] == first[1]
    assert write(channel, request) == first[:1]
    assert write(open_channel(store), request) == first[:1], "after a restart"
    flush(channel := open_channel(store))
    write(channel, insert("2" * 32, 3))
    flush(channel)
    assert write(open_channel(store), request) == first[:1], "after a flush"
    assert visible(open_channel(store)) == {1, 2, 3}


def test_writes_of_one_group_see_one_another():
    channel = open_channel(new_store())
    answers = channel.write(
        NAME,
        [insert("1" * 32, 1), insert("2" * 32, 1), delete("3" * 32, 1), insert("4" * 32, 1)],
        1,
    )
    assert [getattr(answer, "code", "done") for answer in answers] == [
        "done", "GV-157", "done", "done",
    ]  # fmt: skip
    assert visible(channel) == {1}
    versions = [a.version for a in answers if not isinstance(a, Exception)]
    assert versions == sorted(set(versions))


def test_deletes_during_a_flush_are_carried_over():
    store = new_store()
    channel = open_channel(store)
    write(channel, insert("1" * 32, 5, 4, 3, 2, 1))
    during = []

    class Meanwhile(FaultStore):
        def put(self, key, parts):
            if not during:
                during.append(key)
                write(channel, delete("2" * 32, 4, 1), insert("3" * 32, 9))
                assert visible(channel) == {2, 3, 5, 9}
            super().put(key, parts)

    watched = Meanwhile(store)
    clock = ManualClock()
    channel._run = lambda procedure: run(procedure, watched, clock)
    flush(channel)
    assert during
    assert visible(channel) == {2, 3, 5, 9}
    assert visible(open_channel(store)) == {2, 3, 5, 9}
    flush(channel)
    assert visible(open_channel(store)) == {2, 3, 5, 9}


def test_a_follower_sees_what_the_owner_acknowledged():
    store = new_store()
    owner, follower = open_channel(store), open_channel(store)
    for number, (action, _) in enumerate(STEPS):
        action(owner)
        assert visible(follower) == visible(owner), f"after step {number}"
        assert follower.shard.version == owner.shard.version


def test_a_second_owner_stops_the_first():
    store = new_store()
    one = open_channel(store)
    write(one, insert("1" * 32, 1))
    other = open_channel(store)
    write(other, insert("2" * 32, 2))
    answer = one.write(NAME, [insert("3" * 32, 3)], 1)[0]
    assert (answer.code, answer.details["outcome"]) == ("GV-604", "none")
    assert visible(one) == visible(open_channel(store)) == {1, 2}
    write(one, insert("3" * 32, 3))  # it has claimed the channel again
    assert visible(open_channel(store)) == {1, 2, 3}


def test_timestamps_rise_though_the_clock_was_set_back():
    store = new_store()
    clock = ManualClock()
    first = write(open_channel(store, clock), insert("1" * 32, 1))[0].version
    clock.step_back(3600)
    assert write(open_channel(store, clock), insert("2" * 32, 2))[0].version > first
