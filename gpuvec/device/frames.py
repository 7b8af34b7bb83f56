"""Scalar columns on host or device behind one small face: filter, take, project, nothing else."""

from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import pyarrow as pa

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

    def values(self, name: str) -> Array:
        """Return a column of numbers or bools as an array on the frame's side; no nulls allowed."""

    def to_arrow(self) -> pa.Table:
        """Return the columns as an Arrow table in host memory."""


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
    """Scalar columns in GPU memory, as a cuDF frame."""

    def __init__(self, frame: Any) -> None:
        self.frame = frame

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
        return type(self)(self.frame[list(names)])

    def filter(self, keep: Array) -> Self:
        """See `ScalarFrame.filter`."""
        rows = cupy_module().flatnonzero(to_device(keep))
        return self.take(rows)

    def take(self, rows: Array) -> Self:
        """See `ScalarFrame.take`."""
        return type(self)(self.frame.take(to_device(rows)))

    def slice(self, start: int, stop: int) -> Self:
        """See `ScalarFrame.slice`."""
        return type(self)(self.frame.iloc[start:stop])

    def values(self, name: str) -> Array:
        """See `ScalarFrame.values`."""
        column = self.frame[name]
        if column.has_nulls:
            raise AssertionError(f"column {name} has nulls; fill them before asking for values")
        return column.values

    def to_arrow(self) -> pa.Table:
        """See `ScalarFrame.to_arrow`."""
        return self.frame.to_arrow(preserve_index=False)


def scalar_frame(table: Any, *, device: str = "cpu") -> ScalarFrame:
    """Put scalar columns behind the face, moving them if need be.

    Args:
        table: an Arrow table, or a frame of this module.
        device: "cpu" or "gpu", as `resolve_device` gives it.

    Raises:
        UnsupportedError: `GV-901`, "gpu" without cuDF.
    """
    if isinstance(table, ArrowFrame | CudfFrame):
        table = table.to_arrow()
    if device == "cpu":
        return ArrowFrame(table)
    try:
        import cudf
    except ImportError as error:
        raise gpu_package_missing("cudf") from error
    return CudfFrame(cudf.DataFrame.from_arrow(table))
