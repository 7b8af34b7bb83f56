"""Where there is room for a segment: nodes in the order of how full they are.

The fullest share of a node's memory decides, raised where it is busier than others. A `Ledger` is
shared by the databases of one cluster, so that they do not promise the same memory twice.

Cost of `pick`: O(log nodes), plus the nodes that are passed over because they are taken or on hosts
that are.
"""

import heapq
from collections.abc import Collection, Iterator
from dataclasses import dataclass

from gpuvec.coord.nodes import Node
from gpuvec.types import NodeId

SEGMENT_BYTES = 64 << 10  # what a segment costs beside its data, so that empty ones spread too
_HEAT = 0.5  # how much fuller a node counts that is busy beyond all measure
_LEAST_GAP = 0.2  # between two nodes, of the fuller one's fill: less is not worth a move
_STEPS = 8  # of heat: small changes of a queue move nothing


class Ledger:
    """Bytes of segments that were promised to nodes, by all databases."""

    def __init__(self) -> None:
        self._taken: dict[NodeId, int] = {}

    def taken(self, node: NodeId) -> int:
        """Return the bytes that are promised."""
        return self._taken.get(node, 0)

    def add(self, node: NodeId, size_bytes: int) -> None:
        """Promise more, or with a negative number less."""
        self._taken[node] = self._taken.get(node, 0) + size_bytes


@dataclass(slots=True)
class Room:
    """A node as a place for segments of one database.

    Attributes:
        budget_bytes: of all databases.
        used_bytes: by segments of this one.
        open: whether new segments may come.
        full: whether it says itself that its memory is used up.
        heat: 0 to 1: how much busier than its threads can bear.
    """

    node: NodeId
    host: str
    group: str
    budget_bytes: int
    used_bytes: int = 0
    open: bool = True
    full: bool = False
    heat: float = 0.0
    score: float = 0.0


