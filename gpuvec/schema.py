"""What a collection's rows look like: its fields, in order, and which of them is the key.

`gpuvec.ingest` checks rows against a schema; here are only the words.
"""

from collections.abc import Mapping
from typing import Any, Self

import pyarrow as pa

from gpuvec.errors import SchemaError, unknown_field
from gpuvec.fields import (
    BINARY_METRICS,
    DENSE_METRICS,
    FIELD_TYPES,
    JSON,
    VECTOR_DTYPES,
    BinaryVector,
    Bool,
    FieldType,
    Float32,
    Float64,
    Int8,
    Int16,
    Int32,
    Int64,
    List,
    SparseVector,
    String,
    Timestamp,
    Vector,
    bad_option,
    field_from_json,
    is_nullable,
)

__all__ = [
    "BINARY_METRICS",
    "DENSE_METRICS",
    "FIELD_TYPES",
    "JSON",
    "VECTOR_DTYPES",
    "BinaryVector",
    "Bool",
    "FieldType",
    "Float32",
    "Float64",
    "Int8",
    "Int16",
    "Int32",
    "Int64",
    "List",
    "Schema",
    "SparseVector",
    "String",
    "Timestamp",
    "Vector",
    "bad_option",
    "field_from_json",
    "is_nullable",
]

RESERVED_PREFIX = "_gv_"  # hidden columns: `_gv_ts`


class Schema:
    """The fields of a collection, in order, and which of them is the primary key.

    Args:
        fields: name to type. Names are non-empty and do not begin with `_gv_`.
        primary_key: an `Int64` or `String` field, not nullable; every collection has one.
        partition_key: a scalar field; rows with equal values lie in one partition.
        dynamic: keep columns that no field names, as JSON.

    Raises:
        SchemaError: `GV-101` bad name, `GV-102` bad option.
        NotFoundError: `GV-104`, a key that is no field.
    """

    __slots__ = ("dynamic", "fields", "partition_key", "primary_key")

    def __init__(
        self,
        fields: Mapping[str, FieldType],
        primary_key: str,
        *,
        partition_key: str | None = None,
        dynamic: bool = False,
    ) -> None:
        self.fields: dict[str, FieldType] = dict(fields)
        self.primary_key = primary_key
        self.partition_key = partition_key
        self.dynamic = dynamic
        _check_schema(self)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Schema) and self.to_json() == other.to_json()

    def __hash__(self) -> int:
        return hash((tuple(self.fields), self.primary_key))

    def __repr__(self) -> str:
        lines = "".join(f'\n    "{name}": {kind},' for name, kind in self.fields.items())
        return f'Schema({{{lines}\n}}, primary_key="{self.primary_key}")'

    def __getitem__(self, name: str) -> FieldType:
        """Return a field's type; `NotFoundError` GV-104 names the nearest."""
        if name not in self.fields:
            raise unknown_field(name, self.fields)
        return self.fields[name]

    @property
    def vector_fields(self) -> dict[str, FieldType]:
        """The vector fields, in order."""
        return {name: kind for name, kind in self.fields.items() if kind.is_vector}

    @property
    def scalar_fields(self) -> dict[str, FieldType]:
        """The other fields, in order."""
        return {name: kind for name, kind in self.fields.items() if not kind.is_vector}

    def arrow_schema(self) -> pa.Schema:
        """Return the Arrow schema of the scalar table."""
        return pa.schema(
            [
                pa.field(name, kind.arrow_type(), nullable=is_nullable(kind))
                for name, kind in self.scalar_fields.items()
            ]
        )

    def with_field(self, name: str, kind: FieldType) -> Self:
        """Return a schema with one more field, at the end."""
        return self._with({**self.fields, name: kind})

    def without_field(self, name: str) -> Self:
        """Return a schema without a field."""
        return self._with({n: k for n, k in self.fields.items() if n != name})

    def _with(self, fields: Mapping[str, FieldType]) -> Self:
        return type(self)(
            fields, self.primary_key, partition_key=self.partition_key, dynamic=self.dynamic
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `from_json` makes an equal schema."""
        return {
            "fields": [{"name": name, **kind.to_json()} for name, kind in self.fields.items()],
            "primary_key": self.primary_key,
            "partition_key": self.partition_key,
            "dynamic": self.dynamic,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Make the schema that `to_json` wrote."""
        named = {
            item["name"]: {k: v for k, v in item.items() if k != "name"} for item in data["fields"]
        }
        return cls(
            {name: field_from_json(item) for name, item in named.items()},
            data["primary_key"],
            partition_key=data["partition_key"],
            dynamic=data["dynamic"],
        )


def _is_text(name: Any) -> bool:
    """Return whether a name is text that can be written, without half characters."""
    return isinstance(name, str) and not any("\ud800" <= letter <= "\udfff" for letter in name)


def _check_schema(schema: Schema) -> None:
    fields: Mapping[Any, Any] = schema.fields
    for name, kind in fields.items():
        if not _is_text(name) or not name or name.startswith(RESERVED_PREFIX):
            raise SchemaError(
                "GV-101",
                f"a field cannot be named {name!r}",
                hint=f'names are not empty and do not begin with "{RESERVED_PREFIX}"',
            )
        if not isinstance(kind, FieldType):
            raise SchemaError(
                "GV-102",
                f'field "{name}" has {kind!r} for a type',
                hint="use a type such as gv.Int64()",
            )
    key = schema[schema.primary_key]
    if not isinstance(key, Int64 | String) or is_nullable(key):
        raise SchemaError(
            "GV-103",
            f'primary key "{schema.primary_key}" is {key}; it must be Int64 or String, not null',
        )
    for name, kind in schema.fields.items():
        if isinstance(kind, Int64) and kind.auto and name != schema.primary_key:
            raise SchemaError("GV-102", f'only the primary key can be auto; "{name}" is not')
    if schema.partition_key is not None and schema[schema.partition_key].is_vector:
        raise SchemaError("GV-102", f'partition key "{schema.partition_key}" is a vector')
