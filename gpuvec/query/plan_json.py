"""Plans as JSON objects, so that a job outlives its process. No code is ever in them.

What a plan reads (collections, files, rows in memory) is described by a `Keeper`; every expression
is bound again when a plan is read, so that one that does not fit its columns is refused.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, Protocol

import pyarrow as pa

from gpuvec.expr.bind import Bound, bind, bind_filter
from gpuvec.expr.tree import Aggregate as AggregateNode
from gpuvec.expr.tree import Column, Expr
from gpuvec.expr.tree_json import array_from_json, array_to_json, expr_from_json, expr_to_json
from gpuvec.expr.walk import map_children
from gpuvec.query import plan as p
from gpuvec.query.aggregate import Aggregate, bind_aggregate
from gpuvec.rows import VectorColumn
from gpuvec.schema import field_from_json
from gpuvec.types import Metric

Json = dict[str, Any]

_NODES: dict[str, type[p.Plan]] = {
    node.__name__: node
    for node in (
        p.Scan,
        p.Filter,
        p.Get,
        p.Project,
        p.WithColumns,
        p.Sort,
        p.Limit,
        p.Slice,
        p.Sample,
        p.Join,
        p.Concat,
        p.Distinct,
        p.Group,
        p.GroupHead,
        p.Describe,
        p.Search,
    )
}


class Keeper(Protocol):
    """Describes what plans read, and finds it again."""

    def keep_source(self, source: p.Source) -> Json:
        """Return what `source` makes the same rows of, whatever is written meanwhile."""

    def keep_vectors(self, vectors: VectorColumn) -> Json:
        """Return what `vectors` makes the same queries of."""

    def source(self, data: Mapping[str, Any]) -> p.Source:
        """Return the source that `keep_source` described."""

    def vectors(self, data: Mapping[str, Any]) -> VectorColumn:
        """Return the vectors that `keep_vectors` described."""


def plan_to_json(node: p.Plan, keeper: Keeper) -> Json:
    """Return a JSON object from which `plan_from_json` makes a plan with the same rows."""
    found: Json = {"node": type(node).__name__}
    for item in fields(node):
        found[item.name] = _to_json(getattr(node, item.name), keeper)
    return found


def plan_from_json(data: Mapping[str, Any], keeper: Keeper) -> p.Plan:
    """Make the plan that `plan_to_json` wrote.

    Raises:
        FilterError, NotFoundError: an expression that does not fit its columns.
    """
    kind = _NODES[data["node"]]
    below = {name: plan_from_json(data[name], keeper) for name in _INPUTS if name in data}
    columns = next((plan.columns for plan in below.values()), p.Columns({}))
    values: Json = dict(below)
    for name, value in data.items():
        if name not in ("node", *below):
            values[name] = _value(name, value, columns, data, keeper)
    return kind(**values)


_INPUTS = ("input", "left", "right")


def _to_json(value: Any, keeper: Keeper) -> Any:
    match value:
        case p.Plan():
            return plan_to_json(value, keeper)
        case p.Columns():
            return columns_to_json(value)
        case Bound():
            return expr_to_json(value.expr)
        case Aggregate():
            return expr_to_json(_as_written(value))
        case p.QueryArray():
            return {"vectors": keeper.keep_vectors(value.vectors), "first": value.first}
        case p.QueryFrame():
            plain = {name: getattr(value, name) for name in ("vector", "query_id", "key", "first")}
            return {"plan": plan_to_json(value.plan, keeper), **plain}
        case pa.Array():
            return array_to_json(value)
        case Metric():
            return str(value)
        case Mapping():
            return {name: _to_json(item, keeper) for name, item in value.items()}
        case tuple():
            return [_to_json(item, keeper) for item in value]
        case None | bool() | int() | float() | str():
            return value
    return keeper.keep_source(value)


def _value(
    name: str, value: Any, columns: p.Columns, node: Mapping[str, Any], keeper: Keeper
) -> Any:
    """Return the attribute of a node; `columns` are those of its input."""
    match name:
        case "columns":
            return columns_from_json(value)
        case "source":
            return keeper.source(value)
        case "predicate":
            return bind_filter(expr_from_json(value), columns.fields, where=columns.where)
        case "computed":
            return {n: _bound(item, columns) for n, item in value.items()}
        case "aggregates":
            found = {n: expr_from_json(item) for n, item in value.items()}
            return {n: bind_aggregate(n, e, columns, node["keys"]) for n, e in found.items()}
        case "ids":
            return array_from_json(value)
        case "parts":
            return tuple(plan_from_json(part, keeper) for part in value)
        case "queries":
            return _queries(value, keeper)
        case "metric":
            return Metric(value)
    return _as_tuple(value)


def _bound(value: Mapping[str, Any], columns: p.Columns) -> Bound:
    return bind(expr_from_json(value), columns.fields, where=columns.where)


def _queries(value: Mapping[str, Any], keeper: Keeper) -> p.QueryArray | p.QueryFrame:
    if "vectors" in value:
        return p.QueryArray(vectors=keeper.vectors(value["vectors"]), first=value["first"])
    return p.QueryFrame(**{**value, "plan": plan_from_json(value["plan"], keeper)})


def _as_tuple(value: Any) -> Any:
    return tuple(map(_as_tuple, value)) if isinstance(value, list) else value


def _as_written(aggregate: Aggregate) -> Expr:
    """Return the expression of which `bind_aggregate` made an aggregate."""
    steps = {
        step.name: AggregateNode(step.function, None if step.operand is None else step.operand.expr)
        for step in aggregate.steps
    }

    def restored(node: Expr) -> Expr:
        if isinstance(node, Column) and node.name in steps:
            return steps[node.name]
        return map_children(node, restored)

    return restored(aggregate.result.expr)


def columns_to_json(columns: p.Columns) -> Json:
    """Return a JSON object from which `columns_from_json` makes equal columns."""
    return {
        "fields": [{"name": name, **kind.to_json()} for name, kind in columns.fields.items()],
        "primary_key": columns.primary_key,
        "name": columns.name,
        "hidden": sorted(columns.hidden),
        "inner": sorted(columns.inner),
    }


def columns_from_json(data: Mapping[str, Any]) -> p.Columns:
    """Make the columns that `columns_to_json` wrote."""
    return p.Columns(
        _fields(data["fields"]),
        data["primary_key"],
        data["name"],
        frozenset(data["hidden"]),
        frozenset(data["inner"]),
    )


def _fields(items: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {
        item["name"]: field_from_json({k: v for k, v in item.items() if k != "name"})
        for item in items
    }
