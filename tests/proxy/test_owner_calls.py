"""Calls to owners: a write is answered by whoever owns the collection in the end."""

import random
from dataclasses import dataclass, field

import pytest

from gpuvec import errors
from gpuvec.cluster_messages import COORDINATOR, Called, CallOwner, FindOwner, Owner
from gpuvec.data_messages import Write
from gpuvec.errors import SchemaError, UnavailableError
from gpuvec.messages import DeleteRows, WriteReply, WriteRequest
from gpuvec.proxy.directory import Limits
from gpuvec.proxy.owner_calls import OwnerCalls
from gpuvec.proxy.router import Router
from gpuvec.testing.network import Network
from gpuvec.types import NodeId, RequestId

A, B, C = NodeId("a"), NodeId("b"), NodeId("c")
REQUEST = WriteRequest(
    collection_id="c", request_id=RequestId("r1"), operation="delete", change=DeleteRows()
)
CALL = CallOwner(identity="db", collection_id="c", method="compact")


@dataclass
class Log:
    """What is durable: each request once, whoever logged it."""

    done: dict = field(default_factory=dict)
    calls: int = 0

    def write(self, request):
        again = WriteReply(version=100 + len(self.done))
        return self.done.setdefault(request.request_id, again)


class Owners:
    """Nodes that may own the collection, one log, and a coordinator that says who does."""

    def __init__(self, *, seed=0):
        self.network = Network(seed=seed)
        self.log = Log()
        self.owner, self.term = A, 1
        self.error = None
        for node in (A, B, C):
            self.network.serve(node, lambda message, node=node: self._handle(node, message))
        self.network.serve(COORDINATOR, self._coordinate)
        limits = Limits(search_deadline_s=60.0, wait_s=10.0, ping_s=1.0)
        self.router = Router("db", self.network, limits=lambda: limits, seed=seed)
        self.calls = OwnerCalls(self.router)

    def move(self, node):
        self.owner, self.term = node, self.term + 1

    def _coordinate(self, message):
        assert isinstance(message, FindOwner)
        return Owner(collection_id="c", node=self.owner, address="x", term=self.term, generation=1)

    def _handle(self, node, message):
        if node != self.owner or (isinstance(message, Write) and message.term != self.term):
            raise errors.not_owner("c", node)
        if self.error is not None:
            raise self.error
        if isinstance(message, Write):
            return self.log.write(message.request)
        self.log.calls += 1
        return Called(value=self.log.calls)

    def finds(self):
        return self.network.calls_to(COORDINATOR, FindOwner)


def test_the_owner_is_asked_for_once_and_then_known():
    owners = Owners()
    assert owners.calls.write(REQUEST).version == 100
    owners.calls.write(REQUEST)
    assert owners.finds() == 1


def test_a_write_is_seen_by_the_reads_that_follow():
    owners = Owners()
    owners.calls.write(REQUEST)
    assert owners.router.seen.of("c") == 100
    owners.calls.write(REQUEST)
    assert owners.network.sent[-1][2].seen == 100


def test_a_new_owner_is_found_when_the_old_one_refuses():
    owners = Owners()
    owners.calls.write(REQUEST)
    owners.move(B)
    before = owners.network.now_s()
    owners.calls.write(REQUEST)
    assert owners.network.calls_to(B, Write) == 1
    assert owners.network.now_s() - before < 0.1


def test_an_owner_that_does_not_know_it_yet_is_asked_again():
    owners = Owners()
    owners.owner = B  # as nodes know it
    owners._coordinate_was = owners._coordinate
    owners.network.serve(
        COORDINATOR,
        lambda message: Owner(collection_id="c", node=A, address="x", term=1, generation=1),
    )
    owners.network.at(2.0, lambda: setattr(owners, "owner", A))
    assert owners.calls.write(REQUEST).version == 100
    assert 2.0 <= owners.network.now_s() < 4.0


def test_a_lost_answer_is_given_again_by_the_next_attempt():
    owners = Owners()
    owners.network.lose_answers(A, 1)
    assert owners.calls.write(REQUEST).version == 100
    assert len(owners.log.done) == 1
    requests = [m.request for _, to, m in owners.network.sent if to == A and isinstance(m, Write)]
    assert requests == [REQUEST, REQUEST]


def test_an_owner_that_hangs_is_left_for_the_next_one():
    owners = Owners()
    owners.network.hang(A)
    owners.network.at(4.0, lambda: owners.move(B))
    assert owners.calls.write(REQUEST).version == 100
    assert 4.0 <= owners.network.now_s() < 6.0
    assert owners.network.calls_to(A, Write) == 1


def test_an_owner_that_hung_answers_late_and_that_counts():
    owners = Owners()
    owners.network.hang(A)
    owners.network.at(5.0, lambda: owners.network.start(A))
    assert owners.calls.write(REQUEST).version == 100
    assert owners.network.now_s() < 5.1
    assert owners.network.calls_to(A, Write) == 1


def test_a_slow_write_is_waited_for():
    owners = Owners()
    owners.network.slow(A, 200.0)
    owners.calls.write(REQUEST)
    assert owners.network.calls_to(A, Write) == 1
    with pytest.raises(UnavailableError) as raised:
        owners.calls.write(REQUEST, deadline_s=50.0)
    assert raised.value.details["outcome"] == "unknown"


