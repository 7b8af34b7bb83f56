"""Builds step by step, on a store that fails or dies at any operation."""

import itertools
import json
from contextlib import nullcontext
from dataclasses import replace

import pytest

from gpuvec.clock import ManualClock
from gpuvec.coord.data_coord import unbuilt
from gpuvec.errors import CorruptError, DeviceMemoryError, GpuvecError
from gpuvec.index import registry
from gpuvec.index.spec import HNSW, Bitmap, Sorted
from gpuvec.meta.changes import AddField, DropField, DropIndex, SetIndex, Truncate
from gpuvec.meta.collect import GRACE_MS, Limits
from gpuvec.meta.indexes import IndexDefinition
from gpuvec.node.build import build_index, make, memory_share, plan_build
from gpuvec.schema import Int32
from gpuvec.storage import keys
from gpuvec.storage.object_store import run
from gpuvec.testing.channels import (
    GENERATION,
    NAME,
    change,
    delete,
    flush,
    insert,
    new_store,
    open_channel,
    visible,
    write,
)
from gpuvec.testing.faults import Crash, Fault, FaultStore

ROWS = range(300)
_numbers = itertools.count(1 << 60)


class Host:
    """See `gpuvec.node.build.BuildHost`."""

    def __init__(self, channel, store, clock=None):
        self.channel, self.store, self.clock = channel, store, clock or ManualClock()

    def change(self, collection_id, decide):
        self.channel.change(decide, GENERATION)

    def run(self, procedure):
        return run(procedure, self.store, self.clock)

    def mint(self):
        return keys.ulid(self.clock.now_ms(), f"{next(_numbers):020x}")

    def at_work(self):
        return nullcontext()  # nothing is collected here


def want(channel, field="id", spec=None, **parts):
    """Commit a definition; return its id."""
    name = keys.ulid(0, f"{next(_numbers):020x}")
    spec = {"kind": "sorted"} if spec is None else spec
    definition = IndexDefinition(index_id=name, field=field, spec=spec, **parts)
    channel.change(lambda *_: [SetIndex(definition=definition)], GENERATION)
    return name


def build(channel, store, *, host=None, progress=None):
    """Build what is wanted; return the answers."""
    return [
        build_index(
            channel, item.segment_id, item.field, item.definition_id,
            host=host or Host(channel, store), threads=1, progress=progress,
        )
        for item in unbuilt("c-1", channel.state)
    ]  # fmt: skip


def indexed(channel, field="id", *, read=True):
    """Return the segments that have an index, after a look at its files."""
    found = set()
    for view in channel.snapshot(NAME, 0):
        index = view.index(field)
        if index is not None:
            assert not read or index.files()
            found.add(view.segment_id)
    return found


def index_keys(store):
    return store.list(f"{keys.indexes_folder(keys.collection('c-1'))}/")


@pytest.fixture
def store():
    return new_store()


@pytest.fixture
def channel(store):
    channel = open_channel(store)
    write(channel, insert("1", *ROWS))
    flush(channel)
    return channel


def test_a_built_index_is_in_every_view_from_then_on(store, channel):
    before = channel.snapshot(NAME, 0).segments[0]
    want(channel)
    assert build(channel, store) == [True]
    (view,) = channel.snapshot(NAME, 0)
    assert view.index("id") is view.index("id")
    assert view.index("id").spec == Sorted()
    assert view.index("v") is None
    assert before.index("id") is None, "a view does not change under its reader"
    assert not list(unbuilt("c-1", channel.state))


def test_a_snapshot_names_what_is_wanted(store, channel):
    want(channel, "id", {"kind": "auto"})
    want(channel, "v", HNSW(m=8).to_json(), recall=0.9)
    assert channel.snapshot(NAME, 0).indexes == {"id": None, "v": HNSW(m=8)}


def test_another_process_sees_an_index_with_the_manifest(store, channel):
    reader = open_channel(store)
    want(channel)
    assert not indexed(reader)
    build(channel, store)
    assert indexed(reader) == indexed(channel) != set()
    snapshot = reader.snapshot(NAME, 0)
    assert reader.snapshot(NAME, 0) is snapshot, "nothing changed since"


def test_a_restart_finds_the_index_and_builds_none(store, channel):
    want(channel)
    build(channel, store)
    again = open_channel(store)
    assert indexed(again) == indexed(channel)
    assert build(again, store) == []
    assert visible(again) == set(ROWS)


def test_a_growing_segment_has_no_index_until_it_is_flushed_and_built(store, channel):
    want(channel)
    build(channel, store)
    write(channel, insert("2", *range(1000, 1010)))
    assert len(indexed(channel)) == 1
    flush(channel)
    assert len(indexed(channel)) == 1
    assert build(channel, store) == [True]
    assert len(indexed(channel)) == 2


