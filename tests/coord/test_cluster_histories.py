"""Random histories of a cluster: what may never be, and what must be at last."""

from dataclasses import dataclass
from itertools import count

from hypothesis import given, settings
from hypothesis import strategies as st

from gpuvec.cluster_messages import Disown, Own
from tests.coord.yard import DB, MB, Worker, Yard

NAMES = ("a", "b", "c", "d", "e")
COLLECTIONS = ("x", "y", "z")
BUDGET = 40 * MB

Op = tuple[str, int, int]
ops = st.lists(
    st.tuples(
        st.sampled_from(
            ("step", "step", "step", "step", "add", "kill", "cut", "mend", "drain", "put", "want",
             "lose", "double", "late", "restart", "stall", "sleep")
        ),
        st.integers(0, 4),
        st.integers(0, 30),
    ),
    max_size=60,
)  # fmt: skip


@dataclass
class Late:
    due_s: float
    command: object


class History(Yard):
    """A yard where messages may be lost, come twice or late, and nodes behind partitions live on.

    Nodes follow the rules of owners: a lease counts from the report that was answered; terms that
    were passed are ignored.
    """

    def __init__(self, replicas: int) -> None:
        super().__init__(replicas=replicas)
        self.options["quarantine_s"] = 3.0  # of coordinators that come after this one
        self.cut: dict[str, Worker] = {}
        self.highest: dict[tuple[str, str], int] = {}  # by incarnation and collection
        self.late: list[Late] = []
        self.trouble: list[str] = []
        self.drained: set[str] = set()
        self.numbers = count()

    def everyone(self) -> list[Worker]:
        return [*self.workers.values(), *self.cut.values()]

    def deliver(self, command) -> None:
        worker = self.workers.get(command.node)
        if worker is None or worker.incarnation != command.incarnation:
            return
        message = command.message
        if isinstance(message, Own | Disown):
            key = worker.incarnation, message.collection_id
            if message.term < self.highest.get(key, 0):
                return
            if isinstance(message, Own) and message.term == self.highest.get(key):
                return
            self.highest[key] = message.term
        worker.obey(message)

    def step(self, seconds: float = 0.5):
        self.report()
        commands = self.coord.reconcile(self.now_s)
        self.sent += commands
        for command in commands:
            match self.trouble.pop() if self.trouble else "":
                case "lose":
                    self.coord.note_failed(command, TimeoutError(), self.now_s)
                case "late":
                    self.late.append(Late(self.now_s + 7.0, command))
                    self.coord.note_failed(command, TimeoutError(), self.now_s)
                case "double":
                    self.deliver(command)
                    self.late.append(Late(self.now_s + 3.0, command))
                    self.coord.note_done(command)
                case _:
                    self.deliver(command)
                    self.coord.note_done(command)
        for late in [late for late in self.late if late.due_s <= self.now_s]:
            self.late.remove(late)
            self.deliver(late.command)
        self.now_s += seconds
        self.check()
        return commands

    def check(self) -> None:
        for collection_id in COLLECTIONS:
            leased = [
                w.name for w in self.everyone() if w.leases.get(collection_id, 0) > self.now_s
            ]
            assert len(leased) <= 1, f"{leased} all may answer for {collection_id} from memory"
        for worker in self.workers.values():
            held = {s for found in worker.held.values() for s in found}
            sizes = {s: size for found in self.segments.values() for s, size in found.items()}
            used = sum(sizes[s].size_bytes for s in held if s in sizes)
            assert used <= worker.memory_bytes
        routes = self.coord.whole_routes()
        known = {line.node for line in routes.nodes}
        for found in routes.segments.values():
            for nodes in found.values():
                assert known.issuperset(nodes), "routes lead to nodes that are there"

    def do(self, op: Op) -> None:
        kind, which, amount = op
        if kind in ("lose", "double", "late"):
            self.trouble += [kind] * (1 + amount % 3)
        else:
            getattr(self, f"do_{kind}")(which, amount)

    def do_step(self, which: int, amount: int) -> None:
        self.step()

    def do_sleep(self, which: int, amount: int) -> None:
        for _ in range(amount):
            self.step()

    def do_stall(self, which: int, amount: int) -> None:
        self.now_s += 20

    def do_add(self, which: int, amount: int) -> None:
        if NAMES[which] not in self.workers:
            self.add(NAMES[which], host=f"h{which % 3}", memory_bytes=BUDGET)
            self.drained.discard(NAMES[which])

    def do_kill(self, which: int, amount: int) -> None:
        if NAMES[which] in self.workers:
            self.kill(NAMES[which], noticed=amount % 2 == 0)

    def do_cut(self, which: int, amount: int) -> None:
        if NAMES[which] in self.workers and NAMES[which] not in self.cut:
            self.cut[NAMES[which]] = self.kill(NAMES[which], noticed=amount % 2 == 0)

    def do_mend(self, which: int, amount: int) -> None:
        worker = self.cut.pop(NAMES[which], None)
        if worker is not None and worker.name not in self.workers:
            self.workers[worker.name] = worker

    def do_drain(self, which: int, amount: int) -> None:
        if NAMES[which] in self.workers:
            self.drain(NAMES[which])
            self.drained.add(NAMES[which])

    def do_put(self, which: int, amount: int) -> None:
        self.put(COLLECTIONS[which % 3], count=amount, size=MB * (1 + which % 2))

    def do_want(self, which: int, amount: int) -> None:
        self.coord.want_owner(COLLECTIONS[which % 3], self.now_s)

    def do_restart(self, which: int, amount: int) -> None:
        self.restart()
        for collection_id, segments in self.segments.items():
            self.coord.note_collection(collection_id, segments, self.now_s)
        for gone in self.drained & self.workers.keys():
            self.drain(gone)

    def heal(self) -> None:
        """Let trouble end, and everybody come to rest."""
        self.trouble.clear()
        self.cut.clear()
        for name in sorted(self.drained & self.workers.keys()):
            self.kill(name)
        if not self.workers:
            self.add("a", memory_bytes=BUDGET)
        for collection_id in COLLECTIONS:
            self.coord.want_owner(collection_id, self.now_s)
        for _ in range(500):
            self.step()
        self.report()


