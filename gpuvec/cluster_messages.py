"""What the roles of a cluster say to each other: frozen, one class per request and reply.

Nodes are known by name; an address is good for one incarnation of a node only. Every message about
a database names it by its `identity`, since one cluster may hold several.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from gpuvec.messages import ChannelStatus, WorkLine
from gpuvec.types import NodeId, SegmentId, Timestamp

PROTOCOL = 3  # of these messages; nodes of another one are listed, and never given work
COORDINATOR = NodeId("coordinator")  # in the scheduler; the name under which it is called
REPORT_S = 0.5
KEEP_S = 2.0
LEASE_S = 3.0


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
        newest: by database, the newest timestamp that it gave to a write, or knows.
        memory_used: bytes of segments and what is derived from them.
        queue: calls that wait or run.
        latency_s: p95 of searches of late; 0: there were none.
        works: by database, heavy work that runs here or ended of late.
    """

    node: NodeId
    incarnation: str
    held: Mapping[str, Mapping[str, tuple[SegmentId, ...]]] = field(default_factory=dict)
    owned: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    statuses: Mapping[str, tuple[ChannelStatus, ...]] = field(default_factory=dict)
    entries: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    newest: Mapping[str, Timestamp] = field(default_factory=dict)
    memory_used: int = 0
    queue: int = 0
    latency_s: float = 0.0
    works: Mapping[str, tuple[WorkLine, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportReply:
    """Coordinator to node: it was heard, which renews the leases of what it owns.

    Attributes:
        known: False: say `Hello` again.
        renewed: by database and collection, the terms that go on.
        now_ms: by database, its time; see `coord.tso`.
        until_ms: by database, which timestamps must not reach.
    """

    known: bool
    renewed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    now_ms: Mapping[str, int] = field(default_factory=dict)
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
