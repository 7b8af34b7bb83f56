"""Columns that no field names, kept as one JSON object per row in a hidden text column."""

import json
from collections.abc import Mapping

import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.columns import Column, plain
from gpuvec.json_text import check_json, json_column
from gpuvec.schema import RESERVED_PREFIX

DYNAMIC_COLUMN = RESERVED_PREFIX + "dynamic"


def pack_dynamic(columns: Mapping[str, Column], num_rows: int) -> Column:
    """Return one JSON object per row, without its nulls; null where nothing is left.

    Args:
        columns: name to values, each `num_rows` long; see `json_column` for their JSON form.
        num_rows: rows of the batch.

    Raises:
        SchemaError: `GV-115`, a value without a JSON form.
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
    if isinstance(column.type, pa.JsonType):
        check_json(name, plain(column))
    else:
        column = plain(column)
    prefix = f",{json.dumps(name)}:"
    return pc.binary_join_element_wise(prefix, json_column(name, column), "").fill_null("")
