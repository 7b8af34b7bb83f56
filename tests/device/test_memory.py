import threading

import pytest

from gpuvec.device import memory
from gpuvec.device.memory import Memory, MemoryBudget, host_limit_bytes, host_memory, tiles
from gpuvec.errors import DeviceMemoryError


def test_what_does_not_fit_is_refused_with_who_holds_what():
    budget = MemoryBudget(100 << 20, where="gpu")
    with budget.reserve(80 << 20, "segment s1"):
        with pytest.raises(DeviceMemoryError) as error, budget.reserve(30 << 20, "distances"):
            pass
        assert budget.free_bytes == 20 << 20
    assert error.value.code == "GV-400"
    for word in ("distances needs 30.0 MiB of gpu memory", "20.0 MiB", "segment s1 80 MiB"):
        assert word in str(error.value)
    assert error.value.details["parts"] == {"segment s1": 80 << 20}


def test_a_reservation_ends_with_its_block_also_after_an_error():
    budget = MemoryBudget(10)
    with pytest.raises(KeyError), budget.reserve(10, "work"):
        raise KeyError
    assert budget.free_bytes == 10
    assert budget.parts == {}


def test_giving_back_more_than_was_taken_is_a_bug():
    budget = MemoryBudget(10)
    budget.take(4, "work")
    with pytest.raises(AssertionError):
        budget.give_back(5, "work")


def test_threads_never_hold_more_than_the_limit():
    budget = MemoryBudget(3)
    refused = []

    def work():
        for _ in range(200):
            try:
                with budget.reserve(2, "work"):
                    assert budget.free_bytes in (-1, 0, 1)
            except DeviceMemoryError as error:
                refused.append(error)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert budget.free_bytes == 3


@pytest.mark.parametrize(("count", "limit", "most"), [(10, 35, 0), (10, 1000, 4), (1, 10, 0)])
def test_tiles_cover_everything_once_and_each_fits(count, limit, most):
    cut = tiles(count, 10, limit, what="x", most=most)
    assert [row for start, stop in cut for row in range(start, stop)] == list(range(count))
    assert all((stop - start) * 10 <= limit for start, stop in cut)
    assert not most or all(stop - start <= most for start, stop in cut)


def test_nothing_needs_no_tile():
    assert tiles(0, 10, 5, what="x") == []


def test_an_item_larger_than_the_limit_is_refused():
    with pytest.raises(DeviceMemoryError, match="distances of a query"):
        tiles(3, 10, 5, what="distances of a query")


def test_a_container_gets_its_own_limit(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.current").write_text("400000\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert host_memory() == Memory(total=1000000, free=600000)


def test_a_container_without_a_limit_gets_the_machine(tmp_path, monkeypatch):
    (tmp_path / "memory.max").write_text("max\n")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    assert host_memory().total > 1 << 28


def test_the_process_plans_with_less_than_the_machine_has():
    assert 0 < host_limit_bytes() < host_memory().total
