"""Each segment is on as many nodes as it wants, within their memory, whatever happens to nodes."""

import pytest

from gpuvec.cluster_messages import LoadSegments, ReleaseSegments
from tests.coord.yard import DB, MB, Yard


def spread(yard):
    return {name: sum(map(len, worker.held.values())) for name, worker in yard.workers.items()}


def test_every_segment_gets_its_replicas_on_different_nodes():
    yard = Yard(replicas=2)
    yard.add("a", "b", "c")
    yard.put(count=30)
    yard.settle()
    assert set(yard.copies().values()) == {2}
    assert spread(yard) == {"a": 20, "b": 20, "c": 20}


def test_replicas_stand_on_different_hosts_where_there_are_several():
    yard = Yard(replicas=2)
    yard.add("a1", "a2", host="one")
    yard.add("b1", "b2", host="two")
    yard.put(count=20)
    yard.settle()
    for name in yard.segments["c"]:
        hosts = {yard.workers[node].host for node in yard.holders(name)}
        assert hosts == {"one", "two"}


def test_on_one_host_replicas_still_stand_on_different_nodes():
    yard = Yard(replicas=2)
    yard.add("a", "b", "c", host="one")
    yard.put(count=9)
    yard.settle()
    assert set(yard.copies().values()) == {2}


def test_no_more_copies_than_nodes():
    yard = Yard(replicas=3)
    yard.add("a", "b")
    yard.put(count=5)
    yard.settle()
    assert set(yard.copies().values()) == {2}
    yard.add("c")
    yard.settle()
    assert set(yard.copies().values()) == {3}


def test_a_lost_node_is_made_good_by_the_others():
    yard = Yard(replicas=1)
    yard.add("a", "b", "c")
    yard.put(count=30)
    yard.settle()
    gone = yard.kill("a")
    yard.coord.note_lost(gone.name, gone.incarnation, yard.now_s)  # reported twice
    yard.step()
    yard.report()
    assert set(yard.copies().values()) == {1}, "at once: there is no other copy"
    assert spread(yard) == {"b": 15, "c": 15}


def test_a_lost_node_leaves_the_routes_at_once():
    yard = Yard(replicas=2)
    yard.add("a", "b")
    yard.put(count=4)
    yard.settle()
    yard.coord.take_delta()
    yard.kill("a")
    delta = yard.coord.take_delta()
    assert delta.lost == ("a",)
    assert set(delta.segments["c"].values()) == {("b",)}


def test_a_further_copy_waits_for_the_node_to_come_back():
    yard = Yard(replicas=2, damping_s=15.0)
    yard.add("a", "b", "c")
    yard.put(count=30)
    yard.settle()
    before = yard.kill("a").held["c"]
    yard.settle(5)
    assert set(yard.copies().values()) == {1, 2}
    yard.add("a")
    yard.step()
    assert yard.workers["a"].held["c"] == before, "it gets what it had"


def test_a_further_copy_is_made_when_the_node_stays_away():
    yard = Yard(replicas=2, damping_s=15.0)
    yard.add("a", "b", "c")
    yard.put(count=30)
    yard.settle()
    yard.kill("a")
    yard.settle(14)
    assert set(yard.copies().values()) == {1, 2}
    yard.settle(3)
    assert set(yard.copies().values()) == {2}


def test_a_lost_report_of_an_older_incarnation_does_no_harm():
    yard = Yard()
    yard.add("a")
    yard.put(count=4)
    yard.settle()
    old = yard.kill("a", noticed=False)
    yard.add("a")
    yard.settle()
    yard.coord.note_lost(old.name, old.incarnation, yard.now_s)
    assert set(yard.coord.whole_routes().segments["c"].values()) == {("a",)}
    assert not yard.coord.note_report(old.report(), yard.now_s).known


def test_only_what_a_node_reports_is_routed_to_it():
    yard = Yard()
    yard.add("a")
    yard.put(count=2)
    (command,) = yard.coord.reconcile(yard.now_s)
    assert isinstance(command.message, LoadSegments)
    assert yard.coord.whole_routes().segments == {"c": {}}
    yard.workers["a"].obey(command.message)
    yard.report()
    assert set(yard.coord.whole_routes().segments["c"].values()) == {("a",)}


