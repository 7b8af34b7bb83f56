"""Vector columns in files: nothing is read before it is used, and few rows without the others."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gpuvec.rows import DenseVectors, SparseVectors
from gpuvec.storage.arrow_files import map_arrays
from gpuvec.storage.mapping import memory_of
from gpuvec.storage.records import ArrayRecord
from gpuvec.storage.stored_file import StoredFile

Valid = NDArray[np.bool_] | None


class StoredVectors(DenseVectors):
    """Dense vectors in a file; `values` reads all of it, `take` and `slice` what they need.

    Args:
        file: holds them.
        valid: reads which are valid.
    """

    __slots__ = ("_array", "_file", "_valid")

    def __init__(self, file: StoredFile, valid: Callable[[], Valid]) -> None:
        object.__setattr__(self, "_file", file)
        object.__setattr__(self, "_valid", valid)
        object.__setattr__(self, "_array", file.record.arrays["values"])

    _file: StoredFile
    _valid: Callable[[], Valid]
    _array: ArrayRecord

    @property
    def values(self) -> Any:
        """See `DenseVectors.values`."""
        found = map_arrays(self._file.whole(), self._file.record.arrays)
        return found.values

    @property
    def valid(self) -> Valid:
        """See `DenseVectors.valid`."""
        return self._valid()

    def __len__(self) -> int:
        return self._array.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """See `DenseVectors.shape`; known without reading."""
        count, width = self._array.shape
        return count, width

    @property
    def dtype(self) -> np.dtype[Any]:
        """See `DenseVectors.dtype`; known without reading."""
        return self._array.numpy_dtype

    @property
    def nbytes(self) -> int:
        """See `DenseVectors.nbytes`; known without reading."""
        return int(np.prod(self._array.shape, dtype=np.int64)) * self._array.numpy_dtype.itemsize

    @property
    def resident_bytes(self) -> int:
        """See `DenseVectors.resident_bytes`."""
        return _resident_bytes(self._file, self)

    def loaded(self) -> DenseVectors:
        """See `DenseVectors.loaded`."""
        return DenseVectors(self.values, self.valid)

    def take(self, rows: NDArray[np.int64]) -> DenseVectors:
        """See `DenseVectors.take`."""
        few = self._file.take(self._array, rows)
        valid = self.valid
        values = self.values[rows] if few is None else few
        return DenseVectors(values, None if valid is None else valid[rows])

    def slice(self, start: int, stop: int) -> DenseVectors:
        """See `DenseVectors.slice`; few rows of a file that is not at hand are copied."""
        start, stop, _ = slice(start, stop).indices(len(self))
        few = self._file.take(self._array, np.arange(start, stop))
        valid = self.valid
        values = self.values[start:stop] if few is None else few
        return DenseVectors(values, None if valid is None else valid[start:stop])


class StoredSparse(SparseVectors):
    """Sparse vectors in a file, all of which was read."""

    __slots__ = ("_file",)

    def __init__(self, file: StoredFile, valid: Valid) -> None:
        found = map_arrays(file.whole(), file.record.arrays)
        assert isinstance(found, SparseVectors)
        super().__init__(found.offsets, found.indices, found.values, valid)
        object.__setattr__(self, "_file", file)

    _file: StoredFile

    @property
    def resident_bytes(self) -> int:
        """See `SparseVectors.resident_bytes`."""
        return _resident_bytes(self._file, self)


def _resident_bytes(file: StoredFile, column: DenseVectors | SparseVectors) -> int:
    is_held = file.is_cached and memory_of(column.values) is None
    return column.nbytes if is_held else 0
