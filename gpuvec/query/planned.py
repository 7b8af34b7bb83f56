"""What one run knows of where a collection stands: a likely plan, then the one that holds."""

from typing import Any

from gpuvec.data_messages import ReadPlan
from gpuvec.query.measurements import Measurements
from gpuvec.query.spread import Answered, Spread


class Planned:
    """The plan of one run's reads of a collection, which share it. Made when it must be known.

    A first question about everything goes along with the plan where nodes think that they know it:
    one round trip instead of two. What then holds is what the plan says, never the guess.

    Args:
        spread: how nodes know the collection.
        metrics: where times go.
    """

    def __init__(self, spread: Spread, metrics: Measurements) -> None:
        self._spread = spread
        self._metrics = metrics
        self._sure: ReadPlan | None = None
        newest = spread.version is None
        self._likely = spread.nodes.likely(spread.collection_id) if newest else None

    @property
    def likely(self) -> ReadPlan:
        """What is known so far; sizes may be taken from it, and nothing else."""
        return self._sure or self._likely or self.sure

    @property
    def sure(self) -> ReadPlan:
        """The plan that all reads of the run keep to."""
        if self._sure is None:
            spread = self._spread
            with self._metrics.stage("snapshot"):
                self._sure = spread.nodes.plan(spread.collection_id, version=spread.version)
        return self._sure

    def ask(self, question: Any, *, cost: int) -> list[Answered] | None:
        """Return the answers about all there is; None: they are to be asked for by the plan."""
        if self._sure is not None or self._likely is None:
            return None
        self._sure, answers = self._spread.nodes.read(self._likely, question, cost=cost)
        return answers