def test_what_was_asked_for_is_not_asked_for_again_at_once():
    yard = Yard()
    yard.add("a")
    yard.put(count=2)
    assert len(yard.coord.reconcile(yard.now_s)) == 1
    for _ in range(20):
        yard.now_s += 0.5
        yard.report()
        assert yard.coord.reconcile(yard.now_s) == []


def test_a_load_that_never_comes_goes_to_another_node():
    yard = Yard()
    yard.add("a", "b")
    yard.workers["a"].refused = yard.workers["b"].refused = {"c-00000"}
    yard.put(count=1)
    yard.settle(20)
    first = {c.node for c in yard.sent}
    assert len(first) == 1
    (other,) = {"a", "b"} - first
    yard.workers[other].refused = set()
    yard.settle(40)
    assert yard.holders("c-00000") == {other}


def test_a_command_that_did_not_arrive_is_sent_again():
    yard = Yard()
    yard.add("a")
    yard.put(count=1)
    (command,) = yard.coord.reconcile(yard.now_s)
    yard.coord.note_failed(command, ConnectionError("broken"), yard.now_s)
    assert yard.coord.reconcile(yard.now_s) == [command]


def test_memory_is_never_promised_twice():
    yard = Yard(replicas=1)
    yard.add("a", "b", memory_bytes=10 * MB)
    yard.put(count=30)
    yard.settle()
    assert max(yard.used("a"), yard.used("b")) <= 10 * MB
    assert len(yard.coord.state()["unplaced"]) == 12, "18 of 1 MB and a little fit"
    yard.add("c", memory_bytes=20 * MB)
    yard.settle()
    assert set(yard.copies().values()) == {1}
    assert yard.coord.state()["unplaced"] == []


def test_each_segment_gets_one_copy_before_any_gets_two():
    yard = Yard(replicas=2)
    yard.add("a", "b", memory_bytes=25 * MB)
    yard.put(count=30)
    yard.settle()
    assert set(yard.copies().values()) == {1}
    yard.add("c", memory_bytes=50 * MB)
    yard.settle()
    assert set(yard.copies().values()) == {2}


def test_a_node_that_joins_gets_its_share_few_segments_at_a_time():
    yard = Yard()
    yard.add("a", "b")
    yard.put(count=60, size=10 * MB)
    yard.settle()
    yard.add("c")
    moved, last = [], 0
    for _ in range(240):
        yard.step()
        assert min(yard.copies().values()) >= 1, "an old copy goes only when the new one is there"
        moved.append(len(yard.workers["c"].held["c"]) - last)
        last += moved[-1]
    assert max(moved) <= 2
    assert min(spread(yard).values()) >= 16
    yard.sent.clear()
    yard.settle(120)
    assert yard.sent == [], "and then it is quiet"


@pytest.mark.parametrize(("count", "left"), [(1, [0, 1]), (2, [1, 1]), (8, [4, 4]), (9, [4, 5])])
def test_what_one_node_holds_is_spread_so_that_all_can_search(count, left):
    yard = Yard()
    yard.add("a", "b", memory_bytes=64 << 30)
    yard.put(count=count, size=100)
    yard.workers["a"].held["c"] = set(yard.segments["c"])  # it wrote them
    yard.settle(60)
    assert sorted(spread(yard).values()) == left
    yard.sent.clear()
    yard.settle(120)
    assert yard.sent == [], "and then it is quiet"


def test_what_a_node_holds_already_is_not_loaded_elsewhere():
    yard = Yard()
    yard.add("a", "b", "c")
    yard.put(count=30)
    yard.settle()
    before = spread(yard)
    yard.restart()
    yard.put(count=30)
    yard.report()
    yard.settle()
    assert yard.sent == []
    assert spread(yard) == before


def test_a_draining_node_ends_empty_without_a_moment_without_a_copy():
    yard = Yard()
    yard.add("a", "b", "c")
    yard.put(count=30)
    yard.settle()
    yard.drain("a")
    assert not yard.coord.drained("a")
    for _ in range(10):
        yard.step()
        routes = yard.coord.whole_routes().segments["c"]
        assert len(routes) == 30
    assert yard.coord.drained("a")
    assert spread(yard) == {"a": 0, "b": 15, "c": 15}


