"""Expressions over parts: reads the columns they name and measures the distances they ask for."""

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.expr import evaluate as run
from gpuvec.expr.bound import Bound, VectorDistance, part_of
from gpuvec.expr.tree import Expr
from gpuvec.expr.weigh import weight
from gpuvec.index import scalar
from gpuvec.index.scalar import ScalarIndex
from gpuvec.kernels.pairwise import paired_distances
from gpuvec.query import steps
from gpuvec.query.cache import DerivedCache
from gpuvec.query.part import Column, Origin, Part
from gpuvec.types import Metric, RowMask


def evaluate_part(bound: Bound, part: Part) -> Column:
    """Return the values of an expression for every row."""
    return run.evaluate(bound, _table(bound, part), distance=_distances(part))


def mask_part(bound: Bound, part: Part, cache: DerivedCache | None = None) -> RowMask:
    """Return the rows for which a condition is true; null is not true.

    Args:
        bound: the condition.
        part: the rows.
        cache: keeps opened scalar indexes; None: no index is asked.
    """
    origin = part.origin
    if origin is None:
        return _mask(bound, part)
    found = _origin_mask(bound, origin, cache)
    return found if origin.keep is None else found[origin.keep]


def keep_part(bound: Bound, part: Part, cache: DerivedCache | None = None) -> Part:
    """Return the rows for which a condition is true; see `mask_part`."""
    origin = part.origin
    if origin is None:
        return part.keep(_mask(bound, part))
    found = _origin_mask(bound, origin, cache)
    return origin.part(found if origin.keep is None else found & origin.keep)


def indexed_fields(bound: Bound, part: Part, cache: DerivedCache) -> Mapping[str, str]:
    """Return the fields of a condition whose index is asked, and the kind of each index."""
    origin = part.origin
    if origin is None:
        return {}
    opened = partial(_opened, origin, cache)
    fields = steps.plan(bound.tree, origin.base.num_rows, opened).fields
    found = {name: opened(name) for name in sorted(fields)}
    return {name: index.spec.KIND for name, index in found.items() if index is not None}


def _origin_mask(bound: Bound, origin: Origin, cache: DerivedCache | None) -> RowMask:
    """Return the rows of a segment for which a condition is true; hidden rows mean nothing."""
    rows = origin.base.num_rows
    step = steps.plan(bound.tree, rows, partial(_opened, origin, cache))

    def over(node: Expr, among: RowMask | None, null: bool) -> RowMask:
        own = part_of(bound, node)
        columns = len(own.columns) + len(own.distances)
        if among is not None:
            count = int(np.count_nonzero(among))
            if not count:
                return among
            if steps.narrow(weight(node), columns, rows, count):
                found = np.zeros(rows, bool)
                found[among] = _mask(own, origin.part(among), null=null)
                return found
        return _mask(own, origin.base, null=null)

    return steps.find(step, over, origin.keep)


def _opened(origin: Origin, cache: DerivedCache | None, name: str) -> ScalarIndex | None:
    """Return the scalar index of a field of a segment, None where there is none."""
    view = origin.view
    found = None if cache is None or name in origin.computed else view.index(name)
    if found is None or cache is None or not found.spec.SCALAR:
        return None

    def load() -> ScalarIndex:
        return scalar.load(found.spec, found.files())

    key = (view.segment_id, view.generation, "index", found.index_id)
    index: ScalarIndex = cache.get(key, load, lambda index: index.nbytes)
    return index


def _mask(bound: Bound, part: Part, *, null: bool = False) -> RowMask:
    return run.mask(bound, _table(bound, part), distance=_distances(part), null=null)


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
