"""The nearest rows over all targets of a search: which are asked together, and the merge of all."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gpuvec.index.keep import passing_rows
from gpuvec.kernels.neighbors import Neighbors
from gpuvec.once import cached_property
from gpuvec.query.bundle import Bundle, bundles
from gpuvec.query.measurements import Measurements
from gpuvec.query.reduce import Ranks, TopK, add_neighbors
from gpuvec.query.target import Target
from gpuvec.query.together import Answer, Asked, Together, together
from gpuvec.query.ways import Question, Ways


class Nearest:
    """Asks all targets of one search.

    Args:
        targets: to be searched.
        ways: asks one of them.
        metrics: where counts go.
        ranks: orders rows of all targets.
    """

    def __init__(
        self, targets: Sequence[Target], ways: Ways, metrics: Measurements, ranks: Ranks
    ) -> None:
        self._targets = targets
        self._ways = ways
        self._metrics = metrics
        self._ranks = ranks if len(targets) > 1 else None

    def top(self, asked: Asked) -> TopK:
        """Return the k nearest over all targets; see `Searcher.top`."""
        best = self._add(None, self._order, asked)
        return _nothing(len(asked.queries)) if best is None else best

    @cached_property
    def _order(self) -> Sequence[Bundle | Together]:
        return in_order(self._targets)

    def _add(
        self, best: TopK | None, order: Sequence[Bundle | Together], asked: Asked
    ) -> TopK | None:
        """Return the best so far with those of more targets; None: there are none."""
        for one in order:
            if isinstance(one, Together):
                best = self._add_together(best, one, asked)
            else:
                best = self._add_bundle(best, one, asked)
        return best

    def _add_bundle(self, best: TopK | None, bundle: Bundle, asked: Asked) -> TopK | None:
        target, keep = bundle.target, bundle.mask(asked.kept)
        count = target.count if asked.counted or keep is None else passing_rows(keep)
        if not count:
            return best
        question = Question(
            queries=asked.queries, k=min(asked.k, count), keep=keep, passing=count,
            bound=_bound(best, asked.k), high=asked.high,
        )  # fmt: skip
        found = self._ways.search(target, question)
        target.let_go()
        return add_neighbors(best, *bundle.places(found), asked.k, self._ranks)

    def _add_together(self, best: TopK | None, group: Together, asked: Asked) -> TopK | None:
        """Ask a group at once, and one by one what that leaves."""
        answer = group.search(asked, _bound(best, asked.k))
        for number in group.numbers:
            self._targets[number].let_go()
        if answer is None:
            return self._add(best, bundles(self._targets, group.numbers), asked)
        self._metrics.note_scan(answer.stats)
        best = _nothing(len(asked.queries)) if best is None else best
        best = self._merged(best, answer.top, asked.k)
        if len(answer.left):
            best = self._merged(best, self._left(answer, group, asked), asked.k)
        return self._add(best, bundles(self._targets, answer.outside), asked)

    def _left(self, answer: Answer, group: Together, asked: Asked) -> TopK:
        """Ask one by one for queries that a scan has left; other queries' places stay empty."""
        seen = sorted({*group.numbers} - {*answer.outside})
        few = self._add(None, bundles(self._targets, seen), asked.some(answer.left))
        whole = _nothing(len(asked.queries), 1 if few is None else few.row.shape[1])
        if few is not None:
            for side in ("part", "row", "distance"):
                getattr(whole, side)[answer.left] = getattr(few, side)
        return whole

    def _merged(self, best: TopK, more: TopK, k: int) -> TopK:
        return add_neighbors(best, Neighbors(more.row, more.distance), more.part, k, self._ranks)


def in_order(targets: Sequence[Target]) -> Sequence[Bundle | Together]:
    """Return targets as they are asked in turn: those with an index first, see `bundles`."""
    groups = together(targets)
    grouped = {number for group in groups for number in group.numbers}
    alone = bundles(targets, sorted({*range(len(targets))} - grouped))
    first = [bundle for bundle in alone if bundle.target.indexed is not None]
    return [*first, *groups, *alone[len(first) :]]


def _bound(best: TopK | None, k: int) -> NDArray[np.float32] | None:
    return best.bound() if best is not None and best.row.shape[1] >= k else None


def _nothing(num_queries: int, places: int = 1) -> TopK:
    none = np.full((num_queries, places), -1, np.int64)
    return TopK(none, none.copy(), np.full(none.shape, np.inf, np.float32))
