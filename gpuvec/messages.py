"""What roles say to each other: frozen, one class per request and reply, never a dict.

Filters and values are expression trees of `gpuvec.expr`, a higher floor; messages only carry them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal

import pyarrow as pa

from gpuvec.rows import Rows
from gpuvec.types import ChannelName, RequestId, SegmentId, Timestamp, Version


class OnConflict(StrEnum):
    """What an insert does with a key that exists."""

    ERROR = "error"
    SKIP = "skip"
    REPLACE = "replace"


@dataclass(frozen=True, slots=True, kw_only=True)
class InsertRows:
    """Add rows that were validated against a version of the schema. Keys are unique within them."""

    rows: Rows
    schema_version: int
    partition: str
    on_conflict: OnConflict


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateRows:
    """Set fields of the rows that pass a filter to the values of expressions."""

    values: Mapping[str, Any]
    filter: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteRows:
    """Delete the rows that pass a filter, or those with the given keys; exactly one is not None."""

    filter: Any = None
    keys: pa.Array | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoreRows:
    """Make the rows those of an older version."""

    version: Version


Change = InsertRows | UpdateRows | DeleteRows | RestoreRows


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteRequest:
    """One atomic write to one channel of a collection. A retry carries the same `request_id`."""

    collection_id: str
    request_id: RequestId
    operation: str  # what the caller called it: insert, upsert, update, delete, restore
    change: Change


@dataclass(frozen=True, slots=True, kw_only=True)
class WriteReply:
    """The write is durable and readable.

    Attributes:
        version: the timestamp of the write.
        keys: the primary keys that were written or deleted; None in the answer to a retry that was
            made after the owner had restarted.
    """

    version: Version
    inserted: int = 0
    updated: int = 0
    deleted: int = 0
    keys: pa.Array | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class ChannelStatus:
    """What a channel holds that is in no file.

    Attributes:
        oldest: timestamp of its oldest write; None when there is none.
    """

    collection_id: str
    growing_bytes: int = 0
    writes: int = 0
    deletes: int = 0
    oldest: Timestamp | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SegmentWeight:
    """What compaction weighs of one segment.

    Attributes:
        layout: segments are written together only where it is the same.
        live: rows that are there in the newest version.
        kept: rows that some needed version sees, at most.
    """

    segment_id: SegmentId
    channel: ChannelName
    partition: str
    layout: int
    rows: int
    live: int
    kept: int
    size_bytes: int

    @property
    def live_bytes(self) -> int:
        """Bytes of the live rows."""
        return self.size_bytes * self.live // max(1, self.rows)

    @property
    def kept_bytes(self) -> int:
        """Bytes of the rows that are kept."""
        return self.size_bytes * self.kept // max(1, self.rows)

    @property
    def dead_share(self) -> float:
        """The part of the rows that is not there in the newest version."""
        return 1 - self.live / max(1, self.rows)


WorkStatus = Literal["running", "done", "failed", "cancelled"]


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkLine:
    """Heavy work that runs or ended of late, as `db.jobs()` tells of it.

    Attributes:
        job_id: its name; of an index, that of the wish for it.
        kind: `index`, `compaction` or `import`.
        what: the work, for people.
        begun_ms: when it began, by the clock of who does it.
        can_cancel: whether it can be ended.
        share: that is done, 0 to 1.
        taken_s: how long it ran, or runs.
        eta_s: until it is done; None: not known.
        problem: why it failed.
    """

    job_id: str
    kind: str
    collection_id: str
    what: str
    begun_ms: int
    can_cancel: bool
    status: WorkStatus = "running"
    share: float = 0.0
    taken_s: float = 0.0
    eta_s: float | None = None
    problem: str = ""
