"""One node at a time writes to a collection, under leases, whatever happens to processes."""

from dataclasses import replace

from gpuvec.cluster_messages import Disown, Own
from gpuvec.errors import StorageError
from gpuvec.messages import ChannelStatus
from tests.coord.yard import MB, Yard


def owning(**options):
    """A yard of three nodes, of which one owns `c`, with a lease."""
    yard = Yard(**options)
    yard.add("a", "b", "c")
    yard.coord.want_owner("c", yard.now_s)
    yard.settle(2)
    assert yard.owner() in yard.workers
    return yard


def test_whoever_asks_gets_an_owner_once_the_node_agreed():
    yard = Yard()
    yard.add("a")
    yard.coord.want_owner("c", yard.now_s)
    (command,) = yard.coord.reconcile(yard.now_s)
    assert isinstance(command.message, Own)
    assert yard.coord.owner("c") is None
    yard.coord.note_done(command)
    owner = yard.coord.owner("c")
    assert (owner.node, owner.address, owner.term) == ("a", "tcp://1", command.message.term)


def test_a_report_is_as_good_as_an_answer_that_was_lost():
    yard = Yard()
    yard.add("a")
    yard.coord.want_owner("c", yard.now_s)
    (command,) = yard.coord.reconcile(yard.now_s)
    yard.workers["a"].obey(command.message)
    yard.report()
    assert yard.owner() == "a"


def test_collections_are_spread_over_nodes():
    yard = Yard()
    yard.add("a", "b", "c")
    for n in range(9):
        yard.coord.want_owner(f"c{n}", yard.now_s)
    yard.settle(2)
    assert {len(worker.owned) for worker in yard.workers.values()} == {3}


def test_among_equals_the_node_that_holds_the_segments_owns():
    yard = Yard()
    yard.add("a", "b", "z")
    yard.put(count=1)
    yard.settle(2)
    (holder,) = yard.holders("c-00000")
    yard.coord.want_owner("c", yard.now_s)
    yard.settle(2)
    assert yard.owner() == holder


def test_a_new_owner_waits_until_the_lease_of_a_lost_one_has_run_out():
    yard = owning()
    gone = yard.kill(yard.owner())
    lease_s = gone.leases["c"]
    while yard.now_s < lease_s:
        yard.step()
        assert yard.owner() is None
        assert not any("c" in worker.owned for worker in yard.workers.values())
    yard.settle(1)
    assert yard.owner() in yard.workers


def test_the_same_node_started_anew_waits_for_its_own_lease():
    yard = owning()
    gone = yard.kill(yard.owner())
    yard.add(gone.name)
    yard.step()
    assert yard.owner() is None
    yard.settle(4)
    assert yard.owner() is not None


def test_without_a_lease_there_is_nothing_to_wait_for():
    yard = Yard()
    yard.add("a", "b")
    yard.coord.want_owner("c", yard.now_s)
    (command,) = yard.coord.reconcile(yard.now_s)
    yard.coord.note_done(command)  # the node has not reported it, so it has no lease
    yard.kill(command.node)
    yard.step()
    yard.step()
    assert yard.owner() is not None


def test_a_hung_node_is_replaced_after_it_was_silent():
    yard = owning()
    hung = yard.workers.pop(yard.owner())
    yard.settle(5)
    assert yard.owner() == hung.name, "it may only be late"
    yard.settle(5)
    new = yard.owner()
    assert new in yard.workers
    yard.workers[hung.name] = hung  # it wakes up, and thinks that it owns
    yard.settle(2)
    assert yard.owner() == new
    assert "c" not in hung.owned


def test_silence_does_not_count_when_the_coordinator_itself_stood_still():
    yard = owning()
    before = yard.owner()
    yard.now_s += 60
    yard.coord.reconcile(yard.now_s)
    yard.settle(2)
    assert yard.owner() == before


def test_terms_rise_with_each_owner_and_each_coordinator():
    yard = owning()
    terms = [yard.coord.owner("c").term]
    yard.kill(yard.owner())
    yard.settle(5)
    terms.append(yard.coord.owner("c").term)
    yard.restart()
    yard.settle(2)
    terms.append(yard.coord.owner("c").term)
    assert terms == sorted(set(terms))


def test_a_leaving_owner_hands_over_without_waiting_for_its_lease():
    yard = owning()
    first = yard.owner()
    yard.drain(first)
    assert not yard.coord.drained(first)
    yard.step()
    yard.step()
    yard.step()
    assert yard.owner() not in (None, first)
    assert yard.coord.drained(first)
    assert "c" not in yard.workers[first].owned


def test_an_owner_that_does_not_let_go_is_waited_for_but_not_for_ever():
    yard = owning()
    first = yard.owner()
    stuck = yard.workers[first]
    stuck.obey = lambda message: None
    yard.coord.note_done = lambda command: None if command.node == first else done(command)
    done = type(yard.coord).note_done.__get__(yard.coord)
    yard.drain(first)
    yard.settle(20)
    assert yard.owner() is None
    yard.settle(20)
    assert yard.owner() not in (None, first)


