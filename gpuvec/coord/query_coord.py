"""The query coordinator: which node holds which segment, so that every segment has its replicas.

It notes what the manifests name and what nodes report, and decides in one step. Wanted are
`replicas` nodes for each segment, on different machines where there are several, never beyond a
node's memory. A node *serves* a segment from when it reports it held. A segment moves by getting
another target: the old node serves until the new one does, and lets go a moment after it left the
routes.

After a loss the last copy is made good at once; a further one only after `DAMPING_S`, since the
node mostly comes back by its name, and then is preferred: the files are in its cache. Where memory
is too small for all replicas, each segment gets fewer, and at least one before any gets two.

A step costs what changed since the last one, not what there is.
"""

from collections import Counter
from collections.abc import Collection, Iterator, Mapping

from gpuvec.cluster_messages import LoadSegments, ReleaseSegments
from gpuvec.coord.balance import moves, sheds
from gpuvec.coord.commands import Command
from gpuvec.coord.nodes import Node, Nodes
from gpuvec.coord.placement import Ledger
from gpuvec.coord.replicas import Replicas, Routes, Segment, SegmentSize
from gpuvec.types import NodeId, SegmentId

__all__ = ["DAMPING_S", "QueryCoord", "SegmentSize"]

DAMPING_S = 15.0
_ASK_AGAIN_S = 5.0
_LOAD_S = 30.0  # until a load counts as failed, and longer by what there is to load
_LOAD_RATE = 20e6  # bytes a second that a slow store delivers
_AVOID_S = 30.0  # after the first failure at a node; twice as long after each further one
_AVOID_DOUBLINGS = 5
_REBALANCE_S = 2.0
_CROWDED, _ROOMY = 0.95, 0.85  # of all memory: fewer replicas above, more again below
_MOST_SETTLED = 4000  # segments that one step looks at


