"""What clients and nodes say to each other about rows: writes, plans of reads, and their parts.

See `cluster_messages`.
"""

from dataclasses import dataclass
from typing import Any

from gpuvec.types import SegmentId, Timestamp, Version


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """Client to owner: a `messages.WriteRequest` for a database.

    Attributes:
        term: of the owner that the client means; another one answers `GV-741`.
        seen: the client's last timestamp; the write gets a larger one.
    """

    identity: str
    request: Any
    term: int
    seen: Timestamp = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRead:
    """Client to a node: at which version shall a collection be read, and what is there then?

    The owner answers from memory; another node, or an owner whose lease has run out, looks at the
    store first.

    Attributes:
        version: None: the newest; else this one.
        seen: the answer is not older than this timestamp.
        looked: False: what the node knows already is new enough.
    """

    identity: str
    collection_id: str
    version: Version | None = None
    seen: Timestamp = 0
    looked: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPlan:
    """A collection at one version, as every node can see it.

    Attributes:
        entry_id: of the manifest that names the segments.
        segments: in files, in their order, with their rows, hidden ones too.
        growing_rows: rows that are only in the log, hidden ones too.
        now_ms: when it was made, which decides what has outlived its time; 0: the version's time
            does, since it is an older version that was asked for.
    """

    collection_id: str
    entry_id: int
    version: Version
    segments: tuple[tuple[SegmentId, int], ...]
    growing_rows: int
    now_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadPart:
    """Client to node: one step of a read, over some segments at one version.

    Attributes:
        growing: whether the rows that are only in the log belong to it.
        growing_rows, now_ms: of the plan.
        question: a `gpuvec.query` question; see `gpuvec.node.query_node`.
        cost: rows times queries, for admission.
        plan: plan the collection first, and answer with a `PlannedPart`: what else is said here of
            entry, version and rows is then a guess, and only answered for if it is right.
        whole: whether all is asked about, so that it is answered for by the new plan, whatever was
            guessed.
    """

    identity: str
    collection_id: str
    entry_id: int
    version: Version
    segments: tuple[SegmentId, ...]
    growing: bool
    question: Any
    growing_rows: int = 0
    now_ms: int = 0
    cost: int = 0
    plan: PlanRead | None = None
    whole: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedPart:
    """Node to client: where the collection stands, and the answer to a `ReadPart` that asked both.

    Attributes:
        answer: None: the part was not one of this plan.
    """

    plan: ReadPlan
    answer: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stale:
    """Node to client: its manifest is another one, so the read is to be planned again."""

    entry_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Busy:
    """Node to client: too much waits here; try another replica, or later."""

    retry_after_s: float
