"""Long reads and handles on versions keep what they need, here and beside another writer."""

import gc

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.api.collection import Collection
from gpuvec.api.engine import Engine
from gpuvec.api.leases import Leases
from gpuvec.api.source import CollectionSource
from gpuvec.clock import ManualClock
from gpuvec.errors import CorruptError
from gpuvec.query.session import new_session
from gpuvec.storage.local import LocalStore

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(8)}, "id")
GRACE_S, RETENTION_S = 900.0, 86400.0


def rows(ids):
    return {"id": list(ids), "v": np.ones((len(list(ids)), 8), np.float32)}


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def engines(tmp_path, clock):
    """Make engines on one database; all end with the test."""
    made = []

    def make():
        store = LocalStore(tmp_path / "shop", durability="os")
        engine = Engine(store, "shop", durability="os", clock=clock, flush_bytes=1 << 20, age_s=1e9)
        made.append(engine)
        return engine

    yield make
    for engine in made:
        engine.close()


@pytest.fixture
def writer(engines):
    engine = engines()
    engine.collections.create("items", SCHEMA)
    return engine


def items_of(engine):
    engine.root()
    _, collection_id = engine.root().resolve("items")
    return Collection(CollectionSource(engine, collection_id), new_session())


def pins(items):
    return list(items._state.pins.values())


def test_a_read_that_lasts_pins_its_files_until_it_ends(writer, clock):
    items = items_of(writer)
    items.insert(rows(range(5)))
    with items._source.snapshot():
        began = clock.now_ms()
        writer.leases.tend()
        assert not pins(items)
        clock.advance(GRACE_S / 2)
        writer.leases.tend()
        (pin,) = pins(items)
        assert (pin.since_ms, pin.expires_ms) == (began, clock.now_ms() + GRACE_S * 1000)
        clock.advance(GRACE_S / 4)
        writer.leases.tend()
        assert len(pins(items)) == 1
        assert pins(items)[0].expires_ms > pin.expires_ms
    writer.leases.tend()
    assert not pins(items)


def test_a_handle_pins_a_version_that_would_be_forgotten_until_nobody_has_it(writer, clock):
    items = items_of(writer)
    version = items.insert(rows(range(5))).version
    items.flush()
    items.delete(ids=[1, 2])
    items.flush()
    old = items.at(version=version)
    writer.leases.tend()
    assert not pins(items)
    clock.advance(RETENTION_S / 2)
    writer.leases.tend()
    assert [pin.version for pin in pins(items)] == [version]
    clock.advance(RETENTION_S)
    writer.leases.tend()
    items.insert(rows([9]))
    items.vacuum()
    assert old.count() == 5
    del old
    gc.collect()
    writer.leases.tend()
    assert not pins(items)
    items.vacuum()
    with pytest.raises(gv.SnapshotExpiredError, match="GV-640"):
        items.at(version=version)


def test_a_tagged_or_newest_version_needs_no_pin(writer, clock):
    items = items_of(writer)
    items.insert(rows([1]))
    items.tag("t")
    items.insert(rows([2]))
    items.flush()
    handles = [items.at(tag="t"), items.at(version=items.version)]
    clock.advance(RETENTION_S)
    writer.leases.tend()
    assert not pins(items)
    assert [handle.count() for handle in handles] == [1, 2]


def test_vacuum_leaves_what_handles_of_this_process_read(writer, clock):
    items = items_of(writer)
    first = items.insert(rows([9])).version
    clock.advance(1.0)
    version = items.insert(rows(range(5))).version
    items.flush()
    clock.advance(1.0)
    items.truncate()
    items.flush()
    old = items.at(version=version)
    items.vacuum(older_than="0s")
    assert old.count() == 6
    with pytest.raises(gv.SnapshotExpiredError):
        items.at(version=first)


def test_compaction_leaves_what_handles_of_this_process_read(writer, clock):
    items = items_of(writer)
    items.set_retention(0)
    first = items.insert(rows(range(20))).version
    items.flush()
    handle = items.at(version=first)
    clock.advance(1.0)
    items.delete(ids=range(15))
    items.flush()
    items.compact()
    assert handle.count() == 20
    del handle
    gc.collect()
    clock.advance(1.0)
    items.compact()
    items.vacuum("0s")
    with pytest.raises(gv.SnapshotExpiredError):
        items.at(version=first).count()


def test_a_reader_pins_beside_the_writer_who_goes_on(writer, engines, clock):
    items, reader = items_of(writer), engines()
    version = items.insert(rows(range(5))).version
    items.flush()
    items.delete(ids=[0])
    items.flush()
    there = items_of(reader)
    old = there.at(version=version)
    clock.advance(RETENTION_S / 2)
    reader.leases.tend()
    items.insert(rows([7]))
    items.flush()
    assert [pin.version for pin in pins(items)] == [version]
    clock.advance(RETENTION_S)
    reader.leases.tend()
    items.upsert(rows([8]))
    items.vacuum()
    assert old.to_arrow()["id"].to_pylist() == [0, 1, 2, 3, 4]
    assert there.to_arrow()["id"].to_pylist() == items.to_arrow()["id"].to_pylist()


