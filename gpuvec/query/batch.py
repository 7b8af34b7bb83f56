"""Queries in tiles: as many at once as memory allows, since every tile reads all the rows once."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.device.arrays import as_float32, is_device_array, to_device, to_host
from gpuvec.index.base import Queries
from gpuvec.query.part import Part, arrow_numbers, chunks_of, take_column
from gpuvec.query.plan import QueryArray, QueryFrame
from gpuvec.rows import SparseVectors, VectorColumn
from gpuvec.schema import BinaryVector, FieldType

MOST_QUERIES = 65_536
LEAST_QUERIES = 256
HIT_BYTES = 20  # part, row, distance
HIT_COPIES = 4  # two answers while they are merged, and their sorted copy
DEVICE_HIT_BYTES = 320  # of a place in an answer while tiles of rows are joined there
DEVICE_MORE = 8  # places more than an answer has
OUTPUT_BYTES = 128 << 20  # of one piece of a streamed answer


@dataclass(frozen=True, slots=True, eq=False)
class Tile:
    """Some queries, in order.

    Attributes:
        vectors: as `VectorIndex.search` takes them.
        ids: (queries,) what leaves as `query_id`.
        keys: (queries,) primary keys, when the queries' own rows must not answer.
    """

    vectors: Queries
    ids: pa.Array
    keys: pa.Array | None

    def __len__(self) -> int:
        return len(self.ids)

    def slice(self, start: int, stop: int) -> "Tile":
        """Return queries `start` to `stop`."""
        vectors: Any = self.vectors
        sparse = isinstance(vectors, SparseVectors)
        part = vectors.slice(start, stop) if sparse else vectors[start:stop]
        keys = None if self.keys is None else self.keys.slice(start, stop - start)
        return Tile(part, self.ids.slice(start, stop - start), keys)


def take_queries(queries: Queries, rows: NDArray[np.int64]) -> Queries:
    """Return the given queries, in that order."""
    if isinstance(queries, SparseVectors):
        return queries.take(rows)
    return queries[to_device(rows) if is_device_array(queries) else rows]


def tile_size(
    k: int | None,
    row_bytes: int,
    total_rows: int,
    memory_limit: int,
    *,
    device_limit: int | None = None,
    query_bytes: int = 0,
) -> int:
    """Return how many queries one tile should have.

    Args:
        k: neighbours per query; None: unknown, a first small tile will tell.
        row_bytes: size of one row of the answer.
        total_rows: that could be found; never more than these come per query.
        memory_limit: bytes for hits and answer together; the scan has its own share.
        device_limit: bytes for queries and their hits on the device; None: they stay on the host.
        query_bytes: of one query there.
    """
    if k is None:
        most = LEAST_QUERIES if total_rows * HIT_BYTES * HIT_COPIES < 1 << 20 else 8
    else:
        per_query = max(1, min(k, total_rows)) * (HIT_BYTES * HIT_COPIES + row_bytes)
        size = min(memory_limit // 4, max(OUTPUT_BYTES, LEAST_QUERIES * per_query))
        most = int(min(MOST_QUERIES, max(1, size // per_query)))
    if device_limit is not None:
        there = query_bytes + DEVICE_HIT_BYTES * (min(k or 0, total_rows) + DEVICE_MORE)
        most = min(most, max(1, device_limit // max(1, there)))
    return most


def array_blocks(queries: QueryArray) -> Iterator[Tile]:
    """Yield queries in memory as one block; their ids are row numbers."""
    numbers = np.arange(queries.first, queries.first + len(queries))
    vectors, numbers = _usable(queries.vectors, numbers)
    yield Tile(vectors, arrow_numbers(numbers), None)


def frame_blocks(queries: QueryFrame, parts: Iterable[Part], *, with_keys: bool) -> Iterator[Tile]:
    """Yield the queries of each part of a query frame; rows with a null vector are left out."""
    before = queries.first
    for part in parts:
        numbers = np.arange(before, before + part.num_rows)
        before += part.num_rows
        named = (queries.vector, queries.query_id, queries.key if with_keys else None)
        part.prepare([name for name in dict.fromkeys(named) if name is not None])
        vectors, kept = _usable(part.column(queries.vector), numbers)
        rows = kept - (before - part.num_rows)
        ids = (
            arrow_numbers(kept) if queries.query_id is None else _flat(part, queries.query_id, rows)
        )
        keys = _flat(part, queries.key, rows) if with_keys and queries.key is not None else None
        yield Tile(vectors, ids, keys)


def _flat(part: Part, name: str, rows: Any) -> pa.Array:
    column = part.column(name)
    found = column if len(rows) == part.num_rows else take_column(column, rows)
    chunks = chunks_of(found)
    return chunks[0] if len(chunks) == 1 else pa.concat_arrays(chunks or [pa.nulls(0, found.type)])


def _usable(column: VectorColumn, numbers: Any) -> tuple[Queries, Any]:
    """Return the vectors that are not null, as queries, and their numbers."""
    if column.valid is not None and not column.valid.all():
        rows = np.flatnonzero(column.valid)
        column, numbers = column.take(rows), numbers[rows]
    return (column if isinstance(column, SparseVectors) else column.values), numbers


def tiles(blocks: Iterable[Tile], size: int) -> Iterator[Tile]:
    """Cut and join blocks into tiles of `size` queries; the last may be shorter."""
    waiting: list[Tile] = []
    count = 0
    for block in blocks:
        start = 0
        while len(block) - start >= size - count:
            stop = start + size - count
            yield _join([*waiting, block.slice(start, stop)])
            waiting, count, start = [], 0, stop
        if start < len(block):
            waiting.append(block.slice(start, len(block)))
            count += len(block) - start
    if waiting:
        yield _join(waiting)


def _join(blocks: list[Tile]) -> Tile:
    if len(blocks) == 1:
        return blocks[0]
    first = blocks[0]
    if isinstance(first.vectors, SparseVectors):
        vectors: Any = SparseVectors.concat([block.vectors for block in blocks])
    else:
        vectors = np.concatenate([block.vectors for block in blocks])
    keys = None if first.keys is None else pa.concat_arrays([block.keys for block in blocks])
    return Tile(vectors, pa.concat_arrays([block.ids for block in blocks]), keys)


def as_queries(vectors: Queries, kind: FieldType) -> Queries:
    """Return the vectors of a tile in the dtype of the field's index, where they are."""
    if isinstance(vectors, SparseVectors) or isinstance(kind, BinaryVector):
        return vectors
    return as_float32(vectors)


def host_queries(vectors: Queries, kind: FieldType) -> Queries:
    """Return the same in host memory."""
    found = as_queries(vectors, kind)
    return found if isinstance(found, SparseVectors) else to_host(found, "queries")
