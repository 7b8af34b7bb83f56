"""The router: every part of a read is answered once, or the read says what is missing."""

import random

import pytest

from gpuvec.cluster_messages import Ping
from gpuvec.data_messages import PlanRead, ReadPart
from gpuvec.errors import QueryError, SchemaError, StorageError, UnavailableError
from gpuvec.proxy.fleet import FAILURES
from gpuvec.proxy.reading import SMALL
from gpuvec.query.spread import Replan
from gpuvec.settings import config
from gpuvec.types import NodeId
from tests.proxy.nodes import COLLECTION, FakeCluster, covered, everything, plan, segment

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")


def test_each_node_is_asked_once_about_what_it_serves():
    cluster = FakeCluster("abc")
    answered = cluster.ask()
    assert covered(answered) == everything(cluster)
    assert len(answered) == 3
    for each in answered:
        assert all(each.node in cluster.routes[s] for s in each.segments)


def test_growing_rows_are_asked_of_the_owner_with_its_segments():
    cluster = FakeCluster("abc", owner=2)
    answered = cluster.ask()
    assert [each.node for each in answered if each.growing] == [C]
    assert [bool(each.segments) for each in answered if each.growing] == [True]


def test_only_what_was_asked_about_is_answered():
    cluster = FakeCluster("ab")
    assert covered(cluster.ask(segments=[segment(1), segment(2)], growing=False)) == ["s1", "s2"]
    assert covered(cluster.ask(segments=[], growing=True)) == [None]
    sent = len(cluster.network.sent)
    assert cluster.ask(segments=[], growing=False) == []
    assert len(cluster.network.sent) == sent


def test_an_empty_plan_asks_nobody():
    cluster = FakeCluster("ab")
    cluster.plan = plan(0, growing_rows=0)
    assert cluster.ask() == []


def test_segments_without_a_route_go_where_a_hash_says_and_always_there():
    cluster = FakeCluster("abc")
    cluster.routes = {}
    first = cluster.ask(growing=False)
    assert sorted(s for each in first for s in each.segments) == [f"s{i}" for i in range(6)]
    again = FakeCluster("abc", seed=9)
    again.routes = {}
    assert {(e.node, e.segments) for e in again.ask(growing=False)} == {
        (e.node, e.segments) for e in first
    }


def test_steps_of_a_read_go_where_earlier_ones_went():
    cluster = FakeCluster("abc", replicas=3)
    near = {segment(0): C, segment(1): A, None: B}
    answered = cluster.ask(segments=[segment(0), segment(1)], growing=True, near=near)
    assert {(e.node, e.segments, e.growing) for e in answered} == {
        (C, (segment(0),), False),
        (A, (segment(1),), False),
        (B, (), True),
    }


def test_the_cost_is_shared_out_by_rows():
    cluster = FakeCluster("ab")
    cluster.ask(cost=10_000)
    costs = [m.cost for node in cluster.nodes.values() for m in node.asked]
    assert sum(costs) in range(9_990, 10_001)
    assert min(costs) > 4_000


def test_replicas_share_the_work_and_the_slow_one_gets_less():
    cluster = FakeCluster("ab", replicas=2, segments=8, hedge_share=0)
    cluster.network.slow(A, 0.1)
    cluster.network.slow(B, 0.01)
    taken = {A: 0, B: 0}
    for _ in range(30):
        for each in cluster.ask(growing=False):
            taken[each.node] += len(each.segments)
    assert taken[B] > 3 * taken[A] > 0


def test_a_small_question_goes_to_as_few_nodes_as_have_it_all():
    cluster = FakeCluster("abcd", replicas=2, segments=8, hedge_share=0)
    for _ in range(20):
        answered = cluster.ask()
        assert covered(answered) == everything(cluster)
        assert len(answered) <= 3
    assert {len(cluster.ask(cost=SMALL + 1)) for _ in range(20)} == {4}


