import pytest

from gpuvec.errors import StorageError
from gpuvec.storage.memory import MemoryStore
from gpuvec.testing.faults import Crash, Fault, FaultStore


def one(fault):
    inner = MemoryStore()
    return FaultStore(inner, {0: fault}), inner


def test_before_has_no_effect():
    store, inner = one(Fault.BEFORE)
    with pytest.raises(StorageError, match="planned"):
        store.put("k", [b"x"])
    assert inner.size("k") is None
    store.put("k", [b"x"])
    assert store.operations == [("put", "k"), ("put", "k")]


def test_after_has_its_effect():
    store, inner = one(Fault.AFTER)
    with pytest.raises(StorageError):
        store.put_if_absent("k", b"x")
    assert inner.get("k") == b"x"


def test_a_repeated_create_denies_its_own_object():
    store, inner = one(Fault.REPEATED)
    assert store.put_if_absent("k", b"mine") is False
    assert inner.get("k") == b"mine"


def test_a_torn_append_leaves_a_part():
    store, inner = one(Fault.TORN)
    with pytest.raises(StorageError):
        store.append("l", b"0123")
    assert inner.get("l") == b"01"


@pytest.mark.parametrize(
    ("fault", "left"),
    [(Fault.CRASH_BEFORE, None), (Fault.CRASH_AFTER, b"0123"), (Fault.CRASH_TORN, b"01")],
)
def test_after_a_crash_nothing_runs_on(fault, left):
    store, inner = one(fault)
    with pytest.raises(Crash):
        store.append("l", b"0123")
    for call in (lambda: store.get("l"), lambda: store.put("k", [b"x"]), lambda: store.list("")):
        with pytest.raises(Crash):
            call()
    assert (inner.get("l") if inner.size("l") else None) == left
