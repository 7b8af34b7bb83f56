"""What a collection's rows look like: field types and the schema that names them.

`gpuvec.ingest` checks rows against a schema; here are only the words.
"""

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields
from typing import Any, ClassVar, Self

import ml_dtypes
import numpy as np
import pyarrow as pa

from gpuvec.errors import SchemaError, unknown_field
from gpuvec.types import Metric

VECTOR_DTYPES: dict[str, np.dtype[Any]] = {
    "float32": np.dtype(np.float32),
    "float16": np.dtype(np.float16),
    "bfloat16": np.dtype(ml_dtypes.bfloat16),
    "int8": np.dtype(np.int8),
    "uint8": np.dtype(np.uint8),
}
DENSE_METRICS = (Metric.COSINE, Metric.L2, Metric.SQEUCLIDEAN, Metric.IP)
BINARY_METRICS = (Metric.HAMMING, Metric.JACCARD)
RESERVED_PREFIX = "_gv_"  # hidden columns: `_gv_ts`


@dataclass(frozen=True, slots=True)
class FieldType:
    """The type of a field: `nullable` allows nulls, `default` fills a column that is missing."""

    KIND: ClassVar[str] = ""

    @property
    def is_vector(self) -> bool:
        """Whether values are vectors, which live outside the scalar table."""
        return isinstance(self, Vector | BinaryVector | SparseVector)

    def arrow_type(self) -> pa.DataType:
        """Return the Arrow type in which values are held (scalars) or leave (vectors)."""
        raise AssertionError(f"{type(self).__name__} has no Arrow type")

    def to_json(self) -> dict[str, Any]:
        """Return a JSON object from which `field_from_json` makes an equal type."""
        found: dict[str, Any] = {"type": self.KIND}
        for item in fields(self):
            value = getattr(self, item.name)
            if value != item.default:
                found[item.name] = value.to_json() if isinstance(value, FieldType) else value
        return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Scalar(FieldType):
    nullable: bool = False
    default: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bool(_Scalar):
    """True or false."""

    KIND = "bool"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.bool_()


@dataclass(frozen=True, slots=True, kw_only=True)
class Int8(_Scalar):
    """8-bit signed integer."""

    KIND = "int8"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int8()


@dataclass(frozen=True, slots=True, kw_only=True)
class Int16(_Scalar):
    """16-bit signed integer."""

    KIND = "int16"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int16()


@dataclass(frozen=True, slots=True, kw_only=True)
class Int32(_Scalar):
    """32-bit signed integer."""

    KIND = "int32"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int32()


@dataclass(frozen=True, slots=True, kw_only=True)
class Int64(_Scalar):
    """64-bit signed integer; an `auto` primary key is numbered by gpuvec where it is missing."""

    KIND = "int64"
    auto: bool = False

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int64()


@dataclass(frozen=True, slots=True, kw_only=True)
class Float32(_Scalar):
    """32-bit float."""

    KIND = "float32"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.float32()


@dataclass(frozen=True, slots=True, kw_only=True)
class Float64(_Scalar):
    """64-bit float."""

    KIND = "float64"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.float64()


@dataclass(frozen=True, slots=True, kw_only=True)
class String(_Scalar):
    """Unicode text."""

    KIND = "string"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.string()


@dataclass(frozen=True, slots=True, kw_only=True)
class Timestamp(_Scalar):
    """An instant, in microseconds since 1970-01-01 UTC."""

    KIND = "timestamp"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True, kw_only=True)
class JSON(_Scalar):
    """Any JSON value, held as its text."""

    KIND = "json"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.string()


@dataclass(frozen=True, slots=True)
class List(FieldType):
    """A list of scalars of one type; its elements are not null."""

    KIND = "list"
    item: FieldType
    _: KW_ONLY
    nullable: bool = False
    default: Any = None

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.list_(self.item.arrow_type())


