"""Rows in memory: scalars in one Arrow table, every vector field in an array beside it.

The one form in which rows travel inside gpuvec: from the door to the log, to segments, through
queries and out. Vectors never live in list columns (a cuDF list column ends at 2**31 leaf values,
and slicing one copies).
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class DenseVectors:
    """One vector per row.

    Attributes:
        values: (rows, dim) in the field's dtype, C-contiguous, host or device; binary fields hold
            (rows, dim / 8) uint8, packed as `np.packbits` does. A null vector is a row of zeros.
        valid: (rows,) bool, True = not null; None when no vector is null.
    """

    values: Any
    valid: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return int(self.values.shape[0])

    @property
    def shape(self) -> tuple[int, int]:
        """Of `values`."""
        found: tuple[int, int] = self.values.shape
        return found

    @property
    def dtype(self) -> np.dtype[Any]:
        """Of `values`."""
        found: np.dtype[Any] = self.values.dtype
        return found

    @property
    def nbytes(self) -> int:
        """Bytes held, without the validity mask."""
        return int(self.values.nbytes)

    @property
    def resident_bytes(self) -> int:
        """Bytes of a bucket's file that whoever holds `values` keeps in memory; else 0."""
        return 0

    def loaded(self) -> "DenseVectors":
        """Return vectors that need no file any more; these, unless a subclass reads its own."""
        return self

    def take(self, rows: NDArray[np.int64]) -> "DenseVectors":
        """Return the given rows, in that order."""
        return DenseVectors(self.values[rows], None if self.valid is None else self.valid[rows])

    def slice(self, start: int, stop: int) -> "DenseVectors":
        """Return rows `start` to `stop` without copying."""
        valid = None if self.valid is None else self.valid[start:stop]
        return DenseVectors(self.values[start:stop], valid)

    @staticmethod
    def concat(parts: Sequence["DenseVectors"]) -> "DenseVectors":
        """Return the parts, one after the other. One part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        valid = None
        if any(part.valid is not None for part in parts):
            masks = [np.ones(len(p), bool) if p.valid is None else p.valid for p in parts]
            valid = np.concatenate(masks)
        return DenseVectors(np.concatenate([part.values for part in parts]), valid)


@dataclass(frozen=True, slots=True, eq=False)
class SparseVectors:
    """One sparse vector per row, as compressed sparse rows.

    Attributes:
        offsets: (rows + 1,) int64, from 0.
        indices: (offsets[-1],) uint32, rising within a row.
        values: (offsets[-1],) float32.
        valid: (rows,) bool, True = not null, None when no row is null; such rows have no entry.
    """

    offsets: NDArray[np.int64]
    indices: NDArray[np.uint32]
    values: NDArray[np.float32]
    valid: NDArray[np.bool_] | None = None

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @property
    def nbytes(self) -> int:
        """Bytes held, without the validity mask."""
        return int(self.offsets.nbytes + self.indices.nbytes + self.values.nbytes)

    @property
    def resident_bytes(self) -> int:
        """See `DenseVectors.resident_bytes`."""
        return 0

    def loaded(self) -> "SparseVectors":
        """See `DenseVectors.loaded`."""
        return self

    def take(self, rows: NDArray[np.int64]) -> "SparseVectors":
        """Return the given rows, in that order."""
        lengths = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
        entry = np.arange(offsets[-1]) - np.repeat(offsets[:-1] - self.offsets[:-1][rows], lengths)
        valid = None if self.valid is None else self.valid[rows]
        return SparseVectors(offsets, self.indices[entry], self.values[entry], valid)

    def slice(self, start: int, stop: int) -> "SparseVectors":
        """Return rows `start` to `stop`; entries are not copied."""
        low, high = self.offsets[start], self.offsets[stop]
        valid = None if self.valid is None else self.valid[start:stop]
        return SparseVectors(
            self.offsets[start : stop + 1] - low,
            self.indices[low:high],
            self.values[low:high],
            valid,
        )

    @staticmethod
    def concat(parts: Sequence["SparseVectors"]) -> "SparseVectors":
        """Return the parts, one after the other. One part is returned as it is."""
        if len(parts) == 1:
            return parts[0]
        lengths = np.concatenate([np.diff(part.offsets) for part in parts])
        valid = None
        if any(part.valid is not None for part in parts):
            masks = [np.ones(len(p), bool) if p.valid is None else p.valid for p in parts]
            valid = np.concatenate(masks)
        return SparseVectors(
            np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
            np.concatenate([part.indices for part in parts]),
            np.concatenate([part.values for part in parts]),
            valid,
        )


VectorColumn = DenseVectors | SparseVectors


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """A batch of rows.

    Attributes:
        table: the scalar columns, in order; also holds the number of rows where there are none.
        vectors: the vector columns by name, each as long as `table`.
        order: all column names in the order in which they leave; by default scalars, then vectors.
    """

    table: pa.Table
    vectors: Mapping[str, VectorColumn] = field(default_factory=dict)
    order: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.order:
            object.__setattr__(self, "order", (*self.table.column_names, *self.vectors))
        for name, column in self.vectors.items():
            if self.table.num_columns and len(column) != self.table.num_rows:
                raise AssertionError(
                    f"{name} has {len(column)} rows, the table {self.table.num_rows}"
                )

    def __len__(self) -> int:
        if self.table.num_columns or not self.vectors:
            return int(self.table.num_rows)
        return len(next(iter(self.vectors.values())))

    @property
    def nbytes(self) -> int:
        """Bytes of all columns."""
        return int(self.table.nbytes) + sum(column.nbytes for column in self.vectors.values())

    def take(self, rows: NDArray[np.int64]) -> Self:
        """Return the given rows, in that order."""
        vectors = {name: column.take(rows) for name, column in self.vectors.items()}
        return type(self)(self.table.take(pa.array(rows)), vectors, self.order)

    def filter(self, keep: NDArray[np.bool_]) -> Self:
        """Return the rows whose bit is set."""
        return self.take(np.flatnonzero(keep))

    def slice(self, start: int, stop: int) -> Self:
        """Return rows `start` to `stop` without copying vectors or scalars."""
        vectors = {name: column.slice(start, stop) for name, column in self.vectors.items()}
        return type(self)(self.table.slice(start, stop - start), vectors, self.order)

    def select(self, names: Iterable[str]) -> Self:
        """Return only the named columns, in that order."""
        order = tuple(names)
        table = self.table.select([name for name in order if name not in self.vectors])
        return type(self)(table, {n: self.vectors[n] for n in order if n in self.vectors}, order)

    @classmethod
    def concat(cls, parts: Sequence[Self]) -> Self:
        """Return the rows of all parts, in order; columns and their types must agree.

        One part is returned as it is. There must be at least one.
        """
        if len(parts) == 1:
            return parts[0]
        table = pa.concat_tables([part.table for part in parts])
        vectors: dict[str, VectorColumn] = {}
        for name, first in parts[0].vectors.items():
            columns: Any = [part.vectors[name] for part in parts]
            vectors[name] = type(first).concat(columns)
        return cls(table, vectors, parts[0].order)
