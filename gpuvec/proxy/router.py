"""Brings the steps of reads to the nodes of a cluster: the client's side of scatter and gather.

A read is right whoever answers, since a plan fixes entry and version, and files do not change: an
answer of a node that was replaced since is as good as any. So all here is about time: who is
quickest, who is late, who is gone. Without a coordinator the last routes serve on.
"""

import random
import threading
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from gpuvec import errors, telemetry
from gpuvec.cluster_messages import (
    COORDINATOR,
    Busy,
    GetRoutes,
    Ping,
    PlanRead,
    ReadPlan,
    RouteDelta,
    Stale,
)
from gpuvec.proxy.calls import Calls, Came
from gpuvec.proxy.consistency import Consistency, Guarantee, Seen, guarantee
from gpuvec.proxy.fleet import Fleet, NodeFigures
from gpuvec.proxy.hedging import Hedging
from gpuvec.proxy.placing import Placer, Tried, Unit
from gpuvec.proxy.route_table import RouteTable
from gpuvec.proxy.scatter import Group, Scatter, Verdict
from gpuvec.query.spread import Answered, Question, Replan, read_part
from gpuvec.settings import config
from gpuvec.types import NodeId, SegmentId, Version

_FETCH_S = 5.0  # deadline of a fetch of the routes
_FETCH_AGAIN_S = 0.5
_BUSY_S = 0.1  # of a node that refused without saying for how long


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long reads wait, in seconds; see the settings of the same names.

    Attributes:
        search_deadline_s: for one step of a read.
        wait_s: while there is nobody to ask.
        ping_s: for a sign of life of a node that is late.
    """

    search_deadline_s: float
    wait_s: float
    ping_s: float


def limits_of_settings() -> Limits:
    """Return the limits that the settings have now."""
    return Limits(
        search_deadline_s=config["cluster.search_deadline_s"],
        wait_s=config["cluster.wait_s"],
        ping_s=config["cluster.ping_s"],
    )


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
        self.calls = calls
        self.table = RouteTable(identity)
        self.seen = Seen()
        self.fleet = Fleet(seed=seed)
        share = config["cluster.hedge_share"] if hedge_share is None else hedge_share
        self.hedging = Hedging(share=share)
        self.random = random.Random(seed)
        self._learn = learn
        self._limits = limits
        self._lock = threading.Lock()
        self._fetching = False
        self._fetch_from_s = float("-inf")  # not before
        self._plans: dict[str, tuple[ReadPlan, float]] = {}

    # Routes

    def apply(self, delta: RouteDelta) -> None:
        """Take in routes that the coordinator pushed or sent; waits for nothing."""
        if delta.identity != self.identity:
            return
        self.table.apply(delta)
        routes = self.table.routes
        self.fleet.learn(routes.nodes.values())
        for line in routes.nodes.values():
            self._learn(line.node, line.address)

    def refresh(self, *, force: bool = False) -> None:
        """Begin to fetch all routes, if some are missing; waits for nothing.

        Args:
            force: also if none is known to be missing: a push may have been lost.
        """
        now_s = self.calls.now_s()
        with self._lock:
            wanted = (force or self.table.behind) and now_s >= self._fetch_from_s
            if self._fetching or not wanted:
                return
            self._fetching = True
            self._fetch_from_s = now_s + _FETCH_AGAIN_S
        message = GetRoutes(identity=self.identity)
        self.calls.begin(COORDINATOR, message, deadline_s=_FETCH_S, then=self._fetched)

    def _fetched(self, came: Came) -> None:
        self._fetching = False
        if isinstance(came.reply, RouteDelta):
            self.apply(came.reply)

    # Reading

    def note_seen(self, collection_id: str, version: Version) -> None:
        """Note a version that this client wrote, so that no read of it is older."""
        self.seen.note(collection_id, version)

    def forget(self, collection_id: str) -> None:
        """Let go of a collection that was dropped."""
        self.table.forget_collection(collection_id)
        self.seen.forget(collection_id)
        self._plans.pop(collection_id, None)

    def plan(self, collection_id: str, *, version: Version | None = None) -> ReadPlan:
        """See `query.spread.Nodes.plan`; the setting `consistency` says how new it is."""
        level = Consistency(config["consistency"])
        seen = self.seen.of(collection_id) if version is None else 0
        wanted = guarantee(level, seen=seen, staleness_s=config["staleness_s"])
        asked_s = self.calls.now_s()
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
        rows: dict[Unit, int] = dict(plan.segments)
        units: list[Unit] = list(rows if segments is None else segments)
        if growing or (growing is None and plan.growing_rows):
            units.append(None)
        if not units:
            return []
        rows_of = {**rows, None: plan.growing_rows}
        total = max(1, sum(rows_of[unit] for unit in units))
        placer = Placer(plan.collection_id, self.fleet, plan=plan, near=near, rng=self.random)

        def message(of: Sequence[Unit]) -> Any:
            named = [unit for unit in of if unit is not None]
            share = cost * sum(rows_of[unit] for unit in of) // total
            return read_part(
                self.identity, plan, question, segments=named, growing=None in of, cost=share
            )

        def judge(node: NodeId, reply: Any) -> Verdict:
            if not isinstance(reply, Stale):
                return Verdict.ANSWER
            if reply.entry_id < plan.entry_id:
                return Verdict.BEHIND
            self._plans.pop(plan.collection_id, None)
            telemetry.STALE_REPLANS.add()
            raise Replan

        kind = (type(question).__name__, cost.bit_length() // 2)
        with telemetry.span("scatter", collection=plan.collection_id, parts=len(units)):
            groups = _Step(self, placer, message, judge, kind=kind).run(units, self._limits())
        return [_answered(group) for group in groups]

    def figures(self) -> list[NodeFigures]:
        """Return what this client saw of each node."""
        return self.fleet.figures()

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

        placer = Placer(collection_id, self.fleet, rng=self.random)
        step = _Step(self, placer, lambda units: message, judge, kind=None)
        plan: ReadPlan = step.run([None], self._limits())[0].reply
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


class _Step:
    """One question under way: does what its `Scatter` wants done, and waits."""

    def __init__(
        self,
        router: Router,
        placer: Placer,
        message: Callable[[Sequence[Unit]], Any],
        judge: Callable[[NodeId, Any], Verdict],
        *,
        kind: Hashable | None,
    ) -> None:
        self._router = router
        self._placer = placer
        self._message = message
        self._judge = judge
        self._kind = kind
        self._calls = router.calls
        self._inbox = router.calls.inbox()
        self._numbers = 0
        self._deadline_s = 0.0
        self._ping_s = 0.0
        self._incarnations: dict[NodeId, str] = {}

    def run(self, units: Iterable[Unit], limits: Limits) -> list[Group]:
        """Return the groups that together answer for every unit once."""
        begun_s = self._calls.now_s()
        self._deadline_s = begun_s + limits.search_deadline_s
        self._ping_s = limits.ping_s
        scatter = Scatter(
            units,
            self,
            now_s=begun_s,
            deadline_s=self._deadline_s,
            patience_s=limits.wait_s,
            ping_s=limits.ping_s,
            backoff=lambda seconds: seconds * self._router.random.uniform(0.5, 1.0),
        )
        while not scatter.done:
            item = self._inbox.get(scatter.wake_s)
            now_s = self._calls.now_s()
            if item is not None:
                scatter.came(item[0], item[1], now_s)
            going_on = scatter.tick(now_s)
            if not (going_on or scatter.done):
                raise self._incomplete(scatter, now_s - begun_s)
        if scatter.retries:
            telemetry.READ_RETRIES.add(scatter.retries)
        return scatter.answers()

    def _incomplete(self, scatter: Scatter, seconds: float) -> Exception:
        missing = [unit or "rows of the log" for unit in scatter.missing()]
        return errors.read_incomplete(self._placer.collection_id, missing, seconds, scatter.cause)

    # What a scatter needs done

    def place(self, units: Iterable[Unit], tried: Tried, *, warm: bool) -> dict[NodeId, list[Unit]]:
        """See `scatter.Host.place`."""
        router = self._router
        router.refresh()
        now_s = self._calls.now_s()
        for node in router.fleet.due(now_s):
            self._probe(node)
        return self._placer.place(units, router.table.routes, now_s, tried=tried, warm=warm)

    def send(self, node: NodeId, units: Sequence[Unit]) -> int:
        """See `scatter.Host.send`."""
        router, begun_s = self._router, self._calls.now_s()
        line = router.table.routes.nodes.get(node)
        self._incarnations[node] = "" if line is None else line.incarnation
        number = self._numbers = self._numbers + 1

        def then(came: Came) -> None:
            self._inbox.put((number, self._noted(node, came, begun_s)))

        router.fleet.started(node)
        router.hedging.called()
        left_s = max(0.0, self._deadline_s - begun_s)
        self._calls.begin(node, self._message(units), deadline_s=left_s, then=then)
        return number

    def ping(self, node: NodeId) -> int:
        """See `scatter.Host.ping`."""
        number = self._numbers = self._numbers + 1
        self._calls.begin(
            node,
            Ping(),
            deadline_s=self._ping_s,
            then=lambda came: self._inbox.put((number, came)),
        )
        return number

    def judge(self, node: NodeId, reply: Any) -> Verdict:
        """See `scatter.Host.judge`."""
        return Verdict.BUSY if isinstance(reply, Busy) else self._judge(node, reply)

    def hedge_delay_s(self) -> float | None:
        """See `scatter.Host.hedge_delay_s`."""
        return None if self._kind is None else self._router.hedging.delay_s(self._kind)

    def may_hedge(self, calls: int) -> bool:
        """See `scatter.Host.may_hedge`."""
        may = self._router.hedging.take(calls)
        if may:
            telemetry.HEDGES.add(calls)
        return may

    def gone(self, node: NodeId) -> bool:
        """See `scatter.Host.gone`."""
        line = self._router.table.routes.nodes.get(node)
        return line is None or line.incarnation != self._incarnations[node]

    def hangs(self, node: NodeId) -> None:
        """See `scatter.Host.hangs`."""
        self._router.fleet.suspect(node, self._calls.now_s())
        self._router.refresh(force=True)

    def _noted(self, node: NodeId, came: Came, begun_s: float) -> Came:
        """Tell the fleet how a call ended; runs on any thread, even when nobody waits any more."""
        fleet, now_s = self._router.fleet, self._calls.now_s()
        if isinstance(came.error, errors.UnavailableError | errors.DeadlineError):
            fleet.failed(node, now_s)
            self._router.refresh(force=True)
            return came
        fleet.answered(node, now_s - begun_s)
        if isinstance(came.error, errors.QuotaError):
            came = Came(reply=Busy(retry_after_s=_BUSY_S))
        if isinstance(came.reply, Busy):
            fleet.busy(node, now_s + came.reply.retry_after_s)
        elif came.error is None and self._kind is not None:
            self._router.hedging.observe(self._kind, now_s - begun_s)
        return came

    def _probe(self, node: NodeId) -> None:
        fleet = self._router.fleet

        def then(came: Came) -> None:
            if isinstance(came.error, errors.UnavailableError | errors.DeadlineError):
                fleet.suspect(node, self._calls.now_s())
            else:
                fleet.alive(node)

        self._calls.begin(node, Ping(), deadline_s=self._ping_s, then=then)
