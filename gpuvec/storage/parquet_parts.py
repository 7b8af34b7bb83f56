"""Columns of a Parquet file of which only the needed blocks are read."""

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from gpuvec.storage.remote_files import Blocks
from gpuvec.storage.stored_file import StoredFile

_SHARE = 4  # columns are read alone while they are less than such a share of the file


def open_in_parts(file: StoredFile, metadata: Any, names: Sequence[str] | None) -> Any:
    """Return a `ParquetFile` of which some columns can be read; None: read the whole.

    Args:
        file: the Parquet file.
        metadata: of an earlier opening, None at the first.
        names: of columns; None: only what the footer tells.
    """
    sums, length = file.record.blocks, file.record.length
    if sums is None or not file.is_cached:
        return None
    source = _Source(file, sums.size_bytes)
    last = (length - 1) // sums.size_bytes
    footer = range(max(last - 1, 0), last + 1)
    if metadata is None and not source.read_blocks(footer):
        return None
    try:
        found = pq.ParquetFile(pa.PythonFile(source, mode="r"), metadata=metadata)
        if names is not None and not source.read_columns(found.metadata, names):
            return None
    except _WholeWantedError:
        return None
    return found


class _WholeWantedError(Exception):
    """Blocks are asked for that are better read with the whole."""


class _Source(io.RawIOBase):
    """The file as far as its blocks were read; more are read when they are needed."""

    def __init__(self, file: StoredFile, size: int) -> None:
        super().__init__()
        self._file = file
        self._size = size
        self._length = file.record.length
        self._blocks: Blocks = {}
        self._at = 0

    def read_blocks(self, numbers: Sequence[int]) -> bool:
        """Read blocks; return whether they are there."""
        missing = [number for number in numbers if number not in self._blocks]
        found = self._file.blocks(missing) if missing else {}
        if found is None:
            return False
        self._blocks.update(found)
        return True

    def read_columns(self, metadata: Any, names: Sequence[str]) -> bool:
        """Read all blocks of some columns at once, if they are a small part of the file."""
        wanted = set(names)
        ranges = []
        for group in range(metadata.num_row_groups):
            row_group = metadata.row_group(group)
            for number in range(metadata.num_columns):
                chunk = row_group.column(number)
                if chunk.path_in_schema in wanted or _top(chunk.path_in_schema) in wanted:
                    start = chunk.data_page_offset
                    if chunk.has_dictionary_page and chunk.dictionary_page_offset is not None:
                        start = min(start, chunk.dictionary_page_offset)
                    ranges.append((start, start + chunk.total_compressed_size))
        if sum(stop - start for start, stop in ranges) * _SHARE > self._length:
            return False
        numbers = {
            number
            for start, stop in ranges
            for number in range(start // self._size, (stop - 1) // self._size + 1)
        }
        return self.read_blocks(sorted(numbers))

    def readable(self) -> bool:
        """Return that it can be read."""
        return True

    def seekable(self) -> bool:
        """Return that any place can be read."""
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See `io.IOBase.seek`."""
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self._length}[whence]
        self._at = start + offset
        return self._at

    def tell(self) -> int:
        """See `io.IOBase.tell`."""
        return self._at

    def read(self, size: int = -1) -> bytes:
        """See `io.RawIOBase.read`."""
        stop = self._length if size < 0 else min(self._at + size, self._length)
        if stop <= self._at:
            return b""
        first, last = self._at // self._size, (stop - 1) // self._size
        if not self.read_blocks(range(first, last + 1)):
            raise _WholeWantedError
        joined = np.concatenate([self._blocks[number] for number in range(first, last + 1)])
        found = joined[self._at - first * self._size : stop - first * self._size].tobytes()
        self._at = stop
        return found


def _top(path: str) -> str:
    return path.partition(".list.")[0]
