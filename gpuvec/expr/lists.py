"""Looking into list columns and JSON arrays: all their elements at once, then back to rows."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from gpuvec.expr import json_values
from gpuvec.expr.arithmetic import plain_zeros
from gpuvec.expr.bound import Contains, Group
from gpuvec.expr.json_values import Spans


def element(lists: pa.Array, index: int) -> pa.Array:
    """Return element `index` of each list; null where the list is null or shorter."""
    offsets = lists.offsets.to_numpy()
    short = np.diff(offsets) <= index
    at = pa.array(np.where(short, 0, offsets[:-1] + index), mask=short | _null(lists))
    return lists.values.take(at)


def contains(node: Contains, lists: pa.Array) -> pa.Array:
    """Return which lists contain what `node` asks for; null where the list is null."""
    lengths = pc.fill_null(pc.list_value_length(lists), 0).to_numpy()
    rows = np.repeat(np.arange(len(lists)), lengths)
    hits = _hits(node.groups[0], lists.flatten(), rows)
    return _answer(node, len(lists), [hits], _null(lists))


def json_contains(node: Contains, spans: Spans) -> pa.Array:
    """Return which JSON arrays contain what `node` asks for; null for what is no array."""
    rows, found = json_values.elements(spans)
    hits = [
        _hits(group, json_values.values(found, kind), rows)
        for kind, group in zip(node.kinds, node.groups, strict=True)
    ]
    no_array = json_values.lengths(spans).is_null().to_numpy(False)
    return _answer(node, len(spans.kinds), hits, no_array)


def _hits(group: Group, items: pa.Array, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return row and number, (hits, 2) int64, of each element that is one of the group's values."""
    found = matches(group, items)
    return np.stack([rows[found[:, 0]], found[:, 1]], axis=1)


def matches(group: Group, items: pa.Array) -> NDArray[np.int64]:
    """Return place and number, (hits, 2) int64, of each item that is one of the group's values."""
    if pa.types.is_floating(items.type):
        items = plain_zeros(items.cast(pa.float64()))
    elif pa.types.is_integer(items.type):
        items = items.cast(pa.int64())
    at = pc.index_in(items, value_set=group.values, skip_nulls=True)
    places = np.flatnonzero(at.is_valid().to_numpy(False))
    return np.stack([places, group.ids[at.drop_null().to_numpy()]], axis=1)


def _answer(
    node: Contains, count: int, hits: list[NDArray[np.int64]], null: NDArray[np.bool_]
) -> pa.Array:
    pairs = np.concatenate(hits) if hits else np.empty((0, 2), np.int64)
    if node.mode == "any":
        found = np.zeros(count, bool)
        found[pairs[:, 0]] = True
    else:
        keys = np.sort(pairs[:, 0] * (node.needed + 1) + pairs[:, 1])  # np.unique is slower
        rows = keys[np.append(True, np.diff(keys) > 0)[: len(keys)]] // (node.needed + 1)
        found = np.bincount(rows, minlength=count) == node.needed
    return pa.array(found, mask=null)


def _null(lists: pa.Array) -> NDArray[np.bool_]:
    return np.asarray(lists.is_null().to_numpy(zero_copy_only=False))
