import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import ConflictError
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import (
    AddIndex,
    DropIndex,
    Flush,
    InitCollection,
    SegmentRecord,
    SetEpoch,
    SetIndex,
)
from gpuvec.meta.collect import collect_orphans
from gpuvec.meta.indexes import IndexDefinition, IndexRecord
from gpuvec.meta.manifest import ManifestLog
from gpuvec.schema import Int64, Schema
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import run

PREFIX = keys.collection("c-1")
HOUR_MS = 3_600_000


class World:
    def __init__(self):
        self.store, self.clock = MemoryStore(), ManualClock()
        self.log = ManifestLog(PREFIX, CollectionState())
        self.view = self.run(self.log.read())
        self.commit(
            InitCollection(
                collection_id="c-1", schema=Schema({"id": Int64()}, "id"), channels=("s000",)
            ),
            SetEpoch(channel="s000", epoch=1),
        )

    def run(self, procedure):
        return run(procedure, self.store, self.clock)

    def commit(self, *changes):
        self.view = self.run(self.log.commit(self.view, changes, generation=1, committer="test"))

    def collect(self, **options):
        self.view = self.run(
            collect_orphans(self.log, self.view, PREFIX, generation=1, committer="t", **options)
        )

    def write(self, number):
        """Write a segment's and a deletion file's bytes; return their ULIDs."""
        segment, deletes = (keys.ulid(self.clock.now_ms(), f"{number}{n}" * 20) for n in (1, 2))
        self.store.put(keys.scalar_file(PREFIX, segment), [b"rows"])
        self.store.put(keys.delete_file(PREFIX, segment, deletes), [b"deletes"])
        return segment, deletes

    def flush(self, segment, deletes, lsn):
        record = SegmentRecord(
            segment_id=segment,
            channel="s000",
            partition="",
            schema_version=1,
            row_count=1,
            size_bytes=1,
            first_ts=1,
            last_ts=1,
            files={},
            deletes={"key": keys.delete_file(PREFIX, segment, deletes)},
        )
        self.commit(
            Flush(
                channel="s000",
                epoch=1,
                from_lsn=lsn - 1,
                to_lsn=lsn,
                last_ts=1,
                segments=(record,),
            )
        )

    def files(self):
        folders = ("seg", "dv", "idx")
        return [key for name in folders for key in self.store.list(f"{PREFIX}/{name}/")]


@pytest.fixture
def world():
    return World()


def test_files_in_use_stay_and_orphans_go_after_their_grace(world):
    used, orphan = world.write(1), world.write(2)
    world.flush(*used, 1)
    world.collect()
    assert len(world.files()) == 4
    world.clock.advance(25 * 3600)
    world.collect()
    assert all(used[0] in key for key in world.files())
    assert len(world.files()) == 2
    assert world.view.state.dead == set(orphan)


def test_a_flush_that_wakes_after_its_files_were_collected_is_refused(world):
    orphan = world.write(1)
    world.collect(grace_ms=0)
    with pytest.raises(ConflictError, match="collected as orphans"):
        world.flush(*orphan, 1)


def test_a_file_written_after_its_name_died_goes_too(world):
    segment, _ = world.write(1)
    world.collect(grace_ms=0)
    world.store.put(keys.vector_file(PREFIX, segment, "v"), [b"late"])
    world.collect(grace_ms=0)
    assert world.files() == []


def test_a_replaced_deletion_file_is_an_orphan(world):
    segment, deletes = world.write(1)
    world.flush(segment, deletes, 1)
    newer = keys.delete_file(PREFIX, segment, keys.ulid(world.clock.now_ms(), "9" * 20))
    world.store.put(newer, [b"more"])
    world.commit(
        Flush(
            channel="s000",
            epoch=1,
            from_lsn=1,
            to_lsn=2,
            last_ts=2,
            deletes={segment: {"key": newer}},
        )
    )
    world.collect(grace_ms=0)
    assert world.files() == [keys.scalar_file(PREFIX, segment), newer]


def test_collecting_twice_changes_nothing(world):
    world.write(1)
    world.collect(grace_ms=0)
    entry = world.view.entry_id
    world.collect(grace_ms=0)
    assert world.view.entry_id == entry


def test_index_files_stay_as_long_as_an_entry_names_them(world):
    segment, deletes = world.write(1)
    world.flush(segment, deletes, 1)
    old, new, lost = (keys.ulid(world.clock.now_ms(), f"{n}" * 20) for n in (3, 4, 5))
    for index_id in (old, new, lost):
        world.store.put(keys.index_file(PREFIX, segment, index_id, "graph"), [b"graph"])
        world.store.put(keys.index_file(PREFIX, segment, index_id, "curve.json"), [b"curve"])

    def record(index_id, under):
        files = {
            "graph": {"key": keys.index_file(PREFIX, segment, under, "graph")},
            "curve.json": {"key": keys.index_file(PREFIX, segment, index_id, "curve.json")},
        }
        return IndexRecord(
            index_id=index_id, definition_id="d", field="id", spec={"kind": "sorted"}, files=files
        )

    definition = IndexDefinition(index_id="d", field="id", spec={"kind": "sorted"})
    world.commit(
        SetIndex(definition=definition),
        AddIndex(segment_id=segment, record=record(old, old)),
        AddIndex(segment_id=segment, record=record(new, old)),
    )
    world.clock.advance(25 * 3600)
    world.collect()
    left = {key.split("/")[-2] for key in world.files() if "/idx/" in key}
    assert left == {old, new}, "the newer one shares files of the older"
    world.commit(DropIndex(field="id"))
    world.collect()
    assert not any("/idx/" in key for key in world.files())
    assert len(world.files()) == 2
