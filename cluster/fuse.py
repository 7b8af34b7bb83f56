"""Ends a coordinator when an error escapes it: one that decides nothing is worse than none."""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from typing import Any

from gpuvec import errors

_logger = logging.getLogger("gpuvec.cluster")


class Fuse(Executor):
    """Runs the work of a coordinator on threads, and ends it when work fails that must not.

    Args:
        end: called once, when an error escaped that says that gpuvec is wrong.
        threads: that work on the store.
    """

    def __init__(self, end: Callable[[], None], threads: int) -> None:
        self._end = end
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="gpuvec-store")
        self._over = False
        self._lock = threading.Lock()

    def guarded(self, work: Callable[..., None]) -> Callable[..., None]:
        """Return what does the work, and ends the coordinator if it fails."""

        def run(*arguments: Any) -> None:
            try:
                work(*arguments)
            except BaseException:
                self._blow()

        return run

    def submit(self, work: Callable[..., None], /, *arguments: Any) -> Future[None]:  # type: ignore[override]
        """Begin guarded work on a thread; what stores and nodes fail with is only logged."""

        def run() -> None:
            try:
                work(*arguments)
            except (errors.GpuvecError, OSError) as error:  # the next time it may pass
                _logger.warning("%s: %s", getattr(work, "__name__", work), error)

        return self._pool.submit(self.guarded(run))

    def _blow(self) -> None:
        with self._lock:
            first, self._over = not self._over, True
        _logger.critical("the coordinator failed; its scheduler ends", exc_info=True)
        if first:
            self._end()

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Begin no more work; errors of what is under way end nothing any more."""
        self._over = True
        self._pool.shutdown(wait=wait, cancel_futures=cancel_futures)
