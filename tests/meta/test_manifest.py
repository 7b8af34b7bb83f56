import json

import pytest

from gpuvec.clock import ManualClock
from gpuvec.errors import (
    ConflictError,
    CorruptError,
    StorageError,
    UnavailableError,
    UnsupportedError,
)
from gpuvec.meta import entry
from gpuvec.meta.catalog import DatabaseState
from gpuvec.meta.changes import CreateCollection, RenameCollection, TakeGeneration
from gpuvec.meta.manifest import ManifestLog
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import Get, List, Put, PutIfAbsent, perform

FAILURE = StorageError("GV-599", "simulated")


class Committer:
    """A process with its own view; `fail` makes operations fail."""

    def __init__(self, store=None, every=100):
        self.store = store or MemoryStore()
        self.log = ManifestLog(keys.CATALOG, DatabaseState(), checkpoint_every=every)
        self.generation = 1
        self.operations = []
        self.fail = lambda operation: None  # or "before", "after"
        self.view = self.do(self.log.read())

    def do(self, procedure):
        clock = ManualClock()
        try:
            operation = next(procedure)
            while True:
                try:
                    result = self._perform(operation, clock)
                except StorageError as error:
                    operation = procedure.throw(error)
                else:
                    operation = procedure.send(result)
        except StopIteration as done:
            return done.value

    def _perform(self, operation, clock):
        self.operations.append(operation)
        how = self.fail(operation)
        if how == "before":
            raise FAILURE
        result = perform(operation, self.store, clock)
        if how == "after":
            raise FAILURE
        return result

    def commit(self, *changes, **options):
        self.view = self.do(
            self.log.commit(
                self.view, changes, generation=self.generation, committer="test", **options
            )
        )

    def create(self, *names):
        for name in names:
            self.commit(CreateCollection(name=name, collection_id=f"c-{name}"))

    def names(self):
        self.view = self.do(self.log.read(self.view))
        return list(self.view.state.collections)


def once(kind, how):
    waiting = [how]
    return lambda operation: waiting.pop() if isinstance(operation, kind) and waiting else None


def damage(store, key, change):
    data = store.get(key)
    store.put(key, [change(data)])


@pytest.fixture
def store():
    return MemoryStore()


def test_every_process_folds_the_same_entries_into_the_same_view(store):
    one = Committer(store)
    one.create("a", "b", "c")
    assert Committer(store).view == one.view
    assert one.view.entry_id == 3


def test_a_refresh_without_news_costs_one_listing(store):
    one = Committer(store)
    one.create("a")
    one.operations.clear()
    one.names()
    assert len(one.operations) == 1


def test_a_commit_on_an_old_view_is_rebased(store):
    one, two = Committer(store), Committer(store)
    one.create("a")
    two.create("b")
    one.create("c")
    assert one.names() == two.names() == ["a", "b", "c"]


def test_conditions_are_evaluated_again_on_newer_entries(store):
    one, two = Committer(store), Committer(store)
    one.create("a")
    with pytest.raises(ConflictError, match='"a" is taken'):
        two.create("a")

    def check(state):
        seen.append(list(state.collections))

    seen = []
    one.create("b")
    two.commit(CreateCollection(name="c", collection_id="c"), check=check)
    assert seen == [[], ["a", "b"]]
    assert two.names() == ["a", "b", "c"]


def test_all_changes_of_an_entry_happen_or_none(store):
    one = Committer(store)
    with pytest.raises(ConflictError):
        one.commit(
            CreateCollection(name="a", collection_id="c"), RenameCollection(old="x", new="y")
        )
    assert one.names() == []
    assert store.list("") == []


@pytest.mark.parametrize("how", ["before", "after"])
@pytest.mark.parametrize("kind", [PutIfAbsent, Put, List, Get])
def test_a_store_that_fails_once_does_not_change_what_a_commit_does(store, kind, how):
    one = Committer(store)
    one.create("a")
    one.fail = once(kind, how)
    one.create("b")  # its own answer, though the entry exists already
    one.create("c")
    assert Committer(store).names() == ["a", "b", "c"]


def test_a_refused_commit_tells_the_store_s_own_reason(store):
    one = Committer(store)
    one.fail = lambda operation: "before" if isinstance(operation, PutIfAbsent) else None
    with pytest.raises(StorageError, match="simulated"):
        one.create("a")
    assert Committer(store).names() == []


@pytest.mark.parametrize("how", ["before", "after"])
def test_a_commit_that_cannot_be_read_back_is_unknown(store, how):
    one = Committer(store)
    one.fail = lambda operation: how if isinstance(operation, PutIfAbsent | Get) else None
    with pytest.raises(UnavailableError) as told:
        one.create("a")
    assert told.value.code == "GV-524"
    assert told.value.details["outcome"] == "unknown"
    assert Committer(store).names() == (["a"] if how == "after" else [])


def test_a_replaced_coordinator_cannot_commit(store):
    old, new = Committer(store), Committer(store)
    old.create("a")
    new.generation = 2
    new.commit(TakeGeneration())
    with pytest.raises(UnavailableError, match="another coordinator took over") as told:
        old.create("b")
    assert told.value.code == "GV-523"
    assert new.names() == ["a"]


def test_an_entry_below_the_highest_generation_counts_for_nothing(store):
    new = Committer(store)
    new.generation = 2
    new.create("a")
    late = entry.Entry(
        entry_id=2,
        nonce="x",
        prev_nonce=new.view.nonce,
        generation=1,
        committer="zombie",
        time_ms=0,
        changes=(CreateCollection(name="b", collection_id="c"),),
    )
    store.put_if_absent(keys.manifest_entry(keys.CATALOG, 2), entry.encode_entry(late))
    new.create("c")
    assert new.names() == Committer(store).names() == ["a", "c"]


