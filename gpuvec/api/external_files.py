"""The files of an external collection: found, compared with what they were, read where they lie."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gpuvec import errors
from gpuvec.api import interop
from gpuvec.api.source_files import Piece, SourceFiles
from gpuvec.columns import is_text
from gpuvec.ingest import validate_rows
from gpuvec.query import build
from gpuvec.rows import Rows
from gpuvec.schema import FieldType, Int64, Schema, String, Timestamp
from gpuvec.storage.outside import OutsideFile, kind_of_place, open_outside
from gpuvec.storage.records import ColumnStatistics

if TYPE_CHECKING:
    from gpuvec.api.engine import Engine


class ExternalFiles:
    """See `gpuvec.node.external.FilesOfOthers`.

    Args:
        engine: of the database, whose `storage_options` open the files.
        schema: returns what they are read with.
        name: returns the collection's name, for messages.
    """

    def __init__(
        self, engine: "Engine", schema: Callable[[], Schema], name: Callable[[], str]
    ) -> None:
        self._engine = engine
        self._schema = schema
        self._name = name

    def read(self, part: Mapping[str, Any], names: Sequence[str]) -> Rows:
        """See `FilesOfOthers.read`."""
        source = self._source(part)
        schema = self._schema()
        fields = {name: schema.fields[name] for name in names}
        key = build.free_name("row", fields)  # the rows are checked without their key
        asked = Schema({**fields, key: Int64(auto=True)}, key)
        found = []
        for group, first, rows in part["groups"]:
            piece = Piece(file=0, group=group, first_row=first, rows=rows, size_bytes=0)
            for table in source.read(piece, names):
                lacking = [name for name in names if name not in table.column_names]
                for name in lacking:
                    table = table.append_column(name, pa.nulls(table.num_rows))
                found.append(self._checked(asked, table, part["path"], first))
        return Rows.concat(found)

    def check(self, part: Mapping[str, Any]) -> None:
        """See `FilesOfOthers.check`: local files are looked at, buckets are not asked."""
        if kind_of_place(part["path"]) == "file":
            self._source(part).check(0)

    def _checked(self, asked: Schema, table: pa.Table, path: str, first: int) -> Rows:
        try:
            return validate_rows(asked, interop.to_rows(table, asked))
        except errors.GpuvecError as error:
            raise errors.bad_rows_in_file(path, first, error) from None

    def _source(self, part: Mapping[str, Any]) -> SourceFiles:
        file = OutsideFile(path=part["path"], size_bytes=part["size_bytes"], tag=part["tag"])
        outside, _ = open_outside(file.path, options_for(self._engine, file.path))
        return SourceFiles(outside, [file], self._told)

    def _told(self, path: str, now: OutsideFile | None) -> errors.GpuvecError:
        name = self._name()
        return errors.external_gone(path, name) if now is None else errors.external_changed(
            path, name
        )  # fmt: skip


def options_for(engine: "Engine", pattern: str) -> Mapping[str, Any] | None:
    """Return the database's `storage_options` where files are in a store of the same kind."""
    same = kind_of_place(pattern) == kind_of_place(engine.where)
    return engine.storage_options if same else None


def group_statistics(
    metadata: pq.FileMetaData, groups: Sequence[int], fields: Mapping[str, FieldType]
) -> dict[str, ColumnStatistics]:
    """Return the bounds of scalar columns in some row groups, where the footer says them.

    Only for types that are kept as they are: numbers with a point may hide a NaN from a footer.
    """
    types = metadata.schema.to_arrow_schema()
    found: dict[str, ColumnStatistics] = {}
    places = {metadata.schema.column(at).path: at for at in range(metadata.num_columns)}
    for name, kind in fields.items():
        at = places.get(name)
        if at is None or not _is_plain(types.field(name).type, kind):
            continue
        parts = [metadata.row_group(group).column(at).statistics for group in groups]
        if any(part is None or not part.has_null_count for part in parts):
            continue
        nulls = sum(part.null_count for part in parts)
        rows = sum(metadata.row_group(group).num_rows for group in groups)
        bounded = [part for part in parts if part.has_min_max]
        if len(bounded) < len(parts) and nulls < rows:
            continue
        found[name] = ColumnStatistics(
            low=min((part.min for part in bounded), default=None),
            high=max((part.max for part in bounded), default=None),
            null_count=nulls,
            row_count=rows,
        )
    return found


def fits(name: str, field: FieldType, kind: pa.DataType) -> bool:
    """Return whether a column of a type can be read as a field, as far as the type tells."""
    column = pa.array([], kind)
    if field.is_vector:
        if pa.types.is_fixed_size_list(kind):
            ones = pa.array([1] * kind.list_size).cast(kind.value_type, safe=False)
            column = pa.FixedSizeListArray.from_arrays(ones, type=kind)
        elif pa.types.is_primitive(kind) or is_text(kind):
            return False
    key = build.free_name("row", {name: field})
    asked = Schema({name: field, key: Int64(auto=True)}, key)
    try:
        validate_rows(asked, interop.to_rows(pa.table({name: column}), asked))
    except (errors.GpuvecError, pa.ArrowException):
        return False
    return True


def _is_plain(found: pa.DataType, kind: FieldType) -> bool:
    if isinstance(kind, String):
        return is_text(found)
    if isinstance(kind, Timestamp):
        return bool(found == kind.arrow_type())
    return bool(pa.types.is_integer(found)) and pa.types.is_integer(kind.arrow_type())
