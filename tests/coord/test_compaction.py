"""What compaction decides: which segments, in which order, and what that costs in the long run."""

import numpy as np
import pytest

from gpuvec.coord.compaction import (
    DEAD_SHARE,
    FAN_IN,
    Wanted,
    plan_all,
    plan_compaction,
    plan_vacuum,
    pressure,
    tier,
)
from gpuvec.coord.data_coord import CollectFiles, CompactSegments, DataCoord
from gpuvec.messages import SegmentWeight
from gpuvec.meta.catalog import CollectionState

MIB = 1 << 20
WANTED = Wanted(size_bytes=1024 * MIB)


def weight(
    name, mib=1.0, *, live=1.0, kept=None, rows=1000, partition="", channel="s000", layout=1
):
    return SegmentWeight(
        segment_id=str(name),
        channel=channel,
        partition=partition,
        layout=layout,
        rows=rows,
        live=int(rows * live),
        kept=int(rows * (1.0 if kept is None else kept)),
        size_bytes=int(mib * MIB),
    )


def inputs(plan):
    return [set(rewrite.inputs) for rewrite in plan]


def test_a_few_small_segments_are_left_alone():
    assert plan_compaction([weight(n) for n in range(FAN_IN - 1)], WANTED) == []


def test_small_segments_of_one_size_are_merged():
    found = plan_compaction([weight(n) for n in "abcd"], WANTED)
    assert inputs(found) == [set("abcd")]
    assert found[0].reads_bytes == 4 * MIB


def test_sizes_are_not_mixed():
    large = [weight(f"l{n}", 100) for n in range(3)]
    assert inputs(plan_compaction([*large, *(weight(n) for n in "abcd")], WANTED)) == [set("abcd")]


@pytest.mark.parametrize("other", [{"partition": "p"}, {"channel": "s001"}, {"layout": 2}])
def test_only_segments_of_one_place_and_layout_are_merged(other):
    mine, theirs = [weight(n) for n in "abc"], [weight(n, **other) for n in "xyz"]
    assert plan_compaction([*mine, *theirs], WANTED) == []


def test_full_segments_stay():
    assert plan_compaction([weight(n, 300) for n in range(40)], WANTED) == []
    many = [weight(n, 1, rows=300_000) for n in range(40)]
    assert plan_compaction(many, WANTED) == [], "full of rows"


def test_a_merge_is_not_larger_than_wanted():
    plan = plan_compaction([weight(f"{n:02}", 200) for n in range(12)], WANTED)
    assert [len(rewrite.inputs) for rewrite in plan] == [5, 5]
    assert all(rewrite.reads_bytes <= WANTED.size_bytes for rewrite in plan)


def test_a_segment_that_lost_more_than_a_share_is_written_anew():
    assert plan_compaction([weight("a", 900, live=1 - DEAD_SHARE)], WANTED) == []
    assert inputs(plan_compaction([weight("a", 900, live=0.79)], WANTED)) == [{"a"}]


def test_what_no_version_needs_goes_first_and_together():
    found = plan_compaction([weight("a", kept=0, live=0), weight("b"), weight("c", kept=0)], WANTED)
    assert inputs(found) == [{"a", "c"}]
    assert found[0].reads_bytes == 0


def test_what_is_dropped_together_is_of_one_channel():
    segments = [weight(n, kept=0, channel=f"s00{n % 2}") for n in range(4)]
    assert inputs(plan_compaction(segments, WANTED)) == [{"0", "2"}, {"1", "3"}]


def test_what_sheds_most_comes_before_merges_and_those_before_the_rest():
    segments = [weight("x", 900, live=0.3), weight("y", 900, live=0.7), *map(weight, "abcd")]
    assert inputs(plan_compaction(segments, WANTED)) == [{"x"}, set("abcd"), {"y"}]


def test_a_segment_is_in_one_plan_only():
    segments = [weight(n, live=0.7) for n in "abcd"]
    assert inputs(plan_compaction(segments, WANTED)) == [set("abcd")]


def test_history_is_merged_apart_and_while_it_is_small():
    old = [weight(n, live=0) for n in range(8)]
    assert inputs(plan_compaction([*old, weight("a")], WANTED)) == [set("01234567")]
    assert plan_compaction([weight(n, 100, live=0) for n in range(8)], WANTED) == []


