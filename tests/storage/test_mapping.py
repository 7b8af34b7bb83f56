import gc
import os
from pathlib import Path

import numpy as np
import pytest

from gpuvec.storage.mapping import map_file, release


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def is_mapped(path: Path) -> bool:
    return str(path) in Path("/proc/self/maps").read_text()


def test_a_map_holds_the_bytes_and_no_descriptor(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(bytes(range(256)) * 100)
    before = open_files()
    maps = [map_file(path) for _ in range(50)]
    assert open_files() == before
    assert all(np.array_equal(m, np.frombuffer(path.read_bytes(), np.uint8)) for m in maps)


def test_the_last_view_unmaps(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"x" * 10_000)
    view = map_file(path)[4096:].view("S1")
    gc.collect()
    assert is_mapped(path)
    assert view[-1] == b"x"
    del view
    gc.collect()
    assert not is_mapped(path)


def test_a_deleted_file_stays_readable(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    mapped = map_file(path)
    path.unlink()
    assert mapped.tobytes() == b"abc"


def test_nothing_may_be_written(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc")
    with pytest.raises(ValueError, match="read-only"):
        map_file(path)[0] = 1


def test_an_empty_file_has_no_bytes(tmp_path):
    path = tmp_path / "file"
    path.touch()
    assert len(map_file(path)) == 0


def test_a_missing_file_is_an_error_of_the_system(tmp_path):
    with pytest.raises(FileNotFoundError):
        map_file(tmp_path / "file")


def resident(path: Path) -> int:
    """Return how many kB of a mapped file are in this process's memory."""
    lines = iter(Path("/proc/self/smaps").read_text().splitlines())
    next(line for line in lines if line.endswith(str(path)))
    return next(int(line.split()[1]) for line in lines if line.startswith("Rss:"))


def test_a_released_array_leaves_memory_and_comes_back(tmp_path):
    path = tmp_path / "file"
    data = np.random.default_rng(0).integers(0, 256, 4 << 20, np.uint8)
    path.write_bytes(data.tobytes())
    mapped = map_file(path)
    assert np.array_equal(mapped, data)
    assert resident(path) == 4096
    release(mapped[4096:].view(np.float32).reshape(-1, 64))
    assert resident(path) < 4096
    assert np.array_equal(mapped, data)


def test_arrays_of_no_file_are_not_released():
    data = np.ones(1 << 20)
    release(data[4096:])
    assert data.all()
