"""The coordinator alone commits to the logs of collections: once, and for their owners."""

import threading

import numpy as np
import pytest

import gpuvec as gv
from gpuvec import errors
from gpuvec.clock import SystemClock
from gpuvec.cluster.commits import Desk, OwnersLog, Standing
from gpuvec.cluster_messages import COORDINATOR
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import InitCollection, SetTtl
from gpuvec.meta.changes_versions import Pin
from gpuvec.meta.manifest import ManifestLog
from gpuvec.schema import Int64, Schema
from gpuvec.storage import keys
from gpuvec.storage.memory import MemoryStore
from gpuvec.storage.object_store import answered, run
from gpuvec.testing.roles import owner_of
from gpuvec.types import ChannelName
from gpuvec.work_messages import Behind, Commit, Committed

CID = "c-1"
GENERATION, TERM = 3, 17


class Place:
    """A desk on a store in memory, and an owner whose questions reach it."""

    def __init__(self, there=lambda name: True):
        self.store = MemoryStore()
        self.desk = self.new_desk(GENERATION, there)
        self.asked = []
        self.lose = []  # what to do with the next answers: "answer", "request" or nothing
        self.term = TERM
        schema = Schema({"id": Int64()}, "id")
        first = InitCollection(collection_id=CID, schema=schema, channels=(ChannelName("s000"),))
        log = self.log()
        self.run(log.commit(self.run(log.read()), [first], generation=2, committer="creator"))

    def new_desk(self, generation, there=lambda name: True):
        return Desk(self.run, generation, owns=lambda name, term: term == TERM, there=there)

    def run(self, procedure):
        return run(answered(procedure, self.ask), self.store, SystemClock())

    def ask(self, order):
        self.asked.append(order)
        fate = self.lose.pop(0) if self.lose else ""
        if fate == "request":
            raise errors.no_such_node(COORDINATOR)
        answer = self.desk.commit(order)
        if fate == "answer":
            raise errors.connection_lost(COORDINATOR, "it broke")
        return answer

    def log(self):
        return ManifestLog(keys.collection(CID), CollectionState())

    def owner(self):
        return OwnersLog("db", CID, CollectionState(), Standing(term=lambda: self.term))

    def read(self):
        return self.run(self.log().read())

    def commit(self, ttl_s, view=None, **options):
        log = self.owner()
        view = view or self.run(log.read())
        options = {"generation": GENERATION, "committer": "node", **options}
        return self.run(log.commit(view, [SetTtl(ttl_s=ttl_s)], **options))


def order(after, *changes, **options):
    found = {
        "identity": "db", "collection_id": CID, "after_entry": after, "changes": changes,
        "generation": GENERATION, "term": TERM, "request_id": "r" * 32, "committer": "node",
    }  # fmt: skip
    return Commit(**{**found, **options})


def test_an_owner_knows_the_log_as_any_reader_does():
    place = Place()
    mine = place.commit(5.0)
    assert mine == place.read()
    assert mine.state.ttl_s == 5.0
    assert mine.generation == GENERATION


def test_a_request_that_comes_again_finds_its_entry():
    place = Place()
    wish = order(1, SetTtl(ttl_s=5.0))
    first, again = place.desk.commit(wish), place.desk.commit(wish)
    assert isinstance(first, Committed)
    assert first == again
    assert place.read().entry_id == 2


def test_a_request_that_comes_again_after_others_finds_its_entry():
    place = Place()
    wish = order(1, SetTtl(ttl_s=5.0))
    first = place.desk.commit(wish)
    place.commit(6.0)
    assert place.desk.commit(wish) == first
    assert place.read().state.ttl_s == 6.0


def test_a_request_finds_its_entry_at_the_next_coordinator():
    place = Place()
    wish = order(1, SetTtl(ttl_s=5.0))
    first = place.desk.commit(wish)
    place.desk = place.new_desk(GENERATION + 1)
    with pytest.raises(errors.UnavailableError, match="GV-791"):
        place.desk.commit(wish)  # the next one does not know this owner yet
    later = order(1, SetTtl(ttl_s=5.0), generation=GENERATION + 1)
    assert place.desk.commit(later) == first
    assert place.read().entry_id == 2


def test_a_replaced_coordinator_commits_nothing_where_its_successor_did():
    place = Place()
    place.new_desk(GENERATION + 1).commit(
        order(1, SetTtl(ttl_s=5.0), generation=GENERATION + 1, request_id="a" * 32)
    )
    with pytest.raises(errors.UnavailableError, match="GV-523"):
        place.desk.commit(order(2, SetTtl(ttl_s=6.0)))
    assert place.read().entry_id == 2


def test_another_entry_in_its_place_ends_a_request_for_ever():
    place = Place()
    place.desk.commit(order(1, SetTtl(ttl_s=5.0), request_id="a" * 32))
    late = order(1, SetTtl(ttl_s=6.0))
    assert place.desk.commit(late) == Behind(entry_id=2)
    assert place.desk.commit(late) == Behind(entry_id=2)
    assert place.read().state.ttl_s == 5.0


