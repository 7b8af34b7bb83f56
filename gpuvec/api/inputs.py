"""What a frame can be made of, and what it can be asked with."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, cast

import pyarrow as pa

from gpuvec import errors
from gpuvec.api import interop
from gpuvec.api.inference import infer_fields
from gpuvec.dynamic import DYNAMIC_COLUMN
from gpuvec.expr import json_values
from gpuvec.ingest import validate_rows
from gpuvec.query import build, build_search
from gpuvec.query.memory_source import MemorySource, new_segment_id
from gpuvec.query.plan import Columns, Plan, Project, QueryArray, QueryFrame, Source
from gpuvec.rows import DenseVectors, Rows, SparseVectors, VectorColumn
from gpuvec.schema import JSON, FieldType, Int64, Schema, SparseVector
from gpuvec.segment.view import FieldStatistics, Snapshot
from gpuvec.types import SegmentId

ARRAY_COLUMN = "vector"  # the column of a 2-D array
INFER_ROWS = 1000  # of files, from which their field types follow


def source_of(data: Any, primary_key: str | None) -> Source:
    """Return data as a source of rows; files are read only when a query needs them."""
    if isinstance(data, str | os.PathLike):
        return FileSource(os.fspath(data), primary_key)
    if getattr(data, "ndim", None) == 2 and not hasattr(data, "columns"):
        data = {ARRAY_COLUMN: data}
    rows = interop.to_rows(data)
    schema = _schema_of(rows, primary_key)
    return MemorySource(_columns(schema, primary_key), validate_rows(schema, rows))


def _schema_of(rows: Rows, primary_key: str | None) -> Schema:
    """Return the schema that follows from rows; without a key, with one that no row has."""
    if primary_key is not None:
        return interop.infer_schema(rows, primary_key)
    fields = infer_fields({n: _column(rows, n) for n in rows.order})
    name = build.free_name("row", fields)
    return Schema({**fields, name: Int64(auto=True)}, name)


def _column(rows: Rows, name: str) -> Any:
    return rows.vectors[name] if name in rows.vectors else rows.table.column(name)


def _columns(schema: Schema, primary_key: str | None) -> Columns:
    fields = dict(schema.fields)
    if primary_key is None:
        del fields[schema.primary_key]
    return Columns(fields, primary_key)


class FileSource:
    """Files that a path, URL or glob names; Parquet row groups are read one by one."""

    name = ""

    def __init__(
        self, pattern: str, primary_key: str | None, options: Mapping[str, Any] | None = None
    ) -> None:
        from gpuvec.api.files import open_files  # brings pyarrow.dataset, and that pandas

        self.pattern = pattern
        self.primary_key = primary_key
        dataset = open_files(pattern, options)
        head = interop.to_rows(dataset.head(INFER_ROWS))
        schema = _schema_of(head, primary_key)
        fields = {
            name: kind if name == schema.primary_key else build.nullable(kind)
            for name, kind in schema.fields.items()
        }
        self._checked = Schema(fields, schema.primary_key)
        self.schema = _columns(self._checked, primary_key)
        self._views = tuple(
            FileView(new_segment_id(), piece, self._checked)
            for fragment in dataset.get_fragments()
            for piece in _pieces(fragment)
        )

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Source.snapshot`."""
        schema = cast(Schema, self.schema)
        yield Snapshot(name="", version=0, schema=schema, segments=cast(Any, self._views))


def _pieces(fragment: Any) -> list[Any]:
    split = getattr(fragment, "split_by_row_group", None)
    return [fragment] if split is None else list(split())


@dataclass(eq=False, slots=True)
class FileView:
    """One row group of a file as a segment; see `SegmentView`. Nothing that is read is kept."""

    segment_id: SegmentId
    fragment: Any
    checked: Schema
    generation: int = 0
    transient: bool = True
    _num_rows: int = field(default=-1, repr=False)

    @property
    def num_rows(self) -> int:
        """See `SegmentView.num_rows`."""
        if self._num_rows < 0:
            groups = getattr(self.fragment, "row_groups", None)
            rows = self.fragment.count_rows() if groups is None else sum(g.num_rows for g in groups)
            self._num_rows = int(rows)
        return self._num_rows

    def keep(self) -> None:
        """See `SegmentView.keep`; every row is visible."""

    def scalars(self, names: Sequence[str]) -> pa.Table:
        """See `SegmentView.scalars`."""
        return self._read(names).table

    def vectors(self, name: str) -> VectorColumn:
        """See `SegmentView.vectors`."""
        return self._read([name]).vectors[name]

    def statistics(self, name: str) -> FieldStatistics | None:
        """See `SegmentView.statistics`; nothing is known."""
        return None

    def index(self, name: str) -> None:
        """See `SegmentView.index`; there is none."""

    def _read(self, names: Sequence[str]) -> Rows:
        fields = {name: self.checked.fields[name] for name in names}
        key = build.free_name("row", fields)
        schema = Schema({**fields, key: Int64(auto=True)}, key)
        table = self.fragment.to_table(columns=list(names))
        return validate_rows(schema, interop.to_rows(table, schema))