def test_a_draining_node_goes_on_serving_what_fits_nowhere_else():
    yard = Yard()
    yard.add("a", "b", memory_bytes=16 * MB)
    yard.put(count=20)
    yard.settle()
    yard.drain("a")
    yard.settle(30)
    assert len(yard.coord.whole_routes().segments["c"]) == 20
    assert yard.coord.drained("a"), "nothing more can be done"


def test_segments_that_are_gone_are_let_go_and_leave_the_routes():
    yard = Yard()
    yard.add("a")
    yard.put(count=4)
    yard.settle()
    yard.coord.take_delta()
    yard.put(count=1)
    yard.step()
    delta = yard.coord.take_delta()
    assert [nodes for nodes in delta.segments["c"].values() if not nodes] == [(), (), ()]
    yard.settle()
    assert yard.copies() == {"c-00000": 1}


def test_segments_that_no_manifest_names_as_yet_are_kept_for_a_while():
    yard = Yard()
    yard.add("a")
    yard.workers["a"].held["c"].add("c-00000")
    yard.settle(20)
    assert yard.sent == []
    yard.put(count=1)
    yard.settle(20)
    assert yard.sent == [], "the flush was seen later than the segment"
    yard.workers["a"].held["c"].add("c-00009")
    yard.settle(40)
    assert [type(c.message) for c in yard.sent] == [ReleaseSegments]


def test_segments_stay_within_their_resource_groups():
    yard = Yard(replicas=2)
    yard.add("a", "b", group="gold")
    yard.add("c", "d")
    yard.put(count=10)
    yard.coord.note_collection("c", yard.segments["c"], yard.now_s, groups=("gold",))
    yard.settle()
    assert spread(yard) == {"a": 10, "b": 10, "c": 0, "d": 0}


def test_a_busy_node_gives_segments_away():
    yard = Yard()
    yard.add("a", "b")
    yard.put(count=40, size=20 * MB)
    yard.settle()
    yard.workers["a"].queue = 30
    yard.settle(120)
    assert spread(yard)["a"] < spread(yard)["b"]


def test_a_segment_that_grew_beyond_its_node_moves():
    yard = Yard()
    yard.add("a", "b", memory_bytes=40 * MB)
    yard.put(count=6, size=6 * MB)
    yard.settle()
    big = next(iter(yard.workers["a"].held["c"]))
    sizes = dict(yard.segments["c"])
    sizes[big] = type(sizes[big])(30 * MB)
    yard.segments["c"] = sizes
    yard.coord.note_collection("c", sizes, yard.now_s)
    yard.settle(60)
    assert max(yard.used("a"), yard.used("b")) <= 40 * MB


def test_databases_share_the_memory_of_nodes():
    one = Yard()
    from gpuvec.coord.cluster_coord import ClusterCoord, Ledger

    ledger = Ledger()
    first = ClusterCoord("one", 1, now_s=0.0, ledger=ledger)
    second = ClusterCoord("two", 1, now_s=0.0, ledger=ledger)
    one.add("a", memory_bytes=10 * MB)
    hello = one.workers["a"].hello()
    for coord in (first, second):
        coord.note_hello(hello, 0.0)
    one.put(count=6)
    first.note_collection("c", one.segments["c"], 0.0)
    second.note_collection("d", {f"d{n}": s for n, s in enumerate(one.segments["c"].values())}, 0.0)
    sent = [*first.reconcile(0.0), *second.reconcile(0.0)]
    assert sum(len(command.message.segments) for command in sent) == 9
    first.close()
    sent += second.reconcile(10.0)
    assert {len(c.message.segments) for c in sent if c.message.identity == "two"} == {3}


@pytest.mark.parametrize("count", [1, 7])
def test_deltas_tell_only_what_changed(count):
    yard = Yard()
    yard.add("a", "b")
    yard.put(count=50)
    yard.settle()
    first = yard.coord.take_delta()
    assert len(first.segments["c"]) == 50
    assert yard.coord.take_delta() is None
    yard.put("d", count=count)
    yard.settle()
    delta = yard.coord.take_delta()
    assert delta.epoch == first.epoch + 1
    assert {name: len(found) for name, found in delta.segments.items()} == {"d": count}
    assert yard.coord.whole_routes().epoch == delta.epoch
    assert delta.identity == DB