@pytest.mark.parametrize("fates", [["answer"], ["answer", "answer"], ["answer", "request"]])
def test_lost_answers_are_asked_for_again_and_nothing_is_done_twice(fates):
    place = Place()
    place.lose = fates
    mine = place.commit(5.0)
    assert mine == place.read()
    assert mine.entry_id == 2
    assert len({asked.request_id for asked in place.asked}) == 1


def test_when_all_answers_are_lost_the_log_tells():
    place = Place()
    place.lose = ["answer", "request", "request"]
    mine = place.commit(5.0)
    assert mine == place.read()
    assert mine.entry_id == 2


def test_where_even_the_log_cannot_tell_the_outcome_is_unknown():
    place = Place()
    broken = errors.connection_lost(COORDINATOR, "it broke")

    def ask(_):
        raise broken

    place.ask = ask
    with pytest.raises(errors.UnavailableError) as caught:
        place.commit(5.0)
    assert (caught.value.code, caught.value.details["outcome"]) == ("GV-524", "unknown")


def test_without_a_coordinator_nothing_is_done_and_that_is_said_at_once():
    place = Place()
    place.lose = ["request"]
    with pytest.raises(errors.UnavailableError) as caught:
        place.commit(5.0)
    assert (caught.value.code, caught.value.details["outcome"]) == ("GV-790", "none")
    assert len(place.asked) == 1
    assert place.read().entry_id == 1


def test_who_was_overtaken_judges_again_on_what_came_first():
    place = Place()
    old = place.read()
    place.commit(5.0)
    seen = []
    mine = place.commit(6.0, view=old, check=lambda state: seen.append(state.ttl_s))
    assert seen == [None, 5.0]
    assert mine == place.read()
    assert mine.entry_id == 3


def test_an_old_term_commits_nothing():
    place = Place()
    place.term = TERM - 1
    with pytest.raises(errors.UnavailableError) as caught:
        place.commit(5.0)
    assert (caught.value.code, caught.value.details["outcome"]) == ("GV-791", "none")
    assert place.read().entry_id == 1


def test_readers_pin_and_change_nothing_else():
    place = Place()
    pin = Pin(pin_id="p", version=0, since_ms=1, expires_ms=2)
    answer = place.desk.commit(order(1, pin, generation=2, term=0))
    assert isinstance(answer, Committed)
    assert list(place.read().state.pins) == ["p"]
    with pytest.raises(errors.UnavailableError, match="GV-791"):
        place.desk.commit(order(2, pin, SetTtl(ttl_s=1.0), generation=2, term=0))


def test_a_dropped_collection_takes_no_entry():
    place = Place()
    gone = place.new_desk(GENERATION, there=lambda name: False)
    with pytest.raises(errors.NotFoundError, match="GV-608"):
        gone.commit(order(1, SetTtl(ttl_s=5.0)))


def test_orders_that_meet_are_all_done_and_each_once():
    place = Place()
    errors_met = []

    def work(number):
        try:
            place.commit(float(number))
        except Exception as error:
            errors_met.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors_met
    assert place.read().entry_id == 9


# In a cluster


def rows(*ids):
    return {"id": np.array(ids, np.int64), "v": np.ones((len(ids), 4), np.float32)}


def ids_of(items):
    return sorted(items.select("id").to_arrow()["id"].to_pylist())


@pytest.mark.parametrize("channels", [1, 3])
def test_without_a_coordinator_rows_are_written_and_files_wait(roles, db, channels):
    schema = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")
    items = db.create_collection("items", schema, channels=channels)
    items.insert(rows(1, 2))
    node = roles.nodes[owner_of(roles, items).node]
    assert ids_of(items) == [1, 2]  # the client knows the routes
    roles.pause()
    roles.transport.cut.add(COORDINATOR)
    channel = node.channel(items._id)
    with pytest.raises(errors.UnavailableError, match="GV-790"):
        channel.flush(node.generation_of(items._id))
    items.insert(rows(3))
    with pytest.raises(errors.UnavailableError, match="GV-790"):
        channel.change(lambda state, ts: [SetTtl(ttl_s=9.0)], node.generation_of(items._id))
    assert channel.owned, "what is in memory is as good as before"
    items.insert(rows(4))
    assert ids_of(items) == [1, 2, 3, 4]
    roles.transport.cut.clear()
    items.flush()
    assert ids_of(items) == [1, 2, 3, 4]
    assert channel.state.ttl_s is None
    assert sum(s.row_count for s in channel.state.segments.values()) == 4


def test_who_does_not_own_a_collection_has_nothing_committed(roles, db, items):
    items.insert(rows(1))
    owner = owner_of(roles, items)
    other = next(node for name, node in roles.nodes.items() if name != owner.node)
    log = other.log_of(items._id)
    view = other.run(log.read())
    with pytest.raises(errors.UnavailableError, match="GV-791"):
        other.run(log.commit(view, [SetTtl(ttl_s=1.0)], generation=roles.generation, committer="x"))


def test_a_client_pins_what_it_reads(db, items):
    items.insert(rows(1))
    engine = db._engine
    engine.pin(items._id, [Pin(pin_id="p", version=0, since_ms=1, expires_ms=2)])
    assert "p" in engine.state(items._id).pins