class QueryCoord:
    """Keeps each segment on as many nodes as it wants. Owns no socket, thread or clock.

    Args:
        identity, generation: of the database, for commands.
        nodes: who is there; whoever notes it there tells this coordinator, too.
        ledger: memory that all databases of the cluster promised.
        replicas: how many nodes shall hold each segment; also an attribute.
        damping_s: from a loss until a further copy is made where one is left.
    """

    def __init__(
        self,
        identity: str,
        generation: int,
        nodes: Nodes,
        ledger: Ledger,
        *,
        replicas: int = 1,
        damping_s: float = DAMPING_S,
    ) -> None:
        self._identity = identity
        self._generation = generation
        self._nodes = nodes
        self.replicas = replicas
        self._affordable = replicas
        self._damping_s = damping_s
        self._seen = Replicas(ledger)
        self._copies: dict[tuple[str, ...], int] = {}  # wanted of a segment, by its groups
        self._short: set[SegmentId] = set()  # with fewer targets than copies are wanted
        self._loading: dict[NodeId, int] = {}  # bytes that were asked for
        self._moving: set[SegmentId] = set()
        self._rebalance_s = float("-inf")
        self._refused: dict[tuple[str, ...], int] = {}  # in this step: so large fits nowhere
        self.unplaced: set[SegmentId] = set()  # that fit nowhere, or not as often as wanted

    # Noting

    def note_node(self, node: Node) -> None:
        """Note a node that came, or that will leave."""
        self._seen.note_node(node)
        if not node.draining:
            self._seen.dirty |= self._short

    def note_load(self, node: Node) -> None:
        """Note how busy a node is."""
        self._seen.board.warm(node)

    def note_lost(self, name: NodeId, now_s: float) -> None:
        """Note that a node is gone: it leaves all routes at once."""
        self._seen.note_lost(name, now_s)
        self._loading.pop(name, None)

    def note_held(
        self, name: NodeId, held: Mapping[str, tuple[SegmentId, ...]], now_s: float
    ) -> None:
        """Note which segments a node holds, by collection: all of them."""
        self._seen.note_held(name, held, now_s)

    def note_collection(
        self,
        collection_id: str,
        segments: Mapping[SegmentId, SegmentSize],
        now_s: float,
        *,
        groups: tuple[str, ...] = (),
    ) -> None:
        """Note the segments of a collection as its newest manifest names them: all of them.

        Those of `groups` may hold them, resource groups of nodes; none: any.
        """
        self._seen.note_collection(collection_id, segments, now_s, groups)

    def note_unsent(self, name: NodeId, segments: Collection[SegmentId]) -> None:
        """Note that a node was not reached: it is asked again."""
        for segment in self._known(segments):
            self._forget_asked(segment, name)
            self._seen.dirty.add(segment.segment_id)

    def note_failed(self, name: NodeId, segments: Collection[SegmentId], now_s: float) -> None:
        """Note that a node cannot load segments: others are tried first."""
        for segment in self._known(segments):
            if name in segment.targets and name not in segment.holders:
                times = segment.avoid.get(name, (0.0, 0))[1] + 1
                pause_s = _AVOID_S * 2 ** min(times - 1, _AVOID_DOUBLINGS)
                segment.avoid[name] = (now_s + pause_s, times)
                self._drop(segment, name)

    # Deciding

    def reconcile(self, now_s: float) -> list[Command]:
        """Return the loads and releases that bring what is held nearer to what is wanted."""
        seen = self._seen
        seen.wake(now_s)
        self._count_copies()
        self._refused.clear()
        if now_s >= self._rebalance_s:
            self._rebalance_s = now_s + _REBALANCE_S
            self._rebalance(now_s)
        loads: dict[tuple[NodeId, str], list[SegmentId]] = {}
        releases: dict[tuple[NodeId, str], list[SegmentId]] = {}
        for segment_id in self._take_dirty():
            segment = seen.segments.get(segment_id)
            if segment is not None:
                self._settle(segment, now_s)
                for node in self._to_load(segment, now_s):
                    loads.setdefault((node, segment.collection_id), []).append(segment_id)
            for node, collection_id in self._to_release(segment_id, now_s):
                releases.setdefault((node, collection_id), []).append(segment_id)
        return [
            *self._commands(ReleaseSegments, releases),
            *self._commands(LoadSegments, loads),
        ]

    def take_changes(self) -> Routes:
        """Return the routes that changed since the last call."""
        return self._seen.take_changes()

    def routes(self) -> Routes:
        """Return all routes."""
        return self._seen.routes()

    def is_drained(self, name: NodeId) -> bool:
        """Return whether every segment that a node serves is served elsewhere, or fits nowhere."""
        segments = self._seen.segments
        return all(
            segment_id in self.unplaced
            or name not in segments[segment_id].holders
            or set(segments[segment_id].routes()) - {name}
            for segment_id in self._seen.placed(name)
        )

    def segments(self) -> Collection[Segment]:
        """Return all segments, with who holds them."""
        return self._seen.segments.values()

    def placed(self, name: NodeId) -> Collection[SegmentId]:
        """Return the segments that a node holds or shall."""
        return self._seen.placed(name)

    def held_of(self, collection_id: str) -> Mapping[NodeId, int]:
        """Return how many segments of a collection each node holds."""
        found = (segment.holders for segment in self._seen.of_collection(collection_id))
        return Counter(name for holders in found for name in holders)

    @property
    def wanted_bytes(self) -> int:
        """Memory that all replicas of all segments take."""
        return self._seen.wanted_bytes * self.replicas

    def close(self) -> None:
        """Give back all memory that was promised."""
        self._seen.close()

    # Steps

    def _take_dirty(self) -> list[SegmentId]:
        """Return what to look at, first what nobody holds, large before small."""
        segments, dirty = self._seen.segments, self._seen.dirty

        def urgency(segment_id: SegmentId) -> tuple[bool, int, SegmentId]:
            segment = segments.get(segment_id)
            if segment is None:
                return True, 0, segment_id
            return bool(segment.holders), -segment.cost_bytes, segment_id

        found = sorted(dirty, key=urgency)[:_MOST_SETTLED]
        dirty.difference_update(found)
        return found

    def _count_copies(self) -> None:
        """Find out how many copies memory and nodes allow; where that changed, look at all."""
        board, seen = self._seen.board, self._seen
        total, one = board.total_bytes(), max(1, seen.wanted_bytes)
        while self._affordable > 1 and one * self._affordable > _CROWDED * total:
            self._affordable -= 1
        while self._affordable < self.replicas and one * (self._affordable + 1) < _ROOMY * total:
            self._affordable += 1
        groups = {(), *self._copies}
        copies = {g: min(self._affordable, sum(1 for _ in board.rooms(g))) for g in groups}
        if copies != self._copies:
            self._copies = copies
            seen.dirty.update(seen.segments)

    def _copies_of(self, segment: Segment) -> int:
        if segment.groups not in self._copies:
            rooms = sum(1 for _ in self._seen.board.rooms(segment.groups))
            self._copies[segment.groups] = min(self._affordable, rooms)
        return self._copies[segment.groups]

    def _settle(self, segment: Segment, now_s: float) -> None:
        """Choose targets, and retire holders that are none any more."""
        for name in list(segment.targets):
            if not self._may_hold(segment, name):
                self._drop(segment, name)
        copies = max(1, self._copies_of(segment))
        for name in sorted(segment.holders - set(segment.targets)):
            if len(segment.targets) < copies and self._may_hold(segment, name):
                self._seen.add_target(segment, name)
        self._choose(segment, copies, now_s)
        while len(segment.targets) > copies:
            self._drop(segment, self._most_dispensable(segment))
        for name in segment.targets:
            self._seen.bring_back(segment, name)
        serving = segment.holders.intersection(segment.targets)
        if len(serving) >= copies or (segment.segment_id in self.unplaced and serving):
            self._moving.discard(segment.segment_id)
            for name in segment.holders.difference(segment.targets):
                self._seen.retire(segment, name, now_s)
        self._seen.dirty.discard(segment.segment_id)

    def _choose(self, segment: Segment, copies: int, now_s: float) -> None:
        """Add targets until there are enough."""
        segment_id = segment.segment_id
        self.unplaced.discard(segment_id)
        calm_s = segment.lost_s + self._damping_s
        while len(segment.targets) < copies:
            name = next((n for n in sorted(segment.former) if self._fits(segment, n)), None)
            if name is None and segment.holders and now_s < calm_s:
                self._seen.look_again(segment_id, calm_s)
                break
            name = name or self._pick(segment, now_s)
            if name is None:
                self.unplaced.add(segment_id)
                self._seen.look_again(segment_id, now_s + _ASK_AGAIN_S)
                break
            self._seen.add_target(segment, name)
        if len(segment.targets) < copies:
            self._short.add(segment_id)
        else:
            self._short.discard(segment_id)
            segment.former.clear()

    def _pick(self, segment: Segment, now_s: float) -> NodeId | None:
        cost_bytes, groups = segment.cost_bytes, segment.groups
        if cost_bytes >= self._refused.get(groups, cost_bytes + 1):
            return None
        avoid = {name for name, (until_s, _) in segment.avoid.items() if now_s < until_s}
        beside = {*segment.targets, *segment.holders}
        found = self._seen.board.pick(cost_bytes, groups=groups, beside=beside, avoid=avoid)
        if found is None and not avoid and not beside:
            self._refused[groups] = cost_bytes
        return found

    def _fits(self, segment: Segment, name: NodeId) -> bool:
        return (
            name not in segment.targets
            and name not in segment.avoid
            and self._may_hold(segment, name)
            and self._seen.board.fits(name, segment.cost_bytes)
        )

    def _may_hold(self, segment: Segment, name: NodeId) -> bool:
        room = self._seen.board.room(name)
        return (
            room is not None and room.open and (not segment.groups or room.group in segment.groups)
        )

    def _most_dispensable(self, segment: Segment) -> NodeId:
        """Return the target to give up: one without rows, on a shared host, or the fullest."""
        rooms = {name: self._seen.board.room(name) for name in segment.targets}
        hosts = [room.host for room in rooms.values() if room is not None]

        def badness(name: NodeId) -> tuple[bool, int, float, NodeId]:
            room = rooms[name]
            assert room is not None, "targets that left were dropped"
            return name not in segment.holders, hosts.count(room.host), room.score, name

        return max(segment.targets, key=badness)

    def _to_load(self, segment: Segment, now_s: float) -> list[NodeId]:
        """Return the targets to ask for loading it now."""
        found = []
        for name in segment.targets:
            if name in segment.holders:
                self._forget_asked(segment, name)
            elif name not in segment.asked:
                self._loading[name] = self._loading.get(name, 0) + segment.cost_bytes
                fails_s = now_s + _LOAD_S + self._loading[name] / _LOAD_RATE
                segment.asked[name] = fails_s
                self._seen.look_again(segment.segment_id, fails_s)
                found.append(name)
        late = [name for name, fails_s in segment.asked.items() if fails_s <= now_s]
        for name in late:
            self.note_failed(name, [segment.segment_id], now_s)
        return found

    def _to_release(self, segment_id: SegmentId, now_s: float) -> list[tuple[NodeId, str]]:
        """Return the nodes to ask for letting it go now, with its collection."""
        found = []
        segment = self._seen.segments.get(segment_id)
        if segment is not None:
            for name, due_s in segment.retiring.items():
                if due_s <= now_s:
                    segment.retiring[name] = now_s + _ASK_AGAIN_S
                    found.append((name, segment.collection_id))
        for name, ghost in self._seen.ghosts.get(segment_id, {}).items():
            if ghost.due_s <= now_s:
                ghost.due_s = now_s + _ASK_AGAIN_S
                found.append((name, ghost.collection_id))
        if found:
            self._seen.look_again(segment_id, now_s + _ASK_AGAIN_S)
        return found

    def _commands(
        self,
        kind: type[LoadSegments | ReleaseSegments],
        found: Mapping[tuple[NodeId, str], list[SegmentId]],
    ) -> Iterator[Command]:
        for (name, collection_id), segments in sorted(found.items()):
            node = self._nodes.get(name)
            if node is not None:
                message = kind(
                    identity=self._identity,
                    collection_id=collection_id,
                    generation=self._generation,
                    segments=tuple(segments),
                )
                incarnation = node.hello.incarnation
                yield Command(node=name, incarnation=incarnation, message=message)

    def _rebalance(self, now_s: float) -> None:
        """Move some segments from full nodes to empty ones; first where segments have grown."""
        seen = self._seen
        for segment, name in sheds(seen):
            self._drop(segment, name)
        most = max(2, len(self._nodes) // 10)
        if len(self._moving) < most:
            for segment, source, target in moves(seen, now_s, most - len(self._moving)):
                segment.moved_s = now_s
                self._drop(segment, source)
                seen.add_target(segment, target)
                self._moving.add(segment.segment_id)

    def _drop(self, segment: Segment, name: NodeId) -> None:
        self._forget_asked(segment, name)
        self._seen.drop_target(segment, name)

    def _forget_asked(self, segment: Segment, name: NodeId) -> None:
        if segment.asked.pop(name, None) is not None:
            left = self._loading.get(name, 0) - segment.cost_bytes
            self._loading[name] = max(0, left)

    def _known(self, segments: Collection[SegmentId]) -> list[Segment]:
        return [self._seen.segments[name] for name in segments if name in self._seen.segments]
