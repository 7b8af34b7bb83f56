"""A follower of a log of objects learns of every write by one listing a folder, in any order."""

import threading
from itertools import product

import pytest

from gpuvec.meta.changes import Truncate
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.stamps import NewestKeys
from gpuvec.testing.channels import (
    change,
    delete,
    flush,
    insert,
    make_collection,
    open_channel,
    visible,
    write,
)
from gpuvec.testing.faults import FaultStore


class Stamped(MemoryStore):
    """A store as a bucket: stamps are its newest keys; something may happen before the last one.

    Attributes:
        last: part of the name of the folder that is listed after the others.
        then: what happens before it is.
    """

    def __init__(self):
        super().__init__(appendable=False)
        self.newest = NewestKeys(self.listed)
        self.last, self.then = "", None
        self.other_is_listed = threading.Event()

    def listed(self, prefix, after):
        if self.then is not None and self.last in prefix:
            assert self.other_is_listed.wait(10)
            then, self.then = self.then, None
            then()
        found = self.list(prefix, after)
        self.other_is_listed.set()
        return found

    def stamp(self, folders, logs):
        return self.newest.of(folders)


def follow():
    store = Stamped()
    make_collection(store)
    owner = open_channel(store)
    write(owner, insert("1", 1, 2), delete("2", 2))
    counted = FaultStore(store)
    follower = open_channel(counted)
    for _ in range(2):
        assert visible(follower) == {1}
    return store, owner, follower, counted


def test_where_nothing_changed_nothing_is_read():
    _, _, follower, counted = follow()
    snapshot = follower.snapshot("items", 0)
    before = len(counted.operations)
    assert follower.snapshot("items", 0) is snapshot
    follower.look()
    follower.look()
    reads = [name for name, _ in counted.operations[before:] if name != "list"]
    assert reads == []


STEPS = {
    "write": lambda owner: write(owner, insert("3", 3)),
    "write, flush": lambda owner: (write(owner, insert("3", 3)), flush(owner)),
    "flush, write": lambda owner: (flush(owner), write(owner, insert("3", 3))),
    "write, flush, write, flush": lambda owner: (
        write(owner, insert("3", 3)),
        flush(owner),
        write(owner, insert("4", 4)),
        flush(owner),
    ),
    "truncate": lambda owner: change(lambda ts: Truncate(ts=ts))(owner),
}


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_what_was_acknowledged_before_is_seen(step):
    _, owner, follower, _ = follow()
    step(owner)
    assert visible(follower) == visible(owner)


def test_a_follower_of_another_owner_sees_it():
    store, _, follower, _ = follow()
    other = open_channel(store)
    write(other, insert("3", 3))
    assert visible(follower) == {1, 3}


@pytest.mark.parametrize("last", ["/manifest/", "/wal/"])
@pytest.mark.parametrize("more", range(3))
def test_a_flush_between_the_listings_hides_nothing_acknowledged_before(last, more):
    """Slots are deleted, and an entry is made, when one folder was listed and the other was not."""
    store, owner, follower, _ = follow()
    write(owner, insert("3", 3))
    acknowledged = visible(owner)

    def then():
        for number in range(more):
            write(owner, insert(f"m{number}", 10 + number))
        flush(owner)

    store.last, store.then = last, then
    assert acknowledged <= visible(follower)
    assert store.then is None


@pytest.mark.parametrize("order", list(product((0, 1), repeat=2)))
def test_the_newest_slot_outlives_its_flush(order):
    store, owner, _, _ = follow()
    for number, flushes in enumerate(order):
        write(owner, insert(f"n{number}", 20 + number))
        newest = [key for key in store.list("") if "/wal/s000/" in key][-1]
        if flushes:
            flush(owner)
        assert [key for key in store.list("") if "/wal/s000/" in key][-1] == newest
