"""What reads need of the nodes of a cluster: a plan of what there is, and answers about all of it.

A read asks for one `ReadPlan`, then puts one question after the other about it. Whoever implements
`Nodes` chooses who answers for which segments, and sees to it that each is answered for once.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from gpuvec.data_messages import ReadPart, ReadPlan
from gpuvec.types import NodeId, SegmentId, Version


class Question(Protocol):
    """One step of a read. Pickles; see `gpuvec.query.questions`."""

    def only(self, segments: Collection[SegmentId], *, growing: bool) -> "Question":
        """Return what one node needs to know to answer for some of the segments."""


class Replan(Exception):
    """A node's manifest is another one: the read begins again, with a new plan.

    Never reaches users; a read that cannot begin again raises `GV-760`.
    """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Answered:
    """What one node answered.

    Attributes:
        segments: that it answered for.
        growing: whether it answered for the rows that are only in the log.
        answer: what `gpuvec.node.query_node.QueryNode.answer` returned there.
        seconds: from the question to the answer.
    """

    node: NodeId
    segments: tuple[SegmentId, ...]
    growing: bool
    answer: Any
    seconds: float = 0.0


class Nodes(Protocol):
    """The nodes that serve a database. Safe for use by several threads."""

    def plan(self, collection_id: str, *, version: Version | None = None) -> ReadPlan:
        """Return what there is of a collection.

        Args:
            collection_id: of the collection.
            version: None: the newest one.

        Raises:
            GpuvecError: what the node raised: `GV-608`, `GV-640`, `GV-641`.
            UnavailableError: no node answers.
        """

    def likely(self, collection_id: str) -> ReadPlan | None:
        """Return a plan that may still hold, asking nobody; None: none is worth a try."""

    def read(
        self, likely: ReadPlan, question: Question, *, cost: int = 0
    ) -> tuple[ReadPlan, list[Answered] | None]:
        """Plan the newest version, and ask about all of it at once in case a likely plan holds.

        Args:
            likely: from `likely`.
            question: see `ask`.
            cost: rows times queries, for admission.

        Returns:
            the plan that holds, as `plan` would return it; and what `ask` would return for it;
            None: that is to be asked for.

        Raises:
            GpuvecError: what a node raised.
            UnavailableError: see `ask`.
        """

    def ask(
        self,
        plan: ReadPlan,
        question: Question,
        *,
        segments: Sequence[SegmentId] | None = None,
        growing: bool | None = None,
        cost: int = 0,
        near: Mapping[SegmentId | None, NodeId] | None = None,
    ) -> list[Answered]:
        """Return answers that together are about each of the segments, and the growing rows, once.

        Args:
            plan: of the collection.
            question: sent to each node as `question.only(its segments, growing=...)`.
            segments: of the plan; None: all.
            growing: whether to ask about the rows that are only in the log; None: if there are any.
            cost: rows times queries, for admission.
            near: who answered for a segment before (None: for the growing rows): a node knows best
                what it was asked last.

        Raises:
            Replan: a node answered `Stale`.
            GpuvecError: what a node raised.
            UnavailableError: some of it is answered for by no node. Nothing was changed anywhere.
        """


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Spread:
    """How nodes know a source.

    Attributes:
        nodes: that serve it.
        collection_id: whose rows it has.
        partition: of which alone; None: all.
        version: at which it stays; None: the newest one when a read begins.
    """

    nodes: Nodes
    collection_id: str
    partition: str | None = None
    version: Version | None = None


def read_part(
    identity: str,
    plan: ReadPlan,
    question: Question,
    *,
    segments: Sequence[SegmentId],
    growing: bool,
    cost: int = 0,
) -> ReadPart:
    """Return the message that asks one node about some of the segments of a plan."""
    return ReadPart(
        identity=identity,
        collection_id=plan.collection_id,
        entry_id=plan.entry_id,
        version=plan.version,
        now_ms=plan.now_ms,
        segments=tuple(segments),
        growing=growing,
        growing_rows=plan.growing_rows,
        question=question.only(segments, growing=growing),
        cost=cost,
    )
