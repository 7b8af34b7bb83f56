"""The disk cache: whole files, verified, within its bytes, whoever dies while filling it."""

import fcntl
import os
import subprocess
import sys
import textwrap
import threading
import time

import numpy as np
import pytest

from gpuvec import telemetry
from gpuvec.errors import CacheWarning, StorageError
from gpuvec.storage import cache as module
from gpuvec.storage.cache import ChangedError, DirectoryCache
from gpuvec.storage.checksum import crc32c


def content(number, size=10_000):
    return np.random.default_rng(number).bytes(size)


class Filler:
    """Fetches files by number, and counts."""

    def __init__(self, cache, size=10_000):
        self.cache = cache
        self.size = size
        self.fetched = []

    def get(self, number):
        data = content(number, self.size)

        def fetch(write):
            self.fetched.append(number)
            half = len(data) // 2
            write(half, data[half:])
            write(0, data[:half])

        return self.cache.fill(name(number), len(data), crc32c([data]), fetch)


def name(number):
    return f"{number:02d}" * 16


def files(folder):
    return sorted(p.name for p in folder.rglob("*") if p.is_file())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "made" / "later"


@pytest.fixture
def filler(folder):
    return Filler(DirectoryCache(folder, 100_000))


def test_a_file_is_fetched_once_and_then_mapped(filler, folder):
    for _ in range(3):
        found = filler.get(1)
        assert found.tobytes() == content(1)
        assert not found.flags.writeable
    assert filler.fetched == [1]
    assert files(folder) == [name(1)]
    assert (filler.cache.counts.hits, filler.cache.counts.misses) == (3, 1)
    assert filler.cache.counts.fetched_bytes == filler.cache.held_bytes == 10_000


def test_another_process_finds_what_is_there(filler, folder):
    filler.get(1)
    other = Filler(DirectoryCache(folder, 100_000))
    assert other.cache.held_bytes == 10_000
    assert other.get(1).tobytes() == content(1)
    assert other.fetched == []


def test_what_was_used_longest_ago_goes_first(filler, folder):
    for number in range(1, 11):
        filler.get(number)
        os.utime(folder / name(number)[:2] / name(number), (number, number))
    DirectoryCache(folder, 100_000).find(name(1), 10_000, crc32c([content(1)]))  # used now
    filler.get(11)
    filler.get(12)
    assert files(folder) == sorted(name(n) for n in (1, *range(4, 13)))
    assert filler.cache.counts.evictions == 2
    assert filler.cache.held_bytes == 100_000


def test_what_this_process_has_mapped_stays(folder):
    filler = Filler(DirectoryCache(folder, 30_000))
    one = filler.get(1)
    os.utime(folder / name(1)[:2] / name(1), (1, 1))
    for number in (2, 3, 4):
        filler.get(number)
    assert files(folder) == [name(1), name(3), name(4)]
    three, four = filler.get(3), filler.get(4)
    with pytest.warns(CacheWarning, match="30,000 of its 30,000 bytes are in use"):
        assert filler.get(5) is None
    del one, three, four
    assert filler.get(5).tobytes() == content(5)


def test_what_another_process_deletes_stays_readable(folder):
    filler, other = (Filler(DirectoryCache(folder, 10_000)) for _ in range(2))
    held = filler.get(1)
    other.get(2)
    assert files(folder) == [name(2)]
    assert held.tobytes() == content(1)


def test_a_file_larger_than_the_cache_is_not_kept_and_that_is_said_once(folder):
    filler = Filler(DirectoryCache(folder, 9_999))
    with pytest.warns(CacheWarning, match=r"GV-560.*larger than all of it.*cache\.size_bytes"):
        assert filler.get(1) is None
    assert filler.get(2) is None
    assert (filler.fetched, filler.cache.counts.refused) == ([], 2)


def test_changed_bytes_are_put_aside_and_fetched_again(filler, folder):
    filler.get(1)
    path = folder / name(1)[:2] / name(1)
    broken = bytearray(content(1))
    broken[77] ^= 1
    path.write_bytes(broken)
    again = Filler(DirectoryCache(folder, 100_000))
    assert again.get(1).tobytes() == content(1)
    assert again.fetched == [1]
    assert again.cache.counts.quarantined == 1
    assert (folder / "quarantine" / name(1)).read_bytes() == broken
    path.write_bytes(content(1)[:-1])
    third = Filler(DirectoryCache(folder, 20_000))
    assert third.get(1).tobytes() == content(1)
    third.get(2)
    assert files(folder) == sorted([name(1), name(2)])  # what was put aside goes first


def test_a_wrong_answer_of_the_store_is_not_kept(filler, folder):
    with pytest.raises(ChangedError) as caught:
        filler.cache.fill(name(1), 5, crc32c([b"right"]), lambda write: write(0, b"wrong"))
    assert caught.value.got == crc32c([b"wrong"])
    assert files(folder) == []


@pytest.mark.parametrize("error", [StorageError("GV-532", "down"), KeyboardInterrupt()])
def test_a_fetch_that_fails_leaves_nothing(filler, folder, error):
    def fetch(write):
        write(0, b"some")
        raise error

    with pytest.raises(type(error)):
        filler.cache.fill(name(1), 5, 0, fetch)
    assert files(folder) == []
    assert filler.get(1).tobytes() == content(1)


