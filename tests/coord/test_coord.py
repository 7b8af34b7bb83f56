"""Coordinators decide from what they noted."""

import pytest

import gpuvec as gv
from gpuvec.clock import ManualClock, pack_timestamp
from gpuvec.coord.data_coord import (
    AUTO_LEAST_ROWS,
    BuildIndex,
    DataCoord,
    FlushChannel,
    unbuilt,
)
from gpuvec.coord.root_coord import RootCoord
from gpuvec.coord.tso import ClusterTime, TimestampOracle
from gpuvec.messages import ChannelStatus
from gpuvec.meta.catalog import CollectionState, DatabaseState, SegmentRecord
from gpuvec.meta.changes import (
    AddField,
    AddIndex,
    AddPartition,
    DropIndex,
    DropPartition,
    Flush,
    InitCollection,
    SetEpoch,
    SetIndex,
    Truncate,
)
from gpuvec.meta.indexes import IndexDefinition, IndexRecord


def test_timestamps_rise_within_a_millisecond():
    oracle = TimestampOracle(ManualClock(1000))
    first = oracle.next()
    assert first == pack_timestamp(1000)
    assert [oracle.next() for _ in range(3)] == [first + 1, first + 2, first + 3]


def test_timestamps_follow_the_clock():
    clock = ManualClock(1000)
    oracle = TimestampOracle(clock)
    oracle.next()
    clock.advance(5)
    assert oracle.next() == pack_timestamp(6000)


def test_timestamps_never_go_back_with_the_clock():
    clock = ManualClock(10_000_000)
    oracle = TimestampOracle(clock)
    last = oracle.next()
    clock.step_back(3600)
    assert oracle.next() == last + 1


def test_timestamps_rise_above_what_is_in_the_log():
    oracle = TimestampOracle(ManualClock(1000))
    oracle.observe(pack_timestamp(99_000))
    assert oracle.next() == pack_timestamp(99_000) + 1


def status(name="c", growing=0, writes=1, deletes=0, oldest=7):
    return ChannelStatus(
        collection_id=name, growing_bytes=growing, writes=writes, deletes=deletes, oldest=oldest
    )


def data_coord():
    return DataCoord(flush_bytes=100 << 20, age_s=60)


def test_a_full_channel_is_flushed():
    coord = data_coord()
    coord.note(status("a", growing=100 << 20), 0)
    coord.note(status("b", growing=99 << 20), 0)
    assert coord.reconcile(1) == [FlushChannel("a")]
    assert coord.reconcile(1) == [FlushChannel("a")], "until it is reported to be smaller"
    coord.note(status("a"), 1)
    assert coord.reconcile(2) == []


def test_an_old_channel_is_flushed_unless_it_is_tiny():
    coord = data_coord()
    coord.note(status("small", growing=1000), 0)
    coord.note(status("some", growing=50 << 20), 0)
    assert coord.reconcile(59) == []
    coord.note(status("some", growing=50 << 20), 59)  # says nothing new
    assert coord.reconcile(60) == [FlushChannel("some")]


def test_trickling_writes_are_flushed_when_the_oldest_is_old():
    coord = data_coord()
    for second in range(60):
        coord.note(status(growing=(10 << 20) + second, writes=second + 1), second)
        assert coord.reconcile(second) == []
    assert coord.reconcile(60) == [FlushChannel("c")]


def test_a_flush_makes_a_channel_young_though_writes_went_on_meanwhile():
    coord = data_coord()
    coord.note(status(growing=50 << 20, oldest=7), 0)
    coord.note(status(growing=50 << 20, oldest=9), 59)
    assert coord.reconcile(118) == []
    assert coord.reconcile(119) == [FlushChannel("c")]


def test_many_small_writes_or_deletes_are_flushed():
    coord = data_coord()
    coord.note(status("w", writes=20_000), 0)
    coord.note(status("d", deletes=1_000_000), 0)
    assert coord.reconcile(0) == [FlushChannel("d"), FlushChannel("w")]
    coord.forget("w")
    assert coord.reconcile(0) == [FlushChannel("d")]


