"""What a node claimed counts under the term of the claim, and only as long as its lease."""

import pytest

from gpuvec.clock import ManualClock
from gpuvec.cluster.grants import Grants
from gpuvec.cluster_messages import Disown, Own
from gpuvec.errors import UnavailableError
from gpuvec.types import NodeId


def own(term):
    return Own(identity="db", collection_id="c", generation=1, term=term, lease_s=3.0)


def granted(clock, term=1):
    grants = Grants(NodeId("a"), clock.monotonic_s)
    grants.own(own(term))
    return grants


def test_a_claim_is_permitted_only_under_a_lease():
    clock = ManualClock()
    grants = granted(clock)
    with pytest.raises(UnavailableError) as told:
        grants.permit("c")
    assert told.value.code == "GV-741"
    grants.heard(clock.monotonic_s(), {"c": 1})
    grants.permit("c")
    assert grants.knows_all("c")
    clock.advance(3.0)
    assert not grants.knows_all("c")


def test_what_was_claimed_before_does_not_count_under_a_new_term():
    clock = ManualClock()
    grants = granted(clock)
    grants.heard(clock.monotonic_s(), {"c": 1})
    grants.permit("c")
    clock.advance(20)  # another node owned it meanwhile
    grants.own(own(3))
    grants.heard(clock.monotonic_s(), {"c": 3})
    assert grants.is_sure("c")
    assert not grants.knows_all("c")
    assert grants.is_old_claim("c")
    grants.permit("c")
    assert grants.knows_all("c")
    assert not grants.is_old_claim("c")


def test_a_claim_is_forgotten_with_its_grant():
    clock = ManualClock()
    grants = granted(clock)
    grants.heard(clock.monotonic_s(), {"c": 1})
    grants.permit("c")
    grants.end(Disown(identity="db", collection_id="c", generation=1, term=1))
    assert not grants.knows_all("c")
    grants.own(own(2))
    grants.heard(clock.monotonic_s(), {"c": 2})
    assert not grants.knows_all("c")
    assert not grants.is_old_claim("c"), "nothing is open that was claimed"


def test_an_old_claim_is_not_given_up_without_a_lease_to_claim_anew():
    clock = ManualClock()
    grants = granted(clock)
    grants.heard(clock.monotonic_s(), {"c": 1})
    grants.permit("c")
    clock.advance(3.0)
    grants.own(own(1 << 32))
    assert not grants.is_old_claim("c")
