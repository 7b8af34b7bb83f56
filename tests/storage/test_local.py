import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gpuvec.errors import QueryError, StorageError, UnavailableError
from gpuvec.storage.local import LocalStore
from gpuvec.storage.system import HOST, FullSync
from gpuvec.testing.disk import ModelDisk


@pytest.fixture
def store(tmp_path):
    store = LocalStore(tmp_path / "db")
    yield store
    store.close()


def test_a_store_that_was_only_read_leaves_no_trace(tmp_path):
    store = LocalStore(tmp_path / "db")
    assert store.list("") == []
    assert store.size("k") is None
    store.delete(["k"])
    assert not (tmp_path / "db").exists()


def test_a_relative_root_stays_where_it_was(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    store = LocalStore("db")
    monkeypatch.chdir("/")
    store.put("k", [b"x"])
    assert (tmp_path / "db" / "k").read_bytes() == b"x"


def test_objects_lie_under_their_keys_and_nothing_else_does(store):
    store.put("seg/01a/vec-e.arrow", [b"x"])
    store.put_if_absent("manifest/1.json", b"y")
    store.append("wal/e1.log", b"z")
    files = sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*") if p.is_file())
    assert files == ["manifest/1.json", "seg/01a/vec-e.arrow", "wal/e1.log"]


def test_files_of_others_are_not_listed(store):
    store.put("a/k", [b"x"])
    for name in ("README.md", ".hidden", "a/.0123.tmp", "a/Über"):
        (store.root / name).write_text("not ours")
    (store.root / ".git").mkdir()
    (store.root / ".git" / "config").write_text("not ours")
    assert store.list("") == ["a/k"]


def test_a_new_store_goes_on_with_the_logs_of_the_last(store):
    store.append("l", b"one")
    store.close()
    store.append("l", b"two")
    LocalStore(store.root).append("l", b"three")
    assert store.get("l") == b"onetwothree"


def test_a_mapped_object_outlives_its_replacement_and_its_deletion(store):
    store.put("k", [b"old"])
    with store.local_path("k").open("rb") as file:
        store.put("k", [b"newer"])
        store.delete(["k"])
        assert file.read() == b"old"


def test_sweeping_removes_what_the_dead_left_and_nothing_else(store):
    store.put("seg/01a/f", [b"x"])
    store.put("seg/01b/f", [b"x"])
    store.delete(["seg/01b/f"])
    old, new, foreign = "seg/01a/.0123456789abcdef.tmp", ".fedcba9876543210.tmp", ".vimrc.tmp"
    for name in (old, new, foreign):
        (store.root / name).write_text("x")
    os.utime(store.root / old, (1000, 1000))
    os.utime(store.root / foreign, (1000, 1000))
    (store.root / "Not Ours").mkdir()
    assert store.sweep(2000) == 2  # the file and the empty folder
    assert sorted(str(p.relative_to(store.root)) for p in store.root.rglob("*")) == sorted(
        [new, foreign, "Not Ours", "seg", "seg/01a", "seg/01a/f"]
    )
    store.put("seg/01b/f", [b"back"])  # the folder is made again
    assert store.get("seg/01b/f") == b"back"


def test_the_folder_of_what_was_dropped_goes_with_what_killed_writers_left(store):
    store.put("collections/c-1/wal/s000/1", [b"x"])
    store.put("collections/c-2/wal/s000/1", [b"x"])
    for name in ("c-1", "c-2"):
        young = store.root / f"collections/{name}/wal/s000/.0123456789abcdef.tmp"
        young.write_text("torn")
    store.delete(["collections/c-1/wal/s000/1"])
    for name in ("c-1", "c-2"):
        store.remove_folder(f"collections/{name}")
    assert store.folders("collections") == ["c-2"]
    assert store.get("collections/c-2/wal/s000/1") == b"x"


def test_writing_goes_on_while_folders_are_swept_away(store):
    for turn in range(50):
        store.put("a/b/c/k", [b"x"])
        store.delete(["a/b/c/k"])
        assert store.sweep(0) == 3, turn
    LocalStore(store.root).sweep(0)


def test_a_failed_log_stays_failed_after_closing():
    disk = ModelDisk()
    LocalStore("/db", system=disk).append("l", b"x")
    disk = ModelDisk(failures={disk.calls.index("fdatasync"): errno.EIO})
    store = LocalStore("/db", system=disk)
    with pytest.raises(StorageError, match="Input/output"):
        store.append("l", b"x")
    store.close()
    with pytest.raises(StorageError, match="an earlier append failed"):
        store.append("l", b"x")


@pytest.mark.parametrize(("number", "code", "hint"), [
    (errno.ENOSPC, "GV-505", "make room"),
    (errno.EDQUOT, "GV-505", "make room"),
    (errno.EROFS, "GV-506", "right"),
    (errno.EACCES, "GV-506", "right"),
    (errno.EIO, "GV-504", "check the disk"),
    (errno.EMFILE, "GV-504", "ulimit"),
    (errno.EOPNOTSUPP, "GV-504", "POSIX"),
])  # fmt: skip
def test_a_refusal_says_what_where_why_and_what_to_do(number, code, hint):
    def write(**options):
        disk = ModelDisk(**options)
        return disk, lambda: LocalStore("/db", system=disk).put("a/k", [b"x"])

    disk, put = write()
    put()
    for call, name in enumerate(disk.calls):
        if call < 2:
            continue  # the root's name
        _, put = write(failures={call: number})
        with pytest.raises(StorageError) as caught:
            put()
        assert caught.value.code == code, name
        assert str(caught.value).startswith(f"[{code}] cannot write /db/a/k: {os.strerror(number)}")
        assert hint in caught.value.hint
        assert caught.value.details == {"path": "/db/a/k", "errno": number}


def test_a_failed_write_leaves_no_temporary_file():
    disk = ModelDisk()
    LocalStore("/db", system=disk).put("k", [b"x"])
    for call, name in enumerate(disk.calls):
        if name in ("write", "fsync", "rename"):
            broken = ModelDisk(failures={call: errno.ENOSPC})
            with pytest.raises(StorageError):
                LocalStore("/db", system=broken).put("k", [b"x"])
            with broken.scandir("/db") as entries:
                assert [entry.name for entry in entries] == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may do everything")
def test_a_folder_without_rights_is_named(tmp_path):
    (tmp_path / "db").mkdir(mode=0o500)
    store = LocalStore(tmp_path / "db")
    assert store.list("") == []
    with pytest.raises(StorageError, match="Permission denied") as caught:
        store.put("k", [b"x"])
    assert caught.value.code == "GV-506"


def test_a_full_disk_is_named():
    """/dev/full refuses every byte, as a full disk does."""
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full")
    with pytest.raises(StorageError, match="No space left") as caught:
        _append_to_full_disk()
    assert caught.value.code == "GV-505"


def _append_to_full_disk():
    LocalStore("/dev").append("full", b"x" * 100)


def test_a_root_that_is_a_file_is_named(tmp_path):
    (tmp_path / "file").write_text("x")
    store = LocalStore(tmp_path / "file")
    for call in (lambda: store.put("k", [b"x"]), lambda: store.put("a/k", [b"x"])):
        with pytest.raises(StorageError, match="Not a directory") as caught:
            call()
        assert "choose another path" in caught.value.hint
    assert store.list("") == []
    assert (tmp_path / "file").read_text() == "x"


def test_a_durability_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(QueryError, match='fsync, os; got "none"') as caught:
        LocalStore(tmp_path, durability="none")
    assert caught.value.code == "GV-512"


def test_a_lock_is_held_once(store):
    with store.lock("gpuvec.lock"):
        other = LocalStore(store.root)
        with pytest.raises(UnavailableError, match=f"process {os.getpid()}"):
            other.lock("gpuvec.lock").__enter__()
        with other.lock("another.lock"):
            pass
    with store.lock("gpuvec.lock"):
        pass


def test_the_lock_of_another_process_names_it_and_ends_with_it(store):
    code = (
        "import sys, time; from gpuvec.storage.local import LocalStore\n"
        "with LocalStore(sys.argv[1]).lock('gpuvec.lock'):\n"
        "    print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(store.root)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "held\n"
        with pytest.raises(UnavailableError) as caught, store.lock("gpuvec.lock"):
            pass
        assert f"process {process.pid}" in str(caught.value)
        assert caught.value.details["pid"] == process.pid
        assert caught.value.details["outcome"] == "none"
        process.kill()
        process.wait()
        with store.lock("gpuvec.lock"):
            pass


def test_a_lock_that_cannot_be_made_says_why(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(StorageError, match="cannot lock"):
        LocalStore(tmp_path / "file").lock("gpuvec.lock").__enter__()


@pytest.fixture
def asked(monkeypatch):
    """A system that has no `fdatasync`; what is asked of its disk."""
    asked = []
    monkeypatch.setattr(fcntl, "F_FULLFSYNC", 51, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda fd, command: asked.append(command))
    monkeypatch.delattr(os, "fdatasync")
    return asked


def test_a_system_without_fdatasync_syncs_all_past_the_cache_of_the_disk(tmp_path, asked):
    store = LocalStore(tmp_path / "db", system=FullSync())
    store.append("wal/e1.log", b"x")
    assert asked  # the folders above the log
    asked.clear()
    store.append("wal/e1.log", b"y")
    assert asked == [51]
    store.put("k", [b"z"])
    assert asked == [51, 51, 51]  # the file and its folder
    assert (store.get("wal/e1.log"), store.get("k")) == (b"xy", b"z")


@pytest.mark.parametrize("number", [errno.ENOTSUP, errno.EINVAL, errno.ENOTTY])
def test_a_disk_whose_cache_cannot_be_asked_for_is_synced_as_it_can(
    tmp_path, asked, monkeypatch, number
):
    def refuse(fd, command):
        raise OSError(number, os.strerror(number))

    synced = []
    monkeypatch.setattr(fcntl, "fcntl", refuse)
    monkeypatch.setattr(os, "fsync", synced.append)
    LocalStore(tmp_path / "db", system=FullSync()).put("k", [b"z"])
    assert synced


def test_a_disk_that_fails_to_sync_is_an_error(tmp_path, asked, monkeypatch):
    def fail(fd, command):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "fcntl", fail)
    with pytest.raises(StorageError, match="Input/output"):
        LocalStore(tmp_path / "db", system=FullSync()).put("k", [b"z"])


def test_linux_is_asked_as_it_is():
    assert HOST is os or sys.platform != "linux"


def test_many_logs_need_few_descriptors(tmp_path):
    store = LocalStore(tmp_path)
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(2):
        for number in range(200):
            store.append(f"log-{number}", b"x")
    assert len(os.listdir("/proc/self/fd")) - before <= 65
    assert all(store.get(f"log-{number}") == b"xx" for number in range(200))
