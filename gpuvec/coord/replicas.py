"""Which nodes hold a segment, and which shall: the record that `QueryCoord` decides from."""

import heapq
from collections.abc import Mapping
from dataclasses import dataclass, field

from gpuvec.coord.nodes import Node
from gpuvec.coord.placement import SEGMENT_BYTES, Board, Ledger
from gpuvec.types import NodeId, SegmentId

RELEASE_S = 1.0  # from leaving the routes to letting go: searches under way still find it warm
_UNKNOWN_S = 30.0  # until a segment that a node holds and no manifest names is let go there

Routes = dict[str, dict[SegmentId, tuple[NodeId, ...]]]  # by collection; no nodes: gone


@dataclass(frozen=True, slots=True)
class SegmentSize:
    """What a segment costs whoever holds it."""

    size_bytes: int
    rows: int = 0


@dataclass(slots=True)
class Segment:
    """A segment in files, and who has it.

    Attributes:
        groups: resource groups that may hold it; none: any.
        targets: the nodes that shall hold it.
        holders: the live nodes that say they do.
        asked: targets that were asked to load it: when that counts as failed.
        retiring: holders that are in no route any more: when to ask them to let go.
        former: nodes that held it when they were lost.
        avoid: nodes where loading failed: until when, and how often.
        lost_s: when a holder was lost.
        moved_s: when it last moved for balance.
    """

    segment_id: SegmentId
    collection_id: str
    size: SegmentSize
    groups: tuple[str, ...] = ()
    targets: list[NodeId] = field(default_factory=list)
    holders: set[NodeId] = field(default_factory=set)
    asked: dict[NodeId, float] = field(default_factory=dict)
    retiring: dict[NodeId, float] = field(default_factory=dict)
    former: set[NodeId] = field(default_factory=set)
    avoid: dict[NodeId, tuple[float, int]] = field(default_factory=dict)
    lost_s: float = float("-inf")
    moved_s: float = float("-inf")

    @property
    def cost_bytes(self) -> int:
        """What it takes of a node's memory."""
        return self.size.size_bytes + SEGMENT_BYTES

    def routes(self) -> tuple[NodeId, ...]:
        """Return the nodes that serve it."""
        return tuple(sorted(self.holders - self.retiring.keys()))


@dataclass(slots=True)
class Ghost:
    """A segment that a node holds and no manifest names.

    Attributes:
        due_s: when to ask the node to let it go.
        cost_bytes: that it takes of the node's memory, as far as that is known.
    """

    collection_id: str
    due_s: float
    cost_bytes: int = 0