def root(**collections):
    coord = RootCoord("./shop")
    coord.note(DatabaseState(collections=collections, aliases={"best": "items"}))
    return coord


def test_names_and_aliases_resolve():
    coord = root(items="c-1", other="c-2")
    assert coord.resolve("best") == ("items", "c-1")
    assert coord.name_of("c-2") == "other"
    assert coord.name_of("c-9") is None
    with pytest.raises(gv.NotFoundError, match='Did you mean "items"'):
        coord.resolve("item")


@pytest.mark.parametrize("name", ["", "a/b", "a\n", 7, "x" * 256])
def test_names_that_cannot_be_used_are_refused(name):
    with pytest.raises(gv.SchemaError, match="GV-152"):
        root().create(name, "c-1")


def test_taken_names_are_refused():
    coord = root(items="c-1")
    for name in ("items", "best"):
        with pytest.raises(gv.AlreadyExistsError, match="GV-151"):
            coord.create(name, "c-2")
        with pytest.raises(gv.AlreadyExistsError, match="GV-151"):
            coord.rename("items", name)
    with pytest.raises(gv.AlreadyExistsError):
        coord.alias("items", "items")
    with pytest.raises(gv.AlreadyExistsError, match="alias"):
        coord.drop("best")
    with pytest.raises(gv.NotFoundError):
        coord.alias("worst", None)


def collection(rows, *changes):
    """Return a collection with a segment of each number of rows, after some changes."""
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, "id")
    segments = tuple(
        SegmentRecord(
            segment_id=name, channel="s000", partition=f"p{name}", schema_version=1,
            row_count=count, size_bytes=9, first_ts=1, last_ts=9, files={},
        )
        for name, count in rows.items()
    )  # fmt: skip
    state = CollectionState()
    for change in (
        InitCollection(collection_id="c", schema=schema, channels=("s000",)),
        SetEpoch(channel="s000", epoch=1),
        *(AddPartition(name=f"p{name}", ts=0) for name in rows),
        Flush(channel="s000", epoch=1, from_lsn=0, to_lsn=1, last_ts=9, segments=segments),
        *changes,
    ):
        state = state.apply(change)
    return state


def wish(index_id="i", field="v", kind="hnsw"):
    definition = IndexDefinition(index_id=index_id, field=field, spec={"kind": kind}, recall=0.9)
    return SetIndex(definition=definition)


def built(segment_id, index_id="i"):
    record = IndexRecord(index_id="x", definition_id=index_id, field="v", spec={"kind": "hnsw"})
    return AddIndex(segment_id=segment_id, record=record)


def wanted(state):
    return {(item.segment_id, item.field) for item in unbuilt("c", state)}


def test_every_segment_that_lacks_a_wanted_index_is_unbuilt():
    rows = {"a": 10, "b": 20}
    assert wanted(collection(rows)) == set()
    assert wanted(collection(rows, wish())) == {("a", "v"), ("b", "v")}
    assert wanted(collection(rows, wish(), built("a"))) == {("b", "v")}
    assert wanted(collection(rows, wish(), built("a"), wish("j"))) == {("a", "v"), ("b", "v")}
    assert wanted(collection(rows, wish(), DropIndex(field="v"))) == set()
    assert wanted(collection(rows, wish(), wish("j", "id", "sorted"))) == {
        ("a", "v"), ("b", "v"), ("a", "id"), ("b", "id"),
    }  # fmt: skip


def test_small_segments_and_exact_wishes_want_no_build():
    rows = {"a": AUTO_LEAST_ROWS - 1, "b": AUTO_LEAST_ROWS}
    assert wanted(collection(rows, wish(kind="auto"))) == {("b", "v")}
    assert wanted(collection(rows, wish(kind="flat"))) == set()


def test_hidden_segments_and_those_older_than_the_field_want_no_build():
    rows = {"a": 10, "b": 20}
    assert wanted(collection(rows, wish(), DropPartition(name="pa", ts=9))) == {("b", "v")}
    assert wanted(collection(rows, wish(), Truncate(ts=9))) == set()
    assert wanted(collection(rows, wish(), Truncate(ts=8))) == {("a", "v"), ("b", "v")}
    added = AddField(name="w", field_type=gv.Vector(4))
    assert wanted(collection(rows, added, wish(field="w"))) == set()


