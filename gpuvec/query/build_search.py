"""Makes search nodes: which field, which queries, which options go together."""

import math
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from numbers import Real
from typing import Any

import numpy as np

from gpuvec import errors
from gpuvec.query import plan as p
from gpuvec.query.build import check_comparable, check_names, expose, free_name, whole_number
from gpuvec.query.indexed import checked_params
from gpuvec.query.plan import Columns, Plan, QueryArray, QueryFrame
from gpuvec.schema import (
    BINARY_METRICS,
    DENSE_METRICS,
    BinaryVector,
    FieldType,
    Float32,
    Int32,
    Int64,
    SparseVector,
)
from gpuvec.types import Metric

SPARSE_METRICS = (Metric.IP, Metric.COSINE)
FIXED = ("query_id", "rank", "distance")  # columns of every answer


class DefaultK(int):
    """The `k` of a signature, told from one that was given: with a radius it is no limit."""


DEFAULT_K = DefaultK(10)


def vector_field(columns: Columns, on: str | None, option: str = "on") -> str:
    """Return the vector column to search.

    Raises:
        NotFoundError: `GV-104`, no such column.
        QueryError: `GV-352`, it holds no vectors, or several columns do and none is named;
            `GV-354`, `on` is no name.
    """
    if on is not None:
        _check_name(option, on)
        if on not in columns.vectors:
            check_names([on], columns)
        if not columns.fields[on].is_vector:
            raise errors.not_a_vector(on, columns.fields[on], columns.vectors, option=option)
        return on
    names = list(columns.vectors)
    if len(names) != 1:
        raise errors.which_vector(option, names, where=columns.where)
    return names[0]


def query_frame(
    plan: Plan, field: str, kind: FieldType, query_on: str | None, query_id: str | None, where: str
) -> QueryFrame:
    """Return the rows of a plan as queries for a field.

    Raises:
        SchemaError: `GV-113`, another dimension.
        QueryError: `GV-352` no clear vector column, `GV-364` another kind of vectors.
    """
    columns = plan.columns
    vector = vector_field(columns, query_on, "query_on")
    got = columns.fields[vector]
    if type(got) is not type(kind):
        raise errors.wrong_query_kind(field, wanted=kind, got=got)
    wanted, found = (getattr(side, "dim", 0) for side in (kind, got))
    if wanted != found:
        raise errors.wrong_dimension(field, wanted=wanted, got=found, where=where)
    if query_id is not None:
        _check_name("query_id", query_id)
        check_names([query_id], columns)
        check_comparable(columns, query_id, "name queries")
    named = columns.primary_key if query_id is None else query_id
    return QueryFrame(plan=plan, vector=vector, query_id=named, key=columns.primary_key)


def search(
    node: Plan,
    queries: QueryArray | QueryFrame,
    field: str,
    *,
    k: int | None,
    radius: Any,
    group_by: str | None,
    group_size: int,
    exclude_self: bool,
    metric: str | None,
    recall: float | None,
    exact: bool,
    params: Mapping[str, Any] | None,
) -> p.Search:
    """Return the search of a frame for queries; see `Frame.search` for the options.

    Raises:
        QueryError: options that contradict one another, or that no value of theirs allows.
        NotFoundError: `GV-104`, unknown columns.
    """
    exact, exclude_self = _yes_or_no("exact", exact), _yes_or_no("exclude_self", exclude_self)
    wanted = _promise(recall, exact, params)
    low, high = _range(radius)
    if radius is not None and isinstance(k, DefaultK):
        k = None
    if group_by is not None:
        _check_name("group_by", group_by)
        node = expose(node, [group_by])
    columns = node.columns
    if group_by is not None:
        check_names([group_by], columns)
        check_comparable(columns, group_by, "be grouped by")
    elif group_size != 1:
        raise errors.options_in_conflict(
            ["group_size"], "there is no group_by", instead='group_by="brand", group_size=2'
        )
    if exclude_self:
        _check_own_key(queries, columns)
    id_type = None
    if isinstance(queries, QueryFrame) and queries.query_id is not None:
        id_type = queries.plan.columns.fields[queries.query_id]
    output, renamed, place = _output(columns, id_type)
    found = p.Search(
        columns=output, input=node, queries=queries, field=field,
        metric=field_metric(columns.fields[field], field, metric),
        k=None if k is None else int(whole_number("k", k, least=1)),
        low=low, high=high, group_by=group_by,
        group_size=whole_number("group_size", group_size, least=1),
        exclude_self=exclude_self, recall=wanted, exact=exact,
        renamed=renamed, place=place,
    )  # fmt: skip
    return found if params is None else replace(found, params=checked_params(found, _plain(params)))


