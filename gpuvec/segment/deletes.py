"""Rows of one segment that were deleted, and when."""

import itertools

import numpy as np
from numpy.typing import NDArray

from gpuvec.types import RowMask, Timestamp

_NUMBERS = itertools.count()


class DeleteLog:
    """Deleted positions in the order of their deletion; only ever grows.

    The first `n` entries never change, so a view that remembers `n` sees one version for ever. One
    thread adds; others may read what they know of.

    Attributes:
        number: no other log of this process has it.
    """

    def __init__(
        self, rows: NDArray[np.int64] | None = None, timestamps: NDArray[np.int64] | None = None
    ) -> None:
        self.number = next(_NUMBERS)
        self._rows = np.empty(0, np.int64) if rows is None else rows.astype(np.int64)
        self._ts = np.empty(0, np.int64) if timestamps is None else timestamps.astype(np.int64)
        if len(self._ts) > 1 and (self._ts[1:] < self._ts[:-1]).any():
            order = np.argsort(self._ts, kind="stable")
            self._rows, self._ts = self._rows[order], self._ts[order]
        self._count = len(self._rows)
        self._dead = np.zeros(0, bool)
        self._mark(self._rows)

    def __len__(self) -> int:
        return self._count

    def add(self, rows: NDArray[np.int64], timestamp: Timestamp) -> None:
        """Note that rows were deleted at `timestamp`, which is not below any earlier one."""
        need = self._count + len(rows)
        if need > len(self._rows):
            room = max(need, 2 * len(self._rows), 64)
            self._rows, self._ts = _grown(self._rows, room), _grown(self._ts, room)
        self._rows[self._count : need] = rows
        self._ts[self._count : need] = timestamp
        self._count = need
        self._mark(rows)

    def count_until(self, version: Timestamp) -> int:
        """Return how many entries were made up to a version."""
        return int(np.searchsorted(self._ts[: self._count], version, side="right"))

    def hides_all(self, count: int) -> bool:
        """Return whether all of the first `count` rows are deleted, as of now."""
        return self._count >= count <= len(self._dead) and bool(self._dead[:count].all())

    def is_dead(self, rows: NDArray[np.int64]) -> RowMask:
        """Return which rows are deleted, as of now."""
        dead = np.zeros(len(rows), bool)
        known = rows < len(self._dead)
        dead[known] = self._dead[rows[known]]
        return dead

    def hide(self, keep: RowMask, count: int) -> None:
        """Clear the bits of the first `count` deleted rows, in place."""
        keep[self._rows[:count]] = False

    def entries(self, start: int = 0, stop: int | None = None) -> tuple[NDArray[np.int64], ...]:
        """Return positions and timestamps, both (n,) int64, of the entries `start` to `stop`."""
        stop = self._count if stop is None else stop
        return self._rows[start:stop], self._ts[start:stop]

    def _mark(self, rows: NDArray[np.int64]) -> None:
        if not len(rows):
            return
        need = int(rows.max()) + 1
        if need > len(self._dead):
            grown = np.zeros(max(need, 2 * len(self._dead)), bool)
            grown[: len(self._dead)] = self._dead
            self._dead = grown
        self._dead[rows] = True


def _grown(values: NDArray[np.int64], room: int) -> NDArray[np.int64]:
    grown = np.empty(room, np.int64)
    grown[: len(values)] = values
    return grown