def test_small_questions_are_shared_out_all_the_same():
    cluster = FakeCluster("ab", replicas=2, segments=8, hedge_share=0)
    for name in "ab":
        cluster.network.slow(NodeId(name), 0.01)
    asked = [node for _ in range(60) for node in {e.node for e in cluster.ask(growing=False)}]
    assert len(asked) == 60
    assert min(asked.count(A), asked.count(B)) > 6


def test_a_node_that_was_slow_once_is_tried_again():
    cluster = FakeCluster("ab", replicas=2, segments=8, hedge_share=0)
    cluster.network.slow(A, 20.0)
    cluster.network.slow(B, 0.01)
    cluster.ask(growing=False, cost=SMALL + 1)
    cluster.network.slow(A, 0.01)
    cluster.ask(growing=False, cost=SMALL + 1)
    before = cluster.network.calls_to(A, ReadPart)
    cluster.network.sleep(120.0)
    cluster.ask(growing=False, cost=SMALL + 1)
    assert cluster.network.calls_to(A, ReadPart) == before + 1


def test_a_dead_node_is_stood_in_for_by_its_replica():
    cluster = FakeCluster("ab", replicas=2)
    cluster.ask()
    cluster.network.stop(A)
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert {each.node for each in answered} == {B}
    assert seconds < 0.1


def test_a_segment_without_another_replica_is_loaded_by_another_node():
    cluster = FakeCluster("abc", replicas=1)
    cluster.ask()
    cluster.network.stop(A)
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert seconds < 0.1


def test_a_connection_that_breaks_is_asked_again_elsewhere():
    cluster = FakeCluster("ab", replicas=2)
    cluster.network.lose_answers(A, 1)
    cluster.network.lose_answers(B, 1)
    assert covered(cluster.ask()) == everything(cluster)


def test_a_node_that_hangs_is_found_out_by_its_silence_and_left():
    cluster = FakeCluster("ab", replicas=1)
    cluster.ask()
    cluster.network.hang(A)
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert seconds < 3.0
    again, seconds = cluster.timed()
    assert {each.node for each in again} == {B}
    assert seconds < 0.1  # it is not tried first any more


def test_a_slow_node_that_lives_is_waited_for():
    cluster = FakeCluster("ab", replicas=1)
    cluster.network.slow(A, 30.0)
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert cluster.network.calls_to(A, ReadPart) == 1
    assert cluster.network.calls_to(A, Ping) > 1
    assert 29.0 < seconds < 31.0


def test_a_node_that_comes_back_is_asked_again():
    cluster = FakeCluster("ab", replicas=1)
    cluster.network.hang(A)
    cluster.ask()
    cluster.network.start(A)
    for _ in range(20):
        cluster.network.sleep(0.5)
        answered = cluster.ask()
    assert {each.node for each in answered} == {A, B}


def test_a_node_that_refuses_again_and_again_is_left_alone_for_a_while():
    cluster = FakeCluster("ab", replicas=1)
    cluster.ask()
    cluster.network.stop(A)
    for _ in range(FAILURES):
        cluster.ask()
    sent = cluster.network.calls_to(A, ReadPart)
    cluster.ask()
    assert cluster.network.calls_to(A, ReadPart) == sent


def test_a_busy_replica_is_passed_over_and_a_busy_only_one_is_waited_for():
    cluster = FakeCluster("ab", replicas=2)
    cluster.nodes[A].busy_s = 0.3
    answered, seconds = cluster.timed(growing=False)
    assert {each.node for each in answered} == {B}
    assert seconds < 0.1
    alone = FakeCluster("ab", replicas=1)
    alone.nodes[A].busy_s = 0.3
    alone.network.at(1.0, lambda: setattr(alone.nodes[A], "busy_s", 0.0))
    answered, seconds = alone.timed()
    assert {each.node for each in answered} == {A, B}
    assert 1.0 <= seconds < 2.0
    assert alone.network.calls_to(A, ReadPart) < 8  # not in a tight loop


