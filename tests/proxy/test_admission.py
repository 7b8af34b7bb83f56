"""What is let in at nodes and doors."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.data_messages import Busy
from gpuvec.errors import QuotaError
from gpuvec.proxy.admission import Admission, Rate, Ticket


def test_large_calls_leave_a_thread_for_small_ones():
    admission = Admission(3, large_cost=100)
    tickets = [admission.enter(100, waiting=n + 1, now_s=0.0) for n in range(2)]
    assert all(isinstance(ticket, Ticket) for ticket in tickets)
    assert isinstance(admission.enter(100, waiting=3, now_s=0.0), Busy)
    assert isinstance(admission.enter(99, waiting=3, now_s=0.0), Ticket)
    admission.end(tickets[0], 1.0)
    assert isinstance(admission.enter(100, waiting=3, now_s=1.0), Ticket)


def test_a_node_with_one_thread_takes_large_calls_one_by_one():
    admission = Admission(1, large_cost=100)
    first = admission.enter(100, waiting=1, now_s=0.0)
    assert isinstance(admission.enter(100, waiting=2, now_s=0.0), Busy)
    admission.end(first, 1.0)
    assert isinstance(admission.enter(100, waiting=1, now_s=1.0), Ticket)


def test_a_full_queue_refuses_everything():
    admission = Admission(2, most_waiting=4)
    assert isinstance(admission.enter(1, waiting=4, now_s=0.0), Ticket)
    assert isinstance(admission.enter(1, waiting=5, now_s=0.0), Busy)


def test_the_time_to_come_back_follows_how_long_calls_take():
    admission = Admission(2, large_cost=100)

    def told():
        held = admission.enter(100, waiting=1, now_s=0.0)
        busy = admission.enter(100, waiting=2, now_s=0.0)
        admission.end(held, 60.0)
        return busy.retry_after_s

    first = told()
    assert first < 0.2
    for _ in range(20):
        last = told()
    assert first < last <= 2.0


def test_a_rate_lets_its_share_in_and_says_when_to_come_back():
    rate = Rate("rows", 100.0)
    rate.take(100, 0.0)
    with pytest.raises(QuotaError) as raised:
        rate.take(50, 0.1)
    assert raised.value.code == "GV-768"
    wait_s = raised.value.details["retry_after_s"]
    assert wait_s == pytest.approx(0.4)
    rate.take(50, 0.1 + wait_s)


def test_more_than_a_burst_is_let_in_when_all_of_it_was_saved_and_paid_for_after():
    rate = Rate("rows", 100.0)
    rate.take(1000, 0.0)
    with pytest.raises(QuotaError):
        rate.take(1, 9.0)
    rate.take(1, 9.1)


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.lists(st.tuples(st.floats(0, 2), st.integers(1, 80)), max_size=60))
def test_no_more_than_the_rate_and_one_burst_ever_gets_in(steps):
    rate, now_s, taken = Rate("rows", 50.0), 0.0, 0
    for wait_s, amount in steps:
        now_s += wait_s
        try:
            rate.take(amount, now_s)
        except QuotaError:
            continue
        taken += amount
        assert taken <= 50.0 * (now_s + 1.0) + 80 + 1e-6
