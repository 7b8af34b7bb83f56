"""The types of fields: what a value is, whether it may be missing, how it is held."""

import datetime
import json
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, fields, replace
from typing import Any, ClassVar

import ml_dtypes
import numpy as np
import pyarrow as pa

from gpuvec.errors import SchemaError, bad_default
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


@dataclass(frozen=True, slots=True, repr=False)
class FieldType:
    """The type of a field: `nullable` allows nulls, `default` fills a column that is missing."""

    KIND: ClassVar[str] = ""

    def __repr__(self) -> str:
        given = [item for item in fields(self) if getattr(self, item.name) != item.default]
        values = [(item, repr(getattr(self, item.name))) for item in given]
        options = [f"{item.name}={value}" if item.kw_only else value for item, value in values]
        return f"{type(self).__name__}({', '.join(options)})"

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


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class _Scalar(FieldType):
    nullable: bool = False
    default: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "default", _checked_default(self, self.default))


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Bool(_Scalar):
    """True or false."""

    KIND = "bool"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.bool_()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Int8(_Scalar):
    """8-bit signed integer."""

    KIND = "int8"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int8()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Int16(_Scalar):
    """16-bit signed integer."""

    KIND = "int16"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int16()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Int32(_Scalar):
    """32-bit signed integer."""

    KIND = "int32"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int32()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Int64(_Scalar):
    """64-bit signed integer; an `auto` primary key is numbered by gpuvec where it is missing."""

    KIND = "int64"
    auto: bool = False

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.int64()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Float32(_Scalar):
    """32-bit float."""

    KIND = "float32"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.float32()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Float64(_Scalar):
    """64-bit float."""

    KIND = "float64"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.float64()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class String(_Scalar):
    """Unicode text."""

    KIND = "string"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.string()


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Timestamp(_Scalar):
    """An instant, in microseconds since 1970-01-01 UTC."""

    KIND = "timestamp"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.timestamp("us", tz="UTC")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class JSON(_Scalar):
    """Any JSON value, held as its text."""

    KIND = "json"

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.string()


@dataclass(frozen=True, slots=True, repr=False)
class List(FieldType):
    """A list of scalars of one type; its elements are not null."""

    KIND = "list"
    item: FieldType
    _: KW_ONLY
    nullable: bool = False
    default: Any = None

    def __post_init__(self) -> None:
        item: object = self.item
        if not isinstance(item, _Scalar):
            raise SchemaError(
                "GV-102",
                f"a list holds scalars of one type, not {item!r}",
                hint="for example gv.List(gv.String())",
            )
        object.__setattr__(self, "default", _checked_default(self, self.default))

    def arrow_type(self) -> pa.DataType:
        """See `FieldType.arrow_type`."""
        return pa.list_(self.item.arrow_type())


@dataclass(frozen=True, slots=True, repr=False)
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


@dataclass(frozen=True, slots=True, repr=False)
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


@dataclass(frozen=True, slots=True, repr=False)
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


def with_default(kind: FieldType, default: Any) -> FieldType:
    """Return a type with a default.

    Raises:
        SchemaError: `GV-128`, the type has no defaults, or not this one.
    """
    if not hasattr(kind, "default"):
        raise bad_default(repr(kind), default)
    return replace(kind, default=default)  # type: ignore[call-arg]


def _checked_default(kind: FieldType, default: Any) -> Any:
    """Return a default as JSON can keep it; SchemaError GV-128 if the type cannot hold it."""
    if isinstance(default, np.generic):
        default = default.item()
    if isinstance(default, datetime.datetime) and isinstance(kind, Timestamp):
        zone = default.tzinfo or datetime.UTC
        default = default.replace(tzinfo=zone).isoformat()
    if default is None:
        return None
    try:
        if isinstance(kind, JSON):
            json.loads(default) if isinstance(default, str) else json.dumps(default)
        elif isinstance(kind, Timestamp) and isinstance(default, str):
            datetime.datetime.fromisoformat(default)
        else:
            pa.scalar(default, kind.arrow_type())
    except (ValueError, TypeError, OverflowError, pa.ArrowException):
        raise bad_default(kind.KIND, default) from None
    return default
