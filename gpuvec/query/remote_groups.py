"""Groups, and first rows of groups, of rows that lie at nodes: each says what it has of its own."""

from collections.abc import Sequence

import numpy as np

from gpuvec.query import questions as q
from gpuvec.query.part import Part, concat_columns, slice_column, take_column
from gpuvec.query.partial import Groups, Step, heads_of
from gpuvec.query.remote_parts import FragmentRead

_Placed = list[tuple[q.Piece, q.Grouped, int, int]]  # rows `start` to `stop` of an answer


def remote_groups(read: FragmentRead, keys: Sequence[str], steps: Sequence[Step]) -> list[Groups]:
    """Return the groups of the rows, segment by segment, in the order of the rows."""
    question = q.GroupRows(fragment=read.fragment, keys=tuple(keys), steps=tuple(steps))
    return [
        Groups(
            stop - start,
            {name: slice_column(column, start, stop) for name, column in found.columns.items()},
        )
        for _, found, start, stop in _in_order(read, question)
    ]


def remote_heads(read: FragmentRead, names: Sequence[str], count: int) -> Part:
    """Return the first `count` rows of each combination of columns, in the order of the rows."""
    question = q.FirstRows(fragment=read.fragment, keys=tuple(names), count=count)
    placed = _in_order(read, question)
    if not placed:
        return read.picked([], np.empty(0, np.int64), np.empty(0, np.int64))
    columns = {
        name: concat_columns(
            [slice_column(found.columns[name], start, stop) for _, found, start, stop in placed]
        )
        for name in names
    }
    chosen = heads_of([columns[name] for name in names], names, count)
    sizes = [stop - start for _, _, start, stop in placed]
    numbers = [found.rows[start:stop] for _, found, start, stop in placed if found.rows is not None]
    which = np.repeat(np.arange(len(placed)), sizes)
    pieces = [piece for piece, *_ in placed]
    rows = np.concatenate(numbers)[chosen]
    given = {name: take_column(column, chosen) for name, column in columns.items()}
    return read.picked(pieces, which[chosen], rows, passing=True, given=given)


def _in_order(read: FragmentRead, question: q.GroupRows | q.FirstRows) -> _Placed:
    answers: list[q.Grouped] = read.ask(question)
    placed: _Placed = []
    for found in answers:
        stops = np.cumsum(found.counts).tolist()
        for piece, count, stop in zip(found.pieces, found.counts, stops, strict=True):
            placed.append((piece, found, stop - count, stop))
    return sorted(placed, key=lambda item: read.place_of(item[0]))
