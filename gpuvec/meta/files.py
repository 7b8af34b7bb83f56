"""The ULIDs under which the files of a segment lie, and how new files come into a state."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from gpuvec.errors import manifest_conflict
from gpuvec.meta.changes import SegmentRecord
from gpuvec.meta.indexes import IndexRecord
from gpuvec.storage import keys
from gpuvec.types import SegmentId


def file_ulids(segment: SegmentRecord) -> set[str]:
    """Return the ULIDs under which a segment's files, deletion file and indexes lie."""
    found: set[str] = {segment.segment_id}
    if segment.deletes is not None:
        found.add(key_ulid(segment.deletes["key"]))
    return found.union(*map(index_ulids, segment.indexes.values()))


def index_ulids(record: IndexRecord) -> set[str]:
    """Return the ULIDs under which an index's files lie."""
    found = (keys.parse_index(file["key"]) for file in record.files.values())
    return {ulid for ulid in found if ulid is not None}


def key_ulid(key: str) -> str:
    """Return the ULID of a deletion file's key."""
    return key.rpartition("/")[2].partition(".")[0]


def with_files(
    segments: Mapping[SegmentId, SegmentRecord],
    added: Iterable[SegmentRecord],
    deletes: Mapping[SegmentId, Mapping[str, Any]],
    *,
    dead: Collection[str],
    what: str,
) -> dict[SegmentId, SegmentRecord]:
    """Return segments with new ones, and new deletion files for these or for old ones.

    Args:
        segments: those that there are.
        added: new ones.
        deletes: records of deletion files, by segment.
        dead: ULIDs that no entry may name any more.
        what: what wrote the files, for messages.

    Raises:
        ConflictError: `GV-525`, a segment is gone, or a file is dead.
    """
    new = {segment.segment_id: segment for segment in added}
    found = {**segments, **new}
    for segment_id, record in deletes.items():
        if segment_id not in found:
            raise manifest_conflict(f"segment {segment_id} is gone")
        found[segment_id] = replace(found[segment_id], deletes=record)
    if any(not file_ulids(found[name]).isdisjoint(dead) for name in {*deletes, *new}):
        raise manifest_conflict(f"files of this {what} were collected as orphans")
    return found
