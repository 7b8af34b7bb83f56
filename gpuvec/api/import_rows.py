"""The rows of files as a collection wants them: columns renamed, checked, with keys."""

from collections.abc import Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec import errors
from gpuvec.api import interop
from gpuvec.api.source_files import VECTOR_COLUMN, Piece, SourceFiles, Survey
from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.ingest import validate_rows
from gpuvec.rows import Rows
from gpuvec.schema import Int64, Schema, is_nullable

_PLACES = 3  # that a message names


class ImportRows:
    """Reads files for one schema. Safe for use by several threads.

    Args:
        source: the files.
        columns: of the files to fields; None leaves a column out.
        schema: of the collection.
    """

    def __init__(
        self, source: SourceFiles, columns: Mapping[str, str | None], schema: Schema
    ) -> None:
        self._source = source
        self._columns = columns
        self._schema = schema

    def field(self, column: str) -> str | None:
        """Return the field that a column of the files becomes, None for none."""
        vectors = list(self._schema.vector_fields)
        if column in self._columns:
            return self._columns[column]
        if column == VECTOR_COLUMN and column not in self._schema.fields and len(vectors) == 1:
            return vectors[0]
        return column

    def check(self, survey: Survey) -> None:
        """Refuse files whose columns cannot be rows of the collection, before rows are read.

        Raises:
            NotFoundError: `GV-708` no file has a renamed column, `GV-105` a column without a field.
            SchemaError: `GV-106` a field without a column, `GV-665` an array without keys.
        """
        known = [name for names in survey.columns for name in names or ()]
        if None not in survey.columns:
            for name in self._columns:
                if name not in known:
                    raise errors.no_such_column(name, dict.fromkeys(known))
        for number, names in enumerate(survey.columns):
            path = self._source.files[number].path
            fields = [field for name in names or () if (field := self.field(name)) is not None]
            try:
                if names is not None:
                    self._check_fields(fields, path)
            except errors.GpuvecError as error:
                raise errors.bad_rows_in_file(path, 0, error) from None

    def _check_fields(self, fields: Sequence[str], path: str) -> None:
        schema = self._schema
        for field in fields:
            if field not in schema.fields and (not schema.dynamic or field == DYNAMIC_COLUMN):
                raise errors.unknown_column(field, schema.fields)
        for name, kind in schema.fields.items():
            auto = isinstance(kind, Int64) and kind.auto
            optional = auto or is_nullable(kind) or getattr(kind, "default", None) is not None
            if name in fields or optional:
                continue
            if name != schema.primary_key or not path.lower().endswith(".npy"):
                raise errors.missing_column(name, dict.fromkeys(fields))
            if not isinstance(kind, Int64):
                raise errors.no_keys_in_array(path, name, kind.KIND)

    def count_numbered(self, survey: Survey) -> list[int | None]:
        """Return how many rows of each piece get a number as key; None: they have keys."""
        key = self._schema.primary_key
        lacks = [
            names is not None and key not in map(self.field, names) for names in survey.columns
        ]
        return [self._count(piece) if lacks[piece.file] else None for piece in survey.pieces]

    def _count(self, piece: Piece) -> int:
        if piece.rows >= 0:
            return piece.rows
        return sum(table.num_rows for table in self._source.read(piece))

    def read(self, piece: Piece, first_id: int | None) -> Iterator[Rows]:
        """Yield the rows of a piece, validated; keys may come twice.

        Args:
            piece: of the survey.
            first_id: the number of its first row, where rows are numbered.

        Raises:
            GpuvecError: those of `validate_rows`, with the file's name and the row in it.
        """
        path, at = self._source.files[piece.file].path, piece.first_row
        for columns in self._source.read(piece):
            try:
                named = self._named(columns)
                if first_id is not None:
                    ids = np.arange(len(next(iter(named.values()))), dtype=np.int64)
                    named[self._schema.primary_key] = ids + (first_id + at - piece.first_row)
                rows = interop.to_rows(named, self._schema)
                rows = validate_rows(self._schema, rows, on_duplicate="any")
            except errors.GpuvecError as error:
                raise errors.bad_rows_in_file(path, at, error) from None
            yield rows
            at += len(rows)

    def _named(self, columns: Any) -> dict[str, Any]:
        named: dict[str, Any] = {}
        for name in _names(columns):
            field = self.field(name)
            if field in named:
                raise errors.unreadable_column(field, "two columns of the file are to be this one")
            if field is not None:
                named[field] = columns[name]
        return named

    def locate(self, key: Any) -> list[str]:
        """Return the first places of a key in the files, for a message."""
        found: list[str] = []
        name = self._schema.primary_key
        wanted = [column for column, field in self._columns.items() if field == name] or [name]
        for piece in self._source.survey().pieces:
            path, at = self._source.files[piece.file].path, piece.first_row
            for columns in self._source.read(piece, wanted):
                column = next((columns[c] for c in wanted if c in _names(columns)), None)
                if column is None:
                    break
                rows = _rows_with(column, key)[:_PLACES]
                found.extend(f"{path}, row {at + row:,}" for row in rows)
                at += len(column)
            if len(found) >= _PLACES:
                break
        return found[:_PLACES]


def first_ids(counts: Sequence[int | None], first: int) -> list[int | None]:
    """Return the first number of each piece of which rows are numbered."""
    starts = accumulate((count or 0 for count in counts), initial=first)
    return [None if count is None else start for count, start in zip(counts, starts, strict=False)]


def _names(columns: Any) -> list[str]:
    return list(columns.column_names if isinstance(columns, pa.Table) else columns)


def _rows_with(column: Any, key: Any) -> list[int]:
    values = column if isinstance(column, pa.ChunkedArray) else pa.chunked_array([column])
    same = pc.equal(pc.cast(values, pa.scalar(key).type), pa.scalar(key)).fill_null(False)
    return [int(row) for row in np.flatnonzero(same.to_numpy())]
