"""Which segments to move so that nodes are equally full: few at a time, and none to and fro."""

from gpuvec.coord.placement import Room
from gpuvec.coord.replicas import Replicas, Segment
from gpuvec.types import NodeId

SETTLED_S = 30.0  # a segment moves at most so often


def sheds(seen: Replicas) -> list[tuple[Segment, NodeId]]:
    """Return what nodes shall give up that were promised too much, since segments have grown.

    A node that gives up its only copy serves it until another one does, if there is room at all.
    """
    found = []
    for room in seen.board.crowded():
        over = -seen.board.free_bytes(room)
        placed = sorted(
            (seen.segments[name] for name in seen.placed(room.node)), key=_largest_first
        )
        for segment in placed:
            if over <= 0:
                break
            if room.node in segment.targets:
                found.append((segment, room.node))
                over -= segment.cost_bytes
    return found


def moves(seen: Replicas, now_s: float, most: int) -> list[tuple[Segment, NodeId, NodeId]]:
    """Return segments to move from fuller nodes to emptier ones, at most so many."""
    found = []
    for full, empty, size_bytes in seen.board.gaps(most):
        segment = _best(seen, full, empty, size_bytes, now_s)
        if segment is not None:
            found.append((segment, full.node, empty.node))
    return found


def _best(seen: Replicas, full: Room, empty: Room, size_bytes: int, now_s: float) -> Segment | None:
    """Return the largest segment that may move and is not too large."""
    candidates = (seen.segments[name] for name in seen.placed(full.node))
    fitting = [
        s
        for s in candidates
        if s.cost_bytes <= size_bytes and _may_move(seen, s, full, empty, now_s)
    ]
    return min(fitting, key=_largest_first, default=None)


def _may_move(seen: Replicas, segment: Segment, full: Room, empty: Room, now_s: float) -> bool:
    if full.node not in segment.targets or full.node not in segment.holders:
        return False
    if empty.node in segment.targets or empty.node in segment.avoid:
        return False
    if now_s < segment.moved_s + SETTLED_S:
        return False
    if segment.groups and empty.group not in segment.groups:
        return False
    others = (seen.board.room(name) for name in segment.targets if name != full.node)
    return empty.host == full.host or empty.host not in {r.host for r in others if r is not None}


def _largest_first(segment: Segment) -> tuple[int, str]:
    return -segment.cost_bytes, segment.segment_id
