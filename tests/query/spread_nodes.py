"""Nodes in one process, each a follower of one directory with its own caches, for reads to ask."""

import pickle
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from gpuvec.api.collection import Collection
from gpuvec.api.engine import Engine
from gpuvec.api.source import CollectionSource
from gpuvec.clock import SystemClock
from gpuvec.data_messages import PlanRead, Stale
from gpuvec.node.query_node import QueryNode
from gpuvec.query.cache import DerivedCache
from gpuvec.query.session import Session
from gpuvec.query.spread import Answered, Replan, read_part
from gpuvec.storage.open import open_store
from gpuvec.types import NodeId


def session():
    return Session(memory_limit=1 << 30, threads=1, cache=DerivedCache(1 << 28))


class DirectNodes:
    """See `gpuvec.query.spread.Nodes`; each segment is asked of a node drawn by seed.

    Attributes:
        calls: questions put to nodes.
        replans: answers that said that the plan is old.
        before: called with each part before it is answered.
    """

    def __init__(self, nodes, seed=0):
        self.nodes = nodes
        self.calls = []
        self.replans = 0
        self.before = lambda part: None
        self._rng = np.random.default_rng(seed)
        self._plans = 0
        self._last = {}

    def plan(self, collection_id, *, version=None):
        self._plans += 1
        message = PlanRead(identity="db", collection_id=collection_id, version=version)
        found = self.nodes[self._plans % len(self.nodes)].plan(message)
        if version is None:
            self._last[collection_id] = found
        return found

    def likely(self, collection_id):
        last = self._last.get(collection_id)
        if last is None or last.now_ms or self._rng.random() < 0.3:
            return None
        guess = last
        if self._rng.random() < 0.3:
            guess = replace(last, entry_id=last.entry_id - 1, segments=last.segments[1:])
        return guess if guess.segments or guess.growing_rows else None

    def read(self, likely, question, *, cost=0):
        """Answer a guess, by all nodes or by one of them."""
        collection_id = likely.collection_id
        if self._rng.random() < 0.3:
            return self._read_whole(likely, question, cost)
        plan = self.plan(collection_id)
        if plan != likely:
            return plan, None
        return plan, self.ask(plan, question, cost=cost)

    def _read_whole(self, likely, question, cost):
        node = NodeId(str(self._rng.integers(len(self.nodes))))
        units = [name for name, _ in likely.segments]
        part = read_part("db", likely, question, segments=units, growing=True, cost=cost)
        planning = PlanRead(identity="db", collection_id=likely.collection_id)
        self.calls.append((node, type(question).__name__))
        part = replace(part, plan=planning, whole=True)
        self.before(part)
        found = self.nodes[int(node)].answer(pickle.loads(pickle.dumps(part, protocol=5)))
        names = tuple(name for name, _ in found.plan.segments)
        return found.plan, [
            Answered(
                node=node, segments=names, growing=found.plan.growing_rows > 0,
                answer=pickle.loads(pickle.dumps(found.answer, protocol=5)),
            )
        ]  # fmt: skip

    def ask(self, plan, question, *, segments=None, growing=None, cost=0, near=None):
        names = [name for name, _ in plan.segments] if segments is None else list(segments)
        growing = plan.growing_rows > 0 if growing is None else growing
        near = near or {}
        whose = {}
        for name in [*names, *([None] if growing else [])]:
            drawn = NodeId(str(self._rng.integers(len(self.nodes))))
            whose.setdefault(near.get(name, drawn), []).append(name)
        return [self._one(plan, question, node, asked, cost) for node, asked in whose.items()]

    def _one(self, plan, question, node, asked, cost):
        names = tuple(name for name in asked if name is not None)
        part = read_part("db", plan, question, segments=names, growing=None in asked, cost=cost)
        self.calls.append((node, type(question).__name__))
        self.before(part)
        answer = self.nodes[int(node)].answer(pickle.loads(pickle.dumps(part, protocol=5)))
        if isinstance(answer, Stale):
            self.replans += 1
            raise Replan
        return Answered(
            node=node, segments=names, growing=None in asked,
            answer=pickle.loads(pickle.dumps(answer, protocol=5)),
        )  # fmt: skip


def follower(path):
    """Return another engine on a directory, as another process has."""
    store = open_store(str(path), None, durability="os")
    return Engine(store, str(path), durability="os", flush_bytes=1 << 26, age_s=1e9)


class Client:
    """Collections of an engine."""

    def __init__(self, engine):
        self.engine = engine
        self.session = session()

    def __getitem__(self, name):
        source = CollectionSource(self.engine, self.engine.root().id_of(name))
        return Collection(source, self.session)


@contextmanager
def spread_over(path: Path, count: int, seed: int = 0):
    """Yield collections whose reads are answered by so many followers, and these."""
    with ExitStack() as stack:
        engines = [follower(path) for _ in range(count + 1)]
        nodes = [QueryNode(engine, session(), SystemClock()) for engine in engines[1:]]
        for each in (*engines, *nodes):
            stack.callback(each.close)
        direct = DirectNodes(nodes, seed)
        engines[0].spread = lambda: direct
        yield Client(engines[0]), direct
