"""Compaction puts new segments in the place of old ones, and no read can tell but by its speed."""

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.clock import ManualClock
from gpuvec.messages import OnConflict
from gpuvec.meta.changes import AddField, DropField, DropPartition, SetTtl, Truncate
from gpuvec.meta.changes_versions import SetTag
from gpuvec.meta.collect import Limits
from gpuvec.meta.retention import needed
from gpuvec.node.compact import compact
from gpuvec.node.rewrite import Room
from gpuvec.node.weigh import weigh
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

REPLACE = OnConflict.REPLACE
DAY_S = 24 * 3600
ROOM = Room(size_bytes=1 << 30, rows=1_000_000, memory_bytes=1 << 30)


class Host:
    """Runs procedures on a store, and makes names in the order of their births."""

    def __init__(self, store, clock):
        self.store, self.clock, self.count = store, clock, 1 << 40

    def run(self, procedure):
        return run(procedure, self.store, self.clock)

    def mint(self):
        self.count += 1
        return keys.ulid(self.clock.now_ms(), f"{self.count:020x}")


class Case:
    """A channel, its store and its clock."""

    def __init__(self):
        self.store, self.clock = new_store(), ManualClock()
        self.channel = open_channel(self.store, self.clock)
        self.host = Host(self.store, self.clock)
        self.names = iter(range(1, 10_000))

    def write(self, *makers):
        self.clock.advance(1)
        write(self.channel, *(make(str(next(self.names))) for make in makers))

    def insert(self, *ids, **options):
        self.write(lambda name: insert(name, *ids, **options))

    def upsert(self, *ids):
        self.insert(*ids, on_conflict=REPLACE)

    def delete(self, *ids):
        self.write(lambda name: delete(name, *ids))

    def flush(self):
        flush(self.channel)

    @property
    def version(self):
        return self.channel.shard.version

    @property
    def segments(self):
        return list(self.channel.state.segments)

    def need(self, retention_s=DAY_S):
        return lambda state: needed(state, self.clock.now_ms(), retention_s=retention_s)

    def weights(self, retention_s=DAY_S):
        state = self.channel.state
        return weigh(state, self.channel.shard, self.need(retention_s)(state))

    def compact(self, inputs=None, *, retention_s=DAY_S, room=ROOM, host=None, **options):
        return compact(
            self.channel,
            self.segments if inputs is None else inputs,
            need=self.need(retention_s),
            room=room,
            host=host or self.host,
            generation=GENERATION,
            **options,
        )

    def visible(self):
        return visible(self.channel, self.clock.now_ms())

    def at(self, version):
        found = []
        for view in self.channel.snapshots_at(NAME, version)[0]:
            keep = view.keep()
            ids = view.scalars(["id"])["id"].to_numpy()
            assert (view.vectors("v").values == ids[:, None]).all()
            found += ids[slice(None) if keep is None else keep].tolist()
        assert len(found) == len(set(found))
        return set(found)

    def check(self, ids):
        assert self.visible() == set(ids)
        assert visible(open_channel(self.store, self.clock), self.clock.now_ms()) == set(ids)


@pytest.fixture
def case():
    return Case()


def test_segments_become_one_with_the_same_rows(case):
    for start in range(0, 40, 10):
        case.insert(*range(start, start + 10))
        case.flush()
    done = case.compact()
    assert (done.inputs, done.outputs, done.removed_rows) == (4, 1, 0)
    assert len(case.segments) == 1
    case.check(range(40))


def test_rows_are_sorted_by_key(case):
    for ids in ((5, 1, 9), (0, 7), (3, 2)):
        case.insert(*ids)
        case.flush()
    case.compact()
    (view,) = case.channel.snapshot(NAME, 0)
    assert view.scalars(["id"])["id"].to_pylist() == [0, 1, 2, 3, 5, 7, 9]


def test_deleted_rows_that_no_version_needs_are_gone(case):
    case.insert(*range(10))
    case.flush()
    case.delete(0, 1, 2)
    case.flush()
    done = case.compact(retention_s=0)
    assert done.removed_rows == 3
    (record,) = case.channel.state.segments.values()
    assert (record.row_count, record.deletes) == (7, None)
    case.check(range(3, 10))


