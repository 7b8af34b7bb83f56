"""External collections: Parquet files of others, read in place and followed by `refresh`."""

import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import groupby
from typing import Any, NoReturn

import pyarrow as pa

from gpuvec import errors
from gpuvec.api.collection import Collection
from gpuvec.api.engine import Engine
from gpuvec.api.external_files import ExternalFiles, fits, group_statistics, options_for
from gpuvec.api.file_schema import infer_files
from gpuvec.api.import_rows import ImportRows
from gpuvec.api.source import CollectionSource, WriteResult
from gpuvec.api.source_files import Piece, SourceFiles
from gpuvec.meta.catalog import CollectionState, SegmentRecord, WriteSummary
from gpuvec.meta.changes import Change
from gpuvec.meta.changes_import import FollowFiles
from gpuvec.node.channel import CHANNEL
from gpuvec.node.delegator import ShardDelegator
from gpuvec.node.external import EXTERNAL
from gpuvec.node.import_keys import ImportedKeys
from gpuvec.node.loader import Loader
from gpuvec.schema import Schema
from gpuvec.segment.view import Snapshot
from gpuvec.storage.outside import kind_of_place, open_outside
from gpuvec.types import RequestId, Timestamp, Version

SEGMENT_BYTES = 1 << 30  # of rows that one index covers
_KEY_BYTES = 1 << 30  # of keys compared at once

# What would change rows or fields; all else reads, or changes only what is ours.
WRITES = (
    "insert", "upsert", "update", "delete", "bulk_import", "truncate", "add_field", "drop_field",
    "drop_partition", "set_ttl", "restore", "compact",
)  # fmt: skip


class ExternalCollection(Collection):
    """A collection whose rows lie in Parquet files of others; it follows them with `refresh`."""

    def refresh(self) -> WriteResult:
        """Take over what the files are now: new, changed and vanished ones make a new version.

        Files that are what they were keep their segments and indexes. Versions before a file that
        changed or vanished cannot be read any more.

        Returns:
            Rows of new and changed files as `inserted`, those of changed and vanished ones as
            `deleted`; the present version where nothing changed.

        Raises:
            SchemaError: `GV-676` a file with other columns or types, `GV-663` a key that comes
                twice, a key that is null. The collection stays as it was.
            NotFoundError: `GV-703`, no file is left.
        """
        state = self._state
        assert state.external is not None
        source = _find(self._engine, state.external.pattern)
        files = {_identity(file.to_json()): number for number, file in enumerate(source.files)}
        held = {name: _identity(r.files[EXTERNAL]) for name, r in state.segments.items()}
        kept = [record for name, record in state.segments.items() if held[name] in files]
        gone = [record for name, record in state.segments.items() if held[name] not in files]
        fresh = [number for file, number in files.items() if file not in held.values()]
        added = list(_segments(self._engine, source, fresh, state.schema, state.schema_version))
        if not added and not gone:
            return _result(self.version, 0, 0, state)
        _check_keys([*kept, *added], self._engine, self.name, state.schema, source)
        pattern, found = state.external.pattern, list[FollowFiles]()

        def decide(now: CollectionState, _: ShardDelegator) -> Sequence[Change]:
            if now.segments.keys() != state.segments.keys():
                return []  # another thread was faster
            change = _follow(pattern, added, gone, self._engine.stamp())
            found.append(change)
            return [change]

        def fill(shard: ShardDelegator, loader: Loader) -> None:
            shard.replace({record.segment_id for record in gone}, [])
            shard.swap((), [loader.load(record) for record in found[0].added])

        with self._engine.owning(self._id) as (channel, generation):
            if not channel.channels[0].replace(decide, fill, generation):
                return self.refresh()
        self._engine.builds.tend()
        write = found[0].write
        return _result(write.ts, write.inserted, write.deleted, state)

    def _title(self) -> str:
        external = self._state.external
        assert external is not None
        return f"{super()._title()}, read in place from {external.pattern}"


class ExternalSource(CollectionSource):
    """The rows of an external collection; files on this machine are looked at before each read.

    In a bucket a file is looked at when something is read of it, not when all that a query needs is
    in memory already.
    """

    @property
    def spread(self) -> None:
        """None: the files are looked at, and read, where the query runs."""
        return

    @contextmanager
    def snapshot(self) -> Iterator[Snapshot]:
        """See `Source.snapshot`; `GV-671` and `GV-672` name a file that is not what it was."""
        with super().snapshot() as found:
            self._check()
            yield found

    def _check(self) -> None:
        channel = self.engine.channel(self.collection_id)
        parts = [record.files[EXTERNAL] for record in channel.state.segments.values()]
        files = ExternalFiles(self.engine, lambda: channel.state.schema, lambda: self.name)
        for part in {part["path"]: part for part in parts}.values():
            files.check(part)


def _refused(call: str) -> Callable[..., NoReturn]:
    def refuse(self: ExternalCollection, *_: Any, **__: Any) -> NoReturn:
        raise errors.external_read_only(self.name, call)

    refuse.__name__ = call
    refuse.__doc__ = f"Refuse: the rows lie in files of others. See `Collection.{call}`."
    return refuse


for _call in WRITES:
    setattr(ExternalCollection, _call, _refused(_call))


