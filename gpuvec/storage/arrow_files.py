"""Arrow IPC files as lists of buffers, so that big arrays are written from where they lie."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.rows import DenseVectors, SparseVectors, VectorColumn
from gpuvec.storage.object_store import Buffer
from gpuvec.storage.records import ArrayRecord

PAGE_BYTES = 4096  # of memory and of devices that read files directly


def vector_file(
    name: str, column: VectorColumn, metadata: Mapping[str, str]
) -> tuple[list[Buffer], dict[str, ArrayRecord]]:
    """Return an Arrow IPC file of one vector column, and where its arrays lie.

    The file holds one uncompressed record batch. The first array begins at byte 4096. Null vectors
    are zeros or empty; which they are is kept elsewhere.

    Args:
        name: of the column in the file.
        column: dense vectors become a fixed size list, bfloat16 as uint16; sparse ones become a
            large list of (index, value).
        metadata: for other readers of the file.
    """
    arrays: dict[str, NDArray[Any]] = {"values": np.ascontiguousarray(column.values)}
    if isinstance(column, SparseVectors):
        arrays["offsets"] = np.ascontiguousarray(column.offsets)
        arrays["indices"] = np.ascontiguousarray(column.indices)
        array = _sparse_array(arrays)
    else:
        array = _dense_array(arrays["values"])
    field = pa.field(name, array.type, nullable=False)
    parts = _padded_file(array, field, metadata)
    return parts, {key: _find(array, parts) for key, array in arrays.items()}


def map_arrays(data: NDArray[np.uint8], records: Mapping[str, ArrayRecord]) -> VectorColumn:
    """Return the vectors of a file, over its memory."""
    arrays = {name: _map(data, record) for name, record in records.items()}
    if "offsets" in arrays:
        return SparseVectors(arrays["offsets"], arrays["indices"], arrays["values"])
    return DenseVectors(arrays["values"])


def _dense_array(values: NDArray[Any]) -> pa.Array:
    storable = values.view(np.uint16) if values.dtype.name == "bfloat16" else values
    item = pa.from_numpy_dtype(storable.dtype)
    child = pa.Array.from_buffers(item, values.size, [None, _arrow_buffer(values)])
    kind = pa.list_(pa.field("item", item, nullable=False), values.shape[1])
    return pa.Array.from_buffers(kind, len(values), [None], children=[child])


def _sparse_array(arrays: Mapping[str, NDArray[Any]]) -> pa.Array:
    count = len(arrays["indices"])
    index = pa.Array.from_buffers(pa.uint32(), count, [None, _arrow_buffer(arrays["indices"])])
    value = pa.Array.from_buffers(pa.float32(), count, [None, _arrow_buffer(arrays["values"])])
    pair = pa.struct(
        [pa.field("index", pa.uint32(), nullable=False), pa.field("value", pa.float32(), False)]
    )
    pairs = pa.Array.from_buffers(pair, count, [None], children=[index, value])
    kind = pa.large_list(pa.field("item", pair, nullable=False))
    offsets = arrays["offsets"]
    buffers = [None, _arrow_buffer(offsets)]
    return pa.Array.from_buffers(kind, len(offsets) - 1, buffers, children=[pairs])


def _arrow_buffer(array: NDArray[Any]) -> pa.Buffer:
    return pa.foreign_buffer(array.ctypes.data, array.nbytes, base=array)


def _padded_file(array: pa.Array, field: pa.Field, metadata: Mapping[str, str]) -> list[Buffer]:
    """Fill the schema's metadata with blanks until the first array begins at a page."""
    padding = 0
    while True:
        schema = pa.schema([field], metadata={**metadata, "padding": " " * padding})
        sink = _Parts()
        with pa.ipc.new_file(pa.PythonFile(sink, mode="w"), schema) as writer:
            writer.write_batch(pa.record_batch([array], schema=schema))
        wrong = -sink.first_body % PAGE_BYTES
        if wrong == 0:
            return sink.parts
        padding += wrong


class _Parts:
    """A file for writing that keeps what it is given."""

    closed = False

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self.first_body = 0  # where the first array begins
        self._position = 0

    def write(self, part: Any) -> int:
        if isinstance(part, pa.Buffer) and not self.first_body:
            self.first_body = self._position
        self.parts.append(part)
        self._position += len(memoryview(part))
        return len(memoryview(part))

    def tell(self) -> int:
        return self._position

    def flush(self) -> None:
        pass

    def close(self) -> None:
        pass


def _find(array: NDArray[Any], parts: list[Buffer]) -> ArrayRecord:
    """Return where an array lies in the file, which holds it as one of its parts."""
    offset = 0
    name = array.dtype.name
    if array.size == 0:
        return ArrayRecord(offset=offset, dtype=name, shape=array.shape)
    for part in parts:
        if isinstance(part, pa.Buffer) and part.address == array.ctypes.data:
            return ArrayRecord(offset=offset, dtype=name, shape=array.shape)
        offset += len(memoryview(part))
    raise AssertionError("the Arrow writer copied an array")


def _map(data: NDArray[np.uint8], record: ArrayRecord) -> NDArray[Any]:
    count = int(np.prod(record.shape, dtype=np.int64))
    stop = record.offset + count * record.numpy_dtype.itemsize
    return data[record.offset : stop].view(record.numpy_dtype).reshape(record.shape)
