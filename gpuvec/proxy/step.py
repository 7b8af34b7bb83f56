"""One question under way: carries out what its `Scatter` decides, and waits for what comes."""

from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import Any

from gpuvec import errors, telemetry
from gpuvec.cluster_messages import Ping
from gpuvec.data_messages import Busy
from gpuvec.proxy.calls import Came
from gpuvec.proxy.directory import Directory, Limits
from gpuvec.proxy.placing import Placer, Tried, Unit
from gpuvec.proxy.scatter import Group, Scatter, Verdict
from gpuvec.types import NodeId

_BUSY_S = 0.1  # of a node that refused without saying for how long


class Step:
    """One question, asked once.

    Args:
        directory: whom to ask, and how they do.
        placer: chooses among them.
        message: from parts of the read to what a node is sent about them.
        judge: from a node and its reply to what that is worth; may raise to end the read.
        kind: calls of one kind take about as long as each other; None: they are never hedged.
    """

    def __init__(
        self,
        directory: Directory,
        placer: Placer,
        message: Callable[[Sequence[Unit]], Any],
        judge: Callable[[NodeId, Any], Verdict],
        *,
        kind: Hashable | None,
    ) -> None:
        self._directory = directory
        self._placer = placer
        self._message = message
        self._judge = judge
        self._kind = kind
        self._calls = directory.calls
        self._inbox = directory.calls.inbox()
        self._numbers = 0
        self._deadline_s = 0.0
        self._ping_s = 0.0
        self._busy_until_s: dict[NodeId, float] = {}
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
            backoff=self._directory.backoff,
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
        directory = self._directory
        directory.refresh()
        now_s = self._calls.now_s()
        for node in directory.fleet.due(now_s):
            self._probe(node)
        busy = [node for node, until_s in self._busy_until_s.items() if until_s > now_s]
        return self._placer.place(
            units, directory.table.routes, now_s, tried=tried, busy=busy, warm=warm
        )

    def send(self, node: NodeId, units: Sequence[Unit]) -> int:
        """See `scatter.Host.send`."""
        directory, begun_s = self._directory, self._calls.now_s()
        line = directory.table.routes.nodes.get(node)
        self._incarnations[node] = "" if line is None else line.incarnation
        number = self._numbers = self._numbers + 1

        def then(came: Came) -> None:
            self._inbox.put((number, self._noted(node, came, begun_s)))

        directory.fleet.started(node)
        directory.hedging.called()
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
        if not isinstance(reply, Busy):
            return self._judge(node, reply)
        self._busy_until_s[node] = self._calls.now_s() + reply.retry_after_s
        return Verdict.BUSY

    def hedge_delay_s(self) -> float | None:
        """See `scatter.Host.hedge_delay_s`."""
        return None if self._kind is None else self._directory.hedging.delay_s(self._kind)

    def may_hedge(self, calls: int) -> bool:
        """See `scatter.Host.may_hedge`."""
        may = self._directory.hedging.take(calls)
        if may:
            telemetry.HEDGES.add(calls)
        return may

    def gone(self, node: NodeId) -> bool:
        """See `scatter.Host.gone`."""
        line = self._directory.table.routes.nodes.get(node)
        return line is None or line.incarnation != self._incarnations[node]

    def hangs(self, node: NodeId) -> None:
        """See `scatter.Host.hangs`."""
        self._directory.fleet.suspect(node, self._calls.now_s())
        self._directory.refresh(force=True)

    def _noted(self, node: NodeId, came: Came, begun_s: float) -> Came:
        """Tell the fleet how a call ended; runs on any thread, even when nobody waits any more."""
        fleet, now_s = self._directory.fleet, self._calls.now_s()
        if isinstance(came.error, errors.UnavailableError | errors.DeadlineError):
            fleet.failed(node, now_s)
            self._directory.refresh(force=True)
            return came
        fleet.answered(node, now_s - begun_s, now_s)
        if isinstance(came.error, errors.QuotaError):
            came = Came(reply=Busy(retry_after_s=_BUSY_S))
        answers = came.error is None and not isinstance(came.reply, Busy)
        if answers and self._kind is not None:
            self._directory.hedging.observe(self._kind, now_s - begun_s)
        return came

    def _probe(self, node: NodeId) -> None:
        fleet = self._directory.fleet

        def then(came: Came) -> None:
            if isinstance(came.error, errors.UnavailableError | errors.DeadlineError):
                fleet.suspect(node, self._calls.now_s())
            else:
                fleet.alive(node)

        self._calls.begin(node, Ping(), deadline_s=self._ping_s, then=then)
