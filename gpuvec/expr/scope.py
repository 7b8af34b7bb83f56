"""What binding knows: the fields, what was found so far, and how to complain about a node."""

from collections.abc import Mapping
from dataclasses import replace
from typing import NoReturn

from gpuvec import errors
from gpuvec.expr.bound import BoundColumn, JsonValue, VectorDistance
from gpuvec.expr.text import locate
from gpuvec.expr.tree import Column, Expr, Subscript
from gpuvec.schema import (
    JSON,
    Bool,
    FieldType,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    List,
    Schema,
    String,
    Timestamp,
)

DYNAMIC = (
    "_gv_dynamic"  # the hidden column of a dynamic schema: its unknown columns in a JSON object
)
META = "$meta"  # Milvus's name for it
HIDDEN = "_gv_"

Typed = tuple[Expr, FieldType]
Fields = Mapping[str, FieldType] | Schema

_FAMILIES: dict[type[FieldType], str] = {
    Bool: "bool", String: "string", Timestamp: "timestamp", JSON: "json", List: "list",
    **dict.fromkeys((Int8, Int16, Int32, Int64, Float32, Float64), "number"),
}  # fmt: skip


def family(kind: FieldType) -> str:
    """Return `bool`, `number`, `string`, `timestamp`, `json`, `list` or `vector`."""
    return _FAMILIES.get(type(kind), "vector")


def as_json(expr: Expr, wanted: str) -> Expr:
    """Return a bound JSON value read as another kind; see `JsonValue.wanted`."""
    assert isinstance(expr, JsonValue)
    return replace(expr, wanted=wanted)


class Scope:
    """The fields that names are looked up in, and what an expression was found to need."""

    def __init__(self, root: Expr, fields: Fields, where: str) -> None:
        self.columns: set[str] = set()
        self.present: set[str] = set()
        self.distances: list[VectorDistance] = []
        self._root = root
        self._where = where or "the schema"
        self._fields: dict[str, FieldType]
        if isinstance(fields, Schema):
            self._fields = dict(fields.fields)
            if fields.dynamic:
                self._fields[DYNAMIC] = JSON(nullable=True)
        else:
            self._fields = dict(fields)

    def column(self, node: Column) -> Typed:
        """Return a column with its type; unknown names lie in the dynamic column, if there is one.

        Raises:
            NotFoundError: `GV-104`.
        """
        name = f"{node.side}.{node.name}" if node.side else node.name
        if name == META and name not in self._fields and DYNAMIC in self._fields:
            return self._json(DYNAMIC, ())
        kind = self._fields.get(name)
        if kind is None:
            if DYNAMIC in self._fields:
                return self._json(DYNAMIC, (name,))
            known = [field for field in self._fields if not field.startswith(HIDDEN)]
            raise errors.unknown_field(name, known, where=self._where)
        if isinstance(kind, JSON) or name == DYNAMIC:
            return self._json(name, ())
        if not kind.is_vector:
            self.columns.add(name)
        return BoundColumn(name, kind, origin=node.origin), kind

    def presence(self, node: Expr) -> Expr:
        """Return what stands for a vector column where only its nulls matter."""
        assert isinstance(node, BoundColumn)
        self.columns.add(node.name)
        self.present.add(node.name)
        return BoundColumn(node.name, Bool(nullable=True), origin=node.origin)

    def _json(self, column: str, path: tuple[str | int, ...]) -> Typed:
        self.columns.add(column)
        return JsonValue(column, path, "text"), JSON(nullable=True)

    def fail(self, node: Expr, problem: str, hint: str = "") -> NoReturn:
        """Raise `GV-202` that points at a node of the expression as it was written."""
        raise errors.filter_type(*self.place(node), problem, hint=hint)

    def fail_null(self, node: Expr) -> NoReturn:
        """Raise `GV-206` that points at a null."""
        raise errors.null_value(*self.place(node))

    def place(self, node: Expr) -> tuple[str, int]:
        """Return the text that a node was read from, or is written as, and its place there."""
        return node.origin if node.origin is not None else locate(self._root, node)


def describe(node: Expr, kind: FieldType) -> str:
    """Return what a node is, for messages: `string field "brand"`, `number`."""
    name = "number" if family(kind) == "number" else kind.KIND
    if isinstance(node, Column):
        return f'{kind.KIND} field "{node.name}"'
    return f"JSON value {node}" if isinstance(node, Subscript) else name