class Board:
    """The nodes, fullest last. Calls come one at a time."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._rooms: dict[NodeId, Room] = {}
        self._heaps: dict[str, list[tuple[float, NodeId]]] = {}  # by group; old entries are skipped
        self._hosts: dict[str, int] = {}  # open nodes of each

    def put(self, node: Node) -> None:
        """Note a node, new or changed."""
        hello = node.hello
        room = self._rooms.get(node.name)
        if room is None:
            room = Room(hello.node, hello.host, hello.group, hello.memory_bytes, open=False)
            self._rooms[node.name] = room
        elif room.open:
            self._count_host(room, -1)
        room.host, room.group, room.budget_bytes = hello.host, hello.group, hello.memory_bytes
        room.open = not node.draining
        if room.open:
            self._count_host(room, 1)
        self._rank(room)

    def warm(self, node: Node) -> None:
        """Note how busy a node is; coarsely, so that little changes."""
        room = self._rooms[node.name]
        heat = round(min(1.0, max(0.0, node.busy - 1) / 4) * _STEPS) / _STEPS
        room.full = node.memory_used > node.hello.memory_bytes
        if heat != room.heat:
            room.heat = heat
            self._rank(room)

    def charge(self, node: NodeId, size_bytes: int) -> None:
        """Note that a node holds so much more, or with a negative number less."""
        room = self._rooms[node]
        room.used_bytes += size_bytes
        self._ledger.add(node, size_bytes)
        self._rank(room)

    def forget(self, node: NodeId) -> None:
        """Note that a node is gone, with all it held."""
        room = self._rooms.pop(node, None)
        if room is not None:
            self._ledger.add(node, -room.used_bytes)
            if room.open:
                self._count_host(room, -1)

    def room(self, node: NodeId) -> Room | None:
        """Return a node."""
        return self._rooms.get(node)

    def rooms(self, groups: Collection[str] = ()) -> Iterator[Room]:
        """Iterate over the nodes that take segments, of some groups only if any are given."""
        return (r for r in self._rooms.values() if r.open and (not groups or r.group in groups))

    def free_bytes(self, room: Room) -> int:
        """Return what is not promised of a node's memory."""
        return room.budget_bytes - self._ledger.taken(room.node)

    def fits(self, node: NodeId, size_bytes: int) -> bool:
        """Return whether a node takes segments and has room for one more."""
        room = self._rooms.get(node)
        return room is not None and room.open and self._holds(room, size_bytes)

    def pick(
        self,
        size_bytes: int,
        *,
        groups: Collection[str] = (),
        beside: Collection[NodeId] = (),
        avoid: Collection[NodeId] = (),
    ) -> NodeId | None:
        """Return the emptiest node with room; None: it fits nowhere.

        Args:
            size_bytes: that it must have free.
            groups: resource groups; none: any.
            beside: nodes that have the segment: another host than theirs, where there is one.
            avoid: nodes that shall not have it.
        """
        hosts = {self._rooms[node].host for node in beside if node in self._rooms}
        if hosts and self._hosts.keys() - hosts:
            found = self._pick(size_bytes, groups, hosts, avoid)
            if found is not None:
                return found
        return self._pick(size_bytes, groups, (), {*beside, *avoid})

    def _pick(
        self,
        size_bytes: int,
        groups: Collection[str],
        hosts: Collection[str],
        avoid: Collection[NodeId],
    ) -> NodeId | None:
        best: tuple[float, NodeId] | None = None
        for group in groups or self._heaps:
            heap, passed = self._heaps.get(group, []), []
            while heap:
                score, name = heap[0]
                room = self._rooms.get(name)
                if room is None or room.score != score or room.group != group or not room.open:
                    heapq.heappop(heap)
                    continue
                if best is not None and best <= heap[0]:
                    break
                taken = name in avoid or room.host in hosts
                if not taken and self._holds(room, size_bytes):
                    best = heap[0]
                    break
                passed.append(heapq.heappop(heap))
            for entry in passed:
                heapq.heappush(heap, entry)
        return None if best is None else best[1]

    def gaps(self, moves: int) -> list[tuple[Room, Room, int]]:
        """Return pairs of a full and an empty node, and how large a segment may move between them.

        Only nodes of one group are compared. `moves` bounds the pairs. Where the difference is
        small there are none; half of it moves at most, so that no segment goes to and fro.
        """
        found = []
        groups: dict[str, list[Room]] = {}
        for room in self.rooms():
            groups.setdefault(room.group, []).append(room)
        for rooms in groups.values():
            rooms.sort(key=lambda room: (room.score, room.node))
            for empty, full in zip(rooms[:moves], reversed(rooms), strict=False):
                gap = full.score - empty.score
                size = round(gap * min(full.budget_bytes, empty.budget_bytes)) // 2
                if gap < _LEAST_GAP * full.score or size <= 0:
                    break
                found.append((full, empty, min(size, self.free_bytes(empty))))
        found.sort(key=lambda pair: -pair[2])
        return found[:moves]

    def crowded(self) -> list[Room]:
        """Return the nodes that were promised more than they may hold: segments have grown."""
        return [room for room in self._rooms.values() if self.free_bytes(room) < 0]

    def total_bytes(self) -> int:
        """Return the memory of all nodes that take segments."""
        return sum(room.budget_bytes for room in self.rooms())

    def _holds(self, room: Room, size_bytes: int) -> bool:
        return not room.full and size_bytes <= self.free_bytes(room)

    def _rank(self, room: Room) -> None:
        fill = room.used_bytes / max(1, room.budget_bytes)
        room.score = fill * (1 + _HEAT * room.heat)
        if room.open:
            heap = self._heaps.setdefault(room.group, [])
            heapq.heappush(heap, (room.score, room.node))
            if len(heap) > 64 + 8 * len(self._rooms):
                heap[:] = [(r.score, r.node) for r in self.rooms((room.group,))]
                heapq.heapify(heap)

    def _count_host(self, room: Room, by: int) -> None:
        left = self._hosts.get(room.host, 0) + by
        if left:
            self._hosts[room.host] = left
        else:
            del self._hosts[room.host]
