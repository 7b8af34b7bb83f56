"""Runs compiled bodies on the cores this process may use.

The bodies release the GIL and never start threads themselves, so one pool serves everybody and no
core is asked for twice. The calling thread works too.
"""

import ctypes
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_lock = threading.Lock()
_pool: ThreadPoolExecutor | None = None
_helpers: list[int] = []  # the system's names of the pool's threads
_caller_core = -1  # the helpers may run on all cores but this one
_FEW_CORES = 16  # with more there is nearly always an idle one nearby


def core_count() -> int:
    """Return the cores that this process may run on."""
    return len(_cores()) or os.cpu_count() or 1


def _cores() -> set[int]:
    """Return those of the main thread, whoever asks; none where the system does not tell."""
    return os.sched_getaffinity(os.getpid()) if hasattr(os, "sched_getaffinity") else set()


def thread_count(threads: int) -> int:
    """Return how many threads a wish stands for; 0 stands for every core."""
    return min(threads, 4 * core_count()) if threads > 0 else core_count()


def split(size: int, parts: int, *, least: int = 1) -> list[tuple[int, int]]:
    """Cut `range(size)` into at most `parts` near-equal ranges of about `least` or more items."""
    parts = max(1, min(parts, size // max(1, least)))
    edges = [size * part // parts for part in range(parts + 1)]
    return list(pairwise(edges))


def run_parallel(work: Callable[[T], R], items: Sequence[T], threads: int = 0) -> list[R]:
    """Return `[work(item) for item in items]`, done by up to `threads` threads.

    The calling thread works too, so calls may be nested. An exception is raised once all that had
    begun have ended.
    """
    wanted = min(thread_count(threads), len(items))
    if wanted <= 1:
        return [work(item) for item in items]
    results: list[R | None] = [None] * len(items)
    places = iter(range(len(items)))
    take = threading.Lock()

    def drain() -> None:
        while True:
            with take:
                place = next(places, None)
            if place is None:
                return
            results[place] = work(items[place])

    pool = _shared_pool()
    _leave_core()
    helpers = [pool.submit(drain) for _ in range(wanted - 1)]
    try:
        drain()
    finally:
        # One that has not begun would find nothing to do; waiting for it could wait for ever.
        begun = [helper for helper in helpers if not helper.cancel()]
        errors = [error for helper in begun if (error := helper.exception()) is not None]
    if errors:
        raise errors[0]
    return results  # type: ignore[return-value]


def _shared_pool() -> ThreadPoolExecutor:
    global _pool
    with _lock:
        if _pool is None:
            _pool = ThreadPoolExecutor(
                max(1, core_count() - 1),
                thread_name_prefix="gpuvec-kernel",
                initializer=_begin_helper,
            )
        return _pool


def _begin_helper() -> None:
    global _caller_core
    _helpers.append(threading.get_native_id())
    _caller_core = -1  # the next call tells this one too


def _leave_core() -> None:
    """Let helpers run on every core but the caller's.

    Linux likes to wake a thread on the core of the one that wakes it, which here goes on working:
    the helper would wait there for milliseconds while other cores are idle.
    """
    global _caller_core
    if _core_now is None:
        return
    core = _core_now()
    if core == _caller_core or not 1 < core_count() <= _FEW_CORES:
        return
    others = _cores() - {core}
    _caller_core = core
    try:
        for helper in _helpers:
            os.sched_setaffinity(helper, others)
    except OSError:  # a helper has ended, or cores were taken away: only a hint is lost
        _caller_core = -1


def _find_core_now() -> Callable[[], int] | None:
    """Return what tells the core that a thread runs on, None where there is no such thing."""
    if not hasattr(os, "sched_setaffinity"):
        return None
    try:
        found: Callable[[], int] = ctypes.PyDLL(None).sched_getcpu
    except (OSError, AttributeError):
        return None
    return found


_core_now = _find_core_now()


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _lock, _caller_core
    _pool, _lock, _caller_core = None, threading.Lock(), -1
    _helpers.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
