import pytest

from gpuvec.device import memory
from gpuvec.device.memory import Memory, host_limit_bytes, host_memory, limited, tiles
from gpuvec.errors import DeviceMemoryError


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


@pytest.mark.parametrize(
    ("limit", "free"), [(None, 60), (0.5, 10), (70, 30), (20, 0), (1.0, 60), (1000, 60)]
)
def test_a_limit_counts_what_is_used_already(limit, free):
    assert limited(Memory(total=100, free=60), limit).free == free
