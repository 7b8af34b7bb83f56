"""Columns that no field names, kept as one JSON object per row in a hidden text column."""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.columns import Column, is_text, plain
from gpuvec.errors import value_does_not_fit
from gpuvec.json_text import check_json, json_column
from gpuvec.schema import RESERVED_PREFIX

DYNAMIC_COLUMN = RESERVED_PREFIX + "dynamic"
_NEEDS_ESCAPE = r'["\\\x00-\x1f]'


def pack_dynamic(columns: Mapping[str, Column], num_rows: int) -> Column:
    """Return one JSON object per row, without its nulls; null where nothing is left.

    Numbers stay numbers, times become ISO 8601 text, lists and structs are nested; NaN is null.

    Args:
        columns: name to values, each `num_rows` long.
        num_rows: rows of the batch.

    Raises:
        SchemaError: `GV-108` an infinite number, `GV-115` a value without a JSON form.
    """
    if not columns:
        return pa.chunked_array([pa.nulls(num_rows, pa.string())])
    members = [_member(name, column) for name, column in columns.items()]
    body = pc.binary_join_element_wise(*members, "")
    text = pc.binary_join_element_wise("{", pc.utf8_slice_codeunits(body, 1), "}", "")
    found = pc.if_else(pc.equal(body, ""), pa.scalar(None, pa.string()), text)
    return found if isinstance(found, pa.ChunkedArray) else pa.chunked_array([found])


def _member(name: str, column: Column) -> Column:
    """Return `,"name":value` as text, empty for nulls."""
    prefix = f",{json.dumps(name)}:"
    return pc.binary_join_element_wise(prefix, _json_value(name, column), "").fill_null("")


def _json_value(name: str, column: Column) -> Column:
    if isinstance(column.type, pa.JsonType):
        texts = plain(column)
        check_json(name, texts)
        return texts
    column = plain(column)
    kind = column.type
    if pa.types.is_floating(kind):
        return _numbers(name, column)
    if pa.types.is_null(kind) or pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return column.cast(pa.string())
    if pa.types.is_decimal(kind):
        return column.cast(pa.string())
    if is_text(kind):
        return _quoted(column)
    if pa.types.is_timestamp(kind):
        return _quoted(pc.replace_substring(column.cast(pa.string()), " ", "T"))
    if pa.types.is_date(kind):
        return _quoted(column.cast(pa.string()))
    return json_column(name, column)


def _numbers(name: str, column: Column) -> Column:
    if (row := pc.index(pc.is_inf(column), True).as_py()) >= 0:
        raise value_does_not_fit(
            name, row, wanted="a number that JSON has", got=column[row].as_py()
        )
    text = column.cast(pa.string())
    return pc.if_else(pc.is_nan(column), pa.scalar(None, pa.string()), text)


def _quoted(column: Column) -> Column:
    if pc.any(pc.match_substring_regex(column, _NEEDS_ESCAPE)).as_py():
        column = pc.replace_substring(column, "\\", "\\\\")
        column = pc.replace_substring(column, '"', '\\"')
        for code in range(0x20):
            column = pc.replace_substring(column, chr(code), f"\\u{code:04x}")
    return pc.binary_join_element_wise('"', column, '"', "")
