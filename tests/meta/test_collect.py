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
from gpuvec.meta.changes_compaction import ForgetDead, ReplaceSegments
from gpuvec.meta.changes_versions import Pin
from gpuvec.meta.collect import FORGET_MS, Limits, collect_orphans
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

    def collect(self, *, dry_run=False, **limits):
        self.view, collected = self.run(
            collect_orphans(
                self.log,
                self.view,
                PREFIX,
                generation=1,
                committer="t",
                limits=Limits(**limits),
                dry_run=dry_run,
            )
        )
        return collected

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
    world.clock.advance(16 * 60)
    world.collect()
    assert world.view.state.dead == dict.fromkeys(orphan, world.clock.now_ms())
    assert len(world.files()) == 4, "reads may still use them"
    world.clock.advance(14 * 60)
    assert set(world.collect().waiting.values()) == {60_000}
    world.clock.advance(60)
    gone = world.collect().deleted
    assert sorted(gone) == sorted({keys.scalar_file(PREFIX, orphan[0]), *gone})
    assert all(used[0] in key for key in world.files())
    assert len(world.files()) == 2


def test_a_dry_run_tells_and_changes_nothing(world):
    orphan, entry = world.write(1), world.view.entry_id
    found = world.collect(dry_run=True, grace_ms=0)
    assert sorted(found.deleted) == sorted(world.files())
    assert len(found.deleted) == 2
    assert world.view.entry_id == entry
    assert orphan[0] in world.files()[0]


def test_files_of_work_under_way_are_not_marked(world):
    world.write(1)
    world.clock.advance(1)
    begun = world.clock.now_ms()
    world.clock.advance(3600)
    young = world.write(2)
    world.collect(work_ms=begun, grace_ms=0)
    assert world.files() == [key for key in world.files() if young[0] in key]
    assert len(world.files()) == 2


def test_a_running_read_keeps_what_was_marked_after_it_began(world):
    world.write(1)
    begun = world.clock.now_ms()
    world.clock.advance(3600)
    world.collect(read_ms=begun, grace_ms=0)
    assert len(world.files()) == 2
    later = world.clock.now_ms() + 1
    world.collect(read_ms=later, grace_ms=0)
    assert world.files() == []


def test_a_living_pin_keeps_what_was_marked_after_it_began(world):
    world.write(1)
    now = world.clock.now_ms()
    world.commit(Pin(pin_id="p", version=0, since_ms=now, expires_ms=now + HOUR_MS))
    world.clock.advance(60)
    world.collect(grace_ms=0)
    assert len(world.files()) == 2
    world.clock.advance(3600)
    world.collect(grace_ms=0)
    assert world.files() == [], "pins end by themselves"


def test_names_of_dead_files_are_forgotten_when_nobody_can_use_them_any_more(world):
    first = world.write(1)
    world.collect(grace_ms=0)
    assert set(first) == world.view.state.dead.keys()
    world.clock.advance(FORGET_MS / 1000)
    second = world.write(2)
    world.collect(grace_ms=0)
    assert set(second) == world.view.state.dead.keys()
    world.commit(ForgetDead(ids=second))
    assert not world.view.state.dead


def test_names_of_dead_files_that_are_still_there_are_not_forgotten(world):
    first = world.write(1)
    world.collect(grace_ms=0)
    world.clock.advance(FORGET_MS / 1000)
    world.store.put(keys.vector_file(PREFIX, first[0], "v"), [b"late"])
    world.write(2)
    world.collect(grace_ms=0)
    assert first[0] in world.view.state.dead
    assert first[1] not in world.view.state.dead


def record(segment, deletes=None):
    return SegmentRecord(
        segment_id=segment,
        channel="s000",
        partition="",
        schema_version=1,
        row_count=1,
        size_bytes=1,
        first_ts=1,
        last_ts=1,
        files={},
        deletes=None if deletes is None else {"key": keys.delete_file(PREFIX, segment, deletes)},
    )


def test_replaced_segments_go_and_their_successors_stay(world):
    old, new = world.write(1), world.write(2)
    world.flush(*old, 1)
    seen = world.view.state.segments[old[0]].deletes["key"]
    world.commit(ReplaceSegments(inputs={old[0]: seen}, outputs=(record(*new),)))
    world.collect(grace_ms=0)
    assert list(world.view.state.segments) == [new[0]]
    assert all(new[0] in key for key in world.files())
    assert len(world.files()) == 2


def test_segments_are_not_replaced_when_rows_were_deleted_meanwhile(world):
    old, new = world.write(1), world.write(2)
    world.flush(*old, 1)
    with pytest.raises(ConflictError, match="deleted meanwhile"):
        world.commit(ReplaceSegments(inputs={old[0]: None}, outputs=(record(*new),)))
    with pytest.raises(ConflictError, match="is gone"):
        world.commit(ReplaceSegments(inputs={new[0]: None}, outputs=()))


def test_a_compaction_that_wakes_after_its_files_were_collected_is_refused(world):
    old, new = world.write(1), world.write(2)
    world.flush(*old, 1)
    world.collect(grace_ms=0)
    seen = world.view.state.segments[old[0]].deletes["key"]
    with pytest.raises(ConflictError, match="collected as orphans"):
        world.commit(ReplaceSegments(inputs={old[0]: seen}, outputs=(record(*new),)))


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
    world.collect(grace_ms=0)
    left = {key.split("/")[-2] for key in world.files() if "/idx/" in key}
    assert left == {old, new}, "the newer one shares files of the older"
    world.commit(DropIndex(field="id"))
    world.collect(grace_ms=0)
    assert not any("/idx/" in key for key in world.files())
    assert len(world.files()) == 2
