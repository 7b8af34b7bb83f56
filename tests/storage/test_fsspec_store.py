import importlib.util
import os
import secrets
import time
from pathlib import Path
from typing import ClassVar

import fsspec
import numpy as np
import pytest
from fsspec.implementations.local import LocalFileSystem
from fsspec.implementations.memory import MemoryFileSystem

import gpuvec as gv
from gpuvec.errors import (
    ConflictError,
    CorruptError,
    GpuvecError,
    QueryError,
    StorageError,
    UnsupportedError,
)
from gpuvec.storage import fsspec_open, fsspec_store
from gpuvec.storage.fsspec_open import REFUSED, open_fsspec
from gpuvec.storage.fsspec_store import TRIES, FsspecStore
from gpuvec.storage.fsspec_writes import NEW, WRITINGS
from gpuvec.storage.local import LocalStore
from gpuvec.storage.open import open_store
from gpuvec.storage.probe import probe
from gpuvec.testing.servers import SSHD, sftp_server
from gpuvec.testing.stores import ObjectStoreTests

SCHEMA = gv.Schema({"id": gv.Int64(), "v": gv.Vector(4)}, primary_key="id")
NO_SFTP = not os.path.exists(SSHD) or importlib.util.find_spec("paramiko") is None
sftp_only = pytest.mark.skipif(NO_SFTP, reason="sshd or paramiko is not installed")


class Isolated(MemoryFileSystem):
    """Memory of its own, that stays over all connections of a test."""

    protocol = "isolated"
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]


@pytest.fixture
def memory():
    Isolated.store.clear()
    Isolated.pseudo_dirs[:] = [""]
    return Isolated


def in_memory(kind, writing=WRITINGS["memory"]):
    return FsspecStore(lambda: kind(skip_instance_cache=True), "/a b/c", "m://", writing=writing)


class TestMemory(ObjectStoreTests):
    @pytest.fixture
    def store(self, memory):
        return in_memory(memory)


@sftp_only
class TestSftp(ObjectStoreTests):
    @pytest.fixture
    def store(self, sftp):
        url, options = sftp
        return open_store(f"{url}/t{time.time_ns():x}/a b", options)


def test_memory_passes_the_probe_and_nothing_stays(memory):
    store = in_memory(memory)
    probe(store, "x")
    assert store.list("") == []


@sftp_only
def test_sftp_passes_the_probe_and_nothing_stays(sftp):
    url, options = sftp
    store = open_store(f"{url}/probed", options)
    probe(store, "x")
    assert store.list("") == []
    assert store.peek() == [NEW, "probe"]
    root = fsspec_store_root(url, "probed")
    assert os.listdir(root / NEW) == []


def fsspec_store_root(url, name):
    return Path("/" + url.partition("://")[2].partition("/")[2]) / name


@sftp_only
def test_a_database_over_sftp_is_written_and_read_by_two(sftp):
    url, options = sftp
    where = {"path": f"{url}/shop", "storage_options": options}
    with gv.connect(**where) as db:
        items = db.create_collection("items", SCHEMA)
        items.insert({"id": np.arange(100), "v": np.eye(4, dtype=np.float32)[np.arange(100) % 4]})
        items.flush()
        items.delete(ids=[7])
    with gv.connect(**where) as db:
        items = db["items"]
        assert items.count() == 99
        found = items.search(np.eye(4, dtype=np.float32)[0], k=25).to_pandas()
        assert set(found["id"] % 4) == {0}
        items.insert({"id": [7], "v": np.ones((1, 4), np.float32)})
        assert items.count() == 100


@sftp_only
def test_over_sftp_the_last_writer_takes_over(sftp):
    url, options = sftp
    other = url.replace("sftp://", "ssh://")
    with (
        gv.connect(f"{url}/taken", storage_options=options) as db,
        gv.connect(f"{other}/taken", storage_options=options) as second,
    ):
        items = db.create_collection("items", SCHEMA)
        items.insert({"id": [1], "v": np.ones((1, 4), np.float32)})
        second["items"].insert({"id": [2], "v": np.ones((1, 4), np.float32)})
        with pytest.raises(ConflictError) as caught:
            items.insert({"id": [3], "v": np.ones((1, 4), np.float32)})
        assert caught.value.code == "GV-538"
        assert second["items"].count() == items.count() == 2


@sftp_only
def test_a_server_that_stops_answering_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setattr(fsspec_open, "ANSWER_S", 0.3)
    monkeypatch.setattr(fsspec_store, "TRIES", 1)
    with sftp_server(tmp_path) as (url, options):
        store = open_store(f"{url}/db", options)
        store.put("k", [b"x"])
        (connection,) = store._free
        connection.ftp.get_channel().transport.packetizer.write_all = lambda _: None  # lost
        with pytest.raises(StorageError, match="cannot read") as caught:
            store.get("k")
        assert caught.value.code == "GV-532"
        assert store.get("k") == b"x"  # through another connection


