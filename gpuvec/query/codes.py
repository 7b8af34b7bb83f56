"""Equal values get equal numbers: the ground of grouping, joining and distinct rows."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.errors import cannot_compare_column
from gpuvec.query.part import Column, chunks_of
from gpuvec.rows import DenseVectors, SparseVectors

IntArray = NDArray[np.int64]


def row_codes(columns: Sequence[Column], names: Sequence[str]) -> IntArray:
    """Return one number per row, equal where all columns are; null equals null, NaN equals NaN.

    Args:
        columns: at least one, of equal length.
        names: for messages.

    Returns:
        (rows,) int64, from 0 and without gaps, in order of first appearance.

    Raises:
        QueryError: `GV-357`, lists and sparse vectors cannot be compared.
    """
    found = _column_codes(columns[0], names[0])
    for column, name in zip(columns[1:], names[1:], strict=True):
        more = _column_codes(column, name)
        width = int(more.max(initial=0)) + 1
        found = _dense(found * width + more)
    return in_order_of_appearance(found)


def in_order_of_appearance(codes: IntArray) -> IntArray:
    """Return the same groups, numbered as they first appear."""
    _, first, inverse = np.unique(codes, return_index=True, return_inverse=True)
    place = np.empty(len(first), np.int64)
    place[np.argsort(first)] = np.arange(len(first))
    numbered: IntArray = place[inverse.ravel()]
    return numbered


def first_rows(codes: IntArray) -> IntArray:
    """Return the row at which each group first appears; `codes` as `row_codes` gives them."""
    return np.unique(codes, return_index=True)[1].astype(np.int64)


def places_within(codes: IntArray) -> IntArray:
    """Return each row's place among the rows of its group, from 0."""
    order = np.argsort(codes, kind="stable")
    ordered = codes[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    place = np.empty(len(codes), np.int64)
    lengths = np.diff(np.concatenate([starts, [len(codes)]]))
    place[order] = np.arange(len(codes)) - np.repeat(starts, lengths)
    return place


def match_rows(left: IntArray, right: IntArray) -> tuple[IntArray, IntArray, IntArray]:
    """Return the pairs of rows with equal codes; negative codes match nothing.

    Returns:
        left rows and right rows of the pairs, (pairs,) each, in order of left, then of right; and
        the number of partners of each left row, (left rows,).
    """
    order = np.argsort(right, kind="stable")
    ordered = right[order]
    start = np.searchsorted(ordered, left, "left")
    counts = np.searchsorted(ordered, left, "right") - start
    counts[left < 0] = 0
    left_rows = np.repeat(np.arange(len(left)), counts)
    before = np.concatenate([[0], np.cumsum(counts)[:-1]]) if len(counts) else counts
    within = np.arange(len(left_rows)) - np.repeat(before, counts)
    return left_rows, order[np.repeat(start, counts) + within], counts


def _dense(codes: IntArray) -> IntArray:
    return np.unique(codes, return_inverse=True)[1].astype(np.int64).ravel()


def _column_codes(column: Column, name: str) -> IntArray:
    if isinstance(column, DenseVectors):
        return _vector_codes(column)
    if isinstance(column, SparseVectors) or pa.types.is_nested(column.type):
        raise cannot_compare_column(name)
    whole: Any = pa.chunked_array(chunks_of(column), type=column.type).combine_chunks()
    if pa.types.is_floating(whole.type):
        whole = pc.add(whole, pa.scalar(0.0, whole.type))  # -0.0 and 0.0 are equal
    if pa.types.is_null(whole.type):
        return np.zeros(len(whole), np.int64)
    encoded = whole.dictionary_encode(null_encoding="encode")
    chunks = chunks_of(encoded)
    assert len(chunks) <= 1
    codes: IntArray = np.asarray(chunks[0].indices).astype(np.int64) if chunks else np.empty(0, int)
    return codes


def _vector_codes(column: DenseVectors) -> IntArray:
    values = np.ascontiguousarray(column.values)
    rows = values.view(np.dtype((np.void, values.dtype.itemsize * values.shape[1]))).ravel()
    codes = _dense(rows) if len(rows) else np.empty(0, np.int64)  # type: ignore[arg-type]
    return codes if column.valid is None else np.where(column.valid, codes + 1, 0)
