"""What a node may do by the coordinator's word, and when that word is too old."""

import pytest

from gpuvec import errors
from gpuvec.clock import ManualClock
from gpuvec.cluster.grants import Grants
from gpuvec.cluster_messages import Disown, Own
from gpuvec.types import NodeId

LEASE_S = 3.0


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def grants(clock):
    return Grants(NodeId("a"), clock.monotonic_s)


def own(term, *, generation=1, collection="c-1"):
    return Own(
        identity="db", collection_id=collection, generation=generation, term=term, lease_s=LEASE_S
    )


def disown(term, *, generation=1, collection="c-1"):
    return Disown(identity="db", collection_id=collection, generation=generation, term=term)


def test_without_a_grant_nothing_may_be_written(grants):
    for ask in (grants.generation, grants.permit):
        with pytest.raises(errors.UnavailableError) as caught:
            ask("c-1")
        assert caught.value.code == "GV-741"
        assert caught.value.details["outcome"] == "none"


def test_a_grant_has_no_lease_before_a_report_was_answered(grants, clock):
    assert grants.own(own(1))
    assert grants.generation("c-1") == 1
    assert not grants.is_sure("c-1")
    with pytest.raises(errors.UnavailableError):
        grants.permit("c-1")
    grants.heard(clock.monotonic_s(), {"c-1": 1})
    grants.permit("c-1")


def test_a_lease_runs_from_when_the_report_was_sent(grants, clock):
    grants.own(own(1))
    sent_s = clock.monotonic_s()
    clock.advance(2.0)  # the answer took so long
    grants.heard(sent_s, {"c-1": 1})
    assert grants.is_sure("c-1")
    clock.advance(LEASE_S - 2.0)
    assert not grants.is_sure("c-1")
    assert grants.generation("c-1") == 1  # writing goes on: the log's fence decides


def test_an_answer_that_comes_late_shortens_no_lease(grants, clock):
    grants.own(own(1))
    first_s = clock.monotonic_s()
    clock.advance(1.0)
    grants.heard(clock.monotonic_s(), {"c-1": 1})
    grants.heard(first_s, {"c-1": 1})
    clock.advance(LEASE_S - 0.5)
    assert grants.is_sure("c-1")


def test_only_the_term_that_is_named_is_renewed(grants, clock):
    grants.own(own(2))
    grants.heard(clock.monotonic_s(), {"c-1": 1, "c-2": 2})
    assert not grants.is_sure("c-1")


def test_late_and_doubled_words_change_nothing(grants):
    assert grants.own(own(3))
    assert not grants.own(own(3))
    assert not grants.own(own(2))
    assert not grants.end(disown(2))
    assert grants.terms() == {"c-1": 3}
    assert grants.end(disown(3))
    assert not grants.own(own(3)), "an order that was overtaken by its own end"
    assert grants.terms() == {}
    assert grants.own(own(4))


def test_a_new_term_keeps_the_lease_that_is_out(grants, clock):
    grants.own(own(1))
    grants.heard(clock.monotonic_s(), {"c-1": 1})
    grants.own(own(2, generation=2))
    assert grants.is_sure("c-1")
    assert grants.generation("c-1") == 2


def test_a_coordinator_that_was_replaced_is_not_obeyed(grants):
    grants.own(own(5, generation=2))
    for order, take in ((own(9, collection="c-2"), grants.own), (disown(9), grants.end)):
        with pytest.raises(errors.UnavailableError) as caught:
            take(order)
        assert caught.value.code == "GV-745"
    assert grants.terms() == {"c-1": 5}


def test_a_caller_who_knows_of_a_later_owner_is_refused(grants):
    grants.own(own(5))
    grants.check_term("c-1", 4)
    grants.check_term("c-1", 5)
    with pytest.raises(errors.UnavailableError):
        grants.check_term("c-1", 6)
