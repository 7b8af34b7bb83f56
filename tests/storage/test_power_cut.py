"""The real LocalStore on a disk that loses power, at every call it makes."""

import errno
import itertools

import pytest

from gpuvec.errors import StorageError
from gpuvec.storage.local import LocalStore
from gpuvec.testing.disk import ModelDisk, PowerCut
from gpuvec.testing.history import EXAMPLE_LOG as LOG
from gpuvec.testing.history import EXAMPLE_STEPS as STEPS
from gpuvec.testing.history import StoreHistory

ROOT = "/home/db"
OUTCOMES = [
    *itertools.product(("all", "none"), ("all", "none", "half", "zeros"), (0,)),
    *(("random", "random", seed) for seed in range(12)),
    *(("all", "random", seed) for seed in range(4)),
]


def run_until(cut_at, **options):
    disk = ModelDisk(cut_at=cut_at, write_bytes=12, **options)
    history = StoreHistory(LocalStore(ROOT, system=disk))
    try:
        history.run(STEPS)
    except PowerCut:
        return disk, history, True
    return disk, history, False


def find_violation(**options):
    for cut_at in itertools.count():
        disk, history, was_cut = run_until(cut_at, **options)
        for outcome in OUTCOMES:
            try:
                history.check(LocalStore(ROOT, system=disk.after_power_cut(*outcome)))
            except AssertionError as error:
                return f"cut at {cut_at} ({disk.calls[-1]}), {outcome}: {error}"
        if not was_cut:
            return None


def test_nothing_acknowledged_is_lost_and_nothing_torn_is_seen_after_a_power_cut():
    assert find_violation() is None


@pytest.mark.parametrize(("call", "what"), [
    ("fsync folder", ""),
    ("fsync", ""),
    ("fdatasync", "an acknowledged append is gone"),
])  # fmt: skip
def test_the_model_finds_each_sync_that_is_left_out(call, what):
    assert what in find_violation(ignored={call})


def test_a_kill_without_power_cut_loses_nothing():
    for cut_at in itertools.count():
        disk, history, was_cut = run_until(cut_at)
        history.check(LocalStore(ROOT, system=disk.after_kill()))
        if not was_cut:
            return


def test_what_another_process_was_told_exists_survives_a_power_cut():
    """A creator dies between naming its object and syncing the folder; a second one is refused."""
    for cut_at in itertools.count():
        disk = ModelDisk(cut_at=cut_at)
        was_cut = False
        try:
            LocalStore(ROOT, system=disk).put_if_absent("log/1", b"first")
        except PowerCut:
            was_cut = True
        later = disk.after_kill()
        created = LocalStore(ROOT, system=later).put_if_absent("log/1", b"second")
        after = LocalStore(ROOT, system=later.after_power_cut("none", "none"))
        assert after.get("log/1") == (b"second" if created else b"first")
        if not was_cut:
            return


def test_a_folder_left_by_a_dead_process_becomes_durable_with_its_first_object():
    for cut_at in itertools.count():
        disk = ModelDisk(cut_at=cut_at)
        was_cut = False
        try:
            LocalStore(ROOT, system=disk).put("a/b/c/1", [b"x"])
        except PowerCut:
            was_cut = True
        later = disk.after_kill()
        LocalStore(ROOT, system=later).put("a/b/c/2", [b"y"])
        after = LocalStore(ROOT, system=later.after_power_cut("none", "none"))
        assert after.get("a/b/c/2") == b"y"
        if not was_cut:
            return


@pytest.mark.parametrize("code", [errno.EIO, errno.ENOSPC, errno.EROFS])
def test_a_call_that_fails_loses_nothing_acknowledged_before_or_after(code):
    calls = len(run_until(None)[0].calls)
    for number in range(calls):
        disk = ModelDisk(failures={number: code}, write_bytes=12)
        history = StoreHistory(LocalStore(ROOT, system=disk))
        history.run(STEPS, go_on=True)
        for outcome in (("none", "none", 0), ("all", "zeros", 0), ("random", "random", 1)):
            history.check(LocalStore(ROOT, system=disk.after_power_cut(*outcome)))


def test_after_a_failed_sync_a_log_takes_nothing_more():
    disk = ModelDisk(failures={_first(store_calls(), "fdatasync", skip=1): errno.EIO})
    store = LocalStore(ROOT, system=disk)
    store.append(LOG, b"one;")
    with pytest.raises(StorageError, match="Input/output error") as caught:
        store.append(LOG, b"two;")
    assert caught.value.code == "GV-504"
    for _ in range(2):
        with pytest.raises(StorageError, match="an earlier append failed") as caught:
            store.append(LOG, b"three;")
        assert caught.value.code == "GV-507"
    store.append(f"{LOG}.2", b"two;")
    after = LocalStore(ROOT, system=disk.after_power_cut("none", "none"))
    assert after.get(LOG) == b"one;"
    assert after.get(f"{LOG}.2") == b"two;"


def store_calls():
    disk = ModelDisk()
    store = LocalStore(ROOT, system=disk)
    store.append(LOG, b"one;")
    store.append(LOG, b"two;")
    return disk.calls


def _first(calls, name, *, skip=0):
    return [number for number, call in enumerate(calls) if call == name][skip]


def test_without_sync_a_kill_loses_nothing_though_a_power_cut_may():
    disk = ModelDisk()
    store = LocalStore(ROOT, durability="os", system=disk)
    history = StoreHistory(store)
    history.run(STEPS)
    history.check(LocalStore(ROOT, system=disk.after_kill()))
    assert not [call for call in disk.calls if "sync" in call]
    with pytest.raises(AssertionError):
        history.check(LocalStore(ROOT, system=disk.after_power_cut("none", "none")))