def test_nobody_there_means_nothing_was_written():
    owners = Owners()
    owners.network.stop(A)
    with pytest.raises(UnavailableError) as raised:
        owners.calls.write(REQUEST)
    assert raised.value.code == "GV-766"
    assert raised.value.details["outcome"] == "none"
    assert raised.value.details["retryable"]
    assert raised.value.details["request_id"] == "r1"
    assert 10.0 <= owners.network.now_s() < 13.0


def test_an_attempt_that_may_have_arrived_makes_the_outcome_unknown():
    owners = Owners()
    owners.network.lose_answers(A, 1)
    owners.network.at(0.005, lambda: owners.network.stop(A))
    with pytest.raises(UnavailableError) as raised:
        owners.calls.write(REQUEST)
    assert raised.value.details["outcome"] == "unknown"
    assert len(owners.log.done) == 1


def test_without_a_coordinator_the_last_owner_is_asked():
    owners = Owners()
    owners.calls.write(REQUEST)
    owners.network.stop(COORDINATOR)
    owners.network.lose_answers(A, 1)
    assert owners.calls.write(REQUEST).version == 100


def test_without_a_coordinator_an_owner_that_is_none_is_not_asked_again_and_again():
    owners = Owners()
    owners.calls.write(REQUEST)
    owners.network.stop(COORDINATOR)
    owners.move(B)
    with pytest.raises(UnavailableError) as raised:
        owners.calls.write(REQUEST)
    assert raised.value.details["outcome"] == "none"
    assert owners.network.calls_to(A, Write) == 2


def test_what_the_owner_raises_is_raised():
    owners = Owners()
    owners.error = SchemaError("GV-113", "no")
    with pytest.raises(SchemaError):
        owners.calls.write(REQUEST)
    assert owners.network.calls_to(A, Write) == 1


@pytest.mark.parametrize("error", [errors.write_failed("c", OSError()), errors.forked("c")])
def test_only_the_way_to_an_owner_is_tried_again(error):
    owners = Owners()
    owners.error = error
    with pytest.raises(UnavailableError) as raised:
        owners.calls.write(REQUEST)
    answered = error.code == "GV-604"  # what the store does to one owner, it does to all
    assert raised.value.code == ("GV-604" if answered else "GV-766")
    assert (owners.network.calls_to(A, Write) == 1) == answered


def test_what_the_coordinator_raises_is_raised():
    owners = Owners()

    def gone(message):
        raise errors.collection_gone("c")

    owners.network.serve(COORDINATOR, gone)
    with pytest.raises(errors.NotFoundError):
        owners.calls.write(REQUEST)


def test_a_method_is_repeated_only_where_nothing_was_done():
    owners = Owners()
    owners.calls.call(CALL)
    owners.move(B)
    assert owners.calls.call(CALL).value == 2  # A refused it
    owners.network.lose_answers(B, 1)
    with pytest.raises(UnavailableError) as raised:
        owners.calls.call(CALL)
    assert raised.value.details["outcome"] == "unknown"
    assert owners.log.calls == 3


def test_a_method_whose_node_hangs_is_not_begun_elsewhere():
    owners = Owners()
    owners.network.hang(A)
    owners.network.at(3.0, lambda: owners.move(B))
    with pytest.raises(UnavailableError) as raised:
        owners.calls.call(CALL)
    assert raised.value.details["outcome"] == "unknown"
    assert owners.network.calls_to(B, CallOwner) == 0


@pytest.mark.parametrize("seed", range(30))
def test_every_answered_write_is_in_the_log_once_whatever_happens(seed):
    rng = random.Random(seed)
    owners = Owners(seed=seed)
    network = owners.network

    def happens():
        node = rng.choice([A, B, C, COORDINATOR])
        rng.choice(
            [
                lambda: network.stop(node),
                lambda: network.hang(node),
                lambda: network.start(node),
                lambda: network.start(node),
                lambda: owners.move(rng.choice([A, B, C])),
                lambda: network.lose_answers(node, rng.randint(1, 2)),
            ]
        )()

    for _ in range(40):
        network.at(rng.uniform(0, 60), happens)
    answered, refused = {}, []
    for number in range(20):
        request = WriteRequest(
            collection_id="c",
            request_id=RequestId(f"r{number}"),
            operation="delete",
            change=DeleteRows(),
        )
        try:
            answered[request.request_id] = owners.calls.write(request)
        except UnavailableError as error:
            if error.details["outcome"] == "none":
                refused.append(request.request_id)
        network.sleep(rng.uniform(0, 2))
    network.sleep(700.0)
    assert all(owners.log.done[request] == reply for request, reply in answered.items())
    assert not any(request in owners.log.done for request in refused)
    assert answered


def test_a_method_that_does_no_harm_twice_is_asked_for_again():
    owners = Owners()
    owners.network.lose_answers(A, 1)
    assert owners.calls.call(CALL, repeats=True).value == 2  # the first one was done, too


def test_a_method_that_does_harm_twice_is_asked_once():
    owners = Owners()
    owners.network.lose_answers(A, 1)
    with pytest.raises(UnavailableError) as caught:
        owners.calls.call(CALL)
    assert caught.value.details["outcome"] == "unknown"
    assert owners.log.calls == 1


def test_an_error_calls_the_collection_as_its_users_do():
    owners = Owners()
    owners.error = errors.no_such_node(A)
    calls = OwnerCalls(owners.router, {"c": "products"}.__getitem__)
    with pytest.raises(UnavailableError, match='collection "products"'):
        calls.write(REQUEST)
