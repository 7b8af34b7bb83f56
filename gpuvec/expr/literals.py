"""Values that users write in expressions, as plain Python values and Arrow arrays."""

from collections.abc import Iterable
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, TypeAlias

import numpy as np
import pyarrow as pa

from gpuvec import errors

Plain = None | bool | int | float | str | datetime
# An Arrow array where all values have one type, else a tuple.
Values: TypeAlias = Any

TIMESTAMP = pa.timestamp("us", tz="UTC")
_ARRAY_TYPES = {
    bool: pa.bool_(),
    int: pa.int64(),
    float: pa.float64(),
    str: pa.string(),
    datetime: TIMESTAMP,
}


def plain_value(value: object) -> Plain:
    """Return a value as None, bool, int, float, str or a `datetime` in UTC.

    Takes NumPy and Arrow scalars, dates (midnight), naive times (UTC) and whole or decimal
    `Decimal`.

    Raises:
        FilterError: `GV-205`, anything else.
    """
    if isinstance(value, pa.Scalar):
        value = value.as_py()
    if isinstance(value, np.datetime64):
        value = value.astype("datetime64[us]").item()
    elif isinstance(value, np.generic) or (isinstance(value, np.ndarray) and value.ndim == 0):
        value = value.item()
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, datetime):
        return _time(value)
    if isinstance(value, date):
        return datetime(value.year, value.month, value.day, tzinfo=UTC)
    if isinstance(value, Decimal):
        whole = value.is_finite() and value == value.to_integral_value()
        return int(value) if whole else float(value)
    raise errors.bad_value(value)


def plain_values(values: Any) -> Values:
    """Return a list's values as an Arrow array, or as a tuple when types are mixed or null.

    Raises:
        FilterError: `GV-205`, not a flat list of values.
    """
    if isinstance(values, pa.ChunkedArray):
        values = values.combine_chunks()
    if isinstance(values, str | bytes | dict) or not hasattr(values, "__iter__"):
        raise errors.bad_list(values)
    if not isinstance(values, pa.Array | np.ndarray | list | tuple | set | frozenset):
        values = _from_library(values)
    if isinstance(values, np.ndarray):
        if values.ndim != 1:
            raise errors.bad_list(values)
        if values.dtype.kind == "M":
            values = values.astype("datetime64[us]")
        values = values.astype(values.dtype.newbyteorder("="), copy=False)
        plain = values.dtype.kind in "biuMf" and values.dtype != np.float16
        values = pa.array(values) if plain else values.tolist()
    if isinstance(values, pa.Array):
        return _from_arrow(values)
    return one_type([plain_value(value) for value in values])


def one_type(values: Iterable[Any]) -> Values:
    """Return plain values as an Arrow array if one type holds them all, else as a tuple."""
    found = tuple(values)
    kinds = set(map(type, found))
    if len(kinds) != 1 or type(None) in kinds:
        return found
    try:
        return pa.array(found, _ARRAY_TYPES[kinds.pop()])
    except OverflowError:
        return found


def read_time(text: str) -> datetime | None:
    """Return the instant of an ISO 8601 text, UTC where it has no zone; None: no such text."""
    try:
        return _time(datetime.fromisoformat(text.strip()))
    except (ValueError, OverflowError):
        return None


def _from_library(values: Any) -> Any:
    if hasattr(values, "__arrow_c_stream__"):
        return pa.chunked_array(values).combine_chunks()
    if hasattr(values, "__array__"):
        return np.asarray(values)
    return list(values)


def _from_arrow(values: pa.Array) -> Values:
    kind = values.type
    if pa.types.is_dictionary(kind):
        values, kind = values.dictionary_decode(), kind.value_type
    if values.null_count or not len(values):
        return tuple(plain_value(value) for value in values)
    if pa.types.is_boolean(kind):
        return values
    if pa.types.is_integer(kind):
        wanted = pa.int64()
    elif pa.types.is_floating(kind):
        wanted = pa.float64()
    elif (
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    ):
        wanted = pa.string()
    else:
        return one_type([plain_value(value) for value in values])
    try:
        return values.cast(wanted)
    except pa.ArrowInvalid:  # unsigned beyond int64
        return tuple(values.to_pylist())


def _text(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise errors.bad_value(value) from None
    return str(value)


def _time(value: datetime) -> datetime:
    zone = value.tzinfo or UTC
    parts = (value.hour, value.minute, value.second, value.microsecond)
    return datetime(value.year, value.month, value.day, *parts, tzinfo=zone).astimezone(UTC)
