"""How many workers a cluster asks for: quick to grow, slow to shrink, never too few for memory."""

from gpuvec.coord.adaptive import Demand, WorkerTarget
from tests.coord.yard import Yard

GB = 1 << 30


def demand(workers=4, *, wanted=GB, busy=1.0, latency_s=0.0):
    return Demand(
        wanted_bytes=wanted,
        queue=busy * 2 * workers,
        threads=2 * workers,
        latency_s=latency_s,
        budgets=(GB,) * workers,
    )


def test_what_is_enough_stays():
    assert WorkerTarget().wanted([demand(4)], 0.0) == 4


def test_memory_wanted_by_all_databases_decides_the_least():
    found = WorkerTarget().wanted([demand(4, wanted=3 * GB), demand(4, wanted=4 * GB)], 0.0)
    assert found == 9, "7 GB at 0.8 of each GB"


def test_long_queues_add_workers_and_at_most_double_them():
    assert WorkerTarget().wanted([demand(4, busy=2.5)], 0.0) == 8
    assert WorkerTarget().wanted([demand(4, busy=50.0)], 0.0) == 8
    assert WorkerTarget().wanted([demand(4, busy=1.9)], 0.0) == 4


def test_slow_answers_add_a_worker_where_that_matters():
    assert WorkerTarget(latency_s=0.1).wanted([demand(4, latency_s=0.2)], 0.0) == 5
    assert WorkerTarget().wanted([demand(4, latency_s=0.2)], 0.0) == 4


def test_idle_workers_go_one_at_a_time_after_a_while():
    target = WorkerTarget()
    assert target.wanted([demand(4, busy=0.1)], 0.0) == 4
    assert target.wanted([demand(4, busy=0.1)], 59.0) == 4
    assert target.wanted([demand(4, busy=0.1)], 61.0) == 3
    assert target.wanted([demand(3, busy=0.1)], 62.0) == 3
    assert target.wanted([demand(3, busy=0.1)], 122.0) == 2


def test_an_idle_worker_is_named_until_it_has_gone():
    """Dask ends a worker only when it was told so three times in a row."""
    target = WorkerTarget()
    target.wanted([demand(4, busy=0.1)], 0.0)
    assert [target.wanted([demand(4, busy=0.1)], 61.0 + second) for second in range(3)] == [3] * 3
    assert target.wanted([demand(4, busy=1.0)], 64.0) == 4, "there is work again"


def test_workers_that_were_asked_for_are_waited_for():
    target = WorkerTarget()
    assert target.wanted([demand(2, busy=9.0)], 0.0) == 4
    assert target.wanted([demand(2, busy=1.0)], 10.0) == 4, "they are still coming"
    assert target.wanted([demand(3, busy=1.0)], 20.0) == 4
    assert target.wanted([demand(4, busy=1.0)], 30.0) == 4
    assert target.wanted([demand(3, busy=1.0)], 40.0) == 4, "its nanny starts it again"
    assert target.wanted([demand(3, busy=1.0)], 161.0) == 3, "it will not come"


def test_work_in_between_keeps_them():
    target = WorkerTarget()
    target.wanted([demand(4, busy=0.1)], 0.0)
    target.wanted([demand(4, busy=1.0)], 50.0)
    assert target.wanted([demand(4, busy=0.1)], 70.0) == 4


def test_idle_workers_stay_where_memory_needs_them():
    target = WorkerTarget()
    target.wanted([demand(4, wanted=3 * GB, busy=0.1)], 0.0)
    assert target.wanted([demand(4, wanted=3 * GB, busy=0.1)], 100.0) == 4


def test_there_is_always_one():
    assert WorkerTarget().wanted([], 0.0) == 1
    assert WorkerTarget().wanted([demand(0, wanted=5 * GB)], 0.0) == 1


def test_a_node_that_leaves_is_counted_no_more():
    yard = Yard()
    yard.add("a", "b", "c", threads=2, queue=10)
    yard.put(count=6)
    yard.settle()
    before = yard.coord.demand()
    yard.drain("b")
    after = yard.coord.demand()
    assert (len(before.budgets), before.threads) == (3, 6)
    assert (len(after.budgets), after.threads) == (2, 4)
    assert after.queue < before.queue