def test_parts_that_nobody_answers_for_are_named():
    cluster = FakeCluster("a")
    cluster.ask()
    cluster.network.stop(A)
    before = cluster.network.now_s()
    with pytest.raises(UnavailableError) as raised:
        cluster.ask()
    assert raised.value.code == "GV-767"
    assert raised.value.details["outcome"] == "none"
    assert raised.value.details["retryable"]
    assert set(raised.value.details["missing"]) == {*cluster.routes, "rows of the log"}
    assert 10.0 <= cluster.network.now_s() - before < 12.0


def test_a_read_waits_for_a_node_to_come():
    cluster = FakeCluster("a")
    cluster.network.stop(A)
    cluster.network.at(4.0, lambda: cluster.network.start(A))
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert 4.0 < seconds < 10.0


def test_a_step_ends_at_its_deadline():
    cluster = FakeCluster("a")
    cluster.network.slow(A, 1000.0)
    before = cluster.network.now_s()
    with pytest.raises(UnavailableError) as raised:
        cluster.ask()
    assert raised.value.code == "GV-767"
    assert cluster.network.now_s() - before == pytest.approx(60.0)


def test_an_error_of_the_question_is_raised_at_once():
    cluster = FakeCluster("ab", replicas=2)
    cluster.nodes[A].error = cluster.nodes[B].error = SchemaError("GV-113", "no")
    with pytest.raises(SchemaError):
        cluster.ask()
    assert sum(len(node.asked) for node in cluster.nodes.values()) <= 2


def test_an_error_of_the_store_is_asked_about_elsewhere_once():
    cluster = FakeCluster("ab", replicas=2)
    cluster.nodes[A].error = StorageError("GV-532", "disk")
    assert {each.node for each in cluster.ask(growing=False)} == {B}
    cluster.nodes[B].error = StorageError("GV-532", "disk")
    with pytest.raises(StorageError):
        cluster.ask()


def test_a_newer_manifest_means_to_plan_again_and_an_older_one_to_ask_another():
    cluster = FakeCluster("ab", replicas=2)
    cluster.nodes[A].entry_id = 0
    assert {each.node for each in cluster.ask(growing=False)} == {B}
    cluster.nodes[A].entry_id = cluster.nodes[B].entry_id = 2
    with pytest.raises(Replan):
        cluster.ask()


def test_a_lost_node_is_left_though_its_connection_stands():
    cluster = FakeCluster("ab", replicas=2)
    cluster.ask()
    cluster.network.slow(A, 30.0)
    cluster.network.at(cluster.network.now_s() + 0.5, lambda: cluster.lose("a"))
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert {each.node for each in answered} == {B}
    assert seconds < 2.0


def test_the_plan_is_the_owners_and_anybody_elses_when_it_is_gone():
    cluster = FakeCluster("abc", owner=1)
    assert cluster.router.plan(COLLECTION).version == 100
    assert [node.name for node in cluster.nodes.values() if node.asked] == [B]
    cluster.network.stop(B)
    assert cluster.router.plan(COLLECTION).version == 100


def test_no_plan_is_older_than_what_this_client_saw():
    cluster = FakeCluster("ab", owner=0)
    cluster.nodes[B].version = 120
    cluster.router.note_seen(COLLECTION, 110)
    assert cluster.router.plan(COLLECTION).version == 120  # the owner's was older
    cluster.nodes[A].version = cluster.nodes[B].version = 115
    with pytest.raises(UnavailableError):
        cluster.router.plan(COLLECTION)


def test_a_bounded_read_takes_a_plan_that_is_new_enough():
    cluster = FakeCluster("a")

    def plans():
        return cluster.network.calls_to(A, PlanRead)

    with config.set(consistency="bounded", staleness_s=2.0):
        cluster.router.plan(COLLECTION)
        cluster.network.sleep(1.5)
        cluster.router.plan(COLLECTION)
        assert plans() == 1
        cluster.network.sleep(1.0)
        cluster.router.plan(COLLECTION)
        assert plans() == 2
        cluster.nodes[A].version = 130
        cluster.router.note_seen(COLLECTION, 130)  # its own write
        assert cluster.router.plan(COLLECTION).version == 130
    cluster.router.plan(COLLECTION)
    assert plans() == 4  # strong


