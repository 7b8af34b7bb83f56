"""The two threads of an embedded database: one commits groups, one keeps the store tidy."""

import logging
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, TimeoutError
from typing import Any

from gpuvec import errors, telemetry

_GROUP_REQUESTS = 1024
_GROUP_BYTES = 64 << 20
_TICK_S = 1.0
_LONGEST_PAUSE_S = 300.0
_WINDOW_S = 0.001

_log = logging.getLogger("gpuvec")


class Committer:
    """Group commit: while one group is being made durable, the next one gathers.

    Args:
        write_group: does writes to one collection; returns an answer or an error for each.
        maintain: called about every second, on a thread of its own.
        where: the database, for messages.
    """

    def __init__(
        self,
        write_group: Callable[[str, Sequence[Any]], Sequence[Any]],
        maintain: Callable[[], None],
        where: str,
    ) -> None:
        self._write_group = write_group
        self._maintain = maintain
        self._queue: queue.SimpleQueue[tuple[Any, Future[Any]] | None] = queue.SimpleQueue()
        self._wake = threading.Event()
        self._where = where
        self._stopping = False
        self._failure: Exception | None = None  # of maintenance; a bug that nobody was told of
        self._gate = threading.Lock()
        self._threads = [
            threading.Thread(target=self._commit_forever, name="gpuvec-committer", daemon=True),
            threading.Thread(target=self._maintain_forever, name="gpuvec-maintenance", daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, request: Any, deadline_s: float) -> Any:
        """Return the answer to a write, when it is durable and visible.

        Raises:
            AssertionError: maintenance met a bug since the last write; nothing was written.
        """
        self._tell()
        with telemetry.span("write", collection=request.collection_id):
            return self._submit(request, deadline_s)

    def _submit(self, request: Any, deadline_s: float) -> Any:
        answer: Future[Any] = Future()
        with self._gate:
            if self._stopping:
                raise errors.database_closed(self._where)
            self._queue.put((request, answer))
        try:
            return answer.result(timeout=deadline_s)
        except TimeoutError:
            if answer.done():
                raise
            raise errors.deadline_passed("the log", deadline_s) from None

    def wake(self) -> None:
        """Let maintenance run now."""
        self._wake.set()

    def stop(self) -> None:
        """Finish what was submitted, then end both threads.

        Raises:
            AssertionError: maintenance met a bug since the last write.
        """
        with self._gate:
            self._stopping = True
            self._queue.put(None)
        self._wake.set()
        for thread in self._threads:
            thread.join()
        self._tell()

    def _tell(self) -> None:
        """Raise what maintenance met, once."""
        with self._gate:
            failure, self._failure = self._failure, None
        if failure is not None:
            what = f"{type(failure).__name__}: {failure}"
            raise AssertionError(f"maintenance of {self._where} failed: {what}") from failure

    def _commit_forever(self) -> None:
        before, took_s = 0, 0.0
        while True:
            group = self._gather(before, took_s)
            before, start = len(group), time.monotonic()
            by_collection: dict[str, list[tuple[Any, Future[Any]]]] = {}
            for item in group:
                if item is not None:
                    by_collection.setdefault(item[0].collection_id, []).append(item)
            for collection_id, items in by_collection.items():
                self._commit(collection_id, items)
            took_s = time.monotonic() - start
            if group[-1] is None:
                return

    def _gather(self, before: int, took_s: float) -> list[tuple[Any, Future[Any]] | None]:
        """Return the writes that wait; where many did before, their writers may come back first.

        That is waited for while they keep coming, and no longer than their commit took.
        """
        group = [self._queue.get()]
        size = _size(group[0])
        deadline = time.monotonic() + (took_s if before > 1 else 0.0)
        while group[-1] is not None and len(group) < _GROUP_REQUESTS and size < _GROUP_BYTES:
            try:
                left = deadline - time.monotonic() if len(group) < 2 * before else 0.0
                left = min(left, _WINDOW_S)
                item = self._queue.get(timeout=left) if left > 0 else self._queue.get_nowait()
            except queue.Empty:
                break
            group.append(item)
            size += _size(item)
        return group

    def _commit(self, collection_id: str, items: list[tuple[Any, "Future[Any]"]]) -> None:
        began_s = time.perf_counter()
        try:
            answers = self._write_group(collection_id, [request for request, _ in items])
        except BaseException as error:  # every waiting caller must hear of it
            telemetry.WRITES.add(len(items), "error")
            for _, future in items:
                future.set_exception(error)
            return
        telemetry.WRITE_SECONDS.observe(time.perf_counter() - began_s)
        failed = sum(isinstance(answer, BaseException) for answer in answers)
        telemetry.WRITES.add(len(items) - failed, "ok")
        if failed:
            telemetry.WRITES.add(failed, "error")
        for (_, future), answer in zip(items, answers, strict=True):
            if isinstance(answer, BaseException):
                future.set_exception(answer)
            else:
                future.set_result(answer)

    def _maintain_forever(self) -> None:
        pause_s = _TICK_S
        while True:
            self._wake.wait(pause_s)
            self._wake.clear()
            if self._stopping:
                return
            try:
                self._maintain()
                pause_s = _TICK_S
            except Exception as error:
                pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
                if not isinstance(error, (errors.GpuvecError, MemoryError)):
                    with self._gate:
                        self._failure = error
                _log.warning("maintenance will be tried again in %g s: %s", pause_s, error)


def beside(work: Callable[[], None]) -> Callable[[], None]:
    """Run `work` on a thread of its own; return what waits for its end, and raises its error."""
    done: Future[None] = Future()

    def target() -> None:
        try:
            work()
        except BaseException as error:
            done.set_exception(error)
        else:
            done.set_result(None)

    threading.Thread(target=target, name="gpuvec-copy", daemon=True).start()
    return done.result


def _size(item: tuple[Any, Any] | None) -> int:
    rows = None if item is None else getattr(item[0].change, "rows", None)
    return 0 if rows is None else sum(column.nbytes for column in rows.vectors.values())
