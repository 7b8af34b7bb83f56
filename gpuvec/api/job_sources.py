"""What a batch job reads, described so that any process reads the same rows later.

Collections stay at the version that they had, files must stay what they were, rows in memory are
written beside the job.
"""

import os
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import pyarrow as pa

from gpuvec import errors
from gpuvec.api.engine import Engine
from gpuvec.api.inputs import FileSource
from gpuvec.api.past import SourceAt
from gpuvec.api.source import CollectionSource
from gpuvec.device.arrays import to_host
from gpuvec.query.build import scan
from gpuvec.query.collect import stream_rows
from gpuvec.query.memory_source import MemorySource
from gpuvec.query.optimize import source_scans
from gpuvec.query.plan import Plan, Source
from gpuvec.query.plan_json import Json, columns_from_json, columns_to_json
from gpuvec.query.session import Session
from gpuvec.rows import DenseVectors, Rows, VectorColumn
from gpuvec.storage import keys
from gpuvec.storage.outside import kind_of_place, open_outside
from gpuvec.types import RequestId, Version
from gpuvec.wal.record import WriteRecord, decode_records, encode_records

_VECTORS = "vector"  # the column of queries in memory


def engine_of(plan: Plan) -> Engine:
    """Return the engine of the database whose collections a plan reads.

    Raises:
        UnsupportedError: `GV-771`, it reads none, or of several databases.
    """
    sources = source_scans(plan).values()
    engines = {id(s.engine): s.engine for s in sources if isinstance(s, CollectionSource)}
    if not engines:
        raise errors.job_refused(
            "it reads no collection, and jobs are kept with a database",
            hint="frame.to_parquet(path) writes its rows",
        )
    if len(engines) > 1:
        raise errors.job_refused(
            "it reads collections of several databases",
            hint="copy what is needed into one of them, or write one frame with to_parquet first",
        )
    return next(iter(engines.values()))


def is_collection(source: Source) -> bool:
    """Return whether the rows of a source may be laid out anew while a job runs."""
    return isinstance(source, CollectionSource)


class JobSources:
    """Keeps and finds what one job reads; see `gpuvec.query.plan_json.Keeper`.

    Args:
        engine: of the job's database.
        session: that reads rows to be kept.
        job_id: of the job.

    Attributes:
        versions: of the collections that were kept, by id and version, held while this object
            lives.
    """

    def __init__(self, engine: Engine, session: Session, job_id: str) -> None:
        self._engine = engine
        self._session = session
        self._job_id = job_id
        self._written = 0
        self._now: dict[str, Version] = {}
        self.versions: dict[tuple[str, Version], SourceAt] = {}

    def keep_source(self, source: Source) -> Json:
        """See `Keeper.keep_source`."""
        if isinstance(source, CollectionSource):
            return self._keep_collection(source)
        if isinstance(source, FileSource):
            return self._keep_files(source)
        if not isinstance(source, MemorySource):
            raise errors.job_refused(
                f"it reads a {type(source).__name__}",
                hint="collections, files and rows in memory can be read by jobs",
            )
        node = scan(source)
        rows = Rows.concat(list(stream_rows(node, self._session, None)) or [_no_rows(node.columns)])
        columns = columns_to_json(node.columns)
        return {"kind": "rows", "columns": columns, "file": self._write(rows)}

    def keep_vectors(self, vectors: VectorColumn) -> Json:
        """See `Keeper.keep_vectors`."""
        return {"file": self._write(Rows(pa.table({}), {_VECTORS: vectors}, (_VECTORS,)))}

    def _keep_collection(self, source: CollectionSource) -> Json:
        collection_id = source.collection_id
        version = source.version if isinstance(source, SourceAt) else self._newest(collection_id)
        if (collection_id, version) not in self.versions:
            self.versions[collection_id, version] = SourceAt(self._engine, collection_id, version)
        found = {"kind": "collection", "id": collection_id, "version": version}
        return {**found, "partition": source.partition}

    def _newest(self, collection_id: str) -> Version:
        """Return one version for all of a plan that reads the collection as it is now."""
        if collection_id not in self._now:
            self._now[collection_id] = self._engine.snapshot(collection_id).version
        return self._now[collection_id]

    def _keep_files(self, source: FileSource) -> Json:
        pattern = source.pattern
        if kind_of_place(pattern) == "file" and "://" not in pattern:
            pattern = os.path.abspath(os.path.expanduser(pattern))
        files = [file.to_json() for file in _find(pattern)]
        return {
            "kind": "files", "pattern": pattern, "primary_key": source.primary_key, "files": files
        }  # fmt: skip

    def _write(self, rows: Rows) -> str:
        """Write rows beside the job; return the name of the file."""
        name = f"{self._written:03d}.arrow"
        self._written += 1
        held = Rows(rows.table, {n: _on_host(v) for n, v in rows.vectors.items()}, rows.order)
        record = WriteRecord(ts=0, request_id=RequestId(""), operation="job", rows=held)
        self._engine.store.put(keys.job_data(self._job_id, name), encode_records([record]))
        return name

    def _read(self, name: str) -> Rows:
        data = self._engine.store.get(keys.job_data(self._job_id, name))
        (record,) = decode_records(data)
        assert record.rows is not None
        return record.rows

    def source(self, data: Mapping[str, Any]) -> Source:
        """See `Keeper.source`.

        Raises:
            ConflictError: `GV-773`, files that are not what they were.
            SnapshotExpiredError: `GV-640`, a version that is no longer kept.
        """
        if data["kind"] == "collection":
            self._engine.name_of(data["id"])  # reads the catalog, if nobody has yet
            return SourceAt(self._engine, data["id"], data["version"], data["partition"])
        if data["kind"] == "rows":
            return MemorySource(columns_from_json(data["columns"]), self._read(data["file"]))
        self._check_files(data["pattern"], data["files"])
        return FileSource(data["pattern"], data["primary_key"])

    def vectors(self, data: Mapping[str, Any]) -> VectorColumn:
        """See `Keeper.vectors`."""
        return self._read(data["file"]).vectors[_VECTORS]

    def _check_files(self, pattern: str, before: Iterable[Mapping[str, Any]]) -> None:
        now = {file.path: file.to_json() for file in _find(pattern)}
        for file in before:
            found = now.pop(file["path"], None)
            if found != dict(file):
                what = "is gone" if found is None else "was written again"
                raise errors.job_input_changed(self._job_id, file["path"], what)
        for path in now:
            raise errors.job_input_changed(self._job_id, path, "has come")


def _find(pattern: str) -> list[Any]:
    outside, inner = open_outside(pattern)
    return outside.find(inner)


def _on_host(column: VectorColumn) -> VectorColumn:
    if isinstance(column, DenseVectors):
        return DenseVectors(np.ascontiguousarray(to_host(column.values)), column.valid)
    return column


def _no_rows(columns: Any) -> Rows:
    from gpuvec.query.execute import empty_part

    return empty_part(columns).to_rows(columns.visible, columns.vectors)
