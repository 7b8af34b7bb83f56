"""How large an answer will be, before work starts."""

from collections.abc import Iterable
from functools import lru_cache

from gpuvec.errors import result_too_large
from gpuvec.query import plan as p
from gpuvec.schema import (
    BinaryVector,
    Bool,
    FieldType,
    Float32,
    Int8,
    Int16,
    Int32,
    List,
    SparseVector,
    String,
    Vector,
)

_TEXT_BYTES = 32  # of a text or list, when nothing is known
_SMALL: dict[type[FieldType], int] = {Bool: 1, Int8: 1, Int16: 2, Int32: 4, Float32: 4}


def value_bytes(kind: FieldType) -> int:
    """Return the size of one value in memory; a guess for texts, lists and sparse vectors."""
    if isinstance(kind, SparseVector):
        return 8 * 64
    if isinstance(kind, Vector | BinaryVector):
        return int(kind.width * kind.numpy_dtype.itemsize)
    if isinstance(kind, String | List) or kind.KIND == "json":
        return _TEXT_BYTES
    return _SMALL.get(type(kind), 8)


def row_bytes(columns: p.Columns, names: Iterable[str] | None = None) -> int:
    """Return the size of one row of the named columns; by default of all visible ones."""
    if names is None:
        return _visible_bytes(columns)
    return sum(value_bytes(columns.fields[name]) for name in names)


@lru_cache(maxsize=256)
def _visible_bytes(columns: p.Columns) -> int:
    return row_bytes(columns, columns.visible)


def most_rows(node: p.Plan, source_rows: dict[int, int]) -> int | None:
    """Return how many rows a node gives at most; None when nothing sensible is known.

    Args:
        node: the plan.
        source_rows: visible rows by `id(source)`.
    """
    if isinstance(node, p.Scan):
        return source_rows.get(id(node.source))
    if isinstance(node, p.Concat):
        parts = [most_rows(part, source_rows) for part in node.parts]
        return None if None in parts else sum(part or 0 for part in parts)
    if isinstance(node, p.Join):
        return None
    if isinstance(node, p.Search):
        return _search_rows(node, source_rows)
    if isinstance(node, p.Get):
        return len(node.ids)
    if isinstance(node, p.Describe):
        return len(node.input.columns.fields)
    below = most_rows(node.inputs[0], source_rows)
    if isinstance(node, p.Limit | p.Sample):
        return node.count if below is None else min(node.count, below)
    return below


def _search_rows(node: p.Search, source_rows: dict[int, int]) -> int | None:
    rows = most_rows(node.input, source_rows)
    if isinstance(node.queries, p.QueryArray):
        queries: int | None = len(node.queries)
    else:
        queries = most_rows(node.queries.plan, source_rows)
    if queries is None or (node.k is None and node.high is not None):
        return None
    wanted = None if node.k is None else node.k * node.group_size
    if rows is None or wanted is None:
        per_query = wanted if rows is None else rows
    else:
        per_query = min(rows, wanted)
    return None if per_query is None else queries * per_query


def is_sure(node: p.Plan) -> bool:
    """Return whether a node gives the rows that `most_rows` says, unless rows have null vectors."""
    if isinstance(node, p.Scan):
        return True
    if isinstance(node, p.Search):
        return node.high is None and node.group_by is None and all(map(is_sure, node.inputs))
    passing = p.Project | p.WithColumns | p.Sort | p.Limit | p.Sample | p.Concat
    return isinstance(node, passing) and all(map(is_sure, node.inputs))


def check_fits(node: p.Plan, source_rows: dict[int, int], memory_limit: int) -> None:
    """Refuse an answer that is known to be larger than memory; see `most_rows`.

    Raises:
        ResultTooLargeError: `GV-420`.
    """
    rows = most_rows(node, source_rows)
    if rows is None or not is_sure(node):
        return
    size = rows * row_bytes(node.columns)
    if size > memory_limit:
        raise result_too_large(rows, size, memory_limit)
