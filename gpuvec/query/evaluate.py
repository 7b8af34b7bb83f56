"""Expressions over parts: reads the columns they name and measures the distances they ask for."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec.expr import evaluate as run
from gpuvec.expr.bound import Bound, VectorDistance, part_of
from gpuvec.index import scalar
from gpuvec.index.scalar import ScalarIndex
from gpuvec.kernels.pairwise import paired_distances
from gpuvec.query.cache import DerivedCache
from gpuvec.query.device_filter import filtered
from gpuvec.query.part import Column, Origin, Part
from gpuvec.query.row_set import Name, RowSet, condition_name, name_of
from gpuvec.query.session import Session
from gpuvec.query.steps import Step, find, narrow, plan
from gpuvec.segment.view import SegmentIndex, SegmentView
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


def keep_part(
    bound: Bound,
    part: Part,
    cache: DerivedCache | None = None,
    *,
    session: Session | None = None,
    for_search: bool = False,
    owner: str = "",
) -> Part:
    """Return the rows for which a condition is true; see `mask_part`.

    Args:
        bound: see `mask_part`.
        part: see `mask_part`.
        cache: see `mask_part`.
        session: may find them on its device; None: the host does.
        for_search: what the session's device needs for it may be copied there.
        owner: the collection, see `DeviceStore.use`.
    """
    origin = part.origin
    if origin is None:
        return part.keep(_mask(bound, part))
    if session is not None and session.device_store is not None:
        rows = filtered(
            bound,
            origin,
            session,
            _name(bound, origin),
            lambda rest: _origin_mask(rest, origin, cache),
            reads_on=for_search,
            owner=owner,
        )
        if rows is not None:
            return origin.part(rows)
    found = _origin_mask(bound, origin, cache)
    whole = found if origin.keep is None else found & origin.keep
    return origin.part(RowSet(whole, lambda: _name(bound, origin)))


def _name(bound: Bound, origin: Origin) -> Name | None:
    """Return what names the rows of a segment's part for which a condition is true."""
    before = name_of(origin.view) if origin.rows is None else origin.rows.name
    condition = condition_name(bound) if origin.computed.isdisjoint(bound.columns) else None
    return None if before is None or condition is None else (*before, condition)


def indexed_fields(bound: Bound, part: Part, cache: DerivedCache) -> Mapping[str, str]:
    """Return the fields of a condition whose index is asked, and the kind of each index."""
    if part.origin is None:
        return {}
    indexes = _indexes(bound, part.origin, cache)
    fields = plan(bound, part.origin.base.num_rows, indexes).fields
    return {name: indexes[name].spec.KIND for name in sorted(fields)}


def _origin_mask(bound: Bound, origin: Origin, cache: DerivedCache | None) -> RowMask:
    """Return the rows of a segment for which a condition is true; hidden rows mean nothing."""
    rows = origin.base.num_rows
    indexes = {} if cache is None else _indexes(bound, origin, cache)
    step = plan(bound, rows, indexes)

    def over(part: Step, among: RowMask | None, null: bool) -> RowMask:
        own = bound if part is step else part_of(bound, part.node)
        if among is not None:
            count = int(np.count_nonzero(among))
            if not count:
                return among
            if narrow(part.weight, len(own.columns) + len(own.distances), rows, count):
                found = np.zeros(rows, bool)
                found[among] = _mask(own, origin.part(RowSet(among)), null=null)
                return found
        return _mask(own, origin.base, null=null)

    return find(step, over, origin.keep)


def _indexes(bound: Bound, origin: Origin, cache: DerivedCache) -> dict[str, ScalarIndex]:
    """Return the scalar indexes of the fields that a condition reads."""
    view, found = origin.view, {}
    for name in bound.columns - origin.computed:
        index = view.index(name)
        if index is not None and index.spec.SCALAR:
            found[name] = _opened(view, index, cache)
    return found


def _opened(view: SegmentView, index: SegmentIndex, cache: DerivedCache) -> ScalarIndex:
    def load() -> ScalarIndex:
        return scalar.load(index.spec, index.files())

    key = (view.segment_id, view.generation, "index", index.index_id)
    found: ScalarIndex = cache.get(key, load, lambda index: index.held_bytes)
    return found


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
