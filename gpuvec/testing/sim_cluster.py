"""A cluster under simulation: the product's coordinator, grants and routers, in a world of faults.

Clients write and read through the product's `Router` and `OwnerCalls`. Nodes die, stand still,
leave and come; coordinators die, or live on beside the next one; messages are lost, late, doubled.

What must hold: a strong read sees every write that was acknowledged, and all that any read saw,
before it began; none twice; none that failed with outcome `none`. Changes of the schema are in
the manifest once if they were acknowledged, at most once otherwise, and none of an owner whose term
was over when it asked. At most one node at a time has a lease of a collection. When faults end, all
reads agree with the store, every collection has an owner, every segment is served by its replicas,
and all clients know the routes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, ClassVar

from gpuvec.cluster_messages import CallOwner, RouteDelta
from gpuvec.errors import GpuvecError
from gpuvec.messages import DeleteRows, WriteRequest
from gpuvec.proxy.directory import Limits
from gpuvec.proxy.owner_calls import OwnerCalls
from gpuvec.proxy.router import Router
from gpuvec.query.spread import Replan
from gpuvec.testing.sim import Violation
from gpuvec.testing.sim_coordinator import SimCoordinator
from gpuvec.testing.sim_faults import Faults, SimClient
from gpuvec.testing.sim_network import ClientCalls, Weather, Web
from gpuvec.testing.sim_node import DB, SimNode
from gpuvec.testing.sim_store import Shelf, SimStore
from gpuvec.types import NodeId, RequestId, SegmentId

COLLECTIONS = ("x", "y")
_WEATHERS = (
    Weather(),
    Weather(lost=0.01, late=0.01, doubled=0.01),
    Weather(late=0.05, stall=0.01),
    Weather(lost=0.04, late=0.03, doubled=0.05, stall=0.003),
)
_STORM = Weather(lost=0.02, late=0.15, doubled=0.1, stall=0.005)
_LIMITS = Limits(search_deadline_s=8.0, wait_s=4.0, ping_s=0.5)
_WRITE_DEADLINE_S = 8.0
_REPLANS = 5


@dataclass(frozen=True, slots=True)
class Everything:
    """The question of all reads: which writes are there?"""

    def only(self, segments: Any, *, growing: bool) -> "Everything":
        """See `query.spread.Question.only`."""
        return self


@dataclass(eq=False)
class ClusterSimulation(Faults):
    """One run: `run` does everything, and raises `Violation` when a promise was broken.

    Args:
        seed: of everything random.
        seconds: of virtual time with faults.
        storm: more of all that goes wrong.

    Attributes:
        acknowledged: requests, by collection.
        reads: how many were answered.
        owners_named: how often the coordinators told of an owner.
    """

    weathers: ClassVar[Sequence[Weather]] = _WEATHERS

    seed: int
    seconds: float = 30.0
    storm: bool = False
    begun: dict[str, set[str]] = field(default_factory=dict)
    acknowledged: dict[str, set[str]] = field(default_factory=dict)
    refused: set[str] = field(default_factory=set)  # with outcome `none`
    noted: dict[str, set[str]] = field(default_factory=dict)  # changes that were acknowledged
    seen: dict[str, set[str]] = field(default_factory=dict)  # by reads that were answered
    reads: int = 0
    owners_named: int = 0

    def __post_init__(self) -> None:
        self.web = Web(self.seed)
        self.chance = self.web.chance
        self.store = SimStore({name: Shelf(name) for name in COLLECTIONS})
        self._broken = ""
        for known in (self.begun, self.acknowledged, self.seen, self.noted):
            known.update({name: set() for name in COLLECTIONS})
        self.nodes: dict[NodeId, SimNode] = {}
        self.zombies: list[SimCoordinator] = []
        self.leaving: set[NodeId] = set()
        self._numbers = 0
        self.clients = [self._client(f"client-{n}") for n in range(self.chance.choice((2, 3)))]

    def run(self) -> None:
        """Let the cluster live through faults, then without, and compare."""
        self.coordinator = self._coordinator(first=True)
        for number in range(self.chance.choice((2, 3, 4))):
            self.add_node(NodeId(f"node-{number}"))
        self.web.run(self.web.now_s + 2.0)
        self.web.weather = _STORM if self.storm else self.chance.choice(self.weathers)
        end_s = self.web.now_s + self.seconds
        self._plan_faults(end_s)
        for client in self.clients:
            self._use(client, end_s)
        self._watch()
        self.web.run(end_s)
        self._heal()
        self.web.run(self.web.now_s + 45.0)
        self._finish()

    def fail(self, what: str) -> Violation:
        """Return the error for a broken promise."""
        return Violation(f"seed {self.seed}, at {self.web.now_s:.2f} s: {what}")

    # Who there is

    def add_node(self, name: NodeId) -> None:
        """Let a node join, or come back by its name."""
        self._numbers += 1
        node = SimNode(
            self.web, self.store, name, f"{name}#{self._numbers}", f"host-{name[-1]}",
            self.coordinator.process.name,
        )  # fmt: skip
        self.nodes[name] = node
        self.leaving.discard(name)
        node.start()

    def _coordinator(self, *, first: bool) -> SimCoordinator:
        coordinator = SimCoordinator(
            self.web, self.store, self.store.take_generation(), self._push, first, told=self._broke
        )
        coordinator.start()
        return coordinator

    def _client(self, name: str) -> SimClient:
        router = Router(
            DB, ClientCalls(self.web, name), limits=lambda: _LIMITS, hedge_share=0.1, seed=self.seed
        )
        return SimClient(name, router, OwnerCalls(router))

    def _push(self, delta: RouteDelta) -> None:
        self.owners_named += len(delta.owners)
        for client in self.clients:
            self.web.tell("coordinator", client.name, partial(client.router.apply, delta))

    # Clients

    def _use(self, client: SimClient, end_s: float) -> None:
        """Let a client call again and again."""
        if self.web.now_s < end_s:
            if not client.busy:
                client.busy = True
                name = self.chance.choice(COLLECTIONS)
                self.chance.choices((self.write, self.read, self.note), (9, 9, 2))[0](client, name)
                client.busy = False
            pause_s = self.chance.choice((0.01, 0.1, 0.5))
            self.web.after(pause_s, lambda: self._use(client, end_s))

    def write(self, client: SimClient, name: str) -> None:
        """Write once."""
        self._numbers += 1
        request = f"{client.name}-{self._numbers}"
        self.begun[name].add(request)
        message = WriteRequest(
            collection_id=name,
            request_id=RequestId(request),
            operation="delete",
            change=DeleteRows(filter=request),
        )
        try:
            client.owners.write(message, deadline_s=_WRITE_DEADLINE_S)
        except GpuvecError as error:
            if error.details.get("outcome") == "none":
                self.refused.add(request)
        else:
            self.acknowledged[name].add(request)

    def note(self, client: SimClient, name: str) -> None:
        """Change the schema once, as it were; not tried again where it may have been done."""
        self._numbers += 1
        word = f"{client.name}-{self._numbers}"
        message = CallOwner(identity=DB, collection_id=name, method="note", arguments=(word,))
        try:
            client.owners.call(message, deadline_s=_WRITE_DEADLINE_S)
        except GpuvecError as error:
            if error.details.get("outcome") == "none":
                self.refused.add(word)
        else:
            self.noted[name].add(word)

    def _broke(self, what: str) -> None:
        self._broken = self._broken or what

    def read(self, client: SimClient, name: str) -> bool:
        """Read once, strongly; return whether there was an answer."""
        wanted = self.acknowledged[name] | self.seen[name]
        for _ in range(_REPLANS):
            try:
                plan, answers = client.router.likely(name), None
                if plan is None:
                    plan = client.router.plan(name)
                else:
                    plan, answers = client.router.read(plan, Everything())
                if answers is None:
                    answers = client.router.ask(plan, Everything())
            except Replan:
                continue
            except GpuvecError:
                return False
            found = [request for answered in answers for request in answered.answer]
            self._check(name, found, wanted)
            self.seen[name].update(found)
            self.reads += 1
            return True
        return False

    def _check(self, name: str, found: list[str], wanted: set[str]) -> None:
        there = set(found)
        if len(found) > len(there):
            raise self.fail(f"a read of {name} saw writes twice: {sorted(found)}")
        if not there >= wanted:
            raise self.fail(f"a read of {name} missed {sorted(wanted - there)}")
        if not there <= self.begun[name]:
            raise self.fail(f"a read of {name} saw {sorted(there - self.begun[name])}")
        if there & self.refused:
            raise self.fail(f"a read of {name} saw what failed: {sorted(there & self.refused)}")

    def _watch(self) -> None:
        """Look again and again who has a lease, and what clients know."""
        for name in COLLECTIONS:
            sure = [
                n.incarnation for n in self._all_nodes if n.process.alive and n.grants.is_sure(name)
            ]
            if len(sure) > 1:
                raise self.fail(f"{sure} all have a lease of {name}")
        for client in self.clients:
            routes = client.router.directory.table.routes
            if (routes.generation, routes.epoch) < client.known:
                raise self.fail(f"{client.name} went back from {client.known} to {routes.epoch}")
            client.known = routes.generation, routes.epoch
        self.web.after(0.1, self._watch)

    @property
    def _all_nodes(self) -> list[SimNode]:
        return [*self.nodes.values(), *self._replaced]

    # At last

    def _heal(self) -> None:
        self.web.weather = Weather()
        self.web.cut.clear()
        for zombie in self.zombies:
            zombie.end()
        if not self.coordinator.process.alive:
            self._rule_anew()
        for node in list(self.nodes.values()):
            node.process.frozen_s = 0.0
            self._follow_newest(node)
            if not node.process.alive:
                self.add_node(node.name)
        for seconds in (0.0, 10.0):  # a call that was lost before is waited for
            self.web.after(seconds, self._refresh)

    def _refresh(self) -> None:
        for client in self.clients:
            client.router.refresh()

    def _finish(self) -> None:
        """Compare what all see with what there is."""
        for name in COLLECTIONS:
            self.coordinator.coord.want_owner(name, self.web.now_s)
        if self._broken:
            raise self.fail(self._broken)
        for name, shelf in self.store.shelves.items():
            self._check_words(name, shelf.view().state.words)
            truth = [request for _, request in shelf.look().records()]
            self._check(name, truth, self.acknowledged[name] | self.seen[name])
            for client in self.clients:
                if not self.read(client, name):
                    raise self.fail(f"{client.name} could not read {name} when all was well")
            if self.seen[name] != set(truth):
                raise self.fail(f"reads of {name} saw {sorted(self.seen[name] - set(truth))}")
        self._check_routes()

    def _check_words(self, name: str, words: Sequence[str]) -> None:
        if len(words) > len(set(words)):
            raise self.fail(f"changes of {name} were committed twice: {sorted(words)}")
        if not self.noted[name] <= set(words):
            raise self.fail(f"changes of {name} are lost: {self.noted[name] - set(words)}")
        if self.refused & set(words):
            raise self.fail(f"changes of {name} that failed: {self.refused & set(words)}")

    def _check_routes(self) -> None:
        coord = self.coordinator.coord
        for name in COLLECTIONS:  # one may be on its way to another node, for balance
            self.web.run(self.web.now_s + 5.0, partial(self._is_owned, name))
            if coord.owner(name) is None:
                raise self.fail(f"nobody owns {name}")
        self.web.run(self.web.now_s + 5.0, self._agree)
        if not self._agree():
            raise self.fail("clients know other routes than there are")
        for name in COLLECTIONS:
            self._check_replicas(name, coord.whole_routes())

    def _is_owned(self, name: str) -> bool:
        return self.coordinator.coord.owner(name) is not None

    def _agree(self) -> bool:
        """Return whether all clients know the routes that there are."""
        routes = self.coordinator.coord.whole_routes()
        there = {name: found for name, found in routes.segments.items() if found}
        known = [client.router.directory.table.routes for client in self.clients]
        return all(
            (one.generation, one.epoch) == (routes.generation, routes.epoch)
            and {name: dict(found) for name, found in one.segments.items()} == there
            for one in known
        )

    def _check_replicas(self, name: str, routes: RouteDelta) -> None:
        copies = min(self.coordinator.replicas, len(self.nodes.keys() - self.leaving))
        for segment in self.store.shelves[name].segments:
            nodes = routes.segments.get(name, {}).get(SegmentId(segment), ())
            if len(nodes) < copies:
                raise self.fail(f"{segment} is served by {nodes} only")
            for node in nodes:
                if node not in self.nodes or segment not in self.nodes[node].held.get(name, ()):
                    raise self.fail(f"{node} does not hold {segment}")
