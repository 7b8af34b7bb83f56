import os
import threading
import time

import numpy as np
import pytest

from gpuvec.kernels.parallel import core_count, run_parallel, split, thread_count


@pytest.mark.parametrize(
    ("size", "parts", "least"), [(10, 3, 1), (2, 8, 1), (0, 4, 1), (100, 8, 40)]
)
def test_parts_cover_everything_once(size, parts, least):
    cut = split(size, parts, least=least)
    assert [x for start, stop in cut for x in range(start, stop)] == list(range(size))
    assert len(cut) <= parts
    assert len(cut) == 1 or all(stop - start >= least // 2 for start, stop in cut)


def test_results_come_in_the_order_of_items():
    def work(item):
        time.sleep(0.001 * (5 - item))
        return item * item

    assert run_parallel(work, range(5), threads=4) == [0, 1, 4, 9, 16]


def test_an_error_reaches_the_caller_when_all_have_ended():
    ended = []

    def work(item):
        if item == 1:
            raise KeyError(item)
        ended.append(item)

    run_parallel(lambda item: item, range(4), threads=2)
    before = threading.active_count()
    with pytest.raises(KeyError):
        run_parallel(work, range(4), threads=2)
    assert threading.active_count() <= before
    assert run_parallel(lambda item: item, range(4), threads=2) == [0, 1, 2, 3]


def test_no_wish_means_every_core():
    assert thread_count(0) == core_count() >= 1
    assert thread_count(1) == 1


def test_compiled_bodies_let_other_threads_run():
    from gpuvec.kernels.pairwise import pairwise_distances
    from gpuvec.types import Metric

    rows = np.ones((4000, 256), np.float32)
    pairwise_distances(rows[:2], rows[:2], Metric.L2)
    beats = []
    done = threading.Event()

    def beat():
        while not done.is_set():
            beats.append(time.perf_counter())
            time.sleep(0.001)

    thread = threading.Thread(target=beat)
    thread.start()
    start = time.perf_counter()
    pairwise_distances(rows, rows, Metric.L2)  # long enough for a busy machine to run both
    end = time.perf_counter()
    done.set()
    thread.join()
    during = [t for t in beats if start < t < end]
    assert len(during) > 3


def test_calls_may_be_nested():
    def outer(item):
        return sum(run_parallel(lambda x: x * item, range(50), threads=4))

    assert run_parallel(outer, range(20), threads=8) == [1225 * item for item in range(20)]


def test_helpers_leave_the_callers_core_and_still_count_all_cores():
    cores = core_count()
    seen = set()

    def work(_):
        time.sleep(0.01)
        seen.add((core_count(), len(os.sched_getaffinity(0)), threading.current_thread().name))

    for _ in range(3):
        run_parallel(work, range(4))
    assert {count for count, _, _ in seen} == {cores}
    helpers = {left for _, left, name in seen if name.startswith("gpuvec-kernel")}
    assert helpers <= {max(1, cores - 1), cores}
    if 1 < cores <= 16:
        assert max(1, cores - 1) in helpers