@settings(max_examples=120, deadline=None, derandomize=True)
@given(ops, st.integers(1, 3))
def test_histories_end_with_every_segment_served_and_every_collection_owned(history, replicas):
    yard = History(replicas)
    yard.add("a", "b", "c", memory_bytes=BUDGET)
    for collection_id in COLLECTIONS:
        yard.coord.want_owner(collection_id, yard.now_s)
    yard.settle(2)
    for op in history:
        yard.do(op)
    yard.heal()
    yard.sent.clear()
    for _ in range(120):
        yard.step()
    assert yard.sent == [], "when nothing happens, nothing is done"
    for collection_id in COLLECTIONS:
        owner = yard.coord.owner(collection_id)
        assert collection_id in yard.workers[owner.node].owned
        assert yard.workers[owner.node].leases[collection_id] > yard.now_s
    routes = yard.coord.whole_routes().segments
    unplaced = set(yard.coord.state()["unplaced"])
    for collection_id, segments in yard.segments.items():
        for name in segments:
            held = yard.holders(name, collection_id)
            assert set(routes.get(collection_id, {}).get(name, ())) == held
            assert held or name in unplaced
    total = sum(size.size_bytes + MB for found in yard.segments.values() for size in found.values())
    copies = min(replicas, len(yard.workers))
    if total * copies < 0.8 * BUDGET * len(yard.workers) and len(yard.workers) > copies:
        assert not unplaced
        assert {len(yard.holders(n, c)) for c, found in yard.segments.items() for n in found} <= {
            copies
        }


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.integers(3, 5), st.integers(1, 2), st.integers(1, 25), st.lists(st.integers(0, 4)))
def test_drained_nodes_end_empty_with_no_moment_without_a_copy(nodes, replicas, size, drained):
    yard = History(replicas)
    yard.add(*NAMES[:nodes], memory_bytes=10 * BUDGET)
    yard.put("x", count=size)
    yard.settle()
    for which in drained:
        name = NAMES[which % nodes]
        if len(yard.workers.keys() - yard.drained) > 1 and name in yard.workers:
            yard.drain(name)
            yard.drained.add(name)
        routes = yard.coord.whole_routes().segments["x"]
        assert len(routes) == size
        for segment_id, found in routes.items():
            assert set(found) <= yard.holders(segment_id, "x")
        yard.step()
    for _ in range(30):
        yard.step()
        assert len(yard.coord.whole_routes().segments["x"]) == size
    for name in yard.drained:
        assert yard.coord.drained(name)
        assert not yard.workers[name].held["x"]
    assert yard.coord.whole_routes().identity == DB
