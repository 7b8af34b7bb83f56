"""The rows of each slot of a scalar index, and the mask of all rows whose slot is in some set.

`BitmapRows` keeps a bit set for each slot with many rows, and lists the rows of the others.
`SortedRows` lists all rows in order of slot, and keeps bit sets of the rows before each sixteenth
of that list; so any range costs one bit set and at most a sixteenth of the list.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.scalar_values import Runs, inverse
from gpuvec.types import RowMask

RowList = NDArray[Any]  # unsigned positions of rows
Bits = NDArray[np.uint8]  # (sets, ceil(rows / 8)), least significant bit first

DENSE_SHARE = 32  # a slot with more than 1 row in so many has a bit set: it is smaller than a list
MARKS = 16  # parts that the sorted list is cut into
BY_SLICES = 32  # so many ranges of a list are joined one by one


class SlotRows(Protocol):
    """Which rows lie in which slots."""

    @property
    def num_rows(self) -> int:
        """Rows of the segment."""

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays."""

    @property
    def starts(self) -> RowList | None:
        """Where each slot begins in `rows`."""

    @property
    def rows(self) -> RowList:
        """Rows, slot by slot."""

    @property
    def bits(self) -> Bits:
        """Bit sets."""

    def count(self, runs: Runs) -> int:
        """Return how many rows lie in the slots; of lists, rows count once for each slot."""

    def scattered(self, runs: Runs) -> int:
        """Return how many rows `mask` would set one by one."""

    def mask(self, runs: Runs) -> RowMask:
        """Return the rows that lie in the slots, (rows,) bool, the caller's own."""


@dataclass(frozen=True, slots=True, eq=False)
class BitmapRows:
    """Bit sets for slots with many rows, lists for the others.

    Attributes:
        num_rows: of the segment.
        slots: how many there are.
        starts: (slots + 1,) where the list of each slot begins in `rows`; 0 long for dense slots.
        rows: rows of sparse slots, slot by slot, rising within each.
        dense: (d,) the dense slots, rising.
        dense_counts: (d,) their rows.
        bits: (d, bytes) their bit sets.
        partition: whether each row lies in exactly one slot: false for lists.
    """

    num_rows: int
    slots: int
    starts: RowList
    rows: RowList
    dense: NDArray[np.int64]
    dense_counts: NDArray[np.int64]
    bits: Bits
    partition: bool

    @property
    def nbytes(self) -> int:
        """See `SlotRows.nbytes`."""
        return self.starts.nbytes + self.rows.nbytes + self.bits.nbytes + 2 * self.dense.nbytes

    def count(self, runs: Runs) -> int:
        """See `SlotRows.count`."""
        listed = _total(_ranges(self.starts, runs))
        return listed + int(self.dense_counts[self._dense(runs)].sum())

    def scattered(self, runs: Runs) -> int:
        """See `SlotRows.scattered`."""
        listed = _total(_ranges(self.starts, runs))
        return min(listed, len(self.rows) - listed) if self.partition else listed

    def mask(self, runs: Runs) -> RowMask:
        """See `SlotRows.mask`."""
        ranges, dense = _ranges(self.starts, runs), self._dense(runs)
        if self.partition:
            listed, sets = _total(ranges), int(np.count_nonzero(dense))
            rest = self._work(len(self.rows) - listed, len(dense) - sets)
            if rest < self._work(listed, sets):
                ranges = _ranges(self.starts, inverse(runs, self.slots))
                return _flipped(self._written(ranges, ~dense))
        return self._written(ranges, dense)

    def _written(self, ranges: Runs, dense: NDArray[np.bool_]) -> RowMask:
        if dense.any():
            found = unpack(np.bitwise_or.reduce(self.bits[dense], axis=0), self.num_rows)
        else:
            found = np.zeros(self.num_rows, bool)
        _set(found, self.rows, ranges)
        return found

    def _work(self, listed: int, sets: int) -> int:
        return listed * 16 + sets * self.num_rows // 8

    def _dense(self, runs: Runs) -> NDArray[np.bool_]:
        """Return which of the dense slots are in a set."""
        if not len(self.dense):
            return np.zeros(0, bool)
        place = np.searchsorted(runs[:, 0], self.dense, "right") - 1
        inside = place >= 0
        inside[inside] = self.dense[inside] < runs[place[inside], 1]
        return inside


