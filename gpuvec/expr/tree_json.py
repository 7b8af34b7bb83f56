"""Expressions as JSON objects, for plans that outlive their process. No code is ever in them."""

import base64
from collections.abc import Mapping
from dataclasses import fields
from datetime import datetime
from typing import Any

import pyarrow as pa

from gpuvec.expr import tree

_NODES: dict[str, type[tree.Expr]] = {
    node.__name__: node
    for node in (
        tree.Column,
        tree.Literal,
        tree.ValueList,
        tree.Compare,
        tree.Combine,
        tree.Not,
        tree.Arithmetic,
        tree.Negate,
        tree.In,
        tree.IsNull,
        tree.Like,
        tree.Subscript,
        tree.Call,
        tree.Distance,
        tree.Aggregate,
        tree.Alias,
    )
}


def expr_to_json(expr: tree.Expr) -> dict[str, Any]:
    """Return a JSON object from which `expr_from_json` makes the same tree."""
    found: dict[str, Any] = {"expr": type(expr).__name__}
    for item in fields(expr):
        if item.name != "origin":
            found[item.name] = _to_json(getattr(expr, item.name))
    return found


def expr_from_json(data: Mapping[str, Any]) -> tree.Expr:
    """Make the tree that `expr_to_json` wrote."""
    values = {name: _from_json(value) for name, value in data.items() if name != "expr"}
    return _NODES[data["expr"]](**values)


def array_to_json(array: pa.Array) -> dict[str, Any]:
    """Return an Arrow array as a JSON object: its bytes as text, for its values to stay exact."""
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([array], names=["values"])
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return {"arrow": base64.b64encode(sink.getvalue()).decode()}


def array_from_json(data: Mapping[str, Any]) -> pa.Array:
    """Make the array that `array_to_json` wrote."""
    with pa.ipc.open_stream(base64.b64decode(data["arrow"])) as reader:
        column = reader.read_all().column("values")
    return pa.concat_arrays(column.chunks) if column.num_chunks else pa.nulls(0, column.type)


def _to_json(value: Any) -> Any:
    if isinstance(value, tree.Expr):
        return expr_to_json(value)
    if isinstance(value, tuple):
        return [_to_json(part) for part in value]
    if isinstance(value, pa.Array):
        return array_to_json(value)
    return {"time": value.isoformat()} if isinstance(value, datetime) else value


def _from_json(value: Any) -> Any:
    if isinstance(value, list):
        return tuple(_from_json(part) for part in value)
    if not isinstance(value, dict):
        return value
    if "expr" in value:
        return expr_from_json(value)
    return array_from_json(value) if "arrow" in value else datetime.fromisoformat(value["time"])
