"""Scalar columns in device memory, and conditions run over them where they lie."""

import importlib.util
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import pyarrow as pa

from gpuvec.device import transfer
from gpuvec.device.frames import CudfFrame, ScalarFrame
from gpuvec.device.program import Op
from gpuvec.types import Array


class ColumnRefusedError(Exception):
    """A column that cannot lie on the device; it tells which way to go, and why."""


class ColumnEngine(Protocol):
    """Holds columns on the device, and runs programs over them."""

    def refuses(self, program: Op) -> str:
        """Return which operation of a program it has not; empty: it runs it."""

    def put(self, values: pa.Array) -> Any:
        """Return a copy of a column on the device.

        Raises:
            ColumnRefusedError: it cannot lie there.
        """

    def words(self, program: Op, columns: Mapping[str, Any], rows: int) -> Array:
        """Return where a condition is true, (ceil(rows / 32),) uint32, bits behind the last 0."""

    def frame(self, columns: Mapping[str, Any], kinds: Mapping[str, pa.DataType]) -> ScalarFrame:
        """Return columns of one length side by side, not copied; `kinds` are their Arrow types."""


class CudfColumns:
    """Columns of cuDF."""

    def refuses(self, program: Op) -> str:
        """See `ColumnEngine.refuses`; it has all."""
        return ""

    def put(self, values: pa.Array) -> Any:
        """See `ColumnEngine.put`."""
        from gpuvec.device.cudf_program import from_arrow

        transfer.note(transfer.UP, "scalars", values.nbytes)
        return from_arrow(values)

    def words(self, program: Op, columns: Mapping[str, Any], rows: int) -> Array:
        """See `ColumnEngine.words`."""
        from gpuvec.device.cudf_program import words

        return words(program, columns, rows)

    def frame(self, columns: Mapping[str, Any], kinds: Mapping[str, pa.DataType]) -> ScalarFrame:
        """See `ColumnEngine.frame`."""
        return CudfFrame.of_columns(columns, kinds)


_chosen: list[ColumnEngine] = []  # what `using` put first


def column_engine() -> ColumnEngine | None:
    """Return the library that holds scalar columns on the device: cuDF; None: it is missing."""
    return _chosen[-1] if _chosen else _installed()


@contextmanager
def using(engine: ColumnEngine) -> Iterator[None]:
    """Let another engine hold columns while a block runs."""
    _chosen.append(engine)
    try:
        yield
    finally:
        _chosen.remove(engine)


@cache
def _installed() -> ColumnEngine | None:
    return None if importlib.util.find_spec("cudf") is None else CudfColumns()