@sftp_only
def test_what_died_writers_left_over_sftp_is_swept(sftp):
    url, options = sftp
    store = open_store(f"{url}/swept", options)
    store.put("k", [b"x"])
    folder = fsspec_store_root(url, "swept") / NEW
    (folder / "old").write_bytes(b"torn")
    (folder / "young").write_bytes(b"torn")
    os.utime(folder / "old", (1, 1))
    assert store.sweep(time.time() - 3600) == 1
    assert os.listdir(folder) == ["young"]
    assert store.get("k") == b"x"


@sftp_only
def test_a_server_that_is_not_there_is_said_to_be_unreachable(sftp, monkeypatch):
    monkeypatch.setattr(fsspec_store, "_PAUSE_S", 0.0)
    store = open_store("sftp://127.0.0.1:1/shop", sftp[1])
    with pytest.raises(StorageError, match=f"tried {TRIES} times") as caught:
        store.size("k")
    assert caught.value.code == "GV-532"


@sftp_only
def test_a_stranger_over_sftp_is_told_so(sftp):
    url = sftp[0].replace("sftp://", "sftp://nobody-")
    store = open_store(url, sftp[1])
    with pytest.raises(StorageError, match="may not look at") as caught:
        store.size("k")
    assert caught.value.code == "GV-533"


def local_through_fsspec(path):
    return FsspecStore(
        lambda: LocalFileSystem(skip_instance_cache=True), str(path), f"x://{path}", writing=None
    )


def test_what_is_not_known_to_create_once_is_read_and_never_written(tmp_path):
    LocalStore(tmp_path).put("a/b", [b"0123456789"])
    store = local_through_fsspec(tmp_path)
    assert store.get("a/b") == b"0123456789"
    assert store.get_range("a/b", 3, 4) == b"3456"
    assert store.list("") == ["a/b"]
    assert store.folders("a") == []
    assert (store.size("a"), store.size("a/b"), store.size("a/b/c")) == (None, 10, None)
    with pytest.raises(CorruptError, match="should have 12 bytes, it has 10"):
        store.get_range("a/b", 5, 7)
    for call in (
        lambda: store.put("c", [b"x"]),
        lambda: store.put_if_absent("c", b"x"),
        lambda: store.delete(["a/b"]),
        lambda: probe(store, "x"),
    ):
        with pytest.raises(StorageError, match="keep two writers apart") as caught:
            call()
        assert caught.value.code == "GV-531"
    assert os.listdir(tmp_path) == ["a"]


def test_a_database_in_a_file_system_that_cannot_write_is_read(tmp_path):
    with gv.connect(tmp_path / "db") as db:
        items = db.create_collection("items", SCHEMA)
        items.insert({"id": [1, 2, 3], "v": np.ones((3, 4), np.float32)})
        items.flush()
    fsspec.register_implementation("readonly", ReadOnly, clobber=True)
    with gv.connect(f"readonly://{tmp_path}/db") as db:
        found = db["items"].search(np.ones(4, np.float32), k=3).to_pandas()
        assert found["id"].tolist() == [1, 2, 3]
        with pytest.raises(GpuvecError, match="keep two writers apart") as caught:
            db["items"].insert({"id": [4], "v": np.ones((1, 4), np.float32)})
        assert caught.value.code == "GV-531"


class ReadOnly(LocalFileSystem):
    """Local files under another scheme."""

    protocol = "readonly"

    @classmethod
    def _strip_protocol(cls, path):
        return super()._strip_protocol(path.removeprefix("readonly://"))


class Links:
    """Creates local files by a hard link, as `LocalStore` does."""

    def create(self, system, root, path, data):
        made = self._write(root, path, [data])
        try:
            os.link(made, path)
        except FileExistsError:
            return False
        finally:
            os.unlink(made)
        return True

    def replace(self, system, root, path, parts):
        os.replace(self._write(root, path, parts), path)

    def _write(self, root, path, parts):
        made = Path(root) / NEW / secrets.token_hex(8)
        for folder in (made.parent, Path(path).parent):
            folder.mkdir(parents=True, exist_ok=True)
        made.write_bytes(b"".join(parts))
        return made


class TestLocalFolder(ObjectStoreTests):
    @pytest.fixture
    def store(self, tmp_path):
        connect = lambda: LocalFileSystem(skip_instance_cache=True)  # noqa: E731
        return FsspecStore(connect, str(tmp_path / "db"), "x://db", writing=Links())


