"""The threads of an embedded database tell of what befell them."""

import threading
import time
from types import SimpleNamespace

import pytest

from gpuvec.api.committer import Committer
from gpuvec.errors import StorageError


def committer_that(maintain):
    """Return a committer that answers writes with `done`, after its maintenance ran once."""
    ran = threading.Event()

    def once():
        if not ran.is_set():
            ran.set()
            maintain()

    found = Committer(lambda _, requests: ["done" for _ in requests], once, "./shop")
    found.wake()
    assert ran.wait(30)
    return found


def write(committer):
    request = SimpleNamespace(collection_id="c", change=None)
    return committer.submit(request, 30)


def fail_by_a_bug():
    raise ZeroDivisionError("a bug")


def settle(committer):
    """Wait until the maintenance thread is back from what it did."""
    while committer._failure is None:
        time.sleep(0.001)


def test_a_bug_in_maintenance_fails_the_next_write_and_no_more():
    committer = committer_that(fail_by_a_bug)
    settle(committer)
    with pytest.raises(AssertionError, match=r"\./shop failed: ZeroDivisionError: a bug"):
        write(committer)
    assert write(committer) == "done"
    committer.stop()


def test_a_bug_in_maintenance_is_told_at_the_latest_when_the_database_is_closed():
    committer = committer_that(fail_by_a_bug)
    settle(committer)
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        committer.stop()
    assert not any(thread.is_alive() for thread in committer._threads)


def test_maintenance_that_a_store_refused_is_tried_again_and_fails_no_write():
    def refuse():
        raise StorageError("GV-500", "no")

    committer = committer_that(refuse)
    assert write(committer) == "done"
    committer.stop()
