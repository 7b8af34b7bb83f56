"""A channel of the real engine on a store that fails, repeats or dies at every operation."""

import pytest

from gpuvec.errors import GpuvecError
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.channel_session import CHANNEL_STEPS, ChannelSession
from gpuvec.testing.faults import Crash, Fault, FaultStore

ERRORS = [Fault.BEFORE, Fault.AFTER, Fault.TORN]
OTHERS = [Fault.REPEATED, Fault.CRASH_BEFORE, Fault.CRASH_AFTER, Fault.CRASH_TORN]


def run_with(appendable, plan):
    inner = MemoryStore(appendable=appendable)
    store = FaultStore(inner, plan)
    session = ChannelSession(store)
    try:
        session.open()
        session.take(CHANNEL_STEPS, go_on=True)
        assert session.rows() in session.possible
    except (Crash, GpuvecError):
        pass
    return inner, store, session


def fault_and_check(appendable, number, fault):
    inner, store, session = run_with(appendable, {number: fault})
    try:
        session.check(inner)
    except Exception as error:
        error.add_note(f"{fault.name} at {number}: {' '.join(store.operations[number])}")
        raise


@pytest.mark.parametrize("appendable", [True, False])
@pytest.mark.parametrize("fault", OTHERS)
def test_a_fault_at_some_operations_loses_no_acknowledged_row(appendable, fault):
    operations = len(run_with(appendable, {})[1].operations)
    for number in range(1, operations, 7):
        fault_and_check(appendable, number, fault)


@pytest.mark.slow
@pytest.mark.parametrize("appendable", [True, False])
@pytest.mark.parametrize("fault", [*ERRORS, *OTHERS])
def test_a_fault_at_every_operation_loses_no_acknowledged_row(appendable, fault):
    operations = len(run_with(appendable, {})[1].operations)
    for number in range(operations):
        fault_and_check(appendable, number, fault)
