"""`Collection`: a typed, versioned table with vector fields; also the frame of all its rows."""

import datetime
import html
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gpuvec import errors
from gpuvec.api.frame import Frame, frame
from gpuvec.api.importing import Importing
from gpuvec.api.indexes import Indexed
from gpuvec.api.inputs import rows_to_write
from gpuvec.api.interop import to_rows
from gpuvec.api.loading import Loaded
from gpuvec.api.source import SEGMENT_SCHEMA, CollectionSource, WriteResult, segment_table
from gpuvec.api.upkeep import Maintained
from gpuvec.api.versions import Versioned
from gpuvec.coord.root_coord import check_name
from gpuvec.expr.parse import as_filter
from gpuvec.expr.tree import Expr, col
from gpuvec.fields import with_default
from gpuvec.messages import OnConflict, WriteReply
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import (
    AddField,
    AddPartition,
    Change,
    DropField,
    DropPartition,
    SetTtl,
    Truncate,
)
from gpuvec.proxy.proxy import Target
from gpuvec.query.build import scan
from gpuvec.query.plan import Scan
from gpuvec.query.session import Session
from gpuvec.rows import Rows
from gpuvec.schema import FieldType, Schema, is_nullable
from gpuvec.types import Timestamp

if TYPE_CHECKING:
    from collections.abc import Sequence

_SPAN = re.compile(r"(\d+(?:\.\d+)?)\s*([smhd])\Z")
_SPAN_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