class Replicas:
    """Segments and the nodes that hold them, from both sides. Handlers note; nothing is decided.

    Attributes:
        board: the nodes, with what they hold charged to them.
        dirty: segments to look at again.
        wanted_bytes: memory that one copy of each segment takes.
    """

    def __init__(self, ledger: Ledger) -> None:
        self.board = Board(ledger)
        self.segments: dict[SegmentId, Segment] = {}
        self.ghosts: dict[SegmentId, dict[NodeId, Ghost]] = {}
        self.dirty: set[SegmentId] = set()
        self.wanted_bytes = 0
        self._collections: dict[str, tuple[SegmentId, ...]] = {}
        self._at: dict[NodeId, set[SegmentId]] = {}  # what each node holds or shall
        self._reported: dict[NodeId, Mapping[str, tuple[SegmentId, ...]]] = {}
        self._later: list[tuple[float, SegmentId]] = []
        self._changed: set[SegmentId] = set()  # whose routes are to be told
        self._gone: dict[str, set[SegmentId]] = {}  # likewise

    # Noting

    def note_node(self, node: Node) -> None:
        """Note a node that came, or that will leave."""
        self._at.setdefault(node.name, set())
        self.board.put(node)
        self.dirty |= self._at[node.name]

    def note_lost(self, name: NodeId, now_s: float) -> None:
        """Note that a node is gone: it leaves all routes at once."""
        for segment_id in list(self._at.get(name, ())):
            segment = self.segments[segment_id]
            if name in segment.holders:
                segment.former.add(name)
                segment.lost_s = now_s
                segment.holders.discard(name)
                self._changed.add(segment_id)
            segment.retiring.pop(name, None)
            self.drop_target(segment, name)
        for nodes in self.ghosts.values():
            nodes.pop(name, None)
        self._at.pop(name, None)
        self._reported.pop(name, None)
        self.board.forget(name)

    def note_held(
        self, name: NodeId, held: Mapping[str, tuple[SegmentId, ...]], now_s: float
    ) -> None:
        """Note which segments a node holds, by collection."""
        before = self._reported.get(name, {})
        if held == before:
            return
        self._reported[name] = held
        now = {segment_id: owner for owner, found in held.items() for segment_id in found}
        old = {segment_id for found in before.values() for segment_id in found}
        for segment_id in now.keys() - old:
            segment = self.segments.get(segment_id)
            if segment is None:
                self._haunt(segment_id, name, Ghost(now[segment_id], now_s + _UNKNOWN_S))
            else:
                self._gain(segment, name)
        for segment_id in old - now.keys():
            self._let_go(segment_id, name)

    def note_collection(
        self,
        collection_id: str,
        segments: Mapping[SegmentId, SegmentSize],
        now_s: float,
        groups: tuple[str, ...],
    ) -> None:
        """Note all segments of a collection; see `QueryCoord.note_collection`."""
        for segment_id in set(self._collections.get(collection_id, ())) - segments.keys():
            self._remove(self.segments.pop(segment_id), now_s)
        self._collections[collection_id] = tuple(segments)
        for segment_id, size in segments.items():
            known = self.segments.get(segment_id)
            if known is None:
                self._add(Segment(segment_id, collection_id, size, groups))
            elif known.size != size or known.groups != groups:
                self._resize(known, size)
                known.groups = groups
        if not segments:
            del self._collections[collection_id]

    def close(self) -> None:
        """Give back all memory that was promised."""
        for name in list(self._at):
            self.board.forget(name)

    # What is there

    def placed(self, name: NodeId) -> set[SegmentId]:
        """Return the segments that a node holds or shall."""
        return self._at.get(name, set())

    def of_collection(self, collection_id: str) -> list[Segment]:
        """Return the segments of a collection."""
        return [self.segments[name] for name in self._collections.get(collection_id, ())]

    def routes(self) -> Routes:
        """Return all routes."""
        return {
            name: {s: nodes for s in found if (nodes := self.segments[s].routes())}
            for name, found in self._collections.items()
        }

    def take_changes(self) -> Routes:
        """Return the routes that changed since the last call."""
        found: Routes = {name: dict.fromkeys(sorted(gone), ()) for name, gone in self._gone.items()}
        for segment_id in sorted(self._changed & self.segments.keys()):
            segment = self.segments[segment_id]
            found.setdefault(segment.collection_id, {})[segment_id] = segment.routes()
        self._changed.clear()
        self._gone.clear()
        return found

    def look_again(self, segment_id: SegmentId, due_s: float) -> None:
        """Make a segment dirty at a time."""
        heapq.heappush(self._later, (due_s, segment_id))

    def wake(self, now_s: float) -> None:
        """Make those dirty whose time has come."""
        while self._later and self._later[0][0] <= now_s:
            self.dirty.add(heapq.heappop(self._later)[1])

    # What was decided

    def add_target(self, segment: Segment, name: NodeId) -> None:
        """Want a segment on a node, too."""
        segment.targets.append(name)
        self._attach(segment, name)
        self.dirty.add(segment.segment_id)

    def drop_target(self, segment: Segment, name: NodeId) -> None:
        """Want a segment on a node no more; as long as it is held there it takes memory."""
        if name in segment.targets:
            segment.targets.remove(name)
        segment.asked.pop(name, None)
        if name not in segment.holders:
            self._detach(segment, name)
        self.dirty.add(segment.segment_id)

    def retire(self, segment: Segment, name: NodeId, now_s: float) -> None:
        """Take a holder out of the routes, and ask it to let go soon after."""
        if name not in segment.retiring:
            segment.retiring[name] = now_s + RELEASE_S
            self._changed.add(segment.segment_id)
            self.look_again(segment.segment_id, now_s + RELEASE_S)

    def bring_back(self, segment: Segment, name: NodeId) -> None:
        """Route to a holder again."""
        if segment.retiring.pop(name, None) is not None:
            self._changed.add(segment.segment_id)

    # Steps

    def _gain(self, segment: Segment, name: NodeId) -> None:
        self._attach(segment, name)
        segment.holders.add(name)
        segment.avoid.pop(name, None)
        segment.former.discard(name)
        self._changed.add(segment.segment_id)
        self.dirty.add(segment.segment_id)

    def _let_go(self, segment_id: SegmentId, name: NodeId) -> None:
        self._lay(segment_id, name)
        segment = self.segments.get(segment_id)
        if segment is not None and name in segment.holders:
            segment.holders.discard(name)
            segment.retiring.pop(name, None)
            if name not in segment.targets:
                self._detach(segment, name)
            self._changed.add(segment_id)
            self.dirty.add(segment_id)

    def _add(self, segment: Segment) -> None:
        segment_id = segment.segment_id
        self.segments[segment_id] = segment
        self.wanted_bytes += segment.cost_bytes
        self._gone.get(segment.collection_id, set()).discard(segment_id)
        for name in list(self.ghosts.get(segment_id, ())):
            self._lay(segment_id, name)
            self._gain(segment, name)
        self.dirty.add(segment_id)

    def _remove(self, segment: Segment, now_s: float) -> None:
        segment_id = segment.segment_id
        self.wanted_bytes -= segment.cost_bytes
        for name in {*segment.holders, *segment.targets}:
            self._detach(segment, name)
        for name in segment.holders:
            ghost = Ghost(segment.collection_id, now_s + RELEASE_S, segment.cost_bytes)
            self._haunt(segment_id, name, ghost)
        self._changed.discard(segment_id)
        self._gone.setdefault(segment.collection_id, set()).add(segment_id)

    def _resize(self, segment: Segment, size: SegmentSize) -> None:
        before = segment.cost_bytes
        segment.size = size
        self.wanted_bytes += segment.cost_bytes - before
        for name in {*segment.holders, *segment.targets}:
            self.board.charge(name, segment.cost_bytes - before)
        self.dirty.add(segment.segment_id)

    def _haunt(self, segment_id: SegmentId, name: NodeId, ghost: Ghost) -> None:
        self.ghosts.setdefault(segment_id, {})[name] = ghost
        self.board.charge(name, ghost.cost_bytes)
        self.look_again(segment_id, ghost.due_s)

    def _lay(self, segment_id: SegmentId, name: NodeId) -> None:
        ghost = self.ghosts.get(segment_id, {}).pop(name, None)
        if ghost is not None:
            self.board.charge(name, -ghost.cost_bytes)

    def _attach(self, segment: Segment, name: NodeId) -> None:
        if segment.segment_id not in self._at[name]:
            self._at[name].add(segment.segment_id)
            self.board.charge(name, segment.cost_bytes)

    def _detach(self, segment: Segment, name: NodeId) -> None:
        if segment.segment_id in self._at.get(name, ()):
            self._at[name].discard(segment.segment_id)
            self.board.charge(name, -segment.cost_bytes)
