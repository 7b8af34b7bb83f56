"""What a channel does, as owner and as follower."""

import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import StorageError
from gpuvec.messages import OnConflict
from gpuvec.meta.changes import AddField, AddPartition, DropPartition, SetTtl, Truncate
from gpuvec.meta.collect import Limits
from gpuvec.node import data_node
from gpuvec.node.prepare import prepare
from gpuvec.schema import Int32
from gpuvec.storage.object_store import run
from gpuvec.testing.channels import (
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
from gpuvec.testing.faults import FaultStore


def test_a_retry_gets_the_first_answer():
    store = new_store()
    channel = open_channel(store)
    request = insert("1", 1, 2)
    first = write(channel, request, request)
    assert first[0] == first[1]
    assert write(channel, request) == first[:1]
    assert write(open_channel(store), request) == first[:1], "after a restart"
    flush(channel := open_channel(store))
    write(channel, insert("2", 3))
    flush(channel)
    assert write(open_channel(store), request) == first[:1], "after a flush"
    assert visible(open_channel(store)) == {1, 2, 3}


def test_writes_of_one_group_see_one_another():
    channel = open_channel(new_store())
    answers = channel.write(
        NAME,
        [insert("1", 1), insert("2", 1), delete("3", 1), insert("4", 1)],
        1,
    )
    assert [getattr(answer, "code", "done") for answer in answers] == [
        "done", "GV-157", "done", "done",
    ]  # fmt: skip
    assert visible(channel) == {1}
    versions = [a.version for a in answers if not isinstance(a, Exception)]
    assert versions == sorted(set(versions))


def test_a_bug_is_told_to_its_callers_and_the_channel_goes_on(monkeypatch):
    store = new_store()
    channel = open_channel(store)
    write(channel, insert("1", 1))

    def broken(request, context):
        if request.request_id.endswith("3"):
            raise AssertionError("a bug")
        return prepare(request, context)

    monkeypatch.setattr(data_node, "prepare", broken)
    with pytest.raises(AssertionError, match="a bug"):
        channel.write(NAME, [delete("2", 1), insert("3", 3)], 1)
    assert visible(channel) == visible(open_channel(store)) == {1}, "nothing of its group is left"
    write(channel, insert("4", 4))
    assert visible(channel) == {1, 4}


def test_deletes_during_a_flush_are_carried_over():
    store = new_store()
    channel = open_channel(store)
    write(channel, insert("1", 5, 4, 3, 2, 1))
    during = []

    class Meanwhile(FaultStore):
        def put(self, key, parts):
            if not during:
                during.append(key)
                write(channel, delete("2", 4, 1), insert("3", 9))
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
    steps = [
        lambda c: write(c, insert("1", *range(10))),
        lambda c: write(c, delete("2", 0, 1), insert("3", 1, 2, on_conflict=OnConflict.REPLACE)),
        flush,
        change(lambda ts: AddPartition(name="p", ts=ts)),
        lambda c: write(c, insert("4", 20, partition="p"), delete("5", 5)),
        change(lambda _: AddField(name="n", field_type=Int32(nullable=True))),
        lambda c: write(c, insert("6", 21)),
        flush,
        change(lambda ts: DropPartition(name="p", ts=ts)),
        lambda c: write(c, insert("7", 22)),
        change(lambda ts: Truncate(ts=ts)),
        lambda c: write(c, insert("8", 23)),
    ]
    for number, step in enumerate(steps):
        step(owner)
        assert visible(follower) == visible(owner), f"after step {number}"
        assert follower.shard.version == owner.shard.version


def test_a_second_owner_stops_the_first():
    store = new_store()
    one = open_channel(store)
    write(one, insert("1", 1))
    other = open_channel(store)
    write(other, insert("2", 2))
    answer = one.write(NAME, [insert("3", 3)], 1)[0]
    assert (answer.code, answer.details["outcome"]) == ("GV-604", "none")
    assert visible(one) == visible(open_channel(store)) == {1, 2}
    write(one, insert("3", 3))  # it has claimed the channel again
    assert visible(open_channel(store)) == {1, 2, 3}


def test_timestamps_rise_though_the_clock_was_set_back():
    store = new_store()
    clock = ManualClock()
    first = write(open_channel(store, clock), insert("1", 1))[0].version
    clock.step_back(3600)
    assert write(open_channel(store, clock), insert("2", 2))[0].version > first


class FullStore(FaultStore):
    """Takes nothing while `full`."""

    full = False

    def _refuse(self, *_):
        if self.full:
            raise StorageError("GV-505", "no space left on device")

    def put(self, key, parts):
        self._refuse()
        super().put(key, parts)

    def put_if_absent(self, key, data):
        self._refuse()
        return super().put_if_absent(key, data)

    def append(self, key, data):
        if self.full:
            super().append(key, data[: len(data) // 2])
        self._refuse()
        super().append(key, data)


def test_a_full_store_can_be_read_and_goes_on_when_there_is_room():
    store = FullStore(new_store())
    channel = open_channel(store)
    write(channel, insert("1", 1))
    flush(channel)
    write(channel, insert("2", 2), delete("3", 1))
    store.full = True
    answer = channel.write(NAME, [insert("4", 4)], 1)[0]
    assert answer.details["outcome"] == "unknown"
    for _ in range(2):
        assert visible(channel) == {2}
        with pytest.raises(StorageError):
            write(channel, insert("5", 5))
        with pytest.raises(StorageError):
            change(lambda ts: Truncate(ts=ts))(channel)
        assert not channel.flush(1)
    store.full = False
    write(channel, insert("4", 4))
    write(channel, insert("6", 6))
    for there in (channel, open_channel(store)):
        assert visible(there) == {2, 4, 6}
    flush(channel)
    assert visible(channel) == {2, 4, 6}


def test_a_flush_that_finds_no_room_is_done_later():
    store = FullStore(new_store())
    channel = open_channel(store)
    write(channel, insert("1", 1))
    store.full = True
    with pytest.raises(StorageError):
        flush(channel)
    assert visible(channel) == {1}
    store.full = False
    write(channel, insert("2", 2), delete("3", 1))
    flush(channel)
    for there in (channel, open_channel(store)):
        assert visible(there) == {2}
        assert there.status().growing_bytes == 0


def test_rows_vanish_when_they_have_outlived_their_time():
    store, clock = new_store(), ManualClock()
    channel = open_channel(store, clock)
    write(channel, insert("1", 1))
    flush(channel)
    change(lambda _: SetTtl(ttl_s=60))(channel)
    clock.advance(59)
    write(channel, insert("2", 2))
    assert visible(channel, clock.now_ms()) == {1, 2}
    clock.advance(2)
    assert visible(channel, clock.now_ms()) == {2}
    assert visible(open_channel(store, clock), clock.now_ms()) == {2}


def test_the_key_of_an_outlived_row_is_free():
    store, clock = new_store(), ManualClock()
    channel = open_channel(store, clock)
    change(lambda _: SetTtl(ttl_s=60))(channel)
    write(channel, insert("1", 1, 2))
    clock.advance(61)
    assert write(channel, delete("2", 2))[0].deleted == 0
    assert write(channel, insert("3", 1))[0].inserted == 1
    change(lambda _: SetTtl(ttl_s=None))(channel)
    for there in (channel, open_channel(store, clock)):
        assert visible(there, clock.now_ms()) == {1, 2}, "the old row 1 is gone for good"


def test_files_of_flushes_that_died_are_deleted():
    store, clock = new_store(), ManualClock()
    channel = open_channel(store, clock)
    write(channel, insert("1", 1))
    store.put("collections/c-1/seg/01hf7yat000000000000000000/scalar.parquet", [b"orphan"])
    flush(channel)
    clock.advance(48 * 3600)
    channel.collect(1, Limits(grace_ms=0))
    assert len(store.list("collections/c-1/seg/")) == 2, "scalars and vectors of the one segment"
    assert visible(open_channel(store)) == {1}


def test_a_flush_shortens_the_log():
    store = new_store()
    channel = open_channel(store)
    for number in range(20):
        write(channel, insert(str(number), number))
    before = sum(store.size(key) for key in store.list("collections/c-1/wal/"))
    flush(channel)
    write(channel, insert("x", 99))
    flush(channel)
    after = sum(store.size(key) for key in store.list("collections/c-1/wal/"))
    assert after < before / 2
    assert len(visible(open_channel(store))) == 21
