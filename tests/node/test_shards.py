"""Several channels as one collection: what readers may see, in this process and in others."""

import threading

import pytest

from gpuvec.errors import UnavailableError
from gpuvec.messages import OnConflict
from gpuvec.testing.channels import delete, flush, insert, new_store, open_channel, visible, write
from gpuvec.testing.faults import Crash, Fault, FaultStore

MEDIA = pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
ROUNDS = 60


def swap_rows(channel):
    """Write again and again: twelve rows go and twelve others come, in one write each."""
    for number in range(ROUNDS):
        come = range(100 * (number % 2), 100 * (number % 2) + 12)
        gone = range(100 - 100 * (number % 2), 112 - 100 * (number % 2))
        write(
            channel,
            insert(f"{number}i", *come, on_conflict=OnConflict.REPLACE),
            delete(f"{number}d", *gone),
        )
        if number % 10 == 9:
            flush(channel)


def read_until(done, channel):
    """Return the sets of keys that were seen meanwhile."""
    seen = set()
    while not done.is_set():
        seen.add(visible(channel))
    return seen | {visible(channel)}


@MEDIA
@pytest.mark.parametrize("elsewhere", [False, True], ids=["same_process", "other_process"])
def test_no_reader_sees_half_a_write(appendable, elsewhere):
    store = new_store(appendable=appendable, channels=3)
    writer = open_channel(store)
    reader = open_channel(store) if elsewhere else writer
    write(writer, insert("a", 500))
    done, seen = threading.Event(), []
    thread = threading.Thread(target=lambda: seen.extend(read_until(done, reader)))
    thread.start()
    try:
        swap_rows(writer)
    finally:
        done.set()
        thread.join()
    low, high = frozenset(range(12)), frozenset(range(100, 112))
    allowed = {frozenset(), low, high, low | high}  # a group is an insert, then a delete
    assert {keys - {500} for keys in seen} <= allowed
    assert all(500 in keys for keys in seen)
    assert visible(open_channel(store)) == high | {500}


@MEDIA
def test_a_part_that_cannot_be_logged_leaves_nothing_and_says_so(appendable):
    inner = new_store(appendable=appendable, channels=3)
    store = FaultStore(inner)
    channel = open_channel(store)
    write(channel, insert("a", *range(12)))
    other = open_channel(inner)
    write(other, insert("b", 50))  # takes the channels over
    (answer,) = channel.write("items", [insert("c", *range(60, 72))], 1)
    assert isinstance(answer, UnavailableError)
    assert answer.details["outcome"] == "none"
    assert visible(channel) == visible(other) == frozenset([*range(12), 50])


@MEDIA
def test_a_retry_finds_a_spanning_write_done_after_a_restart_and_after_flushes(appendable):
    store = new_store(appendable=appendable, channels=3)
    (first,) = write(open_channel(store), insert("a", *range(20)))
    again = open_channel(store)
    assert write(again, insert("a", *range(20))) == [first]
    again.channels[1].flush(1)  # one part in files, the others in logs
    assert write(open_channel(store), insert("a", *range(20))) == [first]
    flush(again := open_channel(store))
    write(again, insert("b", 99))
    flush(again)
    assert write(open_channel(store), insert("a", *range(20))) == [first]
    assert visible(open_channel(store)) == frozenset([*range(20), 99])


@MEDIA
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1,), (0,), (2,), (0, 2)])
def test_channels_may_be_flushed_in_any_order(appendable, order):
    store = new_store(appendable=appendable, channels=3)
    channel = open_channel(store)
    write(channel, insert("a", *range(12)))
    write(channel, insert("b", *range(20, 32)), delete("c", 0, 1, 2, 20))
    wanted = visible(channel)
    for number in order:
        channel.channels[number].flush(1)
        assert visible(open_channel(store)) == wanted
    write(channel, insert("d", *range(40, 46)))
    wanted |= frozenset(range(40, 46))
    assert visible(open_channel(store)) == visible(channel) == wanted
    next_owner = open_channel(store)
    write(next_owner, delete("e", 40))
    assert visible(open_channel(store)) == wanted - {40}


@MEDIA
def test_the_manifest_remembers_commits_only_as_long_as_a_log_asks_for_them(appendable):
    store = new_store(appendable=appendable, channels=3)
    channel = open_channel(store)
    write(channel, insert("a", *range(12)))
    channel.channels[0].flush(1)
    (kept,) = channel.state.channels["s000"].commits
    assert kept[1] == ("s001", "s002")
    channel.channels[2].flush(1)
    assert channel.state.channels["s000"].commits == (kept,)
    channel.channels[1].flush(1)
    assert channel.state.channels["s000"].commits == ()


@MEDIA
def test_a_writer_that_dies_between_the_parts_leaves_nothing(appendable):
    inner = new_store(appendable=appendable, channels=3)
    store = FaultStore(inner)
    channel = open_channel(store)
    write(channel, insert("a", *range(12)))
    before = len(store.operations)
    reader = open_channel(inner)
    write(channel, delete("b", *range(0, 6)))
    appends = [
        number
        for number, (method, key) in enumerate(store.operations)
        if number >= before and "/wal/" in key and method in ("append", "put_if_absent")
    ]
    assert len(appends) == 3
    assert visible(reader) == frozenset(range(6, 12))
    for append in appends[1:]:  # a part is logged, the home's is not
        dying = new_store(appendable=appendable, channels=3)
        victim = open_channel(FaultStore(dying, {append: Fault.CRASH_BEFORE}))
        write(victim, insert("a", *range(12)))
        with pytest.raises(Crash):
            write(victim, delete("b", *range(0, 6)))
        assert visible(open_channel(dying)) == frozenset(range(12))
        heir = open_channel(dying)
        write(heir, insert("c", 77))
        assert visible(heir) == visible(open_channel(dying)) == frozenset([*range(12), 77])
