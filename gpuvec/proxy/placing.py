"""Which node is asked for what: the lighter of two replicas, or a node that a hash names."""

import hashlib
import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import lru_cache

import numpy as np

from gpuvec.data_messages import ReadPlan
from gpuvec.proxy.fleet import Fleet
from gpuvec.proxy.route_table import Routes
from gpuvec.types import NodeId, SegmentId

Unit = SegmentId | None  # None: the rows that are only in the log
Tried = Mapping[Unit, frozenset[NodeId]]
Loads = dict[NodeId, tuple[float, float]]  # how long a call takes, and how many are before it


@lru_cache(maxsize=1 << 16)
def _hash(name: str) -> int:
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), "little")


def ranked(name: str, nodes: Sequence[NodeId]) -> list[NodeId]:
    """Return nodes in the order in which they stand in for `name`, the same at every client.

    Each name has its own order, so a node that goes leaves its names to all others evenly, and no
    other name moves. Source: rendezvous hashing, Thaler and Ravishankar, IEEE/ACM ToN 6(1), 1998.
    """
    if len(nodes) < 2:
        return list(nodes)
    mixed = np.array([_hash(node) for node in nodes], np.uint64) ^ np.uint64(_hash(name))
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(factor)
    mixed ^= mixed >> np.uint64(31)
    return [nodes[at] for at in np.argsort(mixed, kind="stable")]


def _is_segment(unit: Unit) -> bool:
    return unit is not None


class Placer:
    """Places the parts of one read.

    Args:
        plan: of the read; its rows weigh the segments.
        fleet: whose load decides between replicas.
        near: where earlier steps of the read went; taken again while it may be.
        few: whether nodes that are asked anyway take what they can: a call costs more than the
            work that it would take off them.
        rng: draws two of several replicas.
    """

    def __init__(
        self,
        collection_id: str,
        fleet: Fleet,
        *,
        plan: ReadPlan | None = None,
        near: Mapping[Unit, NodeId] | None = None,
        few: bool = False,
        rng: random.Random,
    ) -> None:
        self.collection_id = collection_id
        self._fleet = fleet
        self._near = near or {}
        self._few = few
        self._random = rng
        self._rows: dict[Unit, int] = {None: 0, **dict(plan.segments)} if plan else {None: 0}

    def place(
        self,
        units: Iterable[Unit],
        routes: Routes,
        now_s: float,
        *,
        tried: Tried,
        busy: Collection[NodeId],
        warm: bool,
    ) -> dict[NodeId, list[Unit]]:
        """Return what each node is asked for; a unit that nobody is left for is in none.

        Args:
            units: to be answered for.
            routes: as they are now.
            now_s: the time.
            tried: nodes that are not asked again, by unit.
            busy: nodes that take no more now.
            warm: only nodes that have a route, for calls that are to be quick.

        Cost: about a microsecond for each unit.
        """
        rows = self._rows
        ordered = sorted(units, key=rows.__getitem__, reverse=True)
        if self._few:
            ordered.sort(key=_is_segment)  # the owner is asked anyway
        one = len(routes.nodes) / max(1, sum(map(rows.__getitem__, ordered)))  # a row's weight
        standing = [node for node in routes.standing() if not self._fleet.is_open(node)]
        ready = {node for node in standing if node not in busy}
        serving = routes.segments.get(self.collection_id, {})
        loads = self._fleet.loads(standing, now_s)
        chosen: dict[NodeId, list[Unit]] = {}
        for unit in ordered:
            able = serving.get(unit, ()) if unit is not None else self._owner(routes)
            if tried or self._near or not ready.issuperset(able) or not able:
                left = [node for node in standing if node not in tried.get(unit, ())]
                node = self._choose(unit, able, left, ready, loads, warm)
            else:
                asked = [each for each in able if each in chosen] if self._few else []
                one_of = asked or able
                node = one_of[0] if len(one_of) == 1 else self._lighter(one_of, loads)
            if node is not None:
                chosen.setdefault(node, []).append(unit)
                seconds, waiting = loads[node]
                loads[node] = seconds, waiting + one * rows[unit]
        return chosen

    def _choose(
        self,
        unit: Unit,
        serving: Sequence[NodeId],
        left: Sequence[NodeId],
        ready: Collection[NodeId],
        loads: Loads,
        warm: bool,
    ) -> NodeId | None:
        if (near := self._near.get(unit)) in left and near in ready:
            return near
        able = [node for node in serving if node in left]
        free = [node for node in able if node in ready]
        if able:  # busy ones are waited for: another node would have to load what they hold
            return self._lighter(free, loads) if free else None
        cold = [] if warm else [node for node in left if node in ready]
        return ranked(unit or self.collection_id, cold)[0] if cold else None

    def _owner(self, routes: Routes) -> Sequence[NodeId]:
        owner = routes.owners.get(self.collection_id)
        return () if owner is None else (owner.node,)

    def _lighter(self, nodes: Sequence[NodeId], loads: Loads) -> NodeId:
        """Return the one of two nodes, drawn at random, that would answer first."""
        drawn = nodes if len(nodes) < 3 else self._random.sample(nodes, 2)
        first, last = drawn[0], drawn[-1]
        seconds, waiting = loads[first]
        others, others_waiting = loads[last]
        return first if seconds * (1 + waiting) <= others * (1 + others_waiting) else last
