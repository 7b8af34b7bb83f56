"""A likely plan saves a round trip, and an answer counts only if the plan turns out to hold."""

from dataclasses import replace

import pytest

from gpuvec.data_messages import PlannedPart, PlanRead, ReadPart, Stale
from gpuvec.errors import UnavailableError
from gpuvec.proxy.reading import SMALL
from gpuvec.proxy.router import MOST_GUESSED
from gpuvec.settings import config
from gpuvec.types import NodeId
from tests.proxy.nodes import COLLECTION, Ask, FakeCluster, covered, everything, plan, segment

A, B = NodeId("a"), NodeId("b")
LATENCY_S = 1.0


def steady(names="ab", **options):
    """Return a cluster whose collection was planned twice alike; calls take a second."""
    cluster = FakeCluster(names, **options)
    for _ in range(2):
        cluster.router.plan(COLLECTION)
    for name in cluster.nodes:
        cluster.network.slow(name, LATENCY_S)
    return cluster


def likely(cluster):
    return cluster.router.likely(COLLECTION)


def parts(cluster):
    return sum(cluster.network.calls_to(name, ReadPart) for name in cluster.nodes)


def plans(cluster):
    return sum(cluster.network.calls_to(name, PlanRead) for name in cluster.nodes)


def test_a_guess_that_holds_is_answered_in_one_round_trip():
    cluster = steady()
    before = cluster.network.now_s()
    found, answers = cluster.router.read(likely(cluster), Ask())
    assert cluster.network.now_s() - before < 1.5 * LATENCY_S
    assert found == cluster.plan
    assert covered(answers) == everything(cluster)
    assert plans(cluster) == 2


@pytest.mark.parametrize("change", [{"version": 101}, {"entry_id": 2}, {"growing_rows": 11}])
def test_a_guess_that_is_wrong_gives_the_plan_that_holds_and_no_answer(change):
    cluster = steady()
    guess = likely(cluster)
    for node in cluster.nodes.values():
        for name, value in change.items():
            setattr(node, name, value)
    found, answers = cluster.router.read(guess, Ask())
    assert answers is None
    assert found == replace(guess, **change)
    assert likely(cluster) is None  # until it stays for a while


def test_other_segments_of_the_same_entry_make_a_guess_wrong():
    cluster = steady()
    guess = likely(cluster)
    short = replace(guess, segments=guess.segments[:-1])
    found, answers = cluster.router.read(short, Ask())
    assert (found, answers) == (guess, None)


def test_a_plan_that_just_changed_is_no_guess():
    cluster = FakeCluster("ab")
    assert likely(cluster) is None
    cluster.router.plan(COLLECTION)
    assert likely(cluster) is None
    cluster.router.plan(COLLECTION)
    assert likely(cluster) == cluster.plan
    cluster.router.note_seen(COLLECTION, 101)  # its own write
    assert likely(cluster) is None


def test_one_node_that_has_all_answers_whatever_the_plan_is():
    cluster = FakeCluster("ab")
    cluster.routes = dict.fromkeys(cluster.routes, (A,))
    cluster.router.plan(COLLECTION)
    for version in (101, 102, 103):
        cluster.nodes[A].version = version
        sent = parts(cluster)
        found, answers = cluster.router.read(likely(cluster), Ask())
        assert found.version == version
        assert covered(answers) == everything(cluster)
        assert parts(cluster) == sent + 1
    assert plans(cluster) == 1


def test_a_guess_goes_to_the_owner_and_anybody_when_it_is_gone():
    cluster = steady(replicas=2, owner=1)
    cluster.router.read(likely(cluster), Ask())
    asked = [m for m in cluster.nodes[B].asked if isinstance(m, ReadPart)]
    assert [m.plan is not None for m in asked] == [True]
    cluster.network.stop(B)
    found, answers = cluster.router.read(likely(cluster), Ask())
    assert found == cluster.plan
    assert covered(answers) == everything(cluster)
    assert {each.node for each in answers} == {A}


def test_what_a_guess_is_asked_with_says_how_new_it_must_be():
    cluster = steady()
    with config.set(consistency="session"):
        cluster.router.read(likely(cluster), Ask())
    planning = [m.plan for m in cluster.nodes[A].asked if isinstance(m, ReadPart)]
    assert [(p.looked, p.seen) for p in planning] == [(False, 100)]


def test_a_plan_older_than_what_was_seen_is_not_believed():
    cluster = steady()
    guess = likely(cluster)
    cluster.router.note_seen(COLLECTION, 105)  # meanwhile
    cluster.nodes[B].version = 105
    found, _ = cluster.router.read(guess, Ask())
    assert found.version == 105
    cluster.router.note_seen(COLLECTION, 107)
    with pytest.raises(UnavailableError):
        cluster.router.read(guess, Ask())


def test_a_node_whose_manifest_is_newer_ends_the_guess_and_an_older_one_is_left():
    cluster = steady(replicas=2)
    guess = likely(cluster)
    cluster.nodes[B].stale = Stale(entry_id=2)
    assert cluster.router.read(guess, Ask(), cost=SMALL + 1) == (cluster.plan, None)
    cluster.nodes[B].stale = Stale(entry_id=0)
    _, answers = cluster.router.read(guess, Ask(), cost=SMALL + 1)
    assert covered(answers) == everything(cluster)
    assert {each.node for each in answers} == {A}


def test_a_node_that_does_not_plan_ends_the_guess():
    cluster = steady()
    guess = likely(cluster)
    answer = cluster.nodes[A].handle

    def handle(message):
        found = answer(message)
        return found.answer if isinstance(found, PlannedPart) else found

    cluster.network.serve(A, handle)
    assert cluster.router.read(guess, Ask()) == (cluster.plan, None)


def test_much_work_is_not_risked_on_a_guess():
    cluster = steady()
    sent = parts(cluster)
    found, answers = cluster.router.read(likely(cluster), Ask(), cost=MOST_GUESSED + 1)
    assert (found, answers) == (cluster.plan, None)
    assert parts(cluster) == sent


def test_one_node_that_has_all_risks_nothing():
    cluster = FakeCluster("ab")
    cluster.routes = dict.fromkeys(cluster.routes, (A,))
    cluster.router.plan(COLLECTION)
    _, answers = cluster.router.read(likely(cluster), Ask(), cost=100 * MOST_GUESSED)
    assert covered(answers) == everything(cluster)


def test_nothing_is_guessed_where_kept_plans_or_answers_do():
    cluster = steady()
    with config.set(consistency="bounded", staleness_s=1e9):
        assert likely(cluster) is None
    with config.set(cluster__result_cache_bytes=1 << 20):
        assert likely(cluster) is None
    assert likely(cluster) is not None


def test_a_collection_without_rows_or_with_rows_that_expire_is_not_guessed():
    cluster = FakeCluster("ab")
    for found in (plan(0, growing_rows=0), replace(plan(2), now_ms=5)):
        cluster.network.serve(A, lambda message, found=found: found)
        for _ in range(3):
            assert cluster.router.plan(COLLECTION) == found
        assert likely(cluster) is None


def test_no_part_is_asked_of_two_nodes_for_a_guess():
    cluster = steady("abc")
    _, answers = cluster.router.read(likely(cluster), Ask())
    named = [unit for each in answers for unit in each.segments]
    assert sorted(named) == [segment(i) for i in range(6)]
    assert sum(each.growing for each in answers) == 1
