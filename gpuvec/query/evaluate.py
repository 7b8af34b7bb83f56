"""Expressions over parts: reads the columns they name and measures the distances they ask for."""

from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.expr import evaluate as run
from gpuvec.expr.bound import Bound, VectorDistance
from gpuvec.kernels.pairwise import paired_distances
from gpuvec.query.part import Column, Part
from gpuvec.types import Metric, RowMask

FEW = 8  # a mask that keeps less than 1 row in so many is narrowed by reading those rows only


def evaluate_part(bound: Bound, part: Part) -> Column:
    """Return the values of an expression for every row."""
    return run.evaluate(bound, _table(bound, part), distance=_distances(part))


def mask_part(bound: Bound, part: Part) -> RowMask:
    """Return the rows for which a condition is true; null is not true."""
    origin = part.origin
    if origin is None or origin.keep is None or part.num_rows * FEW < origin.base.num_rows:
        return _mask(bound, part)
    return _mask(bound, origin.base)[origin.keep]


def _mask(bound: Bound, part: Part) -> RowMask:
    return run.mask(bound, _table(bound, part), distance=_distances(part))


def _table(bound: Bound, part: Part) -> pa.Table:
    """Return the columns that an expression reads; of a vector, true where it is, else null."""
    table = part.table(sorted(bound.columns - bound.present))
    for name in sorted(bound.present):
        column = part.column(name)
        there = np.ones(part.num_rows, bool)
        mask = None if column.valid is None else ~column.valid
        table = table.append_column(name, pa.array(there, mask=mask))
    return table


def _distances(part: Part) -> Any:
    def measure(node: VectorDistance) -> pa.Array:
        column = part.column(node.field)
        count = part.num_rows
        metric = Metric(node.metric)
        found = paired_distances(
            node.values[None, :], column.values, np.zeros(count, np.int64), np.arange(count), metric
        )
        return pa.array(found, mask=None if column.valid is None else ~column.valid)

    return measure
