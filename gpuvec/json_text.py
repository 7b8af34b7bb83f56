"""JSON fields hold text: checking it, and writing it for values that are not text yet."""

import json
from collections import deque
from collections.abc import Sequence
from typing import Any, NoReturn

import numpy as np
import pyarrow as pa

from gpuvec.errors import bad_json


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
    """Return the JSON text of structs, lists, maps, numbers and times; nulls stay null."""
    values = column.to_pylist(maps_as_pydicts="strict")
    return pa.chunked_array([pa.array(json_texts(name, values), pa.string())])


def json_texts(name: str, values: Sequence[Any]) -> list[str | None]:
    """Return the JSON text of each value; nulls stay null, text is taken for JSON already.

    Raises:
        SchemaError: `GV-115`, a value without a JSON form.
    """
    try:
        return list(map(_json_text, values))
    except (TypeError, ValueError) as error:
        row = next(row for row, value in enumerate(values) if not _has_json(value))
        raise bad_json(name, row, f"{type(values[row]).__name__} ({error})") from None


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


_decode = json.JSONDecoder(parse_constant=_refuse).decode


def _is_json(text: str) -> bool:
    try:
        _decode(text)
    except ValueError:
        return False
    return True


def _has_json(value: Any) -> bool:
    try:
        _json_text(value)
    except (TypeError, ValueError):
        return False
    return True


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_json_value)


def _json_value(value: Any) -> Any:
    """Return the JSON form of times and of NumPy's numbers and arrays."""
    if hasattr(value, "isoformat"):
        return value.isoformat()
    if isinstance(value, np.generic | np.ndarray):
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")
