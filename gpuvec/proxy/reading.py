"""One question about a plan, as messages to nodes, and what their replies are worth.

The plan may be a guess. Then whoever answers for the rows of the log - the owner - plans first, and
the other nodes' answers count only if it finds the very plan that they were asked about: answers at
one entry and version are the same whenever they are given.
"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpuvec import telemetry
from gpuvec.data_messages import PlannedPart, PlanRead, ReadPart, ReadPlan, Stale
from gpuvec.proxy.placing import Unit
from gpuvec.proxy.scatter import Group, Verdict
from gpuvec.query.spread import Answered, Question, Replan, read_part
from gpuvec.types import NodeId

SMALL = 100_000  # rows, or rows times queries: some milliseconds of work


class Moved(Exception):
    """The guess was wrong.

    Args:
        plan: that holds; None: it is not known.
    """

    def __init__(self, plan: ReadPlan | None) -> None:
        super().__init__()
        self.plan = plan


class Reading:
    """One question about some of a plan.

    Args:
        identity: of the database.
        plan: in which the parts are.
        question: to be answered for them.
        units: the parts.
        cost: rows times queries, for admission.
        planning: what the plan is asked with, if it is a guess; `units` are all that there is then.

    Attributes:
        is_small: whether one node more costs more than it helps.
        kind: questions of one kind take about as long as each other.
    """

    def __init__(
        self,
        identity: str,
        plan: ReadPlan,
        question: Question,
        units: Sequence[Unit],
        cost: int,
        planning: PlanRead | None = None,
    ) -> None:
        self.plan = plan
        self.units = units
        self._identity = identity
        self._question = question
        self._cost = cost
        self._planning = planning
        self._rows: dict[Unit, int] = {**dict(plan.segments), None: plan.growing_rows}
        self._total = max(1, sum(self._rows[unit] for unit in units))
        self.is_small = max(cost, self._total) <= SMALL
        self.kind = (type(question).__name__, cost.bit_length() // 2, planning is not None)

    def message(self, units: Sequence[Unit]) -> ReadPart:
        """Return what a node is sent about some parts."""
        named = [unit for unit in units if unit is not None]
        share = self._cost * sum(self._rows[unit] for unit in units) // self._total
        part = read_part(
            self._identity, self.plan, self._question,
            segments=named, growing=self._has_growing(units), cost=share,
        )  # fmt: skip
        if self._planning is None or None not in units:
            return part
        return replace(part, plan=self._planning, whole=len(units) == len(self.units))

    def judge(self, node: NodeId, reply: Any) -> Verdict:
        """Return what a reply is worth.

        Raises:
            Replan: the segments are others by now.
            Moved: the plan was guessed, and another one holds.
        """
        if isinstance(reply, PlannedPart):
            return self._judge_planned(reply)
        if not isinstance(reply, Stale):
            return Verdict.ANSWER
        if reply.entry_id < self.plan.entry_id:
            return Verdict.BEHIND
        if self._planning is not None:
            raise Moved(None)
        if reply.entry_id == self.plan.entry_id:
            return Verdict.UNABLE
        telemetry.STALE_REPLANS.add()
        raise Replan

    def _judge_planned(self, reply: PlannedPart) -> Verdict:
        assert self._planning is not None
        if reply.plan.version < self._planning.seen:
            return Verdict.BEHIND
        if reply.answer is None:
            raise Moved(reply.plan)
        return Verdict.ANSWER

    def answers(self, groups: Sequence[Group]) -> list[Answered]:
        """Return the answers of the groups that are together the whole.

        Raises:
            Moved: as from `judge`.
        """
        if self._planning is not None:
            self._settle(groups)
        return [self._answered(group) for group in groups]

    def _settle(self, groups: Sequence[Group]) -> None:
        """Take over the plan that holds."""
        planned = [g.reply.plan for g in groups if isinstance(g.reply, PlannedPart)]
        if len(planned) != 1:
            raise Moved(None)
        if planned[0] != self.plan and len(groups) > 1:
            raise Moved(planned[0])
        self.plan = planned[0]

    def _has_growing(self, units: Sequence[Unit]) -> bool:
        return None in units and (self._planning is None or self.plan.growing_rows > 0)

    def _answered(self, group: Group) -> Answered:
        assert group.node is not None  # only what a node answered is answered
        whole = self._planning is not None and len(group.units) == len(self.units)
        units = [segment for segment, _ in self.plan.segments] if whole else group.units
        planned = isinstance(group.reply, PlannedPart)
        return Answered(
            node=group.node,
            segments=tuple(unit for unit in units if unit is not None),
            growing=self._has_growing(group.units),
            answer=group.reply.answer if planned else group.reply,
            seconds=group.seconds,
        )
