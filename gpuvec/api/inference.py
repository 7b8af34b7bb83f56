"""Field types that follow from data."""

from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.api.intake import AnyColumn
from gpuvec.columns import is_text
from gpuvec.errors import cannot_infer
from gpuvec.rows import DenseVectors, SparseVectors
from gpuvec.schema import (
    JSON,
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
)

_SCALARS: dict[pa.DataType, type[FieldType]] = {
    pa.bool_(): Bool,
    pa.int8(): Int8,
    pa.int16(): Int16,
    pa.int32(): Int32,
    pa.int64(): Int64,
    pa.uint8(): Int16,
    pa.uint16(): Int32,
    pa.uint32(): Int64,
    pa.uint64(): Int64,  # a value beyond int64 is refused when it comes
    pa.float16(): Float32,
    pa.float32(): Float32,
    pa.float64(): Float64,
}
_NARROW = {"halffloat": "float16", "int8": "int8", "uint8": "uint8", "bfloat16": "bfloat16",
           "float16": "float16"}  # fmt: skip
_HINT = "convert the column, leave it out, or give a schema"


def infer_fields(columns: Mapping[str, AnyColumn]) -> dict[str, FieldType]:
    """Return a field type for each column; see `infer_field`."""
    return {name: infer_field(name, column) for name, column in columns.items()}


def infer_field(name: str, column: AnyColumn) -> FieldType:
    """Return the narrowest field type that holds every value of a column.

    2-D arrays and lists of numbers of one length are vectors with the cosine metric: of float32,
    or of float16, bfloat16, int8 or uint8 if that is what they hold. Bits and bytes of one length
    are binary vectors, maps from whole numbers sparse ones. Other lists are lists, dicts and
    structs JSON. Scalars are nullable; vectors only if one is null. A column of nulls is text.

    Raises:
        SchemaError: `GV-120`, no type follows.
    """
    if isinstance(column, SparseVectors):
        return SparseVector(nullable=column.valid is not None)
    if isinstance(column, DenseVectors):
        return _vector(
            name, column.values.shape[1], column.values.dtype.name, column.valid is not None
        )
    kind = column.type
    if isinstance(kind, pa.JsonType):
        return JSON(nullable=True)
    if isinstance(kind, pa.BaseExtensionType):
        raise cannot_infer(name, kind, _HINT)
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _bytes(name, column)
    if pa.types.is_fixed_size_binary(kind):
        return BinaryVector(8 * kind.byte_width, nullable=column.null_count > 0)
    if pa.types.is_map(kind):
        whole = pa.types.is_integer(kind.key_type)
        return SparseVector(nullable=column.null_count > 0) if whole else JSON(nullable=True)
    if pa.types.is_nested(kind):
        return _nested(name, kind, column)
    return _scalar(name, kind, nullable=True)


def _scalar(name: str, kind: pa.DataType, *, nullable: bool) -> FieldType:
    if kind in _SCALARS:
        return _SCALARS[kind](nullable=nullable)  # type: ignore[call-arg]
    if is_text(kind) or pa.types.is_null(kind):
        return String(nullable=nullable)
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return Timestamp(nullable=nullable)
    if pa.types.is_decimal(kind):
        return Float64(nullable=nullable)
    raise cannot_infer(name, kind, _HINT)


def _nested(name: str, kind: pa.DataType, column: pa.ChunkedArray) -> FieldType:
    if pa.types.is_struct(kind):
        return JSON(nullable=True)
    if not hasattr(kind, "value_type"):
        raise cannot_infer(name, kind, _HINT)
    item = kind.value_type
    if pa.types.is_nested(item):
        return JSON(nullable=True)
    numeric = pa.types.is_integer(item) or pa.types.is_floating(item) or pa.types.is_boolean(item)
    if numeric and (width := _common_length(column)):
        bits = pa.types.is_boolean(item)
        if not bits or width % 8 == 0:
            return _vector(name, width, "bool" if bits else str(item), column.null_count > 0)
    return List(_scalar(name, item, nullable=False), nullable=True)


def _common_length(column: pa.ChunkedArray) -> int:
    """Return the length that all lists have, 0 if they differ or there are none."""
    if isinstance(column.type, pa.FixedSizeListType):
        return int(column.type.list_size)
    bounds = pc.min_max(pc.list_value_length(column)).as_py()
    return int(bounds["min"] or 0) if bounds["min"] == bounds["max"] else 0


def _vector(name: str, width: int, dtype: str, nullable: bool) -> FieldType:
    if dtype == "bool":
        return BinaryVector(width, nullable=nullable)
    if not width:
        raise cannot_infer(name, "a vector of 0 dimensions", _HINT)
    return Vector(width, dtype=_NARROW.get(dtype, "float32"), nullable=nullable)


def _bytes(name: str, column: pa.ChunkedArray) -> FieldType:
    bounds = pc.min_max(pc.binary_length(column)).as_py()
    if not bounds["min"] or bounds["min"] != bounds["max"]:
        raise cannot_infer(name, column.type, "bytes are binary vectors, all of one length")
    return BinaryVector(8 * bounds["min"], nullable=column.null_count > 0)
