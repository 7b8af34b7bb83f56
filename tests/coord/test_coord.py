"""Coordinators decide from what they noted."""

import pytest

import gpuvec as gv
from gpuvec.clock import ManualClock, pack_timestamp
from gpuvec.coord.data_coord import DataCoord, FlushChannel
from gpuvec.coord.root_coord import RootCoord
from gpuvec.coord.tso import TimestampOracle
from gpuvec.messages import ChannelStatus
from gpuvec.meta.catalog import DatabaseState


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
