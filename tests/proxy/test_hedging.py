"""Late calls are made twice: soon enough to help, and not so often as to harm."""

import pytest

from gpuvec.data_messages import ReadPart
from gpuvec.proxy.hedging import LEAST_SEEN, Hedging
from gpuvec.types import NodeId
from tests.proxy.nodes import FakeCluster, covered, segment

A, B = NodeId("a"), NodeId("b")


def learned(**options):
    """Return a cluster of two replicas whose router knows how long calls take."""
    cluster = FakeCluster("ab", segments=1, replicas=2, **options)
    for node in (A, B):
        cluster.network.slow(node, 0.02, jitter=0.1)
    for _ in range(3 * LEAST_SEEN):
        cluster.ask(growing=False)
    return cluster


def test_a_late_call_is_made_again_at_a_replica_and_the_first_answer_counts():
    cluster = learned()
    cluster.network.hang(A)
    cluster.network.at(cluster.network.now_s() + 5.0, lambda: cluster.network.start(A))
    answered, seconds = cluster.timed(growing=False, near={segment(0): A})
    assert covered(answered) == [segment(0)]
    assert [each.node for each in answered] == [B]
    assert seconds < 0.1
    cluster.network.sleep(10.0)  # the other answer comes, and does no harm
    assert covered(cluster.ask(growing=False)) == [segment(0)]


def test_without_a_share_no_call_is_made_twice():
    cluster = learned(hedge_share=0.0)
    before = len(cluster.network.sent)
    for node in (A, B):
        cluster.network.slow(node, 0.5)
    cluster.ask(growing=False)
    assert len(cluster.network.sent) == before + 1


def test_rows_of_the_log_are_never_asked_for_twice():
    cluster = learned()
    for node in (A, B):
        cluster.network.slow(node, 0.5)
    before = len(cluster.network.sent)
    cluster.ask(segments=[], growing=True)
    assert len(cluster.network.sent) == before + 1


@pytest.mark.parametrize("seed", range(3))
def test_no_more_than_the_share_and_a_burst_is_doubled(seed):
    cluster = learned(seed=seed, hedge_share=0.05)
    for node in (A, B):
        cluster.network.slow(node, 0.02, jitter=0.9)  # a fifth of all calls would be late
    before = sum(cluster.network.calls_to(node, ReadPart) for node in (A, B))
    for _ in range(1000):
        cluster.ask(growing=False)
    sent = sum(cluster.network.calls_to(node, ReadPart) for node in (A, B)) - before
    assert 1005 < sent <= 1000 + 50 + 4


def test_a_kind_of_call_is_hedged_only_after_enough_were_seen():
    hedging = Hedging(share=0.05)
    for _ in range(LEAST_SEEN - 1):
        hedging.observe("kind", 0.1)
    assert hedging.delay_s("kind") is None
    hedging.observe("kind", 0.1)
    assert hedging.delay_s("kind") == pytest.approx(0.1)
    assert hedging.delay_s("other") is None