def test_history_of_which_most_is_forgotten_is_written_anew():
    assert plan_compaction([weight("a", 100, live=0, kept=0.6)], WANTED) == []
    assert inputs(plan_compaction([weight("a", 100, live=0, kept=0.4)], WANTED)) == [{"a"}]


def test_on_demand_all_are_merged():
    segments = [weight("a", 10), weight("b", 400), weight("c", 300, live=0.9)]
    assert inputs(plan_all(segments, WANTED)) == [set("abc")]
    assert plan_all([weight("a", 10)], WANTED) == []
    assert inputs(plan_all([weight("a", 10, live=0.9)], WANTED)) == [{"a"}]


def test_on_demand_what_makes_no_fewer_segments_is_not_done():
    assert plan_all([weight("a", 700), weight("b", 700)], WANTED) == []
    assert plan_all([weight("a", 900), weight("b", 900), weight("c", 900)], WANTED) == []
    assert plan_all([weight("a", live=0), weight("b")], WANTED) == [], "history stays"


def test_a_vacuum_rewrites_all_that_holds_what_nobody_needs():
    segments = [weight("a", kept=0.999), weight("b"), weight("c", kept=0), weight("d", live=0.1)]
    assert inputs(plan_vacuum(segments)) == [{"c"}, {"a"}]


def test_pressure_grows_with_small_segments_and_with_dead_rows():
    assert pressure([], WANTED) == 0
    assert pressure([weight(n) for n in range(32)], WANTED) == 0.5
    apart = [weight(n, partition=str(n % 2)) for n in range(32)]
    assert pressure(apart, WANTED) == 0.25, "what matters is the fullest place"
    assert pressure([weight(n, 300) for n in range(500)], WANTED) == 0
    dead = weight("a", 500, rows=1_000_000, live=0.2)
    assert pressure([dead], Wanted(size_bytes=MIB)) == pytest.approx(2.0)
    assert pressure([weight("a", rows=1000, live=0.001)], Wanted(size_bytes=1)) < 0.1, "too few"


def test_tiers_rise_by_the_fan_in():
    assert [tier(size << 10) for size in (1, 255, 256, 1023, 1024, 4096)] == [0, 0, 1, 1, 2, 3]


# In the long run