def test_deleted_rows_of_old_versions_go_into_a_segment_that_reads_pass_over(case):
    case.insert(*range(10))
    before = case.version
    case.flush()
    case.delete(0, 1, 2)
    done = case.compact()
    assert (done.outputs, done.removed_rows) == (2, 0)
    live, history = case.channel.state.segments.values()
    assert (live.row_count, live.deletes) == (7, None)
    assert (history.row_count, history.gone_ts) == (3, case.version)
    assert [len(view.scalars(["id"])) for view in case.channel.snapshot(NAME, 0)] == [7]
    case.check(range(3, 10))
    assert case.at(before) == set(range(10))
    assert case.at(case.version) == set(range(3, 10))


def test_a_segment_that_no_version_needs_goes_unread(case):
    case.insert(*range(10))
    case.flush()
    case.delete(*range(10))
    case.insert(11)
    case.flush()
    (weight, _) = case.weights(retention_s=0)
    assert (weight.live, weight.kept) == (0, 0)
    for key in case.store.list(keys.segment_folder("collections/c-1", weight.segment_id)):
        case.store.delete([key])
    done = case.compact([weight.segment_id], retention_s=0)
    assert (done.outputs, done.removed_rows, done.read_bytes) == (0, 10, 0)
    case.check([11])


def test_versions_that_lost_rows_cannot_be_read(case):
    case.insert(*range(10))
    before = case.version
    case.flush()
    case.delete(0)
    case.flush()
    case.compact(retention_s=0)
    with pytest.raises(gv.SnapshotExpiredError):
        case.at(before)


def test_a_tagged_version_is_read_as_it_was(case):
    case.insert(*range(10))
    tagged = case.version
    case.flush()
    case.upsert(*range(0, 5))
    between = case.version
    case.upsert(*range(0, 5))
    case.delete(9)
    case.flush()
    change(lambda _: SetTag(name="t", version=tagged))(case.channel)
    done = case.compact(retention_s=0)
    assert done.removed_rows == 5, "those that only the version in between sees"
    assert case.at(tagged) == set(range(10))
    assert case.at(case.version) == set(range(9))
    with pytest.raises(gv.SnapshotExpiredError):
        case.at(between)
    case.check(range(9))


def test_what_truncation_and_dropped_partitions_hide_goes_into_history(case):
    change(lambda ts: gv_partition("p", ts))(case.channel)
    case.insert(*range(5))
    case.insert(*range(10, 15), partition="p")
    case.flush()
    before = case.version
    change(lambda ts: DropPartition(name="p", ts=ts))(case.channel)
    change(lambda ts: Truncate(ts=ts))(case.channel)
    case.insert(20)
    case.flush()
    for segment_id in case.segments:
        case.compact([segment_id])
    assert case.at(before) == {*range(5), *range(10, 15)}
    case.check([20])
    case.clock.advance(2 * DAY_S)
    case.insert(21)
    case.flush()
    for weight in case.weights():
        if not weight.kept:
            case.compact([weight.segment_id])
    assert sum(s.row_count for s in case.channel.state.segments.values()) == 2
    case.check([20, 21])


def gv_partition(name, ts):
    from gpuvec.meta.changes import AddPartition

    return AddPartition(name=name, ts=ts)


def test_outlived_rows_go_once_their_versions_are_forgotten(case):
    change(lambda ts: SetTtl(ttl_s=3600, ts=ts))(case.channel)
    case.insert(1, 2)
    case.flush()
    case.clock.advance(4000)
    case.insert(3)
    case.flush()
    case.compact()
    assert sum(s.row_count for s in case.channel.state.segments.values()) == 3
    case.clock.advance(DAY_S)
    case.insert(4)
    case.flush()
    case.compact()
    assert sum(s.row_count for s in case.channel.state.segments.values()) == 2
    case.check([4])


def test_deletes_during_compaction_are_carried_over(case):
    """Saved ones, and some that are in no file."""
    case.insert(*range(20))
    case.flush()
    case.insert(*range(20, 40))
    case.flush()

    class Busy(Host):
        def run(self, procedure):
            found = super().run(procedure)
            if self.count == (1 << 40) + 1:  # the new segment is written
                self.count += 1
                case.delete(3, 25)
                case.flush()
                case.upsert(4)
            return found

    case.compact(host=Busy(case.store, case.clock))
    wanted = set(range(40)) - {3, 25}
    case.check(wanted)
    case.flush()
    case.check(wanted)
    case.delete(4, 5)
    case.check(wanted - {4, 5})


def test_deletes_between_the_last_file_and_the_entry_are_carried_over(case):
    case.insert(*range(20))
    case.flush()
    case.insert(*range(20, 40))
    case.flush()
    channel = case.channel
    honest = channel.replace

    def replace(decide, fill, generation):
        case.delete(7, 30)
        return honest(decide, fill, generation)

    channel.replace = replace
    case.compact()
    del channel.replace
    case.check(set(range(40)) - {7, 30})
    case.flush()
    case.check(set(range(40)) - {7, 30})


