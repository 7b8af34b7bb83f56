"""Seven ways in which a vector database was seen to lose rows that it had acknowledged.

Each was measured on an embedded database that is in wide use: it does not sync its log, does not
sync what it flushes, opens without a file that is missing, forgets rows whose flush failed, opens a
collection twice at once, deletes beyond a partition, and stops reading a torn log without a word.
Others of these tests go over the same ground point by point: `test_channel_power_cut` (every call
that changes the disk), `test_engine_strace` (a kill at every system call), `test_every_fault`
(every operation of every procedure), `tests/test_verify.py` (every kind of file).
"""

import json
import multiprocessing
import re
import shutil
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

import gpuvec as gv
from gpuvec.errors import GpuvecError
from gpuvec.storage.local import LocalStore
from gpuvec.testing.channel_session import ChannelSession
from gpuvec.testing.disk import ModelDisk
from gpuvec.verify.verify import verify

HERE = Path(__file__).parent
WRITES = [("upsert", range(first, first + 5), 1) for first in range(0, 50, 5)]
FLUSH = [("flush", (), None)]
OUTCOMES = [("none", "none", 0), ("all", "zeros", 0), ("all", "half", 0), ("random", "random", 4)]

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4, metric="l2")}, "id")


def rows(ids):
    ids = np.asarray(ids)
    return {"id": ids, "v": np.repeat(ids[:, None], 4, axis=1).astype(np.float32)}


def ids_in(path):
    with gv.connect(path) as db:
        return set(db["items"].select("id").to_arrow()["id"].to_pylist())


def after_power_cut(steps, outcome, **disk):
    """Take steps on a disk, cut the power, and let another process look and go on."""
    model = ModelDisk(**disk)
    session = ChannelSession(LocalStore("/db", system=model))
    session.open()
    session.take(steps)
    assert [session.rows()] == session.possible
    session.check(LocalStore("/db", system=model.after_power_cut(*outcome)))


# 1. Nothing is synced when a write is acknowledged


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_an_acknowledged_write_survives_a_power_cut(outcome):
    after_power_cut(WRITES, outcome)


def test_without_syncs_a_power_cut_would_be_noticed_here():
    with pytest.raises((AssertionError, GpuvecError)):
        after_power_cut(WRITES, OUTCOMES[0], ignored=["fdatasync"])


WORKER = """
import os, sys
import numpy as np
import gpuvec as gv
with gv.connect(sys.argv[1]) as db:
    items = db.create_collection("items", gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, "id"))
    for n in range(12):
        items.insert({"id": [n], "v": [[n] * 4]})
        os.writev(1, [b"acknowledged\\n"])
    os.writev(1, [b"flushing\\n"])
    items.flush()
    os.writev(1, [b"flushed\\n"])
"""


