"""What owners have the coordinator do: commits to logs, and heavy work by any worker.

See `cluster_messages`.
"""

from dataclasses import dataclass
from typing import Any

# Commits


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Node or client to coordinator: append this entry to the log of a collection.

    Said again with the same `request_id` it is done once; answered with `Committed` or `Behind`.

    Attributes:
        after_entry: upon which the changes were judged: none may come between.
        changes: of `gpuvec.meta.changes`.
        generation, term: under which the sender owns the collection; 0: it is a reader.
        request_id: becomes the nonce of the entry.
        committer: for people who read the log.
    """

    identity: str
    collection_id: str
    after_entry: int
    changes: tuple[Any, ...]
    generation: int
    term: int
    request_id: str
    committer: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Committed:
    """The entry is in the log, as number `after_entry` + 1."""

    generation: int
    time_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Behind:
    """Another entry came first, so nothing was done, and never will be under this request id.

    Attributes:
        entry_id: the newest.
    """

    entry_id: int


# Heavy work


@dataclass(frozen=True, slots=True, kw_only=True)
class HeavyWork:
    """Owner to coordinator: have a worker do this, unless one does, and tell how it stands.

    Attributes:
        job_id: a name that follows from what is read and wanted.
        what: the work, for people.
        work: see `gpuvec.api.heavy`; None: only tell.
        wanted: False: it need not be done any more, or what came of it is known.
    """

    identity: str
    job_id: str
    what: str
    work: Any = None
    wanted: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkState:
    """How a work stands: `unknown`, `running`, `done` or `failed`.

    Attributes:
        share: that is done.
        width: how many works the cluster does at once.
        result: what was written.
        error: why it failed.
    """

    status: str
    share: float = 0.0
    width: int = 1
    result: Any = None
    error: Exception | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkShare:
    """Worker to coordinator: how far a work is; `GV-793` where nobody wants it any more."""

    identity: str
    job_id: str
    share: float
