"""Compaction and collection on a store that fails or dies at any operation: nothing is lost."""

import itertools

import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import GpuvecError
from gpuvec.messages import OnConflict
from gpuvec.meta.changes_versions import SetTag
from gpuvec.meta.collect import Limits
from gpuvec.meta.retention import needed, readable
from gpuvec.node.compact import compact
from gpuvec.node.rewrite import Room
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
from gpuvec.testing.faults import Crash, Fault, FaultStore

REPLACE = OnConflict.REPLACE
PREFIX = "collections/c-1"
ROOM = Room(size_bytes=1 << 30, rows=12, memory_bytes=1 << 30)
_names = itertools.count(1 << 50)


class Session:
    """One process on a store: a channel, and what compaction needs of its host."""

    def __init__(self, store, seen):
        self.store, self.clock = store, ManualClock()
        self.channel = open_channel(store, self.clock)
        self.seen = seen  # version to rows

    def run(self, procedure):
        return run(procedure, self.store, self.clock)

    def mint(self):
        return keys.ulid(self.clock.now_ms(), f"{next(_names):020x}")

    def compact(self, retention_s, progress=None):
        compact(
            self.channel,
            list(self.channel.state.segments),
            need=lambda state: needed(state, self.clock.now_ms(), retention_s=retention_s),
            room=ROOM,
            host=self,
            generation=GENERATION,
            progress=progress,
        )

    def collect(self):
        self.channel.collect(GENERATION, Limits(grace_ms=0))

    def tag(self):
        version = self.channel.shard.version
        self.seen[version] = visible(self.channel)
        change(lambda _: SetTag(name="t", version=version))(self.channel)

    def busy_compact(self):
        """Compact while others delete and flush."""
        done = []

        def progress(_):
            if not done:
                done.append(write(self.channel, delete("20", 4)))
                flush(self.channel)
                write(self.channel, delete("21", 5))

        self.compact(0, progress)


def rows_at(channel, version):
    found = []
    for view in channel.snapshots_at(NAME, version)[0]:
        keep = view.keep()
        found += (
            view.scalars(["id"])["id"].to_numpy()[slice(None) if keep is None else keep].tolist()
        )
    assert len(found) == len(set(found))
    return set(found)


STEPS = [
    (lambda s: write(s.channel, insert("1", *range(10))), lambda k: k | set(range(10))),
    (lambda s: flush(s.channel), lambda k: k),
    (Session.tag, lambda k: k),
    (lambda s: write(s.channel, insert("2", 2, 3, 20, 21, on_conflict=REPLACE)),
     lambda k: k | {2, 3, 20, 21}),
    (lambda s: flush(s.channel), lambda k: k),
    (lambda s: write(s.channel, delete("3", 0, 21)), lambda k: k - {0, 21}),
    (lambda s: s.compact(24 * 3600), lambda k: k),
    (Session.collect, lambda k: k),
    (lambda s: write(s.channel, insert("4", 30, 31)), lambda k: k | {30, 31}),
    (lambda s: flush(s.channel), lambda k: k),
    (Session.busy_compact, lambda k: k - {4, 5}),
    (Session.collect, lambda k: k),
    (lambda s: write(s.channel, delete("5", 30)), lambda k: k - {30}),
]  # fmt: skip


def take_steps(store, seen):
    """Take all steps; return the sets of keys that may be there, the session, and if it lives."""
    possible, session = {frozenset()}, None
    try:
        for action, effect in STEPS:
            after = {frozenset(effect(keys)) for keys in possible}
            if action is Session.busy_compact:
                after |= {k - {4} for k in possible}
            try:
                session = session or Session(store, seen)
                action(session)
            except GpuvecError as error:
                if error.details.get("outcome") != "none" or action is Session.busy_compact:
                    possible |= after
            except Crash:
                return possible | after, session, False
            else:
                possible = {frozenset(effect(keys)) for keys in possible}
    except Crash:
        return possible, session, False
    return possible, session, True


def files(store):
    return {key for name in ("seg", "dv", "idx") for key in store.list(f"{PREFIX}/{name}/")}


def named(state):
    found = set()
    for record in state.segments.values():
        found |= {record.files["scalar"]["key"], record.files["vectors"]["v"]["key"]}
        found |= {record.deletes["key"]} if record.deletes else set()
    return found


def check(fault, number, *, appendable):
    inner = new_store(appendable=appendable)
    store = FaultStore(inner, {number: fault})
    seen = {}
    possible, session, alive = take_steps(store, seen)
    note = f"{fault.name} at {number}: {store.operations[number]}"
    try:
        after = Session(inner, seen)
        after.clock.advance(3600)
        found = visible(after.channel)
        assert found in possible
        if alive and session is not None:
            assert visible(session.channel) == found, "what was shown is not what is there"
        state = after.channel.state
        tagged = state.tags.get("t")
        if tagged is not None:
            assert readable(state, tagged)
            assert rows_at(after.channel, tagged) == seen[tagged]
        assert named(state) <= files(inner), "the manifest names what is not there"
        write(after.channel, insert("9", 99))
        flush(after.channel)
        after.compact(0)
        after.collect()
        assert visible(after.channel) == found | {99}
        assert files(inner) == named(after.channel.state)
        again = Session(inner, seen)
        assert visible(again.channel) == found | {99}
        if tagged is not None:
            assert rows_at(again.channel, tagged) == seen[tagged]
    except BaseException as error:
        error.add_note(note)
        raise


def operations(appendable):
    store = FaultStore(new_store(appendable=appendable))
    seen = {}
    possible, session, alive = take_steps(store, seen)
    count = len(store.operations)
    assert alive
    assert possible == {frozenset({1, 2, 3, 6, 7, 8, 9, 20, 31})}
    assert visible(session.channel) == {1, 2, 3, 6, 7, 8, 9, 20, 31}
    assert [rows_at(session.channel, v) for v in seen] == [set(range(10))]
    return count


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_some_operations_loses_nothing(fault, appendable):
    for number in range(list(Fault).index(fault) % 9, operations(appendable), 9):
        check(fault, number, appendable=appendable)


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_any_operation_loses_nothing(fault, appendable):
    count = operations(appendable)
    for number in range(count):
        check(fault, number, appendable=appendable)
    print(f"{count} operations, {fault.name}")
