"""The ULIDs under which the files of a segment lie."""

from gpuvec.meta.changes import SegmentRecord
from gpuvec.meta.indexes import IndexRecord
from gpuvec.storage import keys


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
