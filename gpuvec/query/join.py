"""Equality joins of two parts."""

import numpy as np

from gpuvec.errors import keys_of_two_types
from gpuvec.query.codes import IntArray, match_rows, row_codes
from gpuvec.query.part import Column, Part, chunks_of, concat_columns, take_or_null
from gpuvec.query.plan import Join
from gpuvec.rows import DenseVectors, SparseVectors

HOW = ("inner", "left", "semi", "anti")


def join_parts(node: Join, left: Part, right: Part) -> Part:
    """Return the joined rows, in order of the left part, then the right; null matches nothing."""
    left_codes, right_codes = _codes(node, left, right)
    left_rows, right_rows, counts = match_rows(left_codes, right_codes)
    if node.how in ("semi", "anti"):
        return left.take(np.flatnonzero((counts > 0) == (node.how == "semi")))
    if node.how == "left":
        left_rows, right_rows = _with_unmatched(left_rows, right_rows, counts)

    def read(name: str) -> Column:
        if name in node.renamed:
            return take_or_null(right.column(node.renamed[name]), right_rows)
        return taken.column(name)

    taken = left.take(left_rows)
    return Part(len(left_rows), read)


def _with_unmatched(
    left_rows: IntArray, right_rows: IntArray, counts: IntArray
) -> tuple[IntArray, IntArray]:
    alone = np.flatnonzero(counts == 0)
    left_all = np.concatenate([left_rows, alone])
    order = np.argsort(left_all, kind="stable")
    right_all = np.concatenate([right_rows, np.full(len(alone), -1, np.int64)])
    return left_all[order], right_all[order]


def _codes(node: Join, left: Part, right: Part) -> tuple[IntArray, IntArray]:
    both, missing = [], np.zeros(left.num_rows + right.num_rows, bool)
    for left_name, right_name in zip(node.left_on, node.right_on, strict=True):
        one, other = left.column(left_name), right.column(right_name)
        if isinstance(one, DenseVectors | SparseVectors) or one.type != other.type:
            raise keys_of_two_types(left_name, right_name)
        column = concat_columns([one, other])
        both.append(column)
        missing |= np.concatenate([np.asarray(c.is_null()) for c in chunks_of(column)] or [missing])
    codes = row_codes(both, node.left_on)
    codes[missing] = -1
    return codes[: left.num_rows], codes[left.num_rows :]
