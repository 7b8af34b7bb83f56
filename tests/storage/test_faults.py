import pytest

from gpuvec.errors import CorruptError, StorageError
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


def test_a_conflict_creates_nothing():
    store, inner = one(Fault.CONFLICT)
    assert store.put_if_absent("k", b"mine") is False
    assert inner.size("k") is None
    other, _ = one(Fault.CONFLICT)
    with pytest.raises(StorageError, match="planned"):
        other.get("k")


@pytest.mark.parametrize("read", ["get", "get_range", "size"])
def test_what_is_there_may_be_missing_once(read):
    store, inner = one(Fault.MISSING)
    inner.put("k", [b"x"])
    if read == "size":
        assert store.size("k") is None
    else:
        with pytest.raises(CorruptError, match=r"k\.missing") as caught:
            store.get("k") if read == "get" else store.get_range("k", 0, 1)
        assert caught.value.details["missing"]
    assert store.get("k") == b"x"


def test_a_delay_has_its_effect():
    store, inner = one(Fault.DELAY)
    store.put("k", [b"x"])
    assert inner.get("k") == b"x"


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
