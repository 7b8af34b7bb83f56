"""Working memory of searches, kept from one to the next: fresh pages cost more than they look.

A `WorkPool` belongs to an index; each thread that searches borrows one `Work`.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.kernels.candidates import Candidates
from gpuvec.kernels.int8_tile import GROUP
from gpuvec.kernels.ivf_batch import FACTS, IvfScratch, make_scratch


class Work:
    """Memory for up to `size` queries.

    Args:
        size: of queries.
        lists: of the index.
        raw: dimensions of raw queries, padded.
        turned: of turned queries, padded to whole tiles.
        dims: of their codes.
    """

    def __init__(self, size: int, lists: int, raw: int, turned: int, dims: int) -> None:
        self.size = size
        self.scratch: IvfScratch = make_scratch(size, lists)
        self.raw_codes = np.zeros((size + 1, raw), np.int8)
        self.raw_units = np.empty(size)
        self.norms = np.empty(size)
        self.turned = np.empty((size, turned), np.float32)
        self.codes = np.zeros((size + 1, dims), np.int8)
        self.facts = np.empty((size, FACTS))
        self.slots = np.arange(size + GROUP)
        self._found: tuple[Any, ...] | None = None
        self._found_key = (0, 0)

    def candidates(self, floor: NDArray[np.float64], k: int, room: int) -> Candidates:
        """Return an empty set for the queries of `floor`, see `make_candidates`."""
        if self._found is None or self._found_key != (k, room):
            self._found_key = (k, room)
            self._found = (
                np.empty((self.size, k)),
                np.empty((self.size, room), np.int64),
                np.empty((self.size, room)),
            )
        m = len(floor)
        lows, rows, highs = (part[:m] for part in self._found)
        return Candidates(
            floor=floor.copy(),
            lows=lows,
            filled=np.zeros(m, np.int64),
            rows=rows,
            highs=highs,
            counts=np.zeros(m, np.int64),
            lost=np.zeros(m, np.bool_),
        )


class WorkPool:
    """Lends `Work` to threads, and keeps as many as there were threads at once."""

    def __init__(self) -> None:
        self._free: list[Work] = []
        self._lock = threading.Lock()

    @contextmanager
    def lend(self, size: int, *shape: int) -> Iterator[Work]:
        """Lend memory for up to `size` queries; `shape` as of `Work`, always the same."""
        with self._lock:
            work = self._free.pop() if self._free else None
        if work is None or work.size < size:
            work = Work(size, *shape)
        try:
            yield work
        finally:
            with self._lock:
                self._free.append(work)

    def __reduce__(self) -> tuple[type["WorkPool"], tuple[()]]:
        return WorkPool, ()
