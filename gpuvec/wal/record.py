"""A write as the log keeps it, and the bytes of a group of them.

A group's bytes are a length, a JSON directory of that length, and sections at multiples of 64:
tables as Arrow IPC streams, vectors as they lie in memory. Decoding copies nothing: rows are views
on the bytes.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import VECTOR_DTYPES
from gpuvec.storage.checksum import as_bytes
from gpuvec.storage.object_store import Buffer
from gpuvec.types import RequestId, Timestamp

_ALIGNMENT = 64
_LENGTH_BYTES = 8
_END_OF_STREAM = b"\xff\xff\xff\xff\0\0\0\0"
_PLAIN = (
    "ts", "request_id", "operation", "partition", "schema_version",
    "inserted", "updated", "deleted", "first_auto_id",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class WriteRecord:
    """One write: first its deletes take effect, then its rows, all at `ts`.

    A delete hides rows of its keys that are older than `ts`, so an upsert deletes and inserts at
    one timestamp.
    """

    ts: Timestamp
    request_id: RequestId
    operation: str  # for `versions()`: "insert", "upsert", "update", "delete", …
    partition: str = ""
    schema_version: int = 1  # of the collection when the rows were checked
    delete_keys: pa.Array | pa.ChunkedArray | None = None
    rows: Rows | None = None
    inserted: int = 0  # what the caller was told
    updated: int = 0
    deleted: int = 0
    first_auto_id: int | None = None  # of rows that gpuvec numbered

    @property
    def nbytes(self) -> int:
        """Bytes of keys and rows."""
        keys = 0 if self.delete_keys is None else int(self.delete_keys.nbytes)
        return keys + (0 if self.rows is None else self.rows.nbytes)


def encode_records(records: Sequence[WriteRecord]) -> list[Buffer]:
    """Return the bytes of a group as parts. Vectors are not copied; the parts refer to them."""
    sections = _Sections()
    directory = [_describe(record, sections) for record in records]
    text = json.dumps(directory, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-(_LENGTH_BYTES + len(text)) % _ALIGNMENT)
    return [len(text).to_bytes(_LENGTH_BYTES, "little"), text, *sections.parts]


def decode_records(body: memoryview | bytes) -> tuple[WriteRecord, ...]:
    """Return the records of a group. Their rows are read-only views on `body`."""
    view = memoryview(body)
    start = _LENGTH_BYTES + int.from_bytes(view[:_LENGTH_BYTES], "little")
    directory = json.loads(bytes(view[_LENGTH_BYTES:start]))
    return tuple(_rebuild(described, view[start:]) for described in directory)


class _Sections:
    """Parts laid one after the other, each at a multiple of `_ALIGNMENT`."""

    def __init__(self) -> None:
        self.parts: list[Buffer] = []
        self._end = 0

    def add(self, part: Buffer) -> tuple[int, int]:
        """Lay a part down; return its offset and length."""
        flat = as_bytes(part)
        at = self._end
        padding = -len(flat) % _ALIGNMENT
        self.parts += [flat, bytes(padding)]
        self._end = at + len(flat) + padding
        return at, len(flat)

    def add_table(self, table: pa.Table) -> tuple[int, int]:
        """Add an Arrow IPC stream, byte for byte what its writer makes, in less time."""
        batches = (batch.serialize() for batch in table.to_batches())
        return self.add(b"".join([table.schema.serialize(), *batches, _END_OF_STREAM]))

    def add_array(self, array: NDArray[Any]) -> dict[str, Any]:
        shape, dtype = array.shape, str(array.dtype)
        return {
            "at": self.add(np.ascontiguousarray(array)),
            "dtype": dtype,
            "shape": shape,
        }


def _describe(record: WriteRecord, sections: _Sections) -> dict[str, Any]:
    described: dict[str, Any] = {name: getattr(record, name) for name in _PLAIN}
    if record.delete_keys is not None:
        described["delete_keys"] = sections.add_table(pa.table({"key": record.delete_keys}))
    if record.rows is not None:
        described["order"] = record.rows.order
        described["table"] = sections.add_table(record.rows.table)
        described["vectors"] = {
            name: _describe_vectors(column, sections)
            for name, column in record.rows.vectors.items()
        }
    return described


def _describe_vectors(column: VectorColumn, sections: _Sections) -> dict[str, Any]:
    arrays = {"values": column.values}
    if isinstance(column, SparseVectors):
        arrays |= {"offsets": column.offsets, "indices": column.indices}
    if column.valid is not None:
        arrays["valid"] = column.valid
    return {name: sections.add_array(array) for name, array in arrays.items()}


def _rebuild(described: Mapping[str, Any], data: memoryview) -> WriteRecord:
    values: dict[str, Any] = {name: described[name] for name in _PLAIN}
    if "delete_keys" in described:
        values["delete_keys"] = _table(described["delete_keys"], data).column("key")
    if "table" in described:
        vectors = {
            name: _vectors({part: _array(at, data) for part, at in arrays.items()})
            for name, arrays in described["vectors"].items()
        }
        table = _table(described["table"], data)
        values["rows"] = Rows(table, vectors, tuple(described["order"]))
    return WriteRecord(**values)


def _vectors(arrays: dict[str, Any]) -> VectorColumn:
    return SparseVectors(**arrays) if "offsets" in arrays else DenseVectors(**arrays)


def _table(where: Sequence[int], data: memoryview) -> pa.Table:
    at, length = where
    with pa.ipc.open_stream(pa.py_buffer(data[at : at + length])) as reader:
        return reader.read_all()


def _array(described: Mapping[str, Any], data: memoryview) -> NDArray[Any]:
    at, length = described["at"]
    name = described["dtype"]
    dtype = VECTOR_DTYPES[name] if name in VECTOR_DTYPES else np.dtype(name)
    flat: NDArray[Any] = np.frombuffer(data[at : at + length], np.uint8).view(dtype)
    return flat.reshape(described["shape"])