def test_threads_that_ask_at_once_cause_one_fetch(filler):
    found = [None] * 8
    together = threading.Barrier(8)

    def ask(number):
        together.wait()
        found[number] = filler.get(1).tobytes()

    threads = [threading.Thread(target=ask, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert filler.fetched == [1]
    assert set(found) == {content(1)}


PROGRAM = """
    import os, sys, time
    sys.path.insert(0, {tests!r})
    from pathlib import Path
    from test_cache import content, name
    from gpuvec.storage.cache import DirectoryCache
    from gpuvec.storage.checksum import crc32c
    data = content(1)
    def fetch(write):
        with open({log!r}, "a") as log: log.write("x")
        write(0, data[:3000])
        {then}
        write(3000, data[3000:])
    print("ready", flush=True)
    sys.stdin.readline()
    cache = DirectoryCache(Path({folder!r}), 100_000)
    assert cache.fill(name(1), len(data), crc32c([data]), fetch).tobytes() == data
"""


def start(folder, then):
    values = {
        "tests": os.path.dirname(__file__),
        "log": str(folder.parent.parent / "log"),
        "folder": str(folder),
        "then": then,
    }
    text = textwrap.dedent(PROGRAM).format(**values)
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    process = subprocess.Popen([sys.executable, "-c", text], **pipes)
    process.stdout.readline()
    return process


def test_processes_that_ask_at_once_cause_one_fetch(folder, tmp_path):
    processes = [start(folder, "time.sleep(0.2)") for _ in range(3)]
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert [process.wait() for process in processes] == [0, 0, 0]
    assert (tmp_path / "log").read_text() == "x"
    assert files(folder) == [name(1)]
    for process in processes:
        process.stdin.close()
        process.stdout.close()


def test_who_dies_while_filling_leaves_a_part_that_the_next_one_replaces(folder, filler):
    process = start(folder, "os.kill(os.getpid(), 9)")
    process.communicate("go\n")
    assert process.returncode == -9
    assert files(folder) == [f"{name(1)}.part"]
    assert filler.cache.held_bytes == 0  # the scan deletes it
    assert files(folder) == []
    start(folder, "os.kill(os.getpid(), 9)").communicate("go\n")
    assert filler.get(1).tobytes() == content(1)
    assert files(folder) == [name(1)]


def test_a_part_that_is_being_filled_survives_a_scan(folder):
    path = folder / "01" / f"{name(1)}.part"
    path.parent.mkdir(parents=True)
    with path.open("wb") as part:
        fcntl.flock(part, fcntl.LOCK_EX)
        assert DirectoryCache(folder, 100_000).held_bytes == 0
        assert files(folder) == [path.name]
    assert DirectoryCache(folder, 100_000).held_bytes == 0
    assert files(folder) == []


def test_a_folder_that_cannot_be_made_is_said_once_and_reads_go_on(tmp_path):
    (tmp_path / "file").write_text("")
    filler = Filler(DirectoryCache(tmp_path / "file" / "below", 100_000))
    with pytest.warns(CacheWarning, match=r"file/below cannot be used.*cache\.dir"):
        assert filler.get(1) is None
    assert filler.get(1) is None
    assert filler.cache.counts.refused == 2


def test_a_disk_that_gets_full_is_said_and_nothing_half_stays(folder, tmp_path):
    program = f"""
        import resource, sys, warnings
        sys.path.insert(0, {os.path.dirname(__file__)!r})
        from pathlib import Path
        from test_cache import Filler
        from gpuvec.storage.cache import DirectoryCache
        filler = Filler(DirectoryCache(Path({str(folder)!r}), 100_000))
        resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            assert filler.get(1) is None
            assert filler.get(2) is None
        assert len(said) == 1 and "GV-560" in str(said[0].message), said
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True)
    assert files(folder) == []


def test_some_of_the_disk_stays_free(folder, monkeypatch, filler):
    monkeypatch.setattr(module, "RESERVE_BYTES", module.free_bytes("/") + (1 << 40))
    with pytest.warns(CacheWarning, match="the disk is full"):
        assert filler.get(1) is None


def test_many_threads_and_a_small_cache_never_see_a_wrong_byte(folder):
    filler = Filler(DirectoryCache(folder, 60_000))
    others = Filler(DirectoryCache(folder, 60_000))  # as of another process
    wrong = []

    def use(which, seed):
        rng = np.random.default_rng(seed)
        until = time.monotonic() + 0.7
        while time.monotonic() < until:
            number = int(rng.integers(1, 30))
            found = which.get(number)
            if found is not None and found.tobytes() != content(number):
                wrong.append(number)

    threads = [threading.Thread(target=use, args=([filler, others][n % 2], n)) for n in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert filler.cache.counts.quarantined == others.cache.counts.quarantined == 0
    assert sum(p.stat().st_size for p in folder.rglob("*") if p.is_file()) <= 2 * 60_000


def test_bytes_held_are_told_to_whoever_watches(tmp_path):
    filler = Filler(DirectoryCache(tmp_path / "seen", 1 << 20))
    filler.get(1)
    filler.get(2)
    assert sum(r.value for r in telemetry.METERS.read() if r.labels == ("disk",)) >= 20_000