class RenamesOver:
    """An SFTP server that replaces what it renames onto, as some do."""

    def create(self, system, root, path, data):
        there = system.exists(path)
        system.pipe_file(path, data)
        return not there

    def replace(self, system, root, path, parts):
        system.pipe_file(path, b"".join(parts))


def test_a_server_that_renames_over_files_is_refused(memory):
    store = in_memory(memory, RenamesOver())
    with pytest.raises(StorageError, match="keep two writers apart") as caught:
        probe(store, "x")
    assert caught.value.code == "GV-531"
    assert store.list("") == []


class Troubled(Isolated):
    """Fails the first requests of each kind with errors of its own."""

    protocol = "troubled"
    fails = 0

    class OwnError(Exception):
        pass

    def _maybe(self):
        if type(self).fails > 0:
            type(self).fails -= 1
            raise self.OwnError("502 bad gateway")

    def cat_file(self, *args, **kwargs):
        self._maybe()
        return super().cat_file(*args, **kwargs)

    def ls(self, *args, **kwargs):
        self._maybe()
        return super().ls(*args, **kwargs)

    def pipe_file(self, *args, **kwargs):
        super().pipe_file(*args, **kwargs)
        self._maybe()  # the answer gets lost


@pytest.fixture
def troubled(memory, monkeypatch):
    monkeypatch.setattr(fsspec_store, "_PAUSE_S", 0.0)
    monkeypatch.setattr(Troubled, "fails", 0)
    return Troubled


def test_requests_that_fail_are_sent_again(troubled):
    store = in_memory(troubled)
    store.put("a/b", [b"12"])
    for call, wanted in (
        (lambda: store.get("a/b"), b"12"),
        (lambda: store.get_range("a/b", 1, 1), b"2"),
        (lambda: store.list(""), ["a/b"]),
    ):
        troubled.fails = TRIES - 1
        assert call() == wanted
        troubled.fails = TRIES
        with pytest.raises(StorageError, match=f"tried {TRIES} times: OwnError: 502") as caught:
            call()
        assert caught.value.code == "GV-532"
        assert not caught.value.details["missing"]


def test_a_list_is_whole_or_an_error(troubled):
    store = in_memory(troubled)
    store.put("a/b", [b"12"])
    troubled.fails = 10**6
    with pytest.raises(StorageError):
        store.list("a/")
    with pytest.raises(StorageError):
        store.peek()


def test_a_lost_answer_to_a_create_says_exists_and_the_bytes_are_there(troubled):
    store = in_memory(troubled)
    troubled.fails = 1
    assert store.put_if_absent("log/1", b"mine") is False  # whoever asked reads it back
    assert store.get("log/1") == b"mine"


class Short(Isolated):
    """Answers ranges with less, or with everything."""

    protocol = "short"
    answer = slice(None)

    def cat_file(self, path, start=None, end=None, **kwargs):
        return super().cat_file(path)[self.answer] if start is not None else super().cat_file(path)


@pytest.mark.parametrize("answer", [slice(None), slice(0, 2), slice(0, 0)])
def test_a_range_of_another_length_is_never_passed_on(memory, answer, monkeypatch):
    monkeypatch.setattr(Short, "answer", answer)
    store = in_memory(Short)
    store.put("k", [b"0123456789"])
    with pytest.raises(StorageError, match=r"3 bytes were asked for, \d+ came"):
        store.get_range("k", 3, 3)


@pytest.mark.parametrize("scheme", sorted(REFUSED))
def test_what_cannot_list_or_answers_from_copies_is_refused(scheme):
    with pytest.raises(UnsupportedError) as caught:
        open_store(f"{scheme}://x.org/db")
    assert caught.value.code == "GV-508"


@pytest.mark.parametrize(
    "url", ["no-such-scheme://x/y", "simplecache::s3://b/x", "ftp://", "sftp://host", "a::b://c"]
)
def test_urls_of_no_file_system_are_refused(url):
    with pytest.raises(UnsupportedError, match="should be a path") as caught:
        open_store(url)
    assert caught.value.code == "GV-508"


def test_passwords_do_not_stand_in_urls():
    with pytest.raises(QueryError, match="holds a password") as caught:
        open_store("ftp://me:secret@host/x")
    assert caught.value.code == "GV-515"
    assert "secret" not in str(caught.value)


def test_a_missing_library_is_named(monkeypatch):
    def missing(scheme):
        raise ImportError("Install paramiko")

    monkeypatch.setattr(fsspec, "get_filesystem_class", missing)
    with pytest.raises(UnsupportedError, match="Install paramiko") as caught:
        open_fsspec("sftp://h/x", "sftp", "h/x", None)
    assert caught.value.code == "GV-534"
