"""A follower reads the log again when, and only when, something changed."""

import pytest

from gpuvec.meta.changes import AddPartition, Truncate
from gpuvec.storage.local import LocalStore
from gpuvec.storage.stamps import KEPT_S, SETTLED_S, Stamps
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


class Watched(FaultStore):
    """A store on a disk that counts what it is asked, and whose stamps go by a clock of its own."""

    def __init__(self, folder):
        super().__init__(LocalStore(folder))
        self.now = 0.0
        self._stamps = Stamps(str(folder), lambda: self.now)

    def stamp(self, folders, logs):
        return self._stamps.stamp(folders, logs)

    def asked(self, work):
        """Return how many operations some work needs."""
        before = len(self.operations)
        work()
        return len(self.operations) - before


def follow(path):
    """Return an owner with some rows, and a follower that has read them and then waited."""
    make_collection(LocalStore(path))
    owner, store = open_channel(LocalStore(path)), Watched(path)
    write(owner, insert("1", 1, 2), delete("2", 2))
    follower = open_channel(store)
    for _ in range(3):
        store.now += SETTLED_S
        follower.look()
        assert visible(follower) == {1}
    return owner, follower, store


def test_where_nothing_changed_nothing_is_asked(tmp_path):
    _, follower, store = follow(tmp_path)
    snapshot = follower.snapshot("items", 0)
    assert store.asked(follower.look) == 0
    assert store.asked(follower.refresh) == 0
    assert follower.snapshot("items", 0) is snapshot


def test_once_in_a_while_it_is_asked_all_the_same(tmp_path):
    _, follower, store = follow(tmp_path)
    store.now += 2 * KEPT_S
    assert store.asked(follower.refresh) > 0
    assert store.asked(follower.refresh) == 0


CHANGES = {
    "append": (lambda owner, _: write(owner, insert("3", 3)), {1, 3}),
    "delete": (lambda owner, _: write(owner, delete("3", 1)), set()),
    "flush": (lambda owner, _: flush(owner), {1}),
    "truncate": (lambda owner, _: change(lambda ts: Truncate(ts=ts))(owner), set()),
    "another owner": (
        lambda _, path: write(open_channel(LocalStore(path)), insert("3", 3)),
        {1, 3},
    ),
}


@pytest.mark.parametrize(("step", "rows"), CHANGES.values(), ids=CHANGES)
def test_what_changed_is_seen_at_once(tmp_path, step, rows):
    owner, follower, store = follow(tmp_path)
    assert store.asked(follower.refresh) == 0
    step(owner, tmp_path)
    assert visible(follower) == rows


def test_a_change_of_the_definition_is_seen_by_a_look(tmp_path):
    owner, follower, _ = follow(tmp_path)
    change(lambda ts: AddPartition(name="new", ts=ts))(owner)
    follower.look()
    assert "new" in follower.state.partitions