def build_of(segment, rows, index_id="i"):
    return BuildIndex("c", segment, "v", index_id, rows)


def test_flushes_come_first_and_builds_one_at_a_time_the_largest_first():
    coord = data_coord()
    coord.note_state("c", collection({"a": 10, "b": 20}, wish()))
    coord.note(status("z", growing=100 << 20), 0)
    assert coord.reconcile(0) == [FlushChannel("z"), build_of("b", 20)]
    coord.note_begun(build_of("b", 20))
    assert coord.reconcile(0) == [FlushChannel("z")]
    coord.note_state("c", collection({"a": 10, "b": 20}, wish(), built("b")))
    coord.note_ended(build_of("b", 20), None, 1)
    assert coord.reconcile(1) == [FlushChannel("z"), build_of("a", 10)]
    coord.forget("c")
    assert coord.reconcile(1) == [FlushChannel("z")]


def test_a_failed_build_lets_others_go_first_and_comes_again_ever_later():
    coord = data_coord()
    coord.note_state("c", collection({"a": 10, "b": 20}, wish()))
    now, pauses = 0.0, []
    for _ in range(12):
        coord.note_begun(build_of("b", 20))
        coord.note_ended(build_of("b", 20), RuntimeError("full"), now)
        assert coord.reconcile(now) == [build_of("a", 10)]
        failure = coord.waiting("c")[build_of("b", 20)]
        pauses.append(failure.retry_at_s - now)
        now = failure.retry_at_s
        coord.note_collected("c", waiting=False, now_s=now)
        assert coord.reconcile(now) == [build_of("b", 20)]
    assert pauses[:4] == [10, 20, 40, 80]
    assert pauses[-1] == 3600
    assert str(failure.error) == "full"


def test_a_failure_is_forgotten_when_somebody_asks_again_or_the_wish_changes():
    coord = data_coord()
    state = collection({"a": 10}, wish())
    coord.note_state("c", state)
    coord.note_ended(build_of("a", 10), RuntimeError("full"), 0)
    coord.note_state("c", state)
    assert coord.reconcile(1) == []
    coord.retry("c")
    assert coord.reconcile(1) == [build_of("a", 10)]
    coord.note_ended(build_of("a", 10), RuntimeError("full"), 1)
    coord.note_state("c", collection({"a": 10}, wish("j")))
    assert coord.waiting("c") == {build_of("a", 10, "j"): None}
    coord.note_ended(build_of("a", 10), RuntimeError("of a wish that is gone"), 2)
    assert coord.reconcile(2) == [build_of("a", 10, "j")]


def test_in_a_cluster_timestamps_follow_the_coordinators_time():
    clock = ManualClock(3_600_000)  # an hour ahead
    oracle = TimestampOracle(clock)
    clock.advance(5)
    oracle.follow(7000, clock.monotonic_s())
    assert oracle.next() == pack_timestamp(7000)
    clock.advance(2)
    clock.step_back(1000)
    assert oracle.next() == pack_timestamp(9000), "also while nothing is heard of it"
    oracle.follow(0, clock.monotonic_s())
    assert oracle.next() == pack_timestamp(9000, 1)


def test_timestamps_do_not_go_back_to_a_time_that_is_behind():
    clock = ManualClock(3_600_000)
    oracle = TimestampOracle(clock)
    first = oracle.next()
    oracle.follow(7000, clock.monotonic_s())
    assert oracle.next() == first + 1 == oracle.last


def test_a_clusters_time_is_behind_no_timestamp_and_never_goes_back():
    clock = ManualClock(1000)
    time = ClusterTime(clock, pack_timestamp(5000, 7))
    assert time.now_ms() == 5000
    time.observe(pack_timestamp(6000))
    assert time.now_ms() == 6000
    clock.advance(8)
    assert time.now_ms() == 9000
    clock.step_back(5)
    assert time.now_ms() == 9000
