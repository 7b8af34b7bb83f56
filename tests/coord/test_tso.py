"""Timestamps rise whatever is lost and whatever clocks do; they stay below what was committed."""

import random

import pytest

from gpuvec.clock import ManualClock, pack_timestamp, unpack_timestamp
from gpuvec.coord.tso import RANGE_MS, ClusterTime, TimeRange, TimestampOracle
from gpuvec.errors import UnavailableError
from gpuvec.meta.catalog import DatabaseState
from gpuvec.meta.changes import ReserveTime


def test_time_stands_still_before_its_bound_and_timestamps_rise_on():
    clock = ManualClock(1000)
    oracle = TimestampOracle(clock)
    oracle.follow(50_000, clock.monotonic_s(), 60_000)
    clock.advance(3600)
    given = [oracle.next() for _ in range(100)]
    assert given == sorted(set(given))
    assert unpack_timestamp(given[-1])[0] < 60_000
    oracle.check()
    oracle.follow(0, clock.monotonic_s(), 9_000_000)
    assert unpack_timestamp(oracle.next())[0] == 3_650_000


def test_without_a_timestamp_below_the_bound_a_write_waits_for_the_coordinator():
    clock = ManualClock(1000)
    oracle = TimestampOracle(clock)
    oracle.follow(50_000, clock.monotonic_s(), 60_000)
    oracle.observe(pack_timestamp(61_000))  # in a log that an embedded process wrote
    with pytest.raises(UnavailableError, match="GV-749") as told:
        oracle.check()
    assert told.value.details == {"until_ms": 60_000, "retryable": True, "outcome": "none"}
    oracle.follow(61_000, clock.monotonic_s(), 81_000)
    oracle.check()
    assert oracle.next() > pack_timestamp(61_000)


def test_a_range_is_raised_before_it_is_used_up():
    reserved = TimeRange(10_000)
    assert reserved.wanted(0) is None
    assert reserved.wanted(1_000) == 1_000 + RANGE_MS
    reserved.note(21_000)
    assert reserved.wanted(1_000) is None


class Rule:
    """One coordinator after the other, each of which knows only what the log says."""

    def __init__(self, clock: ManualClock) -> None:
        self.clock = clock
        self.state = DatabaseState()
        self.begin()

    def begin(self) -> None:
        self.time = ClusterTime(self.clock)
        self.time.begin_at(self.state.reserved_ms)
        self.range = TimeRange(0)
        self.reserve()

    def reserve(self) -> None:
        until_ms = self.range.wanted(self.time.now_ms())
        if until_ms is not None:
            self.state = self.state.apply(ReserveTime(until_ms=until_ms))
            self.range.note(until_ms)


@pytest.mark.parametrize("seed", range(200))
def test_timestamps_rise_across_lost_coordinators_lost_nodes_and_clocks_that_go_back(seed):
    chance = random.Random(seed)
    clock = ManualClock(1_000_000)
    rule = Rule(clock)
    nodes: dict[int, TimestampOracle] = {}
    newest = 0
    for step in range(300):
        what = chance.choice(["advance", "advance", "back", "report", "report", "stamp", "lose"])
        node = chance.randrange(3)
        if what == "advance":
            clock.advance(chance.choice([0.01, 1.0, 30.0]))
        elif what == "back":
            clock.step_back(chance.choice([0.5, 60.0, 7200.0]))
        elif what == "report":
            rule.reserve()
            oracle = nodes.setdefault(node, TimestampOracle(clock))
            rule.time.observe(oracle.last)
            oracle.follow(rule.time.now_ms(), clock.monotonic_s(), rule.range.until_ms)
        elif what == "stamp" and node in nodes:
            stamp = nodes[node].next()
            assert unpack_timestamp(stamp)[0] < rule.state.reserved_ms, f"step {step}"
            newest = max(newest, stamp)
        elif what == "lose" and chance.random() < 0.3:
            nodes.clear()  # all at once, and whoever ruled
            rule.begin()
            first = TimestampOracle(clock)
            first.follow(rule.time.now_ms(), clock.monotonic_s(), rule.range.until_ms)
            assert first.next() > newest, f"step {step}"
