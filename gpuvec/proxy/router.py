"""Brings the steps of reads to the nodes of a cluster: the client's side of scatter and gather.

A read is right whoever answers, since a plan fixes entry and version, and files do not change: an
answer of a node that was replaced since is as good as any. So all here is about time: who is
quickest, who is late, who is gone. Without a coordinator the last routes serve on.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from gpuvec import telemetry
from gpuvec.cluster_messages import PlanRead, ReadPlan, RouteDelta, Stale
from gpuvec.proxy.calls import Calls
from gpuvec.proxy.consistency import Consistency, Guarantee, Seen, guarantee
from gpuvec.proxy.directory import Directory, Limits, limits_of_settings
from gpuvec.proxy.fleet import NodeFigures
from gpuvec.proxy.placing import Placer, Unit
from gpuvec.proxy.result_cache import ResultCache
from gpuvec.proxy.scatter import Group, Verdict
from gpuvec.proxy.step import Step
from gpuvec.query.spread import Answered, Question, Replan, read_part
from gpuvec.settings import config
from gpuvec.types import NodeId, SegmentId, Version


class Router:
    """The nodes that serve a database, as `query.spread.Nodes` wants them. Thread-safe.

    Args:
        identity: of the database.
        calls: begins calls.
        learn: told each node's address when it is heard.
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
        limits: Callable[[], Limits] = limits_of_settings,
        hedge_share: float | None = None,
        seed: int = 0,
    ) -> None:
        self.identity = identity
        self.seen = Seen()
        self.directory = Directory(
            identity,
            calls,
            learn=learn,
            limits=limits,
            hedge_share=config["cluster.hedge_share"] if hedge_share is None else hedge_share,
            seed=seed,
        )
        self._cache = ResultCache(lambda: int(config["cluster.result_cache_bytes"]))
        self._plans: dict[str, tuple[ReadPlan, float]] = {}

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
        self._plans.pop(collection_id, None)
        self._cache.forget(collection_id)

    def plan(self, collection_id: str, *, version: Version | None = None) -> ReadPlan:
        """See `query.spread.Nodes.plan`; the setting `consistency` says how new it is."""
        level = Consistency(config["consistency"])
        seen = self.seen.of(collection_id) if version is None else 0
        wanted = guarantee(level, seen=seen, staleness_s=config["staleness_s"])
        asked_s = self.directory.calls.now_s()
        known = self._plans.get(collection_id)
        if version is None and known is not None and _serves(known, wanted, asked_s):
            return known[0]
        with telemetry.span("plan", collection=collection_id):
            plan = self._ask_plan(collection_id, version, wanted)
        if version is None:
            self.seen.note(collection_id, plan.version)
            if wanted.reuse_s:
                self._plans[collection_id] = plan, asked_s
        return plan

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
        return self._cache.answers(
            plan, question, units, lambda: self._scatter(plan, question, units, cost, near)
        )

    def _scatter(
        self,
        plan: ReadPlan,
        question: Question,
        units: Sequence[Unit],
        cost: int,
        near: Mapping[Unit, NodeId] | None,
    ) -> list[Answered]:
        directory = self.directory
        rows: dict[Unit, int] = {**dict(plan.segments), None: plan.growing_rows}
        total = max(1, sum(rows[unit] for unit in units))

        def message(of: Sequence[Unit]) -> Any:
            named = [unit for unit in of if unit is not None]
            share = cost * sum(rows[unit] for unit in of) // total
            return read_part(
                self.identity, plan, question, segments=named, growing=None in of, cost=share
            )

        def judge(node: NodeId, reply: Any) -> Verdict:
            if not isinstance(reply, Stale):
                return Verdict.ANSWER
            if reply.entry_id < plan.entry_id:
                return Verdict.BEHIND
            self._plans.pop(plan.collection_id, None)
            self._cache.forget(plan.collection_id)
            if reply.entry_id == plan.entry_id:
                return Verdict.UNABLE
            telemetry.STALE_REPLANS.add()
            raise Replan

        placer = Placer(
            plan.collection_id, directory.fleet, plan=plan, near=near, rng=directory.random
        )
        kind = (type(question).__name__, cost.bit_length() // 2)
        with telemetry.span("scatter", collection=plan.collection_id, parts=len(units)):
            step = Step(directory, placer, message, judge, kind=kind)
            groups = step.run(units, directory.limits())
        return [_answered(group) for group in groups]

    def figures(self) -> list[NodeFigures]:
        """Return what this client saw of each node."""
        return self.directory.fleet.figures()

    def _ask_plan(self, collection_id: str, version: Version | None, wanted: Guarantee) -> ReadPlan:
        message = PlanRead(
            identity=self.identity,
            collection_id=collection_id,
            version=version,
            seen=wanted.seen,
            looked=wanted.looked,
        )

        def judge(node: NodeId, reply: Any) -> Verdict:
            newer = version is not None or reply.version >= wanted.seen
            return Verdict.ANSWER if newer else Verdict.BEHIND

        placer = Placer(collection_id, self.directory.fleet, rng=self.directory.random)
        step = Step(self.directory, placer, lambda units: message, judge, kind=None)
        plan: ReadPlan = step.run([None], self.directory.limits())[0].reply
        return plan


def _serves(known: tuple[ReadPlan, float], wanted: Guarantee, now_s: float) -> bool:
    plan, asked_s = known
    return plan.version >= wanted.seen and now_s - asked_s < wanted.reuse_s


def _answered(group: Group) -> Answered:
    assert group.node is not None  # only what a node answered is answered
    return Answered(
        node=group.node,
        segments=tuple(unit for unit in group.units if unit is not None),
        growing=None in group.units,
        answer=group.reply,
        seconds=group.seconds,
    )
