"""Brings the steps of reads to the nodes of a cluster: the client's side of scatter and gather.

A read is right whoever answers, since a plan fixes entry and version, and files do not change: an
answer of a node that was replaced since is as good as any. So all here is about time: who is
quickest, who is late, who is gone. Without a coordinator the last routes serve on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuvec import telemetry
from gpuvec.cluster_messages import RouteDelta
from gpuvec.data_messages import PlanRead, ReadPlan
from gpuvec.proxy.calls import Calls
from gpuvec.proxy.consistency import Consistency, Guarantee, Seen, guarantee
from gpuvec.proxy.directory import Directory, Limits, limits_of_settings
from gpuvec.proxy.fleet import NodeFigures
from gpuvec.proxy.placing import Placer, Unit
from gpuvec.proxy.plans import Plans
from gpuvec.proxy.reading import Moved, Reading
from gpuvec.proxy.result_cache import ResultCache
from gpuvec.proxy.scatter import Verdict
from gpuvec.proxy.step import Step
from gpuvec.query.spread import Answered, Question, Replan
from gpuvec.settings import config
from gpuvec.types import NodeId, SegmentId, Version

MOST_GUESSED = 10_000_000  # rows times queries, some tens of milliseconds, lost if a guess is wrong
_FEW = 64


class Router:
    """The nodes that serve a database, as `query.spread.Nodes` wants them. Thread-safe.

    Args:
        identity: of the database.
        calls: begins calls.
        learn: told each node's address when it is heard.
        admit: raises where a read of a collection may not begin.
        limits: asked for at each step.
        hedge_share: of all calls, that may be made twice.
        seed: of what is drawn.
    """

    def __init__(
        self,
        identity: str,
        calls: Calls,
        *,
        learn: Callable[[NodeId, str], None] = lambda node, address: None,
        admit: Callable[[str], None] = lambda collection_id: None,
        limits: Callable[[], Limits] = limits_of_settings,
        hedge_share: float | None = None,
        seed: int = 0,
    ) -> None:
        self.identity = identity
        self.seen = Seen()
        self._admit = admit
        self.directory = Directory(
            identity,
            calls,
            learn=learn,
            limits=limits,
            hedge_share=config["cluster.hedge_share"] if hedge_share is None else hedge_share,
            seed=seed,
        )
        self._cache = ResultCache(lambda: int(config["cluster.result_cache_bytes"]))
        self._plans = Plans()

    def apply(self, delta: RouteDelta) -> None:
        """Take in routes that the coordinator pushed; waits for nothing."""
        self.directory.apply(delta)

    def refresh(self) -> None:
        """Begin to fetch all routes, since a push may have been lost; waits for nothing."""
        self.directory.refresh(force=True)

    def note_seen(self, collection_id: str, version: Version) -> None:
        """Note a version that this client wrote, so that no read of it is older."""
        self.seen.note(collection_id, version)

    def forget(self, collection_id: str) -> None:
        """Let go of a collection that was dropped."""
        self.directory.table.forget_collection(collection_id)
        self.seen.forget(collection_id)
        self._plans.forget(collection_id)
        self._cache.forget(collection_id)

    def plan(self, collection_id: str, *, version: Version | None = None) -> ReadPlan:
        """See `query.spread.Nodes.plan`; the setting `consistency` says how new it is."""
        self._admit(collection_id)
        asked_s = self.directory.calls.now_s()
        wanted = self._wanted(collection_id, version)
        if version is None and (kept := self._plans.fresh(collection_id, wanted, asked_s)):
            return kept
        with telemetry.span("plan", collection=collection_id):
            plan = self._ask_plan(self._plan_message(collection_id, version, wanted))
        if version is None:
            self._note(plan, wanted, asked_s)
        return plan

    def likely(self, collection_id: str) -> ReadPlan | None:
        """See `query.spread.Nodes.likely`: the last plan, where it seems to stay as it is.

        Or where one node has it all: it answers whatever the plan turns out to be.
        """
        wanted = self._wanted(collection_id, None)
        now_s = self.directory.calls.now_s()
        if self._cache.is_used or self._plans.fresh(collection_id, wanted, now_s):
            return None
        last = self._plans.last(collection_id, wanted)
        if last is None:
            return None
        plan, steady = last
        if plan.now_ms or not (plan.segments or plan.growing_rows):
            return None
        return plan if steady or self._is_in_one_place(plan) else None

    def read(
        self, likely: ReadPlan, question: Question, *, cost: int = 0
    ) -> tuple[ReadPlan, list[Answered] | None]:
        """See `query.spread.Nodes.read`; the setting `consistency` says how new the plan is."""
        collection_id = likely.collection_id
        if cost > MOST_GUESSED and not self._is_in_one_place(likely):
            return self.plan(collection_id), None
        self._admit(collection_id)
        asked_s = self.directory.calls.now_s()
        wanted = self._wanted(collection_id, None)
        planning = self._plan_message(collection_id, None, wanted)
        units: list[Unit] = [*(segment for segment, _ in likely.segments), None]
        reading = Reading(self.identity, likely, question, units, cost, planning)
        try:
            answers = self._scatter(reading, None)
        except Moved as moved:
            if moved.plan is None:
                return self.plan(collection_id), None
            self._note(moved.plan, wanted, asked_s)
            return moved.plan, None
        self._note(reading.plan, wanted, asked_s)
        return reading.plan, answers

    def ask(
        self,
        plan: ReadPlan,
        question: Question,
        *,
        segments: Sequence[SegmentId] | None = None,
        growing: bool | None = None,
        cost: int = 0,
        near: Mapping[Unit, NodeId] | None = None,
    ) -> list[Answered]:
        """See `query.spread.Nodes.ask`.

        Raises:
            UnavailableError: `GV-767`, parts that nobody answered for in time.
        """
        units: list[Unit] = [each for each, _ in plan.segments] if segments is None else [*segments]
        if growing or (growing is None and plan.growing_rows):
            units.append(None)
        if not units:
            return []
        reading = Reading(self.identity, plan, question, units, cost)
        try:
            return self._cache.answers(plan, question, units, lambda: self._scatter(reading, near))
        except Replan:
            self._plans.forget(plan.collection_id)
            self._cache.forget(plan.collection_id)
            raise

    def _scatter(self, reading: Reading, near: Mapping[Unit, NodeId] | None) -> list[Answered]:
        directory, plan = self.directory, reading.plan
        placer = Placer(
            plan.collection_id, directory.fleet,
            plan=plan, near=near, few=reading.is_small, rng=directory.random,
        )  # fmt: skip
        with telemetry.span("scatter", collection=plan.collection_id, parts=len(reading.units)):
            step = Step(directory, placer, reading.message, reading.judge, kind=reading.kind)
            return reading.answers(step.run(reading.units, directory.limits()))

    def figures(self) -> list[NodeFigures]:
        """Return what this client saw of each node."""
        return self.directory.fleet.figures()

    def _wanted(self, collection_id: str, version: Version | None) -> Guarantee:
        level = Consistency(config["consistency"])
        seen = self.seen.of(collection_id) if version is None else 0
        return guarantee(level, seen=seen, staleness_s=config["staleness_s"])

    def _plan_message(
        self, collection_id: str, version: Version | None, wanted: Guarantee
    ) -> PlanRead:
        return PlanRead(
            identity=self.identity,
            collection_id=collection_id,
            version=version,
            seen=wanted.seen,
            looked=wanted.looked,
        )

    def _note(self, plan: ReadPlan, wanted: Guarantee, asked_s: float) -> None:
        self.seen.note(plan.collection_id, plan.version)
        self._plans.note(plan, wanted, asked_s)

    def _is_in_one_place(self, plan: ReadPlan) -> bool:
        """Return whether the owner alone serves all of a plan; of many segments nobody looks."""
        routes = self.directory.table.routes
        owner = routes.owners.get(plan.collection_id)
        if owner is None or len(plan.segments) > _FEW:
            return False
        serving = routes.segments.get(plan.collection_id, {})
        return all(serving.get(segment) == (owner.node,) for segment, _ in plan.segments)

    def _ask_plan(self, message: PlanRead) -> ReadPlan:
        def judge(node: NodeId, reply: Any) -> Verdict:
            newer = message.version is not None or reply.version >= message.seen
            return Verdict.ANSWER if newer else Verdict.BEHIND

        placer = Placer(message.collection_id, self.directory.fleet, rng=self.directory.random)
        step = Step(self.directory, placer, lambda units: message, judge, kind=None)
        plan: ReadPlan = step.run([None], self.directory.limits())[0].reply
        return plan