def test_keys_are_found_in_new_segments(case):
    case.insert(*range(0, 20, 2))
    case.flush()
    case.insert(*range(1, 20, 2))
    case.flush()
    case.compact()
    with pytest.raises(gv.SchemaError, match="GV-157"):
        case.insert(5)
    case.upsert(5, 6)
    case.check(range(20))


def test_large_compactions_make_several_segments_by_key(case):
    for start in range(3):
        case.insert(*range(start, 60, 3))
        case.flush()
    case.compact(room=Room(size_bytes=1 << 30, rows=25, memory_bytes=1 << 30))
    spans = []
    for view in case.channel.snapshot(NAME, 0):
        ids = view.scalars(["id"])["id"].to_numpy()
        assert (np.diff(ids) > 0).all()
        spans.append((ids[0], ids[-1]))
    assert spans == [(0, 19), (20, 39), (40, 59)]
    case.check(range(60))


def test_without_memory_it_is_refused(case):
    for start in range(3):
        case.insert(*range(start, 60, 3))
        case.flush()
    with pytest.raises(gv.DeviceMemoryError, match="GV-400"):
        case.compact(room=Room(size_bytes=1 << 30, rows=100, memory_bytes=1000))
    case.check(range(60))


def test_a_segment_that_went_away_ends_it(case):
    case.insert(1, 2)
    case.flush()
    gone = case.segments
    case.compact()
    assert case.compact(gone) is None


@pytest.mark.parametrize("is_saved", [False, True])
def test_an_owner_who_was_replaced_meanwhile_hides_no_delete(case, is_saved):
    case.insert(*range(10))
    case.flush()
    case.insert(20)
    case.flush()

    def progress(_):
        other = open_channel(case.store, case.clock)
        write(other, delete("other", 5), insert("more", 50))
        if is_saved:
            flush(other)

    with pytest.raises(gv.UnavailableError):
        case.compact(progress=progress)
    fresh = open_channel(case.store, case.clock)
    wanted = {*range(10), 20, 50} - {5}
    assert visible(fresh) == wanted
    write(fresh, insert("last", 5))
    flush(fresh)
    assert visible(open_channel(case.store, case.clock)) == wanted | {5}


def test_fields_that_came_later_are_filled_and_dropped_ones_stay_for_old_versions(case):
    case.insert(1)
    case.flush()
    change(lambda ts: AddField(name="n", field_type=gv.Int32(nullable=True), ts=ts))(case.channel)
    case.compact()
    (view,) = case.channel.snapshot(NAME, 0)
    assert view.scalars(["n"])["n"].to_pylist() == [None]
    change(lambda ts: DropField(name="n", ts=ts))(case.channel)
    case.insert(2)
    case.flush()
    assert len({weight.layout for weight in case.weights()}) == 2
    case.clock.advance(2 * DAY_S)
    case.insert(3)
    case.flush()
    case.delete(3)
    case.flush()
    case.clock.advance(2 * DAY_S)
    case.insert(4)
    case.flush()
    case.compact([case.segments[-2]])
    assert len({weight.layout for weight in case.weights()}) == 1
    case.compact()
    case.check([1, 2, 4])


def test_after_a_collection_only_files_in_use_are_left(case):
    for start in range(0, 30, 10):
        case.insert(*range(start, start + 10))
        case.flush()
        case.delete(start)
        case.flush()
    case.compact(retention_s=0)
    case.channel.collect(GENERATION, Limits(grace_ms=0))
    (record,) = case.channel.state.segments.values()
    folders = ("seg", "dv", "idx")
    left = {key for name in folders for key in case.store.list(f"collections/c-1/{name}/")}
    assert left == {record.files["scalar"]["key"], record.files["vectors"]["v"]["key"]}
    case.check(set(range(30)) - {0, 10, 20})


def test_a_collection_shortens_a_long_manifest(case):
    for number in range(250):
        change(lambda ts: Truncate(ts=ts))(case.channel)
        if number == 120:
            case.channel.collect(GENERATION)
            assert len(case.store.list("collections/c-1/manifest/0")) > 100, "not worth it yet"
    case.channel.collect(GENERATION)
    assert len(case.store.list("collections/c-1/manifest/0")) == 100
    case.insert(1)
    case.flush()
    case.check([1])
