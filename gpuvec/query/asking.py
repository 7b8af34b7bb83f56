"""Questions of one read about a fragment: who answered before, what is known of its pieces."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from gpuvec.data_messages import ReadPlan
from gpuvec.once import cached_property
from gpuvec.query import questions as q
from gpuvec.query.fragment import Fragment, pack
from gpuvec.query.measurements import Measurements
from gpuvec.query.plan import Plan
from gpuvec.query.planned import Planned
from gpuvec.query.spread import Answered, Replan, Spread
from gpuvec.types import NodeId, SegmentId

MOST_PLANS = 3  # of one version, before the read begins anew


class Asking:
    """Puts the questions of one run about a fragment, at one version.

    Args:
        spread: how nodes know its source.
        planned: where the source stands.
        node: the fragment.
        metrics: where counts go.

    Attributes:
        complete: whether all pieces are known.
    """

    def __init__(self, spread: Spread, planned: Planned, node: Plan, metrics: Measurements) -> None:
        self.columns = node.columns
        self._planned = planned
        self._again: ReadPlan | None = None
        self._spread = spread
        self._node = node
        self._metrics = metrics
        self._near: dict[SegmentId | None, NodeId] = {}
        self._pieces: dict[SegmentId, q.Piece] = {}
        self.complete = self._searched = False
        self._place: dict[SegmentId, int] = {}

    @property
    def plan(self) -> ReadPlan:
        """Of the read."""
        return self._again or self._planned.sure

    @cached_property
    def fragment(self) -> Fragment:
        """What is asked about."""
        return pack(self._node, self._spread.partition)

    @property
    def most_rows(self) -> int:
        """Rows of all segments, hidden ones too; about so many before the first answer."""
        plan = self._again or self._planned.likely
        return sum(rows for _, rows in plan.segments) + plan.growing_rows

    def ask(
        self,
        question: Any,
        *,
        segments: Sequence[SegmentId] | None = None,
        growing: bool | None = None,
        queries: int = 0,
    ) -> list[Any]:
        """Return the answers of all nodes; see `Nodes.ask`.

        Where segments were rewritten since they were planned, and nothing names them yet, the same
        version is planned again.
        """
        every = segments is None and growing is None
        cost = self.most_rows * queries
        answers = self._planned.ask(question, cost=cost) if every else None
        again = MOST_PLANS if segments is None and not self._pieces else 0
        while answers is None:
            try:
                answers = self._spread.nodes.ask(
                    self.plan,
                    question,
                    segments=segments,
                    growing=growing,
                    cost=cost,
                    near=self._near,
                )
            except Replan:
                if not again:
                    raise
                again -= 1
                self._plan_again()
        searched = isinstance(question, q.SearchRows)
        for answered in answers:
            self._note(answered, searched)
        self._searched |= searched
        return [answered.answer for answered in answers]

    def _plan_again(self) -> None:
        """Plan the same version anew; what had outlived its time stays hidden."""
        now_ms, version = self.plan.now_ms, self.plan.version
        plan = self._spread.nodes.plan(self.plan.collection_id, version=version)
        self._again = replace(plan, now_ms=now_ms)
        self._place = {}
        self._near.clear()
        self._metrics.begun += 1

    def _note(self, answered: Answered, searched: bool) -> None:
        answer: q.Answer = answered.answer
        asked = [*answered.segments, *([None] if answered.growing else [])]
        first = any(segment not in self._near for segment in asked)
        self._near.update(dict.fromkeys(asked, answered.node))
        self._metrics.add(
            answer.metrics,
            first=first,
            first_search=searched and not self._searched,
        )
        self._metrics.note_node(
            answered.node, segments=len(asked), size_bytes=answer.nbytes,
            seconds=answered.seconds, worked_s=answer.metrics.seconds,
        )  # fmt: skip

    def pieces(self) -> list[q.Piece]:
        """Return all pieces in order, counted."""
        if not self.complete:
            self.count()
            self.complete = True
        return self.in_order()

    def count(
        self, segments: Sequence[SegmentId] | None = None, growing: bool | None = None
    ) -> None:
        """Ask for pieces; see `Nodes.ask`."""
        question = q.CountRows(fragment=self.fragment)
        answers: list[q.Counted] = self.ask(question, segments=segments, growing=growing)
        for answer in answers:
            self._pieces.update({piece.segment_id: piece for piece in answer.pieces})

    def in_order(self, low: int = -1, high: int | None = None) -> list[q.Piece]:
        """Return the pieces that are known, of some segments of the plan."""
        found = sorted(self._pieces.values(), key=self.place_of)
        high = len(self.plan.segments) if high is None else high
        return [piece for piece in found if low <= self.place_of(piece)[0] < high]

    def place_of(self, piece: q.Piece) -> tuple[int, bool]:
        """Return what orders pieces as their rows stand in the collection."""
        self._place = self._place or _places(self.plan)
        before = piece.after if piece.growing else piece.segment_id
        return self._place.get(SegmentId(before), -1), piece.growing


def _places(plan: ReadPlan) -> dict[SegmentId, int]:
    """Return where each segment stands in a plan."""
    return {segment: number for number, (segment, _) in enumerate(plan.segments)}
