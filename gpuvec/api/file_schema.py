"""The schema that follows from files, and what would become of their columns in a collection."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from gpuvec import errors
from gpuvec.api import interop
from gpuvec.api.bulk import find_files
from gpuvec.api.import_rows import ImportRows
from gpuvec.api.intake import read_column
from gpuvec.api.source_files import SourceFiles, Survey
from gpuvec.api.tables import key_type
from gpuvec.query import build
from gpuvec.schema import FieldType, Schema

if TYPE_CHECKING:
    from gpuvec.api.collection import Collection
    from gpuvec.api.database import Database

HEAD_ROWS = 1000  # of the first file that has a column: its field type follows
_UNFIT = (errors.SchemaError, errors.NotFoundError, errors.QueryError, errors.CorruptError)


@dataclass(frozen=True, slots=True)
class FileSchema:
    """What files hold: a field type for each column, and the columns' own types."""

    fields: Mapping[str, FieldType]
    types: Mapping[str, str]

    def schema(self, primary_key: str) -> Schema:
        """Return the schema with a key; `SchemaError` GV-121 when there is no such column."""
        if primary_key not in self.fields:
            raise errors.needs_primary_key(self.fields, primary_key)
        fields = {**self.fields, primary_key: key_type(self.fields[primary_key])}
        return Schema(fields, primary_key)


def infer_files(
    source: SourceFiles, columns: Mapping[str, str | None] | None = None, *, loose: bool = False
) -> FileSchema:
    """Return what the columns of all files can be kept as; see `interop.infer_fields`.

    Parquet files may differ: a column has the widest type of all files that have it, and is
    nullable where some lack it. Of other files the first one counts.

    Args:
        source: the files.
        columns: column to field, where the names differ; None leaves one out.
        loose: whether vectors may be null too, whatever the first rows say.

    Raises:
        SchemaError: `GV-676` a column whose types go into no common one, `GV-120` no type.
    """
    renames = columns or {}
    heads: dict[str, Any] = {}
    lacking: set[str] = set()
    widest: pa.Schema | None = None
    for number in range(len(source.files)):
        found = source.schema(number)
        if found is None and number:
            break
        if found is not None:
            widest = _wider(widest, found, source.files[number].path)
            lacking |= set(found.names) ^ set(heads) if number else set()
        names = None if found is None else [name for name in found.names if name not in heads]
        if names is None or names:
            heads |= _head(source, number, names)
    fields: dict[str, FieldType] = {}
    for name, head in heads.items():
        field = renames.get(name, name)
        if field is None:
            continue
        column = _as_widest(read_column(name, head), widest, name)
        kind = interop.infer_fields({name: column})[name]
        fields[field] = build.nullable(kind) if loose or name in lacking else kind
    types = {n: str(c.type if hasattr(c, "type") else c.dtype) for n, c in heads.items()}
    return FileSchema(fields, types)


def _wider(widest: pa.Schema | None, found: pa.Schema, path: str) -> pa.Schema:
    if widest is None:
        return found
    try:
        return pa.unify_schemas([widest, found], promote_options="permissive")
    except pa.ArrowException as error:
        for name in found.names:
            known = widest.field(name).type if name in widest.names else found.field(name).type
            if known != found.field(name).type:
                raise errors.drifted_file(path, name, known, found.field(name).type) from error
        raise AssertionError(f"{path} agrees with the others: {error}") from error


def _as_widest(column: Any, widest: pa.Schema | None, name: str) -> Any:
    if widest is None or not isinstance(column, pa.ChunkedArray) or pa.types.is_nested(column.type):
        return column
    kind = widest.field(name).type
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind)
    return column.cast(kind) if plain and column.type != kind else column


def _head(source: SourceFiles, number: int, names: Sequence[str] | None) -> dict[str, Any]:
    """Return the first rows of some columns of a file, or of all; none where it has no rows."""
    for piece in source.pieces(number):
        for table in source.read(piece, names):
            have = table.column_names if isinstance(table, pa.Table) else list(table)
            return {name: table[name][:HEAD_ROWS] for name in names or have}
    schema = source.schema(number)
    if schema is None:
        return {}
    return {name: pa.chunked_array([], schema.field(name).type) for name in names or ()}


class FileImport:
    """An import of files into a collection that may not be there yet; for the command line.

    Args:
        db: the database.
        name: of the collection.
        pattern: of the files.
        primary_key: needed for a new collection.
        columns: see `Collection.bulk_import`.

    Raises:
        QueryError: `GV-706`, a new collection without a key.
        GpuvecError: files whose columns do not fit.
    """

    def __init__(
        self,
        db: "Database",
        name: str,
        pattern: str,
        primary_key: str | None,
        columns: Mapping[str, str | None],
    ) -> None:
        self._db = db
        self.name = name
        source = find_files(db._engine, pattern, None)
        self._survey: Survey = source.survey()
        self._columns = columns
        self.is_new = name not in db
        found = infer_files(source, columns)
        if self.is_new and primary_key is None:
            raise errors.no_key_given(name, found.fields)
        self.schema = found.schema(str(primary_key)) if self.is_new else db[name].schema
        self._types = found.types
        self._rows = ImportRows(source, columns, self.schema)
        self._rows.check(self._survey)
        self.files = len(source.files)

    @property
    def row_count(self) -> int | None:
        """Rows of all files; None where only reading tells."""
        counts = [piece.rows for piece in self._survey.pieces]
        return None if any(count < 0 for count in counts) else sum(counts)

    def mapping(self) -> list[dict[str, str]]:
        """Return what each column becomes, for people."""
        lines = []
        for column, kind in self._types.items():
            field = self._rows.field(column)
            becomes = "left out" if field is None else repr(self.schema.fields.get(field, "JSON"))
            lines.append({"column": column, "type": kind, "field": field or "", "becomes": becomes})
        taken = {line["field"] for line in lines}
        return lines + [
            {"column": "", "type": "", "field": name, "becomes": f"{kind!r}, default or null"}
            for name, kind in self.schema.fields.items()
            if name not in taken
        ]

    @contextmanager
    def collection(self) -> Iterator["Collection"]:
        """Yield the collection; a new one goes again if the files turn out not to fit."""
        if not self.is_new:
            yield self._db[self.name]
            return
        items = self._db.create_collection(self.name, self.schema)
        try:
            yield items
        except _UNFIT:
            self._db.drop_collection(self.name)
            raise
