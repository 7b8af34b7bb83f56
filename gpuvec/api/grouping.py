"""`GroupBy`: groups of a frame's rows, made by `Frame.group_by`."""

from collections.abc import Sequence

from gpuvec.api.frame import Frame
from gpuvec.expr.tree import Expr
from gpuvec.query import build


class GroupBy:
    """Groups of a frame's rows."""

    def __init__(self, source: Frame, names: Sequence[str]) -> None:
        self._source = source
        self._names = tuple(names)

    def agg(self, **aggregates: Expr) -> Frame:
        """Return one row per group, its keys and aggregates, in order of first appearance."""
        source = self._source
        return source._with(build.group(source.plan, self._names, aggregates))

    def head(self, n: int = 1) -> Frame:
        """Return the first `n` rows of each group, in the order of the frame."""
        source = self._source
        return source._with(build.group_head(source.plan, self._names, n))
