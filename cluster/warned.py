"""Warnings that are given while a node works for a client: gathered, so that the client gives them.

Python's own way to record warnings is for a whole process; here each thread has its own list.
"""

import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

Told = tuple[type[Warning], str]

_here = threading.local()


@contextmanager
def gathered() -> Iterator[list[Told]]:
    """Yield the list to which this thread's warnings go within the block, instead of to people."""
    _install()
    before = getattr(_here, "told", None)
    told: list[Told] = []
    _here.told = told
    try:
        yield told
    finally:
        _here.told = before


def give(told: Sequence[Told]) -> None:
    """Give warnings that were gathered elsewhere, as of the user's line that called gpuvec."""
    for category, text in told:
        warnings.warn(text, category, stacklevel=_level_of_user())


def _level_of_user() -> int:
    frame, level = sys._getframe(1), 1
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith("gpuvec."):
        frame, level = frame.f_back, level + 1
    return level


def _install() -> None:
    show = warnings.showwarning
    if getattr(show, "gathers", False):
        return

    def gather(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        told = getattr(_here, "told", None)
        if told is None:
            show(message, category, *where, **more)
        else:
            told.append((category, str(message)))

    gather.gathers = True  # type: ignore[attr-defined]
    warnings.showwarning = gather
