"""Work that goes on side by side, and work that must be alone."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Turns:
    """Many threads share, or one is alone: who wants to be alone waits for those that share.

    While somebody waits to be alone, those that come later wait too. A thread that shares may
    share again within its block; nobody may ask to be alone within a block.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._sharing = 0
        self._waiting = 0
        self._is_alone = False
        self._own = threading.local()

    @contextmanager
    def shared(self) -> Iterator[None]:
        """Run a block beside those of others."""
        depth: int = getattr(self._own, "depth", 0)
        if not depth:
            with self._changed:
                self._changed.wait_for(lambda: not self._is_alone and not self._waiting)
                self._sharing += 1
        self._own.depth = depth + 1
        try:
            yield
        finally:
            self._own.depth = depth
            if not depth:
                with self._changed:
                    self._sharing -= 1
                    self._changed.notify_all()

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Run a block beside no other."""
        if getattr(self._own, "depth", 0):
            raise AssertionError("a thread that shares cannot be alone")
        with self._changed:
            self._waiting += 1
            self._changed.wait_for(lambda: not self._is_alone and not self._sharing)
            self._waiting -= 1
            self._is_alone = True
        self._own.depth = 1  # blocks within are this thread's own
        try:
            yield
        finally:
            self._own.depth = 0
            with self._changed:
                self._is_alone = False
                self._changed.notify_all()

    @property
    def inside(self) -> bool:
        """Whether this thread is within a block."""
        return bool(getattr(self._own, "depth", 0))
