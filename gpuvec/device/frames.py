"""Scalar columns on host or device behind one small face: filter, take, project, append."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

from gpuvec.device import transfer
from gpuvec.device.arrays import cupy_module, to_device, to_host
from gpuvec.errors import gpu_package_missing
from gpuvec.types import Array


class ScalarFrame(Protocol):
    """Scalar columns of one length. Methods return new frames; the data stays where it is."""

    @property
    def num_rows(self) -> int:
        """Rows."""

    @property
    def names(self) -> tuple[str, ...]:
        """Column names, in order."""

    def project(self, names: Sequence[str]) -> Self:
        """Return only the named columns, in that order."""

    def filter(self, keep: Array) -> Self:
        """Return the rows whose (rows,) bool entry is True; the mask may lie on either side."""

    def take(self, rows: Array) -> Self:
        """Return the rows at (n,) int64 positions, in that order."""

    def slice(self, start: int, stop: int) -> Self:
        """Return rows `start` to `stop`."""

    def followed_by(self, others: Sequence[Self]) -> Self:
        """Return the rows of this frame and of others with the same columns, copied."""

    def null_count(self, name: str) -> int:
        """Return how many values of a column are null."""

    def values(self, name: str) -> Array:
        """Return a column of numbers or bools as an array on the frame's side; no nulls allowed."""

    def to_arrow(self) -> pa.Table:
        """Return the columns as an Arrow table in host memory, in the types that they came in."""


class ArrowFrame:
    """Scalar columns in host memory, as an Arrow table."""

    def __init__(self, table: pa.Table) -> None:
        self.table = table

    @property
    def num_rows(self) -> int:
        """See `ScalarFrame.num_rows`."""
        return int(self.table.num_rows)

    @property
    def names(self) -> tuple[str, ...]:
        """See `ScalarFrame.names`."""
        return tuple(self.table.column_names)

    def project(self, names: Sequence[str]) -> Self:
        """See `ScalarFrame.project`."""
        return type(self)(self.table.select(list(names)))

    def filter(self, keep: Array) -> Self:
        """See `ScalarFrame.filter`."""
        return type(self)(self.table.filter(pa.array(to_host(keep))))

    def take(self, rows: Array) -> Self:
        """See `ScalarFrame.take`."""
        return type(self)(self.table.take(pa.array(to_host(rows))))

    def slice(self, start: int, stop: int) -> Self:
        """See `ScalarFrame.slice`."""
        return type(self)(self.table.slice(start, stop - start))

    def followed_by(self, others: Sequence[Self]) -> Self:
        """See `ScalarFrame.followed_by`."""
        tables = [self.table, *(other.table for other in others)]
        return type(self)(pa.concat_tables(tables).combine_chunks())

    def null_count(self, name: str) -> int:
        """See `ScalarFrame.null_count`."""
        return int(self.table.column(name).null_count)

    def values(self, name: str) -> Array:
        """See `ScalarFrame.values`."""
        column = self.table.column(name)
        if column.null_count:
            raise AssertionError(f"column {name} has nulls; fill them before asking for values")
        return np.asarray(column)

    def to_arrow(self) -> pa.Table:
        """See `ScalarFrame.to_arrow`."""
        return self.table


class CudfFrame:
    """Scalar columns in GPU memory, as a cuDF frame.

    cuDF has no time zones in columns of pylibcudf, and keeps JSON and keys as plain text: what the
    columns were before is noted in `kinds`.

    Attributes:
        frame: `cudf.DataFrame`; shares the memory of what it was made of.
        kinds: the Arrow type of each column.
    """

    def __init__(self, frame: Any, kinds: Mapping[str, pa.DataType]) -> None:
        self.frame = frame
        self.kinds = dict(kinds)

    @classmethod
    def of_columns(cls, columns: Mapping[str, Any], kinds: Mapping[str, pa.DataType]) -> Self:
        """Put `pylibcudf.Column`s of one length side by side; nothing is copied."""
        import cudf
        from pylibcudf import Table

        table = Table(list(columns.values()))
        found = cudf.DataFrame.from_pylibcudf(table, {"columns": list(columns)})
        return cls(found, {name: kinds[name] for name in columns})

    @property
    def num_rows(self) -> int:
        """See `ScalarFrame.num_rows`."""
        return len(self.frame)

    @property
    def names(self) -> tuple[str, ...]:
        """See `ScalarFrame.names`."""
        return tuple(self.frame.columns)

    def project(self, names: Sequence[str]) -> Self:
        """See `ScalarFrame.project`."""
        kinds = {name: self.kinds[name] for name in names}
        return type(self)(self.frame[list(names)], kinds)

    def filter(self, keep: Array) -> Self:
        """See `ScalarFrame.filter`."""
        return self.take(cupy_module().flatnonzero(to_device(keep, "bits")))

    def take(self, rows: Array) -> Self:
        """See `ScalarFrame.take`."""
        found = self.frame.take(to_device(rows, "bits"))
        return type(self)(found.reset_index(drop=True), self.kinds)

    def slice(self, start: int, stop: int) -> Self:
        """See `ScalarFrame.slice`."""
        found = self.frame.iloc[start:stop]
        return type(self)(found.reset_index(drop=True), self.kinds)

    def followed_by(self, others: Sequence[Self]) -> Self:
        """See `ScalarFrame.followed_by`."""
        import cudf

        if not others:
            return type(self)(self.frame.copy(deep=True), self.kinds)
        frames = [self.frame, *(other.frame for other in others)]
        return type(self)(cudf.concat(frames, ignore_index=True), self.kinds)

    def null_count(self, name: str) -> int:
        """See `ScalarFrame.null_count`."""
        return int(self.frame[name].null_count)

    def values(self, name: str) -> Array:
        """See `ScalarFrame.values`."""
        column = self.frame[name]
        if column.null_count:
            raise AssertionError(f"column {name} has nulls; fill them before asking for values")
        return column.values

    def to_arrow(self) -> pa.Table:
        """See `ScalarFrame.to_arrow`."""
        found = self.frame.to_arrow(preserve_index=False)
        columns = {name: found[name].cast(kind) for name, kind in self.kinds.items()}
        table = pa.table(columns)
        transfer.note(transfer.DOWN, "scalars", table.nbytes)
        return table


def scalar_frame(table: pa.Table, *, device: str = "cpu") -> ScalarFrame:
    """Put scalar columns behind the face, copying them to the device if need be.

    Args:
        table: an Arrow table; no column of more than 2 GiB of text.
        device: "cpu" or "gpu", as `resolve_device` gives it.

    Raises:
        UnsupportedError: `GV-901`, "gpu" without cuDF.
    """
    if device == "cpu":
        return ArrowFrame(table)
    from gpuvec.device.columns import CudfColumns, column_engine

    engine = column_engine()
    if not isinstance(engine, CudfColumns):
        raise gpu_package_missing("cudf")
    kinds = {field.name: field.type for field in table.schema}
    columns = {name: engine.put(_one_array(table[name])) for name in kinds}
    return CudfFrame.of_columns(columns, kinds)


def _one_array(column: pa.ChunkedArray) -> pa.Array:
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
