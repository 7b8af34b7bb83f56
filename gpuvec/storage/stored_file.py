"""One file that a manifest names, read whole or in part; nothing is used before it was verified."""

import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.storage.object_store import ObjectStore
from gpuvec.storage.records import ArrayRecord, FileRecord
from gpuvec.storage.remote_files import Blocks
from gpuvec.storage.verified import files_of, load_verified

_FEW_SHARE = 8  # fewer rows than such a share of all are read in part
_LEAST_BYTES = 1 << 20  # of a file; a smaller one is read whole


class StoredFile:
    """Safe for use by several threads.

    A local file is mapped at its first use and stays so. What comes from a bucket is held by the
    caches of its store alone, and is read in part where that is little.

    Every method may raise `CorruptError`: `GV-501` missing, `GV-502` too short, `GV-503` changed.

    Args:
        store: holds it.
        record: of the file.
        before: called before the whole is fetched from a bucket: it may fetch others with it.
    """

    def __init__(
        self, store: ObjectStore, record: FileRecord, before: Callable[[], None] = lambda: None
    ) -> None:
        self.record = record
        self._before = before
        self._store = store
        self._files = files_of(store)
        self._lock = threading.Lock()
        self._whole: NDArray[np.uint8] | None = None

    @property
    def is_cached(self) -> bool:
        """Whether caches hold the file, and let go of it as they like."""
        return self._files is not None

    def whole(self) -> NDArray[np.uint8]:
        """Return all bytes, (length,) uint8, read only."""
        if self._files is not None:
            return self._files.whole(self.record, self._before)
        with self._lock:
            if self._whole is None:
                self._whole = load_verified(self._store, self.record)
            return self._whole

    def blocks(self, numbers: Sequence[int]) -> Blocks | None:
        """Return some blocks, each verified; None: read the whole, which is as cheap or cheaper.

        Args:
            numbers: rising.
        """
        small = self.record.length < _LEAST_BYTES
        if small or self._files is None or self._files.at_hand(self.record) is not None:
            return None
        return self._files.blocks(self.record, numbers)

    def take(self, array: ArrayRecord, rows: NDArray[np.int64]) -> NDArray[Any] | None:
        """Return some rows of an array in the file, copied; None: take them from the whole.

        Args:
            array: of two dimensions.
            rows: in any order.
        """
        sums = self.record.blocks
        count, width = array.shape
        row_bytes = width * array.numpy_dtype.itemsize
        if sums is None or not 0 < len(rows) * _FEW_SHARE <= count or not row_bytes:
            return None
        starts = array.offset + rows.astype(np.int64) * row_bytes
        numbers = _numbers(starts, starts + row_bytes - 1, sums.size_bytes)
        found = self.blocks(numbers.tolist())
        if found is None:
            return None
        taken = _gather(found, numbers, starts, row_bytes, sums.size_bytes)
        return taken.view(array.numpy_dtype).reshape(len(rows), width)


def _numbers(starts: NDArray[np.int64], stops: NDArray[np.int64], size: int) -> NDArray[np.int64]:
    """Return the blocks that hold some ranges, rising."""
    first, last = starts // size, stops // size
    longest = int((last - first).max()) + 1
    each = [np.minimum(first + step, last) for step in range(longest)]
    return np.unique(np.concatenate(each))


def _gather(
    blocks: Blocks,
    numbers: NDArray[np.int64],
    starts: NDArray[np.int64],
    row_bytes: int,
    size: int,
) -> NDArray[np.uint8]:
    """Return (rows, row_bytes) uint8. The blocks of a row lie one after the other in `numbers`."""
    joined = np.concatenate([blocks[number] for number in numbers.tolist()])
    places = np.searchsorted(numbers, starts // size) * size + starts % size
    windows = np.lib.stride_tricks.sliding_window_view(joined, row_bytes)
    return np.ascontiguousarray(windows[places])
