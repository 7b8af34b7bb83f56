"""A channel of the real engine on a disk that loses power, at every call that changes the disk."""

import errno
import itertools

import pytest

from gpuvec.errors import GpuvecError
from gpuvec.storage.local import LocalStore
from gpuvec.testing.channel_session import CHANNEL_STEPS, ChannelSession
from gpuvec.testing.disk import ModelDisk, PowerCut

OUTCOMES = (
    ("none", "none", 0),
    ("all", "zeros", 0),
    ("all", "half", 0),
    ("random", "random", 1),
    ("random", "random", 2),
)


def run_until(cut_at, **options):
    disk = ModelDisk(cut_at=cut_at, **options)
    session = ChannelSession(LocalStore("/db", system=disk))
    try:
        session.open()
        session.take(CHANNEL_STEPS)
    except PowerCut:
        return disk, session, True
    return disk, session, False


def cut_and_check(cut_at, outcomes, **options):
    disk, session, was_cut = run_until(cut_at, **options)
    check(disk, session, outcomes, f"cut at {cut_at}")
    return was_cut


def fail_and_check(number, code, outcomes):
    """Let one call fail, go on, and cut the power at the end."""
    disk = ModelDisk(failures={number: code})
    session = ChannelSession(LocalStore("/db", system=disk))
    session.open()
    session.take(CHANNEL_STEPS, go_on=True)
    assert session.rows() in session.possible
    check(disk, session, outcomes, f"{errno.errorcode[code]} at {number} ({disk.calls[number]})")


def check(disk, session, outcomes, what):
    for outcome in outcomes:
        try:
            session.check(LocalStore("/db", system=disk.after_power_cut(*outcome)))
        except Exception as error:
            error.add_note(f"{what} ({disk.calls[-1]}), {outcome}")
            raise


def test_a_channel_without_power_cut_shows_all_writes():
    disk, session, was_cut = run_until(None)
    assert not was_cut
    assert [session.rows()] == session.possible
    assert len(session.rows()) == 40 - 5 + 20 - 5 + 10 - 5 + 3
    check(disk, session, OUTCOMES[:1], "at the end")


def test_a_power_cut_at_some_calls_loses_no_acknowledged_row():
    calls = len(run_until(None)[0].calls)
    for cut_at in range(3, calls, 17):
        cut_and_check(cut_at, OUTCOMES[cut_at % 5 : cut_at % 5 + 1])


@pytest.mark.parametrize("call", ["fsync folder", "fsync", "fdatasync"])
def test_a_disk_that_only_claims_to_sync_is_found_out(call):
    """What the store syncs, it has to: without any one kind of sync, acknowledged rows are lost."""
    calls = len(run_until(None, ignored=[call])[0].calls)
    outcomes = (("all", "none", 0), ("none", "all", 0))
    with pytest.raises((AssertionError, GpuvecError)):
        cut_and_check(calls, outcomes, ignored=[call])


@pytest.mark.slow
def test_a_power_cut_at_every_call_loses_no_acknowledged_row():
    for cut_at in itertools.count():
        if not cut_and_check(cut_at, OUTCOMES):
            return


def test_some_failing_calls_lose_no_acknowledged_row():
    calls = len(run_until(None)[0].calls)
    for number in range(1, calls, 13):
        fail_and_check(number, errno.ENOSPC if number % 2 else errno.EIO, OUTCOMES[:1])


@pytest.mark.slow
@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC])
def test_every_failing_call_loses_no_acknowledged_row(code):
    for number in range(len(run_until(None)[0].calls)):
        fail_and_check(number, code, OUTCOMES)
