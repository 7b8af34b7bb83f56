"""The reader's side: rows that lie at nodes, as parts whose columns come when something asks."""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gpuvec.query import questions as q
from gpuvec.query.asking import Asking
from gpuvec.query.estimate import row_bytes
from gpuvec.query.part import Column, Part, concat_columns, null_column, slice_column, take_column
from gpuvec.query.reduce import IntArray
from gpuvec.types import RowMask, SegmentId

BLOCK_BYTES = 32 << 20  # of rows that are fetched together
_FIRST_ROWS = 65_536  # that are looked at for the first rows of a filter
_WIDER = 8  # times as many each time more are needed

Wanted = Sequence[tuple[q.Piece, q.Numbers]]


class FragmentRead(Asking):
    """The rows of a fragment, read by one run at one version; see `Asking`."""

    def whole(self) -> "RemoteRows":
        """Return all rows as one part."""
        return self._part(self.pieces())

    def parts(self) -> Iterator[Part]:
        """Yield all rows in order, some megabytes at a time."""
        block: list[q.Piece] = []
        most, held = self._block_rows(self.columns.visible), 0
        for piece in self.pieces():
            if block and held + piece.passing > most:
                yield from _filled(self._part(block))
                block, held = [], 0
            block.append(piece)
            held += piece.passing
        yield from _filled(self._part(block))

    def first(self, count: int) -> Iterator[Part]:
        """Yield rows in order; no more is looked at than their first `count` seem to need."""
        enough = max(count, _FIRST_ROWS)
        if self.complete or self.most_rows <= enough:
            yield from self.parts()
            return
        done, every = 0, self.plan.segments
        growing = self.plan.growing_rows > 0
        while done < len(every) or growing:
            low, rows = done, 0
            while done < len(every) and rows < enough:
                rows += every[done][1]
                done += 1
            self.count([segment for segment, _ in every[low:done]], growing)
            growing = False
            yield from _filled(self._part(self.in_order(low or -1, done)))
            enough *= _WIDER

    def _part(self, pieces: Sequence[q.Piece]) -> "RemoteRows":
        return RemoteRows(
            self, [(piece, range(piece.passing)) for piece in pieces if piece.passing]
        )

    def get(self, ids: pa.Array) -> "RemoteRows":
        """Return the rows with these primary keys, in this order, without keys of no row."""
        wanted = ids.unique()
        question = q.FindKeys(
            fragment=self.fragment, key=str(self.columns.primary_key), wanted=wanted
        )
        found: list[q.KeysFound] = self.ask(question)
        pieces: list[q.Piece] = []
        which, rows, places = [_NONE], [_NONE], [_NONE]
        for answer in found:
            which.append(answer.segment + len(pieces))
            rows.append(answer.row)
            places.append(answer.place)
            pieces += named(answer.segments, answer.growing)
        where = np.full(len(wanted), -1)
        where[np.concatenate(places)] = np.arange(sum(map(len, rows)))
        order = where[np.asarray(pc.index_in(ids, value_set=wanted))]
        order = order[order >= 0]
        return self.picked(pieces, np.concatenate(which)[order], np.concatenate(rows)[order])

    def picked(
        self,
        pieces: Sequence[q.Piece],
        which: IntArray,
        rows: IntArray,
        *,
        passing: bool = False,
        given: Mapping[str, Column] | None = None,
    ) -> "RemoteRows":
        """Return some rows, in any order.

        Args:
            pieces: where they are.
            which: (n,) which piece each is in.
            rows: (n,) its number there.
            passing: whether numbers count the rows that pass.
            given: columns that are here already.
        """
        order = np.argsort(which, kind="stable")
        counts = np.bincount(which, minlength=len(pieces))
        split = np.split(rows[order], np.cumsum(counts)[:-1]) if len(pieces) else []
        wanted = [
            (piece, _short(numbers))
            for piece, numbers in zip(pieces, split, strict=True)
            if len(numbers)
        ]
        back = np.empty_like(order)
        back[order] = np.arange(len(order))
        return RemoteRows(self, wanted, back, passing=passing, given=given)

    def fetch(self, names: Sequence[str], wanted: Wanted, *, passing: bool) -> dict[str, Column]:
        """Return columns of rows, in the order of `wanted`, where each piece stands once."""
        sealed = {piece.segment_id: rows for piece, rows in wanted if not piece.growing}
        growing = {piece.segment_id: rows for piece, rows in wanted if piece.growing}
        question = q.TakeRows(
            fragment=self.fragment, names=tuple(names), sealed=sealed, growing=growing,
            passing=passing,
        )  # fmt: skip
        answers: list[q.ColumnsRead] = self.ask(
            question, segments=tuple(sealed), growing=bool(growing)
        )
        places: dict[SegmentId, tuple[int, int, int]] = {}
        for number, answer in enumerate(answers):
            stops = np.cumsum(answer.counts).tolist()
            for segment, count, stop in zip(answer.segments, answer.counts, stops, strict=True):
                places[segment] = (number, stop - count, stop)
        runs = _runs([places[piece.segment_id] for piece, _ in wanted])
        return {
            name: concat_columns(
                [slice_column(answers[n].columns[name], *ends) for n, *ends in runs]
            )
            for name in names
        }

    def _block_rows(self, names: Iterable[str]) -> int:
        known = [name for name in names if name in self.columns.fields]
        return max(1, BLOCK_BYTES // max(1, row_bytes(self.columns, known)))

    def blocks(self, rows: "RemoteRows", names: Sequence[str]) -> Iterator[Part]:
        """Yield rows in pieces whose named columns are not too many bytes."""
        size = self._block_rows(names)
        for start in range(0, rows.num_rows, size):
            yield rows.slice(start, min(start + size, rows.num_rows))


class RemoteRows(Part):
    """Rows that lie at nodes; see `Part`. Parts of it fetch their own rows alone.

    Args:
        read: of the fragment.
        wanted: pieces and numbers of rows.
        back: (rows,) where each row stands in `wanted`; None: they are in its order.
        passing: see `FragmentRead.picked`.
        given: columns that are here already.
    """

    __slots__ = ("_back", "_of", "_passing", "_wanted")

    def __init__(
        self,
        read: FragmentRead,
        wanted: Wanted,
        back: IntArray | None = None,
        *,
        passing: bool = True,
        given: Mapping[str, Column] | None = None,
    ) -> None:
        count = sum(len(rows) for _, rows in wanted) if back is None else len(back)
        super().__init__(count, self._column)
        self._of = read
        self._wanted = wanted
        self._back = back
        self._passing = passing
        self._seen.update(given or {})

    def _column(self, name: str) -> Column:
        self.prepare([name])
        return self._seen[name]

    def prepare(self, names: Sequence[str]) -> None:
        """See `Part.prepare`."""
        missing = [name for name in dict.fromkeys(names) if name not in self._seen]
        if not missing:
            return
        if not self.num_rows:
            kinds = self._of.columns.fields
            self._seen.update({name: null_column(kinds[name], 0) for name in missing})
            return
        blocks = list(self._of.blocks(self, missing))
        if len(blocks) > 1:
            for block in blocks:
                block.prepare(missing)
            joined = {n: concat_columns([b.column(n) for b in blocks]) for n in missing}
            self._seen.update(joined)
            return
        found = self._of.fetch(missing, self._wanted, passing=self._passing)
        if self._back is not None:
            found = {name: take_column(column, self._back) for name, column in found.items()}
        self._seen.update(found)

    def take(self, rows: IntArray) -> Part:
        """See `Part.take`."""
        given = {name: take_column(column, rows) for name, column in self._seen.items()}
        pieces, which, numbers = self._listed()
        return self._of.picked(
            pieces, which[rows], numbers[rows], passing=self._passing, given=given
        )

    def slice(self, start: int, stop: int) -> Part:
        """See `Part.slice`."""
        if start == 0 and stop >= self.num_rows:
            return self
        given = {name: slice_column(column, start, stop) for name, column in self._seen.items()}
        if self._back is not None:
            pieces, which, numbers = self._listed()
            return self._of.picked(
                pieces, which[start:stop], numbers[start:stop], passing=self._passing, given=given
            )
        wanted, before = [], 0
        for piece, own in self._wanted:
            low, high = max(start - before, 0), min(stop - before, len(own))
            if low < high:
                wanted.append((piece, own[low:high]))
            before += len(own)
        return RemoteRows(self._of, wanted, passing=self._passing, given=given)

    def keep(self, mask: RowMask) -> Part:
        """See `Part.keep`."""
        return self.take(np.flatnonzero(mask))

    def _listed(self) -> tuple[Sequence[q.Piece], IntArray, IntArray]:
        """Return the pieces, and of each row in order which it is in and its number there."""
        counts = [len(rows) for _, rows in self._wanted]
        which = np.repeat(np.arange(len(counts)), counts)
        numbers = np.concatenate([_NONE, *(np.asarray(rows) for _, rows in self._wanted)])
        if self._back is not None:
            which, numbers = which[self._back], numbers[self._back]
        return [piece for piece, _ in self._wanted], which, numbers


def named(segments: Sequence[SegmentId], growing: Sequence[bool]) -> list[q.Piece]:
    """Return pieces of which no more is known than where they are."""
    return [
        q.Piece(segment_id=segment, growing=grows, after="", num_rows=0, passing=0)
        for segment, grows in zip(segments, growing, strict=True)
    ]


def _filled(part: Part) -> Iterator[Part]:
    if part.num_rows:
        yield part


def _short(numbers: IntArray) -> q.Numbers:
    """Return rising numbers without gaps as a range."""
    first, last = int(numbers[0]), int(numbers[-1])
    if last - first + 1 == len(numbers) and (numbers[1:] > numbers[:-1]).all():
        return range(first, last + 1)
    return numbers


def _runs(places: Sequence[tuple[int, int, int]]) -> list[tuple[int, int, int]]:
    """Return slices of answers, those joined that follow one another."""
    found: list[tuple[int, int, int]] = []
    for number, start, stop in places:
        if found and found[-1][0] == number and found[-1][2] == start:
            found[-1] = (number, found[-1][1], stop)
        else:
            found.append((number, start, stop))
    return found


_NONE: IntArray = np.empty(0, np.int64)
