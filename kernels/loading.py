"""Loads compiled bodies beside the first answers, which NumPy gives until they are there.

Loading takes half a second, compiling, once per installation, several. The thread that does it ends
by itself; at the end of the process it stops between two steps, and a fork waits for the step that
runs, since a child would find its locks taken for ever.
"""

import os
import threading
from collections.abc import Callable, Iterable

Steps = Callable[[], Iterable[None]]

_PAUSE_S = 0.2
_step = threading.RLock()  # held while a step runs
_gate = threading.Lock()
_begun: set[str] = set()
_ready: set[str] = set()


def is_loaded(name: str) -> bool:
    """Return whether the steps of this name are done."""
    return name in _ready


def note_loaded(name: str) -> None:
    """Note that the bodies have been used, so they are there."""
    _ready.add(name)


def load_beside(name: str, steps: Steps) -> None:
    """Do the steps on a thread of their own, unless they have been begun."""
    with _gate:
        if name in _begun:
            return
        _begun.add(name)
    threading.Thread(target=_load, args=(name, steps), name="gpuvec-loader").start()


def _load(name: str, steps: Steps) -> None:
    threading.main_thread().join(_PAUSE_S)  # the answer that is under way comes first
    left = iter(steps())
    while threading.main_thread().is_alive():
        with _step:
            if next(left, _END) is _END:
                _ready.add(name)
                return


_END = object()


def _after_fork() -> None:
    """A child has no loader: what is not there yet is begun again."""
    global _gate
    _gate = threading.Lock()
    _begun.clear()
    _step.release()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_step.acquire, after_in_parent=_step.release, after_in_child=_after_fork
    )
