import pytest

from gpuvec.errors import StorageError
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.open import open_store
from gpuvec.storage.probe import probe
from gpuvec.testing.faults import Crash, Fault, FaultStore
from gpuvec.testing.misbehaving import UNSAFE, RejectsConditions, Unreachable


@pytest.mark.parametrize("make", UNSAFE, ids=lambda make: make.__name__)
def test_a_store_that_does_not_keep_writers_apart_is_refused(make):
    store = make()
    with pytest.raises(StorageError, match="does not keep two writers apart") as caught:
        probe(store, "the shop")
    assert caught.value.code == "GV-531"
    assert "the shop" in caught.value.message
    assert caught.value.details["tried"]
    assert MemoryStore.list(store, "") == []


def test_the_error_says_what_the_store_answered():
    with pytest.raises(StorageError, match="501 Not Implemented"):
        probe(RejectsConditions(), "x")


def test_what_cannot_be_reached_is_not_called_unsafe():
    with pytest.raises(StorageError, match="connection refused") as caught:
        probe(Unreachable(), "x")
    assert caught.value.code == "GV-532"


def test_a_good_store_passes_and_nothing_stays():
    store = MemoryStore()
    probe(store, "x")
    assert store.list("") == []


def test_s3_passes(s3):
    store = open_store(s3.new_url(), s3.options)
    probe(store, "x")
    assert store.list("") == []


def test_lost_answers_are_no_reason_to_refuse():
    whole = FaultStore(MemoryStore())
    probe(whole, "x")
    creates = [n for n, (name, _) in enumerate(whole.operations) if name == "put_if_absent"]
    assert len(creates) == 6
    for number in creates:
        for fault in (Fault.AFTER, Fault.REPEATED):
            store = MemoryStore()
            probe(FaultStore(store, {number: fault}), "x")
            assert store.list("") == []


def test_what_a_died_probe_left_is_deleted_later():
    store = MemoryStore()
    old, young = keys.ulid(1_700_000_000_000, "0" * 32), keys.ulid(2**43, "0" * 32)
    for name in (old, young):
        store.put(f"probe/{name}/1", [b"x"])
    probe(store, "x")
    assert store.list("") == [f"probe/{young}/1"]


def test_a_probe_may_die_anywhere():
    whole = FaultStore(MemoryStore())
    probe(whole, "x")
    for number in range(len(whole.operations)):
        store = MemoryStore()
        faulty = FaultStore(store, {number: Fault.CRASH_AFTER})
        name, _ = whole.operations[number]
        if name == "put_if_absent" and number > 4:
            continue  # on a thread of the race, where no crash can be told
        with pytest.raises(Crash):
            probe(faulty, "x")
        probe(store, "x")