def field_metric(kind: FieldType, field: str, metric: str | None) -> Metric:
    """Return the metric of a search: the field's, or another that its vectors have."""
    known: tuple[Metric, ...] = DENSE_METRICS
    if isinstance(kind, BinaryVector | SparseVector):
        known = BINARY_METRICS if isinstance(kind, BinaryVector) else SPARSE_METRICS
    wanted = kind.metric if metric is None else metric  # type: ignore[attr-defined]
    if wanted not in known:
        raise errors.metric_not_for(wanted, field, known)
    return Metric(wanted)


def _promise(recall: Any, exact: bool, params: Any) -> float | None:
    """Return the recall that is wanted, once it is clear that nothing else is."""
    given = {"recall": recall is not None, "exact": exact, "params": params is not None}
    names = [name for name, here in given.items() if here]
    if len(names) > 1:
        raise errors.options_in_conflict(
            names,
            "at most one of them decides how good the answer is",
            instead="exact=True for the true answer, recall=0.95 for a measured one",
        )
    if recall is None:
        return None
    if not _is_number(recall) or not 0 < float(recall) <= 1:
        raise errors.bad_number("recall", recall, "a number above 0 and at most 1")
    return float(recall)


def _check_name(option: str, got: Any) -> None:
    if not isinstance(got, str):
        raise errors.bad_number(option, got, "the name of a column")


def _yes_or_no(option: str, got: Any) -> bool:
    if not isinstance(got, bool | np.bool_):
        raise errors.bad_number(option, got, "True or False")
    return bool(got)


def _plain(params: Any) -> dict[str, Any]:
    """Return knobs, NumPy's numbers as Python's."""
    if not isinstance(params, Mapping):
        raise errors.bad_number("params", params, 'a dict of an index\'s knobs, {"ef_search": 64}')
    return {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in params.items()
    }


def _range(radius: Any) -> tuple[float | None, float | None]:
    if radius is None:
        return None, None
    wanted = "a number, or a pair (low, high) with low < high"
    pair = radius if isinstance(radius, tuple | list) else (None, radius)
    if len(pair) != 2 or any(not _is_number(end) for end in pair if end is not None):
        raise errors.bad_number("radius", radius, wanted)
    low, high = (None if end is None else float(end) for end in pair)
    ends = [end for end in (low, high) if end is not None]
    if high is None or any(math.isnan(end) for end in ends) or (low is not None and low >= high):
        raise errors.bad_number("radius", radius, wanted)
    return low, high


def _is_number(got: Any) -> bool:
    return isinstance(got, Real) and not isinstance(got, bool | np.bool_)


def _check_own_key(queries: QueryArray | QueryFrame, columns: Columns) -> None:
    if columns.primary_key is None:
        raise errors.no_own_key(f"{columns.where} has none")
    if isinstance(queries, QueryArray):
        raise errors.no_own_key("these queries are vectors only")
    if queries.key is None:
        raise errors.no_own_key("the query frame has none")
    mine = columns.fields[columns.primary_key].arrow_type()
    theirs = queries.plan.columns.fields[queries.key].arrow_type()
    if mine != theirs:
        raise errors.no_own_key(f"keys are {mine} here and {theirs} in the query frame")


@lru_cache(maxsize=256)  # a loop over queries makes the same search again and again
def _output(
    columns: Columns, id_type: FieldType | None
) -> tuple[Columns, Mapping[str, str], str | None]:
    """Return output columns, what they are called in the input, and the row number's column.

    Args:
        columns: of the input.
        id_type: of the queries' ids; None: row numbers.
    """
    fields: dict[str, FieldType] = {"query_id": id_type or Int64(), "rank": Int32()}
    renamed: dict[str, str] = {}

    def named(name: str) -> str:
        if name not in FIXED:
            return name
        out = free_name(name, {**columns.fields, **dict.fromkeys((*FIXED, *fields))})
        renamed[out] = name
        return out

    key, place = columns.primary_key, None
    if key is not None:
        fields[named(key)] = columns.fields[key]
    else:
        place = free_name("row", columns.fields)
        fields[place] = Int64()
    fields["distance"] = Float32()
    hidden = set()
    for name, kind in columns.fields.items():
        if name != key and name not in columns.inner:
            out = named(name)
            fields[out] = kind
            if kind.is_vector or name in columns.hidden:
                hidden.add(out)
    return Columns(fields, None, columns.name, frozenset(hidden)), renamed, place
