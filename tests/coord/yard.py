"""A yard of nodes that obey a coordinator, each as simple as its messages allow."""

from collections import defaultdict
from dataclasses import dataclass, field

from gpuvec.cluster_messages import Disown, Hello, LoadSegments, NodeReport, Own, ReleaseSegments
from gpuvec.coord.cluster_coord import ClusterCoord, Command, SegmentSize
from gpuvec.types import NodeId, SegmentId

DB = "db"
GB = 1 << 30
MB = 1 << 20


@dataclass
class Worker:
    """A node: it holds what it is told to hold, and owns what it is told to own."""

    name: NodeId
    host: str
    incarnation: str
    memory_bytes: int = GB
    group: str = ""
    threads: int = 2
    queue: int = 0
    held: dict[str, set[SegmentId]] = field(default_factory=lambda: defaultdict(set))
    owned: dict[str, int] = field(default_factory=dict)
    leases: dict[str, float] = field(default_factory=dict)
    refused: set[SegmentId] = field(default_factory=set)  # that it cannot load

    def hello(self) -> Hello:
        return Hello(
            node=self.name,
            incarnation=self.incarnation,
            address=f"tcp://{self.incarnation}",
            host=self.host,
            memory_bytes=self.memory_bytes,
            threads=self.threads,
            group=self.group,
        )

    def report(self) -> NodeReport:
        held = {name: tuple(sorted(found)) for name, found in self.held.items() if found}
        return NodeReport(
            node=self.name,
            incarnation=self.incarnation,
            held={DB: held},
            owned={DB: dict(self.owned)},
            queue=self.queue,
        )

    def obey(self, message: object) -> None:
        match message:
            case Own():
                self.owned[message.collection_id] = message.term
            case Disown() if self.owned.get(message.collection_id, 0) <= message.term:
                self.owned.pop(message.collection_id, None)
                self.leases.pop(message.collection_id, None)
            case LoadSegments():
                self.held[message.collection_id].update(set(message.segments) - self.refused)
            case ReleaseSegments():
                self.held[message.collection_id].difference_update(message.segments)


class Yard:
    """Nodes, a coordinator and a clock; whatever is sent arrives at once."""

    def __init__(self, *, now_s: float = 100.0, **options: object) -> None:
        self.now_s = now_s
        options.setdefault("quarantine_s", 0.0)
        self.options = options
        self.generation = 0
        self.workers: dict[NodeId, Worker] = {}
        self.incarnations = 0
        self.segments: dict[str, dict[SegmentId, SegmentSize]] = {}
        self.restart()

    def restart(self) -> None:
        """Replace the coordinator by the next one, which knows nothing."""
        self.generation += 1
        self.coord = ClusterCoord(DB, self.generation, now_s=self.now_s, **self.options)
        self.sent: list[Command] = []

    def add(self, *names: str, host: str = "", **traits: object) -> None:
        for name in names:
            self.incarnations += 1
            worker = Worker(NodeId(name), host or f"host-{name}", str(self.incarnations), **traits)
            self.workers[worker.name] = worker
            self.coord.note_hello(worker.hello(), self.now_s)

    def kill(self, name: str, *, noticed: bool = True) -> Worker:
        worker = self.workers.pop(NodeId(name))
        if noticed:
            self.coord.note_lost(worker.name, worker.incarnation, self.now_s)
        return worker

    def drain(self, name: str) -> None:
        self.coord.note_leaving(NodeId(name), self.workers[NodeId(name)].incarnation)

    def put(self, collection_id: str = "c", size: int = MB, **counts: int) -> None:
        """Let a collection have segments named s0, s1, …: so many."""
        (count,) = counts.values() or (1,)
        names = [SegmentId(f"{collection_id}-{n:05d}") for n in range(count)]
        self.segments[collection_id] = {name: SegmentSize(size) for name in names}
        self.coord.note_collection(collection_id, self.segments[collection_id], self.now_s)

    def report(self) -> None:
        for worker in self.workers.values():
            reply = self.coord.note_report(worker.report(), self.now_s)
            if not reply.known:
                self.coord.note_hello(worker.hello(), self.now_s)
                reply = self.coord.note_report(worker.report(), self.now_s)
            for name in reply.renewed.get(DB, {}):
                worker.leases[name] = self.now_s + 3.0

    def step(self, seconds: float = 0.5) -> list[Command]:
        """Report, decide, obey."""
        self.report()
        commands = self.coord.reconcile(self.now_s)
        for command in commands:
            worker = self.workers.get(command.node)
            if worker is not None and worker.incarnation == command.incarnation:
                worker.obey(command.message)
                self.coord.note_done(command)
        self.sent += commands
        self.now_s += seconds
        return commands

    def settle(self, seconds: float = 10.0) -> None:
        for _ in range(round(seconds / 0.5)):
            self.step()
        self.report()

    def holders(self, segment_id: str, collection_id: str = "c") -> set[NodeId]:
        return {w.name for w in self.workers.values() if segment_id in w.held[collection_id]}

    def copies(self) -> dict[str, int]:
        found = {name: 0 for segments in self.segments.values() for name in segments}
        for worker in self.workers.values():
            for held in worker.held.values():
                for name in held:
                    found[name] = found.get(name, 0) + 1
        return found

    def owner(self, collection_id: str = "c") -> NodeId | None:
        found = self.coord.owner(collection_id)
        return None if found is None else found.node

    def used(self, name: str) -> int:
        worker = self.workers[NodeId(name)]
        return sum(
            self.segments[c][s].size_bytes
            for c, held in worker.held.items()
            for s in held
            if s in self.segments.get(c, {})
        )