@dataclass(frozen=True, slots=True, eq=False)
class SortedRows:
    """All rows in order of slot.

    Attributes:
        num_rows: of the segment.
        slots: how many there are.
        starts: (slots + 1,) where each slot begins in `rows`; None: each slot but that of null,
            the last, has one row.
        rows: (rows,) slot by slot, rising within each.
        bits: (MARKS - 1, bytes) the sets of the rows before each mark.
    """

    num_rows: int
    slots: int
    starts: RowList | None
    rows: RowList
    bits: Bits

    @property
    def nbytes(self) -> int:
        """See `SlotRows.nbytes`."""
        starts = 0 if self.starts is None else self.starts.nbytes
        return starts + self.rows.nbytes + self.bits.nbytes

    def count(self, runs: Runs) -> int:
        """See `SlotRows.count`."""
        return _total(self._ranges(runs))

    def scattered(self, runs: Runs) -> int:
        """See `SlotRows.scattered`."""
        lengths = np.diff(self._ranges(runs), axis=1)
        large = lengths > self._step
        return int(lengths[~large].sum()) + int(large.sum()) * self._step

    def mask(self, runs: Runs) -> RowMask:
        """See `SlotRows.mask`."""
        ranges = self._ranges(runs)
        if 2 * _total(ranges) > self.num_rows:
            return _flipped(self._written(self._ranges(inverse(runs, self.slots))))
        return self._written(ranges)

    def _written(self, ranges: Runs) -> RowMask:
        large = ranges[:, 1] - ranges[:, 0] > self._step
        found = None
        for start, stop in ranges[large].tolist():  # fewer than there are marks
            part = self._range(start, stop)
            found = part if found is None else np.logical_or(found, part, out=found)
        if found is None:
            found = np.zeros(self.num_rows, bool)
        _set(found, self.rows, ranges[~large])
        return found

    def _range(self, start: int, stop: int) -> RowMask:
        """Return the rows from one place of the list to another, more than a step apart."""
        step = self._step
        first, last = round(start / step), round(stop / step)
        bits = self._before(last) & ~self._before(first)
        found = unpack(bits, self.num_rows)
        at_first, at_last = first * step, last * step
        found[self.rows[at_first:start]] = False
        found[self.rows[stop:at_last]] = False
        found[self.rows[start:at_first]] = True
        found[self.rows[at_last:stop]] = True
        return found

    def _before(self, mark: int) -> Any:
        """Return the set of the rows before a mark."""
        if mark == 0:
            return np.uint8(0)
        return self.bits[mark - 1] if mark < MARKS else np.full(self.bits.shape[1], 255, np.uint8)

    @property
    def _step(self) -> int:
        return mark_step(self.num_rows)

    def _ranges(self, runs: Runs) -> Runs:
        if self.starts is not None:
            return _ranges(self.starts, runs)
        return np.where(runs < self.slots, runs, self.num_rows)


def mark_step(rows: int) -> int:
    """Return how many rows lie from one mark to the next."""
    return max(1, -(-rows // MARKS))


def unpack(bits: NDArray[np.uint8], rows: int) -> RowMask:
    """Return a bit set as a mask."""
    return np.unpackbits(bits, count=rows, bitorder="little").view(bool)


def _flipped(mask: RowMask) -> RowMask:
    return np.logical_not(mask, out=mask)


def _ranges(starts: RowList, runs: Runs) -> Runs:
    """Return where the rows of each run of slots lie in the list."""
    found: Runs = starts[runs].astype(np.int64)
    return found


def _total(ranges: Runs) -> int:
    return int((ranges[:, 1] - ranges[:, 0]).sum())


def _set(mask: RowMask, rows: RowList, ranges: Runs) -> None:
    """Set the rows of some ranges of a list."""
    if len(ranges) <= BY_SLICES:
        for start, stop in ranges.tolist():
            mask[rows[start:stop]] = True
        return
    lengths = ranges[:, 1] - ranges[:, 0]
    skipped = ranges[:, 0] - np.concatenate([[0], np.cumsum(lengths)[:-1]])
    mask[rows[np.arange(lengths.sum()) + np.repeat(skipped, lengths)]] = True
