"""Runs compiled bodies on the cores this process may use.

The bodies release the GIL and never start threads themselves, so one pool serves everybody and no
core is asked for twice. The calling thread works too.
"""

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


def core_count() -> int:
    """Return the cores that this process may run on."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


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

    helpers = [_shared_pool().submit(drain) for _ in range(wanted - 1)]
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
            _pool = ThreadPoolExecutor(max(1, core_count() - 1), thread_name_prefix="gpuvec-kernel")
        return _pool


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool, _lock
    _pool, _lock = None, threading.Lock()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)
