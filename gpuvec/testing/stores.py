"""What every object store must do."""
# ruff: noqa: D102 - a test's name is its rule

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuvec.errors import CorruptError
from gpuvec.storage.object_store import ObjectStore

RACERS = 12
ROUNDS = 8


class ObjectStoreTests:
    """The contract. Inherit it, and give a fixture `store` that is empty."""

    def test_an_object_comes_back_as_it_was_put(self, store: ObjectStore) -> None:
        store.put("a/b.bin", [b"one", memoryview(b"two"), np.arange(3, dtype=np.float32)])
        wanted = b"onetwo" + np.arange(3, dtype=np.float32).tobytes()
        assert store.get("a/b.bin") == wanted
        assert store.size("a/b.bin") == len(wanted)

    def test_an_object_may_be_empty(self, store: ObjectStore) -> None:
        store.put("empty", [])
        assert store.get("empty") == b""
        assert store.size("empty") == 0
        assert store.get_range("empty", 0, 0) == b""

    def test_a_large_object_comes_back_whole(self, store: ObjectStore) -> None:
        parts = [np.full(1 << 20, n, np.uint32) for n in range(5)]
        store.put("large", parts)
        assert store.get("large") == b"".join(part.tobytes() for part in parts)
        assert store.get_range("large", 4 << 20, 4) == b"\1\0\0\0"

    def test_put_replaces(self, store: ObjectStore) -> None:
        store.put("hint", [b"a longer first one"])
        store.put("hint", [b"2"])
        assert store.get("hint") == b"2"

    def test_a_range_is_exact(self, store: ObjectStore) -> None:
        store.put("k", [b"0123456789"])
        assert store.get_range("k", 3, 4) == b"3456"
        assert store.get_range("k", 0, 10) == b"0123456789"
        assert store.get_range("k", 9, 1) == b"9"

    @pytest.mark.parametrize(("start", "length"), [(8, 3), (10, 1), (99, 5)])
    def test_a_range_past_the_end_is_an_error(
        self, store: ObjectStore, start: int, length: int
    ) -> None:
        store.put("k", [b"0123456789"])
        with pytest.raises(CorruptError, match="should have") as caught:
            store.get_range("k", start, length)
        assert caught.value.code == "GV-502"

    def test_what_is_missing_is_an_error_that_names_it(self, store: ObjectStore) -> None:
        store.put("folder/there", [b"x"])
        for key in ("folder/gone", "nowhere/gone", "folder", "folder/there/gone"):
            assert store.size(key) is None
            for read in (store.get, lambda k: store.get_range(k, 0, 1)):
                with pytest.raises(CorruptError, match=key) as caught:
                    read(key)
                assert caught.value.code == "GV-501"
                assert caught.value.details["missing"]

    def test_only_the_first_creates(self, store: ObjectStore) -> None:
        assert store.put_if_absent("log/1", b"mine") is True
        assert store.put_if_absent("log/1", b"another, longer one") is False
        assert store.get("log/1") == b"mine"

    def test_put_if_absent_respects_what_put_wrote(self, store: ObjectStore) -> None:
        store.put("k", [b"put"])
        assert store.put_if_absent("k", b"created") is False
        assert store.get("k") == b"put"

    def test_a_deleted_key_can_be_created_again(self, store: ObjectStore) -> None:
        store.put_if_absent("k", b"1")
        store.delete(["k"])
        assert store.put_if_absent("k", b"2") is True
        assert store.get("k") == b"2"

    def test_nothing_empty_is_created(self, store: ObjectStore) -> None:
        with pytest.raises(AssertionError, match="empty"):
            store.put_if_absent("k", b"")
        assert store.size("k") is None

    def test_of_many_creators_one_wins(self, store: ObjectStore) -> None:
        for turn in range(ROUNDS):
            key = f"race/{turn}"
            won = race(lambda n, key=key: store.put_if_absent(key, f"{n}".encode() * 999))  # type: ignore[misc]
            assert won.count(True) == 1
            assert store.get(key) == f"{won.index(True)}".encode() * 999

    def test_of_many_writers_one_stays_whole(self, store: ObjectStore) -> None:
        race(lambda n: store.put("same", [f"{n:02d}".encode() * 500] * 4))
        found = store.get("same")
        assert found == found[:2] * 2000

    def test_a_log_grows_at_its_end(self, store: ObjectStore) -> None:
        self._skip_without_logs(store)
        store.append("wal/s000/e1.log", b"one")
        store.append("wal/s000/e1.log", b"two")
        store.append("wal/s000/e2.log", b"three")
        assert store.get("wal/s000/e1.log") == b"onetwo"
        assert store.get_range("wal/s000/e1.log", 3, 3) == b"two"
        assert store.size("wal/s000/e1.log") == 6
        assert store.get("wal/s000/e2.log") == b"three"
        store.sync("wal/s000/e1.log")

    def test_a_deleted_log_begins_anew(self, store: ObjectStore) -> None:
        self._skip_without_logs(store)
        store.append("l", b"old")
        store.delete(["l"])
        assert store.size("l") is None
        store.append("l", b"new")
        assert store.get("l") == b"new"

    def test_appends_of_many_threads_do_not_mix(self, store: ObjectStore) -> None:
        self._skip_without_logs(store)

        def write(number: int) -> None:
            for _ in range(4):
                store.append("l", bytes([number]) * 1000)

        race(write)
        found = np.frombuffer(store.get("l"), np.uint8).reshape(-1, 1000)
        assert (found == found[:, :1]).all()
        assert np.bincount(found[:, 0], minlength=RACERS).tolist() == [4] * RACERS

    def test_keys_are_listed_in_order(self, store: ObjectStore) -> None:
        wanted = ["a", "a.b/c", "a/1", "a/1.x", "a/2/z", "ab/1", "b"]
        for key in reversed(wanted):
            store.put(key, [b"x"]) if key != "a" else None
        wanted.remove("a")
        assert store.list("") == wanted
        assert store.list("a/") == ["a/1", "a/1.x", "a/2/z"]
        assert store.list("a") == ["a.b/c", "a/1", "a/1.x", "a/2/z", "ab/1"]
        assert store.list("a/2") == ["a/2/z"]
        assert store.list("a/2/") == ["a/2/z"]
        assert store.list("none/") == store.list("b/") == []

    def test_a_list_begins_after_any_text(self, store: ObjectStore) -> None:
        wanted = sorted(["m/00/a", "m/01/a", "m/01/b", "m/02", "m/02.x", "n"])
        for key in wanted:
            store.put(key, [b"x"])
        for after in ["", "a", *wanted, "m/", "m/01", "m/01/", "m/01/aa", "m/02-", "z"]:
            assert store.list("", after) == [key for key in wanted if key > after], after

    def test_deleting_passes_over_what_is_gone(self, store: ObjectStore) -> None:
        store.put("d/1", [b"x"])
        store.put("d/2", [b"x"])
        store.delete(["d/1", "d/9", "e/f/g", "d/1", "d/2/not"])
        assert store.list("") == ["d/2"]
        store.delete([])

    @pytest.mark.parametrize(
        "key",
        ["", "/a", "a/", "a//b", "..", "../a", "a/../b", ".hidden", "a/.b", "A", "ä", "a b", "a\0b",
         "a\n", "a\\b"],
    )  # fmt: skip
    def test_what_is_no_key_is_a_bug(self, store: ObjectStore, key: str) -> None:
        calls: list[Callable[[], Any]] = [
            lambda: store.get(key),
            lambda: store.put(key, [b"x"]),
            lambda: store.put_if_absent(key, b"x"),
            lambda: store.size(key),
            lambda: store.delete([key]),
            lambda: store.local_path(key),
        ]
        for call in calls:
            with pytest.raises(AssertionError, match="no key"):
                call()

    def test_a_local_path_holds_the_bytes(self, store: ObjectStore) -> None:
        store.put("a/b", [b"bytes"])
        path = store.local_path("a/b")
        if path is not None:
            assert path.read_bytes() == b"bytes"

    def _skip_without_logs(self, store: ObjectStore) -> None:
        if not store.appendable:
            with pytest.raises(AssertionError, match="no logs"):
                store.append("l", b"x")
            pytest.skip("this store has no logs")


def race(action: Callable[[int], Any]) -> list[Any]:
    """Run `action(0)` to `action(11)` on threads that start together; return the results."""
    barrier = threading.Barrier(RACERS)
    results: list[Any] = [None] * RACERS

    def runner(number: int) -> None:
        barrier.wait()
        results[number] = action(number)

    threads = [threading.Thread(target=runner, args=(n,)) for n in range(RACERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results