class Collection(Importing, Indexed, Loaded, Maintained, Versioned, Frame):
    """A typed table with vector fields; as a frame, all its rows at their newest version.

    Writes are atomic, and durable and readable when their call returns. Made by `Database`.
    """

    def __init__(self, source: CollectionSource, session: Session) -> None:
        super().__init__(source.scan(), session)
        self._source = source

    @property
    def plan(self) -> Scan:
        """All rows, with the fields of now."""
        return self._source.scan()

    @property
    def name(self) -> str:
        """The collection's present name."""
        return self._source.name

    @property
    def schema(self) -> Schema:
        """Its fields, as they are now."""
        return self._source.schema

    @property
    def partitions(self) -> list[str]:
        """The names of partitions that writes have made."""
        return sorted(self._state.partitions)

    # Writes

    def insert(
        self,
        data: Any,
        *,
        partition: str | None = None,
        on_conflict: str = "error",
        on_bad_vectors: str = "error",
    ) -> WriteResult:
        """Add rows.

        Args:
            data: pandas, polars, Arrow, anything with the Arrow stream protocol, a dict of arrays,
                a list of dicts.
            partition: where to put them; made at its first use.
            on_conflict: what to do with keys that exist: `error`, `skip` the row, or `replace` the
                old one.
            on_bad_vectors: what to do with NaN or infinite vectors: `error`, `drop` the row, or
                make it `null`.

        Raises:
            SchemaError: names field and row; nothing is written.
        """
        if on_conflict not in list(OnConflict):
            raise errors.bad_choice("on_conflict", on_conflict, OnConflict)
        reply = self._engine.proxy.insert(
            self._target(),
            self._rows(data),
            partition=self._partition(partition),
            on_conflict=OnConflict(on_conflict),
            on_bad_vectors=on_bad_vectors,
        )
        return self._result(reply)

    def upsert(
        self, data: Any, *, partition: str | None = None, on_bad_vectors: str = "error"
    ) -> WriteResult:
        """Add rows, or replace those with the same key; of rows with one key the last wins.

        Args:
            data: see `insert`.
            partition: where to put them; a replaced row may come from another.
            on_bad_vectors: see `insert`.
        """
        reply = self._engine.proxy.upsert(
            self._target(),
            self._rows(data),
            partition=self._partition(partition),
            on_bad_vectors=on_bad_vectors,
        )
        return self._result(reply)

    def update(self, values: Mapping[str, Any], *, filter: str | Expr) -> WriteResult:
        """Set fields of the rows that pass a filter.

        Args:
            values: field to a value or an expression of the old row: `{"price": gv.col("price") *
                0.9}`.
            filter: text or an expression.
        """
        if not values:
            raise errors.nothing_to_set()
        condition = as_filter(filter)
        return self._result(self._engine.proxy.update(self._target(), values, condition))

    def delete(
        self, frame: Any = None, *, filter: str | Expr | None = None, ids: Any = None
    ) -> WriteResult:
        """Delete rows. Give exactly one argument.

        Args:
            frame: a frame, or other rows, with the primary key; rows with these keys go.
            filter: text or an expression; rows that pass it go.
            ids: primary keys.
        """
        given = {"frame": frame, "filter": filter, "ids": ids}
        named = [name for name, value in given.items() if value is not None]
        if isinstance(frame, str | Expr):
            raise errors.filter_not_frame(str(frame))
        if len(named) != 1:
            raise errors.one_of_needed(given, named)
        target = self._target()
        if filter is not None:
            reply = self._engine.proxy.delete(target, condition=as_filter(filter))
        else:
            keys = self._keys_of(frame) if ids is None else self._keys(ids)
            reply = self._engine.proxy.delete(target, keys=keys)
        return self._result(reply)

    # Definition: one entry each, no row is rewritten

    def add_field(self, name: str, type: FieldType, default: Any = None) -> None:
        """Add a field; rows already there have its default, or null; errors as `with_default`."""
        kind = type if default is None else with_default(type, default)
        self.schema.with_field(name, kind)  # checks the name

        def decide(state: CollectionState, ts: Timestamp) -> list[Change]:
            if name in state.schema.fields:
                raise errors.field_exists(name, where=self.name)
            if not is_nullable(kind) and getattr(kind, "default", None) is None:
                raise errors.field_needs_filling(name)
            return [AddField(name=name, field_type=kind, ts=ts)]

        self._change(decide)

    def drop_field(self, name: str) -> None:
        """Drop a field with its values."""

        def decide(state: CollectionState, ts: Timestamp) -> list[Change]:
            if name not in state.schema.fields:
                raise errors.unknown_field(
                    name, state.schema.fields, where=f'collection "{self.name}"'
                )
            for role, key in {
                "primary key": state.schema.primary_key,
                "partition key": state.schema.partition_key,
            }.items():
                if name == key:
                    raise errors.field_in_use(name, role)
            return [DropField(name=name, ts=ts)]

        self._change(decide)

    def partition(self, name: Any) -> Frame:
        """Return the rows of one partition; with a partition key, those with this value of it."""
        key = self.schema.partition_key
        if key is not None:
            return self.filter(col(key) == name)
        self._check_partition(self._state, name)
        return Frame(scan(self._source.only(name)), self._session)

    def drop_partition(self, name: Any) -> None:
        """Delete all rows of a partition, and its name."""
        key = self.schema.partition_key
        if key is not None:
            self.delete(filter=col(key) == name)
            return

        def decide(state: CollectionState, ts: Timestamp) -> list[Change]:
            self._check_partition(state, name)
            return [DropPartition(name=name, ts=ts)]

        self._change(decide)

    def truncate(self) -> None:
        """Delete all rows; fields and partitions stay."""
        self._change(lambda _, ts: [Truncate(ts=ts)])

    def set_ttl(self, ttl: float | str | datetime.timedelta | None) -> None:
        """Let rows vanish some time after they were written; a longer time brings some back.

        Args:
            ttl: seconds, a timedelta, or text such as `7d`, `12h`, `30m`, `45s`; None: never.
        """
        seconds = None if ttl is None else seconds_of(ttl)
        if ttl is not None and not seconds:
            raise errors.bad_ttl(ttl)
        self._change(lambda _, ts: [SetTtl(ttl_s=seconds, ts=ts)])

    def flush(self) -> None:
        """Save rows that are only in the log in segment files. It happens by itself too."""
        self._engine.flush(self._id)

    # Looking at it

    def stats(self) -> dict[str, Any]:
        """Return rows, segments, bytes, indexes, partitions and version, from metadata.

        Of a collection that reads files in place, `external` is their path, URL or glob.
        `maintenance` tells of this process: writes that waited for flushes or compaction and how
        long, what was compacted, and how far compaction is behind, from 1 on too far.
        """
        table = segment_table(self._engine, self._id)
        rows, deleted = table["rows"], table["deleted"]
        return {
            "rows": self.count(),
            "segments": len(table["segment_id"]),
            "stored_rows": sum(rows),
            "deleted_rows": sum(deleted),
            "size_bytes": sum(table["size_bytes"]),
            "indexes": {report.field: report.chosen for report in self._index_reports()},
            "index_bytes": sum(report.size_bytes for report in self._index_reports()),
            "partitions": len(self.partitions),
            "version": self.version,
            "maintenance": self._engine.maintenance.figures(self._id),
            **self._origin(),
        }

    def segments(self) -> Frame:
        """Return one row per segment: id, state, channel, partition, rows, deleted, bytes, indexes.

        States: `growing` and `sealed` segments are in the log and in memory, `flushed` ones in
        files, `indexed` ones too, with every index; `history` is deleted rows for older versions.
        """
        return frame(pa.table(segment_table(self._engine, self._id), schema=SEGMENT_SCHEMA))

    def __repr__(self) -> str:
        try:
            return self._text()
        except errors.GpuvecError as error:  # closed, dropped, out of reach: a repr says so
            return f"Collection ({error.message})"

    def _repr_html_(self) -> str:
        try:
            return self._html()
        except errors.GpuvecError:
            return f"<p>{html.escape(repr(self))}</p>"

    def _text(self) -> str:
        return "\n".join(
            [f"{self._title()}, {self.count():,} rows", repr(self.schema), *self._index_lines()]
        )

    def _title(self) -> str:
        return f'Collection "{self.name}"'

    def _origin(self) -> dict[str, str]:
        """Return the files that an external collection reads."""
        external = self._state.external
        return {} if external is None else {"external": external.pattern}

    def _index_lines(self) -> list[str]:
        return [report.line for report in self._index_reports()]

    def _html(self) -> str:
        stats = self.stats()
        parts = f"{stats['segments']} segment{'' if stats['segments'] == 1 else 's'}"
        facts = f"{stats['rows']:,} rows, {parts}, {stats['size_bytes']:,} bytes"
        text = "".join(f"<br>{html.escape(line)}" for line in self._index_lines())
        head = f"<b>{html.escape(self._title())}</b>: {facts}"
        return f"<p>{head}{text}</p>{super()._repr_html_()}"

    # Inside

    @property
    def _state(self) -> CollectionState:
        return self._engine.state(self._id)

    def _target(self) -> Target:
        state = self._state
        return Target(
            collection_id=self._id, schema=state.schema, schema_version=state.schema_version
        )

    def _rows(self, data: Any) -> Rows:
        return rows_to_write(data, self.schema)

    def _result(self, reply: WriteReply) -> WriteResult:
        keys = reply.keys if reply.keys is not None else pa.array([], pa.null())
        return WriteResult(reply.version, reply.inserted, reply.updated, reply.deleted, keys)

    def _change(self, decide: Any) -> None:
        self._engine.change(self._id, decide)

    def _partition(self, name: str | None) -> str:
        """Return a partition to write to; a new one is made first."""
        if name is None:
            return ""
        key = self.schema.partition_key
        if key is not None:
            raise errors.partition_not_allowed(key)
        check_name("a partition name", name)
        if name not in self._state.partitions:

            def decide(state: CollectionState, ts: Timestamp) -> "Sequence[Change]":
                return [] if name in state.partitions else [AddPartition(name=name, ts=ts)]

            self._change(decide)
        return name

    def _check_partition(self, state: CollectionState, name: Any) -> None:
        if name not in state.partitions:
            raise errors.unknown_partition(str(name), state.partitions, where=self.name)

    def _keys(self, ids: Any) -> pa.Array:
        key = self.schema.primary_key
        kind = self.schema[key].arrow_type()
        if isinstance(ids, str | bytes) or not hasattr(ids, "__iter__"):
            ids = [ids]
        try:
            found = ids if isinstance(ids, pa.Array | pa.ChunkedArray) else pa.array(_plain(ids))
            if isinstance(found, pa.ChunkedArray):
                found = found.combine_chunks()
            if pa.types.is_integer(kind) != pa.types.is_integer(found.type) and len(found):
                raise errors.ids_do_not_fit(key, self.schema[key].KIND, f"got {found.type}")
            return found.cast(kind).drop_null()
        except (pa.ArrowException, TypeError, ValueError, OverflowError) as error:
            if isinstance(error, errors.GpuvecError):
                raise
            raise errors.ids_do_not_fit(key, self.schema[key].KIND, str(error)) from None

    def _keys_of(self, rows: Any) -> pa.Array:
        key = self.schema.primary_key
        if isinstance(rows, Frame):
            return self._keys(rows.select(key).to_arrow()[key])
        table = to_rows(rows).table
        if key not in table.column_names:
            raise errors.unknown_field(key, table.column_names, where="the rows to delete")
        return self._keys(table[key])


def _plain(ids: Any) -> Any:
    return ids if isinstance(ids, np.ndarray) else list(ids)


def seconds_of(span: float | str | datetime.timedelta) -> float | None:
    """Return the seconds of a time span, such as `7d`; None when it is none, or below zero."""
    found = -1.0
    if isinstance(span, datetime.timedelta):
        found = span.total_seconds()
    elif isinstance(span, str):
        match = _SPAN.match(span.strip())
        found = float(match[1]) * _SPAN_SECONDS[match[2]] if match else -1.0
    elif type(span) in (int, float):
        found = float(span)
    return found if 0 <= found < float("inf") else None
