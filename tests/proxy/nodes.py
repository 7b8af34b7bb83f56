"""Nodes of a made-up cluster, that answer at once whatever they are asked."""

from dataclasses import dataclass, field, replace

from gpuvec.cluster_messages import COORDINATOR, GetRoutes, NodeLine, Owner, RouteDelta
from gpuvec.data_messages import Busy, PlannedPart, PlanRead, ReadPart, ReadPlan, Stale
from gpuvec.node.standing import is_of, whole_of
from gpuvec.proxy.directory import Limits
from gpuvec.proxy.router import Router
from gpuvec.testing.network import Network
from gpuvec.types import NodeId, SegmentId

DB, COLLECTION = "db", "c"
LIMITS = Limits(search_deadline_s=60.0, wait_s=10.0, ping_s=1.0)


@dataclass(frozen=True)
class Ask:
    """A question that nodes answer with the name of what they were asked about."""

    name: str = "rows"

    def only(self, segments, *, growing):
        return self


@dataclass
class FakeNode:
    """Answers for any segment, at the entry and version it knows."""

    name: NodeId
    entry_id: int = 1
    version: int = 100
    growing_rows: int = 10
    busy_s: float = 0.0
    error: Exception | None = None
    stale: Stale | None = None
    asked: list = field(default_factory=list)

    def handle(self, message):
        self.asked.append(message)
        if self.error is not None:
            raise self.error
        if isinstance(message, PlanRead):
            return self._plan(message)
        assert isinstance(message, ReadPart)
        if message.plan is None or self.busy_s or self.stale:
            return self._answer(message)
        found = self._plan(message.plan)
        if message.whole:
            message = whole_of(message, found)
        elif not is_of(message, found):
            return PlannedPart(plan=found)
        return PlannedPart(plan=found, answer=self._answer(message))

    def _plan(self, message):
        return replace(
            plan(6, growing_rows=self.growing_rows, entry_id=self.entry_id),
            version=message.version or self.version,
        )

    def _answer(self, message):
        if self.busy_s:
            return Busy(retry_after_s=self.busy_s)
        if self.stale is not None:
            return self.stale
        if message.entry_id != self.entry_id:
            return Stale(entry_id=self.entry_id)
        return (self.name, message.segments, message.growing)


def segment(number):
    return SegmentId(f"s{number}")


def plan(segments, *, growing_rows=10, version=100, entry_id=1):
    return ReadPlan(
        collection_id=COLLECTION,
        entry_id=entry_id,
        version=version,
        segments=tuple((segment(i), 100 + i) for i in range(segments)),
        growing_rows=growing_rows,
    )


class FakeCluster:
    """Named nodes, a coordinator with routes, and a router in front of them."""

    def __init__(self, names="ab", *, segments=6, replicas=1, seed=0, hedge_share=0.05, owner=0):
        self.network = Network(seed=seed)
        self.nodes = {NodeId(name): FakeNode(NodeId(name)) for name in names}
        for name, node in self.nodes.items():
            self.network.serve(name, node.handle)
        self.network.serve(COORDINATOR, self._coordinate)
        ring = list(self.nodes)
        self.routes = {
            segment(i): tuple(ring[(i + j) % len(ring)] for j in range(replicas))
            for i in range(segments)
        }
        self.owner = Owner(collection_id=COLLECTION, node=ring[owner], address="x", term=1)
        self.epoch, self.generation = 1, 1
        self.lost = set()
        self.plan = plan(segments)
        self.router = Router(
            DB, self.network, limits=lambda: LIMITS, hedge_share=hedge_share, seed=seed
        )

    def whole(self):
        standing = [name for name in self.nodes if name not in self.lost]
        return RouteDelta(
            identity=DB,
            generation=self.generation,
            epoch=self.epoch,
            whole=True,
            segments={COLLECTION: self.routes},
            owners={COLLECTION: self.owner},
            nodes=tuple(
                NodeLine(node=name, incarnation="1", address=f"tcp://{name}") for name in standing
            ),
        )

    def _coordinate(self, message):
        assert isinstance(message, GetRoutes)
        return self.whole()

    def lose(self, name):
        """Let the coordinator notice that a node is gone, and tell it."""
        self.lost.add(name)
        self.routes = {
            s: tuple(node for node in nodes if node != name) for s, nodes in self.routes.items()
        }
        self.epoch += 1
        delta = RouteDelta(
            identity=DB, generation=self.generation, epoch=self.epoch, lost=(NodeId(name),)
        )
        self.router.apply(delta)

    def ask(self, **options):
        return self.router.ask(self.plan, Ask(), **options)

    def timed(self, **options):
        """Return what `ask` returns, and how long it took."""
        before = self.network.now_s()
        answered = self.ask(**options)
        return answered, self.network.now_s() - before


def covered(answered):
    """Return what was answered for, in order; None for the growing rows."""
    units = [unit for each in answered for unit in each.segments]
    units += [None for each in answered if each.growing]
    for each in answered:
        assert each.answer == (each.node, each.segments, each.growing)
    return sorted(units, key=str)


def everything(cluster):
    return sorted([*cluster.routes, None], key=str)