@pytest.fixture(scope="module")
def trace(tmp_path_factory):
    """The calls that write and sync, of a process that uses the public interface."""
    if shutil.which("strace") is None:
        pytest.skip("strace is missing: apt-get install strace")
    folder = tmp_path_factory.mktemp("trace")
    log = folder / "log"
    calls = "trace=fsync,fdatasync,link,rename,writev"
    command = ["strace", "-f", "-y", "-qq", "-s", "200", "-o", str(log), "-e", calls]
    done = subprocess.run(
        [*command, sys.executable, "-c", WORKER, str(folder / "db")],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if not log.exists() or "acknowledged" not in log.read_text():
        pytest.skip(f"strace cannot trace here: {done.stderr.strip()[-200:]}")
    assert done.returncode == 0, done.stderr
    return log.read_text().splitlines()


def test_every_acknowledgement_comes_after_a_sync_of_the_log(trace):
    synced, acknowledged = False, 0
    for line in trace:
        if re.search(r"fdatasync\(\d+<.*\.log>\)", line):
            synced = True
        elif "writev(1" in line and "acknowledged" in line:
            assert synced, f"acknowledged without a sync, after {acknowledged} others"
            synced, acknowledged = False, acknowledged + 1
    assert acknowledged == 12


# 2. A flush names files that are not on the disk yet


@pytest.mark.parametrize("outcome", OUTCOMES)
def test_a_flush_survives_a_power_cut(outcome):
    after_power_cut(WRITES + FLUSH + WRITES[:2] + FLUSH, outcome)


def test_without_syncs_of_files_a_flush_would_lose_rows_here():
    with pytest.raises((AssertionError, GpuvecError)):
        after_power_cut(WRITES + FLUSH, OUTCOMES[0], ignored=["fsync", "fsync folder"])


def test_every_file_is_synced_before_an_entry_names_it(trace):
    start = next(n for n, line in enumerate(trace) if "flushing" in line)
    synced, named = set(), []
    for line in trace[start:]:
        if found := re.search(r"fsync\(\d+<.*/(\.[0-9a-f]+\.tmp)>\)", line):
            synced.add(found[1])
        elif found := re.search(r'(?:link|rename)\(".*/(\.[0-9a-f]+\.tmp)", "(.*)"\)', line):
            assert found[1] in synced, f"{found[2]} got its name before it was synced"
            named.append(Path(found[2]).name)
    entry = next(n for n, name in enumerate(named) if name.endswith(".json"))
    assert {"scalar.parquet", "vec-v.arrow"} <= set(named[:entry])


# 3. A file that is missing is passed over


def test_a_missing_file_is_an_error_that_names_it_never_fewer_rows(tmp_path):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(100)))
        items.flush()
        items.insert(rows([100]))
    (scalars,) = path.rglob("scalar.parquet")
    scalars.unlink()
    with gv.connect(path) as db, pytest.raises(gv.CorruptError, match=r"scalar\.parquet"):
        db["items"].to_arrow()
    with gv.connect(path) as db, pytest.raises(gv.CorruptError, match=r"scalar\.parquet"):
        db["items"].search(np.zeros(4, np.float32), k=3).to_arrow()
    (finding,) = verify(path).findings
    assert (finding.code, finding.rows) == ("GV-501", 100)


# 4. Rows whose flush failed are forgotten


