"""Finding rows by primary key: sorted arrays and binary search, no object per row."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

Positions = NDArray[np.int64]
Codes = NDArray[Any]  # int64 keys as they are, or uint64 hashes of strings

_HASH_BYTES = 1 << 22  # bytes of text hashed at once: bounds the scratch
_FACTOR = np.uint64(0x9E3779B97F4A7C15)


def one_array(keys: pa.Array | pa.ChunkedArray) -> pa.Array:
    """Return a key column as one int64 or string array."""
    if isinstance(keys, pa.ChunkedArray):
        keys = keys.chunk(0) if keys.num_chunks == 1 else keys.combine_chunks()
    return keys.cast(pa.string()) if pa.types.is_large_string(keys.type) else keys


def key_codes(keys: pa.Array) -> Codes:
    """Return a number per key: an int64 key itself, the 64-bit hash of a string.

    Equal keys have equal codes; different strings may, so a match of strings must be verified.
    """
    if pa.types.is_integer(keys.type):
        return np.asarray(keys.to_numpy(zero_copy_only=False), np.int64)
    offsets = np.frombuffer(keys.buffers()[1], np.int32)[keys.offset : keys.offset + len(keys) + 1]
    data = keys.buffers()[2]
    text = np.frombuffer(data, np.uint8) if data is not None else np.empty(0, np.uint8)
    codes = np.empty(len(keys), np.uint64)
    start = 0
    while start < len(keys):
        stop = int(np.searchsorted(offsets, offsets[start] + _HASH_BYTES, side="right")) - 1
        stop = min(max(stop, start + 1), len(keys))
        codes[start:stop] = _hash_block(text, offsets[start : stop + 1])
        start = stop
    return codes


def _hash_block(text: NDArray[np.uint8], offsets: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Hash each text: a polynomial in an odd factor, modulo 2**64, finished with shifts."""
    lengths = np.diff(offsets)
    powers = np.cumprod(np.full(int(lengths.max(initial=0)) + 1, _FACTOR, np.uint64))
    place = np.arange(offsets[0], offsets[-1]) - np.repeat(offsets[:-1], lengths)
    terms = (text[offsets[0] : offsets[-1]].astype(np.uint64) + np.uint64(1)) * powers[place]
    sums = np.zeros(len(lengths), np.uint64)
    filled = np.flatnonzero(lengths)
    if len(filled):
        sums[filled] = np.add.reduceat(terms, (offsets[:-1] - offsets[0])[filled])
    sums ^= sums >> np.uint64(32)
    sums *= _FACTOR
    return np.asarray(sums ^ (sums >> np.uint64(29)), np.uint64)


@dataclass(frozen=True, slots=True)
class _Run:
    """Keys of adjacent rows: `codes` sorted, `order[i]` the row of `codes[i]`, `keys` by row."""

    first: int
    keys: pa.Array
    codes: Codes
    order: Positions | None  # None: the keys came sorted
    low: int
    high: int

    def find(self, keys: pa.Array, codes: Codes) -> Positions:
        """Return the last row of each key, counted from 0; -1 where there is none."""
        found = np.full(len(codes), -1, np.int64)
        at = np.searchsorted(self.codes, codes, side="right") - 1
        verify = pa.types.is_string(self.keys.type)
        open_ = np.arange(len(codes))
        while len(open_):  # one round, but for strings whose hashes are equal
            open_ = open_[(at[open_] >= 0)]
            open_ = open_[self.codes[at[open_]] == codes[open_]]
            rows = at[open_] if self.order is None else self.order[at[open_]]
            if not verify:
                found[open_] = rows
                return found
            same = pc.equal(self.keys.take(pa.array(rows)), keys.take(pa.array(open_)))
            same = np.asarray(same.to_numpy(zero_copy_only=False), bool)
            found[open_[same]] = rows[same]
            open_ = open_[~same]
            at[open_] -= 1
        return found


class KeyIndex:
    """The newest row of every primary key of one segment.

    Rows come in blocks, at rising positions. Neighbouring runs of similar length are merged, so
    there are few and adding n rows costs O(n log n) in all. Not safe for use by several threads at
    once.
    """

    def __init__(self) -> None:
        self._runs: list[_Run] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def add(self, keys: pa.Array | pa.ChunkedArray) -> None:
        """Add the keys of the next rows: int64 or string, not null."""
        keys = one_array(keys)
        if not len(keys):
            return
        self._push(self._size, keys, key_codes(keys))
        self._size += len(keys)
        while len(self._runs) > 1 and len(self._runs[-2].keys) < 2 * len(self._runs[-1].keys):
            last, before = self._runs.pop(), self._runs.pop()
            merged = pa.concat_arrays([before.keys, last.keys])
            self._push(before.first, merged, np.concatenate([_by_row(before), _by_row(last)]))

    def _push(self, first: int, keys: pa.Array, codes: Codes) -> None:
        order: Positions | None = None
        if len(codes) > 1 and not bool((codes[1:] >= codes[:-1]).all()):
            order = np.argsort(codes, kind="stable")
            codes = codes[order]
        self._runs.append(_Run(first, keys, codes, order, int(codes[0]), int(codes[-1])))

    def find(self, keys: pa.Array | pa.ChunkedArray) -> Positions:
        """Return the position of the newest row of each key, -1 where there is none."""
        keys = one_array(keys)
        found = np.full(len(keys), -1, np.int64)
        if not len(keys) or not self._runs:
            return found
        codes = key_codes(keys)
        low, high = int(codes.min()), int(codes.max())
        left = np.arange(len(keys))
        for run in reversed(self._runs):
            if low > run.high or high < run.low:
                continue
            whole = len(left) == len(keys)
            rows = run.find(keys if whole else keys.take(pa.array(left)), codes[left])
            hit = rows >= 0
            found[left[hit]] = rows[hit] + run.first
            left = left[~hit]
            if not len(left):
                break
        return found


def _by_row(run: _Run) -> Codes:
    if run.order is None:
        return run.codes
    codes = np.empty_like(run.codes)
    codes[run.order] = run.codes
    return codes


def sort_by_key(keys: pa.Array | pa.ChunkedArray) -> Positions | None:
    """Return the stable order of rows by primary key, None when they are in order already."""
    keys = one_array(keys)
    if pa.types.is_integer(keys.type):
        values = keys.to_numpy(zero_copy_only=False)
        if len(values) < 2 or bool((values[1:] >= values[:-1]).all()):
            return None
        return np.asarray(np.argsort(values, kind="stable"), np.int64)
    if len(keys) < 2 or pc.all(pc.less_equal(keys[:-1], keys[1:])).as_py():
        return None
    return np.asarray(pc.sort_indices(keys).to_numpy(zero_copy_only=False), np.int64)
