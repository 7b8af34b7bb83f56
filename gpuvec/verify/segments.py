"""Checks of a collection's segment, deletion and index files against its manifest."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gpuvec.errors import StorageError, UnsupportedError
from gpuvec.meta.catalog import CollectionState
from gpuvec.meta.changes import SegmentRecord
from gpuvec.storage import keys
from gpuvec.storage.records import FileRecord, SegmentFiles
from gpuvec.storage.segment_files import read_deletes
from gpuvec.verify.report import Finding, Level, when
from gpuvec.verify.scan import Scan, file_problem, parquet_rows, problem_of

DECODED = "decoded vectors"
_RESTORE = "restore this file from a copy of the database"
_REMEDIES = {  # of what is made of rows that are elsewhere
    "index": "repair builds it anew; so does create_index with the arguments of then",
    "decoded": "repair forgets it; it is decoded again when it is needed",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedFile:
    """A file that a manifest names, and what it is to whom."""

    record: FileRecord
    kind: str
    segment: SegmentRecord
    part: str  # scalars, vectors, deletes, index or decoded
    field: str = ""


def named_files(state: CollectionState) -> Iterator[NamedFile]:
    """Yield every file that a collection's manifest names; `UnsupportedError` for newer ones."""
    for segment in state.segments.values():
        if "external" not in segment.files:  # rows read in place are not ours to check
            yield from _rows_of(segment)
        yield from _additions_of(segment)


def _rows_of(segment: SegmentRecord) -> Iterator[NamedFile]:
    files = SegmentFiles.from_json(segment.files)
    yield NamedFile(record=files.scalar, kind="scalars", segment=segment, part="scalars")
    for name, record in files.vectors.items():
        kind = f'vectors of "{name}"'
        yield NamedFile(record=record, kind=kind, segment=segment, part="vectors", field=name)


def _additions_of(segment: SegmentRecord) -> Iterator[NamedFile]:
    if segment.deletes is not None:
        deletes = FileRecord.from_json(segment.deletes)
        yield NamedFile(record=deletes, kind="deleted rows", segment=segment, part="deletes")
    for name, index in segment.indexes.items():
        for data in index.files.values():
            yield NamedFile(
                record=FileRecord.from_json(data),
                kind=f'index of "{name}"',
                segment=segment,
                part="index",
                field=name,
            )


def decoded_files(scan: Scan, prefix: str, state: CollectionState) -> Iterator[NamedFile]:
    """Yield what was decoded of the files of an external collection; they can be decoded again."""
    for segment in state.segments.values():
        if "external" not in segment.files:
            continue
        for key in scan.store.list(f"{keys.segment_folder(prefix, segment.segment_id)}/"):
            data = scan.get(key) if key.endswith(".json") else None
            for record in json.loads(data).values() if data else ():
                yield NamedFile(
                    record=FileRecord.from_json(record),
                    kind=DECODED,
                    segment=segment,
                    part="decoded",
                )


def check_file(scan: Scan, file: NamedFile, collection: str) -> Finding | None:
    """Compare one file with its record: length, checksum, and how many rows it tells of."""
    found = file_problem(scan.store, file.record) or _contents_problem(scan, file)
    scan.count(file.record.length)
    if found is None:
        return None
    code, problem = found
    derived = file.part in _REMEDIES
    return Finding(
        level=Level.DAMAGE,
        key=file.record.key,
        kind=file.kind,
        problem=problem,
        code=code,
        collection=collection,
        field=file.field if file.part == "index" else "",
        affected=_affected(file),
        rows=0 if derived else file.segment.row_count,
        since=None if derived else file.segment.first_ts,
        remedy=_REMEDIES.get(file.part, _RESTORE),
    )


def _affected(file: NamedFile) -> str:
    segment = file.segment
    rows = f"{segment.row_count:,} rows of segment {segment.segment_id}"
    times = f"every version since {when(segment.first_ts)}"
    match file.part:
        case "vectors":
            return f'the field "{file.field}" of {rows}; {times}'
        case "deletes":
            return f"{rows}: which of them are deleted; {times}"
        case "decoded":
            return f"no row; searches of {rows}, until it is forgotten"
        case "index":
            return f'no row; searches of "{file.field}" that use the index of {rows}'
    return f"all fields of {rows}; {times}"


def _contents_problem(scan: Scan, file: NamedFile) -> tuple[str, str] | None:
    """Compare what an intact file holds with how many rows its segment has."""
    wanted = file.segment.row_count
    try:
        match file.part:
            case "scalars":
                found = parquet_rows(scan.store, file.record)
            case "vectors":
                found = _vector_rows(file.record)
            case "deletes":
                deleted, _ = read_deletes(scan.store, file.record)
                most = int(deleted.max(initial=0))
                twice = len(np.unique(deleted)) != len(deleted)
                fits = not len(deleted) or (most < wanted and not twice)
                found = wanted if fits else most + 1
            case _:
                return None
    except (StorageError, UnsupportedError) as error:
        return problem_of(error)
    if found == wanted:
        return None
    return "GV-513", f"it is intact, but holds {found} rows; its segment has {wanted:,}"


def _vector_rows(record: FileRecord) -> int:
    arrays: Mapping[str, Any] = record.arrays
    if "offsets" in arrays:
        return int(arrays["offsets"].shape[0]) - 1
    return int(arrays["values"].shape[0])