def query_set(
    queries: Any, columns: Columns, name: str, query_on: str | None, query_id: str | None
) -> QueryArray | QueryFrame:
    """Return queries for a field, checked.

    Args:
        queries: vectors, or rows with vectors.
        columns: of the frame that is searched.
        name: the field.
        query_on: the vector column of a query frame.
        query_id: the column that names its queries.

    Raises:
        QueryError, SchemaError, NotFoundError: see `Frame.search`.
    """
    kind = columns.fields[name]
    if _is_plain_array(queries):
        if query_on is not None or query_id is not None:
            given = {"query_on": query_on, "query_id": query_id}
            raise errors.only_for_frames([n for n, v in given.items() if v is not None])
        if isinstance(queries, SparseVectors) and isinstance(kind, SparseVector):
            return QueryArray(vectors=queries)
        found = interop.to_queries(queries, kind, field=name, where=columns.name)
        sparse = isinstance(found, SparseVectors)
        return QueryArray(vectors=found if sparse else DenseVectors(found))
    from gpuvec.api.frame import frame

    asked = frame(queries)
    return build_search.query_frame(asked.plan, name, kind, query_on, query_id, columns.name)


def rows_to_write(data: Any, schema: Schema | None) -> Rows:
    """Return rows for a collection; a frame's with their dynamic columns, each as JSON.

    Args:
        data: a frame, or what `gpuvec.api.tables.to_rows` takes.
        schema: of the collection; None: it is yet to be inferred.

    Raises:
        QueryError: `GV-166`, dynamic columns for a collection that has none.
    """
    from gpuvec.api.frame import Frame
    from gpuvec.api.result import Result

    if isinstance(data, Result):
        return _with_json(data.rows, data.schema.fields)
    if not isinstance(data, Frame):
        return interop.to_rows(data, schema)
    if DYNAMIC_COLUMN not in data.plan.columns.hidden or _is_selected(data.plan):
        return _with_json(data.collect().rows, data.plan.columns.fields)
    rows = data.select(*data.columns, DYNAMIC_COLUMN).collect().rows
    objects = rows.table[DYNAMIC_COLUMN].combine_chunks()
    rows = _with_json(rows.select(data.columns), data.plan.columns.fields)
    if objects.null_count == len(rows):
        return rows
    if schema is not None and not schema.dynamic:
        raise errors.dynamic_columns_left()
    names = set().union(*map(json.loads, objects.drop_null().unique().to_pylist()))
    table, extra = rows.table, sorted(names.difference(data.columns))
    for name in extra:
        texts = json_values.values(json_values.find(objects, [name]), "text")
        table = table.append_column(name, pa.ExtensionArray.from_storage(pa.json_(), texts))
    return Rows(table, rows.vectors, (*data.columns, *extra))


def _with_json(rows: Rows, fields: Mapping[str, FieldType]) -> Rows:
    """Return rows whose JSON columns say so; otherwise their text would be taken for plain text."""
    table = rows.table
    for at, name in enumerate(table.column_names):
        if isinstance(fields[name], JSON):
            table = table.set_column(at, name, table[name].cast(pa.string()).cast(pa.json_()))
    return Rows(table, rows.vectors, rows.order)


def _is_selected(plan: Plan) -> bool:
    """Return whether someone chose the columns by name."""
    return isinstance(plan, Project) or any(map(_is_selected, plan.inputs[:1]))


def readable_twice(data: Any) -> Any:
    """Return data that can be read more than once: streams and queries are run."""
    from gpuvec.api.frame import Frame

    if isinstance(data, Frame):
        return rows_to_write(data, None)
    library = type(data).__module__.partition(".")[0]
    for name, run in (("dask", "compute"), ("dask_expr", "compute"), ("polars", "collect")):
        if library == name and hasattr(data, run):
            return getattr(data, run)()
    if hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__len__"):
        with suppress(pa.ArrowInvalid, TypeError):  # it is refused where it is read
            return pa.table(data)
    return data


def checked_names(call: str, names: Sequence[Any]) -> Sequence[str]:
    """Return the names of columns that a method was given.

    Raises:
        QueryError: `GV-371`, something that is no name, such as an expression.
    """
    for name in names:
        if not isinstance(name, str):
            raise errors.names_only(call, name)
    return names


def _is_plain_array(queries: Any) -> bool:
    """Return whether queries are vectors without a table around them."""
    from gpuvec.api.frame import Frame

    if isinstance(queries, Frame | Rows | str | os.PathLike):
        return False
    first = queries[0] if isinstance(queries, list | tuple) and queries else queries
    if isinstance(first, Mapping):  # a sparse vector has numbers for keys, a row has names
        return not any(isinstance(key, str) for key in first)
    if isinstance(queries, pa.Array | pa.ChunkedArray):
        return True
    named = hasattr(queries, "columns") or hasattr(queries, "column_names")
    streams = hasattr(queries, "__arrow_c_stream__") and not hasattr(queries, "__len__")
    return not (named or streams)