def test_deletes_after_a_build_leave_the_index(store, channel):
    want(channel)
    build(channel, store)
    write(channel, delete("2", 3, 4))
    assert len(indexed(channel)) == 1
    flush(channel)
    assert len(indexed(channel)) == len(indexed(open_channel(store))) == 1


def test_a_dropped_or_replaced_wish_takes_the_index_from_views(store, channel):
    want(channel)
    build(channel, store)
    other = want(channel, spec={"kind": "bitmap"})
    assert not indexed(channel)
    assert [item.definition_id for item in unbuilt("c-1", channel.state)] == [other]
    build(channel, store)
    (view,) = channel.snapshot(NAME, 0)
    assert view.index("id").spec == Bitmap()
    channel.change(lambda *_: [DropIndex(field="id")], GENERATION)
    assert not indexed(channel)
    assert not indexed(open_channel(store))


def test_a_field_that_comes_again_never_gets_the_old_index(store):
    channel = open_channel(store)
    add = change(lambda _: AddField(name="n", field_type=Int32(nullable=True)))
    add(channel)
    write(channel, insert("1", *ROWS))
    flush(channel)
    want(channel, "n")
    assert build(channel, store) == [True]
    assert indexed(channel, "n")
    change(lambda _: DropField(name="n"))(channel)
    add(channel)
    assert not indexed(channel, "n")
    want(channel, "n")
    assert build(channel, store) == [], "the segment is older than the field"


class Interrupting(Host):
    """Changes something between writing the files and the commit."""

    def __init__(self, channel, store, change):
        super().__init__(channel, store)
        self.meanwhile = change

    def change(self, collection_id, decide):
        self.meanwhile(self.channel)
        super().change(collection_id, decide)


@pytest.mark.parametrize(
    "meanwhile",
    [
        lambda channel: channel.change(lambda *_: [DropIndex(field="id")], GENERATION),
        lambda channel: want(channel, spec={"kind": "bitmap"}),
    ],
    ids=["dropped", "replaced"],
)
def test_a_build_that_is_no_longer_wanted_is_thrown_away(store, channel, meanwhile):
    want(channel)
    assert build(channel, store, host=Interrupting(channel, store, meanwhile)) == [False]
    assert not indexed(channel)
    assert index_keys(store) == []


def test_writes_and_flushes_go_on_during_a_build(store, channel):
    want(channel)

    def meanwhile(channel):
        write(channel, insert("2", 1000), delete("3", 0))
        flush(channel)

    assert build(channel, store, host=Interrupting(channel, store, meanwhile)) == [True]
    assert len(indexed(channel)) == 1
    assert visible(channel) == {*ROWS, 1000} - {0}
    assert visible(open_channel(store)) == {*ROWS, 1000} - {0}


def test_what_progress_raises_ends_the_build_before_anything_is_written(store, channel):
    want(channel)

    def stop(share):
        raise KeyError(share)

    with pytest.raises(KeyError):
        build(channel, store, progress=stop)
    assert index_keys(store) == []
    assert build(channel, store) == [True]


def test_truncated_segments_are_not_built(store, channel):
    want(channel)
    change(lambda ts: Truncate(ts=ts))(channel)
    assert build(channel, store) == []


def test_a_damaged_file_is_an_error_at_its_first_use(store, channel):
    want(channel)
    build(channel, store)
    (key,) = index_keys(store)
    store.put(key, [store.get(key)[::-1]])
    reader = open_channel(store)
    assert visible(reader) == set(ROWS), "an index is not read before it is asked for"
    (view,) = reader.snapshot(NAME, 0)
    with pytest.raises(CorruptError) as caught:
        view.index("id").files()
    assert caught.value.code == "GV-503"


def test_files_of_a_dropped_index_go_after_their_grace(store):
    clock = ManualClock()
    channel = open_channel(store, clock)
    write(channel, insert("1", *ROWS))
    flush(channel)
    want(channel)
    build(channel, store, host=Host(channel, store, clock))
    clock.advance(2 * GRACE_MS / 1000)
    channel.collect(GENERATION, Limits(grace_ms=0))
    assert len(index_keys(store)) == 1
    channel.change(lambda *_: [DropIndex(field="id")], GENERATION)
    channel.collect(GENERATION, Limits(grace_ms=0))
    assert index_keys(store) == []
    assert visible(open_channel(store)) == set(ROWS)


# Vector indexes