def create_external(engine: Engine, name: str, pattern: str, primary_key: str) -> str:
    """Create a collection of the rows of Parquet files; return its id. No row is copied.

    Raises:
        NotFoundError: `GV-703`, no file matches.
        SchemaError: see `ExternalCollection.refresh`; `GV-121` no such key, `GV-120` no type.
        UnsupportedError: `GV-673`, files that are not Parquet.
    """
    source = _find(engine, pattern)
    if kind_of_place(pattern) == "file":  # wherever the next process runs
        pattern = open_outside(pattern)[1]
    schema = infer_files(source, loose=True).schema(primary_key)
    numbers = range(len(source.files))
    added = list(_segments(engine, source, numbers, schema, 1))
    _check_keys(added, engine, name, schema, source)
    return engine.collections.create(name, schema, lambda ts: [_follow(pattern, added, [], ts)])


def _find(engine: Engine, pattern: str) -> SourceFiles:
    outside, inner = open_outside(pattern, options_for(engine, pattern))
    files = outside.find(inner)
    if not files:
        raise errors.no_such_file(pattern, what="file")
    for file in files:
        if not file.path.lower().endswith((".parquet", ".pq")):
            raise errors.external_needs_parquet(file.path)
    return SourceFiles(outside, files)


def _segments(
    engine: Engine, source: SourceFiles, numbers: Sequence[int], schema: Schema, version: int
) -> Iterator[SegmentRecord]:
    """Yield segments of files: adjacent row groups of about `SEGMENT_BYTES`."""
    for number in numbers:
        _check_fields(source, number, schema)
        size = 0
        cuts: list[tuple[int, Piece]] = []
        for piece in source.pieces(number):
            cuts.append((size // SEGMENT_BYTES, piece))
            size += piece.size_bytes
        for _, group in groupby(cuts, key=lambda cut: cut[0]):
            yield _segment(engine, source, number, [piece for _, piece in group], schema, version)


def _segment(
    engine: Engine,
    source: SourceFiles,
    number: int,
    pieces: Sequence[Piece],
    schema: Schema,
    version: int,
) -> SegmentRecord:
    file = source.files[number]
    groups = [piece.group for piece in pieces]
    scalars = {name: kind for name, kind in schema.fields.items() if not kind.is_vector}
    bounds = group_statistics(source.metadata(number), groups, scalars)
    part = {
        **file.to_json(),
        "primary_key": schema.primary_key,
        "groups": [[piece.group, piece.first_row, piece.rows] for piece in pieces],
        "statistics": {name: found.to_json() for name, found in bounds.items()},
    }
    return SegmentRecord(
        segment_id=engine.mint(),
        channel=CHANNEL,
        partition="",
        schema_version=version,
        row_count=sum(piece.rows for piece in pieces),
        size_bytes=sum(piece.size_bytes for piece in pieces),
        first_ts=0,
        last_ts=0,
        files={EXTERNAL: part},
        ts=0,
    )


def _check_fields(source: SourceFiles, number: int, schema: Schema) -> None:
    """Refuse a file with other columns than the collection's, or of types that do not go in."""
    path, found = source.files[number].path, source.schema(number)
    assert found is not None, "only Parquet files get here"
    for name in found.names:
        if name not in schema.fields:
            raise errors.drifted_file(path, name, "absent", found.field(name).type)
    if schema.primary_key not in found.names:
        kind = schema[schema.primary_key].KIND
        raise errors.drifted_file(path, schema.primary_key, kind, "missing")
    for name in found.names:
        if not fits(name, schema.fields[name], found.field(name).type):
            raise errors.drifted_file(path, name, schema.fields[name], found.field(name).type)


def _check_keys(
    records: Sequence[SegmentRecord],
    engine: Engine,
    name: str,
    schema: Schema,
    source: SourceFiles,
) -> None:
    """Refuse keys that are null, or come twice."""
    files = ExternalFiles(engine, lambda: schema, lambda: name)
    loader = Loader(engine.store, schema.primary_key, outside=files)
    segments = [loader.load(record).rows for record in records]
    found = ImportedKeys(segments, _KEY_BYTES, unique=False)
    count, key = found.find_losers(first_wins=True)
    if count:
        places = ImportRows(source, {}, schema).locate(key)
        raise errors.duplicate_in_files(schema.primary_key, key, places, count, external=True)


def _identity(file: Mapping[str, Any]) -> tuple[str, int, str]:
    return file["path"], file["size_bytes"], file["tag"]


def _result(version: Version, inserted: int, deleted: int, state: CollectionState) -> WriteResult:
    none = pa.array([], state.schema[state.schema.primary_key].arrow_type())
    return WriteResult(version, inserted, 0, deleted, none)


def _follow(
    pattern: str, added: Sequence[SegmentRecord], gone: Sequence[SegmentRecord], ts: Timestamp
) -> FollowFiles:
    return FollowFiles(
        pattern=pattern,
        added=tuple(replace(record, ts=ts, first_ts=ts, last_ts=ts) for record in added),
        removed=tuple(record.segment_id for record in gone),
        write=WriteSummary(
            ts=ts,
            request_id=RequestId(secrets.token_hex(16)),
            operation="refresh",
            inserted=sum(record.row_count for record in added),
            updated=0,
            deleted=sum(record.row_count for record in gone),
            size_bytes=0,
        ),
    )