@contextmanager
def small_disk(folder):
    """Mount a real file system of one megabyte; skip where that is not allowed."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"mount is not allowed here: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def fill_up(path, how):
    command = [sys.executable, str(HERE / "full_disk_worker.py"), str(path), str(how)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def check_full(seen):
    assert seen["flush"] == "GV-505"
    assert seen["insert"] in ("GV-603", "GV-604"), "a write that is not durable was acknowledged"
    assert seen["while full"] == 150
    assert seen["after a good flush"] == 151
    assert seen["after a restart"] == 151
    assert seen["right"]


def test_a_flush_that_fails_for_want_of_space_loses_nothing(tmp_path):
    with small_disk(tmp_path / "disk") as disk:
        check_full(fill_up(disk / "db", disk / "ballast"))


def test_a_flush_that_fails_at_the_size_limit_of_files_loses_nothing(tmp_path):
    check_full(fill_up(tmp_path / "db", "limit"))


# 5. Two openers of a collection write over one another


def test_threads_that_open_a_collection_at_once_lose_nothing(tmp_path):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        db.create_collection("items", SCHEMA).insert(rows([10_000]))
    start, acknowledged, lock = threading.Barrier(8), set(), threading.Lock()
    with gv.connect(path) as shared:

        def work(number):
            start.wait()
            handle = shared if number % 2 else gv.connect(path)
            for first in range(number * 100, number * 100 + 50, 5):
                handle["items"].insert(rows(range(first, first + 5)))
                with lock:
                    acknowledged.update(range(first, first + 5))
            if handle is not shared:
                handle.close()

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(acknowledged) == 400
        assert set(shared["items"].to_arrow()["id"].to_pylist()) == acknowledged | {10_000}
    assert ids_in(path) == acknowledged | {10_000}


def write_from_a_process(path, number, start, answers):
    """Insert rows until done or told that another process writes."""
    start.wait()
    done = []
    try:
        with gv.connect(path) as db:
            for first in range(number * 100, number * 100 + 50, 5):
                db["items"].insert(rows(range(first, first + 5)))
                done += range(first, first + 5)
            answers.put((done, "done"))
    except gv.ConflictError as error:
        answers.put((done, error.code))


def test_processes_that_open_a_collection_at_once_lose_nothing(tmp_path):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        db.create_collection("items", SCHEMA).insert(rows([10_000]))
    context = multiprocessing.get_context("spawn")
    start, answers = context.Barrier(4), context.Queue()
    processes = [
        context.Process(target=write_from_a_process, args=(path, n, start, answers))
        for n in range(4)
    ]
    for process in processes:
        process.start()
    told = [answers.get(timeout=120) for _ in processes]
    for process in processes:
        process.join()
    acknowledged = {key for done, _ in told for key in done}
    assert {what for _, what in told} <= {"done", "GV-602"}
    assert any(what == "done" for _, what in told)
    assert ids_in(path) == acknowledged | {10_000}


# 6. A delete in one partition reaches others


def test_a_delete_in_a_partition_leaves_the_others(tmp_path):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(10)), partition="p1")
        items.flush()
        items.insert(rows(range(10, 20)), partition="p2")
        items.insert(rows(range(20, 30)))
        items.delete(items.partition("p1").filter("id >= 0"))
        assert ids_in(path) == set(range(10, 30))
        items.flush()
        items.drop_partition("p2")
    assert ids_in(path) == set(range(20, 30))


def test_a_key_deleted_in_its_partition_can_live_in_another(tmp_path):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert(rows(range(10)), partition="p1")
        items.flush()
        items.upsert(rows([3]), partition="p2")
        items.delete(items.partition("p1").filter("id < 5"))
        items.flush()
    assert ids_in(path) == {3, 5, 6, 7, 8, 9}


# 7. Reading stops at a torn write, whatever stands behind it


@pytest.fixture(scope="module")
def killed(tmp_path_factory):
    """A database whose process died after ten acknowledged writes, and the size of its log."""
    path = tmp_path_factory.mktemp("torn") / "db"
    code = (
        "import os, sys, gpuvec as gv\n"
        "db = gv.connect(sys.argv[1])\n"
        "schema = gv.Schema({'id': gv.Int64(), 'v': gv.Vector(4)}, 'id')\n"
        "items = db.create_collection('items', schema)\n"
        "sizes = []\n"
        "for n in range(10):\n"
        "    items.insert({'id': [n], 'v': [[n + 1.0] * 4]})\n"
        "    sizes.append(max(p.stat().st_size for p in db._engine._store.root.rglob('*.log')))\n"
        "print(*sizes, flush=True)\n"
        "os._exit(9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 9, done.stderr
    return path, list(map(int, done.stdout.split()))


def log_of(path):
    return max(path.rglob("*.log"), key=lambda log: log.stat().st_size)


def test_a_write_cut_off_at_any_byte_takes_none_before_it_along(killed, tmp_path):
    path, sizes = killed
    for number, at in enumerate(range(sizes[-2] + 1, sizes[-1], 97)):
        copy = tmp_path / str(number)
        shutil.copytree(path, copy)
        log = log_of(copy)
        log.write_bytes(log.read_bytes()[:at])
        assert verify(copy).is_sound
        assert ids_in(copy) == set(range(9))
        with gv.connect(copy) as db:
            db["items"].insert(rows([50]))
        assert ids_in(copy) == {*range(9), 50}


@pytest.mark.parametrize("write", [0, 4, 8])
def test_damage_before_the_last_write_is_an_error_never_fewer_rows(killed, tmp_path, write):
    path, sizes = killed
    copy = tmp_path / "db"
    shutil.copytree(path, copy)
    log = log_of(copy)
    data = bytearray(log.read_bytes())
    data[sizes[write] - 20] ^= 1
    log.write_bytes(data)
    for _ in range(2):
        with gv.connect(copy) as db, pytest.raises(gv.CorruptError, match="GV-526"):
            db["items"].to_arrow()
        with gv.connect(copy) as db, pytest.raises(gv.CorruptError, match="GV-526"):
            db["items"].insert(rows([50]))
    assert log.read_bytes() == bytes(data), "nothing may be cut"
    assert [finding.code for finding in verify(copy).findings] == ["GV-526"]


def test_a_log_cut_after_its_database_was_closed_is_an_error(tmp_path):
    path = tmp_path / "db"
    with gv.connect(path) as db:
        items = db.create_collection("items", SCHEMA)
        for n in range(10):
            items.insert(rows([n]))
    log = log_of(path)
    log.write_bytes(log.read_bytes()[:-100])
    with gv.connect(path) as db, pytest.raises(gv.CorruptError, match="GV-526"):
        db["items"].to_arrow()
