"""Making scalar indexes of columns: the different values in order, and which rows have which."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.index.scalar_rows import (
    DENSE_SHARE,
    MARKS,
    BitmapRows,
    RowList,
    SortedRows,
    mark_step,
)

Column = Any  # pa.Array or pa.ChunkedArray


@dataclass(frozen=True, slots=True, eq=False)
class _Lists:
    """The rows of each slot.

    Attributes:
        values: in order; the slot after them is that of null.
        counts: (slots,) rows of each slot.
        rows: slot by slot, rising within each.
        num_rows: of the column.
    """

    values: pa.Array
    counts: NDArray[np.int64]
    rows: RowList
    num_rows: int

    @property
    def starts(self) -> NDArray[np.int64]:
        """Where each slot begins, and the end of the last."""
        return np.concatenate([[0], np.cumsum(self.counts)])


def bitmap_rows(column: Column) -> tuple[pa.Array, BitmapRows]:
    """Return the different values, or elements, of a column and their rows as bit sets and lists.

    Args:
        column: scalars, or lists of scalars.
    """
    column, is_list = _chunked(column), pa.types.is_list(column.type)
    found = _list_slots(column) if is_list else _slots(column)
    is_dense = found.counts * DENSE_SHARE > found.num_rows
    dense = np.flatnonzero(is_dense)
    starts = found.starts
    bits = np.zeros((len(dense), -(-found.num_rows // 8)), np.uint8)
    for place, slot in enumerate(dense.tolist()):  # fewer than DENSE_SHARE, but for lists
        bits[place] = _packed(found.rows[starts[slot] : starts[slot + 1]], found.num_rows)
    sparse_counts = np.where(is_dense, 0, found.counts)
    rows = BitmapRows(
        num_rows=found.num_rows,
        slots=len(found.counts),
        starts=_narrow(np.concatenate([[0], np.cumsum(sparse_counts)]), found.num_rows),
        rows=found.rows[np.repeat(~is_dense, found.counts)],
        dense=dense.astype(np.int64),
        dense_counts=found.counts[dense],
        bits=bits,
        partition=not is_list,
    )
    return found.values, rows


def sorted_rows(column: Column) -> tuple[pa.Array, SortedRows]:
    """Return the values of a column of scalars in order, and its rows in that order.

    Numbers that repeat little are kept once for each row: that takes less than saying which do.
    """
    found = _each_row(_slots(_chunked(column)))
    step = mark_step(found.num_rows)
    bits = np.zeros((MARKS - 1, -(-found.num_rows // 8)), np.uint8)
    before = np.zeros(found.num_rows, bool)
    for place in range(MARKS - 1):
        before[found.rows[place * step : (place + 1) * step]] = True
        bits[place] = np.packbits(before, bitorder="little")
    once = bool((found.counts[:-1] == 1).all())
    rows = SortedRows(
        num_rows=found.num_rows,
        slots=len(found.counts),
        starts=None if once else _narrow(found.starts, found.num_rows),
        rows=found.rows,
        bits=bits,
    )
    return found.values, rows


def _each_row(lists: _Lists) -> _Lists:
    """Return lists of one row each, if values may repeat and that takes fewer bytes."""
    kind, once = lists.values.type, len(lists.values)
    present = lists.num_rows - int(lists.counts[-1])
    if not pa.types.is_primitive(kind) or (present - once) * kind.bit_width // 8 >= 4 * once:
        return lists
    values = lists.values.take(pa.array(np.repeat(np.arange(once), lists.counts[:-1])))
    counts = np.append(np.ones(present, np.int64), lists.counts[-1])
    return replace(lists, values=values, counts=counts)


def _chunked(column: Column) -> pa.ChunkedArray:
    return column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])


def _slots(column: pa.ChunkedArray) -> _Lists:
    values, slot = _numbered(column)
    counts = np.bincount(slot.astype(np.int64), minlength=len(values) + 1)
    return _Lists(values, counts, _narrow(_order(slot), len(column)), len(column))


def _list_slots(column: pa.ChunkedArray) -> _Lists:
    lengths = pc.fill_null(pc.list_value_length(column), 0).to_numpy()
    values, slot = _numbered(pc.list_flatten(column))
    order = _order(slot)
    slot, rows = slot[order], np.repeat(np.arange(len(column)), lengths)[order]
    again = (slot[1:] == slot[:-1]) & (rows[1:] == rows[:-1])  # a row counts once for each element
    first = np.append(True, ~again)[: len(slot)]
    null = np.flatnonzero(column.is_null().to_numpy())
    counts = np.bincount(slot[first].astype(np.int64), minlength=len(values) + 1)
    counts[-1] = len(null)
    return _Lists(values, counts, _narrow(np.append(rows[first], null), len(column)), len(column))


def _numbered(column: pa.ChunkedArray) -> tuple[pa.Array, NDArray[Any]]:
    """Return the different values in order, and for each row the number of its value."""
    encoded = pc.dictionary_encode(column).chunks
    values = encoded[0].dictionary if encoded else pa.array([], column.type)  # of all chunks
    order = pc.sort_indices(values)
    rank = np.empty(len(values), np.int64)
    rank[order.to_numpy()] = np.arange(len(values))
    indices = pa.chunked_array([chunk.indices for chunk in encoded], pa.int32())
    codes = pc.fill_null(indices, len(values)).to_numpy()
    kind = np.min_scalar_type(len(values))
    slot = np.append(rank, len(values)).astype(kind)[codes]
    return values.take(order), slot


def _order(slot: NDArray[Any]) -> NDArray[np.int64]:
    """Return rows slot by slot, rising within each."""
    if slot.dtype.itemsize <= 2:
        return np.argsort(slot, kind="stable")  # a radix sort
    return np.argsort(slot.astype(np.int64) * len(slot) + np.arange(len(slot)))


def _packed(rows: RowList, count: int) -> NDArray[np.uint8]:
    mask = np.zeros(count, bool)
    mask[rows] = True
    return np.packbits(mask, bitorder="little")


def _narrow(numbers: NDArray[Any], most: int) -> RowList:
    return numbers.astype(np.uint32 if most < 2**32 else np.uint64)
