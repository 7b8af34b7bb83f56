"""Sparse vectors: from Arrow columns to compressed sparse rows, and back."""

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from gpuvec.errors import bad_sparse, vector_not_finite, wrong_type
from gpuvec.rows import SparseVectors

MAX_INDEX = 2**32 - 1
_MAX_ENTRIES = 2**31 - 1  # of one Arrow map array, whose offsets are 32 bits wide


def sparse_from_arrow(name: str, column: pa.ChunkedArray | pa.Array) -> SparseVectors:
    """Return maps, lists of (index, value) structs, or structs of two lists, as sparse rows.

    Raises:
        SchemaError: `GV-107` none of these forms, `GV-116` bad positions.
    """
    chunks = column.chunks if isinstance(column, pa.ChunkedArray) else [column]
    parts, first_row = [], 0
    for chunk in chunks:
        parts.append(_from_chunk(name, chunk, first_row))
        first_row += len(chunk)
    return SparseVectors.concat(parts) if parts else make_sparse(name, [0], [], [])


def _from_chunk(name: str, chunk: pa.Array, first_row: int) -> SparseVectors:
    valid = chunk.is_valid().to_numpy(zero_copy_only=False) if chunk.null_count else None
    kind = chunk.type
    if pa.types.is_null(kind):
        return make_sparse(name, np.zeros(len(chunk) + 1), [], [], valid)
    if pa.types.is_map(kind):
        entries = chunk.cast(pa.list_(pa.struct([("key", kind.key_type), ("v", kind.item_type)])))
        return _from_pairs(name, entries, valid, first_row)
    if (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_pair(kind.value_type):
        return _from_pairs(name, chunk, valid, first_row)
    if _is_pair(kind):
        filled = chunk.drop_null() if chunk.null_count else chunk
        indices, values = (pa.array(child) for child in filled.flatten())
        lengths = _spread(indices.value_lengths(), valid, len(chunk))
        if not indices.value_lengths().equals(values.value_lengths()):
            raise wrong_type(name, wanted="as many positions as values", got="lists that differ")
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        return make_sparse(
            name, offsets, _numpy(name, indices.flatten()), _numpy(name, values.flatten()),
            valid, first_row,
        )  # fmt: skip
    raise wrong_type(
        name, wanted="a sparse vector", got=kind, hint="give dicts or maps of position to value"
    )


def _from_pairs(
    name: str, chunk: pa.Array, valid: NDArray[np.bool_] | None, first_row: int
) -> SparseVectors:
    filled = chunk.drop_null() if valid is not None else chunk
    lengths = _spread(filled.value_lengths(), valid, len(chunk))
    indices, values = filled.flatten().flatten()
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    return make_sparse(name, offsets, _numpy(name, indices), _numpy(name, values), valid, first_row)


def _is_pair(kind: pa.DataType) -> bool:
    return isinstance(kind, pa.StructType) and kind.num_fields == 2


def _spread(lengths: pa.Array, valid: NDArray[np.bool_] | None, rows: int) -> NDArray[np.int64]:
    """Return the length of every row, 0 for the null ones."""
    found = np.zeros(rows, np.int64)
    found[slice(None) if valid is None else valid] = lengths.to_numpy(zero_copy_only=False)
    return found


def _numpy(name: str, flat: pa.Array) -> NDArray[np.generic]:
    if not (pa.types.is_integer(flat.type) or pa.types.is_floating(flat.type)):
        if len(flat):
            raise wrong_type(name, wanted="positions and numbers", got=flat.type)
        flat = flat.cast(pa.float32())
    return np.asarray(flat.to_numpy(zero_copy_only=False))


def make_sparse(
    name: str,
    offsets: object,
    indices: object,
    values: object,
    valid: NDArray[np.bool_] | None = None,
    first_row: int = 0,
) -> SparseVectors:
    """Bring compressed sparse rows to order: positions rising, zeros left out.

    Args:
        name: of the field, for messages.
        offsets: (rows + 1,), from 0.
        indices: (entries,) whole numbers from 0 to 2**32 - 1, distinct within a row.
        values: (entries,) numbers, finite or not: `sparse_not_finite_rows` tells.
        valid: (rows,), False for null vectors, which have no entries; None when there are none.
        first_row: the number of the first row, for messages.

    Raises:
        SchemaError: `GV-116` positions that are out of range, not whole, or come twice.
    """
    bounds = np.asarray(offsets, np.int64)
    places = np.asarray(indices)
    rows = np.repeat(np.arange(len(bounds) - 1), np.diff(bounds))
    outside = (places < 0) | (places > MAX_INDEX) | (places != np.trunc(places))
    outside |= np.isnan(places) if places.dtype.kind == "f" else False
    if outside.any():
        at = int(np.argmax(outside))
        raise bad_sparse(name, first_row + int(rows[at]), f"{places[at]} is no position")
    with np.errstate(over="ignore"):
        numbers = np.asarray(values, np.float32)
    places = places.astype(np.uint32)
    code = (rows.astype(np.uint64) << np.uint64(32)) | places
    if (code[1:] <= code[:-1]).any():
        order = np.argsort(code, kind="stable")
        code, places, numbers = code[order], places[order], numbers[order]
        twice = np.flatnonzero(code[1:] == code[:-1])
        if len(twice):
            at = int(twice[0])
            raise bad_sparse(name, first_row + int(rows[at]), f"position {places[at]} comes twice")
    kept = numbers != 0
    if not kept.all():
        counts = np.bincount(rows[kept], minlength=len(bounds) - 1)
        bounds = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places, numbers = places[kept], numbers[kept]
    return SparseVectors(bounds, places, numbers, valid)


def sparse_not_finite_rows(column: SparseVectors) -> NDArray[np.bool_] | None:
    """Return which rows hold a NaN or an infinite number; None when no row does."""
    wrong = ~np.isfinite(column.values)
    if not wrong.any():
        return None
    found = np.zeros(len(column), bool)
    found[np.searchsorted(column.offsets, np.flatnonzero(wrong), side="right") - 1] = True
    return found


def sparse_not_finite_error(name: str, column: SparseVectors, row: int) -> Exception:
    """Return the error that shows the first number of a row that is not finite."""
    entries = slice(column.offsets[row], column.offsets[row + 1])
    at = int(np.argmax(~np.isfinite(column.values[entries])))
    place, got = int(column.indices[entries][at]), column.values[entries][at]
    return vector_not_finite(name, row, place, wanted="float32", got=got)


def empty_rows(column: SparseVectors, rows: NDArray[np.bool_]) -> SparseVectors:
    """Return the vectors with the given rows made null."""
    lengths = np.diff(column.offsets)
    kept = np.repeat(~rows, lengths)
    offsets = np.concatenate([[0], np.cumsum(np.where(rows, 0, lengths))]).astype(np.int64)
    valid = ~rows if column.valid is None else column.valid & ~rows
    return SparseVectors(offsets, column.indices[kept], column.values[kept], valid)


def sparse_to_arrow(column: SparseVectors) -> pa.ChunkedArray:
    """Return sparse vectors as maps from uint32 to float32."""
    if column.offsets[-1] > _MAX_ENTRIES and len(column) > 1:
        middle = len(column) // 2
        halves = column.slice(0, middle), column.slice(middle, len(column))
        return pa.chunked_array([c for half in halves for c in sparse_to_arrow(half).chunks])
    offsets = pa.array(
        column.offsets.astype(np.int32),
        mask=None if column.valid is None else np.append(~column.valid, False),
    )
    maps = pa.MapArray.from_arrays(offsets, pa.array(column.indices), pa.array(column.values))
    return pa.chunked_array([maps])