def test_a_next_coordinator_leaves_collections_with_their_owners():
    yard = owning()
    before = yard.coord.owner("c")
    yard.options["quarantine_s"] = 3.0
    yard.restart()
    lease_s = dict(yard.workers[before.node].leases)
    yard.report()
    yard.step()
    assert yard.owner() == before.node, "at once, so that writing goes on"
    assert yard.coord.owner("c").term > before.term
    yard.step()
    assert yard.workers[before.node].leases == lease_s, "but leases of another may still be out"
    yard.settle(5)
    assert yard.workers[before.node].leases["c"] > yard.now_s


def test_a_next_coordinator_names_nobody_new_while_old_leases_are_out():
    yard = owning()
    yard.options["quarantine_s"] = 3.0
    old = yard.workers.pop(yard.owner())  # behind a partition
    yard.restart()
    yard.coord.want_owner("c", yard.now_s)
    yard.settle(2.5)
    assert yard.owner() is None
    yard.settle(2)
    new = yard.owner()
    assert new in yard.workers
    yard.workers[old.name] = old
    yard.settle(2)
    assert yard.owner() == new
    assert "c" not in old.owned


def test_a_collection_made_by_this_coordinator_waits_for_nothing():
    yard = Yard(quarantine_s=3.0)
    yard.add("a")
    yard.coord.note_created("c")
    yard.coord.want_owner("c", yard.now_s)
    yard.step()
    assert yard.owner() == "a"
    yard.step()
    assert yard.workers["a"].leases["c"] > yard.now_s


def test_a_coordinator_whose_rule_is_not_confirmed_renews_nothing():
    yard = owning(confirm_s=3.0)
    worker = yard.workers[yard.owner()]
    yard.coord.note_ruling(yard.now_s)
    yard.settle(3)
    lease_s = worker.leases["c"]
    yard.settle(10)
    assert worker.leases["c"] <= lease_s + 0.5
    yard.coord.note_ruling(yard.now_s)
    yard.settle(1)
    assert worker.leases["c"] > yard.now_s


def test_a_dropped_collection_is_disowned():
    yard = owning()
    owner = yard.owner()
    yard.coord.note_dropped("c", yard.now_s)
    yard.step()
    assert isinstance(yard.sent[-1].message, Disown)
    assert "c" not in yard.workers[owner].owned
    yard.settle(2)
    assert yard.owner() is None


def test_a_doubled_answer_to_an_old_hand_over_does_no_harm():
    yard = owning()
    first = yard.owner()
    term = yard.coord.owner("c").term
    yard.drain(first)
    yard.settle(3)
    after = yard.coord.owner("c")
    yard.coord.note_disowned("c", first, term)
    assert yard.coord.owner("c") == after


def test_a_node_that_refuses_is_not_asked_again_at_once():
    yard = Yard()
    yard.add("a", "b")
    yard.coord.want_owner("c", yard.now_s)
    (command,) = yard.coord.reconcile(yard.now_s)
    yard.coord.note_failed(command, StorageError("GV-500", "disk is gone"), yard.now_s)
    yard.settle(3)
    assert yard.owner() not in (None, command.node)


def test_owners_spread_to_a_node_that_joins_and_then_stay():
    yard = Yard()
    yard.add("a")
    for n in range(6):
        yard.coord.want_owner(f"c{n}", yard.now_s)
    yard.settle(2)
    yard.add("b")
    yard.settle(50)
    assert len(yard.workers["b"].owned) == 0, "not before it is settled"
    yard.settle(60)
    assert len(yard.workers["a"].owned) == len(yard.workers["b"].owned) == 3
    yard.sent.clear()
    yard.settle(180)
    assert yard.sent == []


def test_collections_with_much_in_memory_count_for_more():
    yard = Yard()
    yard.add("a", "b")
    yard.coord.want_owner("big", yard.now_s)
    yard.settle(1)
    status = ChannelStatus(collection_id="big", growing_bytes=200 * MB)
    owner = yard.owner("big")
    report = yard.workers[owner].report()
    yard.coord.note_report(replace(report, statuses={"db": (status,)}), yard.now_s)
    for n in range(6):
        yard.coord.want_owner(f"c{n}", yard.now_s)
    yard.settle(1)
    assert len(yard.workers[owner].owned) == 2


def test_an_owner_that_owns_no_more_is_replaced():
    yard = owning()
    first = yard.coord.owner("c")
    yard.workers[first.node].owned.clear()  # it met another owner in the log
    yard.settle(1)
    assert yard.coord.owner("c") == first, "the report may be older than the grant"
    yard.settle(5)
    second = yard.coord.owner("c")
    assert second.term > first.term
    assert yard.workers[second.node].owned == {"c": second.term}
