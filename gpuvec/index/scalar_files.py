"""The file of a scalar index: one Arrow IPC file of one row, each array a list in it.

Any Arrow reader opens it. Its metadata say what it is:

    gpuvec.format    the layout's version, `1`
    gpuvec.kind      `bitmap` or `sorted`
    gpuvec.rows      rows of the segment
    gpuvec.lists     `1` where the field holds lists

Columns: `values`, in order; `starts`, where each value's rows begin in `rows` (absent where each
value has one row); `rows`; `bits`, bit sets one after the other; and of bitmaps `dense`, the
numbers of the values that have one, and `dense_counts`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.errors import unknown_index_format
from gpuvec.index.base import IndexFile
from gpuvec.index.scalar_rows import BitmapRows, SlotRows, SortedRows
from gpuvec.storage.object_store import Buffer

NAME = "scalar.arrow"
FORMAT = "1"


def files(values: pa.Array, rows: SlotRows, *, of_lists: bool) -> Mapping[str, Sequence[Buffer]]:
    """Return the file of an index by its name."""
    arrays: dict[str, pa.Array] = {"values": values, "rows": _arrow(rows.rows)}
    if rows.starts is not None:
        arrays["starts"] = _arrow(rows.starts)
    arrays["bits"] = _arrow(rows.bits.reshape(-1))
    kind = "sorted"
    if isinstance(rows, BitmapRows):
        kind = "bitmap"
        arrays["dense"] = _arrow(rows.dense)
        arrays["dense_counts"] = _arrow(rows.dense_counts)
    about = {
        "gpuvec.format": FORMAT,
        "gpuvec.kind": kind,
        "gpuvec.rows": str(rows.num_rows),
        "gpuvec.lists": str(int(of_lists)),
    }
    row = {name: _one_row(array) for name, array in arrays.items()}
    batch = pa.record_batch(row).replace_schema_metadata(about)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return {NAME: [sink.getvalue()]}


def read(found: Mapping[str, IndexFile]) -> tuple[pa.Array, SlotRows, bool]:
    """Return the different values, the rows of each, and whether the field holds lists.

    Arrays lie over the file's memory; nothing is copied.

    Raises:
        UnsupportedError: `GV-342`, a layout that this version of gpuvec does not know.
    """
    batch = pa.ipc.open_file(pa.py_buffer(found[NAME].data)).get_batch(0)
    about = {name.decode(): text.decode() for name, text in (batch.schema.metadata or {}).items()}
    if about.get("gpuvec.format") != FORMAT:
        raise unknown_index_format(about.get("gpuvec.format"), FORMAT)
    values = batch.column("values").flatten()
    arrays = {
        name: _numpy(batch.column(name).flatten())
        for name in batch.schema.names
        if name != "values"
    }
    num_rows, of_lists = int(about["gpuvec.rows"]), about["gpuvec.lists"] == "1"
    bits = arrays["bits"].reshape(-1, -(-num_rows // 8)) if num_rows else np.empty((0, 0), np.uint8)
    rows: SlotRows
    if about["gpuvec.kind"] == "sorted":
        rows = SortedRows(
            num_rows=num_rows,
            slots=len(values) + 1,
            starts=arrays.get("starts"),
            rows=arrays["rows"],
            bits=bits,
        )
    else:
        rows = BitmapRows(
            num_rows=num_rows,
            slots=len(values) + 1,
            starts=arrays["starts"],
            rows=arrays["rows"],
            dense=arrays["dense"],
            dense_counts=arrays["dense_counts"],
            bits=bits,
            partition=not of_lists,
        )
    return values, rows, of_lists


def _one_row(array: pa.Array) -> pa.Array:
    offsets = pa.array([0, len(array)], pa.int64())
    kind = pa.large_list(pa.field("item", array.type, nullable=False))
    return pa.LargeListArray.from_arrays(offsets, array, type=kind)


def _arrow(array: NDArray[Any]) -> pa.Array:
    plain = np.ascontiguousarray(array)
    buffers = [None, pa.py_buffer(plain)]
    return pa.Array.from_buffers(pa.from_numpy_dtype(plain.dtype), len(plain), buffers)


def _numpy(array: pa.Array) -> NDArray[Any]:
    dtype = np.dtype(array.type.to_pandas_dtype())
    data = array.buffers()[1]
    if data is None or not len(array):
        return np.empty(0, dtype)
    return np.frombuffer(data, dtype, len(array), array.offset * dtype.itemsize)
