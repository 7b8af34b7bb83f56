"""One scalar column to the type of its field: what may change form does, what may not is named."""

import warnings
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.errors import (
    CastWarning,
    SchemaError,
    null_not_allowed,
    value_does_not_fit,
    wrong_type,
)
from gpuvec.json_text import check_json, json_column, json_texts
from gpuvec.schema import (
    JSON,
    Bool,
    FieldType,
    Float32,
    Float64,
    List,
    String,
    Timestamp,
    is_nullable,
)

Column: TypeAlias = pa.ChunkedArray
_BAD_CAST = (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError)


def scalar_column(name: str, kind: FieldType, column: Column) -> Column:
    """Bring a column to its field's Arrow type, with defaults for nulls where there may be none.

    Integers, floats and decimals go to any number type that holds them: a fraction or a number out
    of range raises. A float that moves by half a unit or more, an integer that a float cannot hold
    and a time finer than a microsecond give a `CastWarning`. Text may be any Arrow string, times
    also dates and ISO 8601 text; without a zone they are UTC. JSON takes text and anything else
    that has a JSON form.

    Raises:
        SchemaError: `GV-107` another type, `GV-108` a value that does not fit, `GV-109` a null,
            `GV-115` no JSON.
    """
    column = plain(column)
    if pa.types.is_null(column.type):
        column = column.cast(kind.arrow_type())
    column = _cast(name, kind, column)
    return _fill_nulls(name, kind, column)


def _fill_nulls(name: str, kind: FieldType, column: Column) -> Column:
    """Return the column with the default for nulls that may not be; `GV-109` if there is none."""
    if not column.null_count or is_nullable(kind):
        return column
    default = getattr(kind, "default", None)
    if default is None:
        raise null_not_allowed(name, pc.index(pc.is_null(column), True).as_py())
    filled = pc.if_else(pc.is_null(column), default_value(name, kind), column)
    return filled if isinstance(filled, pa.ChunkedArray) else pa.chunked_array([filled])


def default_value(name: str, kind: FieldType) -> pa.Scalar:
    """Return the default of a field in its Arrow type, a null scalar where it has none."""
    default = getattr(kind, "default", None)
    if default is None:
        return pa.scalar(None, kind.arrow_type())
    if isinstance(kind, JSON) and not isinstance(default, str):
        default = json_texts(name, [default])[0]
    return _cast(name, kind, pa.chunked_array([pa.array([default])]))[0]


def plain(column: Column) -> Column:
    """Return a column without encodings: text with 32-bit offsets, JSON as its text."""
    if isinstance(column.type, pa.JsonType):
        chunks = [chunk.storage for chunk in column.chunks]
        return plain(pa.chunked_array(chunks, column.type.storage_type))
    column = decoded(column)
    if is_text(column.type) and not pa.types.is_string(column.type):
        return pa.chunked_array(
            [part for chunk in column.chunks for part in _small_strings(chunk)], pa.string()
        )
    return column


def decoded(column: Column) -> Column:
    """Return a column without dictionary, run-end or view encoding."""
    kind = column.type
    if pa.types.is_run_end_encoded(kind):
        return decoded(pc.run_end_decode(column))
    if pa.types.is_string_view(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.large_string() if is_text(kind) else pa.large_binary())
    if not pa.types.is_dictionary(kind):
        return column
    chunks = []
    for chunk in column.chunks:
        values = decoded(pa.chunked_array([chunk.dictionary])).combine_chunks()
        chunks.append(values.take(chunk.indices))
    return pa.chunked_array(chunks) if chunks else column.cast(kind.value_type)


def is_text(kind: pa.DataType) -> bool:
    """Return whether an Arrow type holds text."""
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def _first_failing(column: Any, attempt: Callable[[Any], Any]) -> int:
    """Return the row of the first value on which `attempt` raises, by halving; one must."""
    low, high = 0, len(column)
    while high - low > 1:
        middle = (low + high) // 2
        try:
            attempt(column[low:middle])
        except (ValueError, TypeError, OverflowError):
            high = middle
        else:
            low = middle
    return low


def _cast(name: str, kind: FieldType, column: Column) -> Column:
    if isinstance(kind, String):
        return _to_text(name, column)
    if isinstance(kind, JSON):
        return _to_json(name, column)
    if isinstance(kind, List):
        return _to_list(name, kind, column)
    if column.type == kind.arrow_type():
        return column
    if isinstance(kind, Bool):
        raise wrong_type(name, wanted="bool", got=column.type)
    if isinstance(kind, Timestamp):
        return _to_timestamp(name, kind, column)
    if not _is_number(column.type):
        raise wrong_type(name, wanted=kind.KIND, got=column.type)
    if isinstance(kind, Float32 | Float64):
        return _to_float(name, kind, column)
    return _strictly(name, kind, column, "a whole number in the range of " + kind.KIND)


def _is_number(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind)
    )


def _strictly(name: str, kind: FieldType, column: Column, wanted: str) -> Column:
    """Cast without any loss, or raise `GV-108` for the first value that does not fit."""
    target = kind.arrow_type()
    if pa.types.is_floating(column.type) and column.type.bit_width == 16:
        column = column.cast(pa.float32())
    try:
        return column.cast(target)
    except _BAD_CAST:
        row = _first_failing(column, lambda part: part.cast(target))
        raise value_does_not_fit(name, row, wanted=wanted, got=_shown(column[row])) from None