@pytest.mark.parametrize(
    ("level", "looked", "seen"),
    [("strong", True, 77), ("bounded", True, 77), ("session", False, 77), ("eventually", False, 0)],
)
def test_levels_say_how_new_a_plan_must_be(level, looked, seen):
    cluster = FakeCluster("a")
    cluster.router.note_seen(COLLECTION, 77)
    with config.set(consistency=level):
        cluster.router.plan(COLLECTION)
    message = cluster.nodes[A].asked[0]
    assert (message.looked, message.seen) == (looked, seen)


def test_an_unknown_level_is_refused():
    with pytest.raises(QueryError):
        config.set(consistency="weak")


def test_routes_serve_on_without_a_coordinator():
    cluster = FakeCluster("ab", replicas=2)
    cluster.ask()
    cluster.network.stop(NodeId("coordinator"))
    cluster.network.stop(A)
    for _ in range(5):
        answered, seconds = cluster.timed()
        assert covered(answered) == everything(cluster)
        assert seconds < 0.1


def test_a_router_that_knows_no_routes_waits_for_the_coordinator():
    cluster = FakeCluster("ab")
    coordinator = NodeId("coordinator")
    cluster.network.stop(coordinator)
    cluster.network.at(3.0, lambda: cluster.network.start(coordinator))
    answered, seconds = cluster.timed()
    assert covered(answered) == everything(cluster)
    assert 3.0 <= seconds < 5.0


def test_a_missing_change_of_routes_makes_the_router_fetch_them():
    cluster = FakeCluster("ab")
    cluster.ask()
    cluster.epoch = 5
    cluster.routes = {s: (B,) for s in cluster.routes}
    ahead = cluster.whole()
    cluster.router.apply(
        type(ahead)(identity=ahead.identity, generation=1, epoch=5, segments={}, owners={})
    )
    assert cluster.router.directory.table.behind
    cluster.network.sleep(1.0)
    cluster.ask()
    cluster.network.sleep(1.0)
    assert not cluster.router.directory.table.behind
    assert {each.node for each in cluster.ask(growing=False)} == {B}


@pytest.mark.parametrize("seed", range(20))
def test_whatever_nodes_do_a_read_is_whole_or_says_what_is_missing(seed):
    rng = random.Random(seed)
    names = "abcde"[: rng.randint(2, 5)]
    cluster = FakeCluster(
        names, segments=rng.randint(1, 12), replicas=rng.randint(1, 2), seed=seed, owner=0
    )
    network = cluster.network

    def happens():
        node = NodeId(rng.choice(names))
        rng.choice(
            [
                lambda: network.stop(node),
                lambda: network.hang(node),
                lambda: network.start(node),
                lambda: network.start(node),
                lambda: network.slow(node, rng.choice([0.001, 0.05, 3.0]), jitter=0.5),
                lambda: network.lose_answers(node, rng.randint(1, 3)),
                lambda: setattr(cluster.nodes[node], "busy_s", rng.choice([0.0, 0.2])),
            ]
        )()

    for _ in range(40):
        network.at(rng.uniform(0, 60), happens)
    whole, missing = 0, []
    for _ in range(25):
        before = network.now_s()
        try:
            assert covered(cluster.ask()) == everything(cluster)
            whole += 1
        except UnavailableError as error:
            missing.append(error.details["missing"])
        assert network.now_s() - before <= 60.0 + 1e-6
        network.sleep(rng.uniform(0, 2))
    assert whole >= 1
    assert all(missing)
    network.sleep(120.0)
    assert not any(each.in_flight for each in cluster.router.figures())
