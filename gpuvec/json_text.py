"""JSON fields hold text: checking it, and writing it for values that are not text yet."""

import json
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.errors import bad_json

_NEEDS_ESCAPE = r'["\\\x00-\x1f]'
_CONTROL = r"[\x00-\x1f]"
_AS_PRINTED = (pa.types.is_integer, pa.types.is_boolean, pa.types.is_decimal, pa.types.is_null)


def check_json(name: str, column: pa.ChunkedArray) -> None:
    """Raise `GV-115` at the first text that is no JSON; nulls are fine."""
    texts = column.drop_null().to_pylist()
    try:
        deque(map(_decode, texts), maxlen=0)
    except ValueError as error:
        at = next(at for at, text in enumerate(texts) if not _is_json(text))
        row = int(np.flatnonzero(column.is_valid().to_numpy())[at])
        text = texts[at] if len(texts[at]) <= 40 else texts[at][:40] + "…"
        raise bad_json(name, row, f"{text!r} ({error})") from None


def json_column(name: str, column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Return the JSON text of any Arrow column; nulls stay null, and so does NaN.

    Text becomes a JSON string, times ISO 8601 strings, maps and structs objects; `pa.json_()` is
    taken as it is.

    Raises:
        SchemaError: `GV-115`, a value without a JSON form.
    """
    try:
        chunks = [_texts(chunk) for chunk in column.chunks]
    except _NoFormError:
        values = column.to_pylist(maps_as_pydicts="strict")
        chunks = [pa.array(_map_rows(name, values, _encode), pa.string())]
    return pa.chunked_array(chunks, pa.string())


def json_texts(name: str, values: Sequence[Any]) -> list[str | None]:
    """Return the JSON text of each value; nulls stay null, text is taken for JSON already.

    Raises:
        SchemaError: `GV-115`, a value without a JSON form.
    """
    return _map_rows(name, values, _json_text)


def json_values(name: str, values: Sequence[Any]) -> list[str | None]:
    """Return the JSON text of each value, of text too; nulls stay null, and NaN becomes null.

    Raises:
        SchemaError: `GV-115`, a value without a JSON form.
    """
    gone = [None if isinstance(value, float) and value != value else value for value in values]
    return _map_rows(name, gone, _encode)


def _map_rows(name: str, values: Sequence[Any], write: Callable[[Any], str]) -> list[str | None]:
    try:
        return [None if value is None else write(value) for value in values]
    except (TypeError, ValueError) as error:
        row = next(row for row, value in enumerate(values) if not _has_json(value))
        raise bad_json(name, row, f"{type(values[row]).__name__} ({error})") from None


class _NoFormError(Exception):
    """Arrow's functions cannot write this type or value as JSON."""


def _texts(values: pa.Array) -> pa.Array:
    """Return the JSON text of an array, null for nulls, without an object per row."""
    kind = values.type
    if isinstance(kind, pa.JsonType):
        return values.storage.cast(pa.string())
    if pa.types.is_floating(kind):
        return _numbers(values)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return _quoted(values.cast(pa.string()))
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return _quoted(pc.replace_substring(values.cast(pa.string()), " ", "T"))
    if pa.types.is_struct(kind):
        return _objects(values)
    if pa.types.is_map(kind):
        return _maps(values)
    if hasattr(kind, "value_type"):  # a list of any sort
        return pc.binary_join_element_wise("[", _join(values, _texts(values.flatten())), "]", "")
    if any(is_kind(kind) for is_kind in _AS_PRINTED):
        return values.cast(pa.string())
    raise _NoFormError


def _numbers(values: pa.Array) -> pa.Array:
    if pc.any(pc.is_inf(values)).as_py():
        raise _NoFormError
    text = values.cast(pa.string())
    return pc.if_else(pc.is_nan(values), pa.scalar(None, pa.string()), text)


def _objects(values: pa.Array) -> pa.Array:
    members = [
        pc.binary_join_element_wise(f"{json.dumps(field.name)}:", _or_null(_texts(child)), "")
        for field, child in zip(values.type, values.flatten(), strict=True)
    ]
    inside = pc.binary_join_element_wise(*members, ",") if members else pa.array([""] * len(values))
    objects = pc.binary_join_element_wise("{", inside, "}", "")
    return pc.if_else(values.is_valid(), objects, pa.scalar(None, pa.string()))


def _maps(values: pa.Array) -> pa.Array:
    entries = values.cast(
        pa.list_(pa.struct([("k", values.type.key_type), ("v", values.type.item_type)]))
    )
    keys, items = entries.flatten().flatten()
    texts = pc.binary_join_element_wise(
        _quoted(keys.cast(pa.string())), _or_null(_texts(items)), ":"
    )
    return pc.binary_join_element_wise("{", _join(entries, texts), "}", "")


def _join(lists: pa.Array, items: pa.Array) -> pa.Array:
    """Return the texts of each list's items, with commas between them; null for null lists."""
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    if offsets[-1] > np.iinfo(np.int32).max:
        raise _NoFormError
    null = np.append(lists.is_null().to_numpy(zero_copy_only=False), False)
    starts = pa.array(offsets.astype(np.int32), mask=null if lists.null_count else None)
    return pc.binary_join(pa.ListArray.from_arrays(starts, _or_null(items)), ",")


def _or_null(texts: pa.Array) -> pa.Array:
    return texts.fill_null("null")


def _quoted(values: pa.Array) -> pa.Array:
    """Return text as JSON strings."""
    if pc.any(pc.match_substring_regex(values, _NEEDS_ESCAPE)).as_py():
        values = pc.replace_substring(values, "\\", "\\\\")
        values = pc.replace_substring(values, '"', '\\"')
        if pc.any(pc.match_substring_regex(values, _CONTROL)).as_py():
            for code in range(0x20):
                values = pc.replace_substring(values, chr(code), f"\\u{code:04x}")
    return pc.binary_join_element_wise('"', values, '"', "")


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _json_value(value: Any) -> Any:
    """Return the JSON form of times and of NumPy's numbers and arrays."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


_decode = json.JSONDecoder(parse_constant=_refuse).decode
_encode = json.JSONEncoder(
    ensure_ascii=False, allow_nan=False, separators=(",", ":"), default=_json_value
).encode


def _is_json(text: str) -> bool:
    try:
        _decode(text)
    except ValueError:
        return False
    return True


def _has_json(value: Any) -> bool:
    try:
        _encode(value)
    except (TypeError, ValueError):
        return False
    return True


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value)