def test_a_pin_of_a_process_that_died_expires(writer, engines, clock):
    items, reader = items_of(writer), engines()
    version = items.insert(rows(range(5))).version
    items.delete(ids=[0])
    items.flush()
    old = items_of(reader).at(version=version)
    clock.advance(RETENTION_S)
    reader.leases.tend()
    clock.advance(GRACE_S + 1)
    items.insert(rows([9]))
    items.flush()
    items.vacuum(older_than="0s")
    assert not pins(items)
    with pytest.raises(gv.SnapshotExpiredError, match="GV-640"):
        old.count()


def test_a_read_whose_files_were_deleted_says_so_and_a_new_one_works(writer, engines, clock):
    items, reader = items_of(writer), engines()
    items.insert(rows(range(5)))
    items.flush()
    there = items_of(reader)

    def slow_read():
        with there._source.snapshot() as snapshot:
            items.delete(ids=[0])
            items.compact()
            clock.advance(60)
            items.vacuum(older_than="0s")
            clock.advance(61)
            items.vacuum(older_than="0s")
            (view,) = snapshot.segments
            view.vectors("v")

    with pytest.raises(gv.SnapshotExpiredError, match=r"GV-640.*no longer kept"):
        slow_read()
    assert there.count() == 4


def test_a_file_that_is_missing_though_it_is_needed_stays_an_error(writer, tmp_path):
    items = items_of(writer)
    items.insert(rows(range(5)))
    items.flush()
    (path,) = (tmp_path / "shop").glob("collections/*/seg/*/vec-v.arrow")
    path.unlink()
    with pytest.raises(CorruptError, match="GV-501"):
        items.search(np.ones(8, np.float32), k=1).collect()


def test_closing_drops_the_pins_of_the_process(writer, engines, clock):
    items, reader = items_of(writer), engines()
    version = items.insert(rows(range(5))).version
    items.delete(ids=[0])
    items.flush()
    old = items_of(reader).at(version=version)
    clock.advance(RETENTION_S)
    reader.leases.tend()
    items.set_retention(None)
    assert len(pins(items)) == 1
    reader.close()
    items.set_retention(None)
    assert not pins(items)
    del old


def test_a_pin_that_the_writer_has_not_heard_of_stops_its_vacuum(writer, engines, clock):
    items, reader = items_of(writer), engines()
    version = items.insert(rows(range(5))).version
    items.flush()
    items.delete(ids=[0])
    items.flush()
    old = items_of(reader).at(version=version)
    clock.advance(RETENTION_S)
    reader.leases.tend()
    items.vacuum(older_than="0s")
    assert old.count() == 5
    items.compact()
    assert old.count() == 5


class Handle:
    """Somebody who reads."""


class Late:
    """An engine to whose log somebody else comes first, once."""

    def __init__(self, engine, before):
        self._engine, self._before = engine, [before]

    def state(self, collection_id):
        return self._engine.state(collection_id)

    def pin(self, collection_id, changes):
        while self._before:
            self._before.pop()()
        self._engine.pin(collection_id, changes)


def test_a_version_that_went_does_not_keep_its_neighbours_from_being_pinned(
    writer, engines, clock, caplog
):
    items, reader = items_of(writer), engines()
    versions = []
    for number in range(3):
        versions.append(items.insert(rows([number])).version)
        clock.advance(1.0)
    items.flush()
    reader.root()

    def forget_the_first():
        items.tag("t", versions[1])
        items.vacuum(older_than="0s")

    leases = Leases(Late(reader, forget_the_first), clock)
    handle = Handle()
    for version in versions[:2]:
        leases.hold(handle, items._id, version)
    leases.tend(at_once=True)
    items.set_retention(None)  # which reads the log
    assert [pin.version for pin in pins(items)] == [versions[1]]
    assert f"version {versions[0]} was forgotten" in caplog.text
    leases.stop()


def test_a_version_that_is_forgotten_is_not_pinned_again_and_again(writer, engines, clock, caplog):
    items, reader = items_of(writer), engines()
    version = items.insert(rows([1])).version
    clock.advance(1.0)
    items.insert(rows([2]))
    items.flush()
    clock.advance(1.0)
    old = items_of(reader).at(version=version)
    items.vacuum(older_than="0s")
    reader.leases.tend(at_once=True)
    items.set_retention(None)  # which reads the log
    assert not pins(items)
    assert not caplog.text
    with pytest.raises(gv.SnapshotExpiredError, match="GV-640"):
        old.count()
