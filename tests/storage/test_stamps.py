"""Stamps tell whether a local folder changed."""

import os

import pytest

from gpuvec.storage.local import LocalStore
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.stamps import KEPT_S, SETTLED_S, Stamps


class Watch:
    """A store, its stamps, and a clock that moves by hand."""

    def __init__(self, folder):
        self.store = LocalStore(folder)
        self.now = 100.0
        self._stamps = Stamps(str(folder), lambda: self.now)
        self.store.put_if_absent("log/1", b"1")
        self.store.append("log/2", b"2")

    def stamp(self):
        return self._stamps.stamp(["log"], ["log/2"])

    def settled(self):
        assert self.stamp() is None
        self.now += SETTLED_S
        return self.stamp()


@pytest.fixture
def watch(tmp_path):
    return Watch(tmp_path)


def test_a_stamp_stays_while_nothing_changes(watch):
    first = watch.settled()
    assert first is not None
    assert watch.stamp() == first


def test_a_folder_that_changed_just_now_has_no_stamp(watch):
    assert watch.stamp() is None
    watch.now += SETTLED_S * 0.9
    assert watch.stamp() is None


WRITES = {
    "create": lambda store: store.put_if_absent("log/3", b"3"),
    "replace": lambda store: store.put("log/1", [b"3"]),
    "delete": lambda store: store.delete(["log/1"]),
    "append": lambda store: store.append("log/2", b"more"),
    "another process appends": lambda store: LocalStore(store.root).append("log/2", b"more"),
}


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
def test_every_write_ends_a_stamp_for_good(watch, write):
    first = watch.settled()
    write(watch.store)
    assert watch.stamp() != first
    watch.now += SETTLED_S
    assert watch.stamp()[1:] != first[1:]


def test_times_that_were_set_back_are_no_disguise(watch, tmp_path):
    old = os.stat(tmp_path / "log")
    first = watch.settled()
    watch.store.put_if_absent("log/3", b"3")
    os.utime(tmp_path / "log", ns=(old.st_atime_ns, old.st_mtime_ns))
    assert os.stat(tmp_path / "log").st_mtime_ns == old.st_mtime_ns
    assert watch.stamp() != first


def test_no_stamp_lives_long_where_folders_may_keep_no_times(watch):
    first = watch.settled()
    watch.now += 2 * KEPT_S
    assert watch.stamp() not in (None, first)


def test_what_is_missing_has_no_stamp(watch, tmp_path):
    watch.settled()
    os.remove(tmp_path / "log" / "2")
    watch.now += SETTLED_S
    assert watch.stamp() is None
    assert Stamps(str(tmp_path)).stamp(["nowhere"], []) is None


def test_a_store_in_memory_has_no_stamps():
    store = MemoryStore()
    store.put_if_absent("log/1", b"1")
    assert store.stamp(["log"], ["log/1"]) is None