@dataclass(frozen=True, slots=True)
class Vector(FieldType):
    """A dense vector of `dim` numbers: `float32`, `float16`, `bfloat16`, `int8` or `uint8`."""

    KIND = "vector"
    dim: int
    _: KW_ONLY
    dtype: str = "float32"
    metric: str = "cosine"
    nullable: bool = False

    def __post_init__(self) -> None:
        _check_vector(self, DENSE_METRICS)
        if self.dtype not in VECTOR_DTYPES:
            raise bad_option("dtype", self.dtype, VECTOR_DTYPES)

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of the field's arrays."""
        return VECTOR_DTYPES[self.dtype]

    @property
    def width(self) -> int:
        """Array columns per row."""
        return self.dim

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`; float16 and bfloat16 leave as float32: nothing is lost."""
        item = pa.from_numpy_dtype(self.numpy_dtype) if "int" in self.dtype else pa.float32()
        return pa.list_(item, self.dim)


@dataclass(frozen=True, slots=True)
class BinaryVector(FieldType):
    """A vector of `dim` bits, `dim` divisible by 8, packed as `np.packbits` does."""

    KIND = "binary_vector"
    dim: int
    _: KW_ONLY
    metric: str = "hamming"
    nullable: bool = False

    def __post_init__(self) -> None:
        _check_vector(self, BINARY_METRICS)
        if self.dim % 8:
            raise SchemaError(
                "GV-102", f"a binary vector's dim must be divisible by 8, got {self.dim}"
            )

    @property
    def numpy_dtype(self) -> np.dtype[Any]:
        """The dtype of the field's arrays."""
        return np.dtype(np.uint8)

    @property
    def width(self) -> int:
        """Array columns per row: 8 bits in each."""
        return self.dim // 8

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.list_(pa.uint8(), self.width)


@dataclass(frozen=True, slots=True)
class SparseVector(FieldType):
    """A vector of few non-zero float32 entries at uint32 positions."""

    KIND = "sparse_vector"
    _: KW_ONLY
    metric: str = "ip"
    nullable: bool = False

    def __post_init__(self) -> None:
        if self.metric not in (Metric.IP, Metric.COSINE):
            raise bad_option("metric", self.metric, (Metric.IP, Metric.COSINE))

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.map_(pa.uint32(), pa.float32())


FIELD_TYPES: dict[str, type[FieldType]] = {
    cls.KIND: cls
    for cls in (
        Bool, Int8, Int16, Int32, Int64, Float32, Float64, String, Timestamp, JSON, List,
        Vector, BinaryVector, SparseVector,
    )
}  # fmt: skip


def field_from_json(data: Mapping[str, Any]) -> FieldType:
    """Make the field type that `FieldType.to_json` wrote."""
    options = {key: value for key, value in data.items() if key != "type"}
    if "item" in options:
        options["item"] = field_from_json(options["item"])
    return FIELD_TYPES[data["type"]](**options)


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


def is_nullable(kind: FieldType) -> bool:
    """Return whether a field may hold nulls."""
    return bool(getattr(kind, "nullable", False))


def bad_option(option: str, got: object, known: Any) -> SchemaError:
    """Return the error for an option value that does not exist."""
    return SchemaError(
        "GV-102",
        f'{option} must be one of {", ".join(map(str, known))}; got "{got}"',
        details={"option": option, "got": got},
    )


def _check_vector(kind: Vector | BinaryVector, metrics: tuple[Metric, ...]) -> None:
    dim: object = kind.dim
    if not isinstance(dim, int) or isinstance(dim, bool) or dim < 1:
        raise SchemaError("GV-102", f"dim must be a whole number of at least 1, got {kind.dim!r}")
    if kind.metric not in metrics:
        raise bad_option("metric", kind.metric, metrics)
    object.__setattr__(kind, "metric", str(kind.metric))


def _check_schema(schema: Schema) -> None:
    fields: Mapping[Any, Any] = schema.fields
    for name, kind in fields.items():
        if not isinstance(name, str) or not name or name.startswith(RESERVED_PREFIX):
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