# Opening


def test_checkpoints_spare_reading_entries(store):
    one = Committer(store, every=10)
    one.create(*[f"n{i}" for i in range(25)])
    two = Committer(store)
    assert two.view == one.view
    read = [op for op in two.operations if isinstance(op, Get) and "/manifest/0" in op.key]
    assert len(read) == 5


def test_a_checkpoint_is_the_same_whoever_writes_it(store):
    one = Committer(store)
    one.create("b", "a")
    one.do(one.log.checkpoint(one.view))
    key = keys.checkpoint(keys.CATALOG, 2)
    data = store.get(key)
    two = Committer(store)
    two.do(two.log.checkpoint(two.view))
    assert store.get(key) == data


def test_a_damaged_checkpoint_is_passed_over_while_entries_are_there(store):
    one = Committer(store, every=2)
    one.create("a", "b", "c", "d")
    damage(store, keys.checkpoint(keys.CATALOG, 4), lambda data: data[:-9])
    assert Committer(store).view == one.view


def test_a_lost_or_old_hint_changes_nothing(store):
    one = Committer(store)
    one.create("a", "b")
    for hint in (entry.encode_hint(1), b"rubbish"):
        store.put(keys.manifest_hint(keys.CATALOG), [hint])
        assert Committer(store).view == one.view
    store.delete([keys.manifest_hint(keys.CATALOG)])
    assert Committer(store).view == one.view


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_missing_entry_is_told_never_a_shorter_history(store, number):
    one = Committer(store)
    one.create("a", "b", "c")
    key = keys.manifest_entry(keys.CATALOG, number)
    store.delete([key])
    with pytest.raises(CorruptError, match=key) as told:
        Committer(store)
    assert told.value.code == "GV-520"


def test_every_flipped_bit_of_an_entry_is_told(store):
    one = Committer(store)
    one.create("a", "b")
    key = keys.manifest_entry(keys.CATALOG, 1)
    data = store.get(key)
    for byte in range(len(data)):
        flipped = bytearray(data)
        flipped[byte] ^= 1 << byte % 8
        store.put(key, [bytes(flipped)])
        with pytest.raises(CorruptError, match=key):
            Committer(store)


def test_entries_that_are_swapped_are_told(store):
    one = Committer(store)
    one.create("a", "b")
    one_key, two_key = (keys.manifest_entry(keys.CATALOG, n) for n in (1, 2))
    store.put(two_key, [store.get(one_key)])
    with pytest.raises(CorruptError, match="calls itself entry 1"):
        Committer(store)


def test_a_foreign_entry_breaks_the_chain(store):
    one, other = Committer(store), Committer()
    one.create("a", "b")
    other.create("a", "b")
    key = keys.manifest_entry(keys.CATALOG, 2)
    store.put(key, [other.store.get(key)])
    with pytest.raises(CorruptError, match="does not continue"):
        Committer(store)


def test_a_newer_format_is_told(store, monkeypatch):
    one = Committer(store)
    monkeypatch.setattr(entry, "FORMAT", 2)
    one.create("a")
    monkeypatch.setattr(entry, "FORMAT", 1)
    with pytest.raises(UnsupportedError, match="written by a newer gpuvec: format 2") as told:
        Committer(store)
    assert told.value.code == "GV-522"


def test_a_change_of_a_newer_gpuvec_is_told(store):
    one = Committer(store)
    one.create("a")
    key = keys.manifest_entry(keys.CATALOG, 1)
    value = json.loads(store.get(key))
    del value["crc32c"]
    value["changes"] = [{"change": "Teleport"}]
    store.put(key, [entry._seal(value)])
    with pytest.raises(UnsupportedError, match="Teleport"):
        Committer(store)


# Collecting


def test_collecting_keeps_the_newest_entries_and_the_whole_state(store):
    one = Committer(store)
    one.create(*[f"n{i}" for i in range(20)])
    one.do(one.log.collect(one.view, keep=3))
    entries = [k for k in store.list(f"{keys.CATALOG}/manifest/") if not k.endswith("hint")]
    assert [keys.parse_number(key) for key in entries] == [18, 19, 20]
    assert Committer(store).view == one.view
    one.create("x")
    assert Committer(store).view == one.view


def test_an_old_view_catches_up_after_entries_were_collected(store):
    one, two = Committer(store), Committer(store)
    one.create("a", "b", "c", "d")
    one.do(one.log.collect(one.view, keep=1))
    assert two.names() == ["a", "b", "c", "d"]


def test_a_committer_that_slept_does_not_take_a_collected_number_for_its_commit(store):
    one, two = Committer(store), Committer(store)
    one.create("a", "b", "c", "d")
    one.do(one.log.collect(one.view, keep=1))
    two.create("e")  # creates entry 1 again, sees the mark, and commits anew
    assert two.names() == one.names() == ["a", "b", "c", "d", "e"]


def test_a_reader_does_not_take_a_number_created_again_for_the_original(store):
    one = Committer(store)
    one.create("a")
    reader, sleeper = Committer(store), Committer(store)
    one.create("b")
    reading = reader.log.read(reader.view)
    listing = next(reading)
    found = perform(listing, store, ManualClock())  # entry 2 is the newest; now the reader sleeps
    one.create("c", "d")
    one.do(one.log.collect(one.view, keep=1))
    sleeper.create("z")
    get = reading.send(found)

    def rest():
        result = perform(get, store, ManualClock())
        operation = reading.send(result)
        while True:
            operation = reading.send((yield operation))

    try:
        view = reader.do(rest())
    except RuntimeError as ended:  # the reading's own end, as generators tell it
        view = ended.__cause__.value
    assert list(view.state.collections) == ["a", "b", "c", "d", "z"]
