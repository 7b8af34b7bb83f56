"""What the roles of a cluster say to each other: frozen, one class per request and reply.

Nodes are known by name; an address is good for one incarnation of a node only. Every message about
a database names it by its `identity`, since one cluster may hold several.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuvec.messages import ChannelStatus
from gpuvec.types import NodeId, SegmentId, Timestamp, Version

PROTOCOL = 2  # of these messages; nodes of another one are listed, and never given work
COORDINATOR = NodeId("coordinator")  # in the scheduler; the name under which it is called


# Opening


@dataclass(frozen=True, slots=True, kw_only=True)
class DatabaseRef:
    """Where a database lies, and how it is opened.

    Attributes:
        identity: of the store: the same whatever the path was written like.
    """

    identity: str
    url: str
    storage_options: Mapping[str, Any] | None = None
    durability: str = "fsync"


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenDatabase:
    """Client to coordinator: hold this database for me; said again every `KEEP_S`.

    Attributes:
        client: who asks; one that is not heard for a while is taken for gone.
        user, password: for whom it asks, where the database has users.
        node: of the cluster, that asks for work which was let in already.
    """

    database: DatabaseRef
    client: str = ""
    user: str = ""
    password: str = field(default="", repr=False)
    node: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CloseDatabase:
    """Client to coordinator: this client needs it no more. Coordinator to node: nobody does."""

    identity: str
    client: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class FindDatabase:
    """Node to coordinator: where does a database lie? Answered with its `DatabaseRef`."""

    identity: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """The coordinator holds the database.

    Attributes:
        generation: under which it rules; larger than that of any coordinator before.
    """

    generation: int


# Nodes


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Node to coordinator, once it can work: who it is.

    Attributes:
        node: the worker's name, which it keeps when it is started again.
        incarnation: another one after each start.
        address: where it answers now.
        host: the machine, so that replicas stand on different ones.
        group: its resource group.
        memory_bytes: that it may hold of segments.
        threads: that search.
    """

    node: NodeId
    incarnation: str
    address: str
    host: str
    memory_bytes: int
    threads: int
    group: str = ""
    protocol: int = PROTOCOL


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Coordinator to node: the databases that are open.

    Attributes:
        usable: False: the node speaks another protocol.
    """

    databases: tuple[DatabaseRef, ...]
    generations: Mapping[str, int]
    usable: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReport:
    """Node to coordinator, every `REPORT_S`: what it holds and how busy it is.

    Attributes:
        held: by database and collection, the segments whose files are open and warm here.
        owned: by database and collection, the terms under which it owns collections.
        statuses: by database, what its channels hold that is in no file.
        entries: by database and owned collection, the newest entry of its manifest.
        newest: the newest timestamp that it gave to a write, or knows.
        memory_used: bytes of segments and what is derived from them.
        queue: calls that wait or run.
        latency_s: p95 of searches of late; 0: there were none.
    """

    node: NodeId
    incarnation: str
    held: Mapping[str, Mapping[str, tuple[SegmentId, ...]]] = field(default_factory=dict)
    owned: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    statuses: Mapping[str, tuple[ChannelStatus, ...]] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    newest: Timestamp = 0
    memory_used: int = 0
    queue: int = 0
    latency_s: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReply:
    """Coordinator to node: it was heard, which renews the leases of what it owns.

    Attributes:
        known: False: say `Hello` again.
        renewed: by database and collection, the terms that go on.
        now_ms: the cluster's time; see `coord.tso`.
        until_ms: by database, which timestamps must not reach.
    """

    known: bool
    renewed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    now_ms: int = 0
    until_ms: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Leaving:
    """Node to coordinator: it will end; take its work over first."""

    node: NodeId
    incarnation: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Client to node: do you live? Answered at once, however much else waits there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Node to client: it lives.

    Attributes:
        queue: calls that wait or run.
    """

    incarnation: str
    queue: int = 0


# Ownership of channels


@dataclass(frozen=True, slots=True, kw_only=True)
class FindOwner:
    """Client to coordinator: who writes to a collection? One is named if there is none."""

    identity: str
    collection_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Owner:
    """The node that owns all channels of a collection.

    Attributes:
        term: rises with each change of owner; answers of older terms do not count.
        generation: of the coordinator that named it; terms begin anew in each.
    """

    collection_id: str
    node: NodeId
    address: str
    term: int
    generation: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Own:
    """Coordinator to node: own this collection; valid for `lease_s` after it was *asked for*."""

    identity: str
    collection_id: str
    generation: int
    term: int
    lease_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Disown:
    """Coordinator to node: end all writing to a collection, and say so when it is done.

    Attributes:
        dropped: whether the collection is gone: what it holds need not be saved in files.
    """

    identity: str
    collection_id: str
    generation: int
    term: int
    dropped: bool = False


@dataclass(frozen=True, slots=True)
class Done:
    """Node to coordinator: what it was told is done."""


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


# Segments


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadSegments:
    """Coordinator to node: open these segments and keep them warm. Answered before it is done."""

    identity: str
    collection_id: str
    generation: int
    segments: tuple[SegmentId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseSegments:
    """Coordinator to node: let these segments go."""

    identity: str
    collection_id: str
    generation: int
    segments: tuple[SegmentId, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeLine:
    """A node, as routers see it."""

    node: NodeId
    incarnation: str
    address: str
    draining: bool = False
    queue: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDelta:
    """What changed in who serves what; applied in order of `epoch`, on a gap `GetRoutes`.

    Attributes:
        segments: by collection and segment, the nodes that serve it, all of them; none: gone.
        owners: by collection.
        nodes: that came or changed.
        lost: that went.
    """

    identity: str
    generation: int
    epoch: int  # after this delta
    segments: Mapping[str, Mapping[SegmentId, tuple[NodeId, ...]]] = field(default_factory=dict)
    owners: Mapping[str, Owner] = field(default_factory=dict)
    nodes: tuple[NodeLine, ...] = ()
    lost: tuple[NodeId, ...] = ()
    whole: bool = False  # all there is: what was known before is forgotten


@dataclass(frozen=True, slots=True, kw_only=True)
class GetRoutes:
    """Client to coordinator: all routes of a database, as one `RouteDelta` with `whole`."""

    identity: str


# Names


@dataclass(frozen=True, slots=True, kw_only=True)
class CallCoordinator:
    """Client to coordinator: a change of names, or a question about the cluster.

    Attributes:
        method: one of those that the coordinator lists; arguments are plain values.
        client: as in `OpenDatabase`.
    """

    identity: str
    method: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    client: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CallOwner:
    """Client to owner: call a method of the collection there, as its user.

    Attributes:
        method: one of those that nodes list.
        settings: of the client, that count for this call.
    """

    identity: str
    collection_id: str
    method: str
    arguments: tuple[Any, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Called:
    """What the call returned, and the warnings that it gave.

    Attributes:
        stamp: the newest timestamp that the answering node has seen.
    """

    value: Any
    warnings: tuple[tuple[type[Warning], str], ...] = ()
    stamp: Timestamp = 0


# Writing and reading


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


REPORT_S = 0.5
KEEP_S = 2.0
LEASE_S = 3.0