class Model:
    """Rows upserted at random: how large segments get, and how often each row is written."""

    def __init__(self, rows, flush_rows, *, row_bytes=500, wanted_rows=100_000, seed=0):
        self.random = np.random.default_rng(seed)
        self.row_bytes, self.flush_rows = row_bytes, flush_rows
        self.wanted = Wanted(size_bytes=wanted_rows * row_bytes)
        self.segments = {}  # id to (rows, live keys), history has no keys
        self.place = np.full(rows, -1)  # key to segment
        self.count = self.written = self.upserted = self.most = 0
        for start in range(0, rows, flush_rows):
            self.flush(np.arange(start, min(rows, start + flush_rows)))
        self.written = self.upserted = 0

    def add(self, keys, rows=None):
        self.count += 1
        rows = len(keys) if rows is None else rows
        self.segments[self.count] = (rows, len(keys))
        self.place[keys] = self.count
        self.written += rows

    def flush(self, keys):
        for old, dead in zip(*np.unique(self.place[keys], return_counts=True), strict=True):
            if old >= 0:
                rows, live = self.segments[old]
                self.segments[old] = (rows, live - dead)
        self.upserted += len(keys)
        self.add(keys)

    def upsert(self):
        self.flush(self.random.choice(len(self.place), self.flush_rows, replace=False))

    def weights(self):
        return [
            weight(f"{n:09}", rows * self.row_bytes / MIB, live=live / rows, rows=rows)
            for n, (rows, live) in self.segments.items()
        ]

    def compact(self):
        """Do the first thing that is due; return the rows that it wrote."""
        plan = plan_compaction(self.weights(), self.wanted)
        self.most = max(self.most, pressure(self.weights(), self.wanted))
        if not plan:
            return 0
        gone = [int(name) for name in plan[0].inputs]
        keys = np.flatnonzero(np.isin(self.place, gone))
        dead = sum(self.segments.pop(name)[0] for name in gone) - len(keys)
        for part in np.array_split(keys, -(-len(keys) // 100_000)) if len(keys) else ():
            self.add(part)
        if dead:
            self.add(np.empty(0, np.int64), dead)
        return len(keys) + dead


@pytest.mark.parametrize("seed", range(3))
def test_sustained_upserts_cost_a_bounded_number_of_writes_per_row(seed):
    model = Model(200_000, 5_000, seed=seed)
    for _ in range(200):  # each row is replaced five times
        model.upsert()
        while model.compact():
            pass
    factor = model.written / model.upserted
    assert factor < 9, f"each upserted row was written {factor:.1f} times"
    live = [rows for rows, live in model.segments.values() if live]
    assert len(live) < 20
    assert sum(live) < 200_000 / (1 - DEAD_SHARE) + 5_000 * FAN_IN
    assert model.most < 1


def test_compaction_that_is_too_slow_falls_behind_but_not_for_ever():
    """It writes four rows for each one upserted, less than keeping up takes."""
    model, debt = Model(200_000, 5_000), 0.0
    pressures = []
    for _ in range(400):
        model.upsert()
        debt += 4 * model.flush_rows
        while debt > 0 and (rows := model.compact()):
            debt -= rows
        debt = min(debt, 0) if debt < 0 else debt
        pressures.append(pressure(model.weights(), model.wanted))
    assert max(pressures[200:]) < 1
    assert max(pressures[200:]) < 1.5 * max(pressures[100:200]), "it found its balance"
    assert model.written / model.upserted < 6


# The coordinator


def coord(**options):
    return DataCoord(flush_bytes=100 * MIB, age_s=60, wanted=WANTED, **options)


def jobs(coordinator, now_s=0.0):
    found = coordinator.reconcile(now_s)
    return [command for command in found if not isinstance(command, CollectFiles)]


def test_one_compaction_at_a_time_of_who_needs_it_most():
    data = coord()
    data.note_weights("a", [weight(n) for n in "abcd"])
    data.note_weights("b", [weight(f"{n:02}") for n in range(20)])
    (job,) = jobs(data)
    assert job == CompactSegments("b", tuple(f"{n:02}" for n in range(20)), 20 * MIB)
    data.note_begun(job)
    assert jobs(data) == []
    data.note_ended(job, None, 1)
    assert [job.collection_id for job in jobs(data)] == ["a"]


def test_a_compaction_that_failed_comes_again_later():
    data = coord()
    data.note_weights("a", [weight(n) for n in "abcd"])
    (job,) = jobs(data)
    data.note_begun(job)
    data.note_ended(job, RuntimeError("full"), 5)
    data.note_weights("a", [weight(n) for n in "abcd"])
    assert jobs(data, 5) == []
    assert str(data.compaction_failure("a").error) == "full"
    assert jobs(data, 15) == [job]
    data.note_begun(job)
    data.note_ended(job, None, 16)
    assert data.compaction_failure("a") is None


def test_unused_files_are_looked_for_when_something_was_committed():
    data, first, second = coord(), CollectionState(), CollectionState(truncated_ts=1)
    data.note_state("c", first)
    assert data.reconcile(0) == []
    assert data.reconcile(10) == [CollectFiles("c")], "what processes left that died"
    data.note_collected("c", waiting=False, now_s=10)
    assert data.reconcile(10_000) == []
    data.note_state("c", second)
    assert data.reconcile(10_000) == [CollectFiles("c")]
    data.note_collected("c", waiting=True, now_s=10_000)
    assert data.reconcile(10_599) == []
    assert data.reconcile(10_600) == [CollectFiles("c")], "some could not be deleted yet"


def test_unused_files_are_looked_for_sooner_when_much_was_replaced():
    data = coord()
    data.note_state("c", CollectionState())
    data.note_collected("c", waiting=False, now_s=0)
    data.note_state("c", CollectionState(truncated_ts=1))
    job = CompactSegments("c", ("a",), 2048 * MIB)
    data.note_begun(job)
    data.note_ended(job, None, 1)
    assert data.reconcile(59) == []
    assert data.reconcile(60) == [CollectFiles("c")]