def test_a_vector_index_keeps_its_curve_and_says_what_it_reached(store, channel):
    want(channel, "v", HNSW(m=8, ef_construction=20).to_json(), recall=0.9, k=5)
    assert build(channel, store) == [True]
    (view,) = channel.snapshot(NAME, 0)
    index = view.index("v")
    assert (index.target, index.spec) == (0.9, HNSW(m=8, ef_construction=20))
    assert index.curve().points
    assert "curve.json" not in index.files()
    column = view.vectors("v")
    opened = registry.load(index.spec, column, "cosine", index.files())
    found = opened.search(column.values[5:6], 3)
    assert (found.rows >= 0).all()
    (record,) = (s.indexes["v"] for s in channel.state.segments.values())
    json.dumps(record.to_json())
    assert record.summary["source"] == "held-out rows"
    assert record.size_bytes == index.size_bytes == sum(map(len, map(store.get, index_keys(store))))


def test_the_memory_of_a_field_is_shared_by_its_segments(store, channel):
    write(channel, insert("2", *range(1000, 1100)))
    flush(channel)
    want(channel, "v", HNSW().to_json(), recall=0.9, max_memory=4000)
    state = channel.state
    shares = {s.row_count: memory_share(state, state.indexes["v"], s)
              for s in state.segments.values()}  # fmt: skip
    assert shares == {300: 3000, 100: 1000}
    plans = [plan_build(state, s, "v") for s in state.segments]
    with pytest.raises(DeviceMemoryError) as caught:
        make(plans[0], channel.loader.load(plans[0].segment).rows, threads=1)
    assert caught.value.code == "GV-401"
    assert caught.value.details["limit"] == 3000


def test_what_indexed_segments_leave_of_the_memory_is_for_the_others(store, channel):
    want(channel, "id", max_memory=100_000)
    build(channel, store)
    write(channel, insert("2", *range(1000, 1100)))
    flush(channel)
    state = channel.state
    first, second = state.segments.values()
    held = first.indexes["id"].summary["bytes"]
    assert held > 0
    assert memory_share(state, state.indexes["id"], second) == 100_000 - held


def test_an_index_that_only_serves_until_its_successor_takes_no_memory(store, channel):
    want(channel, "id")
    build(channel, store)
    definition = replace(channel.state.indexes["id"], index_id="next", max_memory=5000)
    channel.change(lambda *_: [SetIndex(definition=definition, keeps=True)], GENERATION)
    state = channel.state
    (segment,) = state.segments.values()
    assert "id" in segment.indexes
    assert memory_share(state, state.indexes["id"], segment) == 5000


# Faults


def steps(store):
    """Write, want, build, replace and build again; return the channel and what it had built."""
    channel = open_channel(store)
    write(channel, insert("1", *range(20)))
    flush(channel)
    want(channel)
    build(channel, store)
    write(channel, insert("2", 50))
    flush(channel)
    want(channel, spec={"kind": "bitmap"})
    build(channel, store)
    return channel


def count_operations(appendable):
    store = FaultStore(new_store(appendable=appendable))
    assert len(indexed(steps(store))) == 2
    return len(store.operations)


def check_fault(fault, number, appendable):
    inner = new_store(appendable=appendable)
    store = FaultStore(inner, {number: fault})
    try:
        channel = steps(store)
    except (GpuvecError, Crash):
        channel = None
    try:
        again = open_channel(inner)
        assert visible(again) in (frozenset(), frozenset(range(20)), {*range(20), 50})
        indexed(again)
        write(again, insert("9", *range(100, 120)))
        flush(again)
        want(again, spec={"kind": "bitmap"})
        assert all(build(again, inner)), "whoever comes next builds what is missing"
        segments = {view.segment_id for view in again.snapshot(NAME, 0)}
        assert indexed(again) == indexed(open_channel(inner)) == segments
        if channel is not None and fault is not Fault.REPEATED:
            assert indexed(channel, read=False) <= segments
    except BaseException as error:
        error.add_note(f"{fault.name} at {number}: {store.operations[number]}")
        raise


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_any_operation_of_a_build_leaves_nothing_half_done(fault, appendable):
    step = 1 if fault in (Fault.CRASH_AFTER, Fault.CRASH_BEFORE, Fault.BEFORE) else 4
    for number in range(0, count_operations(appendable), step):
        check_fault(fault, number, appendable)


def test_files_of_a_failed_build_are_deleted_at_once():
    inner = new_store()
    names = [name for name, key in _operations(inner) if "/idx/" in key]
    assert names == ["put"]
    number = next(n for n, (_, key) in enumerate(_operations(new_store())) if "/idx/" in key)
    for fault in (Fault.BEFORE, Fault.AFTER):
        inner = new_store()
        store = FaultStore(inner, {number: fault})
        channel = _ready(store)
        with pytest.raises(GpuvecError):
            build(channel, store)
        assert index_keys(inner) == []
        assert build(channel, store) == [True], "a later try finds the store whole"


def _ready(store):
    channel = open_channel(store)
    write(channel, insert("1", *range(20)))
    flush(channel)
    want(channel)
    return channel


def _operations(inner):
    store = FaultStore(inner)
    build(_ready(store), store)
    return store.operations