def _to_float(name: str, kind: FieldType, column: Column) -> Column:
    target = kind.arrow_type()
    if pa.types.is_decimal(column.type):
        return column.cast(target)
    found = column.cast(target, safe=False)
    if pa.types.is_floating(column.type) and column.type.bit_width <= target.bit_width:
        return found
    if pa.types.is_integer(column.type):
        moved = pc.not_equal(found.cast(column.type, safe=False), column)
    else:
        over = pc.and_(pc.is_inf(found), pc.invert(pc.is_inf(column)))
        if (row := pc.index(over, True).as_py()) >= 0:
            raise value_does_not_fit(name, row, wanted=kind.KIND, got=_shown(column[row]))
        shift = pc.abs(pc.subtract(found.cast(column.type), column))
        moved = pc.greater_equal(shift, 0.5)
    if (row := pc.index(moved, True).as_py()) >= 0:
        _warn(f'field "{name}", row {row}: {column[row]} became {found[row]} as {kind.KIND}')
    return found


def _to_timestamp(name: str, kind: FieldType, column: Column) -> Column:
    target = kind.arrow_type()
    if pa.types.is_string(column.type):
        return _parse_times(name, column)
    if pa.types.is_date(column.type):
        column = column.cast(pa.timestamp("ms"))
    if not pa.types.is_timestamp(column.type):
        hint = "numbers have no unit: convert them, for example with pandas.to_datetime"
        raise wrong_type(name, wanted=kind.KIND, got=column.type, hint=hint)
    if column.type.unit != "ns":
        return _strictly(name, kind, column, "a time that microseconds in int64 can hold")
    found = column.cast(target, safe=False)
    moved = pc.not_equal(found.cast(column.type, safe=False), column)
    if (row := pc.index(moved, True).as_py()) >= 0:
        _warn(f'field "{name}", row {row}: {column[row]} lost its nanoseconds')
    return found


def _parse_times(name: str, column: Column) -> Column:
    target = Timestamp().arrow_type()
    for zone in (target.tz, None):
        try:
            return column.cast(pa.timestamp("us", zone)).cast(target)
        except _BAD_CAST:
            pass
    row = _first_failing(column, lambda part: part.cast(pa.timestamp("us")))
    wanted = "ISO 8601 text, with a zone in all rows or in none"
    raise value_does_not_fit(name, row, wanted=wanted, got=_shown(column[row]))


def _to_text(name: str, column: Column) -> Column:
    if not pa.types.is_string(column.type):
        raise wrong_type(name, wanted="string", got=column.type)
    try:
        column.validate(full=True)
    except _BAD_CAST:
        row = _first_failing(column, lambda part: part.validate(full=True))
        raise value_does_not_fit(name, row, wanted="UTF-8 text", got="other bytes") from None
    return column


def _small_strings(chunk: pa.Array) -> list[pa.Array]:
    """Return text with 32-bit offsets, in as many arrays as that takes."""
    try:
        return [chunk.cast(pa.string())]
    except pa.ArrowInvalid:
        if len(chunk) < 2:
            raise
        middle = len(chunk) // 2
        return [*_small_strings(chunk[:middle]), *_small_strings(chunk[middle:])]


def _to_json(name: str, column: Column) -> Column:
    if not pa.types.is_string(column.type):
        return json_column(name, column)
    check_json(name, _to_text(name, column))
    return column


def _to_list(name: str, kind: List, column: Column) -> Column:
    lists = (
        pa.ListType, pa.LargeListType, pa.FixedSizeListType, pa.ListViewType, pa.LargeListViewType,
    )  # fmt: skip
    if not isinstance(column.type, lists):
        raise wrong_type(name, wanted=f"list of {kind.item.KIND}", got=column.type)
    chunks, first_row = [], 0
    for chunk in column.chunks:
        chunks.append(_list_chunk(name, kind, chunk, first_row))
        first_row += len(chunk)
    return pa.chunked_array(chunks, kind.arrow_type())


def _list_chunk(name: str, kind: List, chunk: pa.Array, first_row: int) -> pa.Array:
    lengths = pc.list_value_length(chunk).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise wrong_type(name, wanted="fewer than 2**31 list items per batch", got=offsets[-1])
    try:
        items = scalar_column(name, kind.item, pa.chunked_array([chunk.flatten()]))
    except SchemaError as error:
        if "row" in error.details:
            inside = int(np.searchsorted(offsets, error.details["row"], side="right")) - 1
            raise _in_list(name, error, first_row + inside) from None
        raise
    flat = items.combine_chunks()
    mask = np.append(chunk.is_null().to_numpy(zero_copy_only=False), False)
    starts = pa.array(offsets.astype(np.int32), mask=mask if chunk.null_count else None)
    return pa.ListArray.from_arrays(starts, flat, type=kind.arrow_type())


def _in_list(name: str, error: SchemaError, row: int) -> SchemaError:
    """Return the error of a list item with the row of its list."""
    text = error.message.replace(f"row {error.details['row']}:", f"row {row}, in the list:")
    return SchemaError(
        error.code, text, hint="rows count from 0", details={**error.details, "row": row}
    )


def _shown(value: pa.Scalar) -> object:
    """Return a value for a message; Python has no times after the year 9999."""
    try:
        return value.as_py()
    except (OverflowError, ValueError):
        return value.cast(pa.int64()).as_py()


def _warn(message: str) -> None:
    warnings.warn(message, CastWarning, stacklevel=2)
