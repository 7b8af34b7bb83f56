import os
import threading
import time

import numpy as np
import pytest

from gpuvec.clock import SystemClock
from gpuvec.errors import CorruptError, StorageError, UnavailableError
from gpuvec.storage.object_store import run
from gpuvec.storage.open import open_store
from gpuvec.storage.probe import probe
from gpuvec.storage.remote import PART_BYTES, RETRIES
from gpuvec.testing.interceptor import Trouble, first, intercepted
from gpuvec.testing.stores import ObjectStoreTests
from gpuvec.wal.channel import create


@pytest.fixture
def store(s3):
    return open_store(s3.new_url(), s3.options)


class TestS3(ObjectStoreTests):
    pass


class TestS3WithoutAFolder(ObjectStoreTests):
    @pytest.fixture
    def store(self, s3):
        bucket = f"whole-{time.time_ns():x}"
        s3.client().create_bucket(Bucket=bucket)
        return open_store(f"s3a://{bucket}/", s3.options)


def test_a_folder_may_have_any_name(s3):
    one, other = (
        open_store(f"{s3.new_url()}/My Data ~%20ä{end}/x//y/", s3.options) for end in "12"
    )
    one.put("a/k~41.b", [b"1"])
    assert one.list("") == one.list("a") == one.list("a/k") == ["a/k~41.b"]
    assert one.get("a/k~41.b") == b"1"
    assert other.list("") == []


def test_large_objects_go_up_and_come_down_in_parts(store):
    parts = [np.random.default_rng(n).bytes(PART_BYTES * 2 // 3 + n) for n in range(4)]
    store.put("large", [memoryview(part) for part in parts] + [b""])
    whole = b"".join(parts)
    assert store.size("large") == len(whole)
    assert store.get("large") == whole
    start = PART_BYTES - 7
    assert store.get_range("large", start, 20) == whole[start : start + 20]


def test_an_object_of_exactly_one_part(store):
    store.put("exact", [np.zeros(PART_BYTES, np.uint8)])
    assert store.get("exact") == bytes(PART_BYTES)


def test_many_keys_are_listed_and_deleted_in_pages(store):
    names = [f"wal/{number:05d}" for number in range(1060)]
    threads = [
        threading.Thread(
            target=lambda part: [store.put(k, [b"x"]) for k in part], args=(names[i::8],)
        )
        for i in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.list("") == names
    assert store.list("wal/", "wal/01050") == names[1051:]
    store.delete(names[:-1])
    assert store.list("wal/") == names[-1:]


def test_names_at_the_top_and_folders(store):
    for key in ("gpuvec.json", "collections/c-1/a/b", "collections/c-2/a", "collections/x"):
        store.put(key, [b"x"])
    assert store.peek() == ["collections", "gpuvec.json"]
    assert store.folders("collections") == ["c-1", "c-2"]
    assert store.folders("none") == []


def test_a_lost_answer_to_a_create_is_found_out_by_reading_back(s3):
    url = s3.new_url()
    lost = first(1, lambda request: request.creates, Trouble(lose_answer=True))
    with intercepted(s3, lost) as troubled:
        store = open_store(url, troubled.options)
        assert run(create("log/1", b"mine"), store, SystemClock()) is None
        assert run(create("log/1", b"another's"), store, SystemClock()) == b"mine"


@pytest.mark.parametrize("status", [500, 503])
def test_busy_servers_are_asked_again(s3, status):
    asked = []

    def plan(request):
        asked.append(request)
        return Trouble(status=status) if len(asked) <= 2 else Trouble()

    with intercepted(s3, plan) as troubled:
        store = open_store(s3.new_url(), troubled.options)
        assert store.put_if_absent("k", b"1") is True
    assert len(asked) == 3


def test_a_conflict_over_nothing_is_an_error_that_may_be_retried(s3):
    conflict = first(3, lambda request: request.creates, Trouble(status=409))
    with intercepted(s3, conflict) as troubled:
        store = open_store(s3.new_url(), troubled.options)
        assert run(create("log/1", b"mine"), store, SystemClock()) is None
        assert store.get("log/1") == b"mine"


def test_what_keeps_failing_is_an_error_with_its_cause(s3):
    with intercepted(s3, lambda _: Trouble(status=503)) as troubled:
        store = open_store(s3.new_url(), troubled.options)
        with pytest.raises(
            StorageError, match=r"cannot read s3://.*/folder/k, tried 6 times"
        ) as caught:
            store.get("folder/k")
    assert caught.value.code == "GV-532"
    assert caught.value.details["attempts"] == RETRIES + 1
    assert "503" in caught.value.details["cause"]
    assert not isinstance(caught.value, CorruptError)


def test_a_refusal_is_told_from_a_failure(s3):
    with intercepted(s3, lambda _: Trouble(status=403)) as troubled:
        store = open_store(s3.new_url(), troubled.options)
        calls = [
            lambda: store.get("k"), lambda: store.put("k", [b"x"]), lambda: store.list(""),
            lambda: store.put_if_absent("k", b"x"), lambda: store.size("k"),
            lambda: store.delete(["k"]), lambda: probe(store, "here"),
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(StorageError, match="403") as caught:
                call()
            assert caught.value.code == "GV-533"


def test_a_bucket_that_is_not_there_is_named(s3):
    store = open_store("s3://no-such-bucket/shop", s3.options)
    for call in (lambda: store.list(""), lambda: store.put("k", [b"x"]), lambda: store.peek()):
        with pytest.raises(
            StorageError, match="bucket of s3://no-such-bucket/shop does not"
        ) as caught:
            call()
        assert caught.value.code == "GV-535"


def test_nobody_there_is_an_error_within_seconds():
    store = open_store(
        "s3://b-u-c/shop", {"endpoint_url": "http://127.0.0.1:1", "key": "k", "secret": "s"}
    )
    began = time.monotonic()
    with pytest.raises(StorageError, match=r"127\.0\.0\.1:1") as caught:
        store.get("k")
    assert caught.value.code == "GV-532"
    assert time.monotonic() - began < 30


@pytest.mark.parametrize("status", [0, 501])
def test_a_server_that_ignores_or_rejects_the_condition_is_found_out(s3, status):
    def plan(request):
        if not request.creates:
            return Trouble()
        return Trouble(status=status) if status else Trouble(drop_condition=True)

    with intercepted(s3, plan) as troubled:
        store = open_store(s3.new_url(), troubled.options)
        with pytest.raises(StorageError, match="does not keep two writers apart") as caught:
            probe(store, "here")
    assert caught.value.code == "GV-531"
    assert store.list("") == [] if not status else True


def test_a_forked_child_is_told_and_does_not_hang(s3):
    url = s3.new_url()
    open_store(url, s3.options).put("k", [b"x"])
    child = os.fork()
    if not child:
        try:
            open_store(url, s3.options)
        except UnavailableError as error:
            os._exit(16 if error.code == "GV-516" else 1)
        os._exit(2)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 16
