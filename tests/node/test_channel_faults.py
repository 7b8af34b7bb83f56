"""A channel on a store that fails or dies at any operation: nothing acknowledged is lost."""

import pytest

import gpuvec as gv
from gpuvec.errors import GpuvecError
from gpuvec.messages import OnConflict
from gpuvec.meta.changes import AddField, AddPartition, Truncate
from gpuvec.testing.channels import (
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

# What the steps do, and what they do to the set of keys.
STEPS = [
    (lambda c: write(c, insert("1", *range(10))), lambda k: k | set(range(10))),
    (lambda c: write(c, insert("2", 10), insert("3", 11)), lambda k: k | {10, 11}),
    (lambda c: write(c, delete("4", 0, 1)), lambda k: k - {0, 1}),
    (flush, lambda k: k),
    (lambda c: write(c, insert("5", 1, 20, on_conflict=REPLACE), delete("6", 2)),
     lambda k: (k | {1, 20}) - {2}),
    (change(lambda ts: AddPartition(name="p", ts=ts)), lambda k: k),
    (change(lambda _: AddField(name="n", field_type=gv.Int32(nullable=True))), lambda k: k),
    (lambda c: write(c, delete("7", 3, 20)), lambda k: k - {3, 20}),
    (flush, lambda k: k),
    (lambda c: write(c, insert("8", 30)), lambda k: k | {30}),
    (change(lambda ts: Truncate(ts=ts)), lambda k: set()),
    (lambda c: write(c, insert("9", 40)), lambda k: k | {40}),
]  # fmt: skip


def take_steps(store):
    """Take all steps; return the sets of keys that may be there, and the channel if it lives."""
    possible, channel = {frozenset()}, None
    try:
        for action, effect in STEPS:
            after = {frozenset(effect(keys)) for keys in possible}
            try:
                channel = channel or open_channel(store)
                action(channel)
            except GpuvecError as error:
                if error.details.get("outcome") != "none":
                    possible |= after
            except Crash:
                return possible | after, None
            else:
                possible = after
    except Crash:
        return possible, None
    return possible, channel


def check(fault, number, *, appendable, channels=1):
    inner = new_store(appendable=appendable, channels=channels)
    store = FaultStore(inner, {number: fault})
    possible, channel = take_steps(store)
    note = f"{fault.name} at {number}: {store.operations[number]}"
    try:
        found = visible(open_channel(inner))
        assert found in possible
        if channel is not None:
            assert visible(channel) == found, "what was shown is not what is there"
        again = open_channel(inner)
        write(again, insert("a", 99))
        flush(again)
        assert visible(again) == found | {99}
        assert visible(open_channel(inner)) == found | {99}
    except BaseException as error:
        error.add_note(note)
        raise


def operations(appendable, channels=1):
    store = FaultStore(new_store(appendable=appendable, channels=channels))
    possible, channel = take_steps(store)
    assert possible == {frozenset({40})}
    assert visible(channel) == {40}
    return len(store.operations)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_some_operations_loses_nothing_acknowledged(fault, appendable):
    for number in range(list(Fault).index(fault) % 4, operations(appendable), 4):
        check(fault, number, appendable=appendable)


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_a_fault_at_any_operation_loses_nothing_acknowledged(fault, appendable):
    for number in range(operations(appendable)):
        check(fault, number, appendable=appendable)


@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_nor_does_a_write_that_spans_channels(fault, appendable):
    first = list(Fault).index(fault) % 16
    for number in range(first, operations(appendable, channels=3), 16):
        check(fault, number, appendable=appendable, channels=3)


@pytest.mark.slow
@pytest.mark.parametrize("fault", Fault)
@pytest.mark.parametrize("appendable", [True, False], ids=["files", "objects"])
def test_nor_does_a_write_that_spans_channels_whichever_operation_it_is(fault, appendable):
    for number in range(operations(appendable, channels=3)):
        check(fault, number, appendable=appendable, channels=3)
